"""`LLMStream`: an answer of a language model while it is being given."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Any, ClassVar

from .._exceptions import APIConnectionError, APIStatusError
from .._provider_stream import ProviderStream
from .._streams import EventChannel
from ..log import logger
from ..telemetry._noop import NOOP_SPAN
from ..utils.aio import Chan, ChanClosed
from ..utils.retry import RetryPolicy, is_retryable
from ._llm_data import RESTARTED, ChatChunk, CollectedResponse, LLMError
from ._llm_tally import RequestTally
from ._reader_watch import ReaderWatch
from ._tracing import (
    attempt_span,
    end_request,
    record_attempt,
    record_metrics,
    record_request,
    request_span,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from ..types import APIConnectOptions
    from .chat_context import ChatContext
    from .llm import LLM
    from .tool_context import Tool

_DROPPED_AFTER = 30.0
"""Seconds without a reader after which an unfinished stream is given up."""

_CLIENT_CLOSED_REQUEST = 499
"""Status of a request that the client itself gave up: an end, not a failure."""


class LLMStream(ProviderStream):
    """An answer under way, as an asynchronous iterator of `ChatChunk`. For one consumer.

    ::

        async with llm.chat(chat_ctx=chat_ctx) as stream:
            async for chunk in stream:
                ...

    The request is sent at once. A failed attempt is repeated as its error and the connect options
    allow; chunks it has sent are not taken back. When no attempt is left, the iteration raises the
    error after the chunks that were sent. Every failure is reported by the `"error"` event of the
    `LLM`, and `"metrics_collected"` is emitted on it before the iteration ends.

    A provider derives from this and implements `_run`, which sends into `_event_ch`.
    """

    _llm_request_span_name: ClassVar[str] = "llm_request"
    _llm_attempt_span_name: ClassVar[str | None] = "llm_request_run"
    _genai_operation_name: ClassVar[str | None] = "chat"
    """What the request is to a trace; None where another stream behind this one asks the model."""
    _reports_metrics: bool = True
    """False where other streams behind this one report for themselves."""

    def __init__(
        self,
        llm: LLM[Any],
        *,
        chat_ctx: ChatContext,
        tools: list[Tool],
        conn_options: APIConnectOptions,
    ) -> None:
        """Send the request.

        Args:
            llm: The model, on which errors and metrics are reported.
            chat_ctx: The conversation to answer.
            tools: Tools the model may call.
            conn_options: How often to try, and how long the plugin waits for the provider.

        Raises:
            RuntimeError: No event loop is running.
        """
        self._llm = llm
        self._chat_ctx = chat_ctx
        self._tools = tools
        self._conn_options = conn_options
        self._event_ch: Chan[ChatChunk] = EventChannel(self._on_chunk)
        self._retry_on_chunk_sent = True
        """False: an attempt whose text or tool calls were sent on is not repeated."""
        self._llm_request_span: Span = NOOP_SPAN
        self._span_attributes: dict[str, Any] = {}
        """What the span of the request is to start with."""

        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._created_at = time.time()
        self._tally = RequestTally()
        self._attempt_failed = False
        self._failure: Exception | None = None
        self._ended = False
        self._readers = ReaderWatch(_DROPPED_AFTER, self._on_dropped)
        self._readers.note_reader()

        self._open(llm._label)

    @abstractmethod
    async def _run(self) -> None:
        """Do one attempt: send the request and each chunk of the answer into `_event_ch`.

        Raises:
            APIError: It failed. Says itself whether another attempt may succeed.
        """

    @property
    def chat_ctx(self) -> ChatContext:
        """The conversation that is answered."""
        return self._chat_ctx

    @property
    def tools(self) -> list[Tool]:
        """Tools the model may call."""
        return self._tools

    # -- attempts

    async def _main_task(self) -> None:
        if self._constructing:
            await asyncio.sleep(0)
        cancelled = False
        try:
            with request_span(self) as span:
                self._llm_request_span = span
                record_request(span, self)
                await self._attempt_until_done()
        except asyncio.CancelledError:
            cancelled = True
            raise
        except Exception as error:
            self._failure = error
        finally:
            self._end(cancelled=cancelled)

    async def _attempt_until_done(self) -> None:
        policy = RetryPolicy(self._conn_options)
        while not self._ended:
            self._attempt_failed = False
            self._tally.start_attempt()
            try:
                with attempt_span(self, retry_count=policy.failures) as span:
                    try:
                        await self._run()
                    finally:
                        record_attempt(span, self._tally.attempt_ids)
                return
            except Exception as error:
                # Once it is over, whatever leaves the attempt is an echo of the end.
                if self._ended or _gave_up(error):
                    return
                await self._back_off(error, policy)

    async def _back_off(self, error: Exception, policy: RetryPolicy) -> None:
        """Wait for the next attempt, or raise when there is none."""
        self._attempt_failed = True
        may_retry = is_retryable(error) and (
            self._retry_on_chunk_sent or not self._tally.attempt_responded
        )
        delay = policy.next_delay(error) if may_retry else None
        self._emit_error(error, recoverable=delay is not None)
        if delay is None:
            if may_retry and self._conn_options.max_retry > 0:
                raise APIConnectionError(
                    f"failed to generate LLM completion after {policy.failures} attempts"
                ) from error
            raise error
        logger.warning(
            "failed to generate LLM completion: %s, retrying in %.2gs",
            error,
            delay,
            extra={"llm": self._llm._label, "attempt": policy.failures},
        )
        await asyncio.sleep(delay)

    def _emit_error(self, error: Exception, *, recoverable: bool) -> None:
        self._llm.emit(
            "error",
            LLMError(
                timestamp=time.time(),
                label=self._llm._label,
                error=error,
                recoverable=recoverable,
            ),
        )

    def _on_chunk(self, chunk: ChatChunk) -> None:
        self._tally.add(chunk, self._loop.time())

    # -- end

    def _end(self, *, cancelled: bool) -> None:
        """Let the consumer finish, and report. Does nothing the second time."""
        if self._ended:
            return
        self._ended = True
        self._readers.stop()
        self._event_ch.close()
        if self._reports_metrics and not self._attempt_failed:
            self._emit_metrics(cancelled=cancelled)
        end_request(self._llm_request_span, self)

    def _emit_metrics(self, *, cancelled: bool) -> None:
        tally = self._tally
        if tally.request_id is None:
            return  # nothing ever arrived
        from ..metrics.base import LLMMetrics, Metadata

        duration = self._loop.time() - self._started_at
        first, usage = tally.first_response_at, tally.usage
        completion_tokens = usage.completion_tokens if usage else 0
        metrics = LLMMetrics(
            timestamp=time.time(),
            request_id=tally.request_id,
            ttft=-1.0 if first is None else first - self._started_at,
            duration=duration,
            cancelled=cancelled,
            label=self._llm._label,
            completion_tokens=completion_tokens,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            prompt_cached_tokens=usage.prompt_cached_tokens if usage else 0,
            cache_creation_tokens=usage.cache_creation_tokens if usage else 0,
            reasoning_tokens=usage.reasoning_tokens if usage else 0,
            total_tokens=usage.total_tokens if usage else 0,
            tokens_per_second=completion_tokens / duration if duration > 0 else 0.0,
            metadata=Metadata(**self._llm.metrics_metadata),
        )
        record_metrics(self._llm_request_span, metrics)
        self._llm.emit("metrics_collected", metrics)

    def _on_dropped(self) -> None:
        logger.warning(
            "%s: a stream was dropped without being closed, its request is cancelled",
            self._llm._label,
        )
        self._begin_close()

    def _before_close(self) -> None:
        self._event_ch.close()

    # -- for the consumer

    async def __anext__(self) -> ChatChunk:
        if not self._ended:
            self._readers.note_reader()
        try:
            if not self._closing:
                return await self._event_ch.recv()
        except ChanClosed:
            pass
        if self._failure is not None and not self._closing:
            raise self._failure  # not "from" anything: it keeps the cause it has
        raise StopAsyncIteration

    def __aiter__(self) -> AsyncIterator[ChatChunk]:
        return self

    def to_str_iterable(self) -> AsyncIterable[str]:
        """The text alone, piece by piece. Closes the stream at the end."""
        return self._texts()

    async def _texts(self) -> AsyncIterator[str]:
        async with self:
            async for chunk in self:
                if chunk.delta is not None and chunk.delta.content:
                    yield chunk.delta.content

    async def collect(self) -> CollectedResponse:
        """Read to the end and return the whole answer. Closes the stream.

        Raises:
            APIError: The request failed.
        """
        response = CollectedResponse()
        texts: list[str] = []
        async with self:
            async for chunk in self:
                if chunk.usage is not None:
                    response.usage = chunk.usage
                if chunk.delta is None:
                    continue
                extra = dict(chunk.delta.extra or {})
                if extra.pop(RESTARTED, False):
                    texts.clear()
                    response.tool_calls.clear()
                    response.extra.clear()
                if chunk.delta.content:
                    texts.append(chunk.delta.content)
                response.tool_calls.extend(chunk.delta.tool_calls)
                response.extra.update(extra)
        response.text = "".join(texts).strip()
        return response


def _gave_up(error: Exception) -> bool:
    return isinstance(error, APIStatusError) and error.status_code == _CLIENT_CLOSED_REQUEST
