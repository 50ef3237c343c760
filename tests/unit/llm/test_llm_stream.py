"""`LLMStream`: attempts, iteration, metrics, and an end that always comes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fakes.llm import FakeLLM, FakeLLMStream, Reply, Request, call
from livekit.agents import llm
from livekit.agents._exceptions import APIConnectionError, APIError, APIStatusError
from livekit.agents.llm.llm import RESTARTED
from livekit.agents.types import APIConnectOptions

ONCE = APIConnectOptions(max_retry=0)
TWICE = APIConnectOptions(max_retry=1)


def ask(model: FakeLLM, text: str = "hello", options: APIConnectOptions = ONCE) -> FakeLLMStream:
    chat_ctx = llm.ChatContext.empty()
    chat_ctx.add_message(role="user", content=text)
    return model.chat(chat_ctx=chat_ctx, conn_options=options)


def record(model: llm.LLM[Any], event: str) -> list[Any]:
    seen: list[Any] = []
    model.on(event, seen.append)
    return seen


async def texts(stream: llm.LLMStream) -> list[str]:
    return [chunk.delta.content or "" async for chunk in stream if chunk.delta]


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_chunks_arrive_in_order_and_the_iteration_ends() -> None:
    async with ask(FakeLLM([Reply(["a", "b", "c"])])) as stream:
        assert await texts(stream) == ["a", "b", "c"]
        assert await texts(stream) == []


async def test_the_request_starts_without_being_read() -> None:
    model = FakeLLM(["hi"])
    stream = ask(model)
    assert model.requests[0].attempts == 0  # but not inside the constructor
    await asyncio.sleep(0)
    assert model.requests[0].attempts == 1
    await stream.aclose()


async def test_a_task_factory_that_runs_eagerly_does_not_run_it_inside_the_constructor() -> None:
    started_early: list[bool] = []

    class Late(FakeLLMStream):
        async def _run(self) -> None:
            started_early.append(not hasattr(self, "_fake"))
            await super()._run()

    class Model(FakeLLM):
        def chat(self, **kwargs: Any) -> FakeLLMStream:
            kwargs.setdefault("tools", [])
            request = Request(kwargs["chat_ctx"], [], ONCE)
            return Late(self, request=request, conn_options=ONCE, **kwargs)

    loop = asyncio.get_running_loop()

    def eager_factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        # What `asyncio.eager_task_factory` of Python 3.12 does: the first step at once.
        try:
            coro.send(None)
        except StopIteration:  # pragma: no cover - the stream must not get this far
            pass
        return asyncio.Task(coro, loop=loop, **kwargs)

    loop.set_task_factory(eager_factory)
    try:
        stream = Model(["hi"]).chat(chat_ctx=llm.ChatContext.empty())
    finally:
        loop.set_task_factory(None)
    assert await texts(stream) == ["hi"]
    assert started_early == [False]
    await stream.aclose()


async def test_a_retryable_error_is_tried_again_after_a_tenth_of_a_second() -> None:
    model = FakeLLM([APIConnectionError("gone"), "second"])
    errors = record(model, "error")
    began = now()
    async with ask(model, options=TWICE) as stream:
        assert await texts(stream) == ["second"]
    assert 0.05 <= now() - began <= 0.1
    assert [(e.recoverable, str(e.error), e.label) for e in errors] == [(True, "gone", model.label)]


async def test_the_last_attempt_reports_how_many_there_were() -> None:
    last = APIConnectionError("still gone")
    model = FakeLLM([APIConnectionError("gone"), last])
    errors = record(model, "error")
    async with ask(model, options=TWICE) as stream:
        with pytest.raises(
            APIConnectionError, match="failed to generate LLM completion after 2 attempts"
        ) as raised:
            await texts(stream)
    assert raised.value.__cause__ is last
    assert [e.recoverable for e in errors] == [True, False]


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (APIConnectionError("gone"), ONCE),
        (APIStatusError("bad request", status_code=400), TWICE),
        (RuntimeError("a bug"), TWICE),
    ],
    ids=["no retries wanted", "not retryable", "not of the provider"],
)
async def test_what_is_not_tried_again_is_raised_as_it_is(
    error: Exception, options: APIConnectOptions
) -> None:
    model = FakeLLM([Reply("partial", error=error)])
    errors = record(model, "error")
    metrics = record(model, "metrics_collected")
    async with ask(model, options=options) as stream:
        assert (await stream.__anext__()).delta.content == "partial"  # type: ignore[union-attr]
        with pytest.raises(type(error)) as raised:
            await stream.__anext__()
    assert raised.value is error
    assert [(e.recoverable, e.error) for e in errors] == [(False, error)]
    assert model.requests[0].attempts == 1
    assert metrics == []


async def test_a_request_the_client_gave_up_is_no_error() -> None:
    model = FakeLLM([Reply("some", error=APIStatusError("closed", status_code=499))])
    errors = record(model, "error")
    async with ask(model, options=TWICE) as stream:
        assert await texts(stream) == ["some"]
    assert errors == [] and model.requests[0].attempts == 1


async def test_without_leave_an_attempt_that_sent_text_is_not_repeated() -> None:
    error = APIError("cut", retryable=True)
    model = FakeLLM([Reply("partial", error=error), "never"])
    async with ask(model, options=TWICE) as stream:
        stream._retry_on_chunk_sent = False
        await asyncio.sleep(1.0)  # it has failed before anything was read
        with pytest.raises(APIError) as raised:
            await texts(stream)
    assert raised.value is error


async def test_metrics_are_emitted_before_the_iteration_ends() -> None:
    usage = llm.CompletionUsage(
        completion_tokens=10, prompt_tokens=20, prompt_cached_tokens=5, total_tokens=30
    )
    model = FakeLLM([Reply(["a", "b"], delay=0.5, chunk_delay=0.25, usage=usage)])
    seen = record(model, "metrics_collected")
    async with ask(model) as stream:
        await texts(stream)
        (metrics,) = seen
    assert metrics.ttft == pytest.approx(0.5)
    assert metrics.duration == pytest.approx(1.0)
    assert metrics.tokens_per_second == pytest.approx(10.0)
    assert (metrics.completion_tokens, metrics.prompt_tokens, metrics.total_tokens) == (10, 20, 30)
    assert metrics.prompt_cached_tokens == 5 and not metrics.cancelled
    assert metrics.label == model.label and metrics.request_id.startswith("fake_")
    assert metrics.metadata is not None
    assert (metrics.metadata.model_name, metrics.metadata.model_provider) == ("fake-llm", "fake")
    assert len(seen) == 1  # closing does not report again


async def test_usage_alone_is_no_first_token() -> None:
    usage = llm.CompletionUsage(completion_tokens=0, prompt_tokens=1, total_tokens=1)
    model = FakeLLM([Reply(usage=usage)])
    seen = record(model, "metrics_collected")
    async with ask(model) as stream:
        await stream.collect()
    assert [m.ttft for m in seen] == [-1.0]


async def test_a_cancelled_answer_reports_what_it_cost_so_far() -> None:
    model = FakeLLM([Reply("a", hangs=True)])
    seen = record(model, "metrics_collected")
    stream = ask(model)
    await stream.__anext__()
    await stream.aclose()
    assert [m.cancelled for m in seen] == [True]


async def test_a_stream_closed_before_it_ran_emits_nothing() -> None:
    model = FakeLLM(["hi"])
    seen = record(model, "metrics_collected") + record(model, "error")
    stream = ask(model)
    await stream.aclose()
    await stream.aclose()
    assert await texts(stream) == [] and seen == [] and model.requests[0].attempts == 0


async def test_a_failing_handler_breaks_neither_the_answer_nor_the_close() -> None:
    model = FakeLLM([APIConnectionError("gone"), "hi"])

    def broken(_: object) -> None:
        raise TypeError("a bug in a handler")

    model.on("error", broken)
    model.on("metrics_collected", broken)
    async with ask(model, options=TWICE) as stream:
        assert await texts(stream) == ["hi"]


async def test_closing_wakes_the_reader_and_drops_what_was_not_read() -> None:
    model = FakeLLM([Reply(["a", "b"], hangs=True)])
    stream = ask(model)
    assert (await stream.__anext__()).delta.content == "a"  # type: ignore[union-attr]
    await stream.aclose()
    assert await texts(stream) == []

    waiting = ask(FakeLLM([Reply(hangs=True)]))
    reader = asyncio.ensure_future(texts(waiting))
    await asyncio.sleep(1.0)
    await waiting.aclose()
    assert await reader == []


async def test_closing_during_the_pause_between_attempts_does_not_wait_for_it() -> None:
    model = FakeLLM([APIConnectionError("1"), APIConnectionError("2"), "never"])
    stream = ask(model, options=APIConnectOptions(max_retry=5, retry_interval=60.0))
    await asyncio.sleep(1.0)
    began = now()
    await stream.aclose()
    assert now() == began and model.requests[0].attempts == 2


async def test_a_provider_that_ignores_cancellation_is_left_behind_within_two_seconds() -> None:
    model = FakeLLM([Reply("a", hangs=True, ignores_cancellation=True)])
    seen = record(model, "metrics_collected")
    errors = record(model, "error")
    stream = ask(model)
    await stream.__anext__()
    began = now()
    await asyncio.gather(stream.aclose(), stream.aclose())
    assert now() - began <= 2.0
    assert [m.cancelled for m in seen] == [True]
    assert model.running == {stream}
    model.release()
    await asyncio.sleep(0.1)
    assert model.running == set()
    assert await texts(stream) == []  # what it said late is heard by nobody
    assert len(seen) == 1 and errors == []


async def test_an_answer_nobody_reads_any_more_is_cancelled() -> None:
    model = FakeLLM([Reply("a", hangs=True)])

    async def read_one_and_forget() -> None:
        await ask(model).__anext__()

    await asyncio.create_task(read_one_and_forget())
    await asyncio.sleep(29.0)
    assert len(model.running) == 1  # somebody may go on reading
    await asyncio.sleep(2.0)
    assert model.running == set()


async def test_an_answer_may_be_read_by_many_short_tasks() -> None:
    model = FakeLLM([Reply(["a", "b", "c"], chunk_delay=25.0)])
    stream = ask(model)
    heard = [await asyncio.create_task(stream.__anext__()) for _ in range(3)]
    assert [chunk.delta.content for chunk in heard if chunk.delta] == ["a", "b", "c"]
    await stream.aclose()


async def test_text_can_be_read_alone() -> None:
    model = FakeLLM([Reply(["a", "b"], tool_calls=[call("f")])])
    stream = ask(model)
    assert [text async for text in stream.to_str_iterable()] == ["a", "b"]
    assert model.running == set()


async def test_collecting_gives_the_whole_answer() -> None:
    usage = llm.CompletionUsage(completion_tokens=1, prompt_tokens=1, total_tokens=2)
    weather = call("weather", '{"city": "Paris"}')
    model = FakeLLM(
        [Reply([" It is", " sunny. "], tool_calls=[weather], usage=usage, extra={"google": 1})]
    )
    response = await ask(model).collect()
    assert response.text == "It is sunny."
    assert response.tool_calls == [weather]
    assert response.usage == usage and response.extra == {"google": 1}


async def test_collecting_forgets_an_answer_that_was_started_over() -> None:
    model = FakeLLM([Reply("half an ans")])
    stream = ask(model)
    stream._event_ch.send_nowait(
        llm.ChatChunk(id="1", delta=llm.ChoiceDelta(content="wrong", tool_calls=[call("f")]))
    )
    stream._event_ch.send_nowait(
        llm.ChatChunk(id="2", delta=llm.ChoiceDelta(extra={RESTARTED: True}))
    )
    response = await stream.collect()
    assert (response.text, response.tool_calls, response.extra) == ("half an ans", [], {})


class WarmLLM(FakeLLM):
    def __init__(self, *, fails: bool = False, hangs: bool = False) -> None:
        super().__init__()
        self.warmed = 0
        self._fails = fails
        self._hangs = hangs

    async def _prewarm_impl(self) -> None:
        self.warmed += 1
        if self._fails:
            raise APIConnectionError("no network")
        while self._hangs:
            try:
                await self._released.wait()
                return
            except asyncio.CancelledError:
                pass


async def test_prewarming_happens_once() -> None:
    model = WarmLLM()
    model.prewarm()
    model.prewarm(loop=asyncio.get_running_loop())
    await asyncio.sleep(0)
    assert model.warmed == 1
    await model.aclose()
    await model.aclose()


async def test_a_failed_prewarm_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    model = WarmLLM(fails=True)
    model.prewarm()
    await asyncio.sleep(0.1)
    assert [r for r in caplog.records if r.levelname == "ERROR"] == []
    await model.aclose()


async def test_closing_does_not_wait_for_a_prewarm_that_ignores_it() -> None:
    model = WarmLLM(hangs=True)
    model.prewarm()
    await asyncio.sleep(0)
    began = now()
    await model.aclose()
    assert now() - began <= 2.0
    model.release()
    await asyncio.sleep(0.1)


def test_prewarming_needs_a_loop() -> None:
    with pytest.raises(RuntimeError, match="running event loop"):
        WarmLLM().prewarm()
    FakeLLM().prewarm()  # nothing to warm: nothing needed
