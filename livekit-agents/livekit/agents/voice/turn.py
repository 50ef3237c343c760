"""How a session takes turns: the option dictionaries users write, and what a turn detector must offer.

All dictionaries are sparse (`total=False`): plain dicts are accepted everywhere, and a key that is
absent means "the default". Every duration is in seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeGuard, runtime_checkable

from typing_extensions import TypedDict

from ..log import logger
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
    "is_streaming_detector",
    "resolve_backchannel_boundary",
    "resolve_endpointing",
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
    def model(self) -> str:
        """Name of the model."""
        ...

    @property
    def provider(self) -> str:
        """Who runs it."""
        ...

    async def unlikely_threshold(self, language: LanguageCode | None) -> float | None:
        """The probability below which the turn probably goes on; None: it does not know the language."""
        ...

    async def supports_language(self, language: LanguageCode | None) -> bool:
        """Whether it can judge this language; None: the language is not known."""
        ...

    async def predict_end_of_turn(
        self, chat_ctx: ChatContext, *, timeout: float | None = None
    ) -> float:
        """How likely the user is done, from 0 to 1.

        Args:
            chat_ctx: The conversation, which ends with what the user has said so far.
            timeout: Seconds that it may take.

        Raises:
            asyncio.TimeoutError: It took longer.
        """
        ...


@runtime_checkable
class _StreamingTurnDetectorStream(Protocol):
    """One conversation's worth of listening by a streaming detector."""

    @property
    def model(self) -> str:
        """Name of the model in use."""
        ...

    @property
    def provider(self) -> str:
        """Who runs it."""
        ...

    @property
    def is_fallback(self) -> bool:
        """Whether a lesser model has taken over."""
        ...

    @property
    def prediction_timeout(self) -> float:
        """Seconds after which a prediction is of no use any more."""
        ...

    async def unlikely_threshold(self, language: LanguageCode | None) -> float | None:
        """The probability below which the turn probably goes on; None: it does not know the language."""
        ...

    async def backchannel_threshold(self, language: LanguageCode | None) -> float | None:
        """The probability from which a short reaction fits; None: it does not judge that."""
        ...

    async def supports_language(self, language: LanguageCode | None) -> bool:
        """Whether it can judge this language; None: the language is not known."""
        ...

    def predict(self) -> asyncio.Future[TurnDetectionEvent]:
        """Ask whether the turn is over. The answer comes unless the model is stuck."""
        ...

    def cancel_inference(self, *, timed_out: bool = False) -> None:
        """The answer is not wanted any more, or took too long; whoever waits gets 0.0."""
        ...

    def flush(self, reason: str | None = None) -> None:
        """The audio so far is dealt with: forget it."""
        ...

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """Hear a frame, of any rate."""
        ...

    def end_input(self) -> None:
        """Nothing more will be heard."""
        ...

    async def aclose(self) -> None:
        """End it. Idempotent."""
        ...


@runtime_checkable
class _StreamingTurnDetector(Protocol):
    """A detector that listens to the audio itself. Recognised at run time by these three names."""

    @property
    def model(self) -> str:
        """Name of the model."""
        ...

    @property
    def provider(self) -> str:
        """Who runs it."""
        ...

    def stream(
        self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> _StreamingTurnDetectorStream:
        """Begin to listen to a conversation."""
        ...


TurnDetectionMode: TypeAlias = (
    Literal["stt", "vad", "realtime_llm", "manual"] | _TurnDetector | _StreamingTurnDetector
)
"""How the end of a user turn is found.

- "vad": silence; "stt": the recogniser's own end of speech; "realtime_llm": the realtime model's
  server; "manual": only `AgentSession.commit_user_turn()`.
- A detector object: silence, and a model that says whether the user sounds done.
"""

TURN_DETECTION_MODES = ("stt", "vad", "realtime_llm", "manual")


def check_turn_handling(given: Mapping[str, Any]) -> None:
    """Refuse what can't be meant. A key that nobody knows is ignored, with a warning.

    Raises:
        TypeError: A group of options is no dict.
        ValueError: `turn_detection` is text that names no mode.
    """
    _warn_of_unknown_keys("turn_handling", given, TurnHandlingOptions)
    for name, known in (
        ("endpointing", EndpointingOptions),
        ("interruption", InterruptionOptions),
        ("preemptive_generation", PreemptiveGenerationOptions),
        ("user_turn_limit", UserTurnLimitOptions),
    ):
        options = given.get(name, {})
        if not isinstance(options, Mapping):
            raise TypeError(
                f"{name} must be a dict of options ({', '.join(known.__annotations__)}), "
                f"got {options!r}"
            )
        _warn_of_unknown_keys(name, options, known)
    check_turn_detection(given.get("turn_detection"))


def check_turn_detection(mode: Any) -> None:
    """Raise `ValueError` if `mode` is text that names no mode."""
    if isinstance(mode, str) and mode not in TURN_DETECTION_MODES:
        raise ValueError(
            f"unknown turn_detection {mode!r}: expected one of {', '.join(TURN_DETECTION_MODES)}, "
            "a turn detector, or None"
        )


def _warn_of_unknown_keys(name: str, given: Mapping[str, Any], known: type) -> None:
    unknown = [key for key in given if key not in known.__annotations__]
    if unknown:
        logger.warning(
            "unknown key(s) %s of %s are ignored; there are %s",
            ", ".join(map(repr, unknown)),
            name,
            ", ".join(known.__annotations__),
        )


# (min_delay, max_delay): a detector that hears the audio needs less silence to be sure.
_DEFAULT_DELAYS = (0.5, 3.0)
_STREAMING_DELAYS = (0.3, 2.5)
_DEFAULT_ALPHA = 0.9


def is_streaming_detector(detection: object) -> TypeGuard[_StreamingTurnDetector]:
    """Whether `detection` is a detector that listens to the audio itself."""
    return not isinstance(detection, str) and isinstance(detection, _StreamingTurnDetector)


def resolve_endpointing(*given: EndpointingOptions, streaming: bool) -> EndpointingOptions:
    """Fill in the endpointing defaults. Nothing given is changed.

    Args:
        given: The session's keys, and over them the agent's.
        streaming: Whether a streaming detector finds the turns: its defaults are tighter.

    Returns:
        A new dict with every key. A default gives way to the other delay if that was given, so
        `{"min_delay": 4.0}` alone raises the maximum to 4.0 too.

    Raises:
        ValueError: A delay is negative, the minimum above the maximum, or alpha outside 0..1.
    """
    merged = EndpointingOptions()
    for layer in given:
        merged.update(layer)
    default_min, default_max = _STREAMING_DELAYS if streaming else _DEFAULT_DELAYS
    min_delay, max_delay = merged.get("min_delay"), merged.get("max_delay")
    if min_delay is None:
        min_delay = default_min if max_delay is None else min(default_min, max_delay)
    if max_delay is None:
        max_delay = max(default_max, min_delay)
    alpha = merged.get("alpha", _DEFAULT_ALPHA)
    if not 0 <= min_delay <= max_delay:
        raise ValueError(
            "endpointing needs 0 <= min_delay <= max_delay (seconds), "
            f"got min_delay={min_delay}, max_delay={max_delay}"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"endpointing alpha must be between 0 and 1, got {alpha}")
    return EndpointingOptions(
        mode=merged.get("mode", "fixed"), min_delay=min_delay, max_delay=max_delay, alpha=alpha
    )


def resolve_backchannel_boundary(
    boundary: float | tuple[float, float] | None,
) -> tuple[float, float]:
    """The margins after the start and before the end of agent speech, in seconds; None is none.

    Raises:
        ValueError: Not a number or two, or a negative one.
    """
    if boundary is None:
        return (0.0, 0.0)
    ends = (boundary, boundary) if isinstance(boundary, (int, float)) else tuple(boundary)
    if len(ends) != 2 or not all(isinstance(e, (int, float)) and e >= 0 for e in ends):
        raise ValueError(
            "backchannel_boundary must be a tuple of two non-negative floats"
            f" (seconds), or one for both, got {boundary!r}"
        )
    return ends
