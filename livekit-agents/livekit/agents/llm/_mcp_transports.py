"""The two ways to reach an MCP server: over HTTP, and as a process of one's own."""

from __future__ import annotations

import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import httpx2
from mcp import StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from ..log import logger
from ._mcp_server import MCPServer, MCPToolOptions, MCPToolResultResolver
from .tool_context import RawFunctionTool


class MCPServerHTTP(MCPServer):
    """An MCP server that is reached over HTTP.

    Args:
        url: Its endpoint.
        transport_type: `streamable_http`, or the older `sse`. By default the former if the path
            ends with `/mcp`.
        allowed_tools: Names of the tools to offer; all by default.
        headers: Sent with each request. Changes apply from the next request on.
        timeout: Seconds to connect, and to send.
        sse_read_timeout: Seconds without anything received.
        client_session_timeout_seconds: Seconds for each MCP request; 0 for no limit.
        tool_result_resolver: Turns results into what the model reads.

    Raises:
        ValueError: There is no such `transport_type`.
    """

    _GOODBYE_TIMEOUT: ClassVar[float] = 0.8
    """Seconds for the request that ends the session."""

    def __init__(
        self,
        url: str,
        transport_type: Literal["sse", "streamable_http"] | None = None,
        allowed_tools: list[str] | None = None,
        headers: dict[str, Any] | None = None,
        timeout: float = 5,
        sse_read_timeout: float = 60 * 5,
        client_session_timeout_seconds: float = 5,
        *,
        tool_result_resolver: MCPToolResultResolver | None = None,
    ) -> None:
        super().__init__(
            client_session_timeout_seconds=client_session_timeout_seconds,
            tool_result_resolver=tool_result_resolver,
        )
        if transport_type not in (None, "sse", "streamable_http"):
            raise ValueError(
                f"unknown transport_type {transport_type!r}: expected 'sse' or 'streamable_http'"
            )
        parts = urlsplit(url)
        self.name = f"{parts.hostname}{parts.path}"
        self.url = url
        self._headers: dict[str, Any] = dict(headers or {})
        self._allowed_tools = set(allowed_tools) if allowed_tools is not None else None
        self._open_timeout = timeout
        self._sse_read_timeout = sse_read_timeout
        streamable = parts.path.lower().rstrip("/").endswith("/mcp")
        self._transport = transport_type or ("streamable_http" if streamable else "sse")

    @property
    def headers(self) -> dict[str, Any]:
        """Sent with each request. Set them, or change the dict, at any time."""
        return self._headers

    @headers.setter
    def headers(self, headers: dict[str, Any] | None) -> None:
        self._headers = dict(headers or {})

    async def list_tools(
        self, *, tool_options: dict[str, MCPToolOptions] | None = None
    ) -> list[RawFunctionTool[..., Any]]:
        """As in `MCPServer`, without the tools that aren't allowed."""
        tools = await super().list_tools(tool_options=tool_options)
        if self._allowed_tools is None:
            return tools
        return [tool for tool in tools if tool.info.name in self._allowed_tools]

    def client_streams(self) -> AbstractAsyncContextManager[Any]:
        """Open the transport: yields the read and the write stream of the MCP SDK."""
        if self._transport == "streamable_http":
            return self._streamable_http()
        return sse_client(
            self.url,
            timeout=self._open_timeout,
            sse_read_timeout=self._sse_read_timeout,
            httpx_client_factory=self._client,
        )

    @asynccontextmanager
    async def _streamable_http(self) -> AsyncIterator[Any]:
        async with self._client() as client:
            async with streamable_http_client(self.url, http_client=client) as streams:
                try:
                    yield streams
                finally:
                    # Next the SDK asks the server to end the session, and waits for the answer.
                    client.timeout = httpx2.Timeout(self._GOODBYE_TIMEOUT)

    def _client(
        self,
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        async def add_headers(request: httpx2.Request) -> None:
            for name, value in self._headers.items():
                # What the protocol has set for this very request goes first.
                if request.headers.get(name) == client.headers.get(name):
                    request.headers[name] = str(value)

        client = httpx2.AsyncClient(
            headers=headers,
            timeout=timeout or httpx2.Timeout(self._open_timeout, read=self._sse_read_timeout),
            auth=auth,
            event_hooks={"request": [add_headers]},
        )
        return client

    def __repr__(self) -> str:
        return f"MCPServerHTTP(url={self.url!r})"


class MCPServerStdio(MCPServer):
    """An MCP server that runs as a process of its own, reached over its standard streams.

    Args:
        command: The program.
        args: Its arguments.
        env: Variables added to the few that a server inherits (such as HOME and PATH).
        cwd: Where it runs; here by default.
        client_session_timeout_seconds: Seconds for each MCP request; 0 for no limit.
        tool_result_resolver: Turns results into what the model reads.
    """

    _MARK: ClassVar[str] = "LIVEKIT_MCP_SERVER"

    def __init__(
        self,
        command: str,
        args: list[str],
        env: dict[str, str] | None = None,
        cwd: str | Path | None = None,
        client_session_timeout_seconds: float = 5,
        *,
        tool_result_resolver: MCPToolResultResolver | None = None,
    ) -> None:
        super().__init__(
            client_session_timeout_seconds=client_session_timeout_seconds,
            tool_result_resolver=tool_result_resolver,
        )
        self.name = Path(command).name
        self.command = command
        self.args = args
        self.env = env
        self.cwd = cwd
        self._mark = uuid.uuid4().hex

    def client_streams(self) -> AbstractAsyncContextManager[Any]:
        """Start the process: yields the read and the write stream of the MCP SDK."""
        return stdio_client(
            StdioServerParameters(
                command=self.command,
                args=self.args,
                env={**(self.env or {}), self._MARK: self._mark},
                cwd=self.cwd,
            )
        )

    def _kill(self, *, force: bool) -> None:
        for process in self._processes():
            logger.warning(
                "the MCP server %s (process %d) doesn't exit, it is %s",
                self.name,
                process.pid,
                "killed" if force else "told to terminate",
            )
            with _ignoring_dead_processes():
                _signal_group(process, force=force)

    def _processes(self) -> Iterator[Any]:
        """The processes we started. The SDK keeps them to itself; they carry our mark."""
        import psutil  # type: ignore[import-untyped,unused-ignore]

        for process in psutil.Process().children():
            with _ignoring_dead_processes():
                if process.environ().get(self._MARK) == self._mark:
                    yield process

    def __repr__(self) -> str:
        return f"MCPServerStdio(command={self.command!r}, args={self.args!r})"


def _signal_group(process: Any, *, force: bool) -> None:
    import os

    if hasattr(os, "killpg"):  # the SDK starts each server in a group of its own
        os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)
    else:
        process.kill()


@contextmanager
def _ignoring_dead_processes() -> Iterator[None]:
    import psutil

    try:
        yield
    except (psutil.Error, OSError):
        pass
