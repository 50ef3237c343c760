"""{What is stuck} x {how} x {who closes}: each time the session closes, whole and in time.

A row of `ROWS` is one place in which something may be stuck. To add one, make the code of
`scene.py` call `parking.at("the place")` there, and add a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import virtual_time
from closing import drives as when
from closing.closers import BASIC, CLOSERS, EXTERNAL, FORCED_AT_ONCE
from closing.parking import AWAITS, CANCELS, IGNORES, RAISES, SLEEPS, THREAD
from closing.scene import Drive, Scene, StuckDetector, StuckLocalDetector, StuckTextDetector

from livekit.agents.llm import FunctionCall

ALL_WAYS = (SLEEPS, AWAITS, IGNORES, RAISES, CANCELS, THREAD)
COROUTINE = (SLEEPS, AWAITS, IGNORES, RAISES)
BRIEF = (AWAITS, IGNORES)
IN_A_THREAD = (THREAD, RAISES)
SYNC = (AWAITS, IGNORES, RAISES, CANCELS)
BREAKS = (RAISES, CANCELS)

AT_ONCE = ("aclose()", "participant leaves", "shutdown(), then drain=False", "several racing")
WITHOUT_TALK = tuple(n for n in EXTERNAL if n != "an event handler")

KEYBOARD = "a keyboard interrupt"

REALTIME = {"realtime": True}
DETECTOR = {"detector": StuckDetector}
LOCAL_DETECTOR = {"detector": StuckLocalDetector}
TEXT_DETECTOR = {"detector": StuckTextDetector}
LIMIT = {"turn_handling": {"user_turn_limit": {"max_words": 5}}}


def look_up() -> FunctionCall:
    """The call of a realtime model."""
    return FunctionCall(call_id="call_1", name="look_up", arguments="{}")


@dataclass(frozen=True)
class Row:
    """One place that gets stuck."""

    place: str
    drive: Drive
    ways: tuple[str, ...] = COROUTINE
    closers: tuple[str, ...] = tuple(CLOSERS)
    options: dict[str, Any] = field(default_factory=dict)
    within: float | None = None
    """A tighter bound than that of any forced close, in seconds."""
    starts: bool = True
    """False: the start itself gets stuck."""

    def __str__(self) -> str:
        return f"{self.place}; {getattr(self.drive, '__name__', '')}"


FORCED = 5.5
"""Seconds for what must settle: the allowance, and the end of what ignores it."""

SIDE = 2.5
"""Seconds for what is torn down beside, or after, a conversation that has settled."""

ROWS = [
    # nothing is stuck: every close that is forced takes milliseconds
    Row("nowhere", when.nothing),
    Row("nowhere", when.talks, closers=AT_ONCE),
    Row("nowhere", when.says_for_sure, closers=AT_ONCE),
    Row("nowhere", when.queues, closers=AT_ONCE),
    Row("nowhere", when.asks, closers=AT_ONCE, options={"depth": 2}),
    Row("nowhere", when.hands_over, closers=AT_ONCE),
    Row("nowhere", when.user_talks, closers=AT_ONCE),
    Row("nowhere", when.user_barges_in, closers=AT_ONCE, within=2.2),  # the last transcript
    Row("nowhere", when.runs, closers=AT_ONCE),
    Row("nowhere", when.talks, closers=AT_ONCE, options={"broken_handlers": True}),
    Row(
        "nowhere", when.realtime(text="a long answer", audio=8.0), closers=AT_ONCE, options=REALTIME
    ),
    # hooks
    Row("on_enter", when.nothing, ALL_WAYS, within=FORCED),
    Row("on_exit", when.nothing, ALL_WAYS, within=FORCED),
    Row("on_exit", when.says, BRIEF, BASIC, {"farewell": "goodbye"}, within=FORCED),
    Row("on_exit", when.drains, BRIEF, EXTERNAL, within=FORCED),
    Row("on_user_turn_completed", when.user_talks, within=FORCED),
    Row("on_user_turn_exceeded", when.user_goes_on_and_on, BRIEF, BASIC, LIMIT),
    # tools
    Row("tool", when.calls("look_up"), ALL_WAYS, within=FORCED),
    Row("tool", when.calls("look_up", "look_up_later", "ask"), BRIEF, within=FORCED),
    Row("tool", when.calls_while_speaking, BRIEF, within=FORCED),
    Row("tool", when.runs_a_tool, BRIEF, within=FORCED),
    Row("tool", when.calls("look_up"), BRIEF, BASIC, {"broken_handlers": True}, within=FORCED),
    Row("tool in a thread", when.calls("compute"), (THREAD,), within=FORCED),
    Row("tool in the background", when.calls("look_up_later"), ALL_WAYS, within=FORCED),
    Row("cancellable tool", when.calls("look_up_until_cancelled"), within=FORCED),
    Row("gather in a tool", when.calls("ask_in_a_gather"), BRIEF, within=FORCED),
    Row("tool that hands over", when.calls("transfer"), BRIEF, within=FORCED),
    Row("tool that has the floor", when.calls("take_the_floor"), BRIEF, within=FORCED),
    Row("tool with a filler", when.calls("fill_in"), BRIEF, within=FORCED),
    Row("tool of an async toolset", when.calls("search"), BRIEF),
    # nodes and model streams
    Row("stt_node", when.user_talks_in_vain, ALL_WAYS),
    Row("stt_node's cleanup", when.nothing, within=SIDE),
    Row("STT stream", when.user_talks_in_vain, ALL_WAYS),
    Row("STT stream's cleanup", when.nothing, within=SIDE),
    Row("STT stream's aclose", when.nothing, within=SIDE),
    Row("STT stream's aclose", when.swaps_the_stt, BRIEF, within=SIDE),
    Row("llm_node", when.talks, ALL_WAYS, within=FORCED),
    Row("llm_node's cleanup", when.talks, within=FORCED),
    Row("LLM stream", when.talks, ALL_WAYS, within=FORCED),
    Row("LLM stream", when.queues, BRIEF, within=FORCED),
    Row("LLM stream", when.interrupts, BRIEF, within=FORCED),
    Row("LLM stream", when.runs, BRIEF, within=FORCED),
    Row("LLM stream", when.reply_is_prepared, BRIEF, within=FORCED),
    Row("LLM stream, half-way", when.talks, within=FORCED),
    Row("LLM stream's aclose", when.talks, within=FORCED),
    Row("tts_node", when.talks, ALL_WAYS, within=FORCED),
    Row("tts_node", when.says, BRIEF, within=FORCED),
    Row("tts_node's cleanup", when.says, BRIEF, within=FORCED),
    Row("TTS stream", when.says, ALL_WAYS, within=FORCED),
    Row("TTS stream", when.says_for_sure, BRIEF, within=FORCED),
    Row("TTS stream, half-way", when.says, BRIEF, within=FORCED),
    Row("TTS stream's aclose", when.says, BRIEF, within=FORCED),
    Row("transcription_node", when.talks, within=FORCED),
    Row("VAD stream", when.nothing, ALL_WAYS, within=SIDE),
    Row("VAD stream's cleanup", when.nothing, within=SIDE),
    # detectors
    Row("turn detector's threshold", when.user_talks, BRIEF, options=TEXT_DETECTOR, within=FORCED),
    Row("turn detector's language", when.user_talks, BRIEF, options=TEXT_DETECTOR, within=FORCED),
    Row("turn detector's prediction", when.user_talks, options=TEXT_DETECTOR, within=FORCED),
    Row("turn detector's aclose", when.nothing, options=DETECTOR, within=SIDE),
    Row(
        "turn detector's loading",
        when.user_is_heard,
        IN_A_THREAD,
        options=LOCAL_DETECTOR,
        within=0.1,
    ),
    Row(
        "turn detector's loading",
        when.user_falls_silent,
        IN_A_THREAD,
        options=LOCAL_DETECTOR,
        within=0.1,
    ),
    Row(  # nobody knows yet that the user has stopped: the close waits for the last transcript
        "turn detector's judgement",
        when.user_pauses,
        IN_A_THREAD,
        options=LOCAL_DETECTOR,
        within=2.2,
    ),
    Row(
        "turn detector's judgement",
        when.user_falls_silent,
        IN_A_THREAD,
        options=LOCAL_DETECTOR,
        within=0.1,
    ),
    Row("interruption detector's aclose", when.judges, within=SIDE),
    Row("keyterm LLM stream", when.talks, options={"keyterms": True}, within=FORCED),
    Row(
        "keyterm LLM stream's aclose", when.talks, BRIEF, options={"keyterms": True}, within=FORCED
    ),
    # realtime models
    Row("realtime aclose", when.nothing, closers=EXTERNAL, options=REALTIME, within=SIDE),
    Row("realtime aclose", when.realtime(text="hi", audio=1.0), BRIEF, EXTERNAL, REALTIME),
    Row("realtime update_chat_ctx", when.realtime(text="hi"), BRIEF, EXTERNAL, REALTIME),
    Row(
        "realtime_audio_output_node", when.realtime(text="hi", audio=1.0), BRIEF, EXTERNAL, REALTIME
    ),
    Row("realtime reply", when.realtime(never_begins=True), (AWAITS,), EXTERNAL, REALTIME),
    Row("realtime reply", when.realtime(text="hi", never_ends=True), (AWAITS,), EXTERNAL, REALTIME),
    Row("tool", when.realtime(tool_calls=[look_up()]), BRIEF, EXTERNAL, REALTIME, within=FORCED),
    Row("realtime interrupt", when.realtime(text="hi", audio=8.0), BREAKS, EXTERNAL, REALTIME),
    Row("model's off", when.nothing, BREAKS, within=SIDE),
    # sinks and sources
    Row("sink's playout", when.says, (AWAITS,), within=FORCED),
    Row("sink's playout", when.queues, (AWAITS,), within=FORCED),
    Row("sink's capture_frame", when.says, within=FORCED),
    Row("sink's capture_frame", when.talks, BRIEF, within=FORCED),
    Row("sink's flush", when.says, SYNC),
    Row("sink's clear_buffer", when.tells, SYNC, FORCED_AT_ONCE),
    Row("sink's pause", when.user_barges_in, SYNC),
    Row("sink's resume", when.user_barges_in, SYNC),
    Row("sink's on_detached", when.nothing, SYNC, within=SIDE),
    Row("text output", when.talks, BRIEF, within=FORCED),
    Row("text output's flush", when.talks, SYNC),
    Row("text output's on_detached", when.nothing, SYNC, within=SIDE),
    Row("source", when.nothing, within=SIDE),
    Row("source's on_detached", when.nothing, SYNC, within=SIDE),
    # toolsets
    Row("agent's toolset aclose", when.nothing, within=SIDE),
    Row("session's toolset aclose", when.nothing, within=SIDE),
    Row("MCP server's goodbye", when.nothing, options={"mcp": True}),
    Row("MCP server's connection", when.starts, BRIEF, WITHOUT_TALK, {"mcp": True}, starts=False),
    # inline tasks and handoffs
    Row("inline task's on_enter", when.asks, within=FORCED),
    Row("inline task's on_enter", when.asks, BRIEF, options={"depth": 2}, within=FORCED),
    Row("inline task's on_exit", when.asks, options={"depth": 1}, within=FORCED),
    Row("inline task's on_exit", when.answers, BRIEF, within=FORCED),
    Row("inline task's tool", when.asks_and_looks_up, BRIEF, within=FORCED),
    Row("inline task's on_enter", when.hands_over_while_asking, BRIEF, within=FORCED),
    Row("on_enter's inline task", when.nothing, (AWAITS,), EXTERNAL, within=FORCED),
    Row("on_exit", when.hands_over, within=FORCED),
    Row("on_exit", when.hands_over_twice, BRIEF, within=FORCED),
    Row("next agent's on_enter", when.hands_over, BRIEF, EXTERNAL, within=FORCED),
    Row("next agent's toolset set-up", when.hands_over, COROUTINE, EXTERNAL, within=FORCED),
    Row("agent's toolset aclose", when.hands_over, BRIEF),
    # waiting callers
    Row("user turn that is claimed", when.claims, (AWAITS,), EXTERNAL, within=FORCED),
    Row("STT stream", when.commits, BRIEF),
    # a start in progress
    Row("agent's toolset set-up", when.starts, closers=WITHOUT_TALK, starts=False),
    Row("session's toolset set-up", when.starts, BRIEF, WITHOUT_TALK, starts=False),
    Row("realtime update_instructions", when.starts, BRIEF, WITHOUT_TALK, REALTIME, starts=False),
    Row("on_enter", when.starts_with_a_run, BRIEF, WITHOUT_TALK, starts=False, within=FORCED),
    # further parts, as far as they exist: whatever has an `aclose`
    Row("AMD LLM stream", when.dials),
    Row("AMD LLM stream's aclose", when.dials, BRIEF),
    Row("part's aclose", when.part("_recorder_io"), BRIEF),
    Row("part's aclose", when.part("_ivr_activity"), BRIEF),
    Row("part's aclose", when.part("_session_host"), BRIEF),
    Row("part's aclose", when.part("_room_io"), BRIEF),
]


def _cases() -> Iterator[Any]:
    for number, row in enumerate(ROWS):
        for way in row.ways:
            for closer in _closers_of(row, way, number):
                yield pytest.param(row, way, closer, id=f"{row} {way}; {closer}")


def _closers_of(row: Row, way: str, number: int) -> list[str]:
    """What ignores cancellation meets every closer, in some rows in turns; the other ways meet two."""
    closers = [name for name in row.closers if name != row.place]
    if row.within != FORCED and KEYBOARD in closers:
        closers.remove(KEYBOARD)  # it cuts teardowns short, too: what survives is not all reported
    if way is not IGNORES and len(row.ways) > 1:
        return closers[:: len(closers) // 2]
    turns = 1 if row.ways is ALL_WAYS or len(closers) < 6 else 3 if row.ways is BRIEF else 2
    return closers[number % turns :: turns]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker thread that is blocked for good need not be waited for in real time."""
    monkeypatch.setattr(virtual_time, "EXECUTOR_PATIENCE", 0.003)
    monkeypatch.setattr(virtual_time, "THREAD_PATIENCE", 0.003)


@pytest.mark.parametrize(("row", "way", "closer"), list(_cases()))
async def test_a_session_closes(row: Row, way: str, closer: str) -> None:
    await close(row, way, closer, within=row.within)


@pytest.mark.parametrize(("forced_drain", "teardown"), [(0.5, 2.0), (0.5, 0.2), (0.0, 0.0)])
@pytest.mark.parametrize("row", [r for r in ROWS if r.place != "nowhere"], ids=str)
async def test_the_bound_follows_the_options(
    row: Row, forced_drain: float, teardown: float
) -> None:
    await close(
        row,
        IGNORES if IGNORES in row.ways else row.ways[0],
        row.closers[0],
        forced_drain_timeout=forced_drain,
        teardown_timeout=teardown,
    )


async def close(
    row: Row, way: str, closer: str, *, within: float | None = None, **options: Any
) -> float:
    """Get stuck, close, and check; returns the seconds it took."""
    scene = Scene(row.place, way, **row.options, **options)
    try:
        if row.starts:
            await scene.start()
            if closer == "a tool":
                await scene.session.generate_reply(user_input="prepare")
        await row.drive(scene)
        await scene.reached(3.0 if row.place != "nowhere" else 0.3)
        if row.starts:
            scene.checker.waiter("idle", scene.session.wait_for_idle())
        await CLOSERS[closer](scene)
        took = await scene.checker.check(
            hangs=row.place != "nowhere" or row.within is not None,
            within=within,
            let_go=scene.parking.let_go,
            restart=scene.restart,
        )
        assert not scene.parking.misdeeds, f"a survivor could {scene.parking.misdeeds}"
        stuck = scene.parking.reached.is_set() or row.place == "nowhere"
        assert stuck, "nothing got stuck: the row proves nothing"
        return took
    finally:
        scene.end()
