"""How session messages travel: as byte streams of a room, or framed on a TCP connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from google.protobuf.message import DecodeError
from livekit import rtc
from livekit.protocol.agent_pb import agent_session as pb

from ...log import logger
from ...utils import shortuuid
from ...utils.aio import Chan, ChanClosed, TaskScope
from ..room_io._native import answer

TOPIC_SESSION_MESSAGES = "lk.agent.session"

SEND_TIMEOUT = 5.0
"""Seconds for the native layer to take a message."""

READ_TIMEOUT = 30.0
"""Seconds for a message to arrive whole."""

MAX_MESSAGE = 1 << 20
"""Bytes of an inbound message on TCP."""

WRITE_AHEAD = 64 * 1024
"""Bytes that may wait in the socket before a sender waits."""

_CLOSE_TIMEOUT = 0.5


class SessionTransport(ABC):
    """Carries messages both ways. Iterate it for those that come in."""

    @abstractmethod
    async def start(self) -> None:
        """Get ready to send and receive."""

    @abstractmethod
    async def send_message(self, msg: pb.AgentSessionMessage) -> None:
        """Send a message. Raises RuntimeError when it can't be."""

    @abstractmethod
    async def close(self) -> None:
        """End it; bounded. Iteration ends."""

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[pb.AgentSessionMessage]: ...

    @abstractmethod
    async def __anext__(self) -> pb.AgentSessionMessage: ...


class RoomSessionTransport(SessionTransport):
    """Messages as byte streams on the topic `lk.agent.session` of a room.

    Without `remote_identity` everyone in the room may steer the session and sees its events: give
    one to restrict that.
    """

    def __init__(self, room: rtc.Room, remote_identity: str | None = None) -> None:
        """Set up a transport.

        Args:
            room: The room.
            remote_identity: The one participant to talk with; None for everyone.
        """
        self._room = room
        self._remote = remote_identity
        self._inbox: Chan[pb.AgentSessionMessage] = Chan()
        self._streams: Chan[rtc.ByteStreamReader] = Chan()
        self._scope = TaskScope("session messages in a room")
        self._sending = asyncio.Lock()
        self._started = self._closed = False

    @property
    def remote_identity(self) -> str | None:
        """The one participant to talk with; None for everyone."""
        return self._remote

    @remote_identity.setter
    def remote_identity(self, identity: str | None) -> None:
        self._remote = identity

    async def start(self) -> None:
        """Begin to receive. Calling it again does nothing.

        Raises:
            ValueError: The topic is taken in this room.
        """
        if self._started:
            return
        self._room.register_byte_stream_handler(TOPIC_SESSION_MESSAGES, self._on_stream)
        self._started = True
        self._scope.spawn(self._read_streams(), name="read session messages")

    def _on_stream(self, reader: rtc.ByteStreamReader, identity: str) -> None:
        if self._closed or self._remote not in (None, identity):
            reader.close()
        else:
            self._streams.send_nowait(reader)

    async def _read_streams(self) -> None:
        async for reader in self._streams:  # one after the other, so that order is kept
            try:
                data = await answer(
                    self._scope, _read_all(reader), READ_TIMEOUT, name="read a session message"
                )
                self._inbox.send_nowait(pb.AgentSessionMessage.FromString(data))
            except (DecodeError, rtc.StreamError, asyncio.TimeoutError) as error:
                logger.warning("a session message could not be read: %r", error)
            except ChanClosed:
                return
            finally:
                reader.close()

    async def send_message(self, msg: pb.AgentSessionMessage) -> None:
        """Send a message, after those before it.

        Raises:
            RuntimeError: The transport is closed, the room not connected, or sending failed.
        """
        async with self._sending:
            if self._closed or not self._room.isconnected():
                raise RuntimeError("the transport is closed, or its room is not connected")
            sending = self._room.local_participant.send_bytes(
                msg.SerializeToString(),
                name=shortuuid("AS_"),
                topic=TOPIC_SESSION_MESSAGES,
                destination_identities=[self._remote] if self._remote is not None else None,
            )
            try:
                await answer(self._scope, sending, SEND_TIMEOUT, name="send a session message")
            except Exception as error:
                raise RuntimeError(f"a session message could not be sent: {error}") from error

    async def close(self) -> None:
        """Give the topic back; iteration ends after what has come in. Idempotent, bounded."""
        if self._closed:
            return
        self._closed = True
        if self._started:
            self._room.unregister_byte_stream_handler(TOPIC_SESSION_MESSAGES)
        self._streams.close()
        while not self._streams.empty():
            self._streams.recv_nowait().close()
        self._inbox.close()
        await self._scope.cancel(_CLOSE_TIMEOUT)

    def __aiter__(self) -> AsyncIterator[pb.AgentSessionMessage]:
        return self

    async def __anext__(self) -> pb.AgentSessionMessage:
        return await self._inbox.__anext__()


async def _read_all(reader: rtc.ByteStreamReader) -> bytes:
    return b"".join([chunk async for chunk in reader])


class TcpSessionTransport(SessionTransport):
    """Messages on a TCP connection: four bytes of length (big-endian), then the message."""

    def __init__(self, host: str, port: int) -> None:
        """Set up a transport.

        Args:
            host: Where the other side listens.
            port: On which port.
        """
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def start(self) -> None:
        """Connect.

        Raises:
            OSError: Nobody listens there.
        """
        self._loop = asyncio.get_running_loop()
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        self._writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._writer.transport.set_write_buffer_limits(high=WRITE_AHEAD)

    async def send_message(self, msg: pb.AgentSessionMessage) -> None:
        """Send a message; waits only when a lot is waiting already.

        Raises:
            RuntimeError: The transport is not connected.
        """
        self._write(msg)
        assert self._writer is not None
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise RuntimeError(f"the connection is gone: {error}") from error

    def _write(self, msg: pb.AgentSessionMessage) -> None:
        if self._closed or self._writer is None or self._writer.is_closing():
            raise RuntimeError("the transport is not connected")
        data = msg.SerializeToString()
        self._writer.write(len(data).to_bytes(4, "big") + data)

    def send_message_threadsafe(self, msg: pb.AgentSessionMessage) -> None:
        """Send a message from any thread. Dropped when the transport is closed."""
        if self._loop is None or self._closed:
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._write_quietly, msg)

    def _write_quietly(self, msg: pb.AgentSessionMessage) -> None:
        with contextlib.suppress(RuntimeError):
            self._write(msg)

    async def close(self) -> None:
        """Close the connection: in order within half a second, or else at once. Idempotent."""
        writer, self._writer = self._writer, None
        self._closed = True
        if writer is None:
            return
        writer.close()
        closing = TaskScope("TCP session transport")
        task = closing.spawn(_closed(writer), name="close a connection")
        await asyncio.wait((task,), timeout=_CLOSE_TIMEOUT)
        if not task.done():
            writer.transport.abort()
        await closing.cancel(_CLOSE_TIMEOUT)

    def __aiter__(self) -> AsyncIterator[pb.AgentSessionMessage]:
        return self

    async def __anext__(self) -> pb.AgentSessionMessage:
        if self._reader is None:
            raise StopAsyncIteration
        while True:
            try:
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                if size > MAX_MESSAGE:
                    logger.error(
                        "a session message of %d bytes is too large; the stream ends", size
                    )
                    raise StopAsyncIteration
                data = await self._reader.readexactly(size)
            except (asyncio.IncompleteReadError, OSError):
                raise StopAsyncIteration from None
            try:
                return pb.AgentSessionMessage.FromString(data)
            except DecodeError as error:
                logger.warning("a session message could not be read: %s", error)


async def _closed(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await writer.wait_closed()


__all__ = [
    "TOPIC_SESSION_MESSAGES",
    "RoomSessionTransport",
    "SessionTransport",
    "TcpSessionTransport",
]
