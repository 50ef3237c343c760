"""The base of every recognition stream: audio in, speech events out, through reconnects."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Any, Literal

from livekit import rtc
from pydantic import BaseModel

from .._connections import Connections
from .._exceptions import APIConnectionError, APIError
from .._streams import (
    CLOSE_GRACE,
    ClosesOnExit,
    EventChannel,
    Patience,
    qualified_name,
    report_survivors,
)
from ..log import logger
from ..types import NOT_GIVEN, APIConnectOptions, NotGivenOr
from ..utils import aio, is_given
from .input_channel import InputChannel
from .replay_buffer import ReplayBuffer
from .retry_budget import Action, StreamRetryBudget, Verdict
from .types import SpeechEvent, SpeechEventType

if TYPE_CHECKING:
    from .stt import STT

_MONITOR_GRACE = 0.5
"""Seconds the metrics monitor may take for the last events."""


class RecognizeStream(ABC, ClosesOnExit):
    """A running recognition: frames are pushed, speech events come out of the iteration.

    ::

        async with stt.stream() as stream:
            stream.push_frame(frame)
            ...
            async for event in stream:
                ...

    A provider subclasses it and implements `_run`, which reads `_input_ch` and writes `_event_ch`.
    When `_run` raises an `APIError` that allows it, it runs again after a pause: how often is
    limited by `APIConnectOptions.max_retry` failures in a row. What the failed connection had taken
    and not transcribed is given to the next one first. Every failure is reported by the `"error"`
    event of the `STT`; a connection that merely was quiet for long and got recycled is none.

    Once `aclose` was called nothing reconnects any more.
    """

    class _FlushSentinel:
        """Marks a flush among the frames of the input channel."""

    def __init__(
        self,
        *,
        stt: STT[Any],
        conn_options: APIConnectOptions,
        sample_rate: NotGivenOr[int] = NOT_GIVEN,
    ) -> None:
        """Open the stream. `_run` begins once the caller awaits something.

        Args:
            stt: Whom errors and metrics are reported on.
            conn_options: How often to reconnect, and the connect timeout for `_run` to keep.
            sample_rate: Rate in Hz that `_run` wants; frames are resampled to it. Not given: frames
                arrive as they were pushed.

        Raises:
            RuntimeError: No event loop is running.
        """
        loop = asyncio.get_running_loop()
        self._stt = stt
        self._conn_options = conn_options
        self._needed_sr: int | None = sample_rate if is_given(sample_rate) else None
        self._pushed_sr: int | None = None
        self._resampler: rtc.AudioResampler | None = None
        self._context: BaseModel | None = None

        self._retry_budget = StreamRetryBudget(conn_options, clock=loop.time)
        self._replay_buffer: ReplayBuffer[RecognizeStream._FlushSentinel] = ReplayBuffer(
            clock=loop.time, on_loss=self._report_lost_audio, **self._replay_options()
        )
        self._time_origin = 0.0  # time line of the caller at position 0 of the buffer
        self._start_time = time.time()
        self._input_ended = False
        self._reconnecting = False
        self._input_ch: aio.Chan[rtc.AudioFrame | RecognizeStream._FlushSentinel] = InputChannel(
            self._replay_buffer
        )
        self._event_ch: aio.Chan[SpeechEvent] = EventChannel(self._on_event)
        self._tee = aio.itertools.tee(self._event_ch, 2)
        self._event_aiter: AsyncIterator[SpeechEvent]
        self._event_aiter, monitor_aiter = self._tee

        self._task_scope = aio.TaskScope(f"{stt.label} stream")
        self._closing_task: asyncio.Task[None] | None = None
        self._recorded_connections = Connections(f"{stt.label} stream")
        self._survivors: list[aio.Survivor] = []
        name = type(self).__name__
        with self._recorded_connections.recording():
            self._task = self._task_scope.spawn(
                self._main_task(), name=f"{name}._main_task", log_errors=False
            )
        self._task.add_done_callback(lambda _: self._event_ch.close())
        self._metrics_task = self._task_scope.spawn(
            self._metrics_monitor_task(monitor_aiter), name=f"{name}._metrics_monitor_task"
        )

    # -- for providers ----------------------------------------------------------------------------

    @abstractmethod
    async def _run(self) -> None:
        """Recognize what comes out of `_input_ch` until it is closed, sending to `_event_ch`.

        One call is one connection attempt. Read `self._input_ch` anew in each: every attempt has
        its own. Returning ends the stream.

        Raises:
            APIError: The connection failed; depending on `retryable` it is tried again.
        """

    async def _metrics_monitor_task(self, event_aiter: AsyncIterable[SpeechEvent]) -> None:
        """Report usage. A stream whose inner streams do that itself overrides it to only drain."""
        async for event in event_aiter:
            if event.type is not SpeechEventType.RECOGNITION_USAGE:
                continue
            usage = event.recognition_usage
            if usage is None:
                logger.warning(
                    "%s sent a RECOGNITION_USAGE event without recognition_usage; it is not counted",
                    self._stt.label,
                )
                continue
            self._stt._report_metrics(
                request_id=event.request_id,
                streamed=True,
                audio_duration=usage.audio_duration,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
            )

    def _report_connection_acquired(self, acquire_time: float, connection_reused: bool) -> None:
        """Tell that the provider was reached.

        A stream whose `_run` says so, or has sent an event, is known to have been connected.

        Args:
            acquire_time: Seconds it took.
            connection_reused: An open connection was taken from a pool.
        """
        self._retry_budget.connection_proven()
        if self._retry_budget.closing:
            return
        self._stt._report_metrics(
            streamed=True, acquire_time=acquire_time, connection_reused=connection_reused
        )

    def _emit_error(self, api_error: Exception, recoverable: bool) -> None:
        self._stt._emit_error(api_error, recoverable=recoverable)

    @property
    def _num_retries(self) -> int:
        """Failures in a row that were answered with a retry."""
        return self._retry_budget.failures

    # -- time line --------------------------------------------------------------------------------

    @property
    def start_time_offset(self) -> float:
        """Seconds to add to the provider's time stamps, which count from its first sample.

        Set it right after opening the stream to place the stream on a time line of your own. After
        a reconnect it is the position of the first sample that the new connection got.
        """
        return self._time_origin + self._replay_buffer.attempt_position

    @start_time_offset.setter
    def start_time_offset(self, value: float) -> None:
        if value < 0:
            raise ValueError(f"start_time_offset must be 0 or more seconds, got {value}")
        self._time_origin = value - self._replay_buffer.attempt_position

    @property
    def start_time(self) -> float:
        """Wall clock (seconds since the epoch) at which the current attempt's audio begins."""
        return self._start_time

    @start_time.setter
    def start_time(self, value: float) -> None:
        if value < 0:
            raise ValueError(f"start_time must be seconds since the epoch, got {value}")
        self._start_time = value

    @property
    def context(self) -> BaseModel | None:
        """What the provider knows about the speaker. See `SpeakerContext`."""
        return self._context

    @context.setter
    def context(self, value: BaseModel | None) -> None:
        self._context = value

    # -- input ------------------------------------------------------------------------------------

    def push_frame(self, frame: rtc.AudioFrame) -> None:
        """Add audio (int16). Never blocks.

        Raises:
            RuntimeError: The input was ended, or the stream is over.
            ValueError: Its sample rate is not that of the frames before.
        """
        self._check_input_open()
        if frame.sample_rate != self._pushed_sr:
            self._begin_audio(frame)
        if self._resampler is None:
            self._input_ch.send_nowait(frame)
            return
        for resampled in self._resampler.push(frame):
            self._input_ch.send_nowait(resampled)

    def _begin_audio(self, frame: rtc.AudioFrame) -> None:
        if self._pushed_sr is not None:
            raise ValueError(
                f"the sample rate of a stream must stay the same: expected {self._pushed_sr} Hz, "
                f"got a frame of {frame.sample_rate} Hz"
            )
        self._pushed_sr = frame.sample_rate
        if self._needed_sr and self._needed_sr != frame.sample_rate:
            self._resampler = rtc.AudioResampler(
                frame.sample_rate,
                self._needed_sr,
                num_channels=frame.num_channels,
                quality=rtc.AudioResamplerQuality.HIGH,
            )

    def flush(self) -> None:
        """Mark the end of a segment: the provider may finish what it has.

        Raises:
            RuntimeError: The input was ended, or the stream is over.
        """
        self._check_input_open()
        if self._resampler is not None:
            for resampled in self._resampler.flush():
                self._input_ch.send_nowait(resampled)
        self._input_ch.send_nowait(self._FlushSentinel())

    def end_input(self) -> None:
        """Flush, and announce that no more audio will come. Events go on until all is transcribed.

        Raises:
            RuntimeError: The input was ended before, or the stream is over.
        """
        self.flush()
        self._input_ended = True
        if not self._reconnecting:
            self._input_ch.close()

    def _check_input_open(self) -> None:
        if self._input_ended or self._input_ch.closed:
            raise RuntimeError(f"{qualified_name(self)} input ended")
        if self._event_ch.closed:
            raise RuntimeError(f"{qualified_name(self)} is closed")

    # -- output -----------------------------------------------------------------------------------

    async def __anext__(self) -> SpeechEvent:
        try:
            return await self._event_aiter.__anext__()
        except StopAsyncIteration:
            error = self._failure()
            if error is None:
                raise
        raise error

    def __aiter__(self) -> AsyncIterator[SpeechEvent]:
        return self

    def _failure(self) -> BaseException | None:
        """What ended the stream, unless it ended well or was closed."""
        if self._closing_task is not None or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    # -- reconnecting -----------------------------------------------------------------------------

    async def _main_task(self) -> None:
        # Subclasses set their attributes after this class's constructor; an eager task factory
        # must not start them earlier.
        await asyncio.sleep(0)
        while not self._retry_budget.closing:
            self._begin_attempt()
            try:
                await self._run()
                return
            except Exception as error:
                verdict = self._judge(error)
            if verdict.action is Action.STOP or not await self._pause(verdict):
                return
            self._count_reconnect(verdict.action)

    def _begin_attempt(self) -> None:
        self._reconnecting = False
        self._start_time = time.time() - self._replay_buffer.delay
        self._retry_budget.attempt_started()
        if self._input_ended and not self._input_ch.closed:
            # Only once `_run` has begun: some providers return at once when there is no input.
            asyncio.get_running_loop().call_soon(self._input_ch.close)

    def _judge(self, error: Exception) -> Verdict:
        """Decide how to go on after an attempt. Raises what the stream ends with."""
        if not isinstance(error, APIError):
            if self._retry_budget.closing:
                return Verdict(Action.STOP)
            self._emit_error(error, recoverable=False)
            raise error
        self._input_ended = self._input_ended or self._input_ch.closed
        verdict = self._retry_budget.attempt_failed(
            error, speech_open=self._replay_buffer.speech_open, input_ended=self._input_ended
        )
        if verdict.action is Action.STOP:
            return verdict
        if verdict.action is Action.GIVE_UP:
            self._emit_error(error, recoverable=False)
            if not verdict.exhausted:
                raise error
            raise APIConnectionError(
                f"failed to recognize speech after {self._num_retries} attempts"
            ) from error
        if self._input_ended and self._replay_buffer.finished:
            return Verdict(Action.STOP)
        self._reconnecting = True
        self._rewind_input()
        self._announce(error, verdict)
        return verdict

    def _announce(self, error: APIError, verdict: Verdict) -> None:
        if verdict.action is Action.RETRY:
            self._emit_error(error, recoverable=True)
            logger.warning(
                "failed to recognize speech: %s, retrying in %.2fs",
                error,
                verdict.delay,
                extra={
                    "stt": self._stt.label,
                    "attempt": self._num_retries,
                    "streamed": True,
                },
            )
        elif verdict.action is Action.ROUTINE:
            logger.info("%s dropped a quiet connection, reconnecting: %s", self._stt.label, error)
        else:
            logger.debug("%s is idle, reconnecting when audio arrives", self._stt.label)

    async def _pause(self, verdict: Verdict) -> bool:
        """Wait before the next attempt; closing the stream cancels this. False: none is needed."""
        await asyncio.sleep(verdict.delay)
        if verdict.action is not Action.PARK:
            return not (self._input_ended and self._replay_buffer.finished)
        while not self._replay_buffer.has_live_audio:
            if self._input_ended:
                return False
            assert isinstance(self._input_ch, InputChannel)
            await self._input_ch.next_push()
        return True

    def _restart_input(self) -> None:
        """Begin an attempt within the running `_run`, for a provider that connects anew in there.

        `_input_ch` is another one afterwards: it begins with what was not acknowledged.
        """
        self._input_ended = self._input_ended or self._input_ch.closed
        self._rewind_input()
        self._begin_attempt()

    def _inherit(self, failed: RecognizeStream) -> float:
        """Begin with the audio that a stream before this one failed to get transcribed.

        Does nothing if the streams want different audio, or after audio was pushed.

        Returns:
            Its length in seconds.
        """
        same_kind = type(self) is type(failed) and self._needed_sr == failed._needed_sr
        if not same_kind or self._needed_sr is None or self._pushed_sr is not None:
            return 0.0
        seconds = 0.0
        for frame in failed._replay_buffer.leftover():
            self._input_ch.send_nowait(frame)
            seconds += frame.duration
        self._time_origin = max(0.0, self._time_origin - seconds)
        return seconds

    def _rewind_input(self) -> None:
        """Give the next attempt an input of its own that begins with what was not answered for."""
        self._replay_buffer.rewind()
        old, self._input_ch = self._input_ch, InputChannel(self._replay_buffer)
        assert isinstance(old, InputChannel)
        old.detach()

    def _replay_options(self) -> dict[str, Any]:
        """Of the `ReplayBuffer`. By default a stream that never reconnects keeps nothing."""
        retries = self._conn_options.max_retry > 0
        return {"capacity": self._stt.replay_duration if retries else 0.0}

    def _on_event(self, event: SpeechEvent) -> None:
        if event.type is SpeechEventType.FINAL_TRANSCRIPT:
            self._retry_budget.transcribed()
        else:
            self._retry_budget.connection_proven()
        self._replay_buffer.observe(event, offset=self.start_time_offset)

    def _report_lost_audio(self, seconds: float) -> None:
        logger.warning(
            "%s was unreachable for too long: the oldest %.1f s of audio are lost",
            self._stt.label,
            seconds,
            extra={"stt": self._stt.label, "dropped_audio_duration": seconds},
        )
        self._stt._report_metrics(streamed=True, lost_audio_duration=seconds)
        self._count_audio(seconds, "lost")

    def _count_audio(self, seconds: float, fate: Literal["replayed", "lost"]) -> None:
        from ..telemetry.otel_metrics import count_stt_audio

        stt = self._stt
        count_stt_audio(seconds, fate, provider=stt.provider, model=stt.model)

    def _count_reconnect(self, why: Action) -> None:
        from ..telemetry.otel_metrics import count_stt_reconnect

        stt = self._stt
        count_stt_reconnect(why.value, provider=stt.provider, model=stt.model)

    # -- close ------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """End the stream at once: no more events, no reconnect. Idempotent; may be called by any
        task, also while another one iterates; that one sees the end of the stream.

        Takes as long as the provider's cleanup, at most about 2 s: a `_run` that ignores its
        cancellation is then reported and left behind, its connections are cut, and what it still
        sends goes nowhere. Cancelling a call ends its wait, not the close.
        """
        await asyncio.shield(self._begin_close())

    def _begin_close(self) -> asyncio.Task[None]:
        if self._closing_task is None:
            self._retry_budget.close()
            self._closing_task = self._task_scope.spawn(
                self._close(), name=f"{type(self).__name__}.aclose"
            )
            self._input_ch.close()
            self._task_scope.cancel_soon(spare=(self._closing_task, self._metrics_task))
        return self._closing_task

    async def _close(self) -> None:
        patience = Patience(CLOSE_GRACE)
        survivors = await self._task_scope.cancel(CLOSE_GRACE, spare=(self._metrics_task,))
        if survivors or patience.lost:
            self._recorded_connections.cut()
        if survivors:
            self._survivors = survivors
        self._event_ch.close()
        # the monitor ends by itself now that the events have ended
        if await aio.wait_until(self._metrics_task, _MONITOR_GRACE):
            survivors += await self._task_scope.cancel(_MONITOR_GRACE)
        await self._tee.aclose()
        report_survivors(survivors)
        if self._task.done() and not self._task.cancelled():
            self._task.exception()  # seen: asyncio need not complain about it

    def _left(self) -> None:
        self._begin_close()


SpeechStream = RecognizeStream
"""Deprecated name of `RecognizeStream`."""
