"""Options of turn handling: defaults, layers, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.hearing import FakeStreamingDetector, FakeTextDetector
from livekit.agents.voice.turn import (
    is_streaming_detector,
    resolve_backchannel_boundary,
    resolve_endpointing,
)


@pytest.mark.parametrize(
    ("detection", "delays"),
    [
        (None, (0.5, 3.0)),
        ("vad", (0.5, 3.0)),
        (FakeTextDetector(), (0.5, 3.0)),
        (FakeStreamingDetector(), (0.3, 2.5)),
    ],
)
def test_default_delays_depend_on_the_detector(detection: Any, delays: tuple[float, float]) -> None:
    resolved = resolve_endpointing({}, streaming=is_streaming_detector(detection))
    assert (resolved["min_delay"], resolved["max_delay"]) == delays
    assert (resolved["mode"], resolved["alpha"]) == ("fixed", 0.9)


def test_the_agents_keys_lie_over_the_sessions() -> None:
    resolved = resolve_endpointing(
        {"min_delay": 1.0, "alpha": 0.5}, {"min_delay": 0.2}, streaming=False
    )
    assert (resolved["min_delay"], resolved["max_delay"], resolved["alpha"]) == (0.2, 3.0, 0.5)


def test_a_default_gives_way_to_what_was_given() -> None:
    assert resolve_endpointing({"min_delay": 4.0}, streaming=False)["max_delay"] == 4.0
    assert resolve_endpointing({"max_delay": 0.1}, streaming=True)["min_delay"] == 0.1


@pytest.mark.parametrize(
    "options",
    [
        {"min_delay": -0.1},
        {"min_delay": 2.0, "max_delay": 1.0},
        {"max_delay": -1.0},
        {"alpha": 1.5},
    ],
)
def test_impossible_delays_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="endpointing"):
        resolve_endpointing(options, streaming=True)


@pytest.mark.parametrize(
    ("given", "resolved"), [(0.5, (0.5, 0.5)), ((1.0, 0.0), (1.0, 0.0)), (None, (0.0, 0.0))]
)
def test_the_backchannel_boundary(given: Any, resolved: tuple[float, float]) -> None:
    assert resolve_backchannel_boundary(given) == resolved


@pytest.mark.parametrize("given", [-1.0, (1.0, -1.0), (1.0,), (1.0, 2.0, 3.0), ("a", "b")])
def test_an_impossible_backchannel_boundary_is_refused(given: Any) -> None:
    with pytest.raises(
        ValueError, match="backchannel_boundary must be a tuple of two non-negative floats"
    ):
        resolve_backchannel_boundary(given)


def test_streaming_detectors_are_told_by_what_they_have() -> None:
    assert is_streaming_detector(FakeStreamingDetector())
    assert not is_streaming_detector(FakeTextDetector())
    assert not is_streaming_detector("vad")
    assert not is_streaming_detector(None)
