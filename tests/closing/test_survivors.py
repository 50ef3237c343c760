"""A survivor is a task that ignores cancellation: reported, left behind, and powerless."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from closing.bench import Bench, outputs, tool_calls
from closing.checker import CloseChecker
from closing.parking import IGNORES, SURVIVOR
from closing.scene import Scene, Second

from fakes.llm import FakeLLM, Reply, call
from fakes.session import make_session
from livekit.agents.llm import ChatMessage, function_tool
from livekit.agents.utils.aio import abandoned
from livekit.agents.voice import Agent, AgentSession, RunContext

DRIVES: dict[str, Callable[[Scene], Any]] = {
    "tool": lambda scene: scene.reply_with_tool("look_up"),
    "tool in the background": lambda scene: scene.reply_with_tool("look_up_later"),
    "on_enter": lambda scene: None,
    "on_exit": lambda scene: None,
    "llm_node": lambda scene: scene.reply("tell me"),
    "LLM stream": lambda scene: scene.reply("tell me"),
    "LLM stream, half-way": lambda scene: scene.reply("tell me"),
    "tts_node": lambda scene: scene.say("hello"),
    "TTS stream": lambda scene: scene.say("hello"),
    "transcription_node": lambda scene: scene.say("hello"),
    "text output": lambda scene: scene.say("hello"),
    "sink's capture_frame": lambda scene: scene.say("hello"),
    "stt_node": lambda scene: None,
    "STT stream": lambda scene: None,
    "VAD stream": lambda scene: None,
    "source": lambda scene: None,
    "agent's toolset aclose": lambda scene: None,
    "part's aclose": lambda scene: setattr(scene.session, "_recorder_io", _part(scene)),
}
NAMES = {
    "tool": 'tool "look_up"',
    "tool in the background": 'tool "look_up_later"',
    "on_enter": "stuck.on_enter",
    "on_exit": "stuck.on_exit",
    "LLM stream": "FakeLLMStream._main_task",
    "LLM stream, half-way": "FakeLLMStream._main_task",
    "TTS stream": "FakeSynthesizeStream._main_task",
    "STT stream": "FakeRecognizeStream._main_task",
    "VAD stream": "FakeVADStream._main_task",
    "source": "forward audio",
    "stt_node": "stt pump",
    "transcription_node": "forward transcript",
    "text output": "forward transcript",
    "sink's capture_frame": "forward audio",
    "agent's toolset aclose": "close: toolset drawer of the agent",
    "part's aclose": "close: recorder",
}


def _part(scene: Scene) -> Any:
    from closing.scene import Part

    return Part(scene.parking)


@asynccontextmanager
async def cut_off(place: str) -> AsyncIterator[Scene]:
    """A scene that was closed by force, with a survivor at `place`."""
    scene = Scene(place, IGNORES)
    try:
        await scene.start()
        DRIVES[place](scene)
        await scene.reached(1)
        scene.checker.requested()
        await scene.session.aclose()
        yield scene
    finally:
        scene.end()
        await scene.session.aclose()


@pytest.mark.parametrize("place", DRIVES)
async def test_a_survivor_is_reported_with_owner_age_and_stack(place: str) -> None:
    async with cut_off(place) as scene:
        report = scene.checker.report
        assert report is not None and not report.clean
        (survivor, *others) = [s for s in report.survivors if NAMES.get(place, "") in s.name]
        assert not others and survivor.owner
        assert "ignore_cancellation" in survivor.stack and "parking.py" in survivor.stack
        assert survivor.age > 0
        assert survivor.name in {known.name for known in abandoned().values()}


@pytest.mark.parametrize("place", DRIVES)
async def test_when_it_ends_nothing_surfaces_but_a_debug_line(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    unheard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, ctx: unheard.append(ctx))
    async with cut_off(place) as scene:
        caplog.clear()
        items = len(scene.session.history.items)
        events = len(scene.session._recorded_events)
        with caplog.at_level(logging.DEBUG, logger="livekit.agents"):
            scene.parking.let_go()
            await asyncio.sleep(1)
        loud = [r.getMessage() for r in caplog.records if r.levelno > logging.INFO]
        assert not loud and not unheard
        assert any("ended after all" in r.getMessage() for r in caplog.records)
        assert len(scene.session.history.items) == items
        assert len(scene.session._recorded_events) == events
        assert not abandoned()


@pytest.mark.parametrize("place", [p for p in DRIVES if p != "source"])
async def test_nothing_of_it_reaches_the_next_run(place: str) -> None:
    async with cut_off(place) as scene:
        await scene.restart()
        scene.say("the second life speaks")
        await asyncio.sleep(0.3)
        scene.parking.let_go()
        await asyncio.sleep(5)
        texts = [str(item) for item in scene.session.history.items]
        assert not any(SURVIVOR in text for text in texts)
        assert scene.speaker.audible[-1] == "the second life speaks"
        assert SURVIVOR not in scene.screen.shown
        assert not scene.parking.misdeeds
        assert scene.session.agent_state == "listening"
        assert scene.session.current_agent.instructions == "second life"


# -- what it may not do -------------------------------------------------------------------------------


def attempts(session: AgentSession[Any], scene: Scene) -> dict[str, Callable[[], Any]]:
    return {
        "say": lambda: session.say(SURVIVOR),
        "generate_reply": lambda: session.generate_reply(user_input=SURVIVOR),
        "run": lambda: session.run(user_input=SURVIVOR),
        "interrupt": session.interrupt,
        "update_agent": lambda: session.update_agent(Second(scene)),
        "commit_user_turn": session.commit_user_turn,
        "clear_user_turn": session.clear_user_turn,
        "drain": session.drain,
        "wait_for_idle": session.wait_for_idle,
        "start": lambda: session.start(Agent(instructions=SURVIVOR)),
        "shutdown": session.shutdown,
        "aclose": session.aclose,
    }


HARMLESS = ("shutdown", "aclose")
"""They do nothing, and say so by not raising, while the session doesn't run."""


@pytest.mark.parametrize("second_life", [False, True])
async def test_every_call_of_a_survivor_is_refused(second_life: bool) -> None:
    outcomes: dict[str, BaseException | None] = {}
    free = asyncio.Event()

    class Stubborn(Agent):
        @function_tool
        async def hang(self) -> str:
            """Ignores everything, then tries everything."""
            session = self.session
            while not free.is_set():
                try:
                    await free.wait()
                except asyncio.CancelledError:
                    pass
            for name, attempt in attempts(session, scene).items():
                try:
                    result = attempt()
                    if asyncio.iscoroutine(result):
                        await result
                    outcomes[name] = None
                except Exception as error:
                    outcomes[name] = error
            return SURVIVOR

    scene = Scene("", IGNORES)
    bench = Bench(tool_calls("hang"))
    await bench.session.start(Stubborn(instructions="x"))
    bench.session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    await bench.session.aclose()
    if second_life:
        await bench.restart()
        second = bench.session.current_agent
    free.set()
    await asyncio.sleep(1)
    for name, error in outcomes.items():
        harmless = name in HARMLESS and not second_life
        assert harmless or isinstance(error, RuntimeError), f"{name}: {error!r}"
    assert set(outcomes) == set(attempts(bench.session, scene))
    if second_life:
        assert bench.session._started and not bench.session._is_closing, "it closed the new run"
        assert bench.session.current_agent is second
        assert len(bench.checker.closes) == 1
    else:
        assert not bench.session._started, "a survivor must not start the session again"
    await bench.session.aclose()


async def test_a_survivor_that_was_told_to_stop_can_report_nothing() -> None:
    free = asyncio.Event()

    class Chatty(Agent):
        @function_tool
        async def work(self, ctx: RunContext[Any]) -> str:
            """Reports its progress for ever."""
            while not free.is_set():
                try:
                    await free.wait()
                except asyncio.CancelledError:
                    pass
            await ctx.update(SURVIVOR)
            await ctx.update(SURVIVOR)
            return SURVIVOR

    bench = Bench(tool_calls("work"))
    await bench.session.start(Chatty(instructions="x"))
    bench.session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    await bench.session.aclose()
    await bench.restart()
    events = len(bench.session._recorded_events)
    free.set()
    await asyncio.sleep(1)
    assert len(bench.session._recorded_events) == events
    assert SURVIVOR not in outputs(bench.session)["work"].output
    await bench.session.aclose()


async def test_a_model_that_goes_on_calls_no_tools() -> None:
    ran: list[str] = []

    class Tooled(Agent):
        @function_tool
        async def launch(self) -> str:
            """Must not happen after the close."""
            ran.append("launch")
            return "launched"

    free = asyncio.Event()

    class Late(FakeLLM):
        def chat(self, **kwargs: Any) -> Any:
            stream = super().chat(**kwargs)
            run = stream._run

            async def late() -> None:
                while not free.is_set():
                    try:
                        await free.wait()
                    except asyncio.CancelledError:
                        pass
                await run()

            stream._run = late  # type: ignore[method-assign]
            return stream

    session = make_session(Late([Reply(tool_calls=[call("launch")])], default="hi"))
    checker = CloseChecker(session)
    await session.start(Tooled(instructions="x"))
    session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    await session.aclose()
    assert len(checker.closes) == 1
    await session.start(Tooled(instructions="again"))
    free.set()
    await asyncio.sleep(1)
    assert ran == []
    await session.aclose()


@pytest.mark.parametrize("second_life", [False, True])
async def test_an_agent_that_has_left_takes_nothing_into_any_history(second_life: bool) -> None:
    bench = Bench()
    agent = Agent(instructions="x")
    await bench.session.start(agent)
    activity = bench.session._activity
    assert activity is not None
    handle = bench.session.say("hello there, this is a long sentence")
    await asyncio.sleep(0.2)
    await bench.session.aclose()
    if second_life:
        await bench.restart()
    items, kept = len(bench.session.history.items), len(agent._chat_ctx.items)
    events = len(bench.session._recorded_events)
    late = ChatMessage(role="assistant", content=[SURVIVOR])
    activity.commit(late)
    activity.commit(late, speech_handle=handle)
    assert len(bench.session.history.items) == items and len(agent._chat_ctx.items) == kept
    assert len(bench.session._recorded_events) == events
    await bench.session.aclose()


async def test_survivors_of_ordinary_life_are_reported_by_the_close() -> None:
    """Speech that was interrupted, and whose stream ignored it, long before the session ended."""
    scene = Scene("TTS stream", IGNORES)
    try:
        await scene.start()
        handle = scene.say("hello")
        await scene.reached(1)
        handle.interrupt()
        await asyncio.sleep(60)
        assert handle.done()
        scene.parking.over = True
        scene.say("the call goes on")
        await asyncio.sleep(3)
        scene.checker.requested()
        scene.session.shutdown(drain=False)
        await scene.checker.check(within=0.5, let_go=scene.parking.let_go, restart=scene.restart)
        assert "the call goes on" in scene.speaker.audible
        report = scene.checker.closes[0].report
        assert report is not None and [s.name for s in report.survivors] == [
            "FakeSynthesizeStream._main_task"
        ]
    finally:
        scene.end()
