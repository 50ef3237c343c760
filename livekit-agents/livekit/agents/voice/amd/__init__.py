"""Answering machine detection: who has picked up, a human or a machine?"""

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from .classifier import AMDCategory, AMDPredictionEvent
    from .detector import AMD

__all__ = ["AMD", "AMDCategory", "AMDPredictionEvent"]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            "AMD": ".detector",
            "AMDCategory": ".classifier",
            "AMDPredictionEvent": ".classifier",
        },
    )
