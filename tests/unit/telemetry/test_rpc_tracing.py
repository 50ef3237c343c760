"""RPCs in both directions, as the SDK runs them, and what their spans say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from livekit import rtc
from livekit.rtc.rpc import RpcCallInfo
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from livekit.agents.telemetry.rpc import MAX_PAYLOAD_ATTR_LEN, install
from livekit.agents.telemetry.traces import tracer


class FakeLocal:
    """The part of a local participant that keeps interceptors."""

    def __init__(self) -> None:
        self.interceptors: list[Any] = []

    def add_rpc_interceptor(self, interceptor: Any) -> None:
        if not any(each is interceptor for each in self.interceptors):
            self.interceptors.append(interceptor)

    async def call(self, answer: Any, payload: str = "ping") -> str:
        info = RpcCallInfo("bob", "greet", payload, response_timeout=3.0)
        return str(await self.interceptors[0].intercept_outgoing(info, answer))

    async def handle(self, answer: Any) -> Any:
        data = rtc.RpcInvocationData("r1", "bob", "ping", 3.0, method="greet")
        return await self.interceptors[0].intercept_incoming(data, answer)


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer.set_provider(provider)
    yield exporter
    tracer.set_provider(None)


def local() -> Any:
    participant: Any = FakeLocal()
    install(participant)
    install(participant)
    assert len(participant.interceptors) == 1
    return participant


async def pong(_: Any) -> str:
    return "pong"


async def test_a_call_is_traced_with_its_payload_cut(exporter: InMemorySpanExporter) -> None:
    assert await local().call(pong, "é" * 2000) == "pong"
    (span,) = exporter.get_finished_spans()
    attributes: Any = dict(span.attributes or {})
    assert span.name == "rpc_call" and span.kind is SpanKind.CLIENT
    assert attributes["rpc.method"] == "greet"
    assert attributes["lk.rpc.destination_identity"] == "bob"
    assert attributes["lk.rpc.response_timeout"] == 3.0
    assert len(attributes["lk.pii.rpc.payload"]) == MAX_PAYLOAD_ATTR_LEN
    assert attributes["lk.rpc.payload_size"] == 4000
    assert attributes["lk.pii.rpc.response"] == "pong" and attributes["lk.rpc.response_size"] == 4


async def test_an_answer_is_traced(exporter: InMemorySpanExporter) -> None:
    assert await local().handle(pong) == "pong"
    (span,) = exporter.get_finished_spans()
    attributes: Any = dict(span.attributes or {})
    assert span.name == "rpc_handler" and span.kind is SpanKind.SERVER
    assert attributes["lk.rpc.request_id"] == "r1" and attributes["lk.rpc.caller_identity"] == "bob"
    assert attributes["lk.rpc.handler_registered"] is True


@pytest.mark.parametrize(
    ("error", "code", "registered"),
    [
        (rtc.RpcError(1400, "nobody answers that"), 1400, False),
        (rtc.RpcError(42, "own"), 42, True),
        (ValueError("broken"), 1500, True),
    ],
)
async def test_a_failure_is_passed_on_and_recorded(
    exporter: InMemorySpanExporter, error: Exception, code: int, registered: bool
) -> None:
    async def fail(_: Any) -> str:
        raise error

    for run in (local().handle(fail), local().call(fail)):
        with pytest.raises(type(error)):
            await run
    handled, called = exporter.get_finished_spans()
    for span in (handled, called):
        assert dict(span.attributes or {})["lk.rpc.error_code"] == code
        assert not span.status.is_ok
        assert [event.name for event in span.events] == ["exception"]
    assert dict(handled.attributes or {})["lk.rpc.handler_registered"] is registered


async def test_an_answer_that_is_cancelled_ends_its_span(exporter: InMemorySpanExporter) -> None:
    async def hang(_: Any) -> str:
        await asyncio.sleep(100)
        return ""

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(local().handle(hang), 1.0)
    assert [span.name for span in exporter.get_finished_spans()] == ["rpc_handler"]


async def test_without_a_provider_calls_go_through() -> None:
    assert await local().call(pong) == "pong" and await local().handle(pong) == "pong"
