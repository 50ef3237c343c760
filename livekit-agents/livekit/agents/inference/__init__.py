"""Models that LiveKit serves or that run in the process: recognition, synthesis, turns, voices."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from ._realtime_models import (
        DuplexModels,
        OpenAIRealtimeModels,
        RealtimeModels,
        XAIRealtimeModels,
        is_duplex_model,
        is_realtime_model,
    )
    from ._utils import InferenceClass
    from .avatar import AvatarSession, LemonSliceOptions
    from .decision_model import DecisionModel, DecisionModels
    from .eot import TurnDetector, TurnDetectorModels, TurnDetectorVersions
    from .interruption import (
        AdaptiveInterruptionDetector,
        InterruptionDataFrameType,
        InterruptionDetectionError,
        OverlappingSpeechEvent,
    )
    from .llm import LLM, LLMModels, LLMStream, llm_from_model_string
    from .realtime import DuplexModel, DuplexSession, RealtimeModel, RealtimeSession
    from .stt import STT, STTModels
    from .tts import TTS, TTSModels
    from .vad import VAD, VADModels

__all__ = [
    "LLM",
    "STT",
    "TTS",
    "VAD",
    "AdaptiveInterruptionDetector",
    "AvatarSession",
    "DecisionModel",
    "DecisionModels",
    "DuplexModel",
    "DuplexModels",
    "DuplexSession",
    "InferenceClass",
    "InterruptionDataFrameType",
    "InterruptionDetectionError",
    "LLMModels",
    "LLMStream",
    "LemonSliceOptions",
    "OpenAIRealtimeModels",
    "OverlappingSpeechEvent",
    "RealtimeModel",
    "RealtimeModels",
    "RealtimeSession",
    "STTModels",
    "TTSModels",
    "TurnDetector",
    "TurnDetectorModels",
    "TurnDetectorVersions",
    "VADModels",
    "XAIRealtimeModels",
    "is_duplex_model",
    "is_realtime_model",
    "llm_from_model_string",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "AdaptiveInterruptionDetector": ".interruption",
        "AvatarSession": ".avatar",
        "DecisionModel": ".decision_model",
        "DecisionModels": ".decision_model",
        "DuplexModel": ".realtime",
        "DuplexModels": "._realtime_models",
        "DuplexSession": ".realtime",
        "InferenceClass": "._utils",
        "InterruptionDataFrameType": ".interruption",
        "InterruptionDetectionError": ".interruption",
        "LLM": ".llm",
        "LLMModels": ".llm",
        "LLMStream": ".llm",
        "LemonSliceOptions": ".avatar",
        "OpenAIRealtimeModels": "._realtime_models",
        "OverlappingSpeechEvent": ".interruption",
        "RealtimeModel": ".realtime",
        "RealtimeModels": "._realtime_models",
        "RealtimeSession": ".realtime",
        "STT": ".stt",
        "STTModels": ".stt",
        "TTS": ".tts",
        "TTSModels": ".tts",
        "TurnDetector": ".eot",
        "TurnDetectorModels": ".eot",
        "TurnDetectorVersions": ".eot",
        "VAD": ".vad",
        "VADModels": ".vad",
        "XAIRealtimeModels": "._realtime_models",
        "is_duplex_model": "._realtime_models",
        "is_realtime_model": "._realtime_models",
        "llm_from_model_string": ".llm",
    },
)
