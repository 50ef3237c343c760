"""Fixed and learned endpointing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from livekit.agents.voice.endpointing import (
    BaseEndpointing,
    DynamicEndpointing,
    create_endpointing,
)
from livekit.agents.voice.turn import EndpointingOptions, resolve_endpointing


def learner(alpha: float = 0.5) -> DynamicEndpointing:
    return DynamicEndpointing(0.5, 3.0, alpha)


def utterance(endpointing: BaseEndpointing, start: float, end: float) -> None:
    endpointing.on_start_of_speech(start)
    endpointing.on_end_of_speech(end)


def test_options_choose_the_kind() -> None:
    fixed = create_endpointing({"mode": "fixed", "min_delay": 0.4, "max_delay": 2.0})
    assert type(fixed) is BaseEndpointing
    assert (fixed.min_delay, fixed.max_delay) == (0.4, 2.0)
    dynamic = create_endpointing(
        resolve_endpointing({"mode": "dynamic", "alpha": 0.2}, streaming=False)
    )
    assert isinstance(dynamic, DynamicEndpointing)
    assert dynamic.min_delay == 0.5


def test_options_are_not_changed_by_resolving_them() -> None:
    options: EndpointingOptions = {"min_delay": 0.4}
    resolve_endpointing(options, {"max_delay": 1.0}, streaming=False)
    assert options == {"min_delay": 0.4}


def test_a_pause_inside_a_turn_is_learned() -> None:
    endpointing = learner()
    utterance(endpointing, 10.0, 11.0)
    utterance(endpointing, 12.0, 13.0)
    assert endpointing.min_delay == pytest.approx(0.75)
    assert endpointing.max_delay == 3.0


def test_learning_stays_between_floor_and_ceiling() -> None:
    endpointing = learner(alpha=0.0)
    utterance(endpointing, 10.0, 11.0)
    utterance(endpointing, 30.0, 31.0)
    assert endpointing.min_delay == 3.0
    utterance(endpointing, 31.1, 32.0)
    assert endpointing.min_delay == 0.5


def test_a_pause_with_agent_speech_in_it_teaches_nothing() -> None:
    endpointing = learner()
    utterance(endpointing, 10.0, 11.0)
    endpointing.on_start_of_agent_speech(11.5)
    endpointing.on_end_of_agent_speech(14.0)
    utterance(endpointing, 15.0, 16.0)
    assert endpointing.min_delay == 0.5


def test_cutting_in_right_after_the_agent_began_was_a_pause() -> None:
    endpointing = learner()
    utterance(endpointing, 10.0, 11.0)
    endpointing.on_start_of_agent_speech(11.6)
    endpointing.on_start_of_speech(11.8, overlapping=True)
    assert endpointing.overlapping
    assert endpointing.immediate_interruption_delay == pytest.approx((0.6, 0.2))
    endpointing.on_end_of_speech(13.0)
    assert endpointing.min_delay == pytest.approx(0.5 * 0.5 + 0.5 * 0.8)
    assert not endpointing.overlapping


def test_a_later_interruption_is_not_a_pause() -> None:
    endpointing = learner()
    utterance(endpointing, 10.0, 11.0)
    endpointing.on_start_of_agent_speech(11.6)
    endpointing.on_start_of_speech(14.0, overlapping=True)
    endpointing.on_end_of_speech(15.0)
    assert endpointing.min_delay == 0.5


def test_a_backchannel_teaches_nothing_and_leaves_no_pause_behind() -> None:
    endpointing = learner()
    utterance(endpointing, 10.0, 11.0)
    endpointing.on_start_of_agent_speech(11.6)
    endpointing.on_start_of_speech(11.9, overlapping=True)
    endpointing.on_end_of_speech(12.1, interruption=False)
    assert endpointing.between_utterance_delay == 0.0
    endpointing.on_end_of_agent_speech(14.0)
    utterance(endpointing, 15.0, 16.0)
    assert endpointing.min_delay == 0.5


def test_starting_together_is_leading_silence_and_not_a_backchannel() -> None:
    endpointing = learner()
    utterance(endpointing, 10.0, 11.0)
    endpointing.on_start_of_agent_speech(11.6)
    endpointing.on_start_of_speech(11.7, overlapping=True)
    endpointing.on_end_of_speech(12.5, interruption=False)
    assert endpointing.min_delay > 0.5


def test_an_overlap_is_told_twice_but_begins_once() -> None:
    endpointing = learner()
    endpointing.on_start_of_agent_speech(10.0)
    endpointing.on_start_of_speech(11.0, overlapping=True)
    endpointing.on_start_of_speech(12.0, overlapping=True)
    endpointing.on_end_of_speech(13.0)
    endpointing.on_end_of_agent_speech(13.5)
    endpointing.on_start_of_agent_speech(14.0)
    assert endpointing.between_turn_delay == pytest.approx(1.0)


def test_a_new_minimum_forgets_what_was_learned() -> None:
    endpointing = learner()
    utterance(endpointing, 10.0, 11.0)
    utterance(endpointing, 12.0, 13.0)
    endpointing.update_options(min_delay=0.3, max_delay=1.0, alpha=0.0)
    assert (endpointing.min_delay, endpointing.max_delay) == (0.3, 1.0)
    utterance(endpointing, 13.6, 14.0)
    assert endpointing.min_delay == pytest.approx(0.6)


_hooks: dict[str, Callable[[DynamicEndpointing, float], None]] = {
    "user": lambda e, t: e.on_start_of_speech(t),
    "user over agent": lambda e, t: e.on_start_of_speech(t, overlapping=True),
    "user ends": lambda e, t: e.on_end_of_speech(t),
    "backchannel": lambda e, t: e.on_end_of_speech(t, interruption=False),
    "interruption": lambda e, t: e.on_end_of_speech(t, interruption=True),
    "agent": lambda e, t: e.on_start_of_agent_speech(t),
    "agent ends": lambda e, t: e.on_end_of_agent_speech(t),
}


@given(
    st.lists(st.tuples(st.sampled_from(sorted(_hooks)), st.floats(0.001, 10)), max_size=40),
    st.floats(0, 1),
)
def test_whatever_happens_the_delay_stays_between_its_bounds(
    events: list[tuple[str, float]], alpha: float
) -> None:
    endpointing = DynamicEndpointing(0.5, 3.0, alpha)
    clock = 100.0
    for name, gap in events:
        clock += gap
        _hooks[name](endpointing, clock)
        assert 0.5 <= endpointing.min_delay <= 3.0
        assert endpointing.between_utterance_delay >= 0
        assert endpointing.between_turn_delay >= 0
