"""MCP servers and their toolsets, against a server in memory, on virtual time."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest

from fakes.llm import FakeLLM
from fakes.mcp_memory import MemoryServer
from fakes.mcp_peer import TOOLS_CHANGED, Peer
from fakes.session import now, running
from livekit.agents import utils
from livekit.agents.llm import FunctionCall, RawFunctionTool, ToolError, ToolFlag, function_tool
from livekit.agents.llm.mcp import (
    MCPServerHTTP,
    MCPServerStdio,
    MCPToolResultContext,
    MCPToolset,
)
from livekit.agents.utils.aio import TaskScope
from livekit.agents.voice import RunContext


def names(toolset: MCPToolset) -> list[str]:
    return [tool.id for tool in toolset.tools]


async def call(server: MemoryServer, name: str, **arguments: Any) -> Any:
    """Call a tool as the model would."""
    (tool,) = [t for t in await server.list_tools() if t.info.name == name]
    return await tool(raw_arguments=arguments)


class TestConnection:
    async def test_connects_once_and_closes_in_the_task_that_opened(self) -> None:
        server = MemoryServer()
        await asyncio.gather(server.initialize(), server.initialize())
        await server.initialize()
        assert server.initialized and server.opened == 1
        await server.aclose()
        await server.aclose()
        assert not server.initialized and server.open == 0
        assert server.entered_in == server.left_in != [asyncio.current_task()]

    async def test_can_be_opened_again_after_a_close(self) -> None:
        server = MemoryServer()
        await server.initialize()
        await server.aclose()
        await server.initialize()
        assert server.initialized and server.opened == 2
        await server.aclose()

    async def test_a_failure_reaches_whoever_waits_and_can_be_retried(self) -> None:
        server = MemoryServer()
        server.refuses = OSError("no route")
        results = await asyncio.gather(
            server.initialize(), server.initialize(), return_exceptions=True
        )
        assert [str(result) for result in results] == ["no route"] * 2
        server.refuses = None
        await server.initialize()
        await server.aclose()

    async def test_the_attempt_ends_with_the_last_waiter(self) -> None:
        server = MemoryServer(Peer(silent={"initialize"}), timeout=0)
        scope = TaskScope("waiters")
        first = scope.spawn(server.initialize())
        second = scope.spawn(server.initialize())
        await asyncio.sleep(1)
        first.cancel()
        await asyncio.wait([first])
        await asyncio.sleep(1)
        assert server.open == 1
        second.cancel()
        await asyncio.wait([second])
        await asyncio.sleep(0.1)
        assert server.open == 0

    async def test_a_server_that_never_answers_times_out(self) -> None:
        server = MemoryServer(Peer(silent={"initialize"}), timeout=3)
        start = now()
        with pytest.raises(Exception, match="timed out"):
            await server.initialize()
        assert now() - start == pytest.approx(3)
        assert server.open == 0

    async def test_a_transport_that_never_opens_times_out(self) -> None:
        class Stuck(MemoryServer):
            def client_streams(self) -> Any:
                class Never:
                    async def __aenter__(self) -> None:
                        await asyncio.Event().wait()

                    async def __aexit__(self, *_: Any) -> None: ...

                return Never()

        server = Stuck(timeout=3)
        with pytest.raises(TimeoutError, match="13 s"):
            await server.initialize()
        await server.aclose()

    @pytest.mark.parametrize("timeout", [0, 5])
    async def test_closing_ends_an_attempt_to_connect(self, timeout: float) -> None:
        server = MemoryServer(Peer(silent={"initialize"}), timeout=timeout)
        waiter = TaskScope("waiter").spawn(server.initialize(), log_errors=False)
        await asyncio.sleep(0.1)
        start = now()
        await server.aclose()
        assert now() == start and server.open == 0
        with pytest.raises(ConnectionError, match="closed"):
            await waiter

    async def test_closing_is_bounded_whatever_the_transport_does(self) -> None:
        server = MemoryServer(sticky=True)
        await server.initialize()
        start = now()
        await server.aclose()
        assert now() - start <= 2.0
        assert server.kills == [False, True]
        server.release.set()
        await asyncio.sleep(0.1)
        assert server.open == 0

    async def test_closing_goes_on_when_the_closer_is_cancelled(self) -> None:
        server = MemoryServer(sticky=True)
        await server.initialize()
        closer = TaskScope("closer").spawn(server.aclose())
        await asyncio.sleep(0.1)
        closer.cancel()
        await asyncio.wait([closer])
        await asyncio.sleep(2)
        assert server.kills == [False, True]
        server.release.set()
        await asyncio.sleep(0.1)

    async def test_a_lost_connection_is_noticed_at_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = MemoryServer()
        await server.initialize()
        await server.list_tools()
        server.hang_up()
        await asyncio.sleep(0.01)
        assert not server.initialized and server.open == 0
        assert "lost the connection" in caplog.text
        with pytest.raises(RuntimeError, match="initialize"):
            await server.list_tools()
        await server.aclose()


class TestTools:
    async def test_need_a_connection(self) -> None:
        with pytest.raises(RuntimeError, match="not connected"):
            await MemoryServer().list_tools()

    async def test_are_raw_tools_with_the_schema_of_the_server(self) -> None:
        server = MemoryServer(Peer(tools=["echo", "fail"]))
        await server.initialize()
        options: Any = {"fail": {"flags": ToolFlag.CANCELLABLE, "on_duplicate": "reject"}}
        echo, fail = await server.list_tools(tool_options=options)
        assert isinstance(echo, RawFunctionTool)
        assert echo.info.raw_schema == {
            "name": "echo",
            "description": "does echo",
            "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
            "meta": {"from": "peer"},
        }
        assert "meta" not in fail.info.raw_schema
        assert (echo.info.flags, echo.info.on_duplicate) == (ToolFlag.NONE, "allow")
        assert (fail.info.flags, fail.info.on_duplicate) == (ToolFlag.CANCELLABLE, "reject")
        await server.aclose()

    async def test_of_all_pages_are_listed_once(self) -> None:
        server = MemoryServer(Peer(page_size=3))
        await server.initialize()
        for _ in range(2):
            assert [t.info.name for t in await server.list_tools()] == server.peer.tools
        assert server.peer.methods().count("tools/list") == 3
        server.invalidate_cache()
        await server.list_tools()
        assert server.peer.methods().count("tools/list") == 6
        await server.aclose()


class TestCalls:
    async def test_results_are_json(self) -> None:
        server = MemoryServer()
        await server.initialize()
        result = json.loads(await call(server, "echo", text="hé"))
        assert (result["type"], result["text"]) == ("text", "hé")
        assert [part["text"] for part in json.loads(await call(server, "two"))] == ["a", "b"]
        await server.aclose()

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("fail", "too far\naway"),
            ("broken", "no such city"),
            ("empty", "nothing"),
            ("crash", "unavailable"),
        ],
    )
    async def test_failures_tell_the_model_why(self, name: str, message: str) -> None:
        server = MemoryServer()
        await server.initialize()
        with pytest.raises(ToolError, match=message):
            await call(server, name)
        await server.aclose()

    @pytest.mark.parametrize("is_async", [False, True])
    async def test_a_resolver_decides_what_the_model_reads(self, is_async: bool) -> None:
        seen: list[MCPToolResultContext] = []

        def resolve(ctx: MCPToolResultContext) -> Any:
            seen.append(ctx)
            if not is_async:
                return "resolved"
            return asyncio.sleep(0.1, "resolved")

        server = MemoryServer(tool_result_resolver=resolve)
        await server.initialize()
        assert await call(server, "echo", text="x") == "resolved"
        assert (seen[0].tool_name, seen[0].arguments) == ("echo", {"text": "x"})
        await server.aclose()

    async def test_a_call_ends_with_the_request_timeout(self) -> None:
        server = MemoryServer(timeout=2)
        await server.initialize()
        start = now()
        with pytest.raises(ToolError, match="timed out"):
            await call(server, "slow")
        assert now() - start == pytest.approx(2)
        await server.aclose()

    async def test_cancelling_a_call_cancels_it_on_the_server(self) -> None:
        server = MemoryServer(timeout=0)
        await server.initialize()
        task = TaskScope("caller").spawn(call(server, "slow"))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0.1)
        assert server.peer.methods()[-1] == "notifications/cancelled"
        await server.aclose()

    async def test_closing_fails_running_calls(self) -> None:
        server = MemoryServer(timeout=0)
        await server.initialize()
        task = TaskScope("caller").spawn(call(server, "slow"), log_errors=False)
        await asyncio.sleep(0.1)
        await server.aclose()
        with pytest.raises(ToolError, match="unavailable"):
            await task

    async def test_before_and_after_a_connection_the_service_is_unavailable(self) -> None:
        server = MemoryServer()
        await server.initialize()
        (echo, *_) = await server.list_tools()
        await server.aclose()
        with pytest.raises(ToolError, match="unavailable"):
            await echo(raw_arguments={})
        assert server.opened == 1

    async def test_a_lost_connection_is_restored_by_the_next_call(self) -> None:
        server = MemoryServer()
        await server.initialize()
        (echo, *_) = await server.list_tools()
        server.hang_up()
        await asyncio.sleep(0.01)
        assert json.loads(await echo(raw_arguments={"text": "x"}))["text"] == "x"
        assert server.opened == 2
        await server.aclose()

    async def test_a_server_that_stays_away_is_asked_less_and_less_often(self) -> None:
        server = MemoryServer()
        await server.initialize()
        (echo, *_) = await server.list_tools()
        server.refuses = OSError("away")
        attempts: list[float] = []
        server.hang_up()
        for _ in range(40):
            before = server._failures
            with pytest.raises(ToolError, match="unavailable"):
                await echo(raw_arguments={})
            if server._failures > before:
                attempts.append(round(now()))
            await asyncio.sleep(1)
        gaps = [b - a for a, b in itertools.pairwise(attempts)]
        assert gaps == [1, 2, 5, 10]
        server.refuses = None
        await asyncio.sleep(30)
        await echo(raw_arguments={})
        await server.aclose()

    async def test_progress_is_told_as_an_update(self) -> None:
        server = MemoryServer()
        await server.initialize()
        tools = await server.list_tools(tool_options={"progress": {"report_progress": True}})
        (tool,) = [t for t in tools if t.info.name == "progress"]
        async with running(llm=FakeLLM(default="hi")) as (session, _):
            handle = session.say("hello")
            ctx = RunContext[None](
                session=session,
                speech_handle=handle,
                function_call=FunctionCall(call_id="c", name="progress", arguments="{}"),
            )
            assert json.loads(await tool(raw_arguments={}, ctx=ctx))["text"] == "there"
            await handle
        ((_, update),) = ctx._updates
        assert "half way" in update.output
        await server.aclose()


class TestToolset:
    async def test_connects_and_loads_once(self) -> None:
        server = MemoryServer(Peer(tools=["echo"]))
        toolset = MCPToolset(id="t", mcp_server=server)
        assert names(toolset) == []
        assert await toolset.setup() is toolset
        await toolset.setup()
        assert names(toolset) == ["echo"]
        assert server.peer.methods().count("tools/list") == 1
        server.peer.tools.append("two")
        await toolset.setup(reload=True)
        assert names(toolset) == ["echo", "two"]
        await toolset.aclose()
        assert names(toolset) == [] and server.open == 0
        await toolset.setup()
        assert names(toolset) == ["echo", "two"]
        await toolset.aclose()

    async def test_keeps_the_methods_of_a_subclass(self) -> None:
        class Extended(MCPToolset):
            @function_tool
            async def local(self) -> str:
                """Runs here."""
                return "local"

        toolset = Extended(id="t", mcp_server=MemoryServer(Peer(tools=["echo"])))
        await toolset.setup()
        assert names(toolset) == ["local", "echo"]
        await toolset.aclose()
        assert names(toolset) == ["local"]

    async def test_a_filter_lasts(self) -> None:
        server = MemoryServer()
        toolset = MCPToolset(id="t", mcp_server=server)
        await toolset.setup()
        assert toolset.filter_tools(lambda tool: tool.id in ("echo", "two")) is toolset
        assert names(toolset) == ["echo", "two"]
        await toolset.setup(reload=True)
        assert names(toolset) == ["echo", "two"]
        await toolset.aclose()

    async def test_follows_the_tools_of_the_server(self) -> None:
        server = MemoryServer(Peer(tools=["echo"]))
        toolset = MCPToolset(id="t", mcp_server=server)
        await toolset.setup()
        server.peer.tools.append("two")
        await server.notify(TOOLS_CHANGED)
        await server.notify(TOOLS_CHANGED)
        await asyncio.sleep(0.1)
        assert names(toolset) == ["echo", "two"]
        await toolset.aclose()

    async def test_a_shared_server_closes_with_the_last_toolset(self) -> None:
        server = MemoryServer()
        first, second = (MCPToolset(id=name, mcp_server=server) for name in ("a", "b"))
        await asyncio.gather(first.setup(), second.setup())
        assert server.opened == 1
        await first.aclose()
        assert server.initialized and names(second)
        await second.aclose()
        assert not server.initialized

    async def test_closing_overtakes_a_setup(self) -> None:
        server = MemoryServer(Peer(silent={"tools/list"}), timeout=0)
        toolset = MCPToolset(id="t", mcp_server=server)
        scope = TaskScope("setup")
        setups = [scope.spawn(toolset.setup(), log_errors=False) for _ in range(2)]
        await asyncio.sleep(0.1)
        start = now()
        await toolset.aclose()
        assert now() == start
        results = await asyncio.gather(*setups, return_exceptions=True)
        assert all(isinstance(result, Exception) for result in results)
        assert names(toolset) == [] and server.open == 0

    async def test_closing_is_bounded_and_closes_the_server_although_it_hangs(self) -> None:
        server = MemoryServer(sticky=True)
        toolset = MCPToolset(id="t", mcp_server=server)
        await toolset.setup()
        start = now()
        await toolset.aclose()
        assert now() - start <= 5.0
        assert server.kills == [False, True]
        server.release.set()
        await asyncio.sleep(0.1)

    async def test_a_failed_setup_can_be_repeated(self) -> None:
        server = MemoryServer(Peer(tools=["echo"]))
        server.refuses = OSError("no route")
        toolset = MCPToolset(id="t", mcp_server=server)
        with pytest.raises(OSError, match="no route"):
            await toolset.setup()
        server.refuses = None
        await toolset.setup()
        assert names(toolset) == ["echo"]
        await toolset.aclose()


@pytest.mark.parametrize(
    ("url", "transport"),
    [
        ("http://host/mcp", "streamable_http"),
        ("http://host/a/MCP/", "streamable_http"),
        ("http://host/mcp?x=1", "streamable_http"),
        ("http://host/sse", "sse"),
        ("http://host/notmcp", "sse"),
        ("http://mcp", "sse"),
    ],
)
def test_the_transport_follows_from_the_url(url: str, transport: str) -> None:
    assert MCPServerHTTP(url)._transport == transport
    assert MCPServerHTTP(url, transport_type="sse")._transport == "sse"


def test_an_unknown_transport_is_refused() -> None:
    with pytest.raises(ValueError, match="pigeon"):
        MCPServerHTTP("http://host/mcp", transport_type="pigeon")  # type: ignore[arg-type]


def test_servers_say_who_they_are() -> None:
    assert repr(MCPServerHTTP("http://host/mcp")) == "MCPServerHTTP(url='http://host/mcp')"
    assert "npx" in repr(MCPServerStdio("npx", ["a"]))
    assert utils.is_given(MCPServerStdio("npx", ["a"]).env)
