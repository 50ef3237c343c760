"""`MCPServer`: a connection to an MCP server, and calls of the server's tools."""

from __future__ import annotations

import asyncio
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol
from weakref import WeakSet

import anyio
import mcp_types as types
from mcp import ClientSession, MCPError
from typing_extensions import TypedDict

from ..log import logger
from ..utils.aio import wait_until
from ..voice.run_context import RunContext
from ._mcp_connection import Connection
from .tool_context import (
    DuplicateMode,
    DuplicateScope,
    RawFunctionTool,
    ToolError,
    ToolFlag,
    function_tool,
)


@dataclass
class MCPToolResultContext:
    """What a resolver gets: the call, and what the server answered."""

    tool_name: str
    arguments: dict[str, Any]
    result: types.CallToolResult


MCPToolResultResolver = Callable[[MCPToolResultContext], Any | Awaitable[Any]]
"""Turns the result of a call into what the model gets to read. May be async."""


class MCPToolOptions(TypedDict, total=False):
    """How a session treats a tool of an MCP server."""

    flags: ToolFlag
    """`ToolFlag.NONE` by default."""
    on_duplicate: DuplicateMode
    """What to do with a call while another one runs; `allow` by default."""
    duplicate_scope: DuplicateScope
    """Which calls count as the same; those of the same `name` by default."""
    report_progress: bool
    """Tell the server's progress messages with `RunContext.update`; the first one lets the
    conversation go on while the tool runs. Off by default."""


def _default_resolver(ctx: MCPToolResultContext) -> str:
    parts = [part.model_dump(mode="json", by_alias=True) for part in ctx.result.content]
    if not parts:
        raise ToolError(f"the tool {ctx.tool_name} returned nothing")
    return json.dumps(parts[0] if len(parts) == 1 else parts, ensure_ascii=False)


class ServerUser(Protocol):
    """Who uses a server, and is told about it."""

    def _refresh_soon(self) -> None:
        """The server's tools have changed."""


class MCPServer(ABC):
    """A connection to an MCP server, opened by `initialize` and closed by `aclose`.

    A connection that is lost is opened anew by the next call of a tool.

    Args:
        client_session_timeout_seconds: Seconds for each request; 0 for no limit.
        tool_result_resolver: Turns results into what the model reads. By default the content as
            JSON: an object for a single part, else an array.
    """

    _RETRY_DELAYS: ClassVar[tuple[float, ...]] = (1.0, 2.0, 5.0, 10.0, 30.0)
    """Seconds between attempts to restore a lost connection; the last one repeats."""

    _open_timeout = 10.0
    """Seconds for the transport to open, in addition to the session's own timeout."""

    def __init__(
        self,
        *,
        client_session_timeout_seconds: float,
        tool_result_resolver: MCPToolResultResolver | None = None,
    ) -> None:
        self.name = type(self).__name__
        self._timeout = client_session_timeout_seconds or None
        self._resolve = tool_result_resolver or _default_resolver
        self._connection: Connection | None = None
        self._ending: Connection | None = None
        self._listing: list[types.Tool] | None = None
        self._users: WeakSet[ServerUser] = WeakSet()
        self._restore = False  # whether a call may connect: only after a loss
        self._failures = 0
        self._retry_at = 0.0

    @abstractmethod
    def client_streams(self) -> AbstractAsyncContextManager[Any]:
        """Open the transport: yields the read and the write stream of the MCP SDK."""

    @property
    def initialized(self) -> bool:
        """Whether the connection is up."""
        return self._connection is not None and self._connection.session is not None

    def invalidate_cache(self) -> None:
        """Have the next `list_tools` ask the server again."""
        self._listing = None

    async def initialize(self) -> None:
        """Connect, if there is no connection. Concurrent calls share the attempt.

        An attempt that fails, and a connection that was closed, may be followed by another call.

        Raises:
            TimeoutError: The server was not ready in time.
            ConnectionError: The server object was closed meanwhile.
            Exception: Why connecting failed; possibly an exception group.
        """
        if self._connection is None or self._connection.over:
            limit = None if self._timeout is None else self._open_timeout + self._timeout
            self._connection = Connection(
                self, request_timeout=self._timeout, connect_timeout=limit
            )
            self.invalidate_cache()
        await self._connection.ready()
        self._restore, self._failures = True, 0

    async def list_tools(
        self, *, tool_options: dict[str, MCPToolOptions] | None = None
    ) -> list[RawFunctionTool[..., Any]]:
        """The server's tools. Asked for once per connection, and again when they change.

        Args:
            tool_options: Options by tool name.

        Raises:
            RuntimeError: There is no connection: call `initialize` first.
            MCPError: The server didn't answer, or with an error.
        """
        session = self._connection.session if self._connection is not None else None
        if session is None:
            raise RuntimeError(
                f"the MCP server {self.name} is not connected: call initialize() first"
            )
        listing = self._listing
        if listing is None:
            listing = self._listing = await _all_tools(session)
        options = tool_options or {}
        return [self._make_tool(tool, options.get(tool.name, {})) for tool in listing]

    async def aclose(self) -> None:
        """Disconnect, within 2 s whatever the server does. Raises nothing. Idempotent.

        An attempt to connect is ended, and running calls fail.
        """
        if closing := self._close_soon():
            await wait_until(closing, None)  # bounded by itself

    def _close_soon(self) -> asyncio.Task[None] | None:
        """Begin to disconnect. It goes on even if nobody waits for the task."""
        connection, self._connection = self._connection, None
        self._ending = connection or self._ending
        self._restore = False
        self.invalidate_cache()
        return connection.close_soon() if connection is not None else None

    def _give_up(self) -> None:
        """Whoever disconnected has no more time: don't wait for the server."""
        if self._ending is not None:
            self._ending.give_up()

    # -- for toolsets -----------------------------------------------------------------------------

    def _use(self, user: ServerUser) -> None:
        self._users.add(user)

    def _release(self, user: ServerUser) -> asyncio.Task[None] | None:
        """The user needs the server no more; the last one to say so closes it."""
        self._users.discard(user)
        return None if self._users else self._close_soon()

    # -- for the connection ------------------------------------------------------------------------

    def _kill(self, *, force: bool) -> None:  # noqa: B027 - most transports start nothing
        """End what the transport started, because it doesn't end by itself."""

    def _on_tools_changed(self) -> None:
        self.invalidate_cache()
        for user in list(self._users):
            user._refresh_soon()

    def _on_lost(self, connection: Connection) -> None:
        if connection is self._connection:
            self.invalidate_cache()

    # -- calls ---------------------------------------------------------------------------------------

    def _make_tool(self, tool: types.Tool, options: MCPToolOptions) -> RawFunctionTool[..., Any]:
        async def call(raw_arguments: dict[str, Any]) -> Any:
            return await self._call(tool.name, raw_arguments, None)

        async def call_with_progress(
            raw_arguments: dict[str, Any],
            ctx: RunContext[Any],
        ) -> Any:
            async def on_progress(progress: float, total: float | None, text: str | None) -> None:
                if text:
                    await ctx.update(text)

            return await self._call(tool.name, raw_arguments, on_progress)

        schema: dict[str, Any] = {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.input_schema,
        }
        if tool.meta:
            schema["meta"] = tool.meta
        return function_tool(
            call_with_progress if options.get("report_progress") else call,
            raw_schema=schema,
            flags=options.get("flags", ToolFlag.NONE),
            on_duplicate=options.get("on_duplicate", "allow"),
            duplicate_scope=options.get("duplicate_scope", "name"),
        )

    async def _call(self, name: str, arguments: dict[str, Any], on_progress: Any) -> Any:
        session = await self._live_session(name)
        connection = self._connection
        try:
            result = await session.call_tool(name, arguments, progress_callback=on_progress)
        except MCPError as error:
            if _ends_session(error):
                if connection is not None:
                    connection.lose()
                raise self._unavailable(name) from error
            raise ToolError(f"the tool {name} failed: {error.message}") from error
        except anyio.ClosedResourceError as error:
            raise self._unavailable(name) from error
        except RuntimeError as error:  # the answer breaks the protocol, or the tool's own schema
            raise ToolError(f"the tool {name} answered badly: {error}") from error
        if not isinstance(result, types.CallToolResult):
            raise ToolError(
                f"the tool {name} didn't return a result, but a {type(result).__name__}"
            )
        if result.is_error:
            texts = [part.text for part in result.content if isinstance(part, types.TextContent)]
            raise ToolError("\n".join(texts) or f"the tool {name} failed")
        resolved = self._resolve(MCPToolResultContext(name, arguments, result))
        return await resolved if inspect.isawaitable(resolved) else resolved

    async def _live_session(self, tool_name: str) -> ClientSession:
        """The session; a lost one is restored, but not more often than the delays say."""
        if self._connection is not None and self._connection.session is not None:
            return self._connection.session
        loop = asyncio.get_running_loop()
        if not self._restore or loop.time() < self._retry_at:
            raise self._unavailable(tool_name)
        try:
            await self.initialize()
        except Exception as error:
            if loop.time() >= self._retry_at:  # not yet noted by another call
                self._note_failure(error)
            raise self._unavailable(tool_name) from error
        if self._connection is None or self._connection.session is None:
            raise self._unavailable(tool_name)
        self._on_tools_changed()  # it may be another version of the server
        return self._connection.session

    def _note_failure(self, error: Exception) -> None:
        delay = self._RETRY_DELAYS[min(self._failures, len(self._RETRY_DELAYS) - 1)]
        self._failures += 1
        self._retry_at = asyncio.get_running_loop().time() + delay
        logger.warning(
            "can't restore the connection to the MCP server %s, next attempt in %g s or later",
            self.name,
            delay,
            exc_info=error,
        )

    def _unavailable(self, tool_name: str) -> ToolError:
        return ToolError(
            f"the tool {tool_name} can't be called: its service is unavailable at the moment"
        )


def _ends_session(error: MCPError) -> bool:
    terminated = error.code == types.INVALID_REQUEST and error.message == "Session terminated"
    return terminated or error.code == types.CONNECTION_CLOSED


async def _all_tools(session: ClientSession) -> list[types.Tool]:
    page = await session.list_tools()
    tools = list(page.tools)
    seen: set[str] = set()
    while (cursor := page.next_cursor) is not None and cursor not in seen:
        seen.add(cursor)
        page = await session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
        tools.extend(page.tools)
    return tools
