"""The root span of a job: how it came here, and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..telemetry import trace_types
from ..telemetry.traces import tracer

if TYPE_CHECKING:
    from ..job import RunningJobInfo

__all__ = ["job_span"]

_STAGES = (
    ("job_received", "received_at", ""),
    ("job_accepted", "accepted_at", trace_types.ATTR_JOB_ACCEPT_LATENCY),
    ("job_assigned", "assigned_at", trace_types.ATTR_JOB_ASSIGNMENT_LATENCY),
    ("process_assigned", "launched_at", trace_types.ATTR_JOB_LAUNCH_LATENCY),
)
"""Event, when it was (a field of `RunningJobInfo`), attribute for the time since the one before."""


@contextmanager
def job_span(info: RunningJobInfo) -> Iterator[Any]:
    """Cover a job with the span `job_entrypoint`, dated back to the receipt of its request."""
    started = time.time()
    job = info.job
    attributes: dict[str, Any] = {
        trace_types.ATTR_JOB_ID: job.id,
        trace_types.ATTR_AGENT_NAME: job.agent_name,
        trace_types.ATTR_ROOM_NAME: job.room.name,
        trace_types.ATTR_ROOM_SID: job.room.sid,
        trace_types.ATTR_DISPATCH_ID: job.dispatch_id,
        trace_types.ATTR_WORKER_ID: info.worker_id,
        trace_types.ATTR_JOB_AGENT_ID: job.state.agent_id,
        **_latencies(info, started),
    }
    with tracer.start_as_current_span(
        "job_entrypoint", attributes=attributes, start_time=_ns(info.received_at or started)
    ) as span:
        for event, stamp, _ in _STAGES:
            if at := getattr(info, stamp):
                span.add_event(event, timestamp=_ns(at))
        span.add_event("entrypoint_started", timestamp=_ns(started))
        if job.state.started_at:  # nanoseconds already
            span.add_event("job_started_on_server", timestamp=job.state.started_at)
        yield span


def _latencies(info: RunningJobInfo, started: float) -> dict[str, float]:
    """Seconds between neighbouring stages that are known, never negative."""
    latencies: dict[str, float] = {}
    before = info.received_at
    for _, stamp, attribute in _STAGES[1:]:
        at = getattr(info, stamp)
        if at and before:
            latencies[attribute] = max(0.0, at - before)
        before = at
    if before:
        latencies[trace_types.ATTR_JOB_ENTRYPOINT_LATENCY] = max(0.0, started - before)
    if info.received_at:
        latencies[trace_types.ATTR_JOB_DISPATCH_LATENCY] = max(0.0, started - info.received_at)
    return latencies


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
