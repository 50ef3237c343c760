from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st

from livekit.agents.voice.room_io.playout import PlayedRun, PlayoutMeter


def test_sound_that_follows_in_time_is_one_run() -> None:
    meter = PlayoutMeter()
    assert meter.submit(0.05, now=10.0) is None
    assert meter.submit(0.05, now=10.02) is None
    assert meter.left(10.04) == pytest.approx(0.06)
    run = meter.cut(10.2)
    assert run is not None
    assert (run.ended_at, run.offset, run.duration) == pytest.approx((10.1, 0.0, 0.1))
    assert meter.cut(10.3) is None, "reported once"


def test_an_underrun_ends_a_run_when_the_queue_ran_dry() -> None:
    meter = PlayoutMeter()
    meter.submit(0.1, now=1.0)
    assert meter.submit(0.1, now=2.0) == PlayedRun(ended_at=1.1, offset=0.0, duration=0.1)
    run = meter.cut(5.0)
    assert run is not None and run.offset == pytest.approx(0.1)


def test_what_is_cut_off_counts_as_dropped_and_the_next_run_begins_after_it() -> None:
    meter = PlayoutMeter()
    meter.submit(1.0, now=0.0)
    run = meter.cut(0.25)
    assert run is not None and run.duration == pytest.approx(0.25)
    assert meter.dropped == pytest.approx(0.75) and meter.played == pytest.approx(0.25)
    meter.submit(0.5, now=3.0)
    later = meter.cut(4.0)
    assert later is not None and (later.offset, later.duration) == pytest.approx((1.0, 0.5))


@given(
    st.lists(
        st.tuples(st.sampled_from(["submit", "cut"]), st.floats(0.001, 0.3), st.floats(0.0, 0.5)),
        max_size=40,
    )
)
def test_runs_add_up_to_what_was_played_and_never_overlap(
    steps: list[tuple[str, float, float]],
) -> None:
    meter, now, runs = PlayoutMeter(), 100.0, []
    for kind, duration, wait in steps:
        now += wait
        runs.append(meter.submit(duration, now) if kind == "submit" else meter.cut(now))
    now += 60.0
    runs.append(meter.cut(now))
    played = [run for run in runs if run is not None]
    assert sum(run.duration for run in played) == pytest.approx(meter.played, abs=1e-4)
    for before, after in itertools.pairwise(played):
        assert before.ended_at <= after.ended_at - after.duration + 1e-4
        assert before.offset + before.duration <= after.offset + 1e-4
