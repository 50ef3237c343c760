"""A graceful close waits for what was begun, says so when nothing moves, and can be hurried."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from closing.closers import (
    CLOSERS,
    Closer,
    aclose,
    job_ends,
    participant_leaves,
    shutdown_at_once,
    unrecoverable_error,
)
from closing.parking import AWAITS, IGNORES
from closing.scene import Scene, Second

from fakes.llm import Reply, call
from fakes.session import now
from livekit.agents.llm import function_tool
from livekit.agents.voice import Agent, CloseReason

ESCALATING: dict[str, Closer] = {
    "user_initiated": shutdown_at_once,
    "participant_disconnected": participant_leaves,
    "error": unrecoverable_error,
}


@asynccontextmanager
async def scene_of(place: str = "", how: str = AWAITS, **options: Any) -> AsyncIterator[Scene]:
    scene = Scene(place, how, **options)
    try:
        await scene.start()
        yield scene
    finally:
        scene.end()
        await scene.session.aclose()


async def closed(scene: Scene) -> float:
    """Wait for the close that runs; returns the seconds it took from now."""
    began = now()
    assert scene.session._closing_task is not None
    await asyncio.wait([scene.session._closing_task])
    return now() - began


def said(scene: Scene) -> list[str]:
    return [m.text_content or "" for m in scene.session.history.messages()]


def stalls(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "nothing moves" in r.getMessage()]


# -- what it waits for --------------------------------------------------------------------------------


async def test_it_plays_what_plays_then_what_waits_then_the_farewell() -> None:
    async with scene_of(farewell="goodbye then") as scene:
        scene.say("the first thing")
        scene.say("the second thing")
        await asyncio.sleep(0.3)
        scene.session.shutdown()
        await closed(scene)
        assert scene.speaker.audible == ["the first thing", "the second thing", "goodbye then"]
        assert said(scene) == scene.speaker.audible
        report = scene.checker.report
        assert report is not None and report.clean and not report.forced and not report.escalated


async def test_on_exit_begins_beside_the_speech_that_still_plays() -> None:
    async with scene_of() as scene:
        scene.say("a story that takes a while to tell")
        await asyncio.sleep(0.3)
        scene.session.shutdown()
        await asyncio.sleep(0.1)
        assert scene.exits == ["first"] and scene.session.agent_state == "speaking"


async def test_it_waits_for_a_tool_however_long_it_takes() -> None:
    class Patient(Agent):
        @function_tool
        async def wait(self) -> str:
            """Takes an hour."""
            await asyncio.sleep(3600)
            return "done at last"

    scene = Scene("", AWAITS)
    scene.llm.replies = [Reply(tool_calls=[call("wait")]), "it is done"]
    scene.attach()
    await scene.session.start(Patient(instructions="patience"))
    scene.reply("please wait")
    await asyncio.sleep(1)
    scene.session.shutdown()
    assert await closed(scene) > 3590
    assert said(scene)[-1] == "it is done"
    assert scene.checker.report is not None and scene.checker.report.clean


@pytest.mark.parametrize("interruptible", [True, False])
async def test_a_tool_may_end_the_call_and_still_say_goodbye(interruptible: bool) -> None:
    class Polite(Agent):
        @function_tool
        async def end_call(self) -> str:
            """Ends the call."""
            self.session.say("one last thing", allow_interruptions=interruptible)
            self.session.shutdown()
            return "the call ends"

        async def on_exit(self) -> None:
            await self.session.say("bye", allow_interruptions=interruptible)

    scene = Scene("", AWAITS)
    scene.llm.replies = [Reply(tool_calls=[call("end_call")]), "it was nice to talk to you"]
    scene.attach()
    await scene.session.start(Polite(instructions="polite"))
    scene.session.generate_reply(user_input="that was all")
    await asyncio.sleep(0.1)
    await closed(scene)
    assert sorted(scene.speaker.audible) == ["bye", "it was nice to talk to you", "one last thing"]
    assert scene.checker.report is not None and scene.checker.report.clean


async def test_speech_is_welcome_until_the_agent_has_left() -> None:
    async with scene_of() as scene:
        scene.say("a story that takes a while to tell")
        scene.session.shutdown()
        await asyncio.sleep(0.1)
        with pytest.raises(RuntimeError, match="closing"):
            scene.say("too late: nothing is begun any more")


async def test_a_handoff_that_a_tool_asks_for_is_refused() -> None:
    async with scene_of("tool that hands over", AWAITS) as scene:
        handle = scene.reply_with_tool("transfer")
        await scene.reached(1)
        scene.session.shutdown()
        with pytest.raises(RuntimeError, match="closing"):
            scene.session.update_agent(Second(scene))
        await asyncio.sleep(1)
        assert scene.session.current_agent is scene.agent and not handle.done()


async def test_the_last_words_of_the_user_come_after_the_farewell_and_before_the_close() -> None:
    async with scene_of(farewell="goodbye") as scene:
        await scene.user_speaks()
        scene.ear.interim("I wanted to")
        scene.session.shutdown()
        await closed(scene)
        assert said(scene) == ["goodbye", "I wanted to"]


async def test_asking_for_it_again_changes_nothing() -> None:
    async with scene_of("tool") as scene:
        scene.reply_with_tool("look_up")
        await scene.reached(1)
        scene.session.shutdown()
        first = scene.session._closing_task
        scene.session.shutdown()
        await asyncio.sleep(60)
        assert scene.session._closing_task is first and not scene.checker.closes


# -- when nothing moves -------------------------------------------------------------------------------

WAITED_FOR = {
    "tool": ('tool "look_up" (call ', lambda scene: scene.reply_with_tool("look_up")),
    "on_exit": ("stuck.on_exit", lambda scene: None),
    "on_enter": ("stuck.on_enter", lambda scene: None),
    "LLM stream": ("reply speech_", lambda scene: scene.reply("tell me")),
    "TTS stream": ("say speech_", lambda scene: scene.say("hello")),
    "sink's playout": ("say speech_", lambda scene: scene.say("hello")),
    "text output": ("say speech_", lambda scene: scene.say("hello")),
}


@pytest.mark.parametrize("place", WAITED_FOR)
async def test_a_stall_is_said_naming_what_is_waited_for(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    name, drive = WAITED_FOR[place]
    async with scene_of(place) as scene:
        drive(scene)
        await asyncio.sleep(2)
        scene.session.shutdown()
        await asyncio.sleep(14.9)
        assert stalls(caplog) == []
        await asyncio.sleep(2)
        assert len(stalls(caplog)) == 1 and name in stalls(caplog)[0]
        assert not scene.checker.closes


async def test_stalls_are_said_at_doubling_intervals(caplog: pytest.LogCaptureFixture) -> None:
    async with scene_of("on_exit") as scene:
        scene.session.shutdown()
        counts = []
        for seconds in (14, 2, 28, 2, 58, 2):  # due at 15, 45 and 105 s
            await asyncio.sleep(seconds)
            counts.append(len(stalls(caplog)))
        assert counts == [0, 1, 1, 2, 2, 3]


async def test_a_long_speech_is_no_stall(caplog: pytest.LogCaptureFixture) -> None:
    async with scene_of() as scene:
        scene.say("la " * 800)
        await asyncio.sleep(1)
        scene.session.shutdown()
        assert await closed(scene) > 100
        assert stalls(caplog) == []


async def test_progress_makes_the_next_stall_wait_anew(caplog: pytest.LogCaptureFixture) -> None:
    async with scene_of("on_exit") as scene:
        scene.session.shutdown()
        await asyncio.sleep(16)
        assert len(stalls(caplog)) == 1
        scene.session._progress.touch()
        await asyncio.sleep(14)
        assert len(stalls(caplog)) == 1
        await asyncio.sleep(2)
        assert len(stalls(caplog)) == 2


# -- a cap --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forced_drain", [0.0, 0.5, 5.0])
async def test_drain_timeout_makes_it_a_forced_one(forced_drain: float) -> None:
    options = {"drain_timeout": 10.0, "forced_drain_timeout": forced_drain}
    async with scene_of("tool", IGNORES, **options) as scene:
        scene.reply_with_tool("look_up")
        await scene.reached(1)
        scene.session.shutdown()
        took = await closed(scene)
        assert 10.0 + forced_drain <= took <= 10.5 + forced_drain
        report = scene.checker.report
        assert report is not None and report.forced and not report.escalated


async def test_drain_timeout_caps_a_handoff_which_then_goes_on() -> None:
    async with scene_of("on_exit", IGNORES, drain_timeout=10.0, forced_drain_timeout=1.0) as scene:
        began = now()
        scene.session.update_agent(Second(scene))
        transition = scene.session._handoffs.transition
        assert transition is not None
        await asyncio.wait([transition])
        assert 10.0 <= now() - began <= 10.6
        assert isinstance(scene.session.current_agent, Second)
        assert scene.session.current_agent._activity is scene.session._activity
        assert scene.agent._activity is None
        scene.say("the call goes on")
        await asyncio.sleep(2)
        assert said(scene) == ["the call goes on"]
        scene.checker.requested()
        scene.session.shutdown(drain=False)
        await scene.checker.check(hangs=False, let_go=scene.parking.let_go, restart=scene.restart)
        assert not scene.parking.misdeeds


# -- hurrying it --------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ESCALATING)
async def test_a_forced_request_ends_the_patience_and_the_report_says_whose(by: str) -> None:
    async with scene_of("tool") as scene:
        scene.reply_with_tool("look_up")
        await scene.reached(1)
        scene.session._close_soon(reason=CloseReason.JOB_SHUTDOWN, drain=True)
        await asyncio.sleep(100)
        began = now()
        await ESCALATING[by](scene)
        await closed(scene)
        assert now() - began == pytest.approx(5.0, abs=0.5)
        event = scene.checker.closes[0]
        assert event.reason is CloseReason.JOB_SHUTDOWN and event.error is None
        assert event.report is not None
        assert event.report.forced and event.report.escalated and event.report.escalated_by == by


async def test_only_the_first_forced_request_counts() -> None:
    async with scene_of("tool") as scene:
        scene.reply_with_tool("look_up")
        await scene.reached(1)
        scene.session.shutdown()
        await asyncio.sleep(1)
        await participant_leaves(scene)
        began = now()
        for later in ESCALATING.values():
            await asyncio.sleep(1)
            await later(scene)
        await closed(scene)
        assert now() - began == pytest.approx(5.0, abs=0.5)
        report = scene.checker.report
        assert report is not None and report.escalated_by == "participant_disconnected"


@pytest.mark.parametrize("join", [aclose, job_ends])
async def test_who_joins_gives_a_stuck_drain_one_allowance(join: Closer) -> None:
    async with scene_of("tool", IGNORES) as scene:
        scene.reply_with_tool("look_up")
        await scene.reached(1)
        scene.session.shutdown()
        await asyncio.sleep(60)
        await join(scene)
        assert 5.0 <= await closed(scene) <= 5.5
        event = scene.checker.closes[0]
        assert event.reason is CloseReason.USER_INITIATED
        assert event.report is not None and event.report.forced and not event.report.escalated


@pytest.mark.parametrize("join", [aclose, job_ends])
async def test_who_joins_hears_a_long_goodbye_to_its_end(join: Closer) -> None:
    goodbye = "so long and thank you for everything, " * 10
    async with scene_of(farewell=goodbye) as scene:
        scene.session.shutdown()
        await asyncio.sleep(1)
        await join(scene)
        assert await closed(scene) > 15
        assert scene.speaker.audible == [goodbye]
        assert scene.checker.report is not None and scene.checker.report.clean


async def test_progress_gives_who_joins_another_allowance() -> None:
    async with scene_of("on_exit") as scene:
        scene.session.shutdown()
        await aclose(scene)
        for _ in range(5):
            await asyncio.sleep(4)
            scene.session._progress.touch()
        assert not scene.checker.closes
        assert await closed(scene) == pytest.approx(5.0, abs=0.5)


async def test_who_waits_for_the_end_of_a_block_waits_for_the_goodbye() -> None:
    scene = Scene("", AWAITS, farewell="goodbye, it was nice to talk to you")
    async with scene.session:
        await scene.start()
        scene.session.shutdown()
    assert scene.speaker.audible == [scene.farewell]


@pytest.mark.parametrize("closer", [name for name in CLOSERS if name.startswith("shutdown()")])
async def test_the_warning_names_the_culprit_once(
    closer: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene_of("tool", IGNORES) as scene:
        scene.reply_with_tool("look_up")
        await scene.reached(1)
        with caplog.at_level(logging.DEBUG):
            await CLOSERS[closer](scene)
            await closed(scene)
        warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert 'tool "look_up"' in warnings[0] and "ignored cancellation" in warnings[0]
        stacks = [r.getMessage() for r in caplog.records if r.levelno == logging.DEBUG]
        assert any("scene.py" in text and "look_up" in text for text in stacks)
