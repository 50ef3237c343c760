"""Spans of speeches: who said what, why, and how long it took."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fakes.llm import FakeLLM, Reply, call
from fakes.realtime import RealtimeReply
from fakes.realtime_call import realtime_call
from fakes.session import make_session
from fakes.speaker import Speaker
from fakes.tts import FakeTTS
from livekit.agents.llm import function_tool
from livekit.agents.telemetry.traces import tracer
from livekit.agents.voice import Agent


class Spans:
    """What was traced."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def parent_of(self, span: ReadableSpan) -> str | None:
        """The name of the span that a span is part of."""
        if span.parent is None:
            return None
        finished = self._exporter.get_finished_spans()
        return next(s.name for s in finished if s.context.span_id == span.parent.span_id)


@pytest.fixture
def spans() -> Iterator[Spans]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer.set_provider(provider)
    yield Spans(exporter)
    tracer.set_provider(None)


class Looking(Agent):
    @function_tool
    async def look(self) -> str:
        """Looks."""
        return "rain"


async def test_all_that_a_reply_causes_is_part_of_its_turn(spans: Spans) -> None:
    llm = FakeLLM([Reply("let me look", tool_calls=[call("look", "{}")]), "it rains"])
    session = make_session(llm, tts=FakeTTS())
    session.output.audio = Speaker()
    await session.start(Looking(instructions="x"))
    handle = session.generate_reply(user_input="how is it")
    await handle
    await session.aclose()
    turn = spans.one("agent_turn")
    attributes: dict[str, Any] = dict(turn.attributes or {})
    assert attributes["lk.speech_id"] == handle.id
    assert attributes["lk.agent_label"] == "looking"
    assert attributes["lk.generation_count"] == 2 and attributes["lk.interrupted"] is False
    assert attributes["lk.pii.user_input"] == "how is it"
    assert attributes["lk.pii.response.text"] == "let me look\nit rains"
    assert attributes["gen_ai.operation.name"] == "invoke_agent"
    assert [event.name for event in turn.events] == ["generation", "generation"]
    for name, count in (("llm_node", 2), ("tts_node", 2), ("function_tool", 1)):
        found = spans.named(name)
        assert len(found) == count and {spans.parent_of(s) for s in found} == {"agent_turn"}
    assert {spans.parent_of(s) for s in spans.named("llm_request")} == {"llm_node"}
    first = dict(spans.named("llm_node")[0].attributes or {})
    assert first["lk.function_tools"] == ("look",) and first["lk.response.ttft"] >= 0
    assert dict(spans.named("tts_node")[0].attributes or {})["lk.response.ttfb"] >= 0


async def test_an_interruption_and_a_failure_are_marked(spans: Spans) -> None:
    session = make_session(FakeLLM([Reply(error=ValueError("no"))]), tts=FakeTTS())
    session.output.audio = Speaker()
    await session.start(Agent(instructions="x"))
    session.say("a long announcement that nobody wants to hear to its end")
    await asyncio.sleep(0.5)
    await session.interrupt()
    await session.generate_reply()
    await session.aclose()
    said, replied = (dict(span.attributes or {}) for span in spans.named("agent_turn"))
    assert said["lk.interrupted"] is True
    assert said["lk.interruption.source"] == "programmatic"
    assert "error.type" in replied and replied["lk.interrupted"] is False


async def test_hooks_and_what_is_said_in_them_belong_to_the_session(spans: Spans) -> None:
    class Polite(Agent):
        async def on_enter(self) -> None:
            self.session.say("welcome")

        async def on_exit(self) -> None:
            raise ValueError("no")

    session = make_session(FakeLLM())
    await session.start(Polite(instructions="x"))
    await asyncio.sleep(1.0)
    await session.aclose()
    assert spans.parent_of(spans.one("agent_turn")) == "agent_session"
    assert spans.parent_of(spans.one("on_exit")) == "drain_agent_activity"
    assert dict(spans.one("on_enter").attributes or {})["lk.agent_label"] == "polite"
    assert not spans.one("on_exit").status.is_ok


async def test_a_response_of_a_realtime_model_is_part_of_its_turn(spans: Spans) -> None:
    async with realtime_call(RealtimeReply("hello", audio=2.0)) as c:
        await c.session.generate_reply(user_input="hi")
        c.server.answer("and more")
        await asyncio.sleep(3.0)
    turns, responses = spans.named("agent_turn"), spans.named("realtime_inference")
    assert len(turns) == len(responses) == 2
    assert {spans.parent_of(span) for span in responses} == {"agent_turn"}
    attributes = dict(responses[0].attributes or {})
    assert attributes["gen_ai.operation.name"] == "generate_content"
    assert attributes["gen_ai.request.model"] == "fake-realtime"


async def test_without_anybody_who_listens_nothing_is_traced() -> None:
    session = make_session(FakeLLM(default="hello"))
    await session.start(Agent(instructions="x"))
    handle = session.generate_reply(user_input="hi")
    await handle
    assert handle.exception() is None
    await session.aclose()
