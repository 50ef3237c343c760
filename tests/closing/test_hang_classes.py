"""The ways in which voice sessions have hung for people, each as one test."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from closing.bench import Bench, outputs, said, tool_calls
from closing.checker import MILLISECONDS
from closing.closers import participant_leaves, shutdown_at_once
from closing.parking import AWAITS, IGNORES, RAISES, SLEEPS, Parking
from closing.scene import Ask, Scene, Second, StuckTextDetector

from fakes.session import now
from livekit.agents.llm import ToolError, Toolset, function_tool
from livekit.agents.voice import Agent, AgentSession, AgentTask, CloseReason, RunContext
from livekit.agents.voice.session_start import _job_shutdown

STEP = 2.0
KILL = 0.5
FORCED = 5.0 + KILL


@asynccontextmanager
async def scene_of(
    place: str | tuple[str, ...] = "", how: str = AWAITS, **options: Any
) -> AsyncIterator[Scene]:
    scene = Scene(place, how, **options)
    try:
        yield scene
    finally:
        scene.end()
        await scene.session.aclose()


async def check(scene: Scene, **expected: Any) -> float:
    return await scene.checker.check(let_go=scene.parking.let_go, restart=scene.restart, **expected)


# S1: one speech never ends, so the STT behind it in the queue is never closed, and reconnects for ever
async def test_the_stt_closes_although_a_speech_never_ends() -> None:
    async with scene_of("TTS stream", IGNORES) as scene:
        await scene.start()
        scene.say("hello")
        await scene.reached(1)
        (ear,) = scene.stt.streams
        await participant_leaves(scene)
        await asyncio.sleep(STEP)
        assert not scene.stt.open_streams and ear._task.done()
        attempts = len(scene.stt.attempts)
        await asyncio.sleep(40 * 60)
        assert len(scene.stt.attempts) == attempts, "no reconnect after the close began"
        scene.checker._requested_at = now()
        await check(scene)


# S2: the sink never says that it has finished, so `close` never comes, nor what hangs off it
async def test_what_waits_for_close_goes_on_although_the_sink_is_silent() -> None:
    async with scene_of("sink's playout") as scene:
        await scene.start()
        scene.say("hello")
        await scene.reached(2)
        ended: list[str] = []

        async def end_job() -> None:
            await _job_shutdown(scene.session)()
            ended.append("job")

        scene.session.once("close", lambda ev: scene.help(end_job()))
        await participant_leaves(scene)
        await check(scene, within=FORCED)
        assert scene.checker.closes[0].reason is CloseReason.PARTICIPANT_DISCONNECTED
        assert ended == ["job"]


# S3: every step hangs at once; the bound is shared, not added up
EVERYWHERE = (
    "tool",
    "on_exit",
    "STT stream's cleanup",
    "VAD stream's cleanup",
    "turn detector's aclose",
    "keyterm LLM stream",
    "agent's toolset aclose",
    "session's toolset aclose",
    "sink's on_detached",
    "source's on_detached",
    "part's aclose",
)


@pytest.mark.parametrize("how", [SLEEPS, IGNORES, RAISES])
async def test_steps_that_all_hang_share_one_bound(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    from closing.drives import part

    async with scene_of(EVERYWHERE, how, keyterms=True) as scene:
        await scene.start()
        for slot in ("_recorder_io", "_ivr_activity", "_amd", "_session_host"):
            await part(slot)(scene)
        scene.reply_with_tool("look_up")
        await scene.reached(1)
        await shutdown_at_once(scene)
        await check(scene)  # the general bound, and CLOSE_BY for the event
        report = scene.checker.closes[0].report
        assert report is not None
        steps = {step.name: step.outcome for step in report.steps}
        for name in ("recorder", "ivr", "session host", "answering machine detection"):
            assert steps[name] in ("timeout", "error"), name
        for name in ("toolset drawer of the agent", "toolset drawer of the session"):
            assert steps[name] in ("timeout", "error"), name
        assert steps["speech recognition"] == "ok" and steps["input forwarding"] == "ok"
        text = "\n".join(r.getMessage() for r in caplog.records)
        assert 'tool "look_up"' in text and "recorder" in text


async def test_unwinding_ends_although_the_chain_of_inline_tasks_is_a_circle() -> None:
    async with scene_of("inline task's on_enter") as scene:
        await scene.start()
        scene.reply_with_tool("ask")
        await scene.reached(1)
        (inline,) = scene.session._handoffs.stack
        assert inline.activity is not None
        circle = dataclasses.replace(inline, parent=inline.activity, activity=inline.parent)
        scene.session._handoffs.stack.append(circle)
        scene.checker.requested()
        scene.session.shutdown(drain=False)
        closing = scene.session._closing_task
        assert closing is not None
        await asyncio.wait([closing], timeout=FORCED + STEP)
        assert closing.done() and len(scene.checker.closes) == 1


# S4: the close begins right before `await SomeTask()`; each waits for the other's lock
@pytest.mark.parametrize("drain", [False, True])
@pytest.mark.parametrize("where", ["on_enter", "tool"])
async def test_an_inline_task_that_comes_with_the_close_is_refused(where: str, drain: bool) -> None:
    go = asyncio.Event()
    errors: list[BaseException] = []
    scene = Scene("", AWAITS)

    class Late(Agent):
        async def _ask(self) -> None:
            await go.wait()
            try:
                await Ask(scene)
            except BaseException as error:
                errors.append(error)

        async def on_enter(self) -> None:
            if where == "on_enter":
                await self._ask()

        @function_tool
        async def ask_late(self) -> str:
            """Asks."""
            await self._ask()
            return "asked"

    bench = Bench(tool_calls("ask_late"))
    await bench.session.start(Late(instructions="late"))
    if where == "tool":
        bench.session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    bench.checker.requested()
    bench.session.shutdown(drain=drain)
    await asyncio.sleep(0)
    go.set()
    # a graceful close hears what the agent says about it
    await bench.checker.check(restart=bench.restart, within=1.0 if drain else MILLISECONDS)
    assert len(errors) == 1 and isinstance(errors[0], ToolError)


# S5: inline tasks are nested; or one is awaited later, by a tool that runs already
async def test_every_parent_leaves_once_when_inline_tasks_are_nested() -> None:
    async with scene_of("", depth=2) as scene:
        await scene.start()
        scene.reply_with_tool("ask")
        await asyncio.sleep(1)
        assert isinstance(scene.session.current_agent, Ask)
        await shutdown_at_once(scene)
        await check(scene, hangs=False)
        assert scene.exits == ["ask 0", "ask 1", "ask 2", "first"]


# S6: the room is gone while an inline task waits for a user who will never come
async def test_an_inline_task_that_waits_for_nobody_ends_with_an_error() -> None:
    results: list[Any] = []

    class Waits(AgentTask[str]):
        async def on_enter(self) -> None:
            await asyncio.get_running_loop().create_future()

    class Parent(Agent):
        @function_tool
        async def ask(self) -> str:
            """Asks."""
            task = Waits(instructions="wait")
            try:
                return await task
            finally:
                results.append(task._fut.exception())

    bench = Bench(tool_calls("ask"))
    await bench.session.start(Parent(instructions="parent"))
    bench.session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    bench.checker.requested()
    bench.session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)
    took = await bench.checker.check(restart=bench.restart, within=FORCED)
    assert took >= 5.0, "the hook had its whole allowance"
    assert len(results) == 1 and isinstance(results[0], ToolError)


# S7: a tool speaks on an agent that is paused for an inline task
async def test_speech_refused_by_a_paused_agent_leaves_nothing_behind() -> None:
    refused: list[str] = []
    asked = asyncio.Event()

    class Quick(AgentTask[str]):
        async def on_enter(self) -> None:
            asked.set()

    class Parent(Agent):
        @function_tool
        async def ask(self) -> str:
            """Asks."""
            return await Quick(instructions="ask")

        @function_tool
        async def note(self, ctx: RunContext[Any]) -> str:
            """Notes."""
            await asked.wait()
            parent = self._activity
            assert parent is not None
            try:
                parent.say("noted")
            except RuntimeError as error:
                refused.append(str(error))
            return "noted"

    bench = Bench(tool_calls("ask", "note"), "all done")
    await bench.session.start(Parent(instructions="parent"))
    handle = bench.session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    assert len(refused) == 1
    assert all(speech.done() for speech in bench.checker.speeches if speech is not handle)
    task = bench.session.current_agent
    assert isinstance(task, Quick)
    task.complete("an answer")
    await asyncio.wait_for(handle.wait_for_playout(), 10)
    assert set(outputs(bench.session)) == {"ask", "note"}
    await bench.closes(hangs=False)


# S8: the session closes, but nobody tells the job
async def test_the_job_learns_of_the_close() -> None:
    async with scene_of("tool", IGNORES) as scene:
        closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        scene.session.once("close", lambda ev: closed.set_result(ev.reason.value))
        await scene.start()
        scene.reply_with_tool("look_up")
        await scene.reached(1)
        scene.checker.waiter("entrypoint", closed)
        await participant_leaves(scene)
        await check(scene, within=FORCED)
        assert closed.result() == "participant_disconnected"


# S9: a close waits for a transcript although nobody spoke; a detector hangs or fails in it
async def test_a_silent_close_waits_for_no_transcript() -> None:
    async with scene_of("") as scene:
        await scene.start()
        await asyncio.sleep(30)
        await shutdown_at_once(scene)
        await check(scene, hangs=False)


@pytest.mark.parametrize("how", [AWAITS, IGNORES, RAISES])
async def test_a_detector_does_not_keep_the_last_words(how: str) -> None:
    async with scene_of("turn detector's prediction", how, detector=StuckTextDetector) as scene:
        await scene.start()
        await scene.user_speaks()
        scene.ear.final("goodbye")
        scene.checker.user_words.append("goodbye")
        await scene.user_stops()
        await scene.reached(1)
        await shutdown_at_once(scene)
        await check(scene, within=1.1)


# S10: the caller says a last sentence and hangs up
@pytest.mark.parametrize("transcript", ["interim", "final", "final during the close"])
async def test_the_last_sentence_of_a_caller_who_hangs_up_is_kept(transcript: str) -> None:
    async with scene_of("") as scene:
        await scene.start()
        await scene.user_speaks()
        if transcript == "interim":
            scene.ear.interim("cancel my order")
        if transcript == "final":
            scene.ear.final("cancel my order")
        scene.checker.user_words.append("cancel my order")
        await participant_leaves(scene)
        if transcript == "final during the close":
            await asyncio.sleep(1)
            scene.ear.final("cancel my order")
        await check(scene, within=STEP + 2 * KILL)


async def test_an_error_does_not_wait_for_the_last_sentence() -> None:
    async with scene_of("") as scene:
        await scene.start()
        await scene.user_speaks()
        scene.checker.requested()
        scene.session._close_soon(reason=CloseReason.ERROR, error=None)
        await check(scene, hangs=False)


# S11: a tool hands over while its sibling will await an inline task
async def test_an_inline_task_awaited_during_a_handoff_is_refused() -> None:
    release = asyncio.Event()
    scene = Scene("", AWAITS)

    class Next(Agent):
        pass

    class First(Agent):
        @function_tool
        async def transfer(self) -> Agent:
            """Hands over."""
            return Next(instructions="next")

        @function_tool
        async def ask(self) -> str:
            """Asks later."""
            await release.wait()
            return await Ask(scene)

    bench = Bench(tool_calls("ask"), tool_calls("transfer"))
    await bench.session.start(First(instructions="first"))
    bench.session.generate_reply(user_input="go")
    await asyncio.sleep(0.5)
    bench.session.update_agent(Next(instructions="next"))
    await asyncio.sleep(0.5)
    release.set()
    await asyncio.sleep(3)
    assert isinstance(bench.session.current_agent, Next)
    output = outputs(bench.session)["ask"]
    assert output.is_error and "transition" in output.output
    await bench.closes(hangs=False)


# S12: a reply prepared for a turn that was discarded is waited for
@pytest.mark.parametrize("end", ["handoff", "graceful close"])
async def test_a_prepared_reply_that_nobody_wants_is_not_waited_for(end: str) -> None:
    async with scene_of("LLM stream") as scene:
        await scene.start()
        await scene.user_speaks()
        scene.ear.final("hello there")
        await scene.reached(1)
        scene.session.clear_user_turn()
        began = now()
        if end == "handoff":
            scene.session.update_agent(Second(scene))
            transition = scene.session._handoffs.transition
            assert transition is not None
            await asyncio.wait([transition])
            assert now() - began < 1.0 and isinstance(scene.session.current_agent, Second)
            scene.checker.requested()
            scene.session.shutdown(drain=False)
        else:
            scene.checker.requested()
            scene.session.shutdown()
        await check(scene, within=STEP + 2 * KILL)  # the user is still speaking
        report = scene.checker.closes[0].report
        assert report is not None
        assert all(step.seconds == 0 for step in report.steps if step.name == "drain")


# S13: two tools of one reply each await an inline task
async def test_two_inline_tasks_of_one_reply_take_turns() -> None:
    order: list[str] = []

    class Once(AgentTask[str]):
        def __init__(self, name: str) -> None:
            super().__init__(instructions=name)
            self.name = name

        async def on_enter(self) -> None:
            order.append(f"enter {self.name}")
            await asyncio.sleep(1)
            order.append(f"leave {self.name}")
            self.complete(self.name)

    class Parent(Agent):
        @function_tool
        async def ask_name(self) -> str:
            """Asks."""
            return await Once("name")

        @function_tool
        async def ask_age(self) -> str:
            """Asks."""
            return await Once("age")

    bench = Bench(tool_calls("ask_name", "ask_age"), "thank you")
    await bench.session.start(Parent(instructions="parent"))
    await asyncio.wait_for(
        bench.session.generate_reply(user_input="go").wait_for_playout(), timeout=20
    )
    assert order in (
        ["enter name", "leave name", "enter age", "leave age"],
        ["enter age", "leave age", "enter name", "leave name"],
    )
    assert {name: o.output for name, o in outputs(bench.session).items()} == {
        "ask_name": "name",
        "ask_age": "age",
    }
    await bench.closes(hangs=False)


# S14: an outbound call is never answered, so the greeting waits for ever
@pytest.mark.parametrize("how", [AWAITS, IGNORES])
async def test_a_greeting_that_nobody_picks_up_for_does_not_hold_the_close(how: str) -> None:
    class Greets(Agent):
        async def on_enter(self) -> None:
            await self.session.say("hello, this is your agent")

    scene = Scene("sink's capture_frame", how)
    scene.attach()
    await scene.session.start(Greets(instructions="greet"))
    await scene.reached(1)
    scene.checker.requested()
    scene.checker.waiter("job shutdown callback", _job_shutdown(scene.session)())
    await asyncio.sleep(0)
    await check(scene, within=5.0 + STEP)


# S15: a speech is interrupted before it plays
@pytest.mark.parametrize("moment", ["queued", "about to play"])
async def test_speech_interrupted_before_it_plays_holds_up_nothing(moment: str) -> None:
    async with scene_of("") as scene:
        await scene.start()
        if moment == "queued":
            scene.say("first")
        unlucky = scene.say("never heard")
        if moment == "about to play":
            await asyncio.sleep(0)
        unlucky.interrupt()
        last = scene.say("last")
        await asyncio.wait_for(last.wait_for_playout(), 10)
        assert "last" in scene.speaker.audible and "never heard" not in scene.speaker.audible
        await shutdown_at_once(scene)
        await check(scene, hangs=False)


# S16: the second life is not closed by what remained of the first
@pytest.mark.parametrize("then", ["shutdown", "error", "disconnect", "idle"])
async def test_a_second_life_is_a_life_like_the_first(then: str) -> None:
    async with scene_of("") as scene:
        await scene.start()
        scene.session.shutdown()
        assert scene.session._closing_task is not None
        await asyncio.wait([scene.session._closing_task])
        scene.agent = type(scene.agent)(scene)
        await scene.start()
        scene.say("hello again")
        assert await scene.session.wait_for_idle() is scene.session._activity
        scene.checker.requested()
        if then == "disconnect":
            await participant_leaves(scene)
        elif then == "error":
            from closing.closers import unrecoverable_error

            await unrecoverable_error(scene)
        else:
            scene.session.shutdown()
        closing = scene.session._closing_task
        await asyncio.wait([closing], timeout=1)
        assert closing.done() and len(scene.checker.closes) == 2


# S17: the participant leaves while the session starts
@pytest.mark.parametrize("setup", [1.0, 3600.0])
async def test_who_leaves_during_the_start_ends_it(setup: float) -> None:
    class Slow(Toolset):
        async def setup(self) -> Any:
            await asyncio.sleep(setup)
            return self

    bench = Bench()
    start = asyncio.ensure_future(
        bench.session.start(Agent(instructions="x", tools=[Slow(id="slow")]))
    )
    await asyncio.sleep(0.5)
    bench.checker.waiter("start", asyncio.wait([bench.checker.ours(start)]))
    bench.checker.requested()
    bench.session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)
    await bench.checker.check(restart=bench.restart, within=STEP + KILL)
    if setup < STEP:
        assert start.result() is None, "it could end by itself"
    else:
        with pytest.raises(RuntimeError, match="session closed"):
            start.result()


# S18: the session's own shutdown callback holds up those of the user
async def test_the_shutdown_callback_returns_at_once_when_there_is_nothing_to_close() -> None:
    async with scene_of("") as scene:
        await _job_shutdown(scene.session)()
        await scene.start()
        await scene.session.aclose()
        began = now()
        await _job_shutdown(scene.session)()
        assert now() == began and len(scene.checker.closes) == 1


# S19: the hook of an inline task raises
@pytest.mark.parametrize("with_run", [False, True])
async def test_an_inline_task_whose_hook_raises_gives_the_floor_back(with_run: bool) -> None:
    raised: list[BaseException] = []

    class Broken(AgentTask[str]):
        async def on_enter(self) -> None:
            raise ValueError("broken hook")

    class Parent(Agent):
        @function_tool
        async def ask(self) -> str:
            """Asks."""
            try:
                return await Broken(instructions="broken")
            except ValueError as error:
                raised.append(error)
                return "it broke"

    parent = Parent(instructions="parent")
    bench = Bench(tool_calls("ask"), "sorry")
    await bench.session.start(parent)
    if with_run:
        await asyncio.wait_for(asyncio.ensure_future(_result(bench.session.run(user_input="x"))), 9)
    else:
        await asyncio.wait_for(bench.session.generate_reply(user_input="x").wait_for_playout(), 9)
    assert len(raised) == 1 and bench.session.current_agent is parent
    assert said(bench.session) == ["x", "sorry"]
    await bench.closes(hangs=False)


async def _result(run: Any) -> Any:
    return await run


# S20: another agent takes over while a tool awaits an inline task
@pytest.mark.parametrize("completed", [False, True])
async def test_a_displaced_inline_task_outlives_nothing(completed: bool) -> None:
    async with scene_of("") as scene:
        await scene.start()
        scene.reply_with_tool("ask")
        await scene.asked.wait()
        await asyncio.sleep(0.1)
        task = scene.session.current_agent
        assert isinstance(task, Ask)
        scene.session.update_agent(Second(scene))
        await asyncio.sleep(2)
        if completed and not task.done():
            task.complete("too late")
        await asyncio.sleep(0.1)
        assert task.done() and isinstance(scene.session.current_agent, Second)
        await shutdown_at_once(scene)
        await check(scene, hangs=False)
        assert "ask" in outputs(scene.session)


# S21: the close is awaited by what it waits for
@pytest.mark.parametrize("method", ["aclose", "drain"])
@pytest.mark.parametrize("where", ["tool", "on_enter", "on_exit", "inline task"])
async def test_who_closes_from_inside_waits_for_no_circle(
    where: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    returned: list[str] = []

    async def close(session: AgentSession[Any]) -> None:
        await getattr(session, method)()
        returned.append(where)

    class Inner(AgentTask[str]):
        async def on_enter(self) -> None:
            await close(self.session)

    class Closer(Agent):
        async def on_enter(self) -> None:
            if where == "on_enter":
                await close(self.session)

        async def on_exit(self) -> None:
            if where == "on_exit":
                await close(self.session)

        @function_tool
        async def hang_up(self) -> str:
            """Hangs up."""
            if where == "inline task":
                return await Inner(instructions="inner")
            await close(self.session)
            return "bye"

    bench = Bench(tool_calls("hang_up"), "bye")
    await bench.session.start(Closer(instructions="x"))
    if where in ("tool", "inline task"):
        bench.session.generate_reply(user_input="hang up")
    if where == "on_exit":
        bench.session.shutdown()
    await asyncio.sleep(0.5)
    if method == "aclose":
        assert len(bench.checker.closes) == 1
        assert any("from inside" in r.getMessage() for r in caplog.records)
    assert returned == [where]
    if bench.session._started:
        await bench.closes(hangs=False)
    assert len(bench.checker.closes) in (1, 2)


# S22: the user hangs up in the middle of a word, and the agent says goodbye
@pytest.mark.parametrize("drain", [False, True])
async def test_a_goodbye_does_not_wait_for_silence(drain: bool) -> None:
    left: list[str] = []

    class Polite(Agent):
        async def on_exit(self) -> None:
            await self.session.say("goodbye")
            left.append("on_exit")

    scene = Scene("", AWAITS)
    scene.attach()
    await scene.session.start(Polite(instructions="polite"))
    await scene.user_speaks()
    scene.checker.requested()
    scene.session.shutdown(drain=drain)
    await check(scene, within=STEP + 2 * KILL)
    assert left == ["on_exit"] and scene.speaker.audible[0] == "goodbye"


# S23: parts that raise
@pytest.mark.parametrize(
    "places",
    [
        ("STT stream's aclose",),
        ("agent's toolset aclose", "session's toolset aclose"),
        ("source's on_detached", "sink's on_detached", "text output's on_detached"),
    ],
)
async def test_parts_that_raise_skip_nothing(places: tuple[str, ...]) -> None:
    from closing.drives import part

    class Raising(Parking):
        async def at(self, place: str) -> bool:
            if self.stuck_at(place):
                raise RuntimeError(f"{place} is broken")
            return False

    async with scene_of(places, RAISES) as scene:
        scene.parking.__class__ = Raising
        await scene.start()
        await part("_session_host")(scene)
        host: list[str] = []
        scene.session._session_host.aclose = lambda patience: host.append("closed")

        def broken(_: Any) -> None:
            raise TypeError("a broken handler")

        scene.session.on("close", broken)
        await shutdown_at_once(scene)
        await check(scene, hangs=False)
        assert host == ["closed"]


async def test_a_hook_that_cancels_itself_has_ended() -> None:
    class Odd(Agent):
        async def on_exit(self) -> None:
            raise asyncio.CancelledError

    bench = Bench()
    await bench.session.start(Odd(instructions="odd"))
    await bench.closes(hangs=False)


# S24: whoever waits for the close loses patience
async def test_losing_patience_with_a_close_does_not_end_it() -> None:
    async with scene_of("tool", IGNORES) as scene:
        await scene.start()
        scene.reply_with_tool("look_up")
        await scene.reached(1)
        scene.checker.requested()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(scene.session.aclose(), 1.0)
        closing = scene.session._closing_task
        assert closing is not None and not closing.done()
        scene.checker.waiter("second aclose", scene.session.aclose())
        await check(scene, within=FORCED)


# S25: the start fails, in each of its parts, or is cancelled
class Failing(Toolset):
    async def setup(self) -> Any:
        await asyncio.sleep(0.1)
        return await super().setup()


def _fails_in_the_models(bench: Bench, agent: Agent) -> Callable[[], None]:
    def stream() -> Any:
        raise OSError("no detector")

    bench.vad.stream = stream  # type: ignore[method-assign]
    return lambda: delattr(bench.vad, "stream")


def _fails_in_the_options(bench: Bench, agent: Agent) -> Callable[[], None]:
    agent._turn_handling["endpointing"] = {"min_delay": 5.0, "max_delay": 1.0}
    return lambda: agent._turn_handling.pop("endpointing") and None


def _is_cancelled(bench: Bench, agent: Agent) -> Callable[[], None]:
    return lambda: None


@pytest.mark.parametrize("fails", [_fails_in_the_models, _fails_in_the_options, _is_cancelled])
async def test_a_start_that_fails_can_be_tried_again_with_the_same_agent(
    fails: Callable[[Bench, Agent], Callable[[], None]],
) -> None:
    bench = Bench()
    agent = Agent(instructions="x", tools=[Failing(id="slow")])
    repair = fails(bench, agent)
    start = asyncio.ensure_future(bench.session.start(agent))
    if fails is _is_cancelled:
        await asyncio.sleep(0.05)
        start.cancel()
    await asyncio.wait([start])
    assert start.cancelled() or start.exception() is not None
    await bench.session.aclose()
    assert agent._activity is None and not bench.stt.open_streams and not bench.vad.open_streams
    assert not bench.checker.closes
    repair()
    await bench.session.start(agent)
    await asyncio.wait_for(bench.session.say("it works now").wait_for_playout(), 10)
    await bench.closes(hangs=False)
