"""A language model that answers what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from livekit.agents.llm import (
    LLM,
    ChatChunk,
    ChatContext,
    ChoiceDelta,
    CompletionUsage,
    FunctionToolCall,
    LLMStream,
    Tool,
    ToolChoice,
)
from livekit.agents.types import (
    DEFAULT_API_CONNECT_OPTIONS,
    NOT_GIVEN,
    APIConnectOptions,
    NotGivenOr,
)
from livekit.agents.utils import shortuuid


@dataclass
class Reply:
    """One attempt to answer: wait, send chunks, then end, fail or hang."""

    text: str | Sequence[str] = ""
    """Sent as one chunk, or as one chunk per item."""
    tool_calls: Sequence[FunctionToolCall] = ()
    """Sent after the text, as one chunk."""
    delay: float = 0.0
    """Seconds before the first chunk."""
    chunk_delay: float = 0.0
    """Seconds before each further chunk."""
    error: Exception | None = None
    """Raised after the chunks."""
    hangs: bool = False
    """Never ends after the chunks, until it is cancelled."""
    ignores_cancellation: bool = False
    """Goes on after being cancelled, until `FakeLLM.release` is called; then sends a last chunk."""
    usage: CompletionUsage | None = None
    extra: dict[str, Any] | None = None
    """Sent with the first chunk of text."""


@dataclass
class Request:
    """What `FakeLLM.chat` was called with."""

    chat_ctx: ChatContext
    tools: list[Tool]
    conn_options: APIConnectOptions
    tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN
    parallel_tool_calls: NotGivenOr[bool] = NOT_GIVEN
    extra_kwargs: NotGivenOr[dict[str, Any]] = NOT_GIVEN
    attempts: int = 0

    @property
    def user_text(self) -> str:
        """The last thing the user said."""
        said = [m.raw_text_content for m in self.chat_ctx.messages() if m.role == "user"]
        return (said[-1] if said else None) or ""


Script = Reply | str | Exception


class FakeLLM(LLM[str]):
    """Answers from a queue, or by what the user said last.

    Each attempt of a request takes one item of the queue. With the queue empty (or not given) the
    answer is looked up by the last user text, then `default` is sent. A string stands for
    `Reply(text)`, an exception for `Reply(error=...)`.
    """

    def __init__(
        self,
        replies: Iterable[Script] = (),
        *,
        by_text: dict[str, Script] | None = None,
        default: Script = "",
        model: str = "fake-llm",
        provider: str = "fake",
    ) -> None:
        super().__init__()
        self.replies: list[Script] = list(replies)
        self.by_text = dict(by_text or {})
        self.default = default
        self.requests: list[Request] = []
        self.streams: list[FakeLLMStream] = []
        self.running: set[FakeLLMStream] = set()
        """Streams whose `_run` has not ended."""
        self.closed = False
        self._model = model
        self._provider = provider
        self._released = asyncio.Event()

    @property
    def model(self) -> str:
        return self._model

    @property
    def provider(self) -> str:
        return self._provider

    def chat(
        self,
        *,
        chat_ctx: ChatContext,
        tools: list[Tool] | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        parallel_tool_calls: NotGivenOr[bool] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        extra_kwargs: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
    ) -> FakeLLMStream:
        request = Request(
            chat_ctx.copy(),
            list(tools or ()),
            conn_options,
            tool_choice,
            parallel_tool_calls,
            extra_kwargs,
        )
        self.requests.append(request)
        stream = FakeLLMStream(
            self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options, request=request
        )
        self.streams.append(stream)
        return stream

    def release(self) -> None:
        """Let replies that ignore their cancellation end."""
        self._released.set()

    async def aclose(self) -> None:
        self.closed = True
        await super().aclose()

    def _next(self, request: Request) -> Reply:
        if self.replies:
            script = self.replies.pop(0)
        else:
            script = self.by_text.get(request.user_text, self.default)
        if isinstance(script, str):
            return Reply(script)
        if isinstance(script, Exception):
            return Reply(error=script)
        return script


class FakeLLMStream(LLMStream):
    def __init__(
        self,
        llm: FakeLLM,
        *,
        chat_ctx: ChatContext,
        tools: list[Tool],
        conn_options: APIConnectOptions,
        request: Request,
    ) -> None:
        super().__init__(llm, chat_ctx=chat_ctx, tools=tools, conn_options=conn_options)
        self._fake = llm
        self._request = request

    async def _run(self) -> None:
        self._request.attempts += 1
        reply = self._fake._next(self._request)
        self._fake.running.add(self)
        try:
            if reply.ignores_cancellation:
                await self._outlive_cancellation(reply)
            else:
                await self._answer(reply)
        finally:
            self._fake.running.discard(self)

    async def _answer(self, reply: Reply) -> None:
        request_id = shortuuid("fake_")
        if reply.delay:
            await asyncio.sleep(reply.delay)
        for index, chunk in enumerate(_chunks(reply, request_id)):
            if index and reply.chunk_delay:
                await asyncio.sleep(reply.chunk_delay)
            self._event_ch.send_nowait(chunk)
        if reply.error is not None:
            raise reply.error
        if reply.hangs:
            await asyncio.Event().wait()

    async def _outlive_cancellation(self, reply: Reply) -> None:
        while not self._fake._released.is_set():
            try:
                if reply is not _DONE:
                    await self._answer(reply)
                    reply = _DONE
                await self._fake._released.wait()
            except asyncio.CancelledError:
                reply = _DONE
        self._event_ch.send_nowait(ChatChunk(id="late", delta=ChoiceDelta(content="too late")))


_DONE = Reply()


def _chunks(reply: Reply, request_id: str) -> list[ChatChunk]:
    texts = [reply.text] if isinstance(reply.text, str) else list(reply.text)
    chunks = [
        ChatChunk(id=request_id, delta=ChoiceDelta(role="assistant", content=text))
        for text in texts
        if text
    ]
    if reply.tool_calls:
        delta = ChoiceDelta(role="assistant", tool_calls=list(reply.tool_calls))
        chunks.append(ChatChunk(id=request_id, delta=delta))
    if reply.extra is not None and chunks and chunks[0].delta is not None:
        chunks[0].delta.extra = reply.extra
    if reply.usage is not None:
        chunks.append(ChatChunk(id=request_id, usage=reply.usage))
    return chunks


def call(name: str, arguments: str = "{}", call_id: str | None = None) -> FunctionToolCall:
    """A tool call, for `Reply(tool_calls=[...])`."""
    return FunctionToolCall(name=name, arguments=arguments, call_id=call_id or shortuuid("call_"))
