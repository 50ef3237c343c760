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
from closing.closers import BASIC, CLOSERS
from closing.parking import AWAITS, IGNORES, RAISES, SLEEPS, THREAD
from closing.scene import Drive, Scene

ALL_WAYS = (SLEEPS, AWAITS, IGNORES, RAISES, THREAD)
COROUTINE = (SLEEPS, AWAITS, IGNORES, RAISES)
SYNC = (SLEEPS, IGNORES, RAISES)


@dataclass(frozen=True)
class Row:
    """One place that gets stuck."""

    place: str
    drive: Drive
    ways: tuple[str, ...] = COROUTINE
    closers: tuple[str, ...] = tuple(CLOSERS)
    options: dict[str, Any] = field(default_factory=dict)
    starts: bool = True
    """False: the start itself gets stuck."""


# -- drives -------------------------------------------------------------------------------------------


async def nothing(scene: Scene) -> None:
    pass


async def talks(scene: Scene) -> None:
    scene.reply("tell me")


async def says(scene: Scene) -> None:
    scene.say("something long to say")


def calls(*tools: str) -> Drive:
    async def drive(scene: Scene) -> None:
        scene.reply_with_tool(*tools)

    return drive


ROWS = [
    Row("nowhere", nothing, (SLEEPS,)),
    Row("on_enter", nothing),
    Row("on_exit", nothing),
    Row("tool", calls("look_up"), ALL_WAYS),
    Row("tool in a thread", calls("compute"), (THREAD,)),
    Row("tool in the background", calls("look_up_later"), ALL_WAYS),
    Row("llm_node", talks, ALL_WAYS),
    Row("llm_node's cleanup", talks),
    Row("LLM stream", talks, ALL_WAYS),
    Row("LLM stream, half-way", talks),
    Row("LLM stream's aclose", talks),
    Row("tts_node", talks, ALL_WAYS),
    Row("TTS stream", says, ALL_WAYS),
    Row("sink's playout", says, (SLEEPS,)),
    Row("sink's capture_frame", says),
]


def _cases() -> Iterator[Any]:
    for row in ROWS:
        for way in row.ways:
            # every closer meets what ignores cancellation; the other ways meet the main ones
            closers = row.closers if way is row.ways[-1] or way is IGNORES else BASIC
            for closer in row.closers:
                if closer in closers:
                    yield pytest.param(row, way, closer, id=f"{row.place} {way}; {closer}")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker thread that is blocked for good need not be waited for in real time."""
    monkeypatch.setattr(virtual_time, "EXECUTOR_PATIENCE", 0.003)
    monkeypatch.setattr(virtual_time, "THREAD_PATIENCE", 0.003)


@pytest.mark.parametrize(("row", "way", "closer"), list(_cases()))
async def test_a_session_closes(row: Row, way: str, closer: str) -> None:
    scene = Scene(row.place, way, **row.options)
    try:
        if row.starts:
            await scene.start()
            if closer == "a tool":
                await scene.session.generate_reply(user_input="prepare")
        await row.drive(scene)
        await scene.reached()
        await CLOSERS[closer](scene)
        await scene.checker.check(
            hangs=row.place != "nowhere", let_go=scene.parking.let_go, restart=scene.restart
        )
        assert not scene.parking.misdeeds, f"a survivor could {scene.parking.misdeeds}"
    finally:
        scene.parking.let_go()
