"""MCP servers as processes and over HTTP: real pipes, sockets and clocks."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from fakes.mcp_http import HTTPPeer
from fakes.session import now
from livekit.agents.llm import ToolError
from livekit.agents.llm.mcp import MCPServer, MCPServerHTTP, MCPServerStdio, MCPToolset
from livekit.agents.utils.aio import TaskScope

PROGRAM = Path(__file__).parents[2] / "fakes" / "mcp_stdio_server.py"

# The bound is 2 s; a busy machine may take longer to run the test than the code.
PATIENCE = 3.0

pytestmark = pytest.mark.real_time


def process_server(*options: str, **kwargs: Any) -> MCPServerStdio:
    """The test program as a server."""
    return MCPServerStdio(sys.executable, [str(PROGRAM), *options], **kwargs)


async def call(server: MCPServer, name: str, **arguments: Any) -> Any:
    """Call a tool as the model would."""
    (tool,) = [t for t in await server.list_tools() if t.info.name == name]
    return json.loads(await tool(raw_arguments=arguments))


class TestProcess:
    async def test_serves_tools_and_exits(self) -> None:
        server = process_server()
        toolset = MCPToolset(id="t", mcp_server=server)
        await toolset.setup()
        (process,) = server._processes()
        assert (await call(server, "echo", text="hello"))["text"] == "hello"
        start = now()
        await toolset.aclose()
        assert now() - start < PATIENCE
        assert not psutil.pid_exists(process.pid)

    async def test_gets_its_variables_and_not_all_of_ours(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SECRET_OF_OURS", "1")
        for name, expected in (("GREETING", "hi"), ("SECRET_OF_OURS", "None")):
            server = process_server(f"env:{name}", env={"GREETING": "hi"})
            await server.initialize()
            assert (await call(server, "echo"))["text"] == expected
            await server.aclose()

    async def test_that_died_is_started_again(self) -> None:
        server = process_server()
        await server.initialize()
        (first,) = server._processes()
        with pytest.raises(ToolError, match="unavailable"):
            await call(server, "crash")
        await server.initialize()
        (echo, *_) = await server.list_tools()
        assert json.loads(await echo(raw_arguments={"text": "x"}))["text"] == "x"
        (second,) = server._processes()
        assert first.pid != second.pid
        await server.aclose()

    @pytest.mark.parametrize("habit", ["clingy", "stubborn"])
    async def test_that_does_not_exit_is_made_to(self, habit: str) -> None:
        server = process_server(habit)
        await server.initialize()
        (process,) = server._processes()
        start = now()
        await server.aclose()
        assert now() - start < PATIENCE
        assert not psutil.pid_exists(process.pid)

    async def test_that_never_gets_ready_goes_with_the_attempt(self) -> None:
        server = process_server("deaf", client_session_timeout_seconds=0)
        waiter = TaskScope("waiter").spawn(server.initialize(), log_errors=False)
        await asyncio.sleep(0.2)
        (process,) = server._processes()
        start = now()
        await server.aclose()
        assert now() - start < PATIENCE
        assert not psutil.pid_exists(process.pid)
        with pytest.raises(ConnectionError):
            await waiter

    async def test_that_cannot_be_started_says_so(self) -> None:
        server = MCPServerStdio("/no/such/program", [])
        with pytest.raises(FileNotFoundError):
            await server.initialize()
        await server.aclose()


class TestStreamableHTTP:
    async def test_serves_tools_and_ends_the_session(self) -> None:
        async with HTTPPeer().serving() as peer:
            server = MCPServerHTTP(f"{peer.url}/mcp", allowed_tools=["echo", "two"])
            await server.initialize()
            assert [t.info.name for t in await server.list_tools()] == ["echo", "two"]
            assert (await call(server, "echo", text="hello"))["text"] == "hello"
            await server.aclose()
            assert peer.deleted == 1

    async def test_headers_may_change_at_any_time(self) -> None:
        async with HTTPPeer().serving() as peer:
            given = {"Authorization": "first", "Accept": "ours", "User-Agent": "me"}
            server = MCPServerHTTP(f"{peer.url}/mcp", headers=given)
            await server.initialize()
            assert peer.headers[-1]["Authorization"] == "first"
            assert peer.headers[-1]["User-Agent"] == "me"
            assert "json" in peer.headers[-1]["Accept"]
            server.headers["Authorization"] = "second"
            await server.list_tools()
            assert peer.headers[-1]["Authorization"] == "second"
            server.headers = {"X-Other": 1}
            await call(server, "echo")
            assert "Authorization" not in peer.headers[-1]
            assert peer.headers[-1]["X-Other"] == "1"
            await server.aclose()

    async def test_a_server_that_does_not_confirm_the_end_is_left(self) -> None:
        async with HTTPPeer(hangs_on_delete=True).serving() as peer:
            server = MCPServerHTTP(f"{peer.url}/mcp")
            await server.initialize()
            start = now()
            await server.aclose()
            assert peer.deleted == 1 and now() - start < PATIENCE

    async def test_a_forgotten_session_is_replaced_by_the_next_call(self) -> None:
        async with HTTPPeer().serving() as peer:
            server = MCPServerHTTP(f"{peer.url}/mcp")
            await server.initialize()
            (echo, *_) = await server.list_tools()
            peer.sessions.clear()
            with pytest.raises(ToolError, match="unavailable"):
                await echo(raw_arguments={"text": "x"})
            assert json.loads(await echo(raw_arguments={"text": "x"}))["text"] == "x"
            await server.aclose()

    async def test_a_server_that_is_gone_makes_the_service_unavailable(self) -> None:
        async with HTTPPeer().serving() as peer:
            server = MCPServerHTTP(f"{peer.url}/mcp")
            await server.initialize()
            (echo, *_) = await server.list_tools()
        for _ in range(2):
            with pytest.raises(ToolError, match="unavailable"):
                await echo(raw_arguments={})
        start = now()
        await server.aclose()
        assert now() - start < PATIENCE


class TestSSE:
    async def test_serves_tools(self) -> None:
        async with HTTPPeer().serving() as peer:
            server = MCPServerHTTP(f"{peer.url}/sse", headers={"X-Key": "k"})
            await server.initialize()
            assert (await call(server, "echo", text="hello"))["text"] == "hello"
            assert peer.headers[0]["X-Key"] == "k"
            start = now()
            await server.aclose()
            assert now() - start < PATIENCE

    async def test_a_server_that_announces_nothing_does_not_hold_the_close(self) -> None:
        async with HTTPPeer(announces=False).serving() as peer:
            server = MCPServerHTTP(f"{peer.url}/sse", client_session_timeout_seconds=0)
            waiter = TaskScope("waiter").spawn(server.initialize(), log_errors=False)
            await asyncio.sleep(0.2)
            start = now()
            await server.aclose()
            assert now() - start < PATIENCE
            with pytest.raises(ConnectionError):
                await waiter
