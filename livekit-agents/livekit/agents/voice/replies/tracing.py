"""Spans of what an agent says: one for each speech, and inside it one for each node and response."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ...telemetry import trace_types
from ...telemetry._noop import NOOP_SPAN
from ...telemetry.otel_metrics import record_invoke_agent_duration
from ...telemetry.traces import tracer
from ...telemetry.utils import harmless, record_exception

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from ...metrics import RealtimeModelMetrics
    from ...telemetry.input_delta import InputDeltaScope
    from ..agent import Agent
    from ..agent_activity import AgentActivity
    from ..agent_session import AgentSession
    from ..speech_handle import SpeechHandle
    from .inference import LLMInference, TTSInference

__all__ = [
    "agent_turn",
    "mark_generation",
    "node_span",
    "record_llm",
    "record_llm_input",
    "record_tts",
    "response_span",
]


_DELAYS = {
    "e2e_latency": trace_types.ATTR_E2E_LATENCY,
    "transcription_delay": trace_types.ATTR_TRANSCRIPTION_DELAY,
    "end_of_turn_delay": trace_types.ATTR_END_OF_TURN_DELAY,
    "on_user_turn_completed_delay": trace_types.ATTR_ON_USER_TURN_COMPLETED_DELAY,
}
"""Key in the report of a message -> attribute of the turn."""


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
            trace_types.ATTR_AGENT_TURN_ID: f"{handle.id}_1",
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
    asked = [handle._user_message] if handle._user_message is not None else []
    for message in (*asked, *messages):
        report: Mapping[str, Any] = message.metrics
        span.set_attributes({a: report[key] for key, a in _DELAYS.items() if key in report})
    known = {
        trace_types.ATTR_SPEECH_QUEUE_WAIT: handle._queue_wait,
        trace_types.ATTR_PLAYOUT_POSITION: handle._playout_position,
    }
    span.set_attributes({key: value for key, value in known.items() if value is not None})
    if not handle.scheduled:
        span.add_event("preemptive_generation_discarded")
    if gen_ai.capture_content_enabled():
        span.set_attribute(trace_types.ATTR_INSTRUCTIONS, str(activity.agent.instructions))
        for said, attribute in (
            (asked, trace_types.ATTR_USER_INPUT),
            (messages, trace_types.ATTR_RESPONSE_TEXT),
        ):
            if said:
                span.set_attribute(attribute, "\n".join(m.text_content or "" for m in said))


def mark_generation(handle: SpeechHandle) -> None:
    """A step of a speech begins to play."""
    if tracer.is_recording:
        step = handle.num_steps
        attributes = {trace_types.ATTR_AGENT_TURN_ID: f"{handle.id}_{step}"}
        if step > 1:
            attributes[trace_types.ATTR_AGENT_PARENT_TURN_ID] = f"{handle.id}_{step - 1}"
        tracer.current_span().add_event("generation", attributes)


def node_span(
    name: str, agent: Agent | None, attributes: dict[str, str] | None = None
) -> AbstractContextManager[Span]:
    """Cover a node or a hook of an agent. What leaves it is recorded as its failure."""
    if not tracer.is_recording:
        return nullcontext(NOOP_SPAN)
    label = {trace_types.ATTR_AGENT_LABEL: agent.label} if agent is not None else {}
    return tracer.start_as_current_span(name, attributes={**label, **(attributes or {})})


def model_attributes(model: Any) -> dict[str, str]:
    """Which model it is, for the span of a node; empty while nobody records."""
    if model is None or not tracer.is_recording:
        return {}
    return trace_types.gen_ai_model_attributes(str(model.model), model.provider)


@contextmanager
def recorded_in(scope: InputDeltaScope | None) -> Iterator[None]:
    """What is spawned in the block records its input as a part of `scope`."""
    if scope is None:
        yield
        return
    from ...telemetry import input_delta

    token = input_delta.set_scope(scope)
    try:
        yield
    finally:
        input_delta.reset_scope(token)


@harmless
def record_llm_input(span: Span, inference: LLMInference) -> None:
    """Describe what an LLM node is given."""
    if not span.is_recording():
        return
    from ...llm import ProviderTool
    from ...telemetry import gen_ai, input_delta

    provider_tools = [tool.id for tool in inference.tools if isinstance(tool, ProviderTool)]
    functions = [tool.id for tool in inference.tools if not isinstance(tool, ProviderTool)]
    span.set_attribute(trace_types.ATTR_FUNCTION_TOOLS, functions)
    span.set_attribute(trace_types.ATTR_PROVIDER_TOOLS, provider_tools)
    span.set_attribute(trace_types.ATTR_TOOL_SETS, list(inference.toolsets))
    if gen_ai.capture_content_enabled():
        delta = input_delta.compute(input_delta.LLM_NODE, inference.chat_ctx, span)
        input_delta.set_attributes(span, delta)
        span.set_attribute(trace_types.ATTR_CHAT_CTX, json.dumps(delta.chat_ctx.to_dict()))


def record_llm(span: Span, inference: LLMInference) -> None:
    """Describe what came of an LLM node."""
    if not span.is_recording():
        return
    from ...telemetry import gen_ai

    if gen_ai.capture_content_enabled():
        span.set_attribute(trace_types.ATTR_RESPONSE_TEXT, inference.text or "")
        span.set_attribute(
            trace_types.ATTR_RESPONSE_FUNCTION_CALLS,
            json.dumps([json.loads(each.model_dump_json()) for each in inference.made_calls]),
        )
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


@harmless
def trace_realtime_metrics(session: AgentSession[Any], metrics: RealtimeModelMetrics) -> None:
    """Record what a response of a realtime model cost, as a part of the turn that it was for."""
    if not tracer.is_recording:
        return
    from ...telemetry.utils import record_realtime_metrics

    speech = session.current_speech
    turn = None if speech is None else speech._trace_context
    with tracer.detached_span(
        "realtime_metrics", context=turn or session._spans.root_context
    ) as span:
        record_realtime_metrics(span, metrics)


def response_span(model: Any) -> AbstractContextManager[Span]:
    """Cover a response of a realtime model, from its beginning until it was played."""
    if not tracer.is_recording:
        return nullcontext(NOOP_SPAN)
    attributes: dict[str, str] = {
        trace_types.ATTR_GEN_AI_OPERATION_NAME: trace_types.GenAIOperationName.GENERATE_CONTENT,
        **model_attributes(model),
    }
    return tracer.start_as_current_span("realtime_inference", attributes=attributes)
