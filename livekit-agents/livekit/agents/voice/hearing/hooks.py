"""What hearing tells the one who listens to it, and what it tells them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ...log import logger

if TYPE_CHECKING:
    from livekit import rtc

    from ...inference import OverlappingSpeechEvent
    from ...llm import ChatContext
    from ...stt import SpeechEvent
    from ...vad import VADEvent
    from ..events import EotPredictionEvent, UserTurnExceededEvent

__all__ = [
    "AnsweringMachineListener",
    "EndOfTurnInfo",
    "PreemptiveGenerationInfo",
    "RecognitionHooks",
    "TurnMetrics",
    "notify",
]


@dataclass(frozen=True)
class TurnMetrics:
    """When the turn was spoken, and how long it took to know. All known, or all None.

    The two moments are `time.time()` seconds, the delays seconds.
    """

    started_speaking_at: float | None = None
    stopped_speaking_at: float | None = None
    transcription_delay: float | None = None
    """From the end of the speech to its last final transcript."""
    end_of_turn_delay: float | None = None
    """From the end of the speech to the decision that the turn is over."""

    def known(self) -> dict[str, float]:
        """The values that are known, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class EndOfTurnInfo:
    """A user turn that is over."""

    new_transcript: str
    transcript_confidence: float
    """Mean confidence of its final transcripts, 0..1; 0 when there are none."""
    metrics: TurnMetrics = field(default_factory=TurnMetrics)
    skip_reply: bool = False
    """The words go to the history, and the agent stays silent."""
    backchannel_over_agent: bool = False
    """A detector judged this speech over the agent to be no interruption."""
    span: Any = None
    """The `user_turn` span. Whoever commits the turn ends it."""


@dataclass(frozen=True)
class PreemptiveGenerationInfo:
    """A turn that is probably over: worth starting a reply for."""

    new_transcript: str
    transcript_confidence: float
    started_speaking_at: float | None
    """`time.time()` seconds."""


class RecognitionHooks(Protocol):
    """Who listens to `AudioRecognition`. All calls are synchronous, on the event loop.

    An exception raised by a hook is logged and ends that event only.
    """

    @property
    def interruption_by_audio_activity_enabled(self) -> bool:
        """Whether plain audio activity may interrupt the agent right now."""
        ...

    @interruption_by_audio_activity_enabled.setter
    def interruption_by_audio_activity_enabled(self, enabled: bool) -> None: ...

    def on_start_of_speech(self, ev: VADEvent | None, speech_start_time: float) -> None:
        """The user began to speak at `speech_start_time`; `ev` is None if a VAD didn't say so."""

    def on_vad_inference_done(self, ev: VADEvent) -> None:
        """The VAD looked at another piece of audio."""

    def on_end_of_speech(self, ev: VADEvent | None) -> None:
        """The user fell silent; `ev` is None if a VAD didn't say so."""

    def on_interim_transcript(self, ev: SpeechEvent, *, speaking: bool | None) -> None:
        """A guess at what is being said. `speaking` is None when nobody can tell."""

    def on_final_transcript(self, ev: SpeechEvent, *, speaking: bool | None = None) -> None:
        """What was said. `speaking`: whether the user still speaks, None when nobody can tell."""

    def on_end_of_turn(self, info: EndOfTurnInfo) -> bool:
        """The turn is over. Returns whether it was taken; if not, its words stay for the next."""
        ...

    def on_eot_prediction(self, ev: EotPredictionEvent) -> None:
        """A detector said how likely the turn is over."""

    def on_agent_backchannel_opportunity(self, ev: EotPredictionEvent) -> None:
        """A detector thinks a short reaction of the agent would fit now."""

    def on_backchannel_confirmed(self) -> None:
        """What the silent user had said over the agent was no interruption."""

    def on_preemptive_generation(self, info: PreemptiveGenerationInfo) -> None:
        """The turn is probably over."""

    def on_preflight_stale(self, info: PreemptiveGenerationInfo) -> None:
        """The transcript has grown beyond the one given to `on_preemptive_generation`."""

    def on_overlap_speech(self, ev: OverlappingSpeechEvent) -> None:
        """A detector judged speech over the agent."""

    def on_transcription_timeout(self, *, speech_duration: float, turn_start: float) -> None:
        """The user spoke for `speech_duration` seconds, and no transcript came."""

    def on_user_turn_exceeded(self, ev: UserTurnExceededEvent) -> None:
        """The user has spoken longer than the limits allow."""

    def on_stt_failure(self, error: Exception) -> None:
        """The STT node broke in a way that the STT itself has not reported as an error."""

    def on_turn_detector_lost(self) -> None:
        """The streaming turn detector can't judge any more: silence has to decide."""

    def retrieve_chat_ctx(self) -> ChatContext:
        """The conversation so far, for detectors. It is not changed."""
        ...


def notify(hook: Callable[..., object], *args: object, **kwargs: object) -> object:
    """Call a hook and return what it returns.

    What it raises is logged: one bad listener must not make the session deaf.
    """
    try:
        return hook(*args, **kwargs)
    except (Exception, asyncio.CancelledError):
        logger.exception("hearing: %s failed", getattr(hook, "__qualname__", hook))
        return None


class AnsweringMachineListener(Protocol):
    """What an active answering machine detection hears; `AgentSession.amd` while it runs."""

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """A frame from the user, as it came in."""

    def on_user_speech_started(self) -> None:
        """The user began to speak."""

    def on_user_speech_ended(self, silence_duration: float) -> None:
        """The user fell silent, `silence_duration` seconds ago."""

    def on_transcript(self, text: str) -> None:
        """A final transcript."""

    def on_end_of_turn(self) -> bool:
        """A turn is over. Returns whether the reply to it is to be skipped."""
        ...
