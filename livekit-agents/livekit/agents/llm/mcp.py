"""Tools of MCP servers (Model Context Protocol). Needs the `mcp` extra."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from typing_extensions import Self

from ..utils.aio import TaskScope, wait_until
from .async_toolset import AsyncToolset
from .tool_context import RawFunctionTool, Tool, Toolset

try:
    from ._mcp_server import (
        MCPServer,
        MCPToolOptions,
        MCPToolResultContext,
        MCPToolResultResolver,
    )
    from ._mcp_transports import MCPServerHTTP, MCPServerStdio
except ImportError as e:
    if (e.name or "").partition(".")[0] not in ("anyio", "httpx2", "mcp", "mcp_types"):
        raise
    raise ImportError(
        "MCP servers need packages that aren't installed, or other versions of them. "
        "Install them with: pip install 'livekit-agents[mcp]'",
        name=e.name,
    ) from e

__all__ = [
    "MCPServer",
    "MCPServerHTTP",
    "MCPServerStdio",
    "MCPTool",
    "MCPToolOptions",
    "MCPToolResultContext",
    "MCPToolResultResolver",
    "MCPToolset",
]

MCPTool = RawFunctionTool
"""A tool of an MCP server."""


class MCPToolset(AsyncToolset):
    """The tools of an MCP server, as a toolset.

    Args:
        id: Unique name.
        mcp_server: The server. Several toolsets may share it: the last one to close closes it.
        tool_options: Options by tool name.
    """

    _ends_by_itself = True
    _drain_timeout = 2.5  # leaves the server its share of the 5 s of a close

    def __init__(
        self,
        *,
        id: str,
        mcp_server: MCPServer,
        tool_options: dict[str, MCPToolOptions] | None = None,
    ) -> None:
        super().__init__(id=id)
        self._server = mcp_server
        self._tool_options = tool_options or {}
        self._own_tools = list(self._tools)  # methods of a subclass
        self._filters: list[Callable[[Any], bool]] = []
        self._loaded = False
        self._lock = asyncio.Lock()
        self._life = 0  # counts closes, so that a setup which a close overtook installs nothing
        self._refreshing: TaskScope | None = None
        self._stale = False

    async def setup(self, *, reload: bool = False) -> Self:
        """Connect if needed, and fetch the tools.

        Does nothing if they were fetched already, unless `reload` asks for it.

        Raises:
            Exception: The server can't be reached, or doesn't list its tools.
        """
        life = self._life
        self._server._use(self)
        async with self._lock:
            if life != self._life:
                raise ConnectionError(f"the toolset {self.id!r} was closed while it was set up")
            if self._loaded and not reload:
                return self
            if reload:
                self._server.invalidate_cache()
            if not self._server.initialized:
                await self._server.initialize()
            fetched = await self._server.list_tools(tool_options=self._tool_options)
            if life == self._life:
                self._loaded = True
                self._tools = [
                    tool
                    for tool in [*self._own_tools, *fetched]
                    if all(wanted(tool) for wanted in self._filters)
                ]
        await super().setup()
        return self

    def filter_tools(self, filter_fn: Callable[[Tool | Toolset], bool]) -> Self:
        """Keep only the tools for which the function returns True, now and after a reload.

        Returns:
            Itself.
        """
        self._filters.append(filter_fn)
        self._tools = [tool for tool in self._tools if filter_fn(tool)]
        return self

    async def aclose(self) -> None:
        """End running calls, then disconnect, within 5 s. Idempotent; `setup` connects again."""
        self._life += 1
        if self._refreshing is not None:
            self._refreshing.cancel_soon()
            self._refreshing = None
        closing = None
        try:
            await super().aclose()
        finally:
            # In any case: the close of the server then goes on by itself.
            closing = self._server._release(self)
            self._loaded = False
            self._tools = [t for t in self._own_tools if all(want(t) for want in self._filters)]
        if closing is not None:
            await wait_until(closing, None)  # bounded by itself

    def _give_up(self) -> None:
        """The time for `aclose` is over: what it began is cut short."""
        self._server._give_up()

    def _refresh_soon(self) -> None:
        """Fetch the tools again; those of now stay until the new ones are there."""
        self._stale = True
        if not self._loaded or (self._refreshing is not None and self._refreshing.tasks):
            return
        if self._refreshing is None:
            self._refreshing = TaskScope(f"toolset {self.id!r}")
        self._refreshing.spawn(self._refresh(), name="reload tools")

    async def _refresh(self) -> None:
        while self._stale:  # they may change again meanwhile
            self._stale = False
            await self.setup(reload=True)
