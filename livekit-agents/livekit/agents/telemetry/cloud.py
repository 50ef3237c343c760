"""Traces, logs and metrics of jobs for LiveKit Cloud, over OTLP/HTTP.

Pipelines exist once per process; jobs register in them. What a job wants to upload is known only
when its session starts: until then spans and log records are held back. Needs
`opentelemetry-exporter-otlp` (the extra `telemetry`); without it nothing is uploaded.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from ..log import logger
from ..types import (
    ATTRIBUTE_REDACTION_ENABLED,
    ATTRIBUTE_SIMULATION_ENABLED,
    ATTRIBUTE_SIMULATION_JOB_ID,
    ATTRIBUTE_SIMULATION_RUN_ID,
)
from ._job import current_job

if TYPE_CHECKING:
    from ..job import JobContext

__all__ = ["JobTelemetry", "begin_job", "shut_down"]

MAX_HELD = 1024
"""Spans, and log records, that are held back for a job that has not decided."""

_TOKEN_TTL = 6 * 3600
_TOKEN_MARGIN = 300
_METRICS_INTERVAL_MS = 30_000
_DISABLED = ("recording", "disabled")
"""Words in the body of a 401 which says that the project's owner wants no data."""

_lock = threading.Lock()
_pipelines: _Pipelines | None = None
_missing_told = False


class JobTelemetry:
    """What one job uploads."""

    def __init__(self, pipelines: _Pipelines, job: JobContext) -> None:
        self.job_id = job.job.id
        self.room_id = job.job.room.sid
        self.log_attributes: dict[str, Any] = {"job_id": self.job_id, "room_id": self.room_id}
        self.redaction = job._redaction_enabled
        self.log_attributes.update(_session_metadata(job))
        self._wants_logs = bool(job.job.enable_recording)
        self._pipelines = pipelines
        self._lock = threading.Lock()
        self._traces: bool | None = None
        self._logs: bool | None = None
        self._spans: list[Any] = []
        self._records: list[logging.LogRecord] = []

    def decide(self, *, traces: bool, logs: bool) -> None:
        """The session has started: what was held back is released, or dropped."""
        with self._lock:
            if self._traces is not None:
                return
            self._traces, self._logs = traces, logs
            spans, self._spans = self._spans, []
            records, self._records = self._records, []
        if traces:
            for span in spans:
                self._pipelines.export_span(span, self)
        if logs:
            for record in records:
                self._pipelines.export_log(record, self)

    def span_ended(self, span: Any) -> None:
        """A span of the job."""
        with self._lock:
            if self._traces is None:
                if len(self._spans) < MAX_HELD:
                    self._spans.append(span)
                return
        if self._traces:
            self._pipelines.export_span(span, self)

    def logged(self, record: logging.LogRecord) -> None:
        """A log record of the job."""
        with self._lock:
            if self._logs is None:
                if len(self._records) < MAX_HELD:
                    self._records.append(record)
                return
        if self._logs:
            self._pipelines.export_log(record, self)

    def finish(self, timeout: float) -> None:
        """The job is over: send what there is, for so long at most. Blocks."""
        # a session that never started still leaves the logs that tell why
        self.decide(traces=False, logs=self._wants_logs)
        self._pipelines.flush(timeout)
        self._pipelines.jobs.pop(self.job_id, None)


def begin_job(job: JobContext) -> JobTelemetry | None:
    """Register a job; None where its telemetry goes nowhere. Never raises."""
    url = job._observability_url
    if url is None:
        return None
    try:
        with _lock:
            pipelines = _get_pipelines(url)
            if pipelines is None:
                return None
            state = JobTelemetry(pipelines, job)
            pipelines.jobs[state.job_id] = state
            return state
    except Exception:
        logger.warning("telemetry can't be set up, the job goes on without", exc_info=True)
        return None


_setup_cloud_tracer = begin_job
"""The name under which others know it."""


def shut_down(timeout: float = 10.0) -> None:
    """The process ends: shut down what was made here. Blocks for so long at most."""
    global _pipelines
    with _lock:
        pipelines, _pipelines = _pipelines, None
    atexit.unregister(shut_down)
    if pipelines is not None:
        pipelines.shut_down(timeout)


def adopt(provider: Any) -> None:
    """An integrator has set a provider of the SDK: its spans of jobs are uploaded as well."""
    with _lock:
        if _pipelines is not None:
            _pipelines.adopt(provider)


def _session_metadata(job: JobContext) -> dict[str, Any]:
    """What is stamped on everything of a job, beside its ids."""
    metadata: dict[str, Any] = {}
    simulation = job.simulation_context()
    if simulation is not None:
        metadata[ATTRIBUTE_SIMULATION_ENABLED] = True
        metadata[ATTRIBUTE_SIMULATION_RUN_ID] = simulation.simulation_run_id
        metadata[ATTRIBUTE_SIMULATION_JOB_ID] = simulation.simulation_job_id
    if job._redaction_enabled:
        metadata[ATTRIBUTE_REDACTION_ENABLED] = True
    return metadata


def _get_pipelines(url: str) -> _Pipelines | None:
    global _pipelines, _missing_told
    if _pipelines is None:
        try:
            _pipelines = _Pipelines(url)
            atexit.register(shut_down)
        except ModuleNotFoundError as error:
            if not _missing_told:
                _missing_told = True
                logger.warning(
                    "traces and logs are not uploaded to LiveKit Cloud: %s is missing "
                    "(pip install 'livekit-agents[telemetry]')",
                    error.name,
                )
            return None
    return _pipelines


class _Pipelines:
    """The exporters of this process."""

    def __init__(self, url: str) -> None:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self.jobs: dict[str, JobTelemetry] = {}
        self._url = url.rstrip("/")
        self._token = _BearerToken()
        self._off = False
        self._adopted: weakref.WeakSet[Any] = weakref.WeakSet()
        self._spans = BatchSpanProcessor(self._span_exporter())
        self._own: list[Any] = []
        self._logs = self._make_logs()
        self._log_handler = _JobLogHandler()
        logging.getLogger().addHandler(self._log_handler)
        self._attach_traces()
        self._make_metrics()

    def export_span(self, span: Any, job: JobTelemetry) -> None:
        from .pii import restore_pii

        # the project's own place gets everything, unless redaction is mandated
        self._spans.on_end(span if job.redaction else restore_pii(span))

    def export_log(self, record: logging.LogRecord, job: JobTelemetry) -> None:
        from opentelemetry._logs import SeverityNumber

        from .pii import filter_attributes

        attributes = {**_fields(record), **job.log_attributes}
        if job.redaction:
            attributes = filter_attributes(attributes)
        self._logs.get_logger(record.name).emit(
            timestamp=int(record.created * 1e9),
            severity_number=SeverityNumber(_severity(record.levelno)),
            severity_text=record.levelname,
            body=record.getMessage(),
            attributes=attributes,
        )

    def emit(self, name: str, body: str, attributes: dict[str, Any], *, error: bool) -> None:
        """Send a record that is not a line of a log: a part of a session's report."""
        from opentelemetry._logs import SeverityNumber

        self._logs.get_logger(name).emit(
            timestamp=time.time_ns(),
            severity_number=SeverityNumber.ERROR if error else SeverityNumber.UNSPECIFIED,
            body=body,
            attributes=attributes,
        )

    def flush(self, timeout: float) -> None:
        """Send what waits, all signals side by side, for so long at most."""
        milliseconds = int(timeout * 1000)
        pipelines = (self._spans, *self._own)
        _side_by_side([partial(p.force_flush, milliseconds) for p in pipelines], timeout)

    def shut_down(self, timeout: float) -> None:
        """Shut down what was made here; an integrator's providers are theirs."""
        logging.getLogger().removeHandler(self._log_handler)
        _side_by_side([p.shutdown for p in (self._spans, *self._own)], timeout)

    # -- making them ----------------------------------------------------------------------------------

    def _options(self, signal: str) -> dict[str, Any]:
        from opentelemetry.exporter.otlp.proto.http import Compression

        return {
            "endpoint": f"{self._url}/observability/{signal}/otlp/v0",
            "compression": Compression.Gzip,
            "session": self._session(),
        }

    def _session(self) -> Any:
        import requests

        session = requests.Session()
        session.auth = self._token.sign
        session.hooks["response"].append(self._answered)
        return session

    def _answered(self, response: Any, *_: Any, **__: Any) -> None:
        """A project that wants no data says so once, and is not asked again."""
        text = response.text.lower() if response.status_code == 401 else ""
        if all(word in text for word in _DISABLED):
            if not self._off:
                self._off = True
                logger.warning("the project does not record data: nothing is uploaded")
            response.status_code = 200

    def _span_exporter(self) -> Any:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(**self._options("traces"))

    def _attach_traces(self) -> None:
        from opentelemetry.sdk.trace import TracerProvider

        from .traces import _is_from_sdk, tracer

        provider = tracer._own_provider
        if provider is None or not _is_from_sdk(provider):
            provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
            tracer.set_provider(provider)
        self.adopt(provider)

    def adopt(self, provider: Any) -> None:
        """Upload the spans of jobs that go through `provider`, which stays its owner's."""
        if provider not in self._adopted:
            self._adopted.add(provider)
            provider.add_span_processor(_make_gate(self))

    def _make_logs(self) -> Any:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

        provider = LoggerProvider(resource=_resource(), shutdown_on_exit=False)
        provider.add_log_record_processor(
            BatchLogRecordProcessor(OTLPLogExporter(**self._options("logs")))
        )
        self._own.append(provider)
        return provider

    def _make_metrics(self) -> None:
        from opentelemetry import metrics
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
        from opentelemetry.sdk.metrics.export import (
            AggregationTemporality,
            PeriodicExportingMetricReader,
        )

        if isinstance(metrics.get_meter_provider(), MeterProvider):
            return  # an integrator's: their metrics are not ours to upload
        delta = AggregationTemporality.DELTA
        exporter = OTLPMetricExporter(
            **self._options("metrics"), preferred_temporality={Counter: delta, Histogram: delta}
        )
        reader = PeriodicExportingMetricReader(
            exporter, export_interval_millis=_METRICS_INTERVAL_MS
        )
        provider = MeterProvider([reader], resource=_resource(), shutdown_on_exit=False)
        metrics.set_meter_provider(provider)
        self._own.append(provider)


def _make_gate(pipelines: _Pipelines) -> Any:
    """A span processor that stamps the spans of jobs, and gives them to their jobs."""
    from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

    class Gate(SpanProcessor):
        def on_start(self, span: Span, parent_context: Any = None) -> None:
            state = getattr(current_job(), "_telemetry_state", None)
            if state is not None:
                span.set_attributes(state.log_attributes)

        def on_end(self, span: ReadableSpan) -> None:
            state = pipelines.jobs.get(str((span.attributes or {}).get("job_id", "")))
            if state is not None:
                state.span_ended(span)

    return Gate()


class _JobLogHandler(logging.Handler):
    """Gives records to the job in whose context they are logged."""

    def emit(self, record: logging.LogRecord) -> None:
        state = getattr(current_job(), "_telemetry_state", None)
        if state is None or record.name.startswith(("opentelemetry", "urllib3")):
            return
        try:
            state.logged(record)
        except Exception:
            self.handleError(record)


class _BearerToken:
    """Signs requests with a token that allows to write observability data."""

    def __init__(self) -> None:
        self._token = ""
        self._expires_at = 0.0

    def sign(self, request: Any) -> Any:
        """For `requests`: add the token."""
        request.headers["Authorization"] = f"Bearer {self.value()}"
        return request

    def value(self) -> str:
        """A token that is valid for some minutes at least."""
        if time.time() > self._expires_at - _TOKEN_MARGIN:
            from livekit import api

            self._token = (
                api.AccessToken()
                .with_observability_grants(api.ObservabilityGrants(write=True))
                .with_ttl(timedelta(seconds=_TOKEN_TTL))
                .to_jwt()
            )
            self._expires_at = time.time() + _TOKEN_TTL
        return self._token


def _resource() -> Any:
    from opentelemetry.sdk.resources import Resource

    from .trace_types import ATTR_CLOUD_AGENT_ID, ATTR_DEPLOYMENT_ID

    attributes = {"service.name": "livekit-agents"}
    for key, variable in (
        (ATTR_CLOUD_AGENT_ID, "LIVEKIT_AGENT_ID"),
        (ATTR_DEPLOYMENT_ID, "LIVEKIT_AGENT_DEPLOYMENT"),
    ):
        if value := os.environ.get(variable):
            attributes[key] = value
    return Resource.create(attributes)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What came with `extra`, and the traceback, as attributes."""
    standard = logging.makeLogRecord({}).__dict__
    attributes: dict[str, Any] = {
        key: value if isinstance(value, (str, bool, int, float)) else str(value)
        for key, value in record.__dict__.items()
        if key not in standard and key != "message"
    }
    if record.exc_info and record.exc_info[0] is not None:
        attributes["exception.type"] = record.exc_info[0].__name__
        attributes["exception.stacktrace"] = logging.Formatter().formatException(record.exc_info)
    return attributes


def _severity(level: int) -> int:
    """Level of `logging` -> severity number of OpenTelemetry."""
    for floor, severity in ((50, 21), (40, 17), (30, 13), (20, 9), (10, 5)):
        if level >= floor:
            return severity
    return 1


def _side_by_side(calls: list[Callable[[], Any]], timeout: float) -> None:
    """Run blocking calls in daemon threads, and wait for them for so long at most."""
    threads = [threading.Thread(target=_quietly, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        logger.warning("telemetry could not be sent within %g s", timeout)


def _quietly(call: Callable[[], Any]) -> None:
    try:
        call()
    except Exception:
        logger.debug("telemetry failed", exc_info=True)
