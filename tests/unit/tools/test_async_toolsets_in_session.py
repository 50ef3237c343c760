"""Toolsets that have an executor of their own, in a session: handoffs, closing, what the model sees."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fakes.llm import FakeLLM
from fakes.session import Recorded, make_session, now, running
from fakes.tools import calls, messages, outputs, results, tool_story
from livekit.agents.llm import ToolFlag, Toolset, function_tool
from livekit.agents.llm.async_toolset import AsyncToolset
from livekit.agents.voice import Agent, RunContext


class Errands(AsyncToolset):
    """Tools that take their time."""

    def __init__(self, id: str = "errands", **options: Any) -> None:
        super().__init__(id=id, **options)
        self.ended: list[str] = []
        self.setups = 0
        self.closes = 0

    async def setup(self) -> Any:
        self.setups += 1
        return await super().setup()

    async def aclose(self) -> None:
        self.closes += 1
        await super().aclose()

    @function_tool
    async def shop(self, ctx: RunContext, seconds: float = 10) -> str:
        """Shops."""
        await ctx.update("on my way")
        return await self._take(seconds, "shop")

    @function_tool(flags=ToolFlag.CANCELLABLE)
    async def stroll(self, ctx: RunContext) -> str:
        """Strolls for ever."""
        await ctx.update("strolling")
        return await self._take(1e6, "stroll")

    @function_tool
    async def queue(self) -> str:
        """Takes 10 s and reports nothing."""
        return await self._take(10, "queue")

    async def _take(self, seconds: float, name: str) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.ended.append(f"{name} cancelled")
            raise
        self.ended.append(f"{name} done")
        return f"{name} is over"


class Next(Agent):
    def __init__(self) -> None:
        super().__init__(instructions="next")


async def close(session: Any, *, drain: bool) -> None:
    session.shutdown(drain=drain)
    await asyncio.wait((session._closing_task,))


async def test_tools_of_the_session_go_on_through_a_handoff_and_the_next_agent_tells() -> None:
    errands = Errands()
    llm = FakeLLM([calls("shop"), "on my way", "it is bought"])
    async with running(llm=llm, tools=[errands]) as (session, recorded):
        await session.generate_reply(user_input="shop")
        session.update_agent(Next())
        await asyncio.sleep(1)
        assert isinstance(session.current_agent, Next) and errands.closes == 0
        await asyncio.sleep(20)
        assert errands.ended == ["shop done"]
        assert messages(session)[-1] == "assistant: it is bought"
        assert "reply to c1_final completed" in tool_story(recorded)
        last = llm.requests[-1].chat_ctx
        assert any(getattr(i, "call_id", "") == "c1_final" for i in last.items)
    assert errands.closes == 1


async def test_a_result_that_waits_while_the_agent_changes_is_told_by_the_next_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errands = Errands()
    llm = FakeLLM([calls("shop"), "on my way", "it is bought"])
    async with running(llm=llm, tools=[errands]) as (session, _):
        await session.generate_reply(user_input="shop")
        async with session._claim_user_turn():
            await asyncio.sleep(11)
            session.update_agent(Next())
            await asyncio.sleep(1)
        await asyncio.sleep(1)
        assert messages(session)[-1] == "assistant: it is bought"
        known = session.current_agent.chat_ctx.items
        assert sum(getattr(i, "call_id", "") == "c1_final" for i in known) == 2
        assert sum(o.call_id == "c1_final" for o in outputs(session)) == 1
        assert "agent has changed" in caplog.text


async def test_tools_of_an_agent_end_before_it_hands_over() -> None:
    errands = Errands()
    agent = Agent(instructions="x", tools=[errands])
    llm = FakeLLM([calls("shop#c1", "stroll#c2"), "on my way"], default="well")
    async with running(agent, llm) as (session, recorded):
        await session.generate_reply(user_input="shop")
        session.update_agent(Next())
        await asyncio.sleep(9.9)
        assert errands.ended == ["stroll cancelled"] and agent.session is session
        await asyncio.sleep(0.2)
        assert errands.ended == ["stroll cancelled", "shop done"] and errands.closes == 1
        assert "c2_final cancelled" in tool_story(recorded)
        await asyncio.sleep(20)
        assert not any(line.startswith("reply") for line in tool_story(recorded))


@pytest.mark.parametrize("scope", ["session", "agent"])
@pytest.mark.parametrize("drain", [False, True], ids=["forced", "graceful"])
async def test_a_close_ends_the_tools_wherever_they_run(scope: str, drain: bool) -> None:
    errands = Errands()
    tools = [Toolset(id="outer", tools=[errands])]
    llm = FakeLLM([calls('shop#c1 {"seconds": 8}', "stroll#c2"), "on my way"], default="well")
    session = make_session(llm, tools=tools if scope == "session" else [])
    recorded = Recorded(session)
    await session.start(Agent(instructions="x", tools=tools if scope == "agent" else []))
    await session.generate_reply(user_input="shop")
    began = now()
    await close(session, drain=drain)
    assert len(recorded.closes) == 1 and errands.closes == 1
    story = [line for line in tool_story(recorded) if "_final" in line]
    if drain:
        assert now() - began == pytest.approx(8)
        assert story == ["c2_final cancelled", "c1_final done: shop is over"]
    else:
        assert now() - began <= 5.5
        assert story == ["c2_final cancelled", "c1_final cancelled"]
        assert outputs(session)[-1].is_error and not outputs(session)[-1].reply_required
        report = recorded.closes[0].report
        assert report is not None and any("shop" in (step.detail or "") for step in report.steps)


async def test_a_session_that_starts_again_has_its_toolsets_again() -> None:
    errands = Errands()
    llm = FakeLLM([calls("queue#c1"), "first", calls("queue#c2"), "second"])
    session = make_session(llm, tools=[errands])
    for number in (1, 2):
        await session.start(Agent(instructions="x"))
        await session.generate_reply(user_input="go")
        assert results(session)[-1] == f"c{number}: queue is over"
        await session.aclose()
    assert errands.setups == errands.closes == 2


async def test_running_tools_of_a_set_are_shown_listed_and_cancelled_like_all_others() -> None:
    errands = Errands()
    llm = FakeLLM(
        [
            calls("queue#q", "stroll#s"),
            calls("lk_agents_get_running_tasks#list"),
            calls('lk_agents_cancel_task#x {"call_id": "s"}'),
        ],
        default="ok",
    )
    async with running(llm=llm, tools=[errands]) as (session, _):
        session.generate_reply(user_input="go")
        await asyncio.sleep(1)
        await session.generate_reply(user_input="what runs?")
        assert errands.ended == ["stroll cancelled"]
        seen = {getattr(i, "call_id", None) for i in llm.requests[1].chat_ctx.items}
        assert {"q", "s"} <= seen
        assert any(line.startswith('list: [{"call_id": "s"') for line in results(session))


async def test_a_reply_with_some_tools_of_a_set_still_runs_them_in_the_set() -> None:
    errands = Errands()
    llm = FakeLLM([calls("shop"), "on my way"], default="bought")
    async with running(llm=llm, tools=[errands]) as (session, _):
        await session.generate_reply(user_input="shop", tools=["shop"])
        assert [tool.id for tool in llm.requests[0].tools] == ["shop"]
        assert errands._executor is not None and list(errands._executor.running) == ["c1"]


async def test_the_most_specific_texts_count() -> None:
    def texts(value: str) -> Any:
        return {"async_options": {"update_template": value}}

    for own, agents, expected in [
        (texts("set"), texts("agent"), "set"),
        (None, texts("agent"), "agent"),
        (None, None, "session"),
    ]:
        options = {} if own is None else {"tool_handling": own}
        agent_options = {} if agents is None else {"tool_handling": agents}
        agent = Agent(instructions="x", tools=[Errands(**options)], **agent_options)
        llm = FakeLLM([calls("shop")], default="ok")
        async with running(agent, llm, tool_handling=texts("session")) as (session, _):
            await session.generate_reply(user_input="go")
            assert results(session) == [f"c1: {expected}"]


async def test_toolsets_can_be_added_and_removed_while_the_agent_runs() -> None:
    first, second = Errands("first"), Errands("second")
    agent = Agent(instructions="x", tools=[first])
    llm = FakeLLM([calls("shop#c1"), "on my way", calls("queue#c2"), "done"], default="well")
    async with running(agent, llm) as (session, _):
        await session.generate_reply(user_input="go")
        await agent.update_tools([second])
        assert second.setups == 1 and first.closes == 0, "its tools may finish"
        await session.generate_reply(user_input="go")
        assert second.ended == ["queue done"] and first.ended == ["shop done"]
    assert first.closes == second.closes == 1


async def test_closing_while_a_removed_set_has_a_tool_that_runs() -> None:
    errands = Errands()
    agent = Agent(instructions="x", tools=[errands])
    session = make_session(FakeLLM([calls("shop#c1"), "on my way"], default="well"))
    recorded = Recorded(session)
    await session.start(agent)
    await session.generate_reply(user_input="go")
    await agent.update_tools([])
    await session.aclose()
    assert errands.ended == ["shop cancelled"] and errands.closes == 1
    assert tool_story(recorded).count("c1_final cancelled") == 1


async def test_a_set_that_does_not_come_up_is_done_without(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Errands):
        async def setup(self) -> Any:
            raise ConnectionError("nobody there")

    class Stuck(Errands):
        async def setup(self) -> Any:
            await asyncio.sleep(1e6)

    llm = FakeLLM(default="hi")
    agent = Agent(instructions="x", tools=[Toolset(id="outer", tools=[Stuck("stuck")])])
    async with running(agent, llm, tools=[Broken("broken")]) as (session, recorded):
        await session.generate_reply(user_input="hello")
        assert messages(session)[-1] == "assistant: hi" and llm.requests[0].tools == []
        assert "setting up toolset broken failed" in caplog.text
        errors = [event for event in recorded.events if event.type == "error"]
        assert [event.source.id for event in errors] == ["broken", "outer"]
        assert [type(e.error) for e in errors] == [ConnectionError, asyncio.TimeoutError]
        assert len(recorded.closes) == 0


@pytest.mark.parametrize("drain", [False, True], ids=["forced", "graceful"])
async def test_a_tool_of_the_session_may_close_it(drain: bool) -> None:
    class HangsUp(AsyncToolset):
        @function_tool
        async def hang_up(self, ctx: RunContext) -> str:
            """Hangs up."""
            await ctx.update("good bye", silent=True)
            if drain:
                ctx.session.shutdown()
            await ctx.session.aclose()
            return "too late"

    session = make_session(FakeLLM([calls("hang_up")]), tools=[HangsUp(id="phone")])
    recorded = Recorded(session)
    await session.start(Agent(instructions="x"))
    began = now()
    session.generate_reply(user_input="bye")
    await asyncio.sleep(1)
    assert len(recorded.closes) == 1 and now() - began == 1
    assert recorded.closes[0].report is not None and not recorded.closes[0].report.survivors
    assert tool_story(recorded).count("c1_final cancelled") == 1
