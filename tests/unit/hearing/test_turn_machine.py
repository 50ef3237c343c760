"""The turn machine alone: no event loop, time is a number."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fakes.hearing import RecordingHooks, final, interim, preflight
from livekit.agents.language import LanguageCode
from livekit.agents.stt import SpeechEvent, SpeechEventType
from livekit.agents.vad import VADEvent, VADEventType
from livekit.agents.voice.endpointing import BaseEndpointing
from livekit.agents.voice.hearing.overlap import OverlapGate
from livekit.agents.voice.hearing.overlap_judge import OverlapJudge
from livekit.agents.voice.hearing.transcript import LanguageTracker, Transcript
from livekit.agents.voice.hearing.transcription_timeout import TranscriptionTimeout
from livekit.agents.voice.hearing.turn_limit import UserTurnLimit
from livekit.agents.voice.hearing.turn_machine import TurnMachine
from livekit.agents.voice.hearing.user_turn import TurnMode, TurnSnapshot, UserTurn


class Ports:
    """Writes down what the machine asks for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.has_stt = self.has_vad = True
        self.amd: Any = None
        self.input_started_at: float | None = None
        self.evaluating = False

    def turn_opened(self) -> None:
        pass

    def evaluate(self, trigger: str) -> None:
        self.asked.append(f"evaluate {trigger}")

    def __getattr__(self, name: str) -> Any:
        return lambda: self.asked.append(name)


class Timer:
    def cancel(self) -> None:
        pass


class Machine:
    """A turn machine, its surroundings, and a clock."""

    def __init__(self, mode: TurnMode = "base") -> None:
        self.hooks, self.ports, self.turn = RecordingHooks(), Ports(), UserTurn()
        self.clock = 100.0
        self.core = TurnMachine(
            self.hooks,
            self.ports,
            turn=self.turn,
            endpointing=BaseEndpointing(0.5, 3.0),
            overlap=OverlapJudge(
                self.hooks,
                turn=self.turn,
                gate=OverlapGate((1.0, 1.0)),
                call_later=lambda *args: Timer(),
                replay=lambda held: None,
            ),
            timeout=TranscriptionTimeout(None, lambda *args: Timer(), lambda duration: None),
            limit=UserTurnLimit({}),
            mode=mode,
        )

    def vad(self, type: VADEventType, **fields: Any) -> None:
        defaults = {"samples_index": 0, "timestamp": 0, "speech_duration": 0, "silence_duration": 0}
        self.core.on_vad_event(VADEvent(type, **{**defaults, **fields}), self.clock)

    def stt(self, ev: SpeechEvent | SpeechEventType) -> None:
        if isinstance(ev, SpeechEventType):
            ev = SpeechEvent(type=ev)
        self.core.on_stt_event(ev, self.clock)

    def start(self) -> None:
        self.vad(VADEventType.START_OF_SPEECH, speech_duration=0.1, inference_duration=0.02)

    def window(self, *, speech: float = 0.0, silence: float = 0.0) -> None:
        self.vad(
            VADEventType.INFERENCE_DONE,
            raw_accumulated_speech=speech,
            raw_accumulated_silence=silence,
        )

    def end(self, silence: float = 0.25) -> None:
        self.vad(VADEventType.END_OF_SPEECH, silence_duration=silence, inference_duration=0.01)


# -- VAD ------------------------------------------------------------------------------------------


def test_speech_is_dated_back_by_what_the_vad_needed_to_hear_it() -> None:
    machine = Machine()
    machine.start()
    assert machine.turn.started_at == machine.turn.speech_started_at == pytest.approx(99.88)
    machine.clock = 102.0
    machine.end(0.3)
    assert machine.turn.last_speaking_at == pytest.approx(101.69)
    assert not machine.turn.speaking


def test_a_second_stretch_of_speech_keeps_the_start_of_the_turn() -> None:
    machine = Machine()
    machine.start()
    machine.end()
    machine.clock = 105.0
    machine.start()
    assert machine.turn.started_at == pytest.approx(99.88)
    assert machine.turn.speech_started_at == pytest.approx(104.88)
    assert machine.ports.asked.count("resume_turn") == 2


def test_the_detector_is_asked_after_a_fifth_of_a_second_of_silence() -> None:
    machine = Machine()
    machine.start()
    machine.ports.asked.clear()
    machine.window(silence=0.1)
    assert machine.ports.asked == []
    machine.window(silence=0.2)
    assert machine.ports.asked == ["predict"]
    machine.window(speech=0.03)
    assert machine.ports.asked == ["predict", "forget_prediction"]


def test_silence_outside_of_speech_asks_nobody() -> None:
    machine = Machine()
    machine.window(silence=5.0)
    assert machine.ports.asked == []


@pytest.mark.parametrize(
    ("mode", "committed", "evaluates"),
    [
        ("base", False, True),
        ("stt", False, False),
        ("stt", True, True),
        ("manual", True, False),
        ("realtime_llm", False, False),
    ],
)
def test_who_decides_at_the_end_of_speech(mode: TurnMode, committed: bool, evaluates: bool) -> None:
    machine = Machine(mode)
    machine.start()
    machine.turn.committed = committed
    machine.end()
    assert ("evaluate vad" in machine.ports.asked) is evaluates


# -- transcripts ----------------------------------------------------------------------------------


def test_a_final_decides_only_when_the_user_is_silent() -> None:
    machine = Machine()
    machine.start()
    machine.stt(final("hello"))
    assert "evaluate stt" not in machine.ports.asked
    machine.end()
    machine.stt(final("world"))
    assert machine.ports.asked[-1] == "evaluate stt"
    assert machine.hooks.details("final") == [("hello", True), ("world", False)]


def test_finals_are_joined_and_replace_the_guesses() -> None:
    machine = Machine()
    machine.stt(interim("hel"))
    machine.stt(final("hello"))
    machine.stt(interim("wor"))
    assert machine.turn.words.with_interim == "hello wor"
    machine.stt(final("world"))
    assert machine.turn.words.with_interim == "hello world"


def test_an_empty_final_is_an_answer_but_no_words() -> None:
    machine = Machine()
    machine.stt(final(""))
    assert machine.ports.asked == ["final_received"]
    assert machine.hooks.calls == []


def test_preflights_are_preemptive_except_before_a_manual_commit() -> None:
    machine = Machine("manual")
    machine.stt(preflight("hi"))
    assert machine.hooks.details("preemptive") == []
    machine.turn.committed = True
    machine.ports.evaluating = True
    machine.stt(preflight("hi there"))
    assert machine.hooks.details("preemptive") == ["hi there"]


def test_after_a_manual_commit_late_events_are_dropped() -> None:
    machine = Machine("manual")
    machine.turn.committed = True
    machine.stt(final("late"))
    machine.ports.evaluating = True
    machine.stt(interim("late"))
    assert machine.turn.words.with_interim == ""
    machine.stt(final("in time"))
    assert machine.turn.words.text == "in time"


def test_aligned_transcripts_are_dated_by_the_start_of_the_audio() -> None:
    machine = Machine("stt")
    machine.ports.input_started_at = 90.0
    machine.core.aligned_transcript = True
    ev = final("hello", end_time=8.5)
    ev.created_at = 100.0
    machine.stt(ev)
    assert ev.speech_end_time == 98.5
    assert machine.turn.last_speaking_at == 98.5


def test_request_ids_are_noted_once() -> None:
    machine = Machine()
    for request_id in ("a", "b", "a", ""):
        machine.stt(SpeechEvent(type=SpeechEventType.INTERIM_TRANSCRIPT, request_id=request_id))
    assert machine.turn.request_ids == ["a", "b"]


def test_speech_events_of_the_stt_count_only_in_stt_mode() -> None:
    for mode in ("base", "manual", "realtime_llm"):
        machine = Machine(mode)
        machine.stt(SpeechEventType.START_OF_SPEECH)
        machine.stt(SpeechEventType.END_OF_SPEECH)
        assert machine.hooks.calls == []
        assert machine.ports.asked == []


def test_in_stt_mode_the_stt_says_when_speech_began_and_ended() -> None:
    machine = Machine("stt")
    machine.stt(SpeechEvent(type=SpeechEventType.START_OF_SPEECH, speech_start_time=99.0))
    assert machine.turn.speech_started_at == 99.0
    machine.clock = 103.0
    machine.stt(SpeechEvent(type=SpeechEventType.END_OF_SPEECH, speech_end_time=102.5))
    assert machine.turn.last_speaking_at == 102.5
    assert machine.turn.committed
    assert machine.ports.asked[-1] == "evaluate stt"


# -- languages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "language"),
    [
        ([("en", "hi")], "en"),
        ([("en", "hello there"), ("de", "ja")], "en"),
        ([("en", "hello there"), ("de", "guten Tag")], "de"),
        ([("auto", "hello there"), ("", "x"), ("multi", "hello there")], None),
        ([("en-US", "hello there")], "en-US"),
    ],
)
def test_languages(seen: list[tuple[str, str]], language: str | None) -> None:
    tracker = LanguageTracker()
    for code, text in seen:
        tracker.observe(LanguageCode(code), text)
    assert tracker.current == language


# -- what a close has to wait for -----------------------------------------------------------------


def test_what_awaits_a_transcript() -> None:
    machine = Machine()
    assert not machine.turn.awaits_transcript(machine.clock)
    machine.start()
    assert machine.turn.awaits_transcript(machine.clock)
    machine.window(speech=0.5)
    machine.stt(final("said"))
    machine.end()
    assert not machine.turn.awaits_transcript(machine.clock)
    machine.stt(interim("and"))
    assert machine.turn.awaits_transcript(machine.clock)


def test_speech_after_the_last_final_awaits_one() -> None:
    machine = Machine()
    machine.start()
    machine.stt(final("first"))
    machine.window(speech=0.5)
    machine.end()
    assert machine.turn.awaits_transcript(machine.clock + 1)
    assert not machine.turn.awaits_transcript(machine.clock + 60)


def test_metrics_are_all_known_or_none_is() -> None:
    assert TurnSnapshot(10.0, 12.0, 12.5).metrics(13.0).known() == {
        "started_speaking_at": 10.0,
        "stopped_speaking_at": 12.0,
        "transcription_delay": 0.5,
        "end_of_turn_delay": 1.0,
    }
    for missing in ((None, 12.0, 12.5), (10.0, None, 12.5), (10.0, 12.0, None), (13.0, 12.0, 1.0)):
        assert TurnSnapshot(*missing).metrics(13.0).known() == {}
    assert TurnSnapshot(10.0, 12.0, 11.0).metrics(11.5).transcription_delay == 0.0


# -- anything goes --------------------------------------------------------------------------------

_events = st.lists(
    st.sampled_from(
        [
            "start",
            "end",
            "speech",
            "silence",
            "final",
            "interim",
            "preflight",
            "empty",
            "stt start",
            "stt end",
            "clear",
            "close",
            "lost",
            "realtime start",
            "realtime end",
        ]
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(_events, st.sampled_from(["base", "stt", "manual", "realtime_llm"]))
def test_whatever_comes_the_turn_stays_consistent(events: list[str], mode: TurnMode) -> None:
    machine = Machine(mode)
    turn, said = machine.turn, 0
    for event in events:
        machine.clock += 0.3
        if event == "start":
            machine.start()
        elif event == "end":
            machine.end()
        elif event in ("speech", "silence"):
            machine.window(**{event: 0.3})
        elif event == "final":
            machine.stt(final("word"))
            said += not (mode == "manual" and turn.committed)
        elif event == "interim":
            machine.stt(interim("guess"))
        elif event == "preflight":
            machine.stt(preflight("guess"))
        elif event == "empty":
            machine.stt(final(""))
        elif event == "stt start":
            machine.stt(SpeechEventType.START_OF_SPEECH)
        elif event == "stt end":
            machine.stt(SpeechEventType.END_OF_SPEECH)
        elif event == "clear":
            turn.clear()
            said = 0
        elif event == "close":
            turn.close(turn.snapshot())
            turn.settle()
            said = 0
        elif event == "lost":
            machine.core.on_vad_lost(machine.clock)
        elif event == "realtime start":
            machine.core.start_speech(machine.clock)
        else:
            machine.core.end_speech(machine.clock)
        assert len(turn.words.text.split()) == said == len(turn.words.confidences)
        assert turn.last_speaking_at is None or turn.last_speaking_at <= machine.clock
        assert turn.heard_at is None or turn.heard_at <= machine.clock
        starts = machine.hooks.names().count("start_of_speech")
        ends = machine.hooks.names().count("end_of_speech")
        if turn.speaking:
            assert starts > 0
        elif event not in ("clear", "close") and starts:
            assert ends > 0


@given(st.lists(st.text("ab ", max_size=4), max_size=6))
def test_joining_never_doubles_or_leads_with_spaces(texts: list[str]) -> None:
    words = Transcript()
    for text in texts:
        if text.strip():
            words.add_final(text.strip(), 1.0, 1.0)
    assert words.text == words.text.strip()
    assert words.text.split() == " ".join(texts).split()
