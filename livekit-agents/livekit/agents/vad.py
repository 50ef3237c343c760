"""The bases of voice activity detectors: where in the audio somebody is speaking."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Literal

from livekit import rtc

from ._emitter import IsolatedEmitter
from ._model import NamedModel
from ._streams import CLOSE_GRACE, ClosesOnExit, EventChannel, qualified_name, report_survivors
from .utils import aio

__all__ = ["VAD", "VADCapabilities", "VADEvent", "VADEventType", "VADStream"]


@unique
class VADEventType(str, Enum):
    """What a detector reports."""

    START_OF_SPEECH = "start_of_speech"
    """Somebody has been speaking long enough to be sure."""
    INFERENCE_DONE = "inference_done"
    """A window of audio was judged."""
    END_OF_SPEECH = "end_of_speech"
    """It has been quiet long enough to be sure."""


@dataclass
class VADEvent:
    """A report of a detector. Durations are seconds."""

    type: VADEventType
    samples_index: int
    """Samples of the input that were processed so far."""
    timestamp: float
    """Seconds of the input that were processed so far."""
    speech_duration: float
    """Length of the speech so far."""
    silence_duration: float
    """Length of the silence so far."""
    frames: list[rtc.AudioFrame] = field(default_factory=list)
    """Start: the audio that gave it away, with what came before it. Inference: the window. End: the
    whole utterance."""
    probability: float = 0.0
    """How likely it is that the window is speech, 0..1. Of inference events only."""
    inference_duration: float = 0.0
    """Time the judgement took. Of inference events only."""
    speaking: bool = False
    """Whether somebody counts as speaking."""
    raw_accumulated_silence: float = 0.0
    """Silence in a row before this window, however short."""
    raw_accumulated_speech: float = 0.0
    """Speech in a row before this window, however short."""


@dataclass
class VADCapabilities:
    """How a detector works."""

    update_interval: float
    """Seconds of audio between two `INFERENCE_DONE` events."""


class VAD(ABC, NamedModel, IsolatedEmitter[Literal["metrics_collected"]]):
    """A voice activity detector. One object serves any number of streams.

    Emits `"metrics_collected"` with `VADMetrics`, about once for each second of audio. A detector
    that needs a fixed silence to see the end of speech says so in an attribute
    ``min_silence_duration`` (seconds).
    """

    def __init__(self, *, capabilities: VADCapabilities) -> None:
        """Describe the detector.

        Args:
            capabilities: How it works.
        """
        super().__init__()
        self._capabilities = capabilities
        self._label = qualified_name(self)

    @property
    def capabilities(self) -> VADCapabilities:
        """How it works."""
        return self._capabilities

    @abstractmethod
    def stream(self) -> VADStream:
        """Start to listen. Needs a running event loop."""


class VADStream(ABC, ClosesOnExit):
    """A running detection: frames are pushed, events come out of the iteration.

    A detector subclasses it and implements `_main_task`, which reads `_input_ch` and writes
    `_event_ch`. When that ends, the stream ends, with its error if there was one.
    """

    class _FlushSentinel:
        """Marks a flush among the frames of the input channel."""

    def __init__(self, vad: VAD) -> None:
        """Open the stream. `_main_task` begins once the caller awaits something.

        Args:
            vad: Whom metrics are reported on.

        Raises:
            RuntimeError: No event loop is running.
        """
        self._vad = vad
        self._input_ch: aio.Chan[rtc.AudioFrame | VADStream._FlushSentinel] = aio.Chan()
        self._event_ch: aio.Chan[VADEvent] = EventChannel(self._on_event)
        # Counted as events are sent: 31 a second, each of which would wake a task of its own.
        self._last_activity_time = time.perf_counter()
        self._inference_count = 0
        self._inference_time = 0.0

        self._task_scope = aio.TaskScope(f"{vad._label} stream")
        self._closing_task: asyncio.Task[None] | None = None
        name = type(self).__name__
        self._task = self._task_scope.spawn(
            self._start(), name=f"{name}._main_task", log_errors=False
        )
        self._task.add_done_callback(lambda _: self._event_ch.close())

    async def _start(self) -> None:
        # Subclasses set their attributes after this class's constructor; an eager task factory
        # must not start them earlier.
        await asyncio.sleep(0)
        await self._main_task()

    @abstractmethod
    async def _main_task(self) -> None:
        """Judge what comes out of `_input_ch` until it is closed, sending to `_event_ch`.

        A flush sentinel is a hard boundary: forget all speech and silence, and send no
        `END_OF_SPEECH` for speech in progress.
        """

    def push_frame(self, frame: rtc.AudioFrame) -> None:
        """Add audio (int16 mono). Never blocks.

        Raises:
            RuntimeError: The input was ended, or the stream is over.
        """
        self._check_input_open()
        self._input_ch.send_nowait(frame)

    def flush(self) -> None:
        """Forget what was heard: speech in progress ends without an `END_OF_SPEECH`.

        Raises:
            RuntimeError: The input was ended, or the stream is over.
        """
        self._check_input_open()
        self._input_ch.send_nowait(self._FlushSentinel())

    def end_input(self) -> None:
        """Flush, and announce that no more audio will come.

        Raises:
            RuntimeError: The input was ended before, or the stream is over.
        """
        self.flush()
        self._input_ch.close()

    def _check_input_open(self) -> None:
        if self._input_ch.closed:
            raise RuntimeError(f"{qualified_name(self)} input ended")
        if self._event_ch.closed:
            raise RuntimeError(f"{qualified_name(self)} is closed")

    async def __anext__(self) -> VADEvent:
        try:
            return await self._event_ch.recv()
        except aio.ChanClosed:
            error = self._failure()
        if error is None:
            raise StopAsyncIteration
        raise error

    def __aiter__(self) -> AsyncIterator[VADEvent]:
        return self

    def _failure(self) -> BaseException | None:
        """What ended the stream, unless it ended well or was closed."""
        if self._closing_task is not None or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    async def aclose(self) -> None:
        """End the stream at once. Idempotent; may be called by any task, also while another one
        iterates; that one sees the end of the stream.

        Takes as long as the detector's cleanup, at most about 2 s: a `_main_task` that ignores its
        cancellation is then reported and left behind, and what it still sends goes nowhere.
        Cancelling a call ends its wait, not the close.
        """
        if self._closing_task is None:
            self._closing_task = self._task_scope.spawn(
                self._close(), name=f"{type(self).__name__}.aclose"
            )
            self._input_ch.close()
            self._task_scope.cancel_soon(spare=(self._closing_task,))
        await asyncio.shield(self._closing_task)

    async def _close(self) -> None:
        report_survivors(await self._task_scope.cancel(CLOSE_GRACE))
        self._event_ch.close()
        if self._task.done() and not self._task.cancelled():
            self._task.exception()  # seen: asyncio need not complain about it

    def _on_event(self, event: VADEvent) -> None:
        if event.type is not VADEventType.INFERENCE_DONE:
            self._last_activity_time = time.perf_counter()
            return
        self._inference_count += 1
        self._inference_time += event.inference_duration
        if self._inference_count * self._vad.capabilities.update_interval >= 1.0:
            self._report_metrics()

    def _report_metrics(self) -> None:
        from .metrics.base import Metadata, VADMetrics

        self._vad.emit(
            "metrics_collected",
            VADMetrics(
                label=self._vad._label,
                timestamp=time.time(),
                idle_time=time.perf_counter() - self._last_activity_time,
                inference_duration_total=self._inference_time,
                inference_count=self._inference_count,
                metadata=Metadata(model_name=self._vad.model, model_provider=self._vad.provider),
            ),
        )
        self._inference_count = 0
        self._inference_time = 0.0
