"""`FallbackAdapter`: one model fails, the next one answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fakes.llm import FakeLLM, Reply, Script
from livekit.agents import llm
from livekit.agents._exceptions import APIConnectionError, APIError, APITimeoutError
from livekit.agents.llm.fallback_adapter import FallbackLLMStream
from livekit.agents.llm.llm import RESTARTED
from livekit.agents.types import APIConnectOptions

GONE = APIConnectionError("gone")


class Bench:
    """An adapter over fake models, and what it emitted."""

    def __init__(self, *scripts: list[Script], **options: Any) -> None:
        self.models = [
            FakeLLM(script, model=f"m{i}", provider=f"p{i}") for i, script in enumerate(scripts)
        ]
        self.adapter = llm.FallbackAdapter(list(self.models), **options)
        self.changes: list[tuple[int, bool]] = []
        self.metrics: list[Any] = []
        self.errors: list[Any] = []
        self.adapter.on(
            "llm_availability_changed",
            lambda ev: self.changes.append((self.models.index(ev.llm), ev.available)),
        )
        self.adapter.on("metrics_collected", self.metrics.append)
        self.adapter.on("error", self.errors.append)

    def ask(self, text: str = "hello", **options: Any) -> FallbackLLMStream:
        chat_ctx = llm.ChatContext.empty()
        chat_ctx.add_message(role="system", content="be brief")
        chat_ctx.add_message(role="user", content="before")
        chat_ctx.add_message(role="user", content=text)
        return self.adapter.chat(chat_ctx=chat_ctx, **options)

    async def answer(self, **options: Any) -> str:
        return (await self.ask(**options).collect()).text

    @property
    def attempts(self) -> list[int]:
        return [sum(request.attempts for request in model.requests) for model in self.models]


async def settle() -> None:
    await asyncio.sleep(0.001)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_it_needs_models_and_a_timeout_for_each() -> None:
    with pytest.raises(ValueError, match="at least one"):
        llm.FallbackAdapter([])
    with pytest.raises(ValueError, match="2 values of attempt_timeout for 1 LLMs"):
        llm.FallbackAdapter([FakeLLM()], attempt_timeout=[1, 2])


async def test_the_first_model_answers_when_it_can() -> None:
    bench = Bench(["hi"], [], attempt_timeout=3.0, retry_interval=0.25)
    assert await bench.answer(tool_choice="none", parallel_tool_calls=False) == "hi"
    assert bench.attempts == [1, 0] and bench.changes == []
    (request,) = bench.models[0].requests
    assert request.conn_options == APIConnectOptions(max_retry=0, timeout=3.0, retry_interval=0.25)
    assert (request.tool_choice, request.parallel_tool_calls) == ("none", False)
    assert [m.metadata.model_name for m in bench.metrics] == ["m0"]
    await bench.adapter.aclose()


async def test_a_model_that_fails_is_replaced_and_left_out_until_it_works() -> None:
    bench = Bench([GONE, GONE, GONE, "yes", "again"], ["one", "two", "three"])
    assert await bench.answer() == "one"  # its failure starts a probe, which fails too
    await settle()
    assert bench.attempts == [2, 1] and bench.changes == [(0, False)]
    assert bench.adapter.model == "m1" and bench.adapter.metrics_metadata["model_name"] == "m1"
    assert await bench.answer() == "two"  # probed by the second request, in vain
    await settle()
    assert await bench.answer() == "three"  # and by the third
    await settle()
    assert bench.changes == [(0, False), (0, True)]
    assert bench.adapter.model == "m0"
    assert await bench.answer() == "again"
    assert bench.attempts == [5, 3]
    assert bench.errors == []
    await bench.adapter.aclose()


async def test_a_probe_asks_little_and_costs_no_metrics() -> None:
    bench = Bench([GONE, Reply(["a", "b"], hangs=True)], ["one"])
    await bench.answer()
    await settle()
    assert bench.changes == [(0, False), (0, True)]  # the first word was enough
    assert bench.models[0].running == set()
    probe = bench.models[0].requests[1]
    said = [message.raw_text_content for message in probe.chat_ctx.messages()]
    assert said == ["be brief", "hello"] and probe.tools == []
    assert [m.metadata.model_name for m in bench.metrics] == ["m1"]
    await bench.adapter.aclose()


async def test_there_is_one_probe_at_a_time_and_a_silent_one_ends() -> None:
    silent = Reply(hangs=True, ignores_cancellation=True)
    bench = Bench([GONE, silent, "well"], ["one", "two", "three"], attempt_timeout=5.0)
    await bench.answer()
    await settle()
    await bench.answer()
    await settle()
    assert bench.attempts[0] == 2
    await asyncio.sleep(8.0)
    await bench.answer()
    await settle()
    assert bench.attempts[0] == 3 and bench.changes == [(0, False), (0, True)]
    bench.models[0].release()
    await asyncio.sleep(1.0)
    await bench.adapter.aclose()


async def test_when_all_are_out_all_are_tried(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench([GONE, GONE, GONE, GONE], [GONE, GONE, "back"])
    with pytest.raises(APIConnectionError, match="all LLMs failed"):
        await bench.answer()
    await settle()
    assert bench.changes == [(0, False), (1, False)]
    assert await bench.answer() == "back"
    assert "all LLMs are unavailable" in caplog.text
    assert bench.changes[2:] == [(1, True)]  # it served, so it works
    await bench.adapter.aclose()


async def test_the_chain_is_repeated_only_if_the_models_did_not_retry_themselves() -> None:
    twice = APIConnectOptions(max_retry=1)
    bench = Bench([GONE, GONE, "late"], [GONE] * 9)
    assert await bench.answer(conn_options=twice) == "late"
    await bench.adapter.aclose()

    bench = Bench([GONE] * 9, [GONE] * 9, max_retry_per_llm=1, retry_interval=0.1)
    with pytest.raises(APIConnectionError, match="all LLMs failed") as raised:
        await bench.answer(conn_options=twice)
    assert not raised.value.retryable
    for model in bench.models:
        request, _probe = model.requests  # asked once, with a retry
        assert request.attempts == 2
    await bench.adapter.aclose()


async def test_a_failure_after_part_of_the_answer_is_raised_at_once() -> None:
    error = APIError("cut", retryable=True)
    bench = Bench([Reply("half", error=error)], ["whole"])
    stream = bench.ask(conn_options=APIConnectOptions(max_retry=3))
    assert (await stream.__anext__()).delta.content == "half"  # type: ignore[union-attr]
    with pytest.raises(APIError, match="cut"):
        await stream.__anext__()
    await stream.aclose()
    await settle()
    assert bench.attempts == [1, 0] and bench.changes == [(0, False)]  # not even probed
    await bench.adapter.aclose()


async def test_if_wished_the_next_model_starts_over_and_says_so() -> None:
    bench = Bench([Reply("half", error=GONE)], ["whole"], retry_on_chunk_sent=True)
    async with bench.ask() as stream:
        deltas = [chunk.delta async for chunk in stream if chunk.delta]
    assert [(d.content, bool(d.extra and d.extra.get(RESTARTED))) for d in deltas] == [
        ("half", False),
        (None, True),
        ("whole", False),
    ]
    bench.models[0].replies = [Reply("half", error=GONE)]
    bench.adapter._set_available(0, True)
    bench.models[1].replies = ["whole"]
    assert await bench.answer() == "whole"
    await bench.adapter.aclose()


async def test_a_model_that_opens_a_stream_and_stays_silent_is_given_up() -> None:
    keep_alive = llm.CompletionUsage(completion_tokens=0, prompt_tokens=1, total_tokens=1)
    bench = Bench(
        [Reply(usage=keep_alive, hangs=True), Reply(hangs=True)], ["hi"], attempt_timeout=2.0
    )
    began = now()
    assert await bench.answer() == "hi"
    assert now() - began == pytest.approx(2.0)
    await bench.adapter.aclose()
    assert bench.models[0].running == set()


async def test_later_models_may_have_more_time() -> None:
    bench = Bench([Reply("a", delay=3.0)] * 2, [Reply("b", delay=3.0)], attempt_timeout=[2.0, 4.0])
    assert await bench.answer() == "b"
    await bench.adapter.aclose()


async def test_a_model_that_ignores_being_given_up_does_not_hold_up_the_answer() -> None:
    stuck = Reply(hangs=True, ignores_cancellation=True)
    bench = Bench([stuck, GONE], ["hi"], attempt_timeout=2.0)
    began = now()
    assert await bench.answer() == "hi"
    assert now() - began == pytest.approx(2.0)
    await bench.adapter.aclose()
    bench.models[0].release()
    await asyncio.sleep(5.0)


async def test_once_it_answers_a_model_may_take_its_time() -> None:
    bench = Bench([Reply(["a", "b"], chunk_delay=60.0)], ["x"], attempt_timeout=2.0)
    assert await bench.answer() == "ab"
    await bench.adapter.aclose()


async def test_a_model_that_cannot_even_be_asked_counts_as_failed() -> None:
    bench = Bench([], ["hi"])

    def refuse(**_: Any) -> Any:
        raise RuntimeError("no key")

    bench.models[0].chat = refuse  # type: ignore[method-assign]
    assert await bench.answer() == "hi"
    assert bench.changes == [(0, False)]
    await bench.adapter.aclose()


async def test_sticky_stays_with_the_model_that_answered() -> None:
    bench = Bench([GONE, "probe", "never"], ["one", "two"], sticky=True)
    assert await bench.answer() == "one"
    await settle()
    assert bench.changes == [(0, False), (0, True)]  # works again
    assert bench.adapter.model == "m1"
    assert await bench.answer() == "two"
    bench.models[1].replies = [GONE]
    assert await bench.answer() == "never"  # until it fails
    await bench.adapter.aclose()


async def test_the_stream_tells_what_the_answering_model_was_given() -> None:
    bench = Bench(["hi"])
    stream = bench.ask()
    assert stream.chat_ctx is stream._chat_ctx
    await stream.__anext__()
    assert stream._answering is not None and stream.chat_ctx is stream._answering.chat_ctx
    assert stream.tools is stream._answering.tools
    await stream.aclose()
    await bench.adapter.aclose()


async def test_closing_the_stream_closes_the_models_within_two_seconds() -> None:
    for reply in (Reply("a", hangs=True), Reply("a", hangs=True, ignores_cancellation=True)):
        bench = Bench([reply], ["never"])
        stream = bench.ask()
        await stream.__anext__()
        began = now()
        await stream.aclose()
        assert now() - began <= 2.0
        assert bench.attempts == [1, 0] and bench.changes == []
        bench.models[0].release()
        await asyncio.sleep(1.0)
        assert bench.models[0].running == set()
        await bench.adapter.aclose()


async def test_closing_the_adapter_ends_probes_and_leaves_the_models_alone() -> None:
    bench = Bench([GONE, Reply(hangs=True)], ["hi"], attempt_timeout=1000.0)
    await bench.answer()
    await settle()
    assert len(bench.models[0].running) == 1
    began = now()
    await bench.adapter.aclose()
    await bench.adapter.aclose()
    assert now() - began <= 2.0
    assert bench.models[0].running == set() and not bench.models[0].closed
    bench.models[1].replies = ["still works"]
    assert (await bench.models[1].chat(chat_ctx=llm.ChatContext.empty()).collect()).text
    assert len(bench.metrics) == 1  # but is not reported here any more


async def test_only_the_preferred_model_is_prewarmed() -> None:
    warmed: list[str] = []

    class Warm(FakeLLM):
        async def _prewarm_impl(self) -> None:
            warmed.append(self.model)

    models = [Warm(model="m0"), Warm(model="m1")]
    adapter = llm.FallbackAdapter(list(models))
    adapter.prewarm()
    await settle()
    assert warmed == ["m0"]
    for model in models:
        await model.aclose()


async def test_a_timeout_is_what_the_last_failure_was() -> None:
    bench = Bench([Reply(hangs=True)] * 2, attempt_timeout=1.0)
    with pytest.raises(APIConnectionError) as raised:
        await bench.answer()
    assert isinstance(raised.value.__cause__, APITimeoutError)
    await bench.adapter.aclose()
