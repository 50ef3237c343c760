"""Hearing whether the user is done: `TurnDetector`."""

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from .detector import TurnDetector
    from .languages import TurnDetectorModels, TurnDetectorVersions

__all__ = ["TurnDetector", "TurnDetectorModels", "TurnDetectorVersions"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "TurnDetector": ".detector",
        "TurnDetectorModels": ".languages",
        "TurnDetectorVersions": ".languages",
    },
)
