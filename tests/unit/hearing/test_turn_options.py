"""Options of turn handling: defaults, layers, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.hearing import FakeStreamingDetector, FakeTextDetector
from livekit.agents.voice import Agent, AgentSession
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


@pytest.mark.parametrize("of", [Agent, AgentSession])
def test_options_that_can_not_be_meant_are_refused_at_once(of: type) -> None:
    needed: dict[str, Any] = {"instructions": "x"} if of is Agent else {"vad": None}
    with pytest.raises(ValueError, match=r"unknown turn_detection 'vda'.*manual"):
        of(**needed, turn_detection="vda")
    with pytest.raises(ValueError, match="unknown turn_detection"):
        of(**needed, turn_handling={"turn_detection": "vda"})
    with pytest.raises(TypeError, match=r"endpointing must be a dict.*min_delay"):
        of(**needed, turn_handling={"endpointing": 0.5})


async def test_a_key_that_nobody_knows_is_ignored_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    AgentSession(vad=None, turn_handling={"endpointing": {"min_dely": 1.0, "max_delay": 4.0}})  # type: ignore[typeddict-unknown-key]
    assert "unknown key(s) 'min_dely' of endpointing are ignored" in caplog.text
    assert "min_delay" in caplog.text


def test_numbers_that_can_not_be_meant_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="max_tool_steps must be at least 0, got -1"):
        AgentSession(vad=None, max_tool_steps=-1)
    with pytest.raises(ValueError, match="user_away_timeout"):
        AgentSession(vad=None, user_away_timeout=-1.0)
    with pytest.raises(TypeError, match="preemptive_generation must be a dict"):
        AgentSession(vad=None, preemptive_generation="yes")  # type: ignore[arg-type]


async def test_the_turn_detection_of_a_running_session_is_checked_too() -> None:
    session = AgentSession(vad=None)
    with pytest.raises(ValueError, match="unknown turn_detection"):
        session.update_options(turn_detection="vda")  # type: ignore[arg-type]
