"""Runs the LLM and TTS nodes of a reply and hands on what they produce, piece by piece."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...llm import ChatChunk, ChatContext, FunctionCall, Tool
from ...llm.llm import RESTARTED
from ...log import logger
from ...types import USERDATA_TIMED_TRANSCRIPT, USERDATA_TTS_STARTED_TIME, FlushSentinel
from ...utils.aio import Chan
from ...utils.aio.task_scope import log_failure
from .tracing import node_span, record_llm, record_llm_input, record_tts

if TYPE_CHECKING:
    from livekit import rtc

    from ...llm import CompletionUsage
    from ...types import TimedString
    from ..agent import Agent, ModelSettings

NODE_CLOSE_TIMEOUT = 1.0
"""Seconds a node's generator may take to close after it was left."""


async def resolve_node(result: Any) -> Any:
    """What a node returned, awaited if it is a coroutine."""
    return await result if inspect.isawaitable(result) else result


async def close_node(node: Any) -> None:
    """Close an iterator if it can be closed; its errors are logged, not raised."""
    aclose: Callable[[], Awaitable[Any]] | None = getattr(node, "aclose", None)
    if aclose is None:
        return
    try:
        await aclose()
    except Exception:
        log_failure("closing %r failed", node)


def _named(agent: Agent | None) -> str:
    return agent.id if agent is not None else "nobody's agent"


class TextSegment:
    """Text between two flush marks, read once for the voice and once for the transcript."""

    def __init__(self, *, spoken: bool = True) -> None:
        self.voice: Chan[str] | None = Chan() if spoken else None
        self.transcript: Chan[str] = Chan()
        self.text = ""
        """All of it so far."""
        self.first_text_at: float | None = None
        """`time.perf_counter()` of the first text."""
        self.void = False
        """Whether it is not to be played any more: the model has started its answer over."""

    def push(self, text: str) -> None:
        """Add text."""
        if self.first_text_at is None:
            self.first_text_at = time.perf_counter()
        self.text += text
        if self.voice is not None:
            self.voice.send_nowait(text)
        self.transcript.send_nowait(text)

    def end(self) -> None:
        """No more text comes."""
        if self.voice is not None:
            self.voice.close()
        self.transcript.close()


class LLMInference:
    """One request to the LLM node: text segments, function calls, usage.

    Args:
        message_id: Id of the assistant message; the ids of its calls are derived from it.
        spoken: Whether the text is to be synthesised, too.
        on_progress: Called for everything that comes.
        agent: Whose node it is, for logs and traces.
    """

    def __init__(
        self,
        node: Callable[[ChatContext, list[Tool], ModelSettings], Any],
        chat_ctx: ChatContext,
        tools: list[Tool],
        settings: ModelSettings,
        *,
        message_id: str,
        spoken: bool,
        on_progress: Callable[[], None] = lambda: None,
        agent: Agent | None = None,
        span_attributes: dict[str, str] | None = None,
    ) -> None:
        self._node = node
        self._agent = agent
        self._span_attributes = span_attributes
        self.chat_ctx = chat_ctx
        self.toolsets: Sequence[str] = ()
        """Ids of the toolsets that the tools are from, for traces."""
        self.tools = tools
        self._settings = settings
        self._message_id = message_id
        self._spoken = spoken
        self._on_progress = on_progress
        self._open_segment: TextSegment | None = None
        self._made: list[TextSegment] = []
        self._ended = False
        self.segments: Chan[TextSegment] = Chan()
        self.calls: Chan[FunctionCall] = Chan()
        self.call_count = 0
        self.made_calls: list[FunctionCall] = []
        self.usage: CompletionUsage | None = None
        self.extra: dict[str, Any] = {}
        self.error: Exception | None = None
        self.started_at = 0.0
        self.first_response_at: float | None = None
        self._first_text_at: float | None = None
        self._last_text_at: float | None = None

    async def run(self) -> None:
        """Read the node to its end. A failure is kept in `error`, not raised."""
        with node_span("llm_node", self._agent, self._span_attributes) as span:
            record_llm_input(span, self)
            try:
                await self._run()
            finally:
                record_llm(span, self)

    async def _run(self) -> None:
        self.started_at = time.perf_counter()
        node: Any = None
        try:
            node = await resolve_node(self._node(self.chat_ctx, self.tools, self._settings))
            await self._consume(node)
        except Exception as error:
            self.error = error
            log_failure("error in llm_node of %s", _named(self._agent))
        finally:
            self.end()
            await close_node(node)

    async def _consume(self, node: Any) -> None:
        if node is None:
            return
        if isinstance(node, (str, ChatChunk)):
            self._take(node)
            return
        if not isinstance(node, AsyncIterable):
            logger.error(
                "llm_node of %s returned a %s: expected an async iterable of str or ChatChunk, a "
                "str, or None; the turn ends without an answer",
                _named(self._agent),
                type(node).__name__,
            )
            return
        async for chunk in node:
            if self._ended:  # cut off while the node ignored its cancellation
                return
            self._take(chunk)

    def _take(self, chunk: Any) -> None:
        self._on_progress()
        if isinstance(chunk, str):
            self._take_text(chunk)
        elif isinstance(chunk, ChatChunk):
            self._take_chunk(chunk)
        elif isinstance(chunk, FlushSentinel):
            self._end_segment()
        else:
            logger.warning("llm_node yielded a %s, which is ignored", type(chunk).__name__)

    def _take_chunk(self, chunk: ChatChunk) -> None:
        if chunk.usage is not None:
            self.usage = chunk.usage
        delta = chunk.delta
        if delta is None:
            return
        extra = dict(delta.extra or {})
        if extra.pop(RESTARTED, False):
            self._start_over()
        for call in delta.tool_calls:
            if call.type != "function":
                continue
            self._responded()
            made = FunctionCall(
                id=f"{self._message_id}/fnc_{self.call_count}",
                call_id=call.call_id,
                name=call.name,
                arguments=call.arguments,
                extra=call.extra or {},
            )
            self.call_count += 1
            self.made_calls.append(made)
            self.calls.send_nowait(made)
        self.extra.update(extra)
        if delta.content:
            self._take_text(delta.content)

    def _take_text(self, text: str) -> None:
        if not text:
            return
        self._responded()
        now = time.perf_counter()
        self._first_text_at = self._first_text_at or now
        self._last_text_at = now
        if self._open_segment is None:
            self._open_segment = TextSegment(spoken=self._spoken)
            self._made.append(self._open_segment)
            self.segments.send_nowait(self._open_segment)
        self._open_segment.push(text)

    def _start_over(self) -> None:
        """Another model answers anew: drop what nobody has heard and what was not started yet."""
        self._end_segment()
        for segment in self._made:
            segment.void = True
        while not self.calls.empty():
            self.made_calls.remove(self.calls.recv_nowait())
        self.extra.clear()

    def _responded(self) -> None:
        if self.first_response_at is None:
            self.first_response_at = time.perf_counter()

    def _end_segment(self) -> None:
        if self._open_segment is not None:
            self._open_segment.end()
            self._open_segment = None

    def end(self) -> None:
        """Nothing more is taken from the node. Idempotent."""
        self._ended = True
        self._end_segment()
        self.segments.close()
        self.calls.close()

    @property
    def text(self) -> str:
        """All text so far, without what a model that starts over has taken back."""
        return "".join(segment.text for segment in self._made if not segment.void)

    @property
    def ttft(self) -> float | None:
        """Seconds to the first text or tool call."""
        return None if self.first_response_at is None else self.first_response_at - self.started_at

    @property
    def tokens_per_second(self) -> float | None:
        """Completion tokens over the time from the first to the last text."""
        if self.usage is None or self._first_text_at is None or self._last_text_at is None:
            return None
        seconds = self._last_text_at - self._first_text_at
        return self.usage.completion_tokens / seconds if seconds > 0 else None


class TTSInference:
    """One run of the TTS node over the text of a segment: frames, and their timed transcript."""

    def __init__(
        self,
        node: Callable[[AsyncIterable[str], ModelSettings], Any],
        text: AsyncIterable[str],
        settings: ModelSettings,
        *,
        aligned: bool,
        on_progress: Callable[[], None] = lambda: None,
        agent: Agent | None = None,
        span_attributes: dict[str, str] | None = None,
    ) -> None:
        self._node = node
        self._agent = agent
        self._span_attributes = span_attributes
        self._text = text
        self._settings = settings
        self._on_progress = on_progress
        self._ended = False
        self.frames: Chan[rtc.AudioFrame] = Chan()
        self.timed: Chan[TimedString] | None = Chan() if aligned else None
        self.disabled = False
        """The node returned None: no audio, the text still counts as said."""
        self.error: Exception | None = None
        self.started_at = 0.0
        self.tts_started_at: float | None = None
        self.first_frame_at: float | None = None
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Read the node to its end. A failure is kept in `error`, not raised."""
        with node_span("tts_node", self._agent, self._span_attributes) as span:
            try:
                await self._run()
            finally:
                record_tts(span, self)

    async def _run(self) -> None:
        self.started_at = time.perf_counter()
        node: Any = None
        try:
            node = await resolve_node(self._node(self._text, self._settings))
            if node is None:
                self.disabled = True
            else:
                async for frame in node:
                    if self._ended:
                        return
                    self._take(frame)
        except Exception as error:
            self.error = error
            log_failure("error in tts_node of %s", _named(self._agent))
        finally:
            self.end()
            await close_node(node)

    @property
    def ttfb(self) -> float | None:
        """Seconds from the TTS's first text, or else from the start of the node, to its first audio."""
        if self.first_frame_at is None:
            return None
        return self.first_frame_at - (self.tts_started_at or self.started_at)

    def _take(self, frame: rtc.AudioFrame) -> None:
        self._on_progress()
        if self.first_frame_at is None:
            self.first_frame_at = time.perf_counter()
            self.tts_started_at = frame.userdata.get(USERDATA_TTS_STARTED_TIME)
        if self.timed is not None:
            for text in frame.userdata.get(USERDATA_TIMED_TRANSCRIPT, ()):
                self.timed.send_nowait(text)
        self.frames.send_nowait(frame)

    def end(self) -> None:
        """Nothing more is taken from the node. Idempotent."""
        self._ended = True
        self.frames.close()
        if self.timed is not None:
            self.timed.close()
        if not self.finished.done():
            self.finished.set_result(None)


async def timed_or_raw(
    tts: TTSInference, raw: AsyncIterable[str]
) -> AsyncIterator[str | TimedString]:
    """The transcript with the timing of the voice, or the plain one if the voice reports none."""
    assert tts.timed is not None
    any_timed = False
    async for text in tts.timed:
        any_timed = True
        yield text
    if any_timed:
        return
    if not tts.disabled and tts.error is None:
        logger.warning("the TTS reported no timing, the transcript is shown without it")
    async for delta in raw:
        yield delta
