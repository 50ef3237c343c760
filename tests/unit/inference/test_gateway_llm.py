"""Completions through the gateway, on an emulated network and virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from gateway import GatewayEmulator, faults
from gateway.calls import QUICK, emulated
from gateway.completions import text_answer, tool_answer

from livekit.agents import (
    APIConnectionError,
    APIConnectOptions,
    APIStatusError,
    APITimeoutError,
    function_tool,
    inference,
)
from livekit.agents.inference._completion import CompletionReader
from livekit.agents.inference._protocol.chat import CompletionChunk, Delta, ToolCallDelta
from livekit.agents.inference.llm import (
    LLMStream,
    drop_unsupported_params,
    llm_from_model_string,
    min_reasoning_effort,
    supports_prompt_cache_breakpoints,
)
from livekit.agents.llm import ChatContext, CollectedResponse, LLMError
from livekit.agents.metrics import LLMMetrics
from livekit.agents.utils import http_context


@dataclass
class Model:
    """A gateway LLM and what it reported."""

    llm: inference.LLM
    errors: list[LLMError] = field(default_factory=list)
    metrics: list[LLMMetrics] = field(default_factory=list)

    async def ask(
        self, text: str = "hello", *, conn_options: APIConnectOptions = QUICK, **options: Any
    ) -> CollectedResponse:
        return await self.llm.chat(
            chat_ctx=context(text), conn_options=conn_options, **options
        ).collect()


def context(text: str = "hello") -> ChatContext:
    chat_ctx = ChatContext.empty()
    chat_ctx.add_message(role="user", content=text)
    return chat_ctx


@contextlib.asynccontextmanager
async def asking(
    gateway: GatewayEmulator,
    session: aiohttp.ClientSession,
    model: str = "openai/gpt-4.1-mini",
    **options: Any,
) -> AsyncIterator[Model]:
    token = http_context._factory.set(lambda: session)
    llm = inference.LLM(model, **gateway.arguments(), **options)
    made = Model(llm)
    llm.on("error", made.errors.append)
    llm.on("metrics_collected", made.metrics.append)
    try:
        yield made
    finally:
        await llm.aclose()
        http_context._factory.reset(token)


@function_tool
async def book_table(people: int) -> str:
    """Book a table.

    Args:
        people: How many come.
    """
    return "done"


async def test_an_answer_streams_in_and_is_counted() -> None:
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        answer = await model.ask("good morning")
    assert answer.text == "You said: good morning"
    assert answer.usage is not None and answer.usage.prompt_cached_tokens == 3
    assert model.errors == []
    [metrics] = model.metrics
    assert (metrics.prompt_tokens, metrics.completion_tokens) == (7, 5)


async def test_the_request_is_what_the_gateway_expects() -> None:
    async with emulated() as (gateway, session):
        async with asking(
            gateway,
            session,
            provider="azure",
            inference_class="low",
            extra_kwargs={"temperature": 0.9, "extra_headers": {"X-Mine": "1"}},
        ) as model:
            await model.ask(
                tools=[book_table],
                tool_choice="required",
                extra_kwargs={"seed": 1, "temperature": 0.2},
            )
        [body] = gateway.completions.requests
        [record] = gateway.of("llm")
    tool = body["tools"][0]
    assert tool["type"] == "function" and tool["function"]["strict"] is True
    assert tool["function"]["name"] == "book_table"
    del body["tools"]
    assert body == {
        "model": "openai/gpt-4.1-mini",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "tool_choice": "required",
        "seed": 1,
        "temperature": 0.9,
    }
    assert record.headers["X-LiveKit-Inference-Priority"] == "low"
    assert record.headers["X-LiveKit-Inference-Provider"] == "azure"
    assert record.headers["X-Mine"] == "1"
    assert model.llm._extra_kwargs["extra_headers"] == {"X-Mine": "1"}


async def test_a_choice_of_tools_without_tools_is_not_sent() -> None:
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        await model.ask(tool_choice="required")
        assert "tool_choice" not in gateway.completions.requests[0]


@pytest.mark.parametrize("in_one_chunk", [False, True])
async def test_tool_calls_are_put_together(in_one_chunk: bool) -> None:
    calls = (("t1", "book_table", '{"people": 2}'), ("t2", "book_table", '{"people": 3}'))
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        gateway.completions.script.append(tool_answer(*calls, in_one_chunk=in_one_chunk))
        answer = await model.ask(tools=[book_table])
    assert [(c.call_id, c.name, c.arguments) for c in answer.tool_calls] == list(calls)


@pytest.mark.parametrize("kind", ["list_content", "null_delta", "split_utf8"])
async def test_odd_forms_of_an_answer_are_understood(kind: str) -> None:
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        gateway.inject("llm", faults.completion(kind))
        gateway.completions.script.append(text_answer("Grüße aus Köln 👋"))
        assert (await model.ask()).text == "Grüße aus Köln 👋"
    assert model.errors == []


async def test_thoughts_are_not_part_of_the_answer() -> None:
    thoughtful = [
        Delta("<thi"),
        Delta("nk>hm"),
        Delta("m</think>Yes."),
        Delta(finish_reason="stop"),
    ]
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        gateway.completions.script.append(thoughtful)
        assert (await model.ask()).text == "Yes."


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        faults.refuse(500),
        faults.refuse(503),
        faults.refuse(429, retry_after=1.0),
        faults.reset_upgrade(),
        faults.stall_upgrade(),
        faults.completion("stall_headers"),
        faults.completion("sse_error", obj={"code": 500, "message": "no"}),
        faults.completion("sse_error", obj={"message": "no"}),
    ],
    ids=str,
)
async def test_a_failure_before_the_first_word_is_retried(fault: faults.Fault) -> None:
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        gateway.inject("llm", fault)
        assert (await model.ask()).text == "You said: hello"
    assert [error.recoverable for error in model.errors] == [True]


@pytest.mark.parametrize("kind", ["stall_mid", "drop_mid", "bad_sse"])
async def test_a_failure_after_the_first_word_is_not_retried(kind: str) -> None:
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        gateway.inject("llm", faults.completion(kind))
        with pytest.raises(APIConnectionError):
            await model.ask()
    assert [error.recoverable for error in model.errors] == [False]
    assert gateway.dials("llm") == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_refusal_that_blames_the_request_is_final(status: int) -> None:
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        gateway.inject("llm", faults.refuse(status, body={"error": {"message": "because"}}))
        with pytest.raises(APIStatusError) as caught:
            await model.ask()
    assert caught.value.status_code == status
    assert caught.value.message == "because"
    assert caught.value.body == {"error": {"message": "because"}}
    assert gateway.dials("llm") == 1


async def test_an_error_in_the_stream_that_blames_the_request_is_final() -> None:
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        gateway.inject("llm", faults.completion("sse_error", obj={"code": 400, "message": "no"}))
        with pytest.raises(APIStatusError):
            await model.ask()
    assert gateway.dials("llm") == 1


async def test_a_used_up_quota_is_final() -> None:
    body = {"type": "inference_quota_exceeded", "remaining_limit": 0, "error": "no credits left"}
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        gateway.inject("llm", faults.refuse(429, body=body))
        with pytest.raises(APIStatusError, match="no credits left"):
            await model.ask()
    assert gateway.dials("llm") == 1


async def test_all_attempts_in_vain_are_reported_with_their_number() -> None:
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        gateway.standing["llm"] = faults.refuse(500)
        with pytest.raises(APIConnectionError, match="after 4 attempts"):
            await model.ask()
    assert [error.recoverable for error in model.errors] == [True, True, True, False]


async def test_an_answer_that_ends_within_a_tool_call_is_a_failure() -> None:
    calls = [Delta(tool_calls=(ToolCallDelta(0, "t1", "book_table", '{"peo'),)), Delta()]
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        gateway.completions.script.append(calls)
        answer = await model.ask(tools=[book_table])
    assert answer.text == "You said: hello", "the second attempt"
    assert [error.recoverable for error in model.errors] == [True]


async def test_an_answer_without_a_reason_to_finish_ends_well() -> None:
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        gateway.inject("llm", faults.completion("truncate"))
        assert (await model.ask()).text == "You said: hello"
    assert model.errors == []


async def test_a_model_that_only_thinks_can_be_closed() -> None:
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        gateway.inject("llm", faults.completion("drip"))
        stream = model.llm.chat(chat_ctx=context(), conn_options=QUICK)
        await asyncio.sleep(60.0)
        began = asyncio.get_running_loop().time()
        await stream.aclose()
        assert asyncio.get_running_loop().time() - began < 0.1
        await gateway.until_closed()
    assert model.errors == []


async def test_silence_between_bytes_is_a_timeout() -> None:
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        gateway.inject("llm", faults.completion("stall_headers"))
        with pytest.raises(APITimeoutError):
            await model.ask(conn_options=APIConnectOptions(max_retry=0, timeout=3.0))


# -- the object ------------------------------------------------------------------------------------


async def test_prewarming_opens_the_connection_and_its_failure_is_nobodys_business() -> None:
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        model.llm.prewarm()
        await asyncio.sleep(0.1)
        await model.ask()
        assert gateway.network is not None and gateway.network.dials == 1


async def test_a_closed_model_answers_no_more() -> None:
    async with emulated() as (gateway, session), asking(gateway, session) as model:
        await model.llm.aclose()
        await model.llm.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            model.llm.chat(chat_ctx=context())


@pytest.mark.real_time
async def test_outside_of_a_job_it_brings_its_own_connections_and_closes_them() -> None:
    async with emulated(real_sockets=True) as (gateway, _):
        llm = inference.LLM("openai/gpt-4.1-mini", **gateway.arguments())
        answer = await llm.chat(chat_ctx=context(), conn_options=QUICK).collect()
        assert answer.text == "You said: hello"
        assert gateway.open_sockets == 1
        await llm.aclose()
        await gateway.until_closed()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"api_key": ""}, "api_key is required"),
        ({"model": " "}, "model must be a name"),
        ({"base_url": "x"}, "base URL"),
    ],
)
def test_bad_options_are_refused_before_anything_is_connected(
    options: dict[str, Any], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LIVEKIT_API_KEY", "LIVEKIT_INFERENCE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=complaint):
        inference.LLM(**{"model": "openai/gpt-5", "api_key": "k", "api_secret": "s", **options})


def test_strings_name_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEKIT_API_KEY", "k")
    monkeypatch.setenv("LIVEKIT_API_SECRET", "s")
    assert llm_from_model_string("openai/gpt-4.1").model == "openai/gpt-4.1"
    assert inference.is_realtime_model("openai/gpt-realtime-2")
    assert inference.is_duplex_model("openai/gpt-live-1")
    assert not inference.is_realtime_model("openai/gpt-realtime-99")


# -- clients of other kinds ------------------------------------------------------------------------


class _Chunks:
    def __init__(self, chunks: list[dict[str, Any]]) -> None:
        self._chunks = chunks

    async def __aenter__(self) -> _Chunks:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[Any]:
        for chunk in self._chunks:
            yield SimpleNamespace(model_dump=lambda chunk=chunk, **_: chunk)


@pytest.mark.parametrize("base_url", ["https://api.example.com/v1", None])
async def test_a_plugin_can_bring_its_own_client(base_url: str | None) -> None:
    requests: list[dict[str, Any]] = []

    async def create(**request: Any) -> _Chunks:
        requests.append(request)
        return _Chunks([{"id": "x", "choices": [{"delta": {"content": "Hi."}}]}])

    async with emulated() as (gateway, session), asking(gateway, session) as model:
        url = base_url or "https://agent-gateway.livekit.cloud/v1"
        completions = SimpleNamespace(create=create)
        client = SimpleNamespace(base_url=url, chat=SimpleNamespace(completions=completions))
        stream = LLMStream(
            model.llm,
            model="o3",
            strict_tool_schema=False,
            client=client,
            chat_ctx=context(),
            tools=[],
            conn_options=QUICK,
            extra_kwargs={"temperature": 1.0, "seed": 2},
        )
        assert (await stream.collect()).text == "Hi."
    [request] = requests
    headers = request.pop("extra_headers")
    assert ("User-Agent" in headers) is (base_url is None), "others learn nothing about the job"
    assert request == {
        "model": "o3",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": 2,
        "timeout": 5.0,
    }


# -- tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "params", "tools", "kept"),
    [
        ("openai/gpt-4o", {"temperature": 1}, None, {"temperature"}),
        ("openai/o3", {"temperature": 1, "seed": 1}, None, {"seed"}),
        ("gpt-5.1", {"temperature": 1, "n": 1}, None, set()),
        (
            "gpt-5.1",
            {"temperature": 1, "n": 1, "reasoning_effort": "none"},
            None,
            {"temperature", "reasoning_effort"},
        ),
        ("gpt-5.2", {"temperature": 1, "reasoning_effort": "none"}, ["tool"], set()),
        ("gpt-6-sol", {"stop": "x", "n": 2}, None, {"n"}),
        (
            "gpt-6-sol",
            {"stop": "x", "reasoning": SimpleNamespace(effort="none")},
            None,
            {"stop", "reasoning"},
        ),
        ("openai/gpt-oss-120b", {"temperature": 1}, None, {"temperature"}),
        ("xai/grok-4-1-fast-reasoning", {"stop": "x", "temperature": 1}, None, {"temperature"}),
    ],
)
def test_options_that_a_model_refuses_are_left_out(
    model: str, params: dict[str, Any], tools: Any, kept: set[str]
) -> None:
    result = drop_unsupported_params(model, params, tools)
    assert set(result) == kept
    assert (result is params) == (kept == set(params))


def test_what_models_can_be_asked() -> None:
    assert min_reasoning_effort("openai/gpt-5.1") == "none"
    assert min_reasoning_effort("gpt-6.1-sol") == "low"
    assert min_reasoning_effort("gpt-5-nano") == "minimal"
    assert min_reasoning_effort("gpt-4o") is None
    assert supports_prompt_cache_breakpoints("openai/gpt-5.6-sol")
    assert supports_prompt_cache_breakpoints("gpt-6-luna")
    assert not supports_prompt_cache_breakpoints("openai/gpt-5.5")
    assert not supports_prompt_cache_breakpoints("xai/gpt-6")
    assert not supports_prompt_cache_breakpoints("gpt-4o")


def test_a_call_whose_finish_names_it_stop_is_complete() -> None:
    reader = CompletionReader("m")
    reader.feed(CompletionChunk("1", (Delta(tool_calls=(ToolCallDelta(0, "t", "f", "{}"),)),)))
    assert reader.call_pending
    [chunk] = reader.feed(CompletionChunk("1", (Delta(finish_reason="stop"),)))
    assert chunk.delta is not None and chunk.delta.tool_calls[0].name == "f"
    assert not reader.call_pending
