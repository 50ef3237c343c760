"""Runs the VAD: audio in, speech events out, and a new stream when one dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...log import logger
from ...utils.aio import Survivor, TaskScope
from .backoff import HEALTHY_AFTER, Backoff
from .hooks import notify
from .teardown import Closers, end_tasks, split

if TYPE_CHECKING:
    from livekit import rtc

    from ...vad import VAD, VADEvent, VADStream

__all__ = ["VADDriver"]

MAX_QUEUED_AUDIO = 2.0
"""Seconds of audio a VAD may be behind; older audio is dropped."""


class VADDriver:
    """Keeps one stream of a VAD alive.

    Args:
        vad: The VAD.
        on_event: Called with each event.
        on_lost: Called when the stream ends unexpectedly. A new one is opened after a pause.
    """

    def __init__(
        self, vad: VAD, on_event: Callable[[VADEvent], None], on_lost: Callable[[], None]
    ) -> None:
        self.vad = vad
        self._on_event = on_event
        self._on_lost = on_lost
        self._scope = TaskScope("vad")
        self._closers = Closers("vad")
        self._stream: VADStream | None = None
        self._queue: Any = None
        self._queue_limit = 0
        self._overflowing = False
        self._closing = False

    def start(self) -> None:
        """Open a stream. Needs a running loop; raises what the VAD raises."""
        self._open()
        self._scope.spawn(self._run(), name="vad events")

    def _open(self) -> VADStream:
        self._stream = self.vad.stream()
        self._queue = getattr(self._stream, "_input_ch", None)
        self._queue_limit = 0
        return self._stream

    def push(self, frame: rtc.AudioFrame) -> None:
        """Let the VAD hear a frame. Never blocks; ignored while there is no stream."""
        stream = self._stream
        if stream is None:
            return
        try:
            stream.push_frame(frame)
        except Exception as error:
            # Ended streams raise RuntimeError, and `_run` is about to notice.
            if not isinstance(error, RuntimeError):
                logger.error("the VAD does not take the audio", exc_info=error)
            self._stream = None
            return
        queue = self._queue
        if queue is not None:
            if not self._queue_limit:
                duration = frame.samples_per_channel / frame.sample_rate
                self._queue_limit = max(1, round(MAX_QUEUED_AUDIO / duration)) if duration else 100
            queued = queue.qsize()
            if queued > self._queue_limit:
                self._drop_oldest(queue)
            elif self._overflowing and queued <= 1:
                self._overflowing = False

    def _drop_oldest(self, queue: Any) -> None:
        queue.recv_nowait()
        if not self._overflowing:
            self._overflowing = True
            logger.warning("the VAD is more than %.0f s behind, dropping audio", MAX_QUEUED_AUDIO)

    def flush(self) -> None:
        """Make the VAD forget the speech it is in."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except RuntimeError:  # it has just ended, and its segment with it
                self._stream = None

    def detach(self) -> None:
        """Report nothing any more: another VAD has taken over."""
        self._on_event = lambda ev: None
        self._on_lost = lambda: None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        failed_before = False
        while True:
            began = loop.time()
            error = await self._listen()
            if self._is_closing():
                return
            notify(self._on_lost)
            if loop.time() - began >= HEALTHY_AFTER:
                backoff.reset()
            delay = backoff.next_delay()
            log = logger.debug if failed_before else logger.error
            log("the VAD ended unexpectedly, opening it again in %.1f s", delay, exc_info=error)
            failed_before = True
            await asyncio.sleep(delay)

    def _is_closing(self) -> bool:
        return self._closing

    async def _listen(self) -> Exception | None:
        """Deliver events until the stream ends; returns why, if it failed."""
        stream: VADStream | None = None
        try:
            stream = self._stream or self._open()
            async for ev in stream:
                notify(self._on_event, ev)
        except Exception as error:
            return error
        finally:
            self._stream = self._queue = None
            if stream is not None and not self._is_closing():
                self._closers.close("vad stream", stream.aclose)
        return None

    async def aclose(self, timeout: float = 2.0) -> list[Survivor]:
        """Close the stream within `timeout` seconds, whatever it does. Idempotent."""
        self._closing = True
        stream, self._stream = self._stream, None
        if stream is not None:
            self._closers.close("vad stream", stream.aclose)
        patience, grace = split(timeout)
        self._scope.cancel_soon()
        survivors = await self._closers.finish(patience)
        return survivors + await end_tasks(self._scope, grace)
