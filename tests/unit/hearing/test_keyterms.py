"""Key terms: what is in force, and finding more in the conversation."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fakes.hearing import settle
from fakes.hearing_activity import ActivitySession
from fakes.stt import FakeSTT
from livekit.agents.llm import ChatContext, FunctionToolCall
from livekit.agents.llm.chat_context import ChatMessage
from livekit.agents.stt import STTCapabilities
from livekit.agents.telemetry import set_tracer_provider, tracer
from livekit.agents.voice.hearing.keyterms import KeytermBook
from livekit.agents.voice.keyterm_detection import KeytermDetector


def stt(keyterms: bool = True) -> FakeSTT:
    return FakeSTT(
        capabilities=STTCapabilities(streaming=True, interim_results=True, keyterms=keyterms)
    )


class FakeLLM:
    """Answers each request with the next arguments of `record_keyterms`."""

    def __init__(self, *answers: Any, delay: float = 0.0) -> None:
        self.answers = list(answers)
        self.delay = delay
        self.prompts: list[ChatContext] = []
        self.choices: list[Any] = []
        self.handlers: list[Any] = []

    def on(self, event: str, handler: Any) -> None:
        self.handlers.append(handler)

    def chat(self, *, chat_ctx: ChatContext, tools: list[Any], tool_choice: Any) -> Any:
        self.prompts.append(chat_ctx)
        self.choices.append((tools[0].info.name, tool_choice))

        async def collect() -> Any:
            await asyncio.sleep(self.delay)
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            arguments = answer if isinstance(answer, str) else json.dumps(answer)
            call = FunctionToolCall(name="record_keyterms", arguments=arguments, call_id="1")
            return SimpleNamespace(tool_calls=[call])

        return SimpleNamespace(collect=collect)


class Talk(ActivitySession):
    def __init__(self) -> None:
        super().__init__()
        self.history = ChatContext.empty()

    async def says(self, text: str, role: Any = "user") -> None:
        message = ChatMessage(role=role, content=[text])
        self.history.insert(message)
        self.emit("conversation_item_added", SimpleNamespace(item=message))
        await settle()


def found(**lists: list[str]) -> dict[str, list[str]]:
    return {"pending": [], "confirm": [], "remove": [], **lists}


# -- the terms ------------------------------------------------------------------------------------


def test_static_terms_come_first_and_each_term_once() -> None:
    book = KeytermBook(["Ada", " Bo ", "Ada", ""])
    book.apply(**found(confirm=["Cy", "Bo"]))
    assert book.terms == ["Ada", "Bo", "Cy"]


def test_static_terms_are_never_removed() -> None:
    book = KeytermBook(["Ada"], max_keyterms=0)
    assert book.apply(**found(remove=["Ada"])) == ([], [])
    assert book.terms == ["Ada"]


def test_candidates_are_dropped_after_three_passes() -> None:
    book = KeytermBook()
    book.apply(**found(pending=["Ada"]))
    for _ in range(2):
        book.apply(**found())
        assert book.pending == ["Ada"]
    book.apply(**found())
    assert book.pending == []


def test_a_candidate_can_be_confirmed_at_the_last_moment() -> None:
    book = KeytermBook()
    book.apply(**found(pending=["Ada"]))
    for _ in range(2):
        book.apply(**found())
    assert book.apply(**found(confirm=["Ada"])) == (["Ada"], [])


def test_the_oldest_confirmed_terms_make_room() -> None:
    book = KeytermBook(["s"], max_keyterms=3)
    book.apply(**found(confirm=["a", "b"]))
    assert book.apply(**found(confirm=["c"])) == (["c"], ["a"])
    assert book.terms == ["s", "b", "c"]


_terms = st.lists(st.sampled_from("abcdefg"), max_size=4)


@given(
    _terms,
    st.one_of(st.none(), st.integers(0, 5)),
    st.lists(st.tuples(_terms, _terms, _terms), max_size=8),
)
def test_the_book_stays_consistent(
    static: list[str],
    limit: int | None,
    passes: list[tuple[list[str], list[str], list[str]]],
) -> None:
    book = KeytermBook(static, max_keyterms=limit)
    for pending, confirm, remove in passes:
        before = set(book.terms)
        added, removed = book.apply(pending=pending, confirm=confirm, remove=remove)
        assert set(book.terms) == (before | set(added)) - set(removed)
        assert len(book.terms) == len(set(book.terms))
        assert set(static) <= set(book.terms)
        assert not set(book.pending) & set(book.terms)
        if limit is not None:
            assert len(book.terms) <= max(limit, len(set(static)))


# -- detection ------------------------------------------------------------------------------------


async def test_an_stt_gets_the_terms_when_an_agent_uses_it() -> None:
    detector, session, model = KeytermDetector(static_keyterms=["Ada"]), Talk(), stt()
    detector.start(session, model)  # type: ignore[arg-type]
    assert model.keyterms == ["Ada"]
    detector.set_static_keyterms(["Bo"])
    assert model.keyterms == detector.keyterms == detector.static_keyterms == ["Bo"]
    other = stt()
    detector.swap_stt(other)
    assert other.keyterms == ["Bo"]
    await detector.aclose()


async def test_what_is_found_is_given_to_the_stt_and_outlives_the_agent() -> None:
    model = stt()
    llm = FakeLLM(found(pending=["Bo"]), found(confirm=["Bo"]))
    session = Talk()
    options: Any = {"enabled": True, "llm": llm}
    detector = KeytermDetector(options=options)
    detector.start(session, model)  # type: ignore[arg-type]
    await session.says("I am Bo")
    assert model.keyterms == []
    await session.says("Hello Bo", role="assistant")
    assert len(llm.prompts) == 1
    await session.says("yes")
    assert model.keyterms == ["Bo"]
    assert llm.choices == [("record_keyterms", "required")] * 2
    asked = llm.prompts[1].items[-1].text_content or ""  # type: ignore[union-attr]
    assert 'Pending: ["Bo"]' in asked
    assert "assistant: Hello Bo" in asked
    await detector.aclose()
    await session.says("more")
    assert len(llm.prompts) == 2
    detector.start(session, model)  # type: ignore[arg-type]
    assert detector.keyterms == ["Bo"]
    await detector.aclose()


async def test_a_pass_tells_on_its_span_which_model_looked() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    set_tracer_provider(provider)
    llm, session = FakeLLM(found()), Talk()
    llm.model, llm.provider = "gpt-x", "api.openai.com"  # type: ignore[attr-defined]
    detector = KeytermDetector(options={"enabled": True, "llm": llm})  # type: ignore[typeddict-item]
    try:
        detector.start(session, stt())  # type: ignore[arg-type]
        await session.says("I am Bo")
        await detector.aclose()
    finally:
        tracer.set_provider(None)
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["gen_ai.request.model"] == "gpt-x"
    assert span.attributes["gen_ai.provider.name"] == "openai"


async def test_every_so_many_messages_and_one_pass_at_a_time() -> None:
    llm = FakeLLM(*[found()] * 5, delay=1.0)
    session = Talk()
    options: Any = {"enabled": True, "llm": llm, "turn_interval": 2}
    detector = KeytermDetector(options=options)
    detector.start(session, stt())  # type: ignore[arg-type]
    for text in ("one", "two", "three", "four"):
        await session.says(text)
    assert len(llm.prompts) == 1
    await asyncio.sleep(2)
    await session.says("five")
    await session.says("six")
    assert len(llm.prompts) == 2
    await detector.aclose()


@pytest.mark.parametrize(
    "answer",
    [RuntimeError("model gone"), "not json", '{"confirm": "x", "pending": [1, null]}', "[]"],
)
async def test_a_bad_answer_changes_nothing_and_the_next_pass_works(answer: Any) -> None:
    llm, session, model = FakeLLM(answer, found(confirm=["Bo"])), Talk(), stt()
    options: Any = {"enabled": True, "llm": llm}
    detector = KeytermDetector(options=options)
    detector.start(session, model)  # type: ignore[arg-type]
    await session.says("one")
    assert detector.keyterms == []
    await session.says("two")
    assert detector.keyterms == ["Bo"]
    await detector.aclose()


async def test_a_slow_model_is_given_up() -> None:
    llm, session = FakeLLM(found(confirm=["Bo"]), delay=100), Talk()
    options: Any = {"enabled": True, "llm": llm, "timeout": 2.0}
    detector = KeytermDetector(options=options)
    detector.start(session, stt())  # type: ignore[arg-type]
    await session.says("one")
    await asyncio.sleep(3)
    assert detector.keyterms == []
    await session.says("two")
    assert len(llm.prompts) == 2
    await detector.aclose()


async def test_closing_does_not_wait_for_a_pass() -> None:
    llm, session = FakeLLM(found(), delay=100), Talk()
    options: Any = {"enabled": True, "llm": llm}
    detector = KeytermDetector(options=options)
    detector.start(session, stt())  # type: ignore[arg-type]
    await session.says("one")
    began = asyncio.get_running_loop().time()
    assert await detector.aclose() == []
    assert asyncio.get_running_loop().time() - began < 0.01


async def test_an_stt_that_takes_no_terms_makes_detection_pointless(
    caplog: pytest.LogCaptureFixture,
) -> None:
    llm, session = FakeLLM(), Talk()
    options: Any = {"enabled": True, "llm": llm}
    detector = KeytermDetector(options=options)
    detector.start(session, stt(keyterms=False))  # type: ignore[arg-type]
    await session.says("one")
    assert llm.prompts == []
    assert "takes no key terms" in caplog.text
    await detector.aclose()
