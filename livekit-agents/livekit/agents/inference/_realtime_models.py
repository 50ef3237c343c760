"""Names of the models that listen and speak by themselves."""

from __future__ import annotations

from typing import Literal, get_args

OpenAIRealtimeModels = Literal[
    "openai/gpt-realtime",
    "openai/gpt-realtime-mini",
    "openai/gpt-realtime-2.1",
    "openai/gpt-realtime-2.1-mini",
]
GoogleRealtimeModels = Literal[
    "google/gemini-3.8-live", "google/gemini-3.8-live-extended-thinking", "google/gemini-live"
]
XAIRealtimeModels = Literal["xai/grok-voice", "xai/grok-voice-latest", "xai/grok-voice-3.0"]
RealtimeModels = OpenAIRealtimeModels | GoogleRealtimeModels | XAIRealtimeModels
DuplexModels = Literal["openai/gpt-live-1"]

DEPRECATED = {
    "openai/gpt-realtime-2": "openai/gpt-realtime-2.1",
    "openai/gpt-realtime-1.5": "openai/gpt-realtime-2.1",
    "xai/grok-voice-think-fast-2.0": "xai/grok-voice-3.0",
}
"""Models that still work -> what to use instead."""

_REALTIME = frozenset(
    name
    for models in (OpenAIRealtimeModels, GoogleRealtimeModels, XAIRealtimeModels)
    for name in get_args(models)
) | set(DEPRECATED)
_DUPLEX = frozenset(get_args(DuplexModels))


def is_realtime_model(model: str) -> bool:
    """Whether this is the name of a realtime model."""
    return model in _REALTIME


def is_duplex_model(model: str) -> bool:
    """Whether this is the name of a full-duplex model."""
    return model in _DUPLEX
