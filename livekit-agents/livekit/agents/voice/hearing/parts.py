"""The parts of one agent's hearing, put together: each does its work, and asks the others here."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...utils.aio import TaskScope
from ..events import UserTurnExceededEvent
from ..turn import resolve_backchannel_boundary
from .commit import TurnCommit
from .end_of_turn import EndOfTurn
from .hooks import AnsweringMachineListener, RecognitionHooks, notify
from .listening import Listening
from .overlap import OverlapGate, OverlapSignal
from .overlap_judge import OverlapJudge
from .prediction import StreamingPredictor, TextPredictor
from .spans import TurnSpans
from .transcription_timeout import TranscriptionTimeout
from .turn_limit import UserTurnLimit
from .turn_machine import EouTrigger, TurnMachine
from .user_turn import TurnMode, UserTurn

if TYPE_CHECKING:
    from livekit import rtc

    from ...inference import OverlappingSpeechEvent
    from ...language import LanguageCode
    from ...stt import SpeechEvent
    from ...vad import VADEvent
    from ..agent_session import AgentSession
    from ..endpointing import BaseEndpointing

__all__ = ["HearingParts"]

SILENCE_FRAME = 0.2
"""Seconds per frame of the silence that makes an STT finish."""


class HearingParts:
    """Owns the parts, passes on what is heard, and answers what the parts ask of each other.

    Implements `ListeningEvents`, `TurnPorts`, `EndOfTurnHost` and `CommitHost`.
    """

    def __init__(
        self,
        session: AgentSession[Any],
        hooks: RecognitionHooks,
        *,
        endpointing: BaseEndpointing,
        mode: TurnMode,
        aligned_transcript: bool,
    ) -> None:
        options = session.options
        self._session = session
        self.hooks = hooks
        self.scope = TaskScope("recognition")
        self.turn = UserTurn()
        self.spans = TurnSpans()
        self.stt_context: Any = None
        self.last_frame: rtc.AudioFrame | None = None
        self.listening = Listening(self)
        self.limit = UserTurnLimit(options.turn_handling.get("user_turn_limit", {}))
        self.timeout = TranscriptionTimeout(
            options.transcription_timeout, _call_later, self._on_transcription_timeout
        )
        boundary = options.interruption.get("backchannel_boundary")
        self.overlap = OverlapJudge(
            hooks,
            turn=self.turn,
            gate=OverlapGate(resolve_backchannel_boundary(boundary)),
            call_later=_call_later,
            replay=self._replay,
        )
        self.machine = TurnMachine(
            hooks,
            self,
            turn=self.turn,
            endpointing=endpointing,
            overlap=self.overlap,
            timeout=self.timeout,
            limit=self.limit,
            mode=mode,
            aligned_transcript=aligned_transcript,
        )
        self.end_of_turn = EndOfTurn(
            hooks, self, turn=self.turn, scope=self.scope, spans=self.spans
        )
        self.commit = TurnCommit(
            hooks, self, turn=self.turn, end_of_turn=self.end_of_turn, scope=self.scope
        )

    # -- what was heard -------------------------------------------------------------------------

    def on_stt_event(self, ev: SpeechEvent) -> None:
        """An event of the STT."""
        self.spans.record_stt_event(ev)
        pump = self.listening.pump
        stream = None if pump is None else pump.live_stream
        if stream is not None and (context := getattr(stream, "context", None)) is not None:
            self.stt_context = context
        self.machine.on_stt_event(ev, time.time())

    def on_stt_failure(self, error: Exception) -> None:
        """The STT node broke."""
        notify(self.hooks.on_stt_failure, error)

    def on_vad_event(self, ev: VADEvent) -> None:
        """An event of the VAD."""
        self.machine.on_vad_event(ev, time.time())

    def on_vad_lost(self) -> None:
        """The VAD ended."""
        self.machine.on_vad_lost(time.time())

    def on_turn_detector_lost(self) -> None:
        """The streaming turn detector can't judge any more."""
        notify(self.hooks.on_turn_detector_lost)

    def on_verdict(self, ev: OverlappingSpeechEvent) -> None:
        """The interruption detector has judged."""
        self.overlap.on_verdict(ev)

    def on_interruption_detector_changed(
        self, send: Callable[[OverlapSignal], None] | None
    ) -> None:
        """Another interruption detector judges now, or none."""
        if send is None:
            self.overlap.disable()
        else:
            self.overlap.enable(send)

    def _replay(self, held: list[SpeechEvent]) -> None:
        for ev in held:
            self.machine.process_stt_event(ev, time.time())

    @property
    def amd(self) -> AnsweringMachineListener | None:
        """An answering machine detection in progress."""
        amd: AnsweringMachineListener | None = self._session.amd
        return amd

    # -- the turn -------------------------------------------------------------------------------

    @property
    def mode(self) -> TurnMode:
        """Who opens and closes turns."""
        return self.machine.mode

    @property
    def endpointing(self) -> BaseEndpointing:
        """How long silence lasts before a turn is over."""
        return self.machine.endpointing

    @property
    def language(self) -> LanguageCode | None:
        """The language the user speaks, if known."""
        return self.machine.language.current

    @property
    def evaluating(self) -> bool:
        """Whether the end of the turn is being decided."""
        return self.end_of_turn.pending

    def turn_opened(self) -> None:
        """A turn is under way."""
        self.spans.turn_opened(self.turn)

    def evaluate(self, trigger: EouTrigger) -> None:
        """Decide whether the turn is over."""
        self.end_of_turn.evaluate(trigger)

    def resume_turn(self) -> None:
        """The user goes on: nothing is decided yet."""
        self.end_of_turn.drop("user_resumed")

    def turn_committed(self) -> None:
        """The turn was taken."""
        self.timeout.reset()
        if (predictor := self.streaming_predictor) is not None:
            notify(predictor.flush, "turn committed")
            self.turn.detector_flushed = True

    def limit_exceeded(self) -> None:
        """The user has spoken longer than allowed."""
        ev = UserTurnExceededEvent(
            transcript=self.turn.words.with_interim,
            accumulated_transcript=self.limit.transcript,
            accumulated_word_count=self.limit.word_count,
            duration=self.limit.duration,
        )
        notify(self.hooks.on_user_turn_exceeded, ev)

    def _on_transcription_timeout(self, speech_duration: float) -> None:
        if self.turn.started_at is not None:
            notify(
                self.hooks.on_transcription_timeout,
                speech_duration=speech_duration,
                turn_start=self.turn.started_at,
            )

    # -- turn detectors -------------------------------------------------------------------------

    @property
    def text_predictor(self) -> TextPredictor | None:
        """Reads the conversation for the end of a turn."""
        return self.listening.text_predictor

    @property
    def streaming_predictor(self) -> StreamingPredictor | None:
        """Listens for the end of a turn."""
        return self.listening.streaming_predictor

    def predict(self) -> None:
        """Ask the streaming detector."""
        if (predictor := self.streaming_predictor) is not None:
            notify(predictor.predict)

    def forget_prediction(self) -> None:
        """Drop what the streaming detector was asked."""
        if (predictor := self.streaming_predictor) is not None:
            notify(predictor.forget)

    # -- STT and VAD ----------------------------------------------------------------------------

    @property
    def has_stt(self) -> bool:
        """Whether somebody transcribes."""
        return self.listening.has_stt

    @property
    def has_vad(self) -> bool:
        """Whether somebody tells speech from silence."""
        return self.listening.vad is not None

    @property
    def input_started_at(self) -> float | None:
        """When the audio began that the STT counts its seconds from, `time.time()`."""
        pump = self.listening.pump
        return None if pump is None else pump.input_started_at

    def flush_vad(self) -> None:
        """Make the VAD forget the speech it is in."""
        self.listening.flush_vad()

    @property
    def can_flush_stt(self) -> bool:
        """Whether the STT can be told to finish its transcript."""
        pump = self.listening.pump
        return pump is not None and pump.can_flush

    def flush_stt(self) -> bool:
        """Tell the STT to finish its transcript; False if it can't be told to."""
        pump = self.listening.pump
        return pump is not None and pump.flush()

    def push_audio(self, frame: rtc.AudioFrame, stt_frame: rtc.AudioFrame) -> None:
        """Let everybody hear a frame; the STT hears `stt_frame` instead."""
        self.last_frame = frame
        self.listening.push(frame, stt_frame)

    def push_silence(self, duration: float) -> None:
        """Let everybody hear `duration` seconds of silence, in the format of the last frame."""
        last = self.last_frame
        if last is None:
            return
        from ...utils.audio import silence_frame

        silence = silence_frame(SILENCE_FRAME, last.sample_rate, last.num_channels)
        for _ in range(math.ceil(duration / SILENCE_FRAME)):
            self.push_audio(silence, silence)

    def final_received(self) -> None:
        """A final transcript came."""
        self.commit.final_received()


def _call_later(delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(delay, callback, *args)
