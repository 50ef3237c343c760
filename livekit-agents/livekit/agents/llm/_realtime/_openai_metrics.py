"""What responses and transcriptions of OpenAI's realtime protocol cost, as metrics. No I/O."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ...metrics.base import Metadata, RealtimeModelMetrics, STTMetrics
from .openai_codec import ResponseDone, TokenUsage, count_of, optional_object
from .openai_utils import Event

if TYPE_CHECKING:
    from ..realtime import RealtimeModel
    from ._openai_generation import Generation

_KINDS = ("audio_tokens", "text_tokens", "image_tokens")


def _by_kind(details: Event) -> dict[str, int]:
    return {kind: count_of(details, kind) for kind in _KINDS}


def response_metrics(
    model: RealtimeModel, generation: Generation, done: ResponseDone
) -> RealtimeModelMetrics:
    """Time and tokens of a response that has ended."""
    usage, duration = done.usage, time.time() - generation.created_at
    given = usage.input_details
    cached = optional_object(given, "cached_tokens_details")
    return RealtimeModelMetrics(
        timestamp=generation.created_at,
        request_id=generation.response_id,
        label=model.label,
        ttft=generation.ttft,
        duration=duration,
        cancelled=done.status == "cancelled",
        input_tokens=usage.input,
        output_tokens=usage.output,
        total_tokens=usage.total,
        tokens_per_second=usage.output / duration if duration > 0 else 0.0,
        input_token_details=RealtimeModelMetrics.InputTokenDetails(
            **_by_kind(given),
            cached_tokens=count_of(given, "cached_tokens"),
            cached_tokens_details=RealtimeModelMetrics.CachedTokenDetails(**_by_kind(cached))
            if cached
            else None,
        ),
        output_token_details=RealtimeModelMetrics.OutputTokenDetails(
            **_by_kind(usage.output_details)
        ),
        metadata=Metadata(**model.metrics_metadata),
    )


def transcription_metrics(
    model: RealtimeModel, item_id: str, usage: TokenUsage, transcriber: str | None
) -> STTMetrics:
    """Tokens, or seconds, of a transcription of the user."""
    return STTMetrics(
        timestamp=time.time(),
        request_id=item_id,
        label=model.label,
        duration=0.0,
        audio_duration=usage.seconds,
        input_tokens=usage.input,
        output_tokens=usage.output,
        total_tokens=usage.total or usage.input + usage.output,
        input_audio_tokens=count_of(usage.input_details, "audio_tokens"),
        streamed=True,
        metadata=Metadata(model_name=transcriber, model_provider=model.provider),
    )
