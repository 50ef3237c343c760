"""From what the VAD and the STT report to the state of the user's turn. No I/O, no clock.

`TurnMachine` is told what was heard and when; it keeps the turn, tells the hooks, and asks its
*ports* for what needs an event loop: deciding about the end of the turn, timers, detectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from ...log import logger
from ...stt import SpeechEvent, SpeechEventType
from ...vad import VADEvent, VADEventType
from .hooks import (
    AnsweringMachineListener,
    PreemptiveGenerationInfo,
    RecognitionHooks,
    notify,
)
from .transcript import LanguageTracker, first_alternative, joined
from .user_turn import TurnMode, UserTurn

if TYPE_CHECKING:
    from ..endpointing import BaseEndpointing
    from .overlap_judge import OverlapJudge
    from .transcription_timeout import TranscriptionTimeout
    from .turn_limit import UserTurnLimit

__all__ = ["EouTrigger", "TurnMachine", "TurnPorts"]

EouTrigger = Literal["vad", "stt", "manual"]

PREDICT_AFTER_SILENCE = 0.2
"""Seconds of silence after which a streaming detector is asked whether the turn is over."""


class TurnPorts(Protocol):
    """What the turn machine can have done."""

    @property
    def has_stt(self) -> bool:
        """Whether somebody transcribes."""
        ...

    @property
    def has_vad(self) -> bool:
        """Whether somebody tells speech from silence."""
        ...

    @property
    def amd(self) -> AnsweringMachineListener | None:
        """An answering machine detection in progress."""
        ...

    @property
    def input_started_at(self) -> float | None:
        """When the audio that the STT counts its seconds from began, `time.time()`."""
        ...

    @property
    def evaluating(self) -> bool:
        """Whether a decision about the end of the turn is under way."""
        ...

    def turn_opened(self) -> None:
        """A turn is under way."""

    def evaluate(self, trigger: EouTrigger) -> None:
        """Decide whether the turn is over, replacing a decision under way."""

    def resume_turn(self) -> None:
        """The user goes on: drop the decision under way."""

    def predict(self) -> None:
        """Ask the streaming detector, unless it was asked already."""

    def forget_prediction(self) -> None:
        """Drop what the streaming detector was asked."""

    def flush_vad(self) -> None:
        """Make the VAD forget the segment it is in."""

    def final_received(self) -> None:
        """Wake whoever waits for a final transcript."""

    def limit_exceeded(self) -> None:
        """The user has spoken longer than allowed."""


class TurnMachine:
    """Keeps the user's turn up to date.

    Args:
        hooks: Told what happens.
        ports: Asked to do what needs an event loop.
        turn: The state to keep.
        endpointing: Told when the user starts and stops.
        overlap: Judges speech over the agent.
        timeout: Notices missing transcripts.
        limit: Counts words and seconds.
    """

    def __init__(
        self,
        hooks: RecognitionHooks,
        ports: TurnPorts,
        *,
        turn: UserTurn,
        endpointing: BaseEndpointing,
        overlap: OverlapJudge,
        timeout: TranscriptionTimeout,
        limit: UserTurnLimit,
        mode: TurnMode,
        aligned_transcript: bool = False,
    ) -> None:
        self.mode = mode
        self.endpointing = endpointing
        self.aligned_transcript = aligned_transcript
        self.language = LanguageTracker()
        self._hooks = hooks
        self._ports = ports
        self._turn = turn
        self._overlap = overlap
        self._timeout = timeout
        self._limit = limit

    # -- VAD ------------------------------------------------------------------------------------

    def on_vad_event(self, ev: VADEvent, now: float) -> None:
        """The VAD reports; `now` is `time.time()`."""
        if ev.type is VADEventType.INFERENCE_DONE:
            self._on_vad_inference(ev, now)
        elif ev.type is VADEventType.START_OF_SPEECH:
            started_at = now - ev.speech_duration - ev.inference_duration
            if not self._turn.segment_open:
                self._turn.speech_started_at = started_at
            self._turn.segment_started_at = started_at
            self._turn.heard_at = now
            self._start_speech(ev, started_at, speech_duration=ev.speech_duration)
        elif ev.type is VADEventType.END_OF_SPEECH:
            self._on_vad_end(ev, now)

    def _on_vad_inference(self, ev: VADEvent, now: float) -> None:
        notify(self._hooks.on_vad_inference_done, ev)
        turn = self._turn
        if ev.raw_accumulated_speech > 0:
            turn.last_speaking_at = now
            if turn.speech_started_at is None:
                turn.speech_started_at = now - ev.raw_accumulated_speech
            if turn.speaking:
                turn.heard_at = now
                self._ports.forget_prediction()
        elif turn.speaking and ev.raw_accumulated_silence >= PREDICT_AFTER_SILENCE:
            self._ports.predict()

    def _on_vad_end(self, ev: VADEvent, now: float) -> None:
        turn = self._turn
        silent_for = ev.silence_duration + ev.inference_duration
        was_open = turn.segment_open
        self._end_speech(ev, now - silent_for)
        if was_open and self._ports.has_stt:
            self._timeout.on_end_of_speech(
                speech_duration=ev.speech_duration, silent_for=silent_for
            )
        if self.mode == "base" or (self.mode == "stt" and turn.committed):
            self._ports.evaluate("vad")
        if (amd := self._ports.amd) is not None:
            notify(amd.on_user_speech_ended, ev.silence_duration)

    def on_vad_lost(self, now: float) -> None:
        """The VAD is gone: a user who was speaking can't be heard to stop any more."""
        if self._turn.segment_open:
            self.end_speech(now)
        self._overlap.release_held()

    # -- starting and stopping to speak ---------------------------------------------------------

    def start_speech(self, started_at: float) -> None:
        """Somebody other than the VAD says that the user speaks since `started_at`."""
        if self._turn.speech_started_at is None:
            self._turn.speech_started_at = started_at
        self._start_speech(None, started_at, speech_duration=0.0)

    def end_speech(self, now: float) -> bool:
        """The user counts as silent from now on; returns whether they counted as speaking."""
        if not self._turn.speaking:
            return False
        if self._ports.has_stt:
            self._turn.heard_at = now
        self._turn.segment_started_at = None
        self._end_speech(None, now)
        return True

    def stt_replaced(self, now: float) -> None:
        """The stream that reported the start of speech won't report its end."""
        if self.mode == "stt" and not self._turn.segment_open:
            self.end_speech(now)

    def _start_speech(
        self, ev: VADEvent | None, started_at: float, *, speech_duration: float
    ) -> None:
        turn = self._turn
        self._timeout.on_start_of_speech()
        turn.open(started_at)
        self._ports.turn_opened()
        self._overlap.user_started(started_at, speech_duration=speech_duration)
        self.endpointing.on_start_of_speech(started_at, self._overlap.agent_speaking)
        turn.speaking = True
        turn.flush_requested = turn.detector_flushed = False
        self._ports.forget_prediction()
        self._resume_turn()
        notify(self._hooks.on_start_of_speech, ev, started_at)
        if (amd := self._ports.amd) is not None:
            notify(amd.on_user_speech_started)

    def _resume_turn(self) -> None:
        # A turn that user code has ended is over: what follows belongs to the next one.
        if self.mode == "manual" and self._turn.request is not None:
            return
        if self._turn.request is not None:
            self._turn.request = None
            self._turn.committed = False
        self._ports.resume_turn()

    def _end_speech(self, ev: VADEvent | None, ended_at: float) -> None:
        turn = self._turn
        turn.open(ended_at)
        self._ports.turn_opened()
        turn.speaking = False
        turn.last_speaking_at = ended_at
        if ev is not None:
            turn.segment_started_at = None
        self.endpointing.on_end_of_speech(ended_at, self._overlap.judgement)
        self._overlap.user_ended(ended_at)
        notify(self._hooks.on_end_of_speech, ev)

    # -- STT ------------------------------------------------------------------------------------

    def on_stt_event(self, ev: SpeechEvent, now: float) -> None:
        """The STT reports; `now` is `time.time()`."""
        if ev.type is SpeechEventType.RECOGNITION_USAGE:
            return
        turn = self._turn
        if ev.request_id and ev.request_id not in turn.request_ids:
            turn.request_ids.append(ev.request_id)
        self._date(ev)
        if self._comes_after_commit(ev):
            return
        if ev.type is SpeechEventType.FINAL_TRANSCRIPT and first_alternative(ev).text:
            self._timeout.on_transcript()
            self._overlap.on_final_transcript()
        if self._overlap.holding:
            self._overlap.hold(ev)
            return
        self.process_stt_event(ev, now)

    def _date(self, ev: SpeechEvent) -> None:
        """Give an aligned transcript its end on the wall clock."""
        end_time = first_alternative(ev).end_time
        anchor = self._ports.input_started_at
        if (
            ev.speech_end_time is None
            and self.aligned_transcript
            and end_time > 0
            and anchor is not None
            and anchor + end_time <= ev.created_at
        ):
            ev.speech_end_time = anchor + end_time

    def _comes_after_commit(self, ev: SpeechEvent) -> bool:
        """Whether user code has ended the turn that this event would still add to."""
        return (
            self.mode == "manual"
            and self._turn.committed
            and (not self._ports.evaluating or ev.type is SpeechEventType.INTERIM_TRANSCRIPT)
        )

    def process_stt_event(self, ev: SpeechEvent, now: float) -> None:
        """Take an event that is not, or no longer, held back."""
        if ev.type is SpeechEventType.FINAL_TRANSCRIPT:
            self._on_final(ev, now)
        elif ev.type is SpeechEventType.PREFLIGHT_TRANSCRIPT:
            self._on_preflight(ev, now)
        elif ev.type is SpeechEventType.INTERIM_TRANSCRIPT:
            self._on_interim(ev)
        elif self.mode == "stt":
            if ev.type is SpeechEventType.START_OF_SPEECH:
                self._on_stt_start(ev, now)
            elif ev.type is SpeechEventType.END_OF_SPEECH:
                self._on_stt_end(ev, now)

    def _on_final(self, ev: SpeechEvent, now: float) -> None:
        turn, words = self._turn, self._turn.words
        best = first_alternative(ev)
        self.language.observe(best.language, best.text)
        turn.heard_at = None
        self._ports.final_received()  # even an empty one is an answer
        if not best.text:
            return
        notify(self._hooks.on_final_transcript, ev, speaking=self._speaking_if_known())
        if (amd := self._ports.amd) is not None:
            notify(amd.on_transcript, best.text)
        logger.debug(
            "received user transcript",
            extra={"lk.pii.user_transcript": best.text, "language": self.language.current},
        )
        preflight = words.preflight
        words.add_final(best.text, best.confidence, now)
        self._move_last_speaking(ev, now)
        if self._limit.add(best.text, speech_started_at=turn.speech_started_at, now=now):
            self._ports.limit_exceeded()
        if self.mode == "base" or turn.committed:
            if words.text != preflight:
                notify(self._hooks.on_preemptive_generation, self._preemptive(words.text))
            if not turn.speaking:
                self._ports.evaluate("stt")

    def _on_preflight(self, ev: SpeechEvent, now: float) -> None:
        words = self._turn.words
        notify(self._hooks.on_interim_transcript, ev, speaking=self._speaking_if_known())
        best = first_alternative(ev)
        self.language.observe(best.language, best.text)
        if not best.text:
            return
        words.set_preflight(best.text, now)
        self._move_last_speaking(ev, now)
        if self.mode != "manual" or self._turn.committed:
            notify(
                self._hooks.on_preemptive_generation,
                PreemptiveGenerationInfo(
                    new_transcript=words.preflight,
                    transcript_confidence=words.confidence_with(best.confidence),
                    started_speaking_at=self._turn.speech_started_at,
                ),
            )

    def _on_interim(self, ev: SpeechEvent) -> None:
        words = self._turn.words
        notify(self._hooks.on_interim_transcript, ev, speaking=self._speaking_if_known())
        words.interim = first_alternative(ev).text
        if words.preflight and words.interim:
            stale = self._preemptive(joined(words.text, words.interim))
            notify(self._hooks.on_preflight_stale, stale)

    def _on_stt_start(self, ev: SpeechEvent, now: float) -> None:
        turn = self._turn
        turn.heard_at = now
        self.start_speech(now if ev.speech_start_time is None else ev.speech_start_time)
        turn.last_speaking_at = self._spoken_until(ev, now)

    def _on_stt_end(self, ev: SpeechEvent, now: float) -> None:
        turn = self._turn
        until = ev.speech_end_time
        ended_at = self._spoken_until(ev, now) if until is None else min(until, now)
        if turn.segment_open:
            # What goes on must be heard as a new start, which can interrupt.
            logger.warning(
                "stt end of speech received while vad is still in a speech segment, flushing vad"
            )
            turn.segment_started_at = None
            self._ports.flush_vad()
        self._end_speech(None, ended_at)
        turn.committed = True
        self._ports.evaluate("stt")

    # -- details --------------------------------------------------------------------------------

    def _speaking_if_known(self) -> bool | None:
        known = self._ports.has_vad or self.mode == "stt"
        return self._turn.speaking if known else None

    def _spoken_until(self, ev: SpeechEvent, now: float) -> float:
        end_time, anchor = first_alternative(ev).end_time, self._ports.input_started_at
        if end_time > 0 and anchor is not None:
            return min(anchor + end_time, now)
        return now

    def _move_last_speaking(self, ev: SpeechEvent, now: float) -> None:
        """Let a transcript say when the user last spoke, where no VAD knows better."""
        turn = self._turn
        dated = first_alternative(ev).end_time > 0 and self._ports.input_started_at is not None
        if (
            not self._ports.has_vad
            or turn.last_speaking_at is None
            or (self.mode == "stt" and dated)
        ):
            turn.last_speaking_at = self._spoken_until(ev, now)

    def _preemptive(self, transcript: str) -> PreemptiveGenerationInfo:
        return PreemptiveGenerationInfo(
            new_transcript=transcript,
            transcript_confidence=self._turn.words.confidence,
            started_speaking_at=self._turn.speech_started_at,
        )
