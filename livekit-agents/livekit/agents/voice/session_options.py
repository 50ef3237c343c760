"""The options of `AgentSession` and `Agent`: their types, defaults, and the deprecated spellings.

All public names here are also importable from `livekit.agents.voice.agent_session`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from typing_extensions import TypedDict

from ..llm.chat_context import Instructions
from ..log import logger
from ..types import DEFAULT_API_CONNECT_OPTIONS, APIConnectOptions, NotGiven, NotGivenOr
from ..utils import is_given
from .closing import CloseBudgets, check_timeout
from .turn import (
    EndpointingOptions,
    InterruptionOptions,
    PreemptiveGenerationOptions,
    TurnHandlingOptions,
    UserTurnLimitOptions,
    check_turn_handling,
    is_streaming_detector,
    resolve_endpointing,
)

if TYPE_CHECKING:
    from livekit import rtc

    from ..tts import TTS
    from .agent_session import AgentSession
    from .keyterm_detection import STTContextOptions
    from .transcription.text_transforms import TextTransforms

DEFAULT_TTS_TEXT_TRANSFORMS: list[TextTransforms] = ["filter_markdown", "filter_emoji"]


class RecordingOptions(TypedDict, total=False):
    """What of a session is recorded. Keys left out are on; `redaction` and `input_delta` are off."""

    audio: bool
    traces: bool
    logs: bool
    transcript: bool
    redaction: bool
    input_delta: bool


class NonverbalOptions(TypedDict, total=False):
    """Nonverbal sounds an expressive voice may make. Left out means allowed."""

    laughing: bool
    breathing: bool
    sighing: bool
    crying: bool
    vocalizing: bool
    mouth_sounds: bool
    reflex_sounds: bool


class SpeechSteeringOptions(TypedDict, total=False):
    """How an expressive voice should speak."""

    disfluencies: bool
    nonverbal_sounds: bool | NonverbalOptions
    pace: Literal["slow", "normal", "fast"]


class ExpressiveOptions(TypedDict, total=False):
    """Expressive speech: the guide given to the LLM, and how to speak."""

    speech_steering: SpeechSteeringOptions
    tts_instructions_template: Instructions | str
    tts_instructions_append: str


DEFAULT_SPEECH_STEERING_OPTIONS = SpeechSteeringOptions(disfluencies=True)
DEFAULT_EXPRESSIVE_OPTIONS = ExpressiveOptions(
    tts_instructions_template=(
        "Your words are spoken by an expressive voice. Use its formatting tags where they fit what "
        "you say, and nowhere else:\n{tts.markup.llm_instructions}"
    ),
    speech_steering=DEFAULT_SPEECH_STEERING_OPTIONS,
)

_RECORD_ALL = RecordingOptions(audio=True, traces=True, logs=True, transcript=True, redaction=False)
_RECORD_NOTHING = RecordingOptions(
    audio=False, traces=False, logs=False, transcript=False, redaction=False
)


def resolve_recording(record: bool | RecordingOptions) -> RecordingOptions:
    """All on for True, all off for False; a dict is laid over all-on."""
    if isinstance(record, bool):
        return cast(RecordingOptions, dict(_RECORD_ALL if record else _RECORD_NOTHING))
    return cast(RecordingOptions, {**_RECORD_ALL, **record})


def resolve_expressive_options(
    expr: bool | ExpressiveOptions, *, provider_key: str, default: ExpressiveOptions
) -> ExpressiveOptions:
    """The effective template and steering for one TTS provider.

    Args:
        expr: What the agent or session was given.
        provider_key: The provider's markup dialect; steering is rendered for it.
        default: Used for what `expr` leaves out.

    Returns:
        A dict with exactly `tts_instructions_template` and `speech_steering`.
    """
    given = expr if isinstance(expr, Mapping) else ExpressiveOptions()
    steering = {**default.get("speech_steering", {}), **given.get("speech_steering", {})}
    explicit = "tts_instructions_template" in given
    template = given.get("tts_instructions_template", default.get("tts_instructions_template", ""))
    parts = [str(template)]
    if not explicit:
        parts.append(_render_steering(provider_key, cast(SpeechSteeringOptions, steering)))
    parts.append(given.get("tts_instructions_append", ""))
    text = "\n".join(part for part in parts if part)
    unchanged = text == str(template)
    return ExpressiveOptions(
        tts_instructions_template=template if unchanged else text,
        speech_steering=cast(SpeechSteeringOptions, steering),
    )


def _render_steering(provider_key: str, steering: SpeechSteeringOptions) -> str:
    from ..tts._provider_format import steering_instructions

    return steering_instructions(provider_key, cast(Mapping[str, Any], steering))


def expressive_guide(tts: TTS[Any], options: ExpressiveOptions) -> str:
    """What the LLM reads about the markup of an expressive voice.

    Args:
        tts: The voice.
        options: As `resolve_expressive_options` returns them.
    """
    template = options["tts_instructions_template"]
    if isinstance(template, Instructions):
        template = template.render(modality="audio")
    steering = cast(Mapping[str, Any], options.get("speech_steering", {}))
    markup = tts.markup.llm_instructions(speech_steering=steering) or ""
    return template.replace("{tts.markup.llm_instructions}", markup)


@dataclass
class SessionConnectOptions:
    """How the session connects to its models, and how many failures it bears."""

    stt_conn_options: APIConnectOptions = field(default_factory=lambda: DEFAULT_API_CONNECT_OPTIONS)
    llm_conn_options: APIConnectOptions = field(default_factory=lambda: DEFAULT_API_CONNECT_OPTIONS)
    tts_conn_options: APIConnectOptions = field(default_factory=lambda: DEFAULT_API_CONNECT_OPTIONS)
    max_unrecoverable_errors: int = 3
    """Consecutive unrecoverable errors of one kind of model that the session survives."""


@dataclass
class AgentSessionOptions:
    """The resolved options of a session."""

    turn_handling: TurnHandlingOptions
    stt_context_options: STTContextOptions
    endpointing_overrides: EndpointingOptions
    max_tool_steps: int
    user_away_timeout: float | None
    transcription_timeout: float | None
    min_consecutive_speech_delay: float
    use_tts_aligned_transcript: bool | None
    tts_text_transforms: Sequence[TextTransforms] | None
    ivr_detection: bool
    aec_warmup_duration: float | None
    session_close_transcript_timeout: float
    recording_options: RecordingOptions
    forced_drain_timeout: float = 5.0
    teardown_timeout: float = 2.0
    drain_timeout: float | None = None

    @property
    def endpointing(self) -> EndpointingOptions:
        """The session's resolved endpointing options."""
        return self.turn_handling["endpointing"]

    @property
    def interruption(self) -> InterruptionOptions:
        """The session's resolved interruption options."""
        return self.turn_handling["interruption"]

    @property
    def preemptive_generation(self) -> PreemptiveGenerationOptions:
        """The session's resolved preemptive generation options."""
        return self.turn_handling["preemptive_generation"]

    def check(self) -> None:
        """Refuse wrong values at once, not when the session closes.

        Raises:
            ValueError: If one of the timeouts is not a finite number of seconds >= 0, or there is to
                be a negative number of rounds of tools.
        """
        if self.max_tool_steps < 0:
            raise ValueError(f"max_tool_steps must be at least 0, got {self.max_tool_steps}")
        if self.user_away_timeout is not None:
            check_timeout("user_away_timeout", self.user_away_timeout)
        check_timeout("session_close_transcript_timeout", self.session_close_transcript_timeout)
        _ = self.close_budgets

    @property
    def close_budgets(self) -> CloseBudgets:
        """How long each part of a close may take."""
        return CloseBudgets(
            forced_drain=self.forced_drain_timeout,
            teardown=self.teardown_timeout,
            drain=self.drain_timeout,
            transcript=self.session_close_transcript_timeout,
        )


_INTERRUPTION_DEFAULTS = InterruptionOptions(
    enabled=True,
    discard_audio_if_uninterruptible=True,
    min_duration=0.5,
    min_words=0,
    resume_false_interruption=True,
    false_interruption_timeout=2.0,
    backchannel_boundary=(1.0, 1.0),
)
_PREEMPTIVE_DEFAULTS = PreemptiveGenerationOptions(
    enabled=True, preemptive_tts=False, max_speech_duration=10.0, max_retries=3
)
_USER_TURN_LIMIT_DEFAULTS = UserTurnLimitOptions(max_words=None, max_duration=None)


def session_turn_handling(given: TurnHandlingOptions) -> TurnHandlingOptions:
    """Fill the keys a session was not given with their defaults.

    `turn_detection` stays absent when it was not given: the default turn detector is made when it
    is wanted for the first time. It is a streaming one.
    """
    streaming = "turn_detection" not in given or is_streaming_detector(given["turn_detection"])
    resolved = TurnHandlingOptions(
        endpointing=resolve_endpointing(given.get("endpointing", {}), streaming=streaming),
        interruption=cast(
            InterruptionOptions, {**_INTERRUPTION_DEFAULTS, **given.get("interruption", {})}
        ),
        preemptive_generation=cast(
            PreemptiveGenerationOptions,
            {**_PREEMPTIVE_DEFAULTS, **given.get("preemptive_generation", {})},
        ),
        user_turn_limit=cast(
            UserTurnLimitOptions, {**_USER_TURN_LIMIT_DEFAULTS, **given.get("user_turn_limit", {})}
        ),
    )
    if "turn_detection" in given:
        resolved["turn_detection"] = given["turn_detection"]
    return resolved


def _copied(given: NotGivenOr[TurnHandlingOptions]) -> TurnHandlingOptions:
    return cast(
        TurnHandlingOptions,
        {
            key: dict(value) if isinstance(value, Mapping) else value
            for key, value in (given if is_given(given) else {}).items()
        },
    )


_INTERRUPTION_ALIASES = {
    "min_interruption_duration": "min_duration",
    "min_interruption_words": "min_words",
    "false_interruption_timeout": "false_interruption_timeout",
    "agent_false_interruption_timeout": "false_interruption_timeout",
    "resume_false_interruption": "resume_false_interruption",
    "discard_audio_if_uninterruptible": "discard_audio_if_uninterruptible",
}


def agent_turn_handling(
    turn_handling: NotGivenOr[TurnHandlingOptions], **aliases: Any
) -> TurnHandlingOptions:
    """Turn handling from the option, or from its deprecated aliases when it is not given.

    The result holds only the keys that were given, so that it can be laid over defaults.

    Raises:
        TypeError: See `check_turn_handling`.
        ValueError: See `check_turn_handling`.
    """
    if is_given(turn_handling):
        check_turn_handling(turn_handling)
        return _copied(turn_handling)
    given = {name: value for name, value in aliases.items() if not isinstance(value, NotGiven)}
    endpointing: dict[str, Any] = {}
    interruption: dict[str, Any] = {}
    result: dict[str, Any] = {}
    for alias, key in (
        ("min_endpointing_delay", "min_delay"),
        ("max_endpointing_delay", "max_delay"),
    ):
        if alias in given:
            endpointing[key] = given[alias]
    for alias, key in _INTERRUPTION_ALIASES.items():
        if alias in given:
            interruption[key] = given[alias]
    if given.get("allow_interruptions") is False:
        interruption["enabled"] = False
    if "preemptive_generation" in given:
        value = given["preemptive_generation"]
        result["preemptive_generation"] = {"enabled": value} if isinstance(value, bool) else value
    if "turn_detection" in given:
        result["turn_detection"] = given["turn_detection"]
    if endpointing:
        result["endpointing"] = endpointing
    if interruption:
        result["interruption"] = interruption
    check_turn_handling(result)
    return _copied(cast(TurnHandlingOptions, result))


def warn_deprecated_aliases(**aliases: Any) -> None:
    """One warning that names the deprecated arguments that were given."""
    names = [name for name, value in aliases.items() if not isinstance(value, NotGiven)]
    if names:
        logger.warning(
            "%s %s deprecated and will be removed in v2.0. Use "
            "turn_handling=TurnHandlingOptions(...) instead",
            ", ".join(names),
            "is" if len(names) == 1 else "are",
        )


class VoiceActivityVideoSampler:
    """Passes fewer video frames while the user is silent."""

    def __init__(self, *, speaking_fps: float = 1.0, silent_fps: float = 0.3) -> None:
        """Frames per second to pass while the user speaks, and otherwise. 0 passes none."""
        if speaking_fps < 0 or silent_fps < 0:
            raise ValueError("speaking_fps and silent_fps must be at least 0")
        self.speaking_fps = speaking_fps
        self.silent_fps = silent_fps
        self._last_accepted: float | None = None

    def __call__(self, frame: rtc.VideoFrame, session: AgentSession[Any]) -> bool:
        """Whether to pass `frame`. The first one always is, unless the rate is 0."""
        fps = self.speaking_fps if session.user_state == "speaking" else self.silent_fps
        if fps == 0:
            return False
        now = time.monotonic()
        if self._last_accepted is not None and now - self._last_accepted < 1 / fps:
            return False
        self._last_accepted = now
        return True
