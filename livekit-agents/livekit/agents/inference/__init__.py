"""Models that LiveKit serves or that run in the process: recognition, synthesis, turns, voices."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from ._utils import InferenceClass
    from .stt import STT, STTModels
    from .vad import VAD, VADModels

__all__ = ["InferenceClass", "STT", "STTModels", "VAD", "VADModels"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "InferenceClass": "._utils",
        "STT": ".stt",
        "STTModels": ".stt",
        "VAD": ".vad",
        "VADModels": ".vad",
    },
)
