"""Describes model requests, tools and agents by OpenTelemetry's conventions for generative AI."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import trace_types
from ._messages import (
    AnyFunctionCall,
    to_input_messages,
    to_output_messages,
    to_system_instructions,
    to_tool_definitions,
)
from .trace_types import GenAIFinishReason, GenAIOperationName, gen_ai_provider_name
from .utils import error_type

if TYPE_CHECKING:
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from ..llm import CompletionUsage

__all__ = [
    "AnyFunctionCall",
    "capture_content_enabled",
    "finish_reason_for",
    "llm_request_attributes",
    "mark_inference_span_recorded",
    "set_agent_attributes",
    "set_capture_content",
    "set_content_attributes",
    "set_error_type",
    "set_llm_request_attributes",
    "set_request_attributes",
    "set_response_attributes",
    "set_tool_attributes",
    "set_tool_result",
    "set_usage_attributes",
    "set_workflow_attributes",
    "to_input_messages",
    "to_output_messages",
    "to_system_instructions",
    "to_tool_definitions",
    "track_inference_span",
]

_CAPTURE_CONTENT_ENV = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_FALSY = frozenset({"0", "false", "no", "off"})

_capture_content: bool | None = None
_llm_attributes: ContextVar[Mapping[str, AttributeValue] | None] = ContextVar(
    "lk_llm_request_attributes", default=None
)


def capture_content_enabled() -> bool:
    """Whether messages, tool definitions, arguments and results are recorded.

    As `set_capture_content` said last, otherwise as the environment variable
    `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` says; unset means yes.
    """
    if _capture_content is not None:
        return _capture_content
    return os.environ.get(_CAPTURE_CONTENT_ENV, "").strip().lower() not in _FALSY


def set_capture_content(enabled: bool) -> None:
    """Record messages, tool definitions, arguments and results from now on, or don't."""
    global _capture_content
    _capture_content = enabled


def set_llm_request_attributes(attributes: Mapping[str, AttributeValue] | None) -> None:
    """Add attributes to the `llm_request` spans started later in this context.

    They replace those of an earlier call; None removes them.
    """
    _llm_attributes.set(None if attributes is None else dict(attributes))


def llm_request_attributes() -> dict[str, AttributeValue]:
    """Return what `set_llm_request_attributes` was given in this context."""
    return dict(_llm_attributes.get() or {})


@dataclass
class InferenceSpanTracker:
    """Tells whether code that may ask a model has recorded a span for it."""

    model: str | None = None
    provider: str | None = None
    recorded: bool = False


_tracker: ContextVar[InferenceSpanTracker | None] = ContextVar("lk_inference_span", default=None)


@contextmanager
def track_inference_span(
    *, model: str | None = None, provider: str | None = None
) -> Iterator[InferenceSpanTracker]:
    """Find out whether the code inside records a span of its own for its model request.

    If it doesn't, such as a node of the user's that asks a model by other means, the span around
    it is the one to describe the request.

    Args:
        model: that the code is expected to ask.
        provider: of that model.
    """
    tracker = InferenceSpanTracker(model, provider)
    token = _tracker.set(tracker)
    try:
        yield tracker
    finally:
        _tracker.reset(token)


def mark_inference_span_recorded() -> None:
    """Say that a span describes the current model request. See `track_inference_span`."""
    if tracker := _tracker.get():
        tracker.recorded = True


def finish_reason_for(
    *, function_calls: Sequence[AnyFunctionCall] = (), interrupted: bool = False
) -> str:
    """Say why a model stopped, judging by its response.

    A response that was cut off has the reason `"error"`: the conventions know no better one.
    """
    if interrupted:
        return GenAIFinishReason.ERROR
    return GenAIFinishReason.TOOL_CALL if function_calls else GenAIFinishReason.STOP


def set_request_attributes(
    span: Span,
    *,
    operation: str,
    provider: str | None = None,
    model: str | None = None,
    stream: bool | None = None,
    output_type: str | None = None,
) -> None:
    """Describe a request to a model.

    Args:
        span: that covers the request.
        operation: one of `GenAIOperationName`.
        provider: in any spelling.
        model: that is asked for.
        stream: whether the response is streamed.
        output_type: one of `GenAIOutputType`.
    """
    _set(
        span,
        {
            trace_types.ATTR_GEN_AI_OPERATION_NAME: operation,
            trace_types.ATTR_GEN_AI_PROVIDER_NAME: gen_ai_provider_name(provider),
            trace_types.ATTR_GEN_AI_REQUEST_MODEL: model,
            trace_types.ATTR_GEN_AI_REQUEST_STREAM: stream,
            trace_types.ATTR_GEN_AI_OUTPUT_TYPE: output_type,
        },
    )


def set_response_attributes(
    span: Span,
    *,
    response_id: str | None = None,
    model: str | None = None,
    finish_reasons: Sequence[str] | None = None,
    time_to_first_chunk: float | None = None,
) -> None:
    """Describe the response of a model.

    Args:
        span: that covers the request.
        response_id: by which the provider knows it.
        model: that answered.
        finish_reasons: of `GenAIFinishReason`, one per choice.
        time_to_first_chunk: in seconds.
    """
    _set(
        span,
        {
            trace_types.ATTR_GEN_AI_RESPONSE_ID: response_id or None,
            trace_types.ATTR_GEN_AI_RESPONSE_MODEL: model,
            trace_types.ATTR_GEN_AI_RESPONSE_FINISH_REASONS: finish_reasons,
            trace_types.ATTR_GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: time_to_first_chunk,
        },
    )


def set_usage_attributes(span: Span, usage: CompletionUsage) -> None:
    """Record how many tokens a request took."""
    special = {
        trace_types.ATTR_GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: usage.prompt_cached_tokens,
        trace_types.ATTR_GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS: usage.cache_creation_tokens,
        trace_types.ATTR_GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: usage.reasoning_tokens,
        trace_types.ATTR_GEN_AI_USAGE_INPUT_CACHED_TOKENS: usage.prompt_cached_tokens,
        trace_types.ATTR_GEN_AI_USAGE_REASONING_TOKENS: usage.reasoning_tokens,
    }
    _set(
        span,
        {
            trace_types.ATTR_GEN_AI_USAGE_INPUT_TOKENS: usage.prompt_tokens,
            trace_types.ATTR_GEN_AI_USAGE_OUTPUT_TOKENS: usage.completion_tokens,
            **{key: tokens for key, tokens in special.items() if tokens},
        },
    )


def set_content_attributes(
    span: Span,
    *,
    system_instructions: list[dict[str, Any]] | None = None,
    input_messages: list[dict[str, Any]] | None = None,
    output_messages: list[dict[str, Any]] | None = None,
    tool_definitions: list[dict[str, Any]] | None = None,
) -> None:
    """Record what was said to a model and by it, unless content isn't to be captured.

    Args:
        span: that covers the request.
        system_instructions: see `to_system_instructions`.
        input_messages: see `to_input_messages`.
        output_messages: see `to_output_messages`.
        tool_definitions: see `to_tool_definitions`.
    """
    if not capture_content_enabled():
        return
    _set(
        span,
        {
            trace_types.ATTR_GEN_AI_SYSTEM_INSTRUCTIONS: _json(system_instructions),
            trace_types.ATTR_GEN_AI_INPUT_MESSAGES: _json(input_messages),
            trace_types.ATTR_GEN_AI_OUTPUT_MESSAGES: _json(output_messages),
            trace_types.ATTR_GEN_AI_TOOL_DEFINITIONS: _json(tool_definitions),
        },
    )


def set_agent_attributes(
    span: Span,
    *,
    operation: str,
    agent_name: str,
    model: str | None = None,
    provider: str | None = None,
) -> None:
    """Describe what an agent does, or that it is created.

    Args:
        span: that covers it.
        operation: one of `GenAIOperationName`.
        agent_name: of the agent.
        model: that the agent uses.
        provider: of the model, in any spelling.
    """
    set_request_attributes(span, operation=operation, provider=provider, model=model)
    _set(span, {trace_types.ATTR_GEN_AI_AGENT_NAME: agent_name})


def set_workflow_attributes(span: Span, *, name: str) -> None:
    """Describe a workflow that agents take part in."""
    _set(
        span,
        {
            trace_types.ATTR_GEN_AI_OPERATION_NAME: GenAIOperationName.INVOKE_WORKFLOW,
            trace_types.ATTR_GEN_AI_WORKFLOW_NAME: name,
        },
    )


def set_tool_attributes(
    span: Span,
    *,
    name: str,
    call_id: str | None = None,
    tool_type: str = "function",
    description: str | None = None,
    arguments: str | None = None,
    agent_name: str | None = None,
) -> None:
    """Describe the execution of a tool.

    Args:
        span: that covers it.
        name: of the tool.
        call_id: of the model's call.
        tool_type: `"function"`, `"extension"` or `"datastore"`.
        description: that the model was given.
        arguments: of the call, as JSON text; left out if content isn't to be captured.
        agent_name: of the agent that called.
    """
    _set(
        span,
        {
            trace_types.ATTR_GEN_AI_OPERATION_NAME: GenAIOperationName.EXECUTE_TOOL,
            trace_types.ATTR_GEN_AI_TOOL_NAME: name,
            trace_types.ATTR_GEN_AI_TOOL_CALL_ID: call_id,
            trace_types.ATTR_GEN_AI_TOOL_TYPE: tool_type,
            trace_types.ATTR_GEN_AI_TOOL_DESCRIPTION: description,
            trace_types.ATTR_GEN_AI_TOOL_CALL_ARGUMENTS: (
                arguments if capture_content_enabled() else None
            ),
            trace_types.ATTR_GEN_AI_AGENT_NAME: agent_name,
        },
    )


def set_tool_result(span: Span, *, result: str | None, is_error: bool) -> None:
    """Record what a tool returned, as JSON; left out if content isn't to be captured.

    Of a tool that failed only that is recorded: its output is no result.
    """
    if is_error:
        set_error_type(span, "tool_error")
    elif result is not None and capture_content_enabled():
        _set(span, {trace_types.ATTR_GEN_AI_TOOL_CALL_RESULT: _as_json(result)})


def set_error_type(span: Span, error: BaseException | str) -> None:
    """Record what kind of error ended a span, without its details: see `error_type`."""
    kind = error if isinstance(error, str) else error_type(error)
    _set(span, {trace_types.ATTR_ERROR_TYPE: kind})


def _set(span: Span, attributes: Mapping[str, Any]) -> None:
    if span.is_recording():
        span.set_attributes({key: value for key, value in attributes.items() if value is not None})


def _json(value: list[dict[str, Any]] | None) -> str | None:
    return json.dumps(value, ensure_ascii=False) if value else None


def _as_json(text: str) -> str:
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except ValueError:
        return json.dumps(text, ensure_ascii=False)
