"""The spans of a session itself: `agent_session`, its start and its close, and who speaks when.

All that the session does is found under `agent_session`. What has not ended when the session has
closed is ended then: a trace is complete whatever hangs. Without a provider nothing here costs more
than a look at an attribute.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..log import logger
from ..telemetry import trace_types
from ..telemetry._noop import NOOP_SPAN
from ..telemetry._open_spans import CUT_OFF, OpenSpans
from ..telemetry.traces import tracer
from ..telemetry.utils import harmless, participant_attributes, record_exception

if TYPE_CHECKING:
    from livekit import rtc
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from ..inference.interruption import OverlappingSpeechEvent
    from ..telemetry.input_delta import InputDeltaTracker
    from ..telemetry.loop_monitor import BlockedReport, EventLoopMonitor
    from .agent import Agent
    from .agent_session import AgentSession
    from .closing import CloseReport
    from .events import AgentState, CloseReason, UserState

__all__ = ["SessionSpans"]

_MONITOR = "livekit.agents.telemetry.loop_monitor"
_WORKFLOW = "agent_session"


class SessionSpans:
    """The spans of one life of a session."""

    def __init__(self, session: AgentSession[Any]) -> None:
        self._session = session
        self._open = OpenSpans()
        self._root: Span = NOOP_SPAN
        self._close: Span = NOOP_SPAN
        self._user: _Speaking | None = None
        self._agent: _Speaking | None = None
        self._stalls: _Stalls | None = None
        self.root_context: Context | None = None
        """`agent_session` is current in it. None before the start, and while nobody records."""
        self.start_context: Context | None = None
        """`session_start` is current in it. None except while the session starts."""
        self.input_delta: InputDeltaTracker | None = None
        """What models were given before; None unless only differences are to be recorded."""

    # -- its life -------------------------------------------------------------------------------

    def begin(self, agent: Agent) -> None:
        """The session begins to start, with `agent`."""
        if not tracer.is_recording:
            return
        from ..telemetry import gen_ai

        attributes = {trace_types.ATTR_AGENT_LABEL: agent.label, **_job_attributes()}
        self._root = tracer.start_span(_WORKFLOW, attributes=attributes)
        gen_ai.set_workflow_attributes(self._root, name=_WORKFLOW)
        self.root_context = tracer.root_context(self._root, self._open)
        self._stalls = _Stalls.watch(self._root, self.root_context)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Cover the start."""
        if self.root_context is None:
            yield
            return
        span = tracer.start_span("session_start", context=self.root_context)
        self.start_context = tracer.context_of(span, self.root_context)
        try:
            with tracer.use_context(self.root_context):
                yield
        except Exception as error:
            record_exception(span, error)
            raise
        finally:
            self.start_context = None
            span.end()

    def recording_resolved(self, options: Mapping[str, Any]) -> None:
        """It is known what is recorded of the session."""
        if options.get("input_delta"):
            from ..telemetry.input_delta import InputDeltaTracker

            self.input_delta = InputDeltaTracker()

    @contextmanager
    def closing(self, reason: CloseReason, *, drain: bool) -> Iterator[None]:
        """Cover the close, `ended` included."""
        if self.root_context is None:
            yield
            return
        self._close = tracer.start_span(
            "session_close",
            context=self.root_context,
            attributes={
                trace_types.ATTR_CLOSE_REASON: reason.value,
                trace_types.ATTR_CLOSE_DRAIN: drain,
            },
        )
        with tracer.use_context(tracer.context_of(self._close, self.root_context)):
            yield

    def end_speaking(self) -> None:
        """Nobody speaks any more."""
        for speaking in (self._user, self._agent):
            if speaking is not None:
                speaking.end(None)
        self._user = self._agent = None

    def ended(self, report: CloseReport) -> None:
        """The session is closed: end whatever is still open. Never raises. Idempotent."""
        root, self._root = self._root, NOOP_SPAN
        if root is NOOP_SPAN:
            return
        try:
            self.end_speaking()
            if self._stalls is not None:
                self._stalls.end()
            _record_report(self._close, report)
            self._close.end()
            self._open.end_all()
        except Exception:
            logger.debug("could not end the spans of a session", exc_info=True)
        finally:
            self.root_context = self.start_context = None
            root.end()

    # -- what happens in it ---------------------------------------------------------------------

    @harmless
    def event(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Something happened that concerns the whole session."""
        self._root.add_event(name, dict(attributes))

    @harmless
    def agent_state(self, old: AgentState, new: AgentState, at: float) -> None:
        """The agent's state changed; `at` is seconds since the epoch."""
        if self.root_context is None:
            return
        self._state_event("agent_state_changed", old, new)
        if new == "speaking":
            speech = self._session.current_speech
            context = None if speech is None else speech._trace_context
            self._agent = _Speaking(
                "agent_speaking", context or self.root_context, at, self._local_participant()
            )
        elif self._agent is not None:
            self._agent.end(at)
            self._agent = None

    @harmless
    def user_state(self, old: UserState, new: UserState, at: float) -> None:
        """The user's state changed; `at` is seconds since the epoch."""
        if self.root_context is None:
            return
        self._state_event("user_state_changed", old, new)
        if new == "speaking":
            room_io = self._session._room_io
            user = None if room_io is None else room_io.linked_participant
            self._user = _Speaking("user_speaking", self.root_context, at, user)
        elif self._user is not None:
            self._user.end(at)
            self._user = None

    @harmless
    def describe_user(self, span: Span | None) -> None:
        """Say on a span of the user's who the user is, where there is a room."""
        room_io = self._session._room_io
        if span is not None and room_io is not None and room_io.linked_participant is not None:
            span.set_attributes(participant_attributes(room_io.linked_participant))

    @harmless
    def overlap_judged(self, ev: OverlappingSpeechEvent) -> None:
        """A detector said what the user's speech over the agent was."""
        if self._user is not None:
            self._user.span.set_attributes(
                {
                    trace_types.ATTR_IS_INTERRUPTION: str(ev.is_interruption).lower(),
                    trace_types.ATTR_INTERRUPTION_PROBABILITY: float(ev.probability),
                    trace_types.ATTR_INTERRUPTION_TOTAL_DURATION: ev.total_duration,
                    trace_types.ATTR_INTERRUPTION_PREDICTION_DURATION: ev.prediction_duration,
                    trace_types.ATTR_INTERRUPTION_DETECTION_DELAY: ev.detection_delay,
                }
            )

    @harmless
    def participant_linked(self, participant: rtc.RemoteParticipant) -> None:
        """The room's user has come."""
        if self.root_context is None:
            return
        self.event("participant_linked", participant_attributes(participant))
        prefix = "sip."
        for key, value in participant.attributes.items():
            if key == "sip.phoneNumber":
                self._root.set_attribute(trace_types.ATTR_SIP_PHONE_NUMBER, value)
            elif key.startswith(prefix):
                name = trace_types.ATTR_SIP_PREFIX + key.removeprefix(prefix)
                self._root.set_attribute(name, value)

    @harmless
    def participant_disconnected(self, participant: rtc.RemoteParticipant, reason: str) -> None:
        """The room's user has left."""
        if self.root_context is not None:
            attributes = participant_attributes(participant)
            attributes[trace_types.ATTR_DISCONNECT_REASON] = reason
            self.event("participant_disconnected", attributes)

    def _state_event(self, name: str, old: str, new: str) -> None:
        self.event(name, {trace_types.ATTR_OLD_STATE: old, trace_types.ATTR_NEW_STATE: new})

    def _local_participant(self) -> Any:
        room_io = self._session._room_io
        if room_io is None or not room_io.room.isconnected():
            return None
        return room_io.room.local_participant


class _Speaking:
    """One stretch of speech."""

    def __init__(self, name: str, context: Context | None, began: float, who: Any) -> None:
        self._began = began
        self.span = tracer.start_span(
            name,
            context=context,
            attributes=None if who is None else participant_attributes(who),
            start_time=_nanoseconds(began),
        )

    def end(self, at: float | None) -> None:
        """It ended at `at`, or now."""
        self.span.end(end_time=_nanoseconds(max(self._began, time.time() if at is None else at)))


class _Stalls:
    """Sums up how often, and for how long, the event loop was blocked."""

    def __init__(self, monitor: EventLoopMonitor, span: Span) -> None:
        self._monitor = monitor
        self._span = span
        self._count = 0
        self._total = self._longest = 0.0

    @classmethod
    def watch(cls, span: Span, context: Context | None) -> _Stalls | None:
        """Follow the monitor of the running loop, if it has one."""
        module = sys.modules.get(_MONITOR)
        monitor = module.get_monitor(asyncio.get_running_loop()) if module is not None else None
        if monitor is None:
            return None
        stalls = cls(monitor, span)
        monitor.set_report_context(context)
        monitor.follow(stalls._reported)
        return stalls

    def _reported(self, report: BlockedReport) -> None:
        self._count += 1
        self._total += report.duration
        self._longest = max(self._longest, report.duration)
        self._span.add_event(
            "event_loop_blocked",
            {
                trace_types.ATTR_BLOCKING_DURATION: report.duration,
                trace_types.ATTR_BLOCKING_SEVERITY: report.severity,
            },
        )

    def end(self) -> None:
        """Record the sum."""
        self._monitor.unfollow(self._reported)
        self._monitor.set_report_context(None)
        if self._count:
            self._span.set_attributes(
                {
                    trace_types.ATTR_BLOCKING_COUNT: self._count,
                    trace_types.ATTR_BLOCKING_TOTAL_DURATION: self._total,
                    trace_types.ATTR_BLOCKING_MAX_DURATION: self._longest,
                }
            )


def _record_report(span: Span, report: CloseReport) -> None:
    """What of a close did not go by itself."""
    if not span.is_recording():
        return
    if report.escalated:
        span.add_event("escalated", {"by": report.escalated_by or ""})
    for step in report.steps:
        if step.outcome != "ok":
            facts: dict[str, Any] = {
                "step": step.name,
                "outcome": step.outcome,
                "seconds": step.seconds,
            }
            span.add_event("step_not_ended" if step.outcome == "timeout" else "step_failed", facts)
    if report.cut_off or report.survivors:
        span.set_attribute(trace_types.ATTR_ERROR_TYPE, CUT_OFF)
    if report.cut_off:
        span.add_event("speech_cut_off", {trace_types.ATTR_SPEECH_ID: list(report.cut_off)})
    for survivor in report.survivors:
        span.add_event("task_left_behind", {"task": survivor.name, "owner": survivor.owner})


def _job_attributes() -> dict[str, str]:
    from .session_start import current_job

    job = current_job()
    if job is None:
        return {}
    attributes = {
        trace_types.ATTR_JOB_ID: job.job.id,
        trace_types.ATTR_AGENT_NAME: job.job.agent_name,
        trace_types.ATTR_DISPATCH_ID: job.job.dispatch_id,
        trace_types.ATTR_ROOM_NAME: job.job.room.name,
        trace_types.ATTR_ROOM_SID: job.job.room.sid,
    }
    return {key: value for key, value in attributes.items() if value}


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
