"""Spans of what an agent says: one for each speech, and inside it one for each node and response."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from ...telemetry import trace_types
from ...telemetry._noop import NOOP_SPAN
from ...telemetry.otel_metrics import record_invoke_agent_duration
from ...telemetry.traces import tracer
from ...telemetry.utils import record_exception

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from ..agent import Agent
    from ..agent_activity import AgentActivity
    from ..speech_handle import SpeechHandle
    from .inference import LLMInference, TTSInference

__all__ = [
    "agent_turn",
    "mark_generation",
    "node_span",
    "record_llm",
    "record_tts",
    "response_span",
]


async def agent_turn(
    activity: AgentActivity, handle: SpeechHandle, speak: Callable[[], Awaitable[None]]
) -> None:
    """Run a speech, covered by a span in which all that it causes is found."""
    began = time.perf_counter()
    try:
        if tracer.is_recording:
            await _traced_turn(activity, handle, speak)
        else:
            await speak()
    finally:
        record_invoke_agent_duration(time.perf_counter() - began, agent_name=activity.agent.id)


async def _traced_turn(
    activity: AgentActivity, handle: SpeechHandle, speak: Callable[[], Awaitable[None]]
) -> None:
    root = activity.session._spans.root_context
    span = tracer.start_span(
        "agent_turn",
        context=root,
        attributes={
            trace_types.ATTR_SPEECH_ID: handle.id,
            trace_types.ATTR_AGENT_LABEL: activity.agent.label,
        },
    )
    handle._trace_context = tracer.context_of(span, root)

    def end(_: object) -> None:
        if span.is_recording():
            _record_turn(span, activity, handle)
            span.end()

    # a speech that was cut off is over, though its task may hang
    handle.add_done_callback(end)
    with tracer.use_context(handle._trace_context):
        try:
            await speak()
        except Exception as error:
            record_exception(span, error)
            raise
        finally:
            end(handle)


def _record_turn(span: Span, activity: AgentActivity, handle: SpeechHandle) -> None:
    from ...telemetry import gen_ai

    gen_ai.set_agent_attributes(
        span, operation=trace_types.GenAIOperationName.INVOKE_AGENT, agent_name=activity.agent.id
    )
    span.set_attribute(trace_types.ATTR_GENERATION_COUNT, handle.num_steps)
    span.set_attribute(trace_types.ATTR_SPEECH_INTERRUPTED, handle.interrupted)
    if handle.interruption_source is not None:
        span.set_attribute(trace_types.ATTR_INTERRUPTION_SOURCE, handle.interruption_source)
    if handle._error is not None:
        gen_ai.set_error_type(span, handle._error)
    messages = [item for item in handle.chat_items if item.type == "message"]
    for message in messages:
        latency = message.metrics.get("e2e_latency")
        if latency is not None:
            span.set_attribute(trace_types.ATTR_E2E_LATENCY, latency)
    if gen_ai.capture_content_enabled():
        asked = [handle._user_message] if handle._user_message is not None else []
        for said, attribute in (
            (asked, trace_types.ATTR_USER_INPUT),
            (messages, trace_types.ATTR_RESPONSE_TEXT),
        ):
            if said:
                span.set_attribute(attribute, "\n".join(m.text_content or "" for m in said))


def mark_generation() -> None:
    """A step of the current speech begins to play."""
    if tracer.is_recording:
        tracer.current_span().add_event("generation")


def node_span(
    name: str, agent: Agent | None, attributes: dict[str, str] | None = None
) -> AbstractContextManager[Span]:
    """Cover a node or a hook of an agent. What leaves it is recorded as its failure."""
    if not tracer.is_recording:
        return nullcontext(NOOP_SPAN)
    label = {trace_types.ATTR_AGENT_LABEL: agent.label} if agent is not None else {}
    return tracer.start_as_current_span(name, attributes={**label, **(attributes or {})})


def record_llm(span: Span, inference: LLMInference) -> None:
    """Describe what came of an LLM node."""
    if not span.is_recording():
        return
    from ...telemetry import gen_ai

    span.set_attribute(trace_types.ATTR_FUNCTION_TOOLS, [tool.id for tool in inference.tools])
    if inference.ttft is not None:
        span.set_attribute(trace_types.ATTR_RESPONSE_TTFT, inference.ttft)
    if inference.error is not None:
        gen_ai.set_error_type(span, inference.error)


def record_tts(span: Span, inference: TTSInference) -> None:
    """Describe what came of a TTS node."""
    if not span.is_recording():
        return
    from ...telemetry import gen_ai

    if inference.ttfb is not None:
        span.set_attribute(trace_types.ATTR_RESPONSE_TTFB, inference.ttfb)
    if inference.error is not None:
        gen_ai.set_error_type(span, inference.error)


def response_span(model: Any) -> AbstractContextManager[Span]:
    """Cover a response of a realtime model, from its beginning until it was played."""
    if not tracer.is_recording:
        return nullcontext(NOOP_SPAN)
    attributes: dict[str, str] = {
        trace_types.ATTR_GEN_AI_OPERATION_NAME: trace_types.GenAIOperationName.GENERATE_CONTENT,
        trace_types.ATTR_GEN_AI_REQUEST_MODEL: model.model,
    }
    provider = trace_types.gen_ai_provider_name(model.provider)
    if provider:
        attributes[trace_types.ATTR_GEN_AI_PROVIDER_NAME] = provider
    return tracer.start_as_current_span("realtime_inference", attributes=attributes)
