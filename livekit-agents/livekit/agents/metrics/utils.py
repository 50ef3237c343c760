"""Writes metrics to the log."""

from __future__ import annotations

import logging

from ..log import logger as default_logger
from .base import (
    AgentMetrics,
    AvatarMetrics,
    EOUMetrics,
    InterruptionMetrics,
    LLMMetrics,
    RealtimeModelMetrics,
    STTMetrics,
    TTSMetrics,
)

_LOGGED: dict[type, tuple[str, tuple[str, ...]]] = {
    LLMMetrics: (
        "LLM metrics",
        (
            "ttft",
            "prompt_tokens",
            "prompt_cached_tokens",
            "completion_tokens",
            "reasoning_tokens",
            "tokens_per_second",
        ),
    ),
    RealtimeModelMetrics: (
        "RealtimeModel metrics",
        ("ttft", "input_tokens", "output_tokens", "total_tokens", "tokens_per_second"),
    ),
    TTSMetrics: ("TTS metrics", ("ttfb", "audio_duration", "characters_count")),
    EOUMetrics: (
        "EOU metrics",
        ("end_of_utterance_delay", "transcription_delay", "on_user_turn_completed_delay"),
    ),
    STTMetrics: ("STT metrics", ("audio_duration", "input_tokens", "output_tokens")),
    InterruptionMetrics: (
        "Interruption metrics",
        (
            "total_duration",
            "prediction_duration",
            "detection_delay",
            "num_interruptions",
            "num_backchannels",
            "num_requests",
        ),
    ),
    AvatarMetrics: ("Avatar metrics", ("playback_latency",)),
}
"""Title of the line and the fields worth reading, per kind of metrics."""


def log_metrics(metrics: AgentMetrics, *, logger: logging.Logger | None = None) -> None:
    """Log the key numbers of `metrics` on one INFO line, in its `extra` fields.

    Kinds without a line of their own (VAD, end-of-turn, decisions) are not logged.

    Args:
        metrics: as received from a `"metrics_collected"` event.
        logger: where to log; the logger of this package when None.
    """
    title, fields = _LOGGED.get(type(metrics), ("", ()))
    if not title:
        return

    extra: dict[str, object] = {}
    if metadata := metrics.metadata:
        extra["model_name"] = metadata.model_name or "unknown"
        extra["model_provider"] = metadata.model_provider or "unknown"
    extra.update((field, round(getattr(metrics, field), 2)) for field in fields)
    (logger or default_logger).info(title, extra=extra)
