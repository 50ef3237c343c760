"""Traces of language model requests. Nothing here may influence a request or its close."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, ParamSpec

from ..log import logger
from ..telemetry import trace_types
from ..telemetry._noop import NOOP_SPAN
from ..telemetry.traces import tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from ..metrics import LLMMetrics
    from ._llm_stream import LLMStream
    from ._llm_tally import RequestTally
    from .llm import LLM

_P = ParamSpec("_P")


def _harmless(record: Callable[_P, None]) -> Callable[_P, None]:
    @functools.wraps(record)
    def try_to_record(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            record(*args, **kwargs)
        except Exception:
            logger.debug("failed to trace a request", exc_info=True)

    return try_to_record


def request_span(stream: LLMStream) -> AbstractContextManager[Span]:
    """Cover one request, all its attempts included. `end_request` ends the span."""
    if not tracer.is_recording:
        return nullcontext(NOOP_SPAN)
    attributes: dict[str, Any] = dict(stream._span_attributes)
    if stream._genai_operation_name is not None:
        from ..telemetry import gen_ai

        attributes.update(gen_ai.llm_request_attributes())
    return tracer.start_as_current_span(
        stream._llm_request_span_name, attributes=attributes, end_on_exit=False
    )


def attempt_span(stream: LLMStream, *, retry_count: int) -> AbstractContextManager[Span]:
    """Cover one attempt, if attempts of such a stream have a name."""
    name = stream._llm_attempt_span_name
    if name is None or not tracer.is_recording:
        return nullcontext(NOOP_SPAN)
    attributes: dict[str, Any] = {
        trace_types.ATTR_RETRY_COUNT: retry_count,
        trace_types.ATTR_GEN_AI_REQUEST_MODEL: stream._llm.model,
    }
    if provider := trace_types.gen_ai_provider_name(stream._llm.provider):
        attributes[trace_types.ATTR_GEN_AI_PROVIDER_NAME] = provider
    return tracer.start_as_current_span(name, attributes=attributes)


@_harmless
def record_request(span: Span, stream: LLMStream) -> None:
    """Record what is asked."""
    operation = stream._genai_operation_name
    if operation is None or not span.is_recording():
        return
    from ..telemetry import gen_ai, input_delta

    gen_ai.mark_inference_span_recorded()
    gen_ai.set_request_attributes(
        span,
        operation=operation,
        provider=stream._llm.provider,
        model=stream._llm.model,
        stream=True,
        output_type=trace_types.GenAIOutputType.TEXT,
    )
    if gen_ai.capture_content_enabled():
        stream._tally.keeps_content = True
        delta = input_delta.compute(input_delta.LLM_REQUEST, stream._chat_ctx, span)
        input_delta.set_attributes(span, delta)
        gen_ai.set_content_attributes(
            span,
            system_instructions=delta.system_instructions(),
            input_messages=delta.input_messages(),
            tool_definitions=gen_ai.to_tool_definitions(stream._tools) if stream._tools else None,
        )


@_harmless
def record_attempt(span: Span, request_ids: Iterable[str]) -> None:
    """Record under which ids the provider knows the attempt."""
    if ids := list(request_ids):
        span.set_attribute(trace_types.ATTR_PROVIDER_REQUEST_IDS, ids)


@_harmless
def record_metrics(span: Span, metrics: LLMMetrics) -> None:
    """Record what the request cost."""
    if span.is_recording():
        span.set_attribute(trace_types.ATTR_LLM_METRICS, metrics.model_dump_json())


@_harmless
def end_request(span: Span, stream: LLMStream) -> None:
    """Record what was answered, and end the span."""
    if span.is_recording() and stream._genai_operation_name is not None:
        _record_answer(span, stream, stream._tally)
    span.end()


def _record_answer(span: Span, stream: LLMStream, tally: RequestTally) -> None:
    from ..telemetry import gen_ai

    if tally.request_id is None:
        return
    finish_reason = gen_ai.finish_reason_for(
        function_calls=tally.tool_calls, interrupted=stream._closing
    )
    to_first = tally.first_response_at
    gen_ai.set_response_attributes(
        span,
        response_id=tally.request_id,
        model=stream._llm.model,
        finish_reasons=[finish_reason],
        time_to_first_chunk=None if to_first is None else to_first - stream._started_at,
    )
    if to_first is not None:
        began = stream._created_at + to_first - stream._started_at
        span.set_attribute(
            trace_types.ATTR_LANGFUSE_COMPLETION_START_TIME,
            datetime.fromtimestamp(began, timezone.utc).isoformat(),
        )
    if tally.usage is not None:
        gen_ai.set_usage_attributes(span, tally.usage)
    if tally.keeps_content:
        gen_ai.set_content_attributes(
            span,
            output_messages=gen_ai.to_output_messages(
                text="".join(tally.texts),
                function_calls=tally.tool_calls,
                finish_reason=finish_reason,
            ),
        )


def current_span() -> Span:
    """The span that is current where this is called."""
    return tracer.current_span()


@_harmless
def record_fallback(spans: Iterable[Span], served_by: LLM[Any], index: int) -> None:
    """Record which of several models answered."""
    attributes: dict[str, Any] = {
        trace_types.ATTR_FALLBACK_LABEL: served_by.label,
        trace_types.ATTR_FALLBACK_INDEX: index,
        trace_types.ATTR_GEN_AI_RESPONSE_MODEL: served_by.model,
    }
    provider = trace_types.gen_ai_provider_name(served_by.provider)
    if provider is not None:
        attributes[trace_types.ATTR_GEN_AI_PROVIDER_NAME] = provider
    for span in spans:
        span.set_attributes(attributes)


def mark_recovery(stream: LLMStream) -> None:
    """The request of `stream`, not yet sent, only asks whether a model works again."""
    stream._span_attributes[trace_types.ATTR_FALLBACK_RECOVERY] = True
