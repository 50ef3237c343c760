"""Which turn detection works with which parts."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import pytest

from fakes.hearing import FakeStreamingDetector, FakeTextDetector
from fakes.realtime import FakeRealtimeModel
from fakes.stt import FakeSTT
from fakes.vad import FakeVAD
from livekit.agents.stt import STTCapabilities
from livekit.agents.types import NOT_GIVEN
from livekit.agents.voice.hearing.modes import (
    resolve_interruption_detector,
    resolve_server_turn_detection,
    resolve_turn_detection,
)

STREAMING = FakeStreamingDetector()
TEXT = FakeTextDetector()
DEFAULT = FakeStreamingDetector()


@dataclass
class Choices:
    explicit_turn_detection: Any = NOT_GIVEN
    stt: Any = None
    vad: Any = None
    llm: Any = None
    using_default_vad: bool = False
    interruption_mode: Any = NOT_GIVEN
    allow_interruptions: bool = True
    server_turn_detection: bool = False

    def default_turn_detector(self) -> Any:
        return DEFAULT


def pipeline(asked: Any = NOT_GIVEN, **parts: Any) -> Choices:
    return Choices(asked, stt=FakeSTT(), vad=FakeVAD(), llm=object(), **parts)


def realtime(asked: Any = NOT_GIVEN, *, vad: Any = None, **capabilities: Any) -> Choices:
    model = FakeRealtimeModel(**capabilities)
    choices = Choices(asked, vad=vad, llm=model)
    choices.server_turn_detection = resolve_server_turn_detection(choices)
    return choices


@pytest.mark.parametrize("asked", ["vad", "stt", "manual", STREAMING, TEXT, None])
def test_what_works_is_taken(asked: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert resolve_turn_detection(pipeline(asked)) is asked
    assert caplog.text == ""


def test_nothing_asked_takes_the_default_detector() -> None:
    assert resolve_turn_detection(pipeline()) is DEFAULT


@pytest.mark.parametrize("missing", ["vad", "stt"])
def test_the_default_detector_stays_away_where_it_can_not_work(
    missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    choices = pipeline()
    setattr(choices, missing, None)
    assert resolve_turn_detection(choices) is None
    assert resolve_turn_detection(pipeline(), text_only=True) is None
    assert caplog.text == ""


def test_the_default_detector_gives_way_to_a_vad_that_leaves_it_no_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    choices = pipeline()
    choices.vad.min_silence_duration = 0.1
    assert resolve_turn_detection(choices) is None
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("asked", "missing"),
    [("vad", "vad"), ("stt", "stt"), (STREAMING, "vad"), ("realtime_llm", "llm")],
)
def test_what_can_not_work_degrades_with_a_warning(
    asked: Any, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    choices = pipeline(asked)
    setattr(choices, missing, None)
    assert resolve_turn_detection(choices) is None
    assert caplog.text.count("ignoring turn_detection=") == 1


def test_a_text_detector_needs_no_vad() -> None:
    choices = pipeline(TEXT)
    choices.vad = None
    assert resolve_turn_detection(choices) is TEXT


def test_an_stt_that_does_not_stream_wants_a_vad(caplog: pytest.LogCaptureFixture) -> None:
    choices = pipeline()
    choices.vad = None
    choices.stt = FakeSTT(capabilities=STTCapabilities(streaming=False, interim_results=False))
    assert resolve_turn_detection(choices) is None
    assert "Give the session a VAD" in caplog.text


def test_a_session_that_hears_nothing_keeps_only_what_needs_no_audio() -> None:
    for asked in ("vad", "stt", STREAMING, TEXT):
        assert resolve_turn_detection(pipeline(asked), text_only=True) is None
    assert resolve_turn_detection(pipeline("manual"), text_only=True) == "manual"


# -- realtime models ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "on_server"),
    [
        (pipeline(), False),
        (realtime(), True),
        (realtime(turn_detection=False), False),
        (realtime("manual", can_disable_turn_detection=False), True),
        (realtime("realtime_llm", vad=FakeVAD()), True),
        (realtime("manual"), False),
        (realtime("vad", vad=FakeVAD()), False),
        (realtime("vad"), True),
        (realtime(STREAMING, vad=FakeVAD()), False),
        (realtime(STREAMING), True),
        (realtime(vad=FakeVAD()), True),
    ],
)
def test_who_finds_the_turns_of_a_realtime_model(choices: Choices, on_server: bool) -> None:
    assert resolve_server_turn_detection(choices) is on_server


def test_choosing_how_to_interrupt_takes_the_turns_from_the_server() -> None:
    choices = realtime(vad=FakeVAD())
    choices.interruption_mode = "vad"
    assert not resolve_server_turn_detection(choices)


@pytest.mark.parametrize(
    ("choices", "detection", "warned"),
    [
        (realtime(), None, False),
        (realtime("realtime_llm"), "realtime_llm", False),
        (realtime("realtime_llm", turn_detection=False), None, True),
        (realtime("vad", vad=FakeVAD()), "vad", False),
        (realtime("manual"), "manual", False),
        (realtime("manual", can_disable_turn_detection=False), None, True),
        (realtime(STREAMING, vad=FakeVAD()), STREAMING, False),
        (
            realtime(STREAMING, vad=FakeVAD(), can_disable_turn_detection=False),
            None,
            True,
        ),
        (realtime(turn_detection=False, vad=FakeVAD()), DEFAULT, False),
        (realtime(None, turn_detection=False, vad=FakeVAD()), "vad", False),
        (realtime(vad=FakeVAD()), None, False),
    ],
)
def test_turn_detection_with_a_realtime_model(
    choices: Choices, detection: Any, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert resolve_turn_detection(choices) == detection
    assert ("ignoring turn_detection" in caplog.text) is warned


def test_a_realtime_model_does_not_follow_an_stt(caplog: pytest.LogCaptureFixture) -> None:
    choices = realtime("stt")
    choices.stt = FakeSTT()
    assert resolve_turn_detection(choices) is None
    assert "ignoring turn_detection=stt" in caplog.text


def test_a_vad_nobody_chose_does_not_find_a_realtime_models_turns() -> None:
    choices = realtime(None, turn_detection=False, vad=FakeVAD())
    choices.using_default_vad = True
    assert resolve_turn_detection(choices) is None


# -- interruption ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"vad": None},
        {"allow_interruptions": False},
        {"explicit_turn_detection": "manual"},
        {"stt": None},
    ],
)
def test_adaptive_interruption_needs_its_parts(
    change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    choices = replace(pipeline(), interruption_mode="adaptive", **change)
    assert resolve_interruption_detector(choices) is None
    assert "ignoring interruption mode 'adaptive'" in caplog.text


def test_adaptive_interruption_is_off_unless_asked_for_or_hosted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIVEKIT_REMOTE_EOT_URL", raising=False)
    monkeypatch.delenv("LIVEKIT_DEV_MODE", raising=False)
    with caplog.at_level(logging.INFO):
        assert resolve_interruption_detector(pipeline()) is None
        assert resolve_interruption_detector(replace(pipeline(), interruption_mode="vad")) is None
    assert caplog.text.count("adaptive interruption is off") == 1
