"""`FallbackAdapter`: several language models that stand in for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .._exceptions import APIConnectionError, APITimeoutError
from .._streams import CLOSE_GRACE, report_survivors
from ..log import logger
from ..types import NOT_GIVEN, APIConnectOptions, NotGivenOr
from ..utils.aio import TaskScope
from ..utils.retry import backoff_delay
from ._tracing import current_span, mark_recovery, record_fallback
from .llm import LLM, RESTARTED, ChatChunk, ChoiceDelta, LLMStream

if TYPE_CHECKING:
    from ..metrics import LLMMetrics
    from .chat_context import ChatContext
    from .tool_context import Tool, ToolChoice

__all__ = [
    "DEFAULT_FALLBACK_API_CONNECT_OPTIONS",
    "AvailabilityChangedEvent",
    "FallbackAdapter",
    "FallbackLLMStream",
]

DEFAULT_FALLBACK_API_CONNECT_OPTIONS = APIConnectOptions(max_retry=0, timeout=10.0)
"""Once through all models. Each of them has its own limits, see `FallbackAdapter`."""

_CHILD_GRACE = CLOSE_GRACE * 0.45
"""Seconds for the stream of a model: it has to end before its adapter's stream is given up."""


@dataclass
class AvailabilityChangedEvent:
    """A model has failed, or works again; argument of `"llm_availability_changed"`."""

    llm: LLM[Any]
    available: bool


class _Availability:
    """Which models are worth a try, and in which order."""

    def __init__(self, count: int, *, sticky: bool) -> None:
        self._available = [True] * count
        self._sticky = sticky
        self._selected: int | None = None
        """The model that answered last, as long as it hasn't failed."""

    def __getitem__(self, index: int) -> bool:
        return self._available[index]

    @property
    def none(self) -> bool:
        """Whether no model is available."""
        return not any(self._available)

    def order(self) -> list[int]:
        """All models, the one to try first in front."""
        order = list(range(len(self._available)))
        selected = self._selected
        if self._sticky and selected is not None and self._available[selected]:
            order.remove(selected)
            order.insert(0, selected)
        return order

    def first(self) -> int:
        """The model the next request goes to."""
        order = self.order()
        return next((index for index in order if self._available[index]), order[0])

    def select(self, index: int) -> None:
        """The model answers."""
        self._selected = index

    def set(self, index: int, available: bool) -> bool:
        """Note whether a model works. Returns whether that is news."""
        if not available and self._selected == index:
            self._selected = None
        changed = self._available[index] != available
        self._available[index] = available
        return changed


class FallbackAdapter(LLM[Literal["llm_availability_changed"]]):
    """Tries models in turn until one answers.

    A model that fails is left out until a small request in the background tells that it works
    again. Emits `"llm_availability_changed"` (`AvailabilityChangedEvent`), and the metrics of the
    models. The models stay the caller's to close.
    """

    def __init__(
        self,
        llm: list[LLM[Any]],
        *,
        attempt_timeout: float | Sequence[float] = 5.0,
        max_retry_per_llm: int = 0,
        retry_interval: float = 0.5,
        retry_on_chunk_sent: bool = False,
        sticky: bool = False,
    ) -> None:
        """Put models behind each other.

        Args:
            llm: The models, the preferred one first.
            attempt_timeout: Seconds a model has to begin its answer, for all or for each of them.
                Keep-alives don't count as answers.
            max_retry_per_llm: Further attempts with a model before it counts as failed.
            retry_interval: Seconds between those attempts.
            retry_on_chunk_sent: Try the next model also after part of an answer was passed on.
                The new answer then begins with a chunk that has `RESTARTED` in its `extra`.
            sticky: Stay with the model that answered last, instead of going back to an earlier
                one as soon as it works again.

        Raises:
            ValueError: There are no models, or not as many timeouts as models.
        """
        if not llm:
            raise ValueError("FallbackAdapter needs at least one LLM")
        timeouts = (
            [float(attempt_timeout)] * len(llm)
            if isinstance(attempt_timeout, int | float)
            else list(attempt_timeout)
        )
        if len(timeouts) != len(llm):
            raise ValueError(f"got {len(timeouts)} values of attempt_timeout for {len(llm)} LLMs")
        super().__init__()
        self._llms = llm
        self._retry_on_chunk_sent = retry_on_chunk_sent
        self._max_retry_per_llm = max_retry_per_llm
        self._child_options = [
            APIConnectOptions(
                max_retry=max_retry_per_llm, timeout=timeout, retry_interval=retry_interval
            )
            for timeout in timeouts
        ]
        self._availability = _Availability(len(llm), sticky=sticky)
        self._served: LLM[Any] = llm[0]
        self._probes: dict[int, asyncio.Task[None]] = {}
        self._scope = TaskScope(f"{self._label} (background)")
        for model in llm:
            model.on("metrics_collected", self._on_metrics)

    @property
    def model(self) -> str:
        """Name of the model that the next request goes to."""
        return self._llms[self._availability.first()].model

    @property
    def provider(self) -> str:
        """Who runs the model that the next request goes to."""
        return self._llms[self._availability.first()].provider

    @property
    def metrics_metadata(self) -> dict[str, str]:
        """Those of the model that answered last."""
        return self._served.metrics_metadata

    def chat(
        self,
        *,
        chat_ctx: ChatContext,
        tools: list[Tool] | None = None,
        conn_options: APIConnectOptions = DEFAULT_FALLBACK_API_CONNECT_OPTIONS,
        parallel_tool_calls: NotGivenOr[bool] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        extra_kwargs: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
    ) -> FallbackLLMStream:
        """Let the first model that works go on with a conversation. See `LLM.chat`.

        Args:
            chat_ctx: The conversation so far.
            tools: Tools the model may call.
            conn_options: How often to go through the models again when all have failed; not done
                if each of them has retried already (`max_retry_per_llm`).
            parallel_tool_calls: Whether it may ask for several calls at once.
            tool_choice: Whether it has to call tools, or must not.
            extra_kwargs: Passed on to the provider's API.
        """
        return FallbackLLMStream(
            self,
            chat_ctx=chat_ctx,
            tools=tools or [],
            conn_options=conn_options,
            parallel_tool_calls=parallel_tool_calls,
            tool_choice=tool_choice,
            extra_kwargs=extra_kwargs,
        )

    def prewarm(self, *, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Prewarm the preferred model."""
        self._llms[0].prewarm(loop=loop)

    async def aclose(self) -> None:
        """Stop probing. The models are closed by whoever made them. Takes 2 s at most."""
        for model in self._llms:
            model.off("metrics_collected", self._on_metrics)
        report_survivors(await self._scope.cancel(CLOSE_GRACE))
        await super().aclose()

    def _on_metrics(self, metrics: LLMMetrics) -> None:
        self.emit("metrics_collected", metrics)

    def _set_available(self, index: int, available: bool) -> None:
        if self._availability.set(index, available):
            model = self._llms[index]
            self.emit("llm_availability_changed", AvailabilityChangedEvent(model, available))
            if available:
                logger.info("%s works again", model.label)

    def _answers(self, index: int) -> None:
        """A model has begun to answer."""
        self._served = self._llms[index]
        self._availability.select(index)

    def _first_response_timeout(self, index: int) -> float:
        """Seconds for a model to begin its answer, its own retries included."""
        options = self._child_options[index]
        pauses = sum(backoff_delay(options, retry) for retry in range(options.max_retry))
        return options.timeout * (options.max_retry + 1) + pauses

    def _close_soon(self, stream: LLMStream) -> None:
        """Close the stream of a model in the background."""
        if self._scope.closed:
            stream._scope.cancel_soon()
        else:
            self._scope.spawn(stream.aclose())

    def _probe(self, index: int, chat_ctx: ChatContext) -> None:
        """Find out in the background whether a model works again, unless that is going on."""
        if not self._scope.closed and index not in self._probes:
            probe = self._scope.spawn(self._run_probe(index, chat_ctx), name="recovery probe")
            self._probes[index] = probe
            probe.add_done_callback(lambda _: self._probes.pop(index, None))

    async def _run_probe(self, index: int, chat_ctx: ChatContext) -> None:
        # The instructions and the last item only: it is the model that is in question.
        question = chat_ctx.copy(exclude_function_call=True).truncate(max_items=1)
        works = False
        try:
            stream = self._llms[index].chat(
                chat_ctx=question, conn_options=self._child_options[index]
            )
            stream._reports_metrics = False
            mark_recovery(stream)
            async with _Patience(self, index, stream) as patience:
                async for chunk in stream:
                    if chunk.has_response():
                        break
            works = not patience.exhausted
        except Exception as error:
            logger.debug("%s does not work yet: %r", self._llms[index].label, error)
        if works:
            self._set_available(index, True)


class _Patience:
    """Gives up the stream of a model that doesn't begin to answer in time; closes it at the end."""

    def __init__(self, adapter: FallbackAdapter, index: int, stream: LLMStream) -> None:
        self.exhausted = False
        self.timeout = adapter._first_response_timeout(index)
        self._adapter = adapter
        self._stream = stream

    async def __aenter__(self) -> _Patience:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.timeout, self._give_up)
        return self

    def answered(self) -> None:
        """The answer has begun; from here on, silence is up to the model."""
        self._timer.cancel()

    async def __aexit__(self, *_: object) -> None:
        self._timer.cancel()
        if not self.exhausted:
            self._stream._close_grace = _CHILD_GRACE
            await self._stream.aclose()

    def _give_up(self) -> None:
        self.exhausted = True
        self._stream._event_ch.close()  # for the reader this is the end
        self._adapter._close_soon(self._stream)


class FallbackLLMStream(LLMStream):
    """The answer of the first model that works."""

    _llm_request_span_name: ClassVar[str] = "llm_fallback_adapter"
    _llm_attempt_span_name: ClassVar[str | None] = None
    _genai_operation_name: ClassVar[str | None] = None
    _reports_metrics = False

    def __init__(
        self,
        llm: FallbackAdapter,
        *,
        chat_ctx: ChatContext,
        tools: list[Tool],
        conn_options: APIConnectOptions,
        parallel_tool_calls: NotGivenOr[bool] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        extra_kwargs: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
    ) -> None:
        """Send the request. See `FallbackAdapter.chat`."""
        super().__init__(llm, chat_ctx=chat_ctx, tools=tools, conn_options=conn_options)
        self._adapter = llm
        self._caller_span = current_span()
        self._options: dict[str, Any] = {
            "parallel_tool_calls": parallel_tool_calls,
            "tool_choice": tool_choice,
            "extra_kwargs": extra_kwargs,
        }
        self._retry_on_chunk_sent = llm._retry_on_chunk_sent
        self._answering: LLMStream | None = None
        self._answer_begun = False

    @property
    def chat_ctx(self) -> ChatContext:
        """The conversation that is answered, as the answering model has it."""
        return self._chat_ctx if self._answering is None else self._answering.chat_ctx

    @property
    def tools(self) -> list[Tool]:
        """Tools that the answering model may call."""
        return self._tools if self._answering is None else self._answering.tools

    async def _run(self) -> None:
        adapter = self._adapter
        began = self._loop.time()
        availability = adapter._availability
        all_unavailable = availability.none
        if all_unavailable:
            logger.error("all LLMs are unavailable: trying each of them anyway")
        last_error: Exception | None = None
        for index in availability.order():
            if not (availability[index] or all_unavailable):
                adapter._probe(index, self._chat_ctx)
                continue
            try:
                await self._attempt(index)
            except Exception as error:
                last_error = error
                adapter._set_available(index, False)
                if self._answer_begun and not adapter._retry_on_chunk_sent:
                    raise
                logger.warning(
                    "%s failed, switching to the next LLM: %s", adapter._llms[index].label, error
                )
                adapter._probe(index, self._chat_ctx)
            else:
                adapter._set_available(index, True)
                return
        raise APIConnectionError(
            f"all LLMs failed ({_labels(adapter._llms)}) after "
            f"{self._loop.time() - began:.1f} seconds",
            # Going through them again would multiply the attempts each has made already.
            retryable=adapter._max_retry_per_llm == 0,
        ) from last_error

    async def _attempt(self, index: int) -> None:
        """Pass on the answer of one model."""
        adapter = self._adapter
        stream = adapter._llms[index].chat(
            chat_ctx=self._chat_ctx,
            tools=self._tools,
            conn_options=adapter._child_options[index],
            **self._options,
        )
        stream._retry_on_chunk_sent = adapter._retry_on_chunk_sent
        responding = False
        async with _Patience(adapter, index, stream) as patience:
            async for chunk in stream:
                if not responding and chunk.has_response():
                    patience.answered()
                    responding = True
                    self._begin_answer(index, chunk)
                self._answering = stream
                self._event_ch.send_nowait(chunk)
        if patience.exhausted:
            raise APITimeoutError(f"no answer within {patience.timeout:g} s")
        adapter._answers(index)
        spans = (self._llm_request_span, self._caller_span)
        record_fallback(spans, adapter._llms[index], index)

    def _begin_answer(self, index: int, chunk: ChatChunk) -> None:
        self._adapter._answers(index)
        if self._answer_begun:
            self._event_ch.send_nowait(
                ChatChunk(id=chunk.id, delta=ChoiceDelta(extra={RESTARTED: True}))
            )
        self._answer_begun = True


def _labels(models: Iterable[LLM[Any]]) -> str:
    return ", ".join(model.label for model in models)
