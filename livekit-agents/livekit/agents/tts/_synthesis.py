"""What all speech synthesis streams share: attempts, retries, errors, and a close that ends."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from .._exceptions import APIError, APIStatusError
from .._provider_stream import ProviderStream
from ..log import logger
from ..metrics.base import Metadata, TTSMetrics
from ..utils.aio import Chan, ChanClosed
from ..utils.retry import RetryPolicy
from ._data import SynthesizedAudio, TTSError
from ._tracing import RequestTrace
from .audio_emitter import AudioEmitter

if TYPE_CHECKING:
    from ..types import APIConnectOptions
    from .tts import TTS

NESTED_SHARE = 0.4
"""Part of a stream's grace that a stream inside it gets: less than half, at which time the outer
one's patience with its own task begins to end."""

_CLIENT_CLOSED_REQUEST = 499
"""Status of a request that the client itself gave up: an end, not a failure."""


_S = TypeVar("_S", bound="Synthesis")


class Tally:
    """What metrics report about the audio of one request or segment."""

    __slots__ = ("audio_duration", "first_audio_at", "request_id", "segment_id")

    def __init__(self) -> None:
        self.audio_duration = 0.0
        self.first_audio_at: float | None = None
        self.request_id = ""
        self.segment_id = ""

    def add(self, audio: SynthesizedAudio, seconds: float, now: float) -> None:
        """Count a piece of audio, `seconds` long, handed on at `now`."""
        if self.first_audio_at is None:
            self.first_audio_at = now
        self.audio_duration += seconds
        self.request_id = audio.request_id
        self.segment_id = audio.segment_id


class Synthesis(ProviderStream):
    """One synthesis under way. Base of `ChunkedStream` and `SynthesizeStream`.

    A single task runs the attempts. Audio goes from the attempt's `AudioEmitter` straight into the
    channel that `__anext__` reads.
    """

    _tts_request_span_name: ClassVar[str] = "tts_request"
    _tts_attempt_span_name: ClassVar[str | None] = "tts_request_run"
    _streamed: ClassVar[bool]
    _reports_metrics: ClassVar[bool] = True
    """False where the streams behind this one report for themselves."""

    def __init__(self, *, tts: TTS[Any], conn_options: APIConnectOptions) -> None:
        """Begin. A task runs `_run` once the caller awaits something.

        Args:
            tts: Whose synthesis it is.
            conn_options: How often to try, and how long to wait for the provider.

        Raises:
            RuntimeError: No event loop runs.
        """
        self._tts = tts
        self._conn_options = conn_options
        self._event_ch = Chan[SynthesizedAudio]()
        self._acquire_time = 0.0
        self._connection_reused = False
        self._input_tokens = 0
        self._output_tokens = 0

        self._trace = RequestTrace(self._tts_request_span_name, self._tts_attempt_span_name)
        self._loop = asyncio.get_running_loop()
        self._emitter: AudioEmitter | None = None
        self._attempt_failed = False
        self._failure: BaseException | None = None
        self._output_ended = False
        self._silent = False

        self._open(tts._label)

    @abstractmethod
    async def _run(self, output_emitter: AudioEmitter) -> None:
        """Do one attempt: send the text to the provider, push what it answers to the emitter.

        Raises:
            APIError: It failed. Says itself whether another attempt may succeed.
        """

    def _set_token_usage(self, *, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """Report, from `_run`, how many tokens the provider billed."""
        self._input_tokens = input_tokens
        self._output_tokens = output_tokens

    # -- differences between the two kinds of streams

    @abstractmethod
    def _on_audio(self, audio: SynthesizedAudio, seconds: float) -> None:
        """See a piece of audio, `seconds` long, on its way to the consumer."""

    @abstractmethod
    def _spoken_text(self) -> str:
        """All text given so far."""

    @abstractmethod
    def _report_end(self, *, cancelled: bool) -> None:
        """Emit the metrics that are due at the end of the stream."""

    def _may_retry(self, emitter: AudioEmitter) -> bool:
        """Whether another attempt makes sense for the listener."""
        return True

    def _prepare_retry(self) -> None:
        """Make the input available to the next attempt."""

    def _check_spoken(self, emitter: AudioEmitter) -> None:
        """Raise APIError when an attempt that reported success spoke nothing."""
        text = self._spoken_text()
        if text.strip() and emitter.pushed_duration() <= 0.0:
            raise APIError(f"no audio frames were pushed for text: {text}")

    def _before_close(self) -> None:
        if self._emitter is not None:
            self._emitter._detach()

    # -- attempts

    async def _main_task(self) -> None:
        if self._constructing:
            await asyncio.sleep(0)
        cancelled = False
        try:
            with self._trace.start(self._tts, streaming=self._streamed):
                await self._attempt_until_done()
        except asyncio.CancelledError:
            cancelled = True
            raise
        except Exception as error:
            self._failure = error
            raise
        finally:
            self._end(cancelled=cancelled or self._closing)

    @property
    def _over(self) -> bool:
        return self._closing or self._output_ended

    async def _attempt_until_done(self) -> None:
        policy = RetryPolicy(self._conn_options)
        while not self._over:
            emitter = self._emitter = AudioEmitter(
                label=self._tts._label, dst_ch=self._event_ch, on_audio=self._on_audio
            )
            self._attempt_failed = False
            try:
                with self._trace.attempt(policy.failures):
                    await self._attempt(emitter)
                return
            except Exception as error:
                # Once it is over, whatever leaves the attempt is an echo of the end.
                if self._over or _gave_up(error):
                    return
                await self._back_off(error, emitter, policy)

    async def _attempt(self, emitter: AudioEmitter) -> None:
        """Run the plugin once. The emitter is closed before anything else happens."""
        try:
            await self._run(emitter)
            emitter.end_input()
            await emitter.join()
        finally:
            await emitter.aclose()
        self._check_spoken(emitter)
        self._trace.record_input_text(self._spoken_text())

    async def _back_off(self, error: Exception, emitter: AudioEmitter, policy: RetryPolicy) -> None:
        """Wait for the next attempt, or raise `error` when there is none."""
        self._attempt_failed = True
        delay = policy.next_delay(error) if self._may_retry(emitter) else None
        self._emit_error(error, recoverable=delay is not None)
        if delay is None or self._over:
            raise error
        logger.warning(
            "failed to synthesize speech: %s, retrying in %.2gs",
            error,
            delay,
            extra={
                "tts": self._tts._label,
                "attempt": policy.failures,
                "streamed": self._streamed,
            },
        )
        self._prepare_retry()
        await asyncio.sleep(delay)

    def _emit_error(self, error: Exception, *, recoverable: bool) -> None:
        if self._silent:
            return
        self._tts.emit(
            "error",
            TTSError(
                timestamp=time.time(),
                label=self._tts._label,
                error=error,
                recoverable=recoverable,
            ),
        )

    # -- metrics

    def _emit_metrics(
        self, tally: Tally, *, started_at: float, characters_count: int, cancelled: bool
    ) -> None:
        if self._silent:
            return
        first = tally.first_audio_at
        metrics = TTSMetrics(
            timestamp=time.time(),
            request_id=tally.request_id or (self._emitter.request_id if self._emitter else ""),
            segment_id=tally.segment_id if self._streamed else None,
            ttfb=-1.0 if first is None else first - started_at,
            duration=self._loop.time() - started_at,
            audio_duration=tally.audio_duration,
            cancelled=cancelled,
            characters_count=characters_count,
            input_tokens=self._input_tokens,
            output_tokens=self._output_tokens,
            label=self._tts._label,
            streamed=self._streamed,
            acquire_time=self._acquire_time,
            connection_reused=self._connection_reused,
            metadata=Metadata(**self._tts.metrics_metadata),
        )
        self._trace.record_metrics(metrics)
        self._tts.emit("metrics_collected", metrics)

    # -- end

    def _end(self, *, cancelled: bool) -> None:
        """Let the consumer finish, and report. Does nothing the second time."""
        if self._output_ended:
            return
        self._output_ended = True
        self._event_ch.close()
        if self._reports_metrics and not self._attempt_failed:
            self._report_end(cancelled=cancelled)
        self._trace.end()

    def _report_nothing(self) -> None:
        """Leave errors and metrics to the stream that this one works for, on the same `TTS`."""
        self._silent = True

    def _nested(self, stream: _S) -> _S:
        """Let a stream that `_run` opens end well within this one's own grace."""
        stream._close_grace = self._close_grace * NESTED_SHARE
        return stream

    # -- for the consumer

    async def __anext__(self) -> SynthesizedAudio:
        try:
            return await self._event_ch.recv()
        except ChanClosed:
            pass
        if self._failure is not None and not self._closing:
            raise self._failure  # not "from" anything: it keeps the cause it has
        raise StopAsyncIteration

    def __aiter__(self) -> AsyncIterator[SynthesizedAudio]:
        return self


def _gave_up(error: Exception) -> bool:
    return isinstance(error, APIStatusError) and error.status_code == _CLIENT_CLOSED_REQUEST
