"""What a GPT-Live session costs, as metrics. No I/O."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ...metrics.base import LLMMetrics, Metadata, RealtimeModelMetrics
from .gpt_live_codec import BackendDone, BackendUsage

if TYPE_CHECKING:
    from .gpt_live import GPTLiveModel


def session_time(
    model: GPTLiveModel, seconds: float, session_id: str | None
) -> RealtimeModelMetrics:
    """So many seconds of the session, since it was last said."""
    return RealtimeModelMetrics(
        timestamp=time.time(),
        request_id=session_id or "",
        label=model.label,
        session_duration=seconds,
        input_token_details=RealtimeModelMetrics.InputTokenDetails(),
        output_token_details=RealtimeModelMetrics.OutputTokenDetails(),
        metadata=Metadata(**model.metrics_metadata),
    )


def backend_metrics(model: GPTLiveModel, done: BackendDone, usage: BackendUsage) -> LLMMetrics:
    """Tokens of the model that thinks. How long it took is not known."""
    thinker = model._opts.responses_options.get("model")
    return LLMMetrics(
        timestamp=time.time(),
        request_id=done.response_id,
        label=model.label,
        duration=0.0,
        ttft=-1,
        cancelled=done.status == "cancelled",
        completion_tokens=usage.completion,
        prompt_tokens=usage.prompt,
        prompt_cached_tokens=usage.cached,
        reasoning_tokens=usage.reasoning,
        total_tokens=usage.total,
        tokens_per_second=0.0,
        metadata=Metadata(model_name=thinker or model.model, model_provider=model.provider),
    )
