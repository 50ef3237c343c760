"""Models that LiveKit serves or that run in the process: recognition, synthesis, turns, voices."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from ._utils import InferenceClass
    from .stt import STT, STTModels
    from .tts import TTS, TTSModels
    from .vad import VAD, VADModels

__all__ = ["InferenceClass", "STT", "STTModels", "TTS", "TTSModels", "VAD", "VADModels"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "InferenceClass": "._utils",
        "STT": ".stt",
        "STTModels": ".stt",
        "TTS": ".tts",
        "TTSModels": ".tts",
        "VAD": ".vad",
        "VADModels": ".vad",
    },
)
