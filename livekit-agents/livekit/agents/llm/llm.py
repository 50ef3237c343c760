"""`LLM`: what every language model offers. The classes it works with are importable from here."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from .._emitter import IsolatedEmitter
from .._model import MeteredModel
from .._streams import CLOSE_GRACE, ClosesOnExit, qualified_name, report_survivors
from ..log import logger
from ..types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, APIConnectOptions, NotGivenOr
from ..utils.aio import TaskScope
from ._llm_data import (
    RESTARTED,
    ChatChunk,
    ChoiceDelta,
    CollectedResponse,
    CompletionUsage,
    FunctionToolCall,
    LLMError,
)
from ._llm_stream import LLMStream

if TYPE_CHECKING:
    from .chat_context import ChatContext
    from .tool_context import Tool, ToolChoice

__all__ = [
    "LLM",
    "RESTARTED",
    "ChatChunk",
    "ChoiceDelta",
    "CollectedResponse",
    "CompletionUsage",
    "FunctionToolCall",
    "LLMError",
    "LLMStream",
    "TEvent",
]

TEvent = TypeVar("TEvent")


class LLM(
    ABC,
    MeteredModel,
    ClosesOnExit,
    IsolatedEmitter[Literal["metrics_collected", "error"] | TEvent],
    Generic[TEvent],
):
    """Base of language models.

    One object serves any number of requests at the same time. It emits `"metrics_collected"`
    (`LLMMetrics`) and `"error"` (`LLMError`) for all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._label = qualified_name(self)
        self._prewarm_scope = TaskScope(f"{self._label} (prewarm)")
        self._prewarmed = False

    @abstractmethod
    def chat(
        self,
        *,
        chat_ctx: ChatContext,
        tools: list[Tool] | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        parallel_tool_calls: NotGivenOr[bool] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        extra_kwargs: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
    ) -> LLMStream:
        """Let the model go on with a conversation.

        Args:
            chat_ctx: The conversation so far.
            tools: Tools the model may call.
            conn_options: How often to try, and how long to wait for the provider.
            parallel_tool_calls: Whether it may ask for several calls at once.
            tool_choice: Whether it has to call tools, or must not.
            extra_kwargs: Passed on to the provider's API.

        Returns:
            The answer; the request is under way. Close it when done.
        """

    def prewarm(self, *, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Open the connection to the provider in the background, so that the first answer is fast.

        Does nothing for models that have no use for it, and when called again.

        Args:
            loop: The event loop to do it on; the running one by default.

        Raises:
            RuntimeError: No event loop is running, and none was given.
        """
        if self._prewarmed or type(self)._prewarm_impl is LLM._prewarm_impl:
            return
        running = asyncio._get_running_loop()
        if loop is None and running is None:
            raise RuntimeError("prewarm needs a running event loop, or one passed as loop=...")
        self._prewarmed = True
        if loop is None or loop is running:
            self._start_prewarm()
        else:
            loop.call_soon_threadsafe(self._start_prewarm)

    def _start_prewarm(self) -> None:
        if not self._prewarm_scope.closed:
            self._prewarm_scope.spawn(self._prewarm(), name=f"{self._label}.prewarm")

    async def _prewarm(self) -> None:
        try:
            await self._prewarm_impl()
        except Exception as e:
            # The first request will try again, and tell.
            logger.debug("%s: prewarming failed: %r", self._label, e)

    async def _prewarm_impl(self) -> None:
        """Open the connection. Override it where that helps."""

    async def aclose(self) -> None:
        """Release what the model holds. Idempotent.

        Streams are closed by whoever opened them. Overrides call `super().aclose()`, which ends a
        prewarm in flight and takes 2 s at most.
        """
        report_survivors(await self._prewarm_scope.cancel(CLOSE_GRACE))
