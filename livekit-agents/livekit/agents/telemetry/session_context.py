"""Where spans of the job's session belong, for code that has no session at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._job import current_job
from .traces import tracer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opentelemetry.context import Context
    from opentelemetry.trace import Span
    from opentelemetry.util.types import Attributes

    from ..job import JobContext
    from ..voice import AgentSession

__all__ = ["primary_session", "session_root_context", "session_span"]


def primary_session(job_ctx: JobContext | None = None) -> AgentSession[Any] | None:
    """Return the primary session of a job; None when there is none.

    Args:
        job_ctx: The job; the current one when None.
    """
    job = current_job() if job_ctx is None else job_ctx
    session: AgentSession[Any] | None = getattr(job, "_primary_agent_session", None)
    return session


def session_root_context(job_ctx: JobContext | None = None) -> Context | None:
    """Return the context whose current span is `agent_session` of the job's primary session.

    None when no session runs, or nobody records.

    Args:
        job_ctx: The job; the current one when None.
    """
    session = primary_session(job_ctx)
    return None if session is None else session._spans.root_context


def session_span(
    name: str, *, attributes: Attributes = None, job_ctx: JobContext | None = None
) -> AbstractContextManager[Span]:
    """Cover code with a span that belongs to the job's session.

    Its parent is `session_start` while the session starts, otherwise the span that is current; code
    that runs under no span at all is put under `agent_session`.

    Args:
        name: Of the span.
        attributes: Of the span.
        job_ctx: The job; the current one when None.
    """
    context: Context | None = None
    session = primary_session(job_ctx)
    if session is not None:
        context = session._spans.start_context
        if context is None and not tracer.current_span().get_span_context().is_valid:
            context = session._spans.root_context
    return tracer.start_as_current_span(name, context=context, attributes=attributes)
