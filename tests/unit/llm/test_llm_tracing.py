"""Spans of language model requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fakes.llm import FakeLLM, Reply, call
from livekit.agents import llm
from livekit.agents._exceptions import APIConnectionError
from livekit.agents.telemetry import gen_ai
from livekit.agents.telemetry.traces import tracer
from livekit.agents.types import APIConnectOptions

GONE = APIConnectionError("gone")


class Spans:
    """What was traced, by name."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def __call__(self, name: str) -> list[ReadableSpan]:
        finished = sorted(
            self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0
        )
        return [span for span in finished if span.name == name]

    def one(self, name: str) -> dict[str, Any]:
        (span,) = self(name)
        return dict(span.attributes or {})


@pytest.fixture
def spans() -> Iterator[Spans]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer.set_provider(provider)
    yield Spans(exporter)
    tracer.set_provider(None)


@llm.function_tool
async def weather(city: str) -> str:
    """Tells the weather."""
    return ""


def ask(model: llm.LLM[Any], **options: Any) -> llm.LLMStream:
    chat_ctx = llm.ChatContext.empty()
    chat_ctx.add_message(role="system", content="be brief")
    chat_ctx.add_message(role="user", content="hello")
    return model.chat(chat_ctx=chat_ctx, **options)


async def test_a_request_is_described(spans: Spans) -> None:
    usage = llm.CompletionUsage(completion_tokens=3, prompt_tokens=7, total_tokens=10)
    asked = call("weather", '{"city": "Rome"}')
    model = FakeLLM([Reply(["a", "b"], tool_calls=[asked], delay=0.5, usage=usage)])
    with tracer.start_as_current_span("llm_node"):
        await ask(model, tools=[weather]).collect()
    attributes = spans.one("llm_request")
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.request.model"] == "fake-llm"
    assert attributes["gen_ai.provider.name"] == "fake"
    assert attributes["gen_ai.response.time_to_first_chunk"] == pytest.approx(0.5)
    assert attributes["gen_ai.response.finish_reasons"] == ("tool_call",)
    assert attributes["gen_ai.usage.output_tokens"] == 3
    assert "Tells the weather." in attributes["gen_ai.tool.definitions"]
    assert "be brief" in attributes["gen_ai.system_instructions"]
    assert "hello" in attributes["gen_ai.input.messages"]
    assert "ab" in attributes["gen_ai.output.messages"]
    assert json.loads(attributes["lk.llm_metrics"])["completion_tokens"] == 3
    assert "langfuse.observation.completion_start_time" in attributes
    (node,), (request,), (attempt,) = (
        spans("llm_node"),
        spans("llm_request"),
        spans("llm_request_run"),
    )
    assert request.parent is not None and node.context is not None
    assert request.parent.span_id == node.context.span_id
    assert attempt.parent is not None and request.context is not None
    assert attempt.parent.span_id == request.context.span_id


async def test_every_attempt_has_a_span(spans: Spans) -> None:
    model = FakeLLM([Reply("a", error=GONE), "b"])
    await ask(model, conn_options=APIConnectOptions(max_retry=1)).collect()
    first, second = (dict(span.attributes or {}) for span in spans("llm_request_run"))
    assert (first["lk.retry_count"], second["lk.retry_count"]) == (0, 1)
    assert first["error.type"].endswith("APIConnectionError") and "error.type" not in second
    (first_id,), (second_id,) = first["lk.provider_request_ids"], second["lk.provider_request_ids"]
    assert first_id != second_id and second_id == spans.one("llm_request")["gen_ai.response.id"]
    assert '"b"' in spans.one("llm_request")["gen_ai.output.messages"]


async def test_content_may_be_left_out(spans: Spans) -> None:
    gen_ai.set_capture_content(False)
    try:
        await ask(FakeLLM(["secret"])).collect()
    finally:
        gen_ai.set_capture_content(True)
    attributes = spans.one("llm_request")
    assert "secret" not in str(attributes) and "hello" not in str(attributes)
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)


async def test_the_span_of_a_closed_stream_ends(spans: Spans) -> None:
    model = FakeLLM([Reply("a", hangs=True), Reply("a", hangs=True, ignores_cancellation=True)])
    for _ in range(2):
        stream = ask(model)
        await stream.__anext__()
        await stream.aclose()
    assert [
        dict(span.attributes or {})["gen_ai.response.finish_reasons"]
        for span in spans("llm_request")
    ] == [("error",)] * 2
    model.release()
    await asyncio.sleep(1.0)


async def test_a_broken_provider_of_traces_breaks_nothing() -> None:
    class BrokenTracer:
        def start_span(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("no traces today")

    class Provider(TracerProvider):
        def get_tracer(self, *_: Any, **__: Any) -> Any:
            return BrokenTracer()

    tracer.set_provider(Provider())
    try:
        assert (await ask(FakeLLM(["hi"])).collect()).text == "hi"
    finally:
        tracer.set_provider(None)


async def test_a_fallback_says_who_answered(spans: Spans) -> None:
    models = [FakeLLM([GONE, "well again"], model="m0"), FakeLLM(["hi"], model="m1")]
    adapter = llm.FallbackAdapter(list(models))
    with tracer.start_as_current_span("llm_node"):
        await ask(adapter).collect()
    await asyncio.sleep(0.1)
    for name in ("llm_fallback_adapter", "llm_node"):
        attributes = spans.one(name)
        assert attributes["lk.fallback.index"] == 1
        assert attributes["lk.fallback.label"] == models[1].label
        assert attributes["gen_ai.response.model"] == "m1"
        assert attributes["gen_ai.provider.name"] == "fake"
        assert "gen_ai.operation.name" not in attributes
    recovering = [
        dict(span.attributes or {}).get("lk.fallback.recovery", False)
        for span in spans("llm_request")
    ]
    assert sorted(recovering) == [False, False, True]
    await adapter.aclose()
