"""Keeps personal data out of traces where it isn't allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from . import trace_types
from .utils import REDACTED_EXCEPTION_MESSAGE

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import Event, ReadableSpan

_T = TypeVar("_T")

GEN_AI_PII_ATTRIBUTES = frozenset(
    {
        trace_types.ATTR_GEN_AI_INPUT_MESSAGES,
        trace_types.ATTR_GEN_AI_OUTPUT_MESSAGES,
        trace_types.ATTR_GEN_AI_SYSTEM_INSTRUCTIONS,
        trace_types.ATTR_GEN_AI_TOOL_CALL_ARGUMENTS,
        trace_types.ATTR_GEN_AI_TOOL_CALL_RESULT,
        trace_types.ATTR_GEN_AI_TOOL_DESCRIPTION,
        trace_types.ATTR_GEN_AI_TOOL_DEFINITIONS,
        trace_types.ATTR_GEN_AI_RETRIEVAL_QUERY_TEXT,
        trace_types.ATTR_GEN_AI_RETRIEVAL_DOCUMENTS,
        trace_types.ATTR_GEN_AI_MEMORY_QUERY_TEXT,
        trace_types.ATTR_GEN_AI_MEMORY_RECORDS,
        trace_types.ATTR_GEN_AI_EVALUATION_EXPLANATION,
    }
)
"""Attributes of the semantic conventions that carry what was said or instructed."""

PII_EVENT_NAMES = frozenset(
    {
        trace_types.EVENT_GEN_AI_SYSTEM_MESSAGE,
        trace_types.EVENT_GEN_AI_USER_MESSAGE,
        trace_types.EVENT_GEN_AI_ASSISTANT_MESSAGE,
        trace_types.EVENT_GEN_AI_TOOL_MESSAGE,
        trace_types.EVENT_GEN_AI_CHOICE,
        trace_types.EVENT_GEN_AI_CLIENT_INFERENCE_OPERATION_DETAILS,
    }
)
"""Events of the semantic conventions that carry what was said or instructed."""

_ORIGINAL = "_lk_before_redaction"


def is_pii_attribute(key: str) -> bool:
    """Whether an attribute of this name may carry personal data."""
    return (
        key in GEN_AI_PII_ATTRIBUTES
        or key.startswith(trace_types.ATTR_GEN_AI_PROMPT_VARIABLE)
        or "pii" in key.split(".")
    )


def filter_attributes(attributes: Mapping[str, _T] | None) -> dict[str, _T]:
    """Return `attributes` without those that may carry personal data."""
    return {key: value for key, value in (attributes or {}).items() if not is_pii_attribute(key)}


def redact(span: ReadableSpan) -> None:
    """Remove personal data from a span that has ended, for all who see it from now on.

    Drops attributes and events that carry it and stack traces, and replaces the messages of
    exceptions, which may quote it. Redacting a span again does nothing.
    """
    if hasattr(span, _ORIGINAL):
        return
    from opentelemetry.trace import Status

    setattr(span, _ORIGINAL, (span._attributes, span._events, span._status))
    span._attributes = _without_messages(filter_attributes(span.attributes))
    span._events = _redacted_events(span.events)
    if span.status.description:
        span._status = Status(span.status.status_code, REDACTED_EXCEPTION_MESSAGE)


def restore_pii(span: ReadableSpan) -> ReadableSpan:
    """Return the span as it was before `redact`; the span itself if it wasn't redacted."""
    original = getattr(span, _ORIGINAL, None)
    if original is None:
        return span
    import copy

    restored = copy.copy(span)
    restored._attributes, restored._events, restored._status = original
    delattr(restored, _ORIGINAL)
    return restored


def _without_messages(attributes: dict[str, Any]) -> dict[str, Any]:
    attributes.pop(trace_types.ATTR_EXCEPTION_TRACE, None)
    if trace_types.ATTR_EXCEPTION_MESSAGE in attributes:
        attributes[trace_types.ATTR_EXCEPTION_MESSAGE] = REDACTED_EXCEPTION_MESSAGE
    return attributes


def _redacted_events(events: Iterable[Event]) -> list[Event]:
    from opentelemetry.sdk.trace import Event

    return [
        Event(event.name, _without_messages(filter_attributes(event.attributes)), event.timestamp)
        for event in events
        if event.name not in PII_EVENT_NAMES
    ]
