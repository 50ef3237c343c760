"""`SynthesizeStream`: speech for a text that is still being written."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, ClassVar

from .._exceptions import APIError, APITimeoutError
from .._streams import CLOSE_GRACE
from ..log import logger
from ..types import USERDATA_TTS_STARTED_TIME
from ..utils.aio import Chan
from ._data import SynthesizedAudio
from ._synthesis import Synthesis, Tally
from .audio_emitter import AudioEmitter

if TYPE_CHECKING:
    from ..types import APIConnectOptions
    from .tts import TTS

_MIN_IDLE_LIMIT = 10.0


class SynthesizeStream(Synthesis):
    """Takes text piece by piece and yields `SynthesizedAudio` while more text is written.

    One stream is one utterance: push its text, then call `end_input`. A failed attempt is repeated
    with all the text so far, unless the listener has heard some of it already.

    A plugin derives from this and implements `_run`. It reads text and flush marks from
    `_input_ch`, which is a new channel in each attempt, and calls `_mark_started` when it first
    hands text to the provider. If the provider then goes silent after all text was given, the
    attempt is cancelled with `APITimeoutError` after `conn_options.timeout` (10 s at least).

    Args:
        tts: The synthesizer that errors and metrics are reported on.
        conn_options: How often to try, and how long the plugin waits for the provider.

    Raises:
        RuntimeError: No event loop is running.
    """

    class _FlushSentinel:
        """In `_input_ch`: what was written so far is to be spoken without waiting for more."""

    _streamed: ClassVar[bool] = True
    _watches_idle: ClassVar[bool] = True
    """False where the streams behind this one have limits of their own."""

    def __init__(self, *, tts: TTS[Any], conn_options: APIConnectOptions) -> None:
        self._input_ch: Chan[str | SynthesizeStream._FlushSentinel] = Chan()
        self._input_log: list[str | SynthesizeStream._FlushSentinel] = []
        self._input_ended_at: float | None = None
        self._text_flushed = False

        self._unreported_text = ""
        self._flushed_text = ""
        self._tally = Tally()
        self._started_at: float | None = None
        self._started_stamp = 0.0
        self._complete = False

        self._text_sent_at: float | None = None  # in the current attempt
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idled_out = False
        super().__init__(tts=tts, conn_options=conn_options)

    # -- for the producer of text

    def push_text(self, token: str) -> None:
        """Add text. Ignored when empty, or after `end_input` or `aclose`.

        Text after a `flush` that followed text is refused with a warning: start another stream.
        """
        if not token or self._input_closed:
            return
        if self._text_flushed:
            logger.warning(
                "SynthesizeStream: handling multiple segments in a single instance is deprecated, "
                "the text is dropped. Create a stream per segment instead.",
                extra={"tts": self._tts._label},
            )
            return
        self._unreported_text += token
        self._put(token)

    def flush(self) -> None:
        """Have what was pushed spoken without waiting for more. Ignored after `end_input`."""
        if self._input_closed:
            return
        if self._unreported_text:
            self._text_flushed = True
            self._flushed_text, self._unreported_text = self._unreported_text, ""
        self._put(self._FlushSentinel())

    def end_input(self) -> None:
        """Say that the text is complete. Calling it again does nothing."""
        if self._input_closed:
            return
        self.flush()
        self._input_ended_at = self._loop.time()
        self._input_ch.close()
        self._watch_idle()

    @property
    def _input_closed(self) -> bool:
        return self._input_ended_at is not None or self._input_ch.closed

    def _put(self, item: str | SynthesizeStream._FlushSentinel) -> None:
        self._input_log.append(item)
        self._input_ch.send_nowait(item)

    # -- for plugins

    def _mark_started(self) -> None:
        """Start the clock of the metrics: text is handed to the provider now.

        Without it no metrics are reported. Only the first call of an utterance counts.
        """
        now = self._loop.time()
        if self._started_at is None:
            self._started_at = now
            self._started_stamp = time.perf_counter()
        if self._text_sent_at is None:
            self._text_sent_at = now
            self._watch_idle()

    # -- attempts

    def _spoken_text(self) -> str:
        return "".join(item for item in self._input_log if isinstance(item, str))

    def _check_spoken(self, emitter: AudioEmitter) -> None:
        super()._check_spoken(emitter)
        if self._spoken_text().strip() and emitter.num_segments != 1:
            raise APIError(
                f"number of segments mismatch: expected 1, but got {emitter.num_segments}"
            )

    async def _attempt(self, emitter: AudioEmitter) -> None:
        self._text_sent_at = None
        try:
            await super()._attempt(emitter)
        except asyncio.CancelledError:
            if not self._idled_out or self._over:
                raise
            if (uncancel := getattr(self._task, "uncancel", None)) is not None:
                uncancel()
            raise self._idle_error() from None
        finally:
            self._idled_out = False
            self._stop_idle_timer()

    def _may_retry(self, emitter: AudioEmitter) -> bool:
        if emitter.total_duration <= 0.0:
            return True
        logger.error(
            "TTS failed after partial audio was already sent to the user, skip retrying.",
            extra={"tts": self._tts._label},
        )
        return False

    def _prepare_retry(self) -> None:
        # A new channel rather than the old one refilled: a helper task that the failed attempt left
        # behind finds its channel closed, and can't steal text from the next attempt.
        self._input_ch.close()
        self._input_ch = Chan()
        for item in self._input_log:
            self._input_ch.send_nowait(item)
        if self._input_ended_at is not None:
            self._input_ch.close()

    def _before_close(self) -> None:
        if self._input_ended_at is None:
            self._input_ended_at = self._loop.time()
        self._input_ch.close()
        self._stop_idle_timer()
        super()._before_close()

    # -- a provider that goes silent

    def _watch_idle(self) -> None:
        """Set the timer, once all text is given and the provider has some of it."""
        if (
            self._watches_idle
            and self._idle_timer is None
            and self._text_sent_at is not None
            and self._input_ended_at is not None
            and not self._over
        ):
            self._idle_timer = self._loop.call_at(self._idle_deadline(), self._check_idle)

    def _idle_deadline(self) -> float:
        assert self._text_sent_at is not None and self._input_ended_at is not None
        last = max(self._text_sent_at, self._input_ended_at)
        if self._emitter is not None:
            last = max(last, self._emitter.last_activity)
        return last + self._idle_limit

    @property
    def _idle_limit(self) -> float:
        return max(self._conn_options.timeout, _MIN_IDLE_LIMIT)

    def _check_idle(self) -> None:
        self._idle_timer = None
        if self._emitter is not None and self._emitter.holding_text:
            self._idle_timer = self._loop.call_later(self._idle_limit, self._check_idle)
        elif self._idle_deadline() > self._loop.time():
            self._watch_idle()
        else:
            self._idled_out = True
            self._task.cancel()
            self._idle_timer = self._loop.call_later(CLOSE_GRACE, self._give_up_idle)

    def _give_up_idle(self) -> None:
        """The plugin ignored the cancellation, too: end the stream without it."""
        self._idle_timer = None
        error = self._idle_error()
        if self._emitter is not None:
            self._emitter._detach()
        self._attempt_failed = True
        self._failure = error
        self._emit_error(error, recoverable=False)
        self._end(cancelled=True)

    def _idle_error(self) -> APITimeoutError:
        return APITimeoutError(
            f"no audio was received for {self._idle_limit:.0f}s after all text was sent"
        )

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    # -- metrics

    def _on_audio(self, audio: SynthesizedAudio, seconds: float) -> None:
        if self._started_at is not None:
            audio.frame.userdata[USERDATA_TTS_STARTED_TIME] = self._started_stamp
        self._tally.add(audio, seconds, self._loop.time())
        if audio.is_final:
            self._complete = True
            self._report_segment()

    def _report_segment(self) -> None:
        started_at, text = self._started_at, self._flushed_text
        if started_at is None or not text or not self._reports_metrics:
            return
        tally, self._tally = self._tally, Tally()
        self._started_at = None
        self._flushed_text = ""
        self._emit_metrics(
            tally, started_at=started_at, characters_count=len(text), cancelled=False
        )

    def _report_end(self, *, cancelled: bool) -> None:
        """Report an utterance that was broken off: its characters were billed all the same."""
        text = self._flushed_text + self._unreported_text
        if self._started_at is not None and text:
            self._emit_metrics(
                self._tally,
                started_at=self._started_at,
                characters_count=len(text),
                cancelled=cancelled or not self._complete,
            )
            self._started_at = None
