"""What jobs upload to LiveKit Cloud: traces, logs, metrics, and the report of their session."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from livekit.protocol import metrics
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fakes.livekit_server import API_SECRET
from fakes.worker import alive, make_server, serve

pytestmark = pytest.mark.real_time


class Cloud:
    """Takes what is uploaded."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Any] = []
        self.logs: list[Any] = []
        self.metrics = 0
        self.parts: dict[str, bytes] = {}
        self.tokens: list[dict[str, Any]] = []
        self.fail_uploads = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Cloud]:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/observability/traces/otlp/v0", self._traces)
        app.router.add_post("/observability/logs/otlp/v0", self._logs)
        app.router.add_post("/observability/metrics/otlp/v0", self._metrics)
        app.router.add_post("/observability/recordings/v0", self._recording)
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _body(self, request: web.Request) -> bytes:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        self.tokens.append(jwt.decode(token, API_SECRET, algorithms=["HS256"]))
        body = await request.read()
        return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body

    async def _traces(self, request: web.Request) -> web.Response:
        message = ExportTraceServiceRequest.FromString(await self._body(request))
        for resource in message.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return web.Response()

    async def _logs(self, request: web.Request) -> web.Response:
        message = ExportLogsServiceRequest.FromString(await self._body(request))
        for resource in message.resource_logs:
            for scope in resource.scope_logs:
                self.logs += [(scope.scope.name, record) for record in scope.log_records]
        return web.Response()

    async def _metrics(self, request: web.Request) -> web.Response:
        await self._body(request)
        self.metrics += 1
        return web.Response()

    async def _recording(self, request: web.Request) -> web.Response:
        if self.fail_uploads:
            self.fail_uploads -= 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        async for part in await request.multipart():
            assert part.name is not None  # type: ignore[union-attr]
            self.parts[part.name] = await part.read()  # type: ignore[union-attr, index]
        return web.Response()


def attributes(item: Any) -> dict[str, Any]:
    """Of a span or log record."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in item.attributes}


async def test_a_job_uploads_what_its_session_wanted_recorded(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cloud().serve() as cloud:
        cloud.fail_uploads = 1  # it is tried again
        monkeypatch.setenv("LIVEKIT_OBSERVABILITY_URL", cloud.url)
        monkeypatch.setattr("random.uniform", lambda *_: 0.0)
        async with serve(make_server(), out) as serving:
            job = await serving.offer("report")
            assert await serving.livekit.ended(job, 40.0) == "JS_SUCCESS"
            await serving.until(lambda: cloud.parts and cloud.spans and cloud.logs, 40.0)
            await serving.until(
                lambda: {"job_entrypoint", "job_shutdown"} <= {s.name for s in cloud.spans}
            )
        assert all(attributes(span)["job_id"] == job for span in cloud.spans)
        lines = {record.body.string_value: record for _, record in cloud.logs}
        held_back = attributes(lines["before the session"])
        assert held_back["answer"] == 42 and held_back["room_id"] == "RM_report"
        items = [
            json.loads(attributes(r)["chat.item"])
            for n, r in cloud.logs
            if "chat.item" in attributes(r)
        ]
        said = [item["content"] for item in items if item["type"] == "message"]
        assert ["Hello"] in said and ["How do you do?"] in said
        assert attributes(lines["outcome"])["outcome"] == "success"
        header = metrics.MetricsRecordingHeader.FromString(cloud.parts["header"])
        assert (header.job_id, header.room_id) == (job, "RM_report")
        assert json.loads(header.session_summary)["user_turns"] == 1
        history = json.loads(cloud.parts["chat_history"])
        assert ["Hello"] in [item.get("content") for item in history["items"]]
        assert "audio" not in cloud.parts
        assert all(token["observability"]["write"] for token in cloud.tokens)


async def test_a_job_that_recorded_nothing_uploads_nothing(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cloud().serve() as cloud:
        monkeypatch.setenv("LIVEKIT_OBSERVABILITY_URL", cloud.url)
        async with serve(make_server(), out) as serving:
            assert await serving.run("finish") == "JS_SUCCESS"
            pid = int(serving.trace("started-finish") or 0)
            await serving.until(lambda: not alive(pid))
        assert not cloud.spans and not cloud.logs and not cloud.parts


async def test_a_cloud_that_can_t_be_reached_fails_no_job(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEKIT_OBSERVABILITY_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    async with serve(make_server(), out) as serving:
        assert await serving.livekit.ended(await serving.offer("report"), 60.0) == "JS_SUCCESS"
        await serving.until(lambda: serving.trace("ended-report"), 30.0)
