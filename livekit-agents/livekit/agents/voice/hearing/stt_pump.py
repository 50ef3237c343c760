"""Feeds audio to the STT node and brings its events back, for as long as there is audio.

A node that breaks is called again. Audio that comes meanwhile waits, up to ten seconds of it, so a
word spoken into a dropped connection is still heard.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..._exceptions import APIError
from ...language import LanguageCode
from ...log import logger
from ...stt import SpeechData, SpeechEvent, SpeechEventType
from ...utils.aio import Chan, ChanClosed, Survivor, TaskScope, wait_until
from .backoff import FIRST_DELAY, HEALTHY_AFTER, Backoff
from .hooks import notify
from .teardown import split
from .transcript import first_alternative

if TYPE_CHECKING:
    from livekit import rtc

    from ...stt import RecognizeStream
    from ..io import STTNode

__all__ = ["STTPump", "published_stream"]

MAX_QUEUED_AUDIO = 10.0
"""Seconds of audio kept while nobody reads it: the newest."""

_LIVE_STREAM_PATIENCE = 0.25
"""Seconds a cancelled node gets to close its stream itself."""

_TRANSCRIPTS = frozenset(
    {
        SpeechEventType.INTERIM_TRANSCRIPT,
        SpeechEventType.PREFLIGHT_TRANSCRIPT,
        SpeechEventType.FINAL_TRANSCRIPT,
    }
)


class _Flush:
    """Stands in the audio queue where the STT is to finish its transcript."""


_FLUSH = _Flush()
_Queue = Chan["rtc.AudioFrame | _Flush"]


class _NodeInput:
    """The audio as a node sees it. Flush marks are applied in order, and stay invisible."""

    def __init__(self, queue: _Queue, flush: Callable[[], None]) -> None:
        self._queue = queue
        self._flush = flush

    def __aiter__(self) -> AsyncIterator[rtc.AudioFrame]:
        return self

    async def __anext__(self) -> rtc.AudioFrame:
        while True:
            try:
                item = await self._queue.recv()
            except ChanClosed:
                raise StopAsyncIteration from None
            if not isinstance(item, _Flush):
                return item
            self._flush()


class STTPump:
    """One STT node and its audio. It outlives the agent, if the next one uses the same STT.

    Args:
        node: Called with an iterator over the audio and the model settings. It may return an
            async iterable of `SpeechEvent` (or of `str`, taken as final transcripts), a coroutine
            resolving to one, or None: no transcription.
    """

    def __init__(self, node: STTNode) -> None:
        self._node = node
        self._queue: _Queue = Chan()
        self._queue_limit = 0
        self._overflowing = False
        self._scope = TaskScope("stt pump")
        self._task: asyncio.Task[None] | None = None
        self._live: RecognizeStream | None = None
        self._failed: RecognizeStream | None = None
        self._listener: Callable[[SpeechEvent], None] | None = None
        self._unheard: list[SpeechEvent] = []
        self._on_failure: Callable[[Exception], None] | None = None
        self._final_attempt = False
        self._closed = False
        self._backoff = Backoff()
        self._heard_something = False
        self._stream_opened = False
        self._skipped_types: set[type] = set()
        self.input_started_at: float | None = None
        """When the first frame began, `time.time()`: where the STT counts its seconds from."""

    # -- lifecycle ------------------------------------------------------------------------------

    def start(self) -> None:
        """Call the node. Needs a running loop."""
        if self._task is None:
            self._task = self._scope.spawn(self._run(), name="stt pump")

    def attach(
        self,
        listener: Callable[[SpeechEvent], None],
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        """Deliver events to `listener`, those that came while nobody listened first.

        Args:
            listener: Called with each event.
            on_failure: Called with failures that the STT can't have reported by itself.
        """
        self._listener, self._on_failure = listener, on_failure
        unheard, self._unheard = self._unheard, []
        for ev in unheard:
            notify(listener, ev)

    def detach(self) -> None:
        """Keep events until somebody else attaches."""
        self._listener = self._on_failure = None

    def rebind(self, node: STTNode) -> None:
        """Use another node (the next agent's) from the next call on."""
        self._node = node

    def stop_reconnecting(self) -> None:
        """The session closes: a node that ends now has ended for good."""
        self._final_attempt = True

    async def aclose(self, timeout: float = 2.0) -> list[Survivor]:
        """End the node and its stream, within `timeout` seconds and whatever they do. Idempotent.

        Returns:
            What ignored its cancellation.
        """
        self._final_attempt = True
        self._queue.close()
        if self._task is None or self._task.done():
            return []
        patience, grace = split(timeout)
        self._task.cancel()
        try:
            if await wait_until(self._task, min(_LIVE_STREAM_PATIENCE, patience)):
                # Perhaps the node is stuck elsewhere than in its stream: close that ourselves.
                if (stream := self._live) is not None:
                    self._scope.spawn(stream.aclose(), name="close the live stt stream")
                await wait_until(self._scope.tasks, max(0.0, patience - _LIVE_STREAM_PATIENCE))
            return await self._scope.cancel(grace)
        finally:
            self._closed = True
            self._scope.cancel_soon()  # also when nobody waits any more

    # -- audio ----------------------------------------------------------------------------------

    def push(self, frame: rtc.AudioFrame) -> None:
        """Queue a frame. Never blocks; does nothing once closed."""
        queue = self._queue
        if queue.closed:
            return
        if self.input_started_at is None:
            self._on_first_frame(frame)
        queue.send_nowait(frame)
        if queue.qsize() > self._queue_limit:
            self._drop_oldest()
        elif self._overflowing and queue.qsize() <= 1:
            self._overflowing = False

    def _on_first_frame(self, frame: rtc.AudioFrame) -> None:
        duration = frame.samples_per_channel / frame.sample_rate
        self.input_started_at = time.time() - duration
        self._queue_limit = max(1, round(MAX_QUEUED_AUDIO / duration)) if duration else 500

    def _drop_oldest(self) -> None:
        self._queue.recv_nowait()
        if not self._overflowing:
            self._overflowing = True
            logger.warning(
                "nobody reads the audio for the STT, keeping the last %.0f s", MAX_QUEUED_AUDIO
            )

    @property
    def can_flush(self) -> bool:
        """Whether the STT can be told to finish its transcript."""
        return self._live is not None and self._live._stt.capabilities.manual_flush

    def flush(self) -> bool:
        """Let the STT finish its transcript of the audio so far; False if it can't be told to."""
        if not self.can_flush or self._queue.closed:
            return False
        self._queue.send_nowait(_FLUSH)
        return True

    def _flush_live_stream(self) -> None:
        if self._live is not None:
            try:
                self._live.flush()
            except RuntimeError:  # it ended just now, so it is finishing anyway
                pass

    # -- the live stream ------------------------------------------------------------------------

    @property
    def live_stream(self) -> RecognizeStream | None:
        """The recognition stream the node has open, if it told."""
        return self._live

    def publish_stream(self, stream: RecognizeStream) -> None:
        """The node opened `stream`. Audio that the one before it left unheard goes to it first."""
        failed, self._failed = self._failed, None
        if failed is not None and not self._final_attempt:
            seconds = stream._inherit(failed)
            if seconds:
                logger.info(
                    "a new STT stream gets %.1f s of audio of the failed one",
                    seconds,
                    extra={"replayed_audio_duration": seconds},
                )
        self._live = stream
        self._stream_opened = True

    def unpublish_stream(self, stream: RecognizeStream) -> None:
        """The node closes `stream`."""
        self._failed = stream if stream._failure() is not None else None
        if self._live is stream:
            self._live = None

    # -- the node -------------------------------------------------------------------------------

    async def _run(self) -> None:
        _STTPipelineContextVar.set(self)
        loop = asyncio.get_running_loop()
        while not self._is_ending():
            began = loop.time()
            self._heard_something = self._stream_opened = False
            try:
                if not await self._run_node():
                    return  # a node without transcription is a choice, not a failure
                failure: Exception = RuntimeError("the STT node ended although audio goes on")
            except Exception as error:
                failure = error
            if self._is_ending():
                return
            healthy = self._heard_something or loop.time() - began >= HEALTHY_AFTER
            if healthy:
                self._backoff.reset()
            await asyncio.sleep(self._delay_after(failure, healthy))

    def _is_ending(self) -> bool:
        return self._final_attempt

    async def _run_node(self) -> bool:
        from ..agent import ModelSettings

        self._renew_queue()
        result: Any = self._node(_NodeInput(self._queue, self._flush_live_stream), ModelSettings())
        if inspect.isawaitable(result):
            result = await result
        if not isinstance(result, AsyncIterable):
            return False
        try:
            async for item in result:
                self._deliver(item)
        finally:
            self._live = None
            if (aclose := getattr(result, "aclose", None)) is not None:
                await aclose()
        return True

    def _renew_queue(self) -> None:
        """Move the queued audio out of reach of a reader that the last node left behind."""
        old, self._queue = self._queue, Chan()
        while not old.empty():
            self._queue.send_nowait(old.recv_nowait())
        if old.closed:
            self._queue.close()
        old.close()

    def _delay_after(self, failure: Exception, healthy: bool) -> float:
        """Report a failure; returns the seconds to wait before the node is called again."""
        if isinstance(failure, APIError):
            logger.warning(
                "STT stream ended on an unrecoverable error, recreating: %s",
                failure,
                extra={"retryable": failure.retryable},
            )
            return FIRST_DELAY if failure.retryable else self._backoff.next_delay()
        delay = self._backoff.next_delay()
        logger.warning("the STT node failed, calling it again in %.1f s", delay, exc_info=failure)
        # A published stream reports its failures as errors of its STT; nobody else does.
        if not healthy and not self._stream_opened and self._on_failure is not None:
            notify(self._on_failure, failure)
        return delay

    def _deliver(self, item: object) -> None:
        if self._closed:
            return  # the node goes on although it was given up
        if isinstance(item, str):
            if not item:
                return
            item = SpeechEvent(
                type=SpeechEventType.FINAL_TRANSCRIPT,
                alternatives=[SpeechData(language=LanguageCode(""), text=item)],
            )
        if not isinstance(item, SpeechEvent):
            if type(item) not in self._skipped_types:
                self._skipped_types.add(type(item))
                logger.warning(
                    "stt_node yielded a %s, expected SpeechEvent or str: skipping such items",
                    type(item).__name__,
                )
            return
        if item.type in _TRANSCRIPTS and first_alternative(item).text:
            self._heard_something = True
            self._backoff.reset()
        if self._listener is None:
            self._unheard.append(item)
        else:
            notify(self._listener, item)


_STTPipelineContextVar: ContextVar[STTPump | None] = ContextVar("lk_stt_pump", default=None)


@contextmanager
def published_stream(stream: RecognizeStream) -> Iterator[None]:
    """Make `stream` known to the pump that runs the calling node, so that it can be flushed."""
    pump = _STTPipelineContextVar.get()
    if pump is None:
        yield
        return
    pump.publish_stream(stream)
    try:
        yield
    finally:
        pump.unpublish_stream(stream)
