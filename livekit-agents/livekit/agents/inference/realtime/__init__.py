"""Models that hear and speak by themselves, through the gateway."""

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from .gpt_live import (
        DuplexModel,
        DuplexSession,
        OpenAIDuplexOptions,
        OpenAIResponsesOptions,
    )
    from .openai import RealtimeModel, RealtimeSession

__all__ = [
    "DuplexModel",
    "DuplexSession",
    "OpenAIDuplexOptions",
    "OpenAIResponsesOptions",
    "RealtimeModel",
    "RealtimeSession",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "DuplexModel": ".gpt_live",
        "DuplexSession": ".gpt_live",
        "OpenAIDuplexOptions": ".gpt_live",
        "OpenAIResponsesOptions": ".gpt_live",
        "RealtimeModel": ".openai",
        "RealtimeSession": ".openai",
    },
)
