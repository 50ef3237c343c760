"""A closed session starts again, as often as one likes, and nothing of a former run is left in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from closing.bench import Bench, said, tool_calls
from closing.closers import CLOSERS
from closing.parking import AWAITS, IGNORES
from closing.scene import Scene

from fakes.session import now
from livekit.agents.llm import function_tool
from livekit.agents.voice import Agent, AgentSession, CloseReason
from livekit.agents.voice.agent_activity import ActivityClosedError
from livekit.agents.voice.session_start import _job_shutdown


async def closed(session: AgentSession[Any]) -> None:
    assert session._closing_task is not None
    await asyncio.wait([session._closing_task])


@pytest.mark.parametrize("closer", [name for name in CLOSERS if name != "a tool"])
async def test_three_lives_with_the_same_agent(closer: str) -> None:
    scene = Scene("", AWAITS)
    for life in range(1, 4):
        scene.closes_from = ""
        await scene.start()
        assert scene.session.agent_state == "listening"
        text = f"life number {life}"
        await asyncio.wait_for(scene.session.say(text).wait_for_playout(), 10)
        await CLOSERS[closer](scene)
        await closed(scene.session)
        assert len(scene.checker.closes) == life
        assert said(scene.session)[-1] == text
        assert scene.session.agent_state == "initializing"
        assert scene.session.user_state == "listening"
        assert scene.agent._activity is None
    assert list(said(scene.session)) == [f"life number {n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("place", ["tool", "on_enter", "on_exit", "TTS stream", "STT stream"])
async def test_the_same_agent_may_serve_again_while_its_survivor_lives(place: str) -> None:
    scene = Scene(place, IGNORES)
    try:
        await scene.start()
        if place == "tool":
            scene.reply_with_tool("look_up")
        if place == "TTS stream":
            scene.say("hello")
        await scene.reached(1)
        await scene.session.aclose()
        scene.parking.over = True
        await scene.start()
        assert scene.agent._activity is scene.session._activity
        scene.say("the same agent speaks")
        await asyncio.sleep(3)
        scene.parking.let_go()
        await asyncio.sleep(1)
        assert not scene.parking.misdeeds
        assert scene.agent._activity is scene.session._activity
        assert said(scene.session)[-1] == "the same agent speaks"
        began = now()
        await scene.session.aclose()
        assert now() - began < 0.1 and len(scene.checker.closes) == 2
        report = scene.checker.report
        assert report is not None and report.clean
    finally:
        scene.end()


# -- what is kept, and what begins anew -----------------------------------------------------------------


async def test_history_userdata_tools_and_handlers_are_kept_usage_and_events_are_not() -> None:
    bench = Bench("one", "two", userdata={"name": "Ada"})
    items: list[Any] = []
    bench.session.on("conversation_item_added", items.append)
    await bench.session.start(Agent(instructions="x"))
    await asyncio.wait_for(bench.session.generate_reply(user_input="a").wait_for_playout(), 9)
    tools = list(bench.session.tools)
    await bench.session.aclose()
    first = len(items)
    await bench.restart()
    assert bench.session._recorded_events and len(bench.session._recorded_events) < 5
    assert bench.session.usage.model_usage == []
    await asyncio.wait_for(bench.session.generate_reply(user_input="b").wait_for_playout(), 9)
    assert len(items) > first and bench.session.userdata == {"name": "Ada"}
    assert bench.session.tools == tools
    assert said(bench.session)[0] == "a" and said(bench.session)[2] == "b"
    await bench.session.aclose()


async def test_everything_works_in_the_second_life() -> None:
    """In it errors close, disconnects close, idleness is found, and the user may go away."""
    scene = Scene("", AWAITS, user_away_timeout=5.0)
    await scene.start()
    scene.session.shutdown()
    await closed(scene.session)
    await scene.start()
    assert await scene.session.wait_for_idle() is scene.session._activity
    await asyncio.sleep(6)
    assert scene.session.user_state == "away"
    scene.session.reset_away_timer()
    assert scene.session.user_state == "listening"
    await CLOSERS["unrecoverable error"](scene)
    await closed(scene.session)
    assert scene.checker.closes[-1].reason is CloseReason.ERROR
    await scene.start()
    await CLOSERS["participant leaves"](scene)
    await closed(scene.session)
    assert scene.checker.closes[-1].reason is CloseReason.PARTICIPANT_DISCONNECTED
    assert len(scene.checker.closes) == 3


async def test_errors_are_counted_from_zero() -> None:
    scene = Scene("", AWAITS)
    await scene.start()
    error = _model_error()
    for _ in range(3):  # one more would close
        scene.session._on_error(error, scene.llm)
    await scene.session.aclose()
    await scene.start()
    for _ in range(3):
        scene.session._on_error(error, scene.llm)
    assert not scene.session._is_closing
    await scene.session.aclose()


def _model_error() -> Any:
    from livekit.agents.llm import LLMError

    return LLMError(timestamp=0.0, label="llm", error=OSError("gone"), recoverable=False)


async def test_claims_and_holds_of_a_former_life_hold_nothing() -> None:
    scene = Scene("", AWAITS)
    release = asyncio.Event()

    async def claim() -> None:
        async with scene.session._claim_user_turn():
            await release.wait()

    await scene.start()
    scene.help(claim())
    await asyncio.sleep(0)
    assert scene.session.user_state == "speaking"
    await scene.session.aclose()
    await scene.start()
    assert scene.session.user_state == "listening"
    assert await scene.session.wait_for_idle() is scene.session._activity
    async with scene.session._claim_user_turn():
        release.set()
        await asyncio.sleep(0.1)
        assert scene.session.user_state == "speaking", "a former claim released the present one"
    await scene.session.aclose()
    scene.end()


async def test_the_echo_warm_up_is_there_again() -> None:
    scene = Scene("", AWAITS, aec_warmup_duration=3.0)
    for _ in range(2):
        await scene.start()
        scene.say("hello there, this is your agent")
        await asyncio.sleep(0.5)
        assert scene.session._aec_warmup_active
        await scene.session.aclose()
        assert not scene.session._aec_warmup_active


async def test_models_are_not_closed_and_serve_again() -> None:
    bench = Bench()
    for _ in range(2):
        await bench.session.start(Agent(instructions="x"))
        await asyncio.wait_for(bench.session.generate_reply(user_input="a").wait_for_playout(), 9)
        await bench.session.aclose()
        assert not bench.llm.closed and not bench.tts.closed and not bench.stt.closed
        assert not bench.stt.open_streams and not bench.vad.open_streams


async def test_another_session_may_take_the_agent_and_the_models() -> None:
    bench = Bench()
    agent = Agent(instructions="x")
    await bench.session.start(agent)
    await bench.session.aclose()
    other: AgentSession[Any] = AgentSession(llm=bench.llm, tts=bench.tts, vad=None)
    await other.start(agent)
    await asyncio.wait_for(other.generate_reply(user_input="hi").wait_for_playout(), 9)
    assert other._started and agent._activity is other._activity
    await other.aclose()


# -- at the wrong moment --------------------------------------------------------------------------------

CALLS: dict[str, Callable[[AgentSession[Any]], Any]] = {
    "say": lambda session: session.say("late"),
    "generate_reply": lambda session: session.generate_reply(user_input="late"),
    "run": lambda session: session.run(user_input="late"),
    "interrupt": lambda session: session.interrupt(),
    "commit_user_turn": lambda session: session.commit_user_turn(),
    "clear_user_turn": lambda session: session.clear_user_turn(),
    "drain": lambda session: session.drain(),
    "update_agent": lambda session: session.update_agent(Agent(instructions="late")),
    "wait_for_idle": lambda session: session.wait_for_idle(),
}


async def _call(name: str, session: AgentSession[Any]) -> None:
    result = CALLS[name](session)
    if asyncio.iscoroutine(result):
        await result


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_after_the_close_says_that_the_session_does_not_run(name: str) -> None:
    bench = Bench()
    await bench.session.start(Agent(instructions="x"))
    await bench.session.aclose()
    items = len(bench.session.history.items)
    with pytest.raises(RuntimeError, match=r"running|closing|no active"):
        await _call(name, bench.session)
    assert len(bench.session.history.items) == items
    await bench.restart()
    await bench.session.aclose()


@pytest.mark.parametrize("name", ["say", "generate_reply", "run", "update_agent", "wait_for_idle"])
async def test_a_call_during_a_forced_close_says_that_it_closes(name: str) -> None:
    scene = Scene("tool", AWAITS)
    await scene.start()
    scene.reply_with_tool("look_up")
    await scene.reached(1)
    scene.checker.requested()
    scene.session.shutdown(drain=False)
    await asyncio.sleep(1)
    with pytest.raises((RuntimeError, ActivityClosedError), match="closing"):
        await _call(name, scene.session)
    await scene.checker.check(within=5.5, let_go=scene.parking.let_go, restart=scene.restart)


async def test_closing_what_does_not_run_arms_nothing() -> None:
    bench = Bench()
    bench.session.shutdown()
    bench.session.shutdown(drain=False)
    bench.session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)
    await bench.session.aclose()
    await _job_shutdown(bench.session)()
    assert bench.session._closing_task is None
    await bench.session.start(Agent(instructions="x"))
    assert bench.session._started and not bench.session._is_closing
    await bench.session.aclose()
    bench.session.shutdown()
    await bench.session.aclose()
    await bench.restart()
    assert bench.session._started and len(bench.checker.closes) == 1
    await bench.session.aclose()


async def test_a_start_from_a_close_handler_waits_for_the_close() -> None:
    scene = Scene("sink's on_detached", IGNORES)
    order: list[str] = []

    async def again() -> None:
        scene.parking.over = True
        await scene.session.start(Agent(instructions="next"))
        order.append("started")

    def on_close(_: Any) -> None:
        order.append("close")
        if order.count("close") == 1:
            scene.help(again())

    scene.session.on("close", on_close)
    await scene.start()
    await scene.session.aclose()
    order.append("closed")
    await asyncio.sleep(0.1)
    assert order == ["close", "closed", "started"]
    assert scene.session._started and scene.session.current_agent.instructions == "next"
    scene.end()
    await scene.session.aclose()


async def test_starts_and_closes_that_race_leave_one_life_or_none() -> None:
    for turns in range(0, 40, 3):
        bench = Bench()
        start = asyncio.ensure_future(bench.session.start(Agent(instructions="x")))
        for _ in range(turns):
            await asyncio.sleep(0)
        closing = asyncio.ensure_future(bench.session.aclose())
        await asyncio.wait([start, closing])
        if bench.session._started:
            await bench.session.aclose()
        assert not bench.session._started and not bench.stt.open_streams
        assert len(bench.checker.closes) <= 1
        await bench.restart()
        await bench.session.aclose()


async def test_a_tool_may_hang_up_and_the_program_calls_again() -> None:
    class HangsUp(Agent):
        @function_tool
        async def hang_up(self) -> str:
            """Hangs up."""
            await self.session.aclose()
            return "hung up"

    bench = Bench(tool_calls("hang_up"), tool_calls("hang_up"))
    for life in range(1, 3):
        await bench.session.start(HangsUp(instructions="x"))
        bench.session.generate_reply(user_input="goodbye")
        await asyncio.sleep(1)
        assert not bench.session._started and len(bench.checker.closes) == life
    outputs = [i for i in bench.session.history.items if i.type == "function_call_output"]
    assert len(outputs) == 2
