"""The report of a session for LiveKit Cloud: its conversation as log records, its recording."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from ..log import logger
from .cloud import _BearerToken
from .traces import DescribesOptions

if TYPE_CHECKING:
    from ..job import JobContext
    from ..voice.report import SessionReport

__all__ = ["upload_session_report"]

_KEYTERMS = "lk.pii.keyterms"
_RETRIES = 3
_MAX_BACKOFF = 8.0
_CONNECT_TIMEOUT = 30.0
_ATTEMPT_TIMEOUT = 900.0


async def upload_session_report(job: JobContext, report: SessionReport, url: str) -> None:
    """Upload a report: what of it is uploaded says the session's recording options.

    Args:
        job: The job of the session.
        report: The report.
        url: Of the observability service.
    """
    options = report.options.recording_options
    audio, transcript = bool(options.get("audio")), bool(options.get("transcript"))
    evaluated = bool(job.tagger.evaluations) or job.tagger.outcome is not None
    if not (
        evaluated or any(options.get(key) for key in ("audio", "traces", "logs", "transcript"))
    ):
        return
    _emit_records(job, report, transcript=transcript)
    if audio or transcript:
        recording = await _read_recording(report.audio_recording_path) if audio else None
        await _post(job, report, url, recording=recording, transcript=transcript)


_upload_session_report = upload_session_report
"""The name under which others know it."""


def _emit_records(job: JobContext, report: SessionReport, *, transcript: bool) -> None:
    state = job._telemetry_state
    if state is None:
        return
    emit, common = state._pipelines.emit, dict(state.log_attributes)
    summary = report.to_dict(include_chat_history=False, include_events=False)
    emit(
        "chat_history",
        "session report",
        {
            **common,
            "session.options": json.dumps(describe(summary["options"])),
            "session.report_timestamp": report.timestamp,
            "session.tags": report.tags,
            "agent_name": report.agent_name,
            "sdk_version": report.sdk_version,
            "usage": json.dumps(summary["usage"], default=str),
        },
        error=False,
    )
    for item in report.chat_history.items if transcript else ():
        failed = item.type == "function_call_output" and item.is_error
        body = {"chat.item": item.model_dump_json(fallback=str)}
        emit("chat_history", "chat item", {**common, **body}, error=failed)
    for evaluation in job.tagger.evaluations:
        facts = {key: value for key, value in evaluation.items() if value is not None}
        emit("evaluations", "evaluation", {**common, **facts}, error=False)
    for tag, metadata in job.tagger._tags.items():
        if metadata is not None:
            facts = {"tag": tag, "metadata": json.dumps(metadata, default=str)}
            emit("evaluations", "tag", {**common, **facts}, error=False)
    if job.tagger.outcome is not None:
        facts = {"outcome": job.tagger.outcome, "reason": job.tagger.outcome_reason or ""}
        emit("evaluations", "outcome", {**common, **facts}, error=job.tagger.outcome == "fail")


def describe(value: Any) -> Any:
    """Options in a form that JSON can hold: objects by the name of their class.

    An object that `DescribesOptions` adds what it wants to be known. Instructions are left out.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {
            _KEYTERMS if key == "keyterms" else str(key): describe(each)
            for key, each in value.items()
            if key != "instructions"
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [describe(each) for each in value]
    name = type(value).__name__
    if isinstance(value, DescribesOptions):
        shown = ", ".join(f"{k}={v}" for k, v in describe(value.describe_options()).items())
        return f"{name}({shown})"
    return name


async def _read_recording(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return await asyncio.to_thread(path.read_bytes)
    except OSError as error:
        logger.warning("the recording can't be read, the report is uploaded without: %s", error)
        return None


def _header(job: JobContext, report: SessionReport) -> bytes:
    from google.protobuf.timestamp_pb2 import Timestamp
    from livekit.protocol import metrics

    started = Timestamp()
    started.FromMilliseconds(
        round((report.audio_recording_started_at or report.started_at or report.timestamp) * 1000)
    )
    summary = report.to_dict(include_chat_history=False, include_events=False)
    return metrics.MetricsRecordingHeader(
        room_id=report.room_id,
        job_id=report.job_id,
        simulated=job.simulation_context() is not None,
        redaction_enabled=job._redaction_enabled,
        duration=round((report.duration or 0.0) * 1000),
        start_time=started,
        session_summary=json.dumps(summary, default=str),
    ).SerializeToString()


def _form(header: bytes, history: str | None, recording: bytes | None) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("header", header, filename="header.binpb", content_type="application/protobuf")
    if history is not None:
        form.add_field(
            "chat_history", history, filename="chat_history.json", content_type="application/json"
        )
    if recording is not None:
        form.add_field("audio", recording, filename="recording.ogg", content_type="audio/ogg")
    return form


async def _post(
    job: JobContext, report: SessionReport, url: str, *, recording: bytes | None, transcript: bool
) -> None:
    from ..utils import http_context

    header = _header(job, report)
    history = json.dumps(report.to_dict()["chat_history"], default=str) if transcript else None
    timeout = aiohttp.ClientTimeout(total=_ATTEMPT_TIMEOUT, sock_connect=_CONNECT_TIMEOUT)
    for attempt in range(_RETRIES + 1):
        try:
            async with http_context.http_session().post(
                f"{url.rstrip('/')}/observability/recordings/v0",
                data=_form(header, history, recording),
                headers={"Authorization": f"Bearer {_BearerToken().value()}"},
                timeout=timeout,
            ) as response:
                if response.status < 400:
                    logger.debug("session report uploaded")
                    return
                delay = _retry_delay(await response.read())
                problem = f"HTTP {response.status}"
        except aiohttp.ClientSSLError:
            raise
        except (aiohttp.ClientConnectionError, asyncio.TimeoutError) as error:
            delay, problem = random.uniform(0, min(2.0**attempt, _MAX_BACKOFF)), repr(error)
        if delay is None or attempt == _RETRIES:
            logger.warning("the session report could not be uploaded: %s", problem)
            return
        await asyncio.sleep(delay)


def _retry_delay(body: bytes) -> float | None:
    """Seconds after which a `google.rpc.Status` asks to try again; None: not at all."""
    try:
        from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        return None
    status: Any = status_pb2.Status()
    try:
        status.ParseFromString(body)
    except Exception:
        return None
    for detail in status.details:
        info: Any = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None
