"""What each request adds to the one before is enough to rebuild what the model was given."""

from __future__ import annotations

from itertools import chain
from typing import Any

from hypothesis import given, strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from livekit.agents.llm import ChatContext, ChatMessage, FunctionCall, FunctionCallOutput
from livekit.agents.telemetry import gen_ai, input_delta
from livekit.agents.telemetry.input_delta import (
    LLM_NODE,
    LLM_REQUEST,
    InputDelta,
    InputDeltaSite,
    InputDeltaTracker,
)
from livekit.agents.voice.generation import INSTRUCTIONS_MESSAGE_ID


def item(kind: str, text: str) -> Any:
    if kind == "call":
        return FunctionCall(call_id=text, name=text, arguments="{}")
    if kind == "output":
        return FunctionCallOutput(call_id=text, name=text, output=text, is_error=False)
    return ChatMessage(role=kind, content=[text])  # type: ignore[arg-type]


ITEMS = st.builds(
    item, st.sampled_from(["user", "assistant", "system", "call", "output"]), st.sampled_from("abc")
)
TURN = st.tuples(
    st.integers(0, 3),  # items dropped from the end, as by an interruption
    st.lists(ITEMS, max_size=4),
    st.sampled_from([None, "be kind", "be short"]),
    st.booleans(),  # committed
)


def contents(items: Any) -> list[bytes]:
    return [each._fingerprint() for each in items]


class Recorder:
    """Records inputs on spans, and rebuilds them from nothing but what is recorded."""

    def __init__(self, site: InputDeltaSite) -> None:
        self.site = site
        self.tracker = InputDeltaTracker()
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")
        self.recorded: dict[str, tuple[ReadableSpan, InputDelta]] = {}

    def record(self, chat_ctx: ChatContext, *, committed: bool) -> str:
        scope = self.tracker.begin()
        token = input_delta.set_scope(scope)
        assert input_delta.active() is scope
        try:
            with self.tracer.start_as_current_span(self.site.name) as span:
                delta = input_delta.compute(self.site, chat_ctx, span)
                input_delta.set_attributes(span, delta)
        finally:
            input_delta.reset_scope(token)
        if committed:
            scope.commit()
        name = format(span.get_span_context().span_id, "016x")
        self.recorded[name] = (self.exporter.get_finished_spans()[-1], delta)
        return name

    def rebuild(self, name: str) -> tuple[Any, Any]:
        span, delta = self.recorded[name]
        attributes = dict(span.attributes or {})
        if not attributes.get("lk.input.delta"):
            assert not span.links
            return delta.instructions, delta.conversation
        base: Any = attributes["lk.input.base_span_id"]
        assert [format(link.context.span_id, "016x") for link in span.links] == [base]
        instructions, conversation = self.rebuild(base)
        dropped: Any = attributes["lk.input.dropped_from_base"]
        kept = list(conversation)[: len(conversation) - dropped]
        return delta.instructions or instructions, [*kept, *delta.conversation]


def chat_of(history: list[Any], instructions: str | None) -> ChatContext:
    items = list(history)
    if instructions is not None:
        items.insert(
            0, ChatMessage(id=INSTRUCTIONS_MESSAGE_ID, role="system", content=[instructions])
        )
    return ChatContext(items)


@given(st.sampled_from([LLM_NODE, LLM_REQUEST]), st.lists(TURN, max_size=8))
def test_the_whole_input_can_be_rebuilt(site: InputDeltaSite, turns: list[Any]) -> None:
    recorder = Recorder(site)
    history: list[Any] = []
    expected: dict[str, ChatContext] = {}
    for drop, added, instructions, committed in turns:
        history = history[: len(history) - drop] + added
        chat_ctx = chat_of(history, instructions)
        expected[recorder.record(chat_ctx, committed=committed)] = chat_ctx
    for name, chat_ctx in expected.items():
        said, conversation = recorder.rebuild(name)
        if site is LLM_NODE:
            items = [*said, *chain.from_iterable(conversation)]
            assert contents(items) == contents(chat_ctx.items)
        else:
            rebuilt = InputDelta(chat_ctx, said, conversation)
            assert rebuilt.system_instructions() == gen_ai.to_system_instructions(chat_ctx)
            assert rebuilt.input_messages() == gen_ai.to_input_messages(chat_ctx)


def test_only_what_was_used_is_built_upon() -> None:
    recorder = Recorder(LLM_NODE)
    first = [item("user", "a")]
    base = recorder.record(chat_of(first, "be kind"), committed=True)
    recorder.record(chat_of([*first, item("user", "b")], "be kind"), committed=False)
    third = recorder.record(chat_of([*first, item("user", "c")], "be kind"), committed=True)
    span, delta = recorder.recorded[third]
    attributes = dict(span.attributes or {})
    assert attributes["lk.input.base_span_id"] == base
    assert attributes["lk.input.dropped_from_base"] == 0
    assert contents(delta.chat_ctx.items) == contents([item("user", "c")])


def test_without_a_scope_everything_is_recorded() -> None:
    chat_ctx = chat_of([item("user", "a")], "be kind")
    with TracerProvider().get_tracer("test").start_as_current_span("x") as span:
        delta = input_delta.compute(LLM_REQUEST, chat_ctx, span)
    assert delta.base is None and delta.chat_ctx is chat_ctx
    assert delta.input_messages() == gen_ai.to_input_messages(chat_ctx)
    assert delta.system_instructions() == gen_ai.to_system_instructions(chat_ctx)
