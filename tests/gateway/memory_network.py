"""TCP without sockets: aiohttp's client talks to aiohttp's server inside one event loop.

Nothing leaves the loop, so on virtual time an hour of calls takes seconds and comes out the same
each time. Bytes arrive in the loop's next turn; flow control and half-closed streams work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp

_HIGH_WATER = 64 * 1024


class MemoryTransport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self._loop = loop
        self._name = name
        self.peer: MemoryTransport = self
        self._protocol: Any = None
        self._inbox = bytearray()
        self._eof_pending = False
        self._delivery: asyncio.Handle | None = None
        self._reading = True
        self._closing = False
        self._lost = False
        self._writing_paused = False
        self._high_water = _HIGH_WATER

    # -- transport --------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._schedule()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high_water = _HIGH_WATER if high is None else high

    def get_write_buffer_size(self) -> int:
        return len(self.peer._inbox) if not self.peer._reading else 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self.peer._lost:
            return
        self.peer._inbox += data
        self.peer._schedule()
        full = len(self.peer._inbox) > self._high_water and not self.peer._reading
        if full and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self.peer._eof_pending = True
        self.peer._schedule()
        if not self.get_write_buffer_size():
            self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        self._closing = True
        self._loop.call_soon(self._lose, None)
        self._loop.call_soon(self.peer._reset)

    # -- the wire ---------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._delivery is None and not self._lost:
            self._delivery = self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._delivery = None
        if self._lost or not self._reading:
            return
        if self._inbox and not self._closing:
            data = bytes(self._inbox)
            self._inbox.clear()
            self._protocol.data_received(data)
        self.peer._drained()
        if self._eof_pending and not self._inbox and not self._closing:
            self._eof_pending = False
            if not self._protocol.eof_received():
                self.close()

    def _drained(self) -> None:
        if self._writing_paused:
            self._writing_paused = False
            if not self._lost:
                self._protocol.resume_writing()
        if self._closing and not self._lost:
            self._loop.call_soon(self._lose, None)

    def _reset(self) -> None:
        if not self._lost and not self._closing:
            self._closing = True
            self._lose(ConnectionResetError("the peer is gone"))

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._inbox.clear()
        self._protocol.connection_lost(error)


class MemoryNetwork:
    """Connects clients to at most one server."""

    def __init__(self) -> None:
        self._make_server_protocol: Callable[[], asyncio.BaseProtocol] | None = None
        self.dials = 0
        """Connections attempted."""

    def listen(self, protocol_factory: Callable[[], asyncio.BaseProtocol] | None) -> None:
        """Let a server accept connections, or nobody."""
        self._make_server_protocol = protocol_factory

    def connect(self, client_protocol: Any) -> MemoryTransport:
        """Open a connection.

        Raises:
            ConnectionRefusedError: Nobody listens.
        """
        self.dials += 1
        if self._make_server_protocol is None:
            raise ConnectionRefusedError("nobody listens")
        loop = asyncio.get_running_loop()
        client, server = MemoryTransport(loop, "client"), MemoryTransport(loop, "server")
        client.peer, server.peer = server, client
        server_protocol = self._make_server_protocol()
        client.set_protocol(client_protocol)
        server.set_protocol(server_protocol)
        server_protocol.connection_made(server)
        client_protocol.connection_made(client)
        return client

    def client_session(self) -> aiohttp.ClientSession:
        """An HTTP session that connects here, whatever the address."""
        return aiohttp.ClientSession(connector=_MemoryConnector(self))


class _MemoryConnector(aiohttp.TCPConnector):
    def __init__(self, network: MemoryNetwork) -> None:
        super().__init__(limit_per_host=50)
        self._network = network

    async def _wrap_create_connection(self, *args: Any, **kwargs: Any) -> Any:
        protocol = args[0]()
        try:
            return self._network.connect(protocol), protocol
        except OSError as error:
            request = kwargs["req"]
            raise aiohttp.ClientConnectorError(request.connection_key, error) from error
