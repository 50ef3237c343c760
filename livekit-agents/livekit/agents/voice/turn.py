"""How a session takes turns: the option dictionaries users write, and what a turn detector must offer.

All dictionaries are sparse (`total=False`): plain dicts are accepted everywhere, and a key that is
absent means "the default". Every duration is in seconds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from typing_extensions import TypedDict

from ..types import DEFAULT_API_CONNECT_OPTIONS, APIConnectOptions

if TYPE_CHECKING:
    from livekit import rtc

    from ..language import LanguageCode
    from ..llm import ChatContext

__all__ = [
    "EndpointingOptions",
    "InterruptionOptions",
    "PreemptiveGenerationOptions",
    "TurnDetectionEvent",
    "TurnDetectionMode",
    "TurnHandlingOptions",
    "UserTurnLimitOptions",
]


class EndpointingOptions(TypedDict, total=False):
    """How long to wait after the user fell silent before the turn counts as over.

    Attributes:
        mode: "fixed" (default), or "dynamic": the minimum is learned from the user's own pauses.
        min_delay: Wait when the turn looks complete. Default 0.5, or 0.3 with a streaming detector.
        max_delay: Wait when a detector doubts it. Default 3.0, or 2.5 with a streaming detector.
        alpha: Weight of the past in "dynamic" mode, 0..1. Default 0.9.
    """

    mode: Literal["fixed", "dynamic"]
    min_delay: float
    max_delay: float
    alpha: float


class InterruptionOptions(TypedDict, total=False):
    """When the user may cut the agent off.

    Attributes:
        enabled: Whether replies can be interrupted at all. Default True.
        mode: "adaptive" (a model tells interruptions from backchannels) or "vad". Absent: chosen.
        discard_audio_if_uninterruptible: Recognition gets silence while an uninterruptible speech
            plays. Default True.
        min_duration: User speech that counts as an interruption. Default 0.5.
        min_words: Words needed to interrupt, when there is an STT. Default 0.
        resume_false_interruption: Go on with a paused speech when nothing was said. Default True.
        false_interruption_timeout: Silence after which an interruption counts as false; None never
            does. Default 2.0.
        backchannel_boundary: Margin after the start and before the end of the agent's speech in
            which plain audio activity decides; one number for both. Default (1.0, 1.0).
    """

    enabled: bool
    mode: Literal["adaptive", "vad"]
    discard_audio_if_uninterruptible: bool
    min_duration: float
    min_words: int
    resume_false_interruption: bool
    false_interruption_timeout: float | None
    backchannel_boundary: float | tuple[float, float] | None


class PreemptiveGenerationOptions(TypedDict, total=False):
    """Whether to start a reply before the turn is surely over.

    Attributes:
        enabled: Default True.
        preemptive_tts: Synthesize too, not only generate. Default False.
        max_speech_duration: No attempt when the user has spoken longer. Default 10.0.
        max_retries: Attempts per turn. Default 3.
    """

    enabled: bool
    preemptive_tts: bool
    max_speech_duration: float
    max_retries: int


class UserTurnLimitOptions(TypedDict, total=False):
    """When a user who keeps talking is cut in on (`Agent.on_user_turn_exceeded`).

    Attributes:
        max_words: Words since the agent last spoke. Default None: no limit.
        max_duration: Seconds since the agent last spoke. Default None: no limit.
    """

    max_words: int | None
    max_duration: float | None


class TurnHandlingOptions(TypedDict, total=False):
    """Everything about turns, as `AgentSession(turn_handling=…)` and `Agent` take it.

    Attributes:
        turn_detection: How the end of a turn is found. On a session an absent key means the default
            detector; None chooses by what is available.
        endpointing: Delays.
        interruption: Barge-in.
        preemptive_generation: Early replies.
        user_turn_limit: Limits for long turns; read from the session only.
    """

    turn_detection: TurnDetectionMode | None
    endpointing: EndpointingOptions
    interruption: InterruptionOptions
    preemptive_generation: PreemptiveGenerationOptions
    user_turn_limit: UserTurnLimitOptions


@dataclass
class TurnDetectionEvent:
    """One answer of a streaming turn detector. Probabilities are 0..1, times seconds.

    Attributes:
        end_of_turn_probability: How likely the user is done.
        last_speaking_time: Wall clock of the last speech the answer is about.
        detection_delay: From the request to the answer, with transport.
        inference_duration: What the model itself took.
        backchannel_probability: How likely a short reaction ("uh-huh") fits now.
    """

    type: Literal["eot_prediction"]
    end_of_turn_probability: float
    last_speaking_time: float
    detection_delay: float | None = None
    inference_duration: float | None = None
    backchannel_probability: float | None = None


class _TurnDetector(Protocol):
    """A detector that reads the conversation (text)."""

    @property
    def model(self) -> str: ...

    @property
    def provider(self) -> str: ...

    async def unlikely_threshold(self, language: LanguageCode | None) -> float | None: ...

    async def supports_language(self, language: LanguageCode | None) -> bool: ...

    async def predict_end_of_turn(
        self, chat_ctx: ChatContext, *, timeout: float | None = None
    ) -> float: ...


@runtime_checkable
class _StreamingTurnDetectorStream(Protocol):
    """One conversation's worth of listening by a streaming detector."""

    @property
    def model(self) -> str: ...

    @property
    def provider(self) -> str: ...

    @property
    def is_fallback(self) -> bool: ...

    @property
    def prediction_timeout(self) -> float: ...

    async def unlikely_threshold(self, language: LanguageCode | None) -> float | None: ...

    async def backchannel_threshold(self, language: LanguageCode | None) -> float | None: ...

    async def supports_language(self, language: LanguageCode | None) -> bool: ...

    def predict(self) -> asyncio.Future[TurnDetectionEvent]: ...

    def cancel_inference(self, *, timed_out: bool = False) -> None: ...

    def flush(self, reason: str | None = None) -> None: ...

    def push_audio(self, frame: rtc.AudioFrame) -> None: ...

    def end_input(self) -> None: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class _StreamingTurnDetector(Protocol):
    """A detector that listens to the audio itself. Recognised at run time by these three names."""

    @property
    def model(self) -> str: ...

    @property
    def provider(self) -> str: ...

    def stream(
        self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> _StreamingTurnDetectorStream: ...


TurnDetectionMode: TypeAlias = (
    Literal["stt", "vad", "realtime_llm", "manual"] | _TurnDetector | _StreamingTurnDetector
)
"""How the end of a user turn is found.

- "vad": silence; "stt": the recogniser's own end of speech; "realtime_llm": the realtime model's
  server; "manual": only `AgentSession.commit_user_turn()`.
- A detector object: silence, and a model that says whether the user sounds done.
"""
