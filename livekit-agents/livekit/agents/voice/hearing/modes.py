"""Choosing how turns and interruptions are detected, from what was asked for and what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from ...llm import LLM, RealtimeModel
from ...log import logger
from ...types import NotGivenOr
from ...utils import is_dev_mode, is_given, is_hosted
from ..turn import TurnDetectionMode, is_streaming_detector

if TYPE_CHECKING:
    from ...stt import STT
    from ...vad import VAD
    from .overlap import InterruptionDetector

__all__ = [
    "MIN_SILENCE_FOR_STREAMING_DETECTOR",
    "ModelChoices",
    "leaves_no_time",
    "resolve_interruption_detector",
    "resolve_server_turn_detection",
    "resolve_turn_detection",
]


class ModelChoices(Protocol):
    """What the choice depends on."""

    @property
    def stt(self) -> STT[Any] | None:
        """The STT in use."""
        ...

    @property
    def vad(self) -> VAD | None:
        """The VAD in use."""
        ...

    @property
    def llm(self) -> LLM[Any] | RealtimeModel | None:
        """The LLM or realtime model in use."""
        ...

    @property
    def using_default_vad(self) -> bool:
        """Whether nobody chose the VAD."""
        ...

    @property
    def explicit_turn_detection(self) -> NotGivenOr[TurnDetectionMode | None]:
        """What the user asked for."""
        ...

    def default_turn_detector(self) -> TurnDetectionMode:
        """What finds the turns when the user asked for nothing. Made when this is called."""
        ...

    @property
    def interruption_mode(self) -> NotGivenOr[str]:
        """ "adaptive" or "vad", if the user asked for one."""
        ...

    @property
    def allow_interruptions(self) -> bool:
        """Whether speech may be interrupted unless it says otherwise."""
        ...

    @property
    def server_turn_detection(self) -> bool:
        """The outcome of `resolve_server_turn_detection`."""
        ...


def resolve_server_turn_detection(choices: ModelChoices) -> bool:
    """Whether a realtime model's server finds the turns. Decided once per activity."""
    model = choices.llm
    if not isinstance(model, RealtimeModel):
        return False
    capabilities = model.capabilities
    if not capabilities.turn_detection or not capabilities.can_disable_turn_detection:
        return capabilities.turn_detection
    asked = choices.explicit_turn_detection
    if asked == "realtime_llm":
        return True
    if asked == "manual":
        return False
    wants_vad = asked == "vad" or (is_given(asked) and is_streaming_detector(asked))
    return choices.vad is None or not (wants_vad or is_given(choices.interruption_mode))


def resolve_turn_detection(
    choices: ModelChoices, *, text_only: bool = False
) -> TurnDetectionMode | None:
    """The turn detection that works with the given parts; what doesn't, degrades with a warning.

    Args:
        choices: What there is, and what was asked for.
        text_only: The session hears nothing, so nothing about audio applies.

    Returns:
        None: silence decides, as the parts allow.
    """
    asked = choices.explicit_turn_detection
    if text_only:
        return asked if asked in ("manual", "realtime_llm") else None
    detection = _usable(choices, asked) if is_given(asked) else _default(choices)
    if isinstance(choices.llm, RealtimeModel):
        detection = _usable_with_realtime(choices, choices.llm, detection)
    elif (
        detection is None
        and choices.vad is None
        and choices.stt is not None
        and not choices.stt.capabilities.streaming
        and choices.llm is not None
        and choices.allow_interruptions
    ):
        logger.warning(
            "the STT doesn't stream and there is no VAD: the user can't interrupt, and turns can't "
            "be found. Give the session a VAD, for instance inference.VAD()"
        )
    return detection


def _default(choices: ModelChoices) -> TurnDetectionMode | None:
    """The default detector where it can work. Nobody asked for it: there is nothing to warn of."""
    if choices.vad is None or choices.server_turn_detection:
        return None
    if choices.stt is None and not isinstance(choices.llm, RealtimeModel):
        return None  # nobody would understand the turns
    if leaves_no_time(choices.vad):
        return None
    return choices.default_turn_detector()


MIN_SILENCE_FOR_STREAMING_DETECTOR = 0.25
"""A streaming detector is asked after 0.2 s of silence and needs a moment before the VAD decides."""


def leaves_no_time(vad: VAD) -> bool:
    """Whether a VAD decides too soon for a streaming detector to be asked."""
    silence = getattr(vad, "min_silence_duration", None)
    return silence is not None and silence < MIN_SILENCE_FOR_STREAMING_DETECTOR


def _usable(choices: ModelChoices, detection: TurnDetectionMode | None) -> TurnDetectionMode | None:
    if detection is None:
        return None
    if not isinstance(detection, str):
        if not is_streaming_detector(detection):
            return detection
        if choices.vad is None:
            return _without(detection, "it needs a VAD, and there is none")
        if choices.server_turn_detection:
            return _without(detection, "the realtime model finds turns on its server")
        return detection
    if detection == "vad" and choices.vad is None:
        return _without(detection, "there is no VAD")
    if detection == "stt" and choices.stt is None:
        return _without(detection, "there is no STT")
    if detection == "realtime_llm" and not isinstance(choices.llm, RealtimeModel):
        return _without(detection, "the LLM is not a realtime model")
    return detection


def _usable_with_realtime(
    choices: ModelChoices, model: RealtimeModel, detection: TurnDetectionMode | None
) -> TurnDetectionMode | None:
    on_server = choices.server_turn_detection
    if detection == "realtime_llm" and not on_server:
        detection = _without(detection, f"{model.label} finds no turns on its server")
    elif detection == "stt":
        detection = _without(detection, "a realtime model can't follow the turns of an STT")
    elif isinstance(detection, str) and detection != "realtime_llm" and on_server:
        detection = _without(detection, f"{model.label} finds turns on its server")
    if (
        detection is None
        and not on_server
        and choices.vad is not None
        and not choices.using_default_vad
    ):
        return "vad"
    return detection


def _without(detection: TurnDetectionMode, reason: str) -> TurnDetectionMode | None:
    name = detection if isinstance(detection, str) else type(detection).__name__
    logger.warning("ignoring turn_detection=%s: %s", name, reason)
    return None


def resolve_interruption_detector(choices: ModelChoices) -> InterruptionDetector | None:
    """A model that judges speech over the agent, where it is wanted and can work; else None."""
    mode = choices.interruption_mode
    asked = is_given(mode) and mode == "adaptive"
    if is_given(mode) and mode == "vad":
        return None
    obstacle = _obstacle_to_judging(choices)
    if obstacle is not None:
        if asked:
            logger.warning("ignoring interruption mode 'adaptive': %s", obstacle)
        return None
    if not asked and not (is_hosted() or is_dev_mode()):
        logger.info("adaptive interruption is off: it is on by default only when hosted")
        return None
    return _make_interruption_detector(asked)


def _obstacle_to_judging(choices: ModelChoices) -> str | None:
    detection = choices.explicit_turn_detection
    if choices.vad is None:
        return "it needs a VAD"
    if not choices.allow_interruptions:
        return "interruptions are disabled"
    if detection in ("manual", "realtime_llm"):
        return f"turn detection is {detection!r}"
    if choices.stt is None and (
        not isinstance(choices.llm, RealtimeModel) or choices.server_turn_detection
    ):
        return "it needs an STT, or a realtime model whose turns are found here"
    return None


def _make_interruption_detector(asked: bool) -> InterruptionDetector | None:
    from ... import inference

    detector_type: Any = getattr(inference, "AdaptiveInterruptionDetector", None)
    if detector_type is None:
        if asked:
            logger.warning("adaptive interruption is not available, audio activity interrupts")
        return None
    try:
        return cast("InterruptionDetector", detector_type())
    except ValueError as error:
        logger.warning("adaptive interruption is off: %s", error)
        return None
