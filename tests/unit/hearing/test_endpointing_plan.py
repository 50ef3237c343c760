"""How long the end of a turn is waited for, and how long a teardown may take."""

from __future__ import annotations

import asyncio

from hypothesis import given, strategies as st

from livekit.agents.voice.hearing.end_of_turn import EndpointingPlan
from livekit.agents.voice.hearing.teardown import Closers, split
from livekit.agents.voice.hearing.turn_limit import UserTurnLimit


def plan(*, unlikely: bool, last_speaking_at: float | None = 100.0) -> EndpointingPlan:
    return EndpointingPlan(0.5, 3.0, unlikely, last_speaking_at)


def test_the_wait_counts_from_the_last_speech() -> None:
    assert plan(unlikely=False).until_commit(100.2) == 0.5 - (100.2 - 100.0)
    assert plan(unlikely=True).until_commit(101.0) == 2.0
    assert plan(unlikely=False).until_commit(200.0) == 0.0


def test_without_an_anchor_it_is_waited_in_full() -> None:
    assert plan(unlikely=False, last_speaking_at=None).until_commit(123.0) == 0.5


def test_an_stt_is_told_to_finish_at_once_or_half_way_when_in_doubt() -> None:
    assert plan(unlikely=False).until_flush(100.0) == 0.0
    assert plan(unlikely=True).until_flush(100.0) == 1.5


@given(
    st.floats(0, 5),
    st.floats(0, 5),
    st.booleans(),
    st.one_of(st.none(), st.floats(0, 1000)),
    st.floats(0, 1000),
)
def test_a_flush_never_comes_after_the_commit(
    low: float, more: float, unlikely: bool, anchor: float | None, now: float
) -> None:
    made = EndpointingPlan(low, low + more, unlikely, anchor)
    assert 0.0 <= made.until_flush(now) <= made.until_commit(now)


@given(st.floats(0, 100))
def test_a_teardown_keeps_time_for_its_end(timeout: float) -> None:
    patience, grace = split(timeout)
    assert 0.0 <= grace <= patience <= timeout
    assert grace <= 0.5


async def test_a_closer_that_was_only_just_asked_to_still_closes() -> None:
    closed = []

    async def aclose() -> None:
        closed.append(True)

    closers = Closers("test")
    closers.close("thing", aclose)
    assert await closers.finish(0.0) == []
    closers.close("late thing", aclose)
    assert await closers.finish(0.0) == []
    assert closed == [True, True]


async def test_a_closer_is_not_cut_short_before_its_time() -> None:
    closers = Closers("test")
    ended = []

    async def aclose() -> None:
        await asyncio.sleep(1.4)
        ended.append(True)

    closers.close("slow thing", aclose)
    assert await closers.finish(2.0) == []
    assert ended == [True]


def test_a_turn_may_be_limited_in_time() -> None:
    limit = UserTurnLimit({"max_duration": 10.0})
    assert not limit.add("one", speech_started_at=100.0, now=105.0)
    assert limit.add("two", speech_started_at=104.0, now=110.0)
    assert (limit.word_count, limit.duration, limit.transcript) == (2, 10.0, "one two")
    limit.reset()
    assert not limit.add("three", speech_started_at=None, now=111.0)
    assert limit.duration == 0.0
