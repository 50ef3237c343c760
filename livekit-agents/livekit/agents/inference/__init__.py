"""Models that LiveKit serves or that run in the process: recognition, synthesis, turns, voices."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .vad import VAD, VADModels

__all__ = ["VAD", "VADModels"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "VAD": ".vad",
        "VADModels": ".vad",
    },
)
