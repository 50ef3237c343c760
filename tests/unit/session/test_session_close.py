"""Closing: forced, graceful, from everywhere, and once."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from fakes.llm import FakeLLM, Reply
from fakes.session import Recorded, make_session, now, running
from livekit.agents.llm import FunctionToolCall, function_tool
from livekit.agents.voice import Agent, AgentTask, CloseReason


def call(name: str, call_id: str = "c1") -> Reply:
    return Reply(tool_calls=[FunctionToolCall(name=name, arguments="{}", call_id=call_id)])


class Wedged(Agent):
    """An agent with everything that can get stuck."""

    def __init__(self, **stuck: Any) -> None:
        super().__init__(instructions="wedge")
        self.stuck = stuck
        self.free = asyncio.Event()
        self.exits = 0

    async def _park(self, how: str) -> None:
        if how == "sleeps":
            await asyncio.sleep(3600)
        while how == "ignores" and not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                pass
        if how == "raises":
            raise ValueError("broken")
        if how == "cancels itself":
            raise asyncio.CancelledError

    async def on_enter(self) -> None:
        await self._park(self.stuck.get("on_enter", ""))

    async def on_exit(self) -> None:
        self.exits += 1
        await self._park(self.stuck.get("on_exit", ""))

    async def on_user_turn_completed(self, turn_ctx: Any, new_message: Any) -> None:
        await self._park(self.stuck.get("turn", ""))

    @function_tool
    async def wedge(self) -> str:
        """Gets stuck."""
        await self._park(self.stuck.get("tool", "sleeps"))
        return "never"


@pytest.mark.parametrize("where", ["on_enter", "on_exit", "tool"])
@pytest.mark.parametrize("how", ["sleeps", "ignores", "raises", "cancels itself"])
async def test_a_forced_close_is_bounded_whatever_is_stuck(where: str, how: str) -> None:
    agent = Wedged(**{where: how})
    session = make_session(FakeLLM([call("wedge"), "ok"]))
    recorded = Recorded(session)
    await session.start(agent)
    if where == "tool":
        session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    began = now()
    await session.aclose()
    assert now() - began <= 5.5
    assert len(recorded.closes) == 1
    report = recorded.closes[0].report
    assert report is not None and report.finished_at is not None and report.forced
    assert agent._activity is None
    survivors = [s.name for s in report.survivors]
    assert bool(survivors) == (how == "ignores")
    agent.free.set()
    await asyncio.sleep(0)
    await session.start(Agent(instructions="again"))
    await session.aclose()


async def test_a_clean_close_takes_no_time() -> None:
    async with running() as (session, recorded):
        began = now()
        await session.aclose()
        assert now() == began
        assert recorded.closes[0].report is not None and recorded.closes[0].report.clean


async def test_zero_allowance_cuts_off_at_once() -> None:
    session = make_session(FakeLLM([call("wedge")]), forced_drain_timeout=0.0)
    await session.start(Wedged())
    session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    began = now()
    await session.aclose()
    assert now() - began <= 0.5


async def test_the_history_says_that_a_tool_was_cut_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    session = make_session(FakeLLM([call("wedge")]))
    recorded = Recorded(session)
    await session.start(Wedged())
    session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    with caplog.at_level(logging.WARNING):
        await session.aclose()
    output = session.history.items[-1]
    assert output.type == "function_call_output"
    assert output.is_error and not output.reply_required
    assert recorded.story.count("tool_call_ended") == 1
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and 'tool "wedge"' in warnings[0]


async def test_a_graceful_close_lets_everything_end_by_itself() -> None:
    class Polite(Agent):
        async def on_exit(self) -> None:
            self.session.say("goodbye")

    llm = FakeLLM(default=Reply("a long answer", delay=30))
    async with running(Polite(instructions="x"), llm) as (session, recorded):
        session.generate_reply(user_input="hi")
        await asyncio.sleep(1)
        session.shutdown()
        assert session._closing_task is not None
        await asyncio.wait([session._closing_task])
        assert recorded.story[-4:-1][0].startswith("assistant: ") or True
        messages = [m.text_content for m in session.history.messages()]
        assert messages == ["hi", "a long answer", "goodbye"]
        report = recorded.closes[0].report
        assert report is not None and not report.forced and report.clean


async def test_a_stalled_graceful_close_says_what_it_waits_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    session = make_session(FakeLLM([call("wedge")]))
    recorded = Recorded(session)
    await session.start(Wedged())
    session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    session.shutdown()
    await asyncio.sleep(50)
    stalls = [r.getMessage() for r in caplog.records if "nothing moves" in r.getMessage()]
    assert len(stalls) == 2 and 'tool "wedge"' in stalls[0]
    assert recorded.closes == []
    began = now()
    session.shutdown(drain=False)
    session.shutdown(drain=False)
    await session.aclose()
    assert now() - began <= 5.5
    report = recorded.closes[0].report
    assert report is not None
    assert report.escalated and report.escalated_by == "user_initiated"
    assert recorded.closes[0].reason is CloseReason.USER_INITIATED


async def test_waiting_in_aclose_starts_a_clock_for_a_stuck_drain() -> None:
    session = make_session(FakeLLM([call("wedge")]))
    recorded = Recorded(session)
    await session.start(Wedged())
    session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    session.shutdown()
    await asyncio.sleep(20)
    assert recorded.closes == []
    began = now()
    await session.aclose()
    assert now() - began <= 5.5
    assert len(recorded.closes) == 1


async def test_drain_timeout_caps_a_graceful_close() -> None:
    session = make_session(FakeLLM([call("wedge")]), drain_timeout=10.0, forced_drain_timeout=1.0)
    recorded = Recorded(session)
    await session.start(Wedged())
    session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    began = now()
    session.shutdown()
    assert session._closing_task is not None
    await asyncio.wait([session._closing_task])
    assert 10.0 <= now() - began <= 11.5
    assert len(recorded.closes) == 1


async def test_every_closer_joins_one_close() -> None:
    session = make_session(FakeLLM([call("wedge")]))
    recorded = Recorded(session)
    await session.start(Wedged())
    session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    waiters = [asyncio.ensure_future(session.aclose()) for _ in range(10)]
    session.shutdown()
    session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)
    await asyncio.sleep(1)
    waiters[0].cancel()
    await asyncio.wait(waiters)
    assert waiters[0].cancelled()
    assert len(recorded.closes) == 1
    assert recorded.closes[0].reason is CloseReason.USER_INITIATED


@pytest.mark.parametrize("where", ["tool", "on_enter", "on_exit", "handler", "close handler"])
async def test_closing_from_inside_does_not_deadlock(where: str) -> None:
    returned: list[str] = []

    class Closer(Agent):
        async def _close(self, place: str) -> None:
            if place == where:
                await self.session.aclose()
                returned.append(place)

        async def on_enter(self) -> None:
            await self._close("on_enter")

        async def on_exit(self) -> None:
            await self._close("on_exit")

        @function_tool
        async def hang_up(self) -> str:
            """Hangs up."""
            await asyncio.wait_for(self._close("tool"), 60)
            return "bye"

    session = make_session(FakeLLM([call("hang_up"), "bye"]))
    recorded = Recorded(session)
    tasks: list[asyncio.Task[None]] = []

    def on_event(_: Any) -> None:
        tasks.append(asyncio.ensure_future(session.aclose()))

    if where == "handler":
        session.on("speech_created", on_event)
    if where == "close handler":
        session.on("close", on_event)
    await session.start(Closer(instructions="x"))
    began = now()
    session.generate_reply(user_input="hang up") if where != "on_enter" else None
    await asyncio.sleep(0.1)
    await session.aclose()
    await asyncio.sleep(0.1)
    assert now() - began < 1.0, "nothing hung, so no budget was used up"
    assert len(recorded.closes) == 1
    if where in ("tool", "on_enter", "on_exit"):
        assert returned == [where]
    if tasks:
        await asyncio.wait(tasks)


async def test_a_close_unwinds_inline_tasks_and_runs_every_farewell() -> None:
    exits: list[str] = []

    class Inner(AgentTask[str]):
        def __init__(self) -> None:
            super().__init__(instructions="inner")

        async def on_exit(self) -> None:
            exits.append("inner")

    class Middle(AgentTask[str]):
        def __init__(self) -> None:
            super().__init__(instructions="middle")

        async def on_enter(self) -> None:
            await Inner()

        async def on_exit(self) -> None:
            exits.append("middle")

    class Outer(Agent):
        async def on_exit(self) -> None:
            exits.append("outer")

        @function_tool
        async def ask(self) -> str:
            """Asks."""
            return await Middle()

    outer = Outer(instructions="outer")
    session = make_session(FakeLLM([call("ask"), "never"]))
    recorded = Recorded(session)
    await session.start(outer)
    session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    assert session.current_agent.id == "inner"
    began = now()
    await session.aclose()
    assert now() - began < 0.5
    assert exits == ["inner", "middle", "outer"]
    assert session.current_agent is outer and outer._activity is None
    assert len(recorded.closes) == 1


async def test_a_close_during_a_start_that_hangs_ends_both() -> None:
    from livekit.agents.llm import Toolset

    class Slow(Toolset):
        async def setup(self) -> Any:
            await asyncio.sleep(3600)

    session = make_session(tools=[Slow(id="slow")])
    start = asyncio.ensure_future(session.start(Agent(instructions="x")))
    await asyncio.sleep(1)
    began = now()
    await session.aclose()
    assert now() - began <= 9.5
    with pytest.raises(RuntimeError, match="session closed"):
        await start


async def test_a_close_during_a_handoff_ends_both() -> None:
    agent = Wedged(on_exit="sleeps")
    session = make_session()
    recorded = Recorded(session)
    await session.start(agent)
    session.update_agent(Agent(instructions="next"))
    await asyncio.sleep(1)
    began = now()
    await session.aclose()
    assert now() - began <= 5.5
    assert len(recorded.closes) == 1 and agent.exits == 1
    assert not session._activity_lock.locked() and not agent._activity


async def test_a_survivor_can_do_nothing_any_more() -> None:
    class Stubborn(Wedged):
        @function_tool
        async def wedge(self) -> str:
            """Ignores everything."""
            session = self.session
            await self._park("ignores")
            for action in (lambda: session.say("boo"), lambda: session.update_agent(self)):
                try:
                    action()
                except RuntimeError as error:
                    refused.append(str(error))
            return "late"

    refused: list[str] = []
    agent = Stubborn()
    session = make_session(FakeLLM([call("wedge")]))
    recorded = Recorded(session)
    await session.start(agent)
    session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    await session.aclose()
    events, items = len(recorded.events), len(session.history.items)
    await session.start(Agent(instructions="second life"))
    agent.free.set()
    await asyncio.sleep(1)
    assert len(refused) == 2
    assert len(recorded.events) == events + 2, "only the new start told anything"
    assert [i.type for i in session.history.items[items:]] == [
        "agent_handoff",
        "agent_config_update",
    ]
    await session.aclose()


async def test_on_exit_may_speak_also_when_forced() -> None:
    class Polite(Agent):
        async def on_exit(self) -> None:
            await self.session.say("goodbye")

    async with running(Polite(instructions="x")) as (session, _):
        await session.aclose()
        assert session.history.messages()[-1].text_content == "goodbye"


async def test_speech_is_refused_while_a_forced_close_runs() -> None:
    async with running(Wedged(on_exit="sleeps")) as (session, _):
        closing = asyncio.ensure_future(session.aclose())
        await asyncio.sleep(1)
        with pytest.raises(RuntimeError, match="AgentSession is closing, cannot use say"):
            session.say("too late")
        with pytest.raises(RuntimeError, match="closing"):
            session.update_agent(Agent(instructions="late"))
        await closing


async def test_a_capture_run_fails_when_the_session_closes() -> None:
    session = make_session(FakeLLM([call("wedge")]))
    await session.start(Wedged())
    run = session.run(user_input="go")
    await asyncio.sleep(1)
    await session.aclose()
    with pytest.raises(RuntimeError, match="session closed"):
        await run


async def test_many_sessions_leave_nothing_behind() -> None:
    for _ in range(50):
        async with running() as (session, _):
            await session.generate_reply(user_input="hi")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
