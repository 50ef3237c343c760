"""An `MCPServer` whose server side is a `Peer` in the same process: no sockets, virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types as types
from mcp.shared.message import SessionMessage

from livekit.agents.llm.mcp import MCPServer
from livekit.agents.utils.aio import TaskScope

from .mcp_peer import Hangup, Message, Peer


class MemoryServer(MCPServer):
    """Connects to a new session with `peer` each time.

    Args:
        peer: The server side.
        timeout: Seconds for each request; 0 for no limit.
        sticky: Ignore cancellation while closing the transport, until `release` is set.
    """

    def __init__(
        self, peer: Peer | None = None, *, timeout: float = 5, sticky: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(client_session_timeout_seconds=timeout, **kwargs)
        self.peer = peer or Peer()
        self.sticky = sticky
        self.release = asyncio.Event()
        self.refuses: Exception | None = None
        self.opened = 0
        self.open = 0
        self.entered_in: list[asyncio.Task[Any] | None] = []
        self.left_in: list[asyncio.Task[Any] | None] = []
        self.kills: list[bool] = []
        self._to_client: Any = None

    @asynccontextmanager
    async def client_streams(self) -> AsyncIterator[Any]:
        if self.refuses is not None:
            raise self.refuses
        to_client, from_server = anyio.create_memory_object_stream[Any](100)
        to_server, from_client = anyio.create_memory_object_stream[Any](100)
        self._to_client = to_client
        self.opened += 1
        self.open += 1
        self.entered_in.append(asyncio.current_task())
        scope = TaskScope("peer")
        scope.spawn(self._serve(from_client, to_client))
        try:
            yield from_server, to_server
        finally:
            self.left_in.append(asyncio.current_task())
            await self._leave()
            await scope.cancel(1.0)
            for stream in (to_client, from_server, to_server, from_client):
                stream.close()
            self.open -= 1

    async def _leave(self) -> None:
        while self.sticky and not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                pass

    async def _serve(self, from_client: Any, to_client: Any) -> None:
        async for item in from_client:
            try:
                answers = self.peer.handle(
                    item.message.model_dump(by_alias=True, mode="json", exclude_unset=True)
                )
            except Hangup:
                to_client.close()
                return
            for answer in answers:
                await to_client.send(_wrap(answer))

    async def notify(self, message: Message) -> None:
        """Have the server send something on its own account."""
        await self._to_client.send(_wrap(message))

    def hang_up(self) -> None:
        """Have the server close the connection."""
        self._to_client.close()

    def _kill(self, *, force: bool) -> None:
        self.kills.append(force)


def _wrap(message: Message) -> SessionMessage:
    return SessionMessage(types.jsonrpc_message_adapter.validate_python(message, by_name=False))
