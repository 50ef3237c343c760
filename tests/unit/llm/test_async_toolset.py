"""Toolsets with an executor of their own: where their tools run, and how they end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fakes.session import now, running
from livekit.agents.llm import (
    FunctionCall,
    ToolContext,
    ToolFlag,
    Toolset,
    async_toolset,
    function_tool,
)
from livekit.agents.llm.async_toolset import AsyncToolset, attach, executor_of
from livekit.agents.voice import AgentSession, RunContext
from livekit.agents.voice.tool_executor import RunningTool


class Errands(AsyncToolset):
    """Tools that take their time, and note how they ended."""

    def __init__(self, id: str = "errands", **kwargs: Any) -> None:
        super().__init__(id=id, **kwargs)
        self.ended: list[str] = []
        self.closing_ends = asyncio.Event()

    @function_tool
    async def shop(self) -> str:
        """Takes 3 s."""
        return await self._take(3, "shop")

    @function_tool
    async def wait_forever(self) -> str:
        """Never ends by itself."""
        return await self._take(1e6, "wait_forever")

    @function_tool(flags=ToolFlag.CANCELLABLE)
    async def stroll(self) -> str:
        """May be cancelled at any time."""
        return await self._take(1e6, "stroll")

    @function_tool
    async def close_shop(self) -> str:
        """Closes the set it belongs to."""
        await self.aclose()
        self.closing_ends.set()
        return "closed"

    async def _take(self, seconds: float, name: str) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.ended.append(f"{name} cancelled")
            raise
        self.ended.append(f"{name} done")
        return name


def start(toolset: AsyncToolset, session: AgentSession[Any], name: str) -> RunningTool:
    """Call a tool of the set."""
    assert toolset._executor is not None and session._activity is not None
    return toolset._executor.start(
        FunctionCall(call_id=f"call_{name}", name=name, arguments="{}"),
        tool_ctx=ToolContext([toolset]),
        speech_handle=session.say("one moment"),
        session=session,
        activity=session._activity,
    )


async def test_closing_cancels_what_may_be_and_waits_for_the_rest() -> None:
    toolset = Errands()
    async with running() as (session, _):
        toolset._attach(session)
        start(toolset, session, "stroll")
        start(toolset, session, "shop")
        await asyncio.sleep(1)
        begin = now()
        await toolset.aclose()
        assert now() - begin == pytest.approx(2)
        assert toolset.ended == ["stroll cancelled", "shop done"]
        await toolset.aclose()


async def test_closing_is_bounded_and_answers_the_calls_it_cuts_off() -> None:
    toolset = Errands()
    async with running() as (session, _):
        toolset._attach(session)
        tool = start(toolset, session, "wait_forever")
        await asyncio.sleep(1)
        begin = now()
        await toolset.aclose()
        assert now() - begin <= 5
        assert toolset.ended == ["wait_forever cancelled"]
        output = (await tool.output_fut).fnc_call_out
        assert output is not None and output.is_error


async def test_a_closer_that_runs_out_of_patience_leaves_nothing_running() -> None:
    toolset = Errands()
    async with running() as (session, _):
        toolset._attach(session)
        start(toolset, session, "wait_forever")
        await asyncio.sleep(1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(toolset.aclose(), 0.5)
        await asyncio.sleep(0)
        assert toolset.ended == ["wait_forever cancelled"]


async def test_a_tool_may_close_its_own_set() -> None:
    toolset = Errands()
    async with running() as (session, _):
        toolset._attach(session)
        start(toolset, session, "close_shop")
        begin = now()
        await toolset.closing_ends.wait()
        assert now() == begin


async def test_attached_again_to_the_same_owner_its_tools_go_on() -> None:
    toolset = Errands()
    async with running() as (session, _):
        toolset._attach(session)
        executor = toolset._executor
        start(toolset, session, "shop")
        await asyncio.sleep(1)
        toolset._attach(session)
        assert toolset._executor is executor
        toolset._attach(session._activity)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        assert toolset._executor is not executor
        assert toolset.ended == ["shop cancelled"]
        await toolset.aclose()
        toolset._attach(session)
        assert toolset._executor is not None
        await toolset.aclose()


async def test_the_texts_of_the_set_go_before_those_of_the_session() -> None:
    def texts(value: str) -> Any:
        return {"async_options": {"update_template": value}}

    inherits, has_own = Errands("a"), Errands("b", tool_handling=texts("own"))
    async with running(tool_handling=texts("session")) as (session, _):
        for toolset in (inherits, has_own):
            toolset._attach(session)
        assert inherits._executor is not None and has_own._executor is not None
        assert inherits._executor.template("update_template") == "session"
        assert has_own._executor.template("update_template") == "own"
        await asyncio.gather(inherits.aclose(), has_own.aclose())


async def test_a_nested_set_is_attached_and_closed_with_its_parent() -> None:
    inner = Errands("inner")
    outer = AsyncToolset(id="outer", tools=[inner])
    async with running() as (session, _):
        outer._attach(session)
        start(inner, session, "wait_forever")
        await asyncio.sleep(1)
        begin = now()
        await outer.aclose()
        assert now() - begin <= 5.0
        assert inner.ended == ["wait_forever cancelled"] and inner._executor is None


async def test_a_tool_runs_in_the_innermost_set_that_has_it() -> None:
    @function_tool
    async def local() -> None: ...

    inner = Errands("inner")
    outer = AsyncToolset(id="outer", tools=[Toolset(id="plain", tools=[inner]), local])
    async with running() as (session, _):
        assert executor_of("shop", [outer]) is None
        attach([Toolset(id="top", tools=[outer])], session)
        assert inner._executor is not outer._executor
        assert executor_of("shop", [outer]) is inner._executor
        assert executor_of("local", [outer]) is outer._executor
        assert executor_of("other", [outer]) is None
        await outer.aclose()


def test_the_old_duplicate_option_is_refused() -> None:
    with pytest.raises(TypeError, match="function_tool"):
        AsyncToolset(id="x", on_duplicate_call="reject")


def test_the_old_context_name_warns(caplog: pytest.LogCaptureFixture) -> None:
    assert async_toolset.AsyncRunContext is RunContext
    assert "deprecated" in caplog.text
    with pytest.raises(AttributeError):
        async_toolset.nothing  # noqa: B018
