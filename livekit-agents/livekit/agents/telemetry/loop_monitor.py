"""Notices that an event loop was blocked, for how long, and by what.

A heartbeat on the loop measures; a thread looks at what the loop's thread is doing when the heartbeat
is late. Reports go to the log, to a span, and to a histogram.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from ..log import logger
from . import trace_types

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = [
    "DEFAULT_ERROR_THRESHOLD",
    "DEFAULT_TICK_INTERVAL",
    "DEFAULT_WARN_THRESHOLD",
    "ENV_ERROR_THRESHOLD_MS",
    "ENV_WARN_THRESHOLD_MS",
    "MAX_LOGS_PER_MINUTE",
    "MAX_SPANS_PER_MINUTE",
    "MAX_STACK_FRAMES",
    "SPAN_NAME",
    "BlockedReport",
    "EventLoopMonitor",
    "LoopMonitorThresholds",
    "get_monitor",
    "start_monitoring",
    "stop_monitoring",
]

DEFAULT_WARN_THRESHOLD = 0.1
"""Seconds from which a delay is reported."""
DEFAULT_ERROR_THRESHOLD = 0.5
"""Seconds from which it is an error."""
DEFAULT_TICK_INTERVAL = 0.02
"""Seconds between two heartbeats, at least."""
ENV_WARN_THRESHOLD_MS = "LIVEKIT_AGENTS_LOOP_BLOCK_WARN_MS"
ENV_ERROR_THRESHOLD_MS = "LIVEKIT_AGENTS_LOOP_BLOCK_ERROR_MS"
MAX_LOGS_PER_MINUTE = 5
MAX_SPANS_PER_MINUTE = 30
MAX_STACK_FRAMES = 20
SPAN_NAME = "event_loop_blocked"

_MAX_TICK_INTERVAL = 0.05
_MIN_WARN_THRESHOLD = 0.02
_MAX_SAMPLES = 5
_STARVED_SHARE = 0.5
"""A watchdog that slept through this share of a block was kept from running as well."""
_IDLE_CPU_SHARE = 0.2
"""A loop that used less than this share of a block's time did not block: it waited for a CPU."""

Severity = Literal["warning", "error"]


@dataclass(frozen=True)
class LoopMonitorThresholds:
    """Seconds from which a delay is reported, and from which it is an error."""

    warn: float
    error: float

    @classmethod
    def from_env(cls) -> LoopMonitorThresholds | None:
        """What the environment says, in milliseconds; None when 0 disables the monitor."""
        warn = _milliseconds(ENV_WARN_THRESHOLD_MS, DEFAULT_WARN_THRESHOLD)
        if warn <= 0:
            return None
        warn = max(warn, _MIN_WARN_THRESHOLD)
        return cls(warn, max(warn, _milliseconds(ENV_ERROR_THRESHOLD_MS, DEFAULT_ERROR_THRESHOLD)))


def _milliseconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, "").strip()
    try:
        return float(text) / 1000 if text else default
    except ValueError:
        logger.warning("ignoring %s=%r: expected milliseconds", variable, text)
        return default


@dataclass
class BlockedReport:
    """One delay of a loop. Times are seconds."""

    duration: float
    started_at: float
    """Since the epoch."""
    warn_threshold: float
    severity: Severity
    gc_time: float
    """Spent in garbage collections."""
    cpu_time: float
    """CPU time of the loop's thread."""
    watchdog_gap: float
    """The longest time in which the watchdog was kept from running, too."""
    process_descheduled: bool
    """The whole process was kept from running: the machine is overloaded, no code blocks."""
    task_name: str
    """Of the task that ran."""
    stacks: list[str]
    """What the loop's thread was doing, sampled during the delay."""
    importing: str | None = None
    """Module that was being imported."""
    parent_span_context: Any = None


class _PerMinute:
    """Lets so many through per minute, and counts the others."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._passed: deque[float] = deque()
        self.suppressed = 0

    def allow(self, now: float) -> bool:
        while self._passed and now - self._passed[0] > 60.0:
            self._passed.popleft()
        if len(self._passed) >= self._limit:
            self.suppressed += 1
            return False
        self._passed.append(now)
        return True


class EventLoopMonitor:
    """Monitors one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        warn_threshold: float = DEFAULT_WARN_THRESHOLD,
        error_threshold: float = DEFAULT_ERROR_THRESHOLD,
        tick_interval: float = DEFAULT_TICK_INTERVAL,
        name: str = "event-loop",
        emit_spans: bool = True,
    ) -> None:
        """Set up; `start` begins.

        Args:
            loop: To monitor.
            warn_threshold: Seconds from which a delay is reported.
            error_threshold: Seconds from which it is an error.
            tick_interval: Seconds between two heartbeats.
            name: Of the loop, for logs.
            emit_spans: Report as spans, too.
        """
        self._loop = loop
        self._warn = warn_threshold
        self._error = error_threshold
        self._tick = tick_interval
        self._name = name
        self._emit_spans = emit_spans
        self._context: Context | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._running = False
        self._thread_id: int | None = None
        self._due = 0.0
        self._cpu_before = 0.0
        self._gc_began = 0.0
        self._gc_time = 0.0
        self._samples: list[str] = []
        self._task_name = ""
        self._importing: str | None = None
        self._watchdog_gap = 0.0
        self._stop = threading.Event()
        self._logs = _PerMinute(MAX_LOGS_PER_MINUTE)
        self._spans = _PerMinute(MAX_SPANS_PER_MINUTE)
        self._reports: list[Callable[[BlockedReport], None]] = []

    @property
    def warn_threshold(self) -> float:
        """Seconds from which a delay is reported."""
        return self._warn

    @property
    def error_threshold(self) -> float:
        """Seconds from which it is an error."""
        return self._error

    def set_report_context(self, ctx: Context | None) -> None:
        """Report spans under the current span of this OpenTelemetry context."""
        self._context = ctx

    def follow(self, callback: Callable[[BlockedReport], None]) -> None:
        """Call `callback` on the loop for every report."""
        self._reports.append(callback)

    def unfollow(self, callback: Callable[[BlockedReport], None]) -> None:
        """Undo `follow`. A callback that does not follow is fine."""
        if callback in self._reports:
            self._reports.remove(callback)

    def start(self) -> None:
        """Begin, from any thread. The loop may not run yet."""
        if self._running:
            return
        self._running = True
        self._stop.clear()
        self._loop.call_soon_threadsafe(self._first_beat)
        threading.Thread(target=self._watch, name=f"loop_monitor_{self._name}", daemon=True).start()

    def stop(self) -> None:
        """End. Idempotent."""
        self._running = False
        self._stop.set()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._on_gc in gc.callbacks:
            gc.callbacks.remove(self._on_gc)

    # -- on the loop ----------------------------------------------------------------------------------

    def _first_beat(self) -> None:
        if self._running:
            self._thread_id = threading.get_ident()
            gc.callbacks.append(self._on_gc)
            self._schedule()

    def _schedule(self) -> None:
        self._cpu_before = time.thread_time()
        self._gc_time = 0.0
        self._due = time.perf_counter() + self._tick
        self._handle = self._loop.call_later(self._tick, self._beat)

    def _beat(self) -> None:
        if not self._running:
            return
        late = time.perf_counter() - self._due
        if late >= self._warn:
            self._report(late)
        self._samples, self._task_name, self._importing = [], "", None
        self._watchdog_gap = 0.0
        self._schedule()

    def _on_gc(self, phase: str, _: dict[str, int]) -> None:
        if threading.get_ident() != self._thread_id:
            return
        if phase == "start":
            self._gc_began = time.perf_counter()
        elif self._gc_began:
            self._gc_time += time.perf_counter() - self._gc_began
            self._gc_began = 0.0

    # -- in the thread --------------------------------------------------------------------------------

    def _watch(self) -> None:
        interval = self._warn / 2
        before = time.perf_counter()
        while not self._stop.wait(interval):
            now = time.perf_counter()
            gap, before = now - before - interval, now
            if not self._due or now - self._due < self._warn / 2:
                continue
            self._watchdog_gap = max(self._watchdog_gap, gap)
            if len(self._samples) < _MAX_SAMPLES:
                self._sample()

    def _sample(self) -> None:
        frame = sys._current_frames().get(self._thread_id or 0)
        if frame is None:
            return
        self._importing = self._importing or _module_being_imported(frame)
        stack = traceback.format_stack(frame)[-MAX_STACK_FRAMES:]
        self._task_name = self._task_name or self._current_task()
        text = "".join(stack)
        if text not in self._samples:
            self._samples.append(text)

    def _current_task(self) -> str:
        try:
            task = asyncio.current_task(self._loop)
        except RuntimeError:
            return ""
        return task.get_name() if task is not None else ""

    # -- reports --------------------------------------------------------------------------------------

    def _report(self, late: float) -> None:
        cpu = time.thread_time() - self._cpu_before
        starved = self._watchdog_gap >= late * _STARVED_SHARE and cpu < late * _IDLE_CPU_SHARE
        report = BlockedReport(
            duration=late,
            started_at=time.time() - late,
            warn_threshold=self._warn,
            severity="error" if late >= self._error and not starved else "warning",
            gc_time=self._gc_time,
            cpu_time=cpu,
            watchdog_gap=self._watchdog_gap,
            process_descheduled=starved,
            task_name=self._task_name,
            stacks=list(self._samples),
            importing=self._importing,
            parent_span_context=self._context,
        )
        try:
            self._publish(report)
        except Exception:
            logger.debug("a report of a blocked loop failed", exc_info=True)

    def _publish(self, report: BlockedReport) -> None:
        from .otel_metrics import record_event_loop_blocked

        now = time.monotonic()
        record_event_loop_blocked(report.duration, severity=report.severity)
        for follow in list(self._reports):
            follow(report)
        if self._emit_spans and self._spans.allow(now):
            self._emit_span(report)
        if not report.process_descheduled and self._logs.allow(now):
            self._log(report)

    def _log(self, report: BlockedReport) -> None:
        suppressed, self._logs.suppressed = self._logs.suppressed, 0
        what = f" by the import of {report.importing}" if report.importing else ""
        where = f"\n{report.stacks[0]}" if report.stacks else ""
        logger.warning(
            "event loop blocked for %.0f ms%s%s",
            report.duration * 1000,
            what,
            where,
            extra={
                "loop": self._name,
                "task": report.task_name,
                "severity": report.severity,
                "suppressed": suppressed,
            },
        )

    def _emit_span(self, report: BlockedReport) -> None:
        from .traces import tracer

        suppressed, self._spans.suppressed = self._spans.suppressed, 0
        attributes: dict[str, Any] = {
            trace_types.ATTR_BLOCKING_DURATION: report.duration,
            trace_types.ATTR_BLOCKING_THRESHOLD: report.warn_threshold,
            trace_types.ATTR_BLOCKING_SEVERITY: report.severity,
            trace_types.ATTR_BLOCKING_TASK: report.task_name,
            trace_types.ATTR_BLOCKING_STACK: "\n".join(report.stacks),
            trace_types.ATTR_BLOCKING_GC_TIME: report.gc_time,
            trace_types.ATTR_BLOCKING_CPU_TIME: report.cpu_time,
            trace_types.ATTR_BLOCKING_SUPPRESSED: suppressed,
        }
        if report.importing:
            attributes[trace_types.ATTR_BLOCKING_IMPORT] = report.importing
        span = tracer.start_span(
            SPAN_NAME,
            context=self._context,
            attributes=attributes,
            start_time=int(report.started_at * 1e9),
        )
        span.end()


def _module_being_imported(frame: FrameType | None) -> str | None:
    """The module whose import the frames are in, innermost; None if they are in none."""
    while frame is not None:
        if frame.f_code.co_name == "_find_and_load" and "importlib" in frame.f_code.co_filename:
            name = frame.f_locals.get("name")
            return name if isinstance(name, str) else None
        frame = frame.f_back
    return None


_monitors: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, EventLoopMonitor] = (
    weakref.WeakKeyDictionary()
)


def start_monitoring(
    loop: asyncio.AbstractEventLoop,
    *,
    thresholds: LoopMonitorThresholds | None = None,
    name: str = "event-loop",
    emit_spans: bool = True,
) -> EventLoopMonitor | None:
    """Monitor a loop; returns the monitor it has. None when the environment disables it.

    Args:
        loop: To monitor.
        thresholds: As in the environment by default.
        name: Of the loop, for logs.
        emit_spans: Report as spans, too.
    """
    if (existing := _monitors.get(loop)) is not None:
        return existing
    thresholds = thresholds or LoopMonitorThresholds.from_env()
    if thresholds is None:
        return None
    monitor = EventLoopMonitor(
        loop,
        warn_threshold=thresholds.warn,
        error_threshold=thresholds.error,
        tick_interval=min(max(thresholds.warn / 5, DEFAULT_TICK_INTERVAL), _MAX_TICK_INTERVAL),
        name=name,
        emit_spans=emit_spans,
    )
    _monitors[loop] = monitor
    monitor.start()
    return monitor


def stop_monitoring(loop: asyncio.AbstractEventLoop) -> None:
    """Stop monitoring a loop. One that is not monitored is fine."""
    monitor = _monitors.pop(loop, None)
    if monitor is not None:
        monitor.stop()


def get_monitor(loop: asyncio.AbstractEventLoop) -> EventLoopMonitor | None:
    """The monitor of a loop, or None."""
    return _monitors.get(loop)
