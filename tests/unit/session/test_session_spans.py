"""The trace of a whole session: every span ends, and has the parent it should have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fakes.llm import FakeLLM, Reply, call
from fakes.session import make_session
from fakes.speaker import Speaker
from fakes.tts import FakeTTS
from livekit.agents.llm import function_tool
from livekit.agents.telemetry import set_tracer_provider
from livekit.agents.telemetry.traces import tracer
from livekit.agents.voice import Agent


class Trace(SpanProcessor):
    """All spans that were started, and those of them that have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(self)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.started: list[Span] = []

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        self.started.append(span)

    @property
    def open(self) -> list[str]:
        return [span.name for span in self.started if span.is_recording()]

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def attributes(self, name: str) -> dict[str, Any]:
        return dict(self.one(name).attributes or {})

    def parents(self, name: str) -> set[str | None]:
        names = {span.context.span_id: span.name for span in self.exporter.get_finished_spans()}
        return {
            names.get(span.parent.span_id, "?") if span.parent is not None else None
            for span in self.named(name)
        }


@pytest.fixture
def trace() -> Iterator[Trace]:
    made = Trace()
    tracer.set_provider(made.provider)
    yield made
    tracer.set_provider(None)


class Clerk(Agent):
    def __init__(self) -> None:
        super().__init__(instructions="be kind")
        self.release = asyncio.Event()

    async def on_enter(self) -> None:
        self.session.say("welcome to our shop, how are you")

    @function_tool
    async def look(self) -> str:
        """Looks."""
        return "rain"

    @function_tool
    async def hang(self) -> str:
        """Never returns, whatever happens."""
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                pass
        return "at last"


def shop(*replies: Any) -> Any:
    session = make_session(FakeLLM(list(replies)), tts=FakeTTS())
    session.output.audio = Speaker()
    return session


async def test_a_whole_call_with_a_tool_an_interruption_and_a_tool_that_hangs(trace: Trace) -> None:
    session = shop(
        Reply("let me look", tool_calls=[call("look", "{}")]),
        "it rains",
        Reply("one moment please", tool_calls=[call("hang", "{}")]),
    )
    agent = Clerk()
    with tracer.start_as_current_span("job_entrypoint"):
        await session.start(agent)
        await asyncio.sleep(0.5)
        await session.interrupt()
        await session.generate_reply(user_input="how is it")
        session.generate_reply(user_input="and tomorrow")
    await asyncio.sleep(3.0)
    await session.aclose()
    assert trace.open == []
    assert trace.parents("agent_session") == {"job_entrypoint"}
    for name in (
        "session_start",
        "session_close",
        "agent_turn",
    ):
        assert trace.parents(name) == {"agent_session"}, name
    assert trace.parents("start_agent_activity") == {"session_start"}
    assert trace.parents("on_enter") == {"start_agent_activity"}
    assert trace.parents("setup_toolsets") == {"start_agent_activity"}
    assert trace.parents("drain_agent_activity") == {"session_close"}
    assert trace.parents("on_exit") == {"drain_agent_activity"}
    assert trace.parents("agent_speaking") == {"agent_turn"}
    assert trace.parents("llm_node") == {"agent_turn"}
    assert trace.parents("tts_node") == {"agent_turn"}
    assert trace.parents("function_tool") == {"agent_turn"}
    assert trace.parents("llm_request") == {"llm_node"}

    welcome, _, hanging = trace.named("agent_turn")
    assert (welcome.attributes or {})["lk.interrupted"] is True
    assert (hanging.attributes or {})["lk.interrupted"] is True
    session_attributes = trace.attributes("agent_session")
    assert session_attributes["lk.agent_label"] == agent.label
    assert session_attributes["gen_ai.operation.name"] == "invoke_workflow"
    assert session_attributes["gen_ai.workflow.name"] == "agent_session"
    states = [
        (event.attributes or {})["lk.new_state"]
        for event in trace.one("agent_session").events
        if event.name == "agent_state_changed"
    ]
    assert states[:3] == ["listening", "speaking", "listening"]

    close = trace.attributes("session_close")
    assert close["lk.close_reason"] == "user_initiated" and close["lk.close.drain"] is False
    assert close["error.type"] == "cut_off"
    events = {
        event.name: dict(event.attributes or {}) for event in trace.one("session_close").events
    }
    assert events["step_not_ended"]["step"] == "drain"
    assert events["task_left_behind"]["task"] == 'tool "hang"'
    agent.release.set()
    await asyncio.sleep(0.1)
    assert trace.open == []


async def test_a_clean_close_says_that_it_was_one(trace: Trace) -> None:
    session = shop()
    await session.start(Agent(instructions="x"))
    session.shutdown()
    await session.aclose()
    assert trace.open == [] and trace.parents("agent_session") == {None}
    close = trace.one("session_close")
    assert dict(close.attributes or {})["lk.close.drain"] is True
    assert "error.type" not in (close.attributes or {}) and not close.events


async def test_a_handoff_is_one_span_with_both_agents_in_it(trace: Trace) -> None:
    session = shop()
    first, second = Agent(instructions="a", id="first"), Agent(instructions="b", id="second")
    await session.start(first)
    session.update_agent(second)
    await asyncio.sleep(0.5)
    await session.say("hello")
    await session.aclose()
    attributes = trace.attributes("update_agent")
    assert attributes["lk.agent_label"] == second.label
    assert attributes["lk.previous_agent_label"] == first.label
    assert trace.parents("update_agent") == {"agent_session"}
    assert trace.parents("start_agent_activity") == {"session_start", "update_agent"}
    assert trace.parents("drain_agent_activity") == {"update_agent", "session_close"}
    assert trace.parents("agent_turn") == {"agent_session"}


async def test_a_start_that_fails_leaves_no_span_open(trace: Trace) -> None:
    agent = Agent(instructions="x")
    elsewhere, session = shop(), shop()
    await elsewhere.start(agent)
    with pytest.raises(RuntimeError):
        await session.start(agent)
    assert len(trace.named("agent_session")) == 1
    assert [span.status.is_ok for span in trace.named("session_start")] == [True, False]
    await elsewhere.aclose()
    assert trace.open == []


async def test_what_was_said_is_not_in_a_trace_where_it_must_not_be(trace: Trace) -> None:
    set_tracer_provider(trace.provider, allow_pii=False)
    session = shop(Reply("my secret answer", tool_calls=[call("look", "{}")]), "my secret end")
    await session.start(Clerk())
    await session.generate_reply(user_input="a secret question")
    await session.aclose()
    spans = trace.exporter.get_finished_spans()
    assert len(spans) > 5 and not any("secret" in span.to_json() for span in spans)


async def test_a_session_that_starts_again_has_a_trace_of_its_own(trace: Trace) -> None:
    session = shop()
    for _ in range(2):
        await session.start(Agent(instructions="x"))
        await session.say("hello")
        await session.aclose()
    assert trace.open == []
    assert len({span.context.trace_id for span in trace.named("agent_turn")}) == 2


async def test_requests_record_only_what_is_new_where_that_is_asked_for(trace: Trace) -> None:
    session = shop("fine", "good bye")
    await session.start(Agent(instructions="be kind"), record={"input_delta": True})
    await session.generate_reply(user_input="how are you")
    await session.generate_reply(user_input="see you")
    await session.aclose()
    for name, key in (("llm_node", "lk.pii.chat_ctx"), ("llm_request", "gen_ai.input.messages")):
        first, second = trace.named(name)
        before, after = dict(first.attributes or {}), dict(second.attributes or {})
        assert "lk.input.delta" not in before
        assert "how are you" in before[key] and "how are you" not in after[key]  # type: ignore[operator]
        assert "fine" in after[key] and "see you" in after[key]  # type: ignore[operator]
        assert after["lk.input.base_span_id"] == format(first.context.span_id, "016x")
        assert "gen_ai.system_instructions" not in after


async def test_a_turn_says_what_came_of_it(trace: Trace) -> None:
    session = shop(Reply("let me look", tool_calls=[call("look", "{}")]), "it rains")
    await session.start(Clerk())
    await asyncio.sleep(5.0)
    handle = session.generate_reply(user_input="how is it")
    await handle
    await session.aclose()
    attributes = dict(trace.named("agent_turn")[1].attributes or {})
    assert attributes["lk.generation_id"] == f"{handle.id}_1"
    assert attributes["lk.pii.instructions"] == "be kind"
    assert attributes["lk.speech.queue_wait"] == 0.0
    generations = trace.named("agent_turn")[1].events
    assert [(event.attributes or {})["lk.generation_id"] for event in generations] == [
        f"{handle.id}_1",
        f"{handle.id}_2",
    ]
    node = dict(trace.named("llm_node")[0].attributes or {})
    assert node["lk.pii.response.text"] == "let me look"
    assert "look" in str(node["lk.pii.response.function_calls"])
    assert "gen_ai.request.model" in (trace.named("tts_node")[0].attributes or {})
