"""Messages between the worker and its processes: how they are written and read.

A message is framed by `utils.aio.duplex_unix` (4 bytes of length). Its body is a 4-byte id and the
fields in order: integers big-endian, floating point numbers in the machine's own order, strings and
bytes with a 4-byte length.
"""

from __future__ import annotations

import io
import struct
from typing import Any, BinaryIO, ClassVar, Protocol

from ..utils.aio.duplex_unix import DuplexClosed, _AsyncDuplex, _Duplex

__all__ = [
    "DuplexClosed",
    "Message",
    "arecv_message",
    "asend_message",
    "decode",
    "encode",
    "read_bool",
    "read_bytes",
    "read_double",
    "read_float",
    "read_int",
    "read_long",
    "read_string",
    "recv_message",
    "send_message",
    "send_message_soon",
    "write_bool",
    "write_bytes",
    "write_double",
    "write_float",
    "write_int",
    "write_long",
    "write_string",
]


class Message(Protocol):
    """Something that can be sent: see `proto`."""

    MSG_ID: ClassVar[int]

    def write(self, b: BinaryIO) -> None:
        """Write the fields."""

    def read(self, b: BinaryIO) -> None:
        """Fill in the fields."""


MessageTypes = dict[int, type[Any]]


def encode(msg: Message) -> bytes:
    """The body of a message."""
    buffer = io.BytesIO()
    write_int(buffer, msg.MSG_ID)
    msg.write(buffer)
    return buffer.getvalue()


def decode(data: bytes, messages: MessageTypes) -> Any:
    """The message in a body.

    Raises:
        ValueError: it is of a kind that is not among ``messages``, or is cut short.
    """
    buffer = io.BytesIO(data)
    msg_id = read_int(buffer)
    kind = messages.get(msg_id)
    if kind is None:
        raise ValueError(f"unknown message id {msg_id}: are both ends of the same version?")
    msg = kind()
    msg.read(buffer)
    return msg


async def arecv_message(duplex: _AsyncDuplex, messages: MessageTypes) -> Any:
    """Wait for the next message. Raises DuplexClosed at the end of the connection."""
    return decode(await duplex.recv_bytes(), messages)


async def asend_message(duplex: _AsyncDuplex, msg: Message) -> None:
    """Send a message, waiting while the other end is slow. Raises DuplexClosed."""
    await duplex.send_bytes(encode(msg))


def send_message_soon(duplex: _AsyncDuplex, msg: Message) -> None:
    """Send a message without waiting. Raises DuplexClosed."""
    duplex.send_soon(encode(msg))


def recv_message(duplex: _Duplex, messages: MessageTypes) -> Any:
    """Block until the next message has come. Raises DuplexClosed."""
    return decode(duplex.recv_bytes(), messages)


def send_message(duplex: _Duplex, msg: Message) -> None:
    """Send a message from a thread. Raises DuplexClosed."""
    duplex.send_bytes(encode(msg))


def _read(b: BinaryIO, length: int) -> bytes:
    data = b.read(length)
    if len(data) != length:
        raise ValueError(f"message cut short: wanted {length} bytes, got {len(data)}")
    return data


def _number(code: str) -> tuple[Any, Any]:
    packed = struct.Struct(code)

    def write(b: BinaryIO, value: Any) -> None:
        b.write(packed.pack(value))

    def read(b: BinaryIO) -> Any:
        return packed.unpack(_read(b, packed.size))[0]

    return write, read


write_int, read_int = _number(">i")
write_long, read_long = _number(">Q")
write_bool, read_bool = _number("?")
write_float, read_float = _number("=f")
write_double, read_double = _number("=d")


def write_bytes(b: BinaryIO, value: bytes) -> None:
    """Write a length and the bytes."""
    write_int(b, len(value))
    b.write(value)


def read_bytes(b: BinaryIO) -> bytes:
    """Read what `write_bytes` wrote."""
    length = read_int(b)
    if length < 0:
        raise ValueError(f"negative length {length} in a message")
    return _read(b, length)


def write_string(b: BinaryIO, value: str) -> None:
    """Write a text as UTF-8."""
    write_bytes(b, value.encode())


def read_string(b: BinaryIO) -> str:
    """Read what `write_string` wrote."""
    return read_bytes(b).decode()
