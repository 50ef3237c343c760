"""What traces tell about a synthesis."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fakes.sentences import BarTokenizer
from fakes.tts import FakeTTS
from livekit.agents._exceptions import APIConnectionError
from livekit.agents.telemetry import tracer
from livekit.agents.tts import FallbackAdapter, StreamAdapter


class Spans:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def named(self, name: str) -> list[dict[str, Any]]:
        return [dict(span.attributes or {}) for span in self._finished() if span.name == name]

    def names(self) -> list[str]:
        return sorted(span.name for span in self._finished())

    def _finished(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


@pytest.fixture
def spans() -> Iterator[Spans]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer.set_provider(provider)
    yield Spans(exporter)
    tracer.set_provider(None)


async def test_a_request_and_its_attempts_are_spans(spans: Spans) -> None:
    tts = FakeTTS(failures=[APIConnectionError()])
    async with tts.synthesize("hello") as stream:
        await stream.collect()
    (request,) = spans.named("tts_request")
    assert request["lk.tts.label"] == tts.label
    assert request["lk.tts.streaming"] is False
    assert request["lk.pii.input_text"] == "hello"
    assert json.loads(request["lk.tts_metrics"])["characters_count"] == 5
    attempts = spans.named("tts_request_run")
    assert [attempt["lk.retry_count"] for attempt in attempts] == [0, 1]


async def test_segments_are_noted_as_request_ids_of_the_provider(spans: Spans) -> None:
    async with FakeTTS().stream() as stream:
        stream.push_text("hello")
        stream.end_input()
        assert [audio async for audio in stream]
    (attempt,) = spans.named("tts_request_run")
    assert attempt["lk.provider_request_ids"] == ("segment-0",)
    (request,) = spans.named("tts_request")
    assert "lk.tts_metrics" in request


async def test_an_abandoned_request_has_an_end_all_the_same(spans: Spans) -> None:
    tts = FakeTTS(silent_after=0.0, hangs_in_close=math.inf)
    stream = tts.synthesize("hello")
    await asyncio.sleep(1)
    await stream.aclose()
    assert spans.names() == ["tts_request"]
    tts.let_go()
    await asyncio.sleep(1)
    assert spans.names() == ["tts_request", "tts_request_run"]


async def test_adapters_have_spans_of_their_own_name(spans: Spans) -> None:
    adapter = StreamAdapter(tts=FakeTTS(streaming=False), sentence_tokenizer=BarTokenizer())
    async with adapter.stream() as stream:
        stream.push_text("hello|world")
        stream.end_input()
        assert [audio async for audio in stream]
    assert spans.names() == [
        "tts_request",
        "tts_request",
        "tts_request_run",
        "tts_request_run",
        "tts_stream_adapter",
    ]


async def test_a_fallback_tells_who_spoke_and_marks_its_probes(spans: Spans) -> None:
    first = FakeTTS(failures=[APIConnectionError()], label="first")
    adapter = FallbackAdapter([first, FakeTTS(label="second")], max_retry_per_tts=0)
    with tracer.start_as_current_span("caller"):
        async with adapter.synthesize("hello") as stream:
            await stream.collect()
    await adapter._scope.join()
    await adapter.aclose()
    for name in ("tts_fallback_adapter", "caller"):
        (span,) = spans.named(name)
        assert (span["lk.fallback.label"], span["lk.fallback.index"]) == ("second", 1)
        assert span["gen_ai.response.model"] == "unknown"
    probes = [span for span in spans.named("tts_request") if "lk.fallback.recovery" in span]
    assert [probe["lk.tts.label"] for probe in probes] == ["first"]
