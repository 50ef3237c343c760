"""The span of a tool call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fakes.llm import FakeLLM
from fakes.session import running
from fakes.tools import calls
from livekit.agents.llm import StopResponse, ToolError, function_tool
from livekit.agents.telemetry.traces import tracer
from livekit.agents.voice import Agent, RunContext


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer.set_provider(provider)
    yield exporter
    tracer.set_provider(None)


def tool_spans(exporter: InMemorySpanExporter) -> list[dict[str, Any]]:
    return [
        dict(span.attributes or {})
        for span in exporter.get_finished_spans()
        if span.name == "function_tool"
    ]


class Traced(Agent):
    @function_tool
    async def act(self, how: str, ctx: RunContext) -> str:
        """Acts."""
        if how == "fails":
            raise ToolError("no")
        if how == "stops":
            raise StopResponse
        if how == "hangs":
            await ctx.update("hanging")
            await asyncio.sleep(1e6)
        return "done"


async def test_a_call_has_a_span_with_its_arguments_and_its_result(
    spans: InMemorySpanExporter,
) -> None:
    llm = FakeLLM([calls('act#a {"how": "well"}', 'act#b {"how": "fails"}')], default="ok")
    async with running(Traced(instructions="x"), llm) as (session, _):
        handle = session.generate_reply(user_input="go")
        await handle
    done, failed = tool_spans(spans)
    assert done["lk.function_tool.id"] == "a" and done["lk.function_tool.name"] == "act"
    assert done["lk.pii.function_tool.arguments"] == '{"how": "well"}'
    assert done["lk.pii.function_tool.output"] == "done"
    assert done["lk.speech_id"] == handle.id and not done["lk.function_tool.is_error"]
    assert done["gen_ai.operation.name"] == "execute_tool"
    assert done["gen_ai.tool.name"] == "act" and done["gen_ai.tool.description"] == "Acts."
    assert failed["lk.function_tool.is_error"] and failed["error.type"] == "tool_error"


async def test_stopping_the_response_is_no_error(spans: InMemorySpanExporter) -> None:
    llm = FakeLLM([calls('act {"how": "stops"}')])
    async with running(Traced(instructions="x"), llm) as (session, _):
        await session.generate_reply(user_input="go")
    (stopped,) = tool_spans(spans)
    assert not stopped["lk.function_tool.is_error"] and "error.type" not in stopped


async def test_a_call_that_the_close_cuts_off_has_a_whole_span(
    spans: InMemorySpanExporter,
) -> None:
    llm = FakeLLM([calls('act {"how": "hangs"}'), "it hangs"])
    async with running(Traced(instructions="x"), llm) as (session, _):
        await session.generate_reply(user_input="go")
    (cut,) = tool_spans(spans)
    assert cut["lk.function_tool.is_error"]
