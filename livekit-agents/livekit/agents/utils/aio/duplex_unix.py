"""Messages over a connected stream socket: 4 bytes of length (big-endian), then the content."""

from __future__ import annotations

import asyncio
import socket
import struct

from typing_extensions import Self

_LENGTH = struct.Struct(">I")

_CLOSE_TIMEOUT = 1.0
"""Seconds that the last messages may take to leave when the duplex is closed."""


class DuplexClosed(Exception):
    """The connection is closed, by this side or the other, or broke."""


class _AsyncDuplex:
    """The end of a connection that an event loop serves."""

    def __init__(
        self, sock: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._sock = sock
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> Self:
        """Take over a connected stream socket.

        Raises:
            OSError: the socket is not connected.
        """
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock)
        return cls(sock, reader, writer)

    async def recv_bytes(self) -> bytes:
        """Wait for the next message.

        Cancelling it in the middle of a message leaves the connection unusable.

        Raises:
            DuplexClosed: the connection ended, perhaps in the middle of a message.
        """
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            return await self._reader.readexactly(length)
        except (OSError, EOFError) as error:
            raise DuplexClosed from error

    async def send_bytes(self, data: bytes) -> None:
        """Send a message; waits while the other end is slow.

        Raises:
            DuplexClosed: the connection ended.
        """
        if self._writer.is_closing():
            raise DuplexClosed
        try:
            self._writer.write(_LENGTH.pack(len(data)) + data)
            await self._writer.drain()
        except OSError as error:
            raise DuplexClosed from error
        if self._writer.is_closing():  # closed from this side while we waited
            raise DuplexClosed

    def send_soon(self, data: bytes) -> None:
        """Send a message without waiting, however slow the other end is. Keep messages small.

        Raises:
            DuplexClosed: the connection ended.
        """
        if self._writer.is_closing():
            raise DuplexClosed
        self._writer.write(_LENGTH.pack(len(data)) + data)

    async def aclose(self) -> None:
        """Close the connection. What was sent before gets a second to leave, then it is dropped."""
        self._writer.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), _CLOSE_TIMEOUT)
        except asyncio.TimeoutError:  # first: it is an OSError, from Python 3.11 on
            self._writer.transport.abort()
        except OSError:
            pass  # broken already

    def detach(self) -> socket.socket:
        """Stop using the socket and hand it over, still connected.

        Call it between messages: what was received but not read is lost.
        """
        handed_over = self._sock.dup()
        self._writer.close()  # closes its own descriptor only; the connection lives on in the copy
        return handed_over


class _Duplex:
    """The end of a connection that a thread serves with blocking calls."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock: socket.socket | None = sock

    @classmethod
    def open(cls, sock: socket.socket) -> Self:
        """Take over a connected stream socket."""
        sock.setblocking(True)
        return cls(sock)

    def recv_bytes(self) -> bytes:
        """Block until the next message has come.

        Raises:
            DuplexClosed: the connection ended, perhaps in the middle of a message.
        """
        (length,) = _LENGTH.unpack(self._recv_exactly(_LENGTH.size))
        return self._recv_exactly(length)

    def send_bytes(self, data: bytes) -> None:
        """Send a message; blocks while the other end is slow.

        Raises:
            DuplexClosed: the connection ended.
        """
        try:
            self._open_socket().sendall(_LENGTH.pack(len(data)) + data)
        except OSError as error:
            raise DuplexClosed from error

    def close(self) -> None:
        """Close the connection. Does nothing when it is closed or detached."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def detach(self) -> socket.socket:
        """Stop using the socket and hand it over, still connected.

        Raises:
            DuplexClosed: it is closed or detached already.
        """
        sock = self._open_socket()
        self._sock = None
        return sock

    def _open_socket(self) -> socket.socket:
        if self._sock is None:
            raise DuplexClosed
        return self._sock

    def _recv_exactly(self, length: int) -> bytes:
        data = bytearray(length)
        view = memoryview(data)
        received = 0
        while received < length:
            try:
                count = self._open_socket().recv_into(view[received:])
            except OSError as error:
                raise DuplexClosed from error
            if count == 0:
                raise DuplexClosed
            received += count
        return bytes(data)
