"""Sending text to a synthesizer no earlier than its speech is needed."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from .. import tokenize
from .._streams import report_survivors
from ..utils.aio import TaskScope
from .audio_emitter import AudioEmitter

_CLOSE_GRACE = 1.0
_CHECK_SPACING = 0.1
"""Seconds between two looks at the audio for their difference to mean anything."""
_GENERATING_CHECK = 0.2
_IDLE_CHECK = 0.5
_SILENT_BATCH = 2.0
"""Seconds after which a batch that brought no audio counts as done."""


@dataclass
class StreamPacerOptions:
    """When to send the next sentences, and how many."""

    min_remaining_audio: float
    """Seconds of audio left to play below which more text is sent."""

    max_text_length: int
    """Characters that a batch of sentences grows to."""


class SentenceStreamPacer:
    """Holds sentences back while there is plenty of speech left to play.

    Longer pieces of text sound better, and an interruption throws less speech away. The first
    sentence is never held back.

    Args:
        min_remaining_audio: Seconds of audio left to play below which more text is sent.
        max_text_length: Characters that a batch of sentences grows to.
    """

    def __init__(self, *, min_remaining_audio: float = 5.0, max_text_length: int = 300) -> None:
        self._options = StreamPacerOptions(
            min_remaining_audio=min_remaining_audio, max_text_length=max_text_length
        )

    def wrap(
        self, sent_stream: tokenize.SentenceStream, audio_emitter: AudioEmitter
    ) -> StreamPacerWrapper:
        """Put the pacer behind a sentence stream.

        Args:
            sent_stream: Where sentences come from. Push text to the returned stream instead.
            audio_emitter: Where their speech goes.

        Raises:
            RuntimeError: No event loop is running.
        """
        return StreamPacerWrapper(sent_stream, audio_emitter, options=self._options)


class Pace:
    """Decides, from the audio seen so far, when text is due. No I/O, and no clock of its own."""

    def __init__(self, options: StreamPacerOptions) -> None:
        self._options = options
        self._sent_at: float | None = None
        self._first_audio_at: float | None = None
        self._checked_at = 0.0
        self._checked_audio = 0.0
        self._started = False
        self._stopped = False

    def look(self, now: float, audio: float) -> None:
        """Take in how many seconds of audio there have been by `now`."""
        if audio > 0.0 and self._first_audio_at is None:
            self._first_audio_at = now
        if self._sent_at is None or now - self._checked_at < _CHECK_SPACING:
            return
        if audio > self._checked_audio:
            self._started, self._stopped = True, False
        elif self._started or now - self._sent_at >= _SILENT_BATCH:
            self._stopped = True
        self._checked_at, self._checked_audio = now, audio

    def remaining(self, now: float, audio: float) -> float:
        """Estimated seconds of audio left to play."""
        return 0.0 if self._first_audio_at is None else self._first_audio_at + audio - now

    def is_due(self, now: float, audio: float) -> bool:
        """Whether the next text is to be sent."""
        if self._sent_at is None:
            return True
        return self._stopped and self.remaining(now, audio) <= self._options.min_remaining_audio

    def sent(self, now: float, audio: float) -> None:
        """Take in that text was sent."""
        self._sent_at = self._checked_at = now
        self._checked_audio = audio
        self._started = self._stopped = False

    def batch(self, sentences: deque[str]) -> str:
        """Take the sentences to send out of those waiting; there must be one."""
        text = sentences.popleft()
        if self._sent_at is not None:
            while sentences and len(text) < self._options.max_text_length:
                text = f"{text} {sentences.popleft()}"
        return text

    def next_look(self, now: float, audio: float) -> float:
        """Seconds after which to look again."""
        if not self._stopped:
            return _GENERATING_CHECK
        return max(_IDLE_CHECK, self.remaining(now, audio) - self._options.min_remaining_audio)


class StreamPacerWrapper(tokenize.SentenceStream):
    """A sentence stream that yields the sentences of another one when their speech is needed.

    Args:
        sent_stream: Where sentences come from.
        audio_emitter: Where their speech goes.
        options: When to send how many.
    """

    def __init__(
        self,
        sent_stream: tokenize.SentenceStream,
        audio_emitter: AudioEmitter,
        *,
        options: StreamPacerOptions,
    ) -> None:
        super().__init__()
        self._sent_stream = sent_stream
        self._emitter = audio_emitter
        self._pace = Pace(options)
        self._waiting: deque[str] = deque()
        self._segment_id = ""
        self._all_received = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._scope = TaskScope("SentenceStreamPacer")
        self._scope.spawn(self._receive(), name="SentenceStreamPacer.receive")

    @property
    def closed(self) -> bool:
        """Whether it takes no more text. Sentences may still be waiting to be read."""
        return super().closed or self._sent_stream.closed

    def push_text(self, text: str) -> None:
        """Append a piece of text.

        Raises:
            RuntimeError: The stream is closed.
        """
        self._sent_stream.push_text(text)

    def flush(self) -> None:
        """Complete the last sentence.

        Raises:
            RuntimeError: The stream is closed.
        """
        self._sent_stream.flush()

    def end_input(self) -> None:
        """Say that the text is complete.

        Raises:
            RuntimeError: The stream is closed.
        """
        self._sent_stream.end_input()
        if self._emitter._dst_ch.closed:
            self._stop()  # nobody listens any more

    async def aclose(self) -> None:
        """Drop the sentences that wait, and close the wrapped stream. Idempotent."""
        self._stop()
        self._scope.cancel_soon()
        try:
            await self._sent_stream.aclose()
        finally:
            report_survivors(await self._scope.cancel(_CLOSE_GRACE))

    async def _receive(self) -> None:
        try:
            async for sentence in self._sent_stream:
                self._segment_id = sentence.segment_id
                self._waiting.append(sentence.token)
                self._send_if_due()
        finally:
            self._all_received = True
            self._send_if_due()

    def _send_if_due(self) -> None:
        """Send what is due, and look again later if something still waits."""
        self._stop_timer()
        if super().closed:
            return
        now, audio = self._loop.time(), self._emitter.pushed_duration()
        self._pace.look(now, audio)
        while self._waiting and self._pace.is_due(now, audio):
            text = self._pace.batch(self._waiting)
            self._pace.sent(now, audio)
            self._event_ch.send_nowait(tokenize.TokenData(self._segment_id, text))
        self._emitter.holding_text = bool(self._waiting)
        if self._waiting:
            delay = self._pace.next_look(now, audio)
            self._timer = self._loop.call_later(delay, self._send_if_due)
        elif self._all_received:
            self._do_close()

    def _stop(self) -> None:
        self._stop_timer()
        self._waiting.clear()
        self._emitter.holding_text = False
        self._do_close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
