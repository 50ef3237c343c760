"""Models that hear and speak by themselves, through the gateway."""

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from .openai import RealtimeModel, RealtimeSession

__all__ = [
    "RealtimeModel",
    "RealtimeSession",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "RealtimeModel": ".openai",
        "RealtimeSession": ".openai",
    },
)
