"""Spans of agents coming on duty and going off it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from ..telemetry import trace_types
from ..telemetry._noop import NOOP_SPAN
from ..telemetry.traces import tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from .agent import Agent
    from .agent_activity import AgentActivity
    from .agent_session import AgentSession

__all__ = ["activity_span", "handoff_span", "start_span"]


def activity_span(name: str, activity: AgentActivity) -> AbstractContextManager[Span]:
    """Cover a step in the life of an activity: its start, pause, drain and the like."""
    if not tracer.is_recording:
        return nullcontext(NOOP_SPAN)
    return tracer.start_as_current_span(name, attributes=_attributes(activity))


def start_span(activity: AgentActivity, context: Any) -> AbstractContextManager[Span]:
    """Cover the start of an activity; `context` has the parent, the current one when None."""
    if not tracer.is_recording:
        return nullcontext(NOOP_SPAN)
    attributes = _attributes(activity)
    attributes[trace_types.ATTR_GEN_AI_OPERATION_NAME] = trace_types.GenAIOperationName.CREATE_AGENT
    attributes[trace_types.ATTR_GEN_AI_AGENT_NAME] = activity.agent.id
    return tracer.start_as_current_span(
        "start_agent_activity", context=context, attributes=attributes
    )


def handoff_span(session: AgentSession[Any], agent: Agent) -> AbstractContextManager[Span]:
    """Cover the whole of a handoff to `agent`."""
    context = session._spans.root_context
    if context is None:
        return nullcontext(NOOP_SPAN)
    attributes = {trace_types.ATTR_AGENT_LABEL: agent.label}
    if session._activity is not None:
        attributes[trace_types.ATTR_PREVIOUS_AGENT_LABEL] = session._activity.agent.label
    return tracer.start_as_current_span("update_agent", context=context, attributes=attributes)


def _attributes(activity: AgentActivity) -> dict[str, Any]:
    attributes: dict[str, Any] = {trace_types.ATTR_AGENT_LABEL: activity.agent.label}
    model: Any = activity.llm
    if model is not None:
        attributes |= trace_types.gen_ai_model_attributes(model.model, model.provider)
    return attributes
