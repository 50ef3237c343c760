"""Shows the words of the transcript while they are spoken, and knows which ones were heard.

`TranscriptSynchronizer` wraps an audio and a text output, feeds a `WordPacer` with what passes, and
shows the words in time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...log import logger
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given
from ...utils.aio import TaskScope, wait_until
from ..io import AudioOutput, TextOutput
from ..io.audio_output import _AudioWrapper
from .word_pacer import STANDARD_SPEECH_RATE, WordPacer, split_words

if TYPE_CHECKING:
    from livekit import rtc

    from ... import tokenize

_TICK = 0.001
"""Seconds that are not worth a timer. Clocks are not exact enough to wait for much less."""

CLOSE_TIMEOUT = 5.0
"""Seconds that a text sink may take for the rest of a segment, before it is given up."""


class _Segment:
    """One segment: its pacer, and the task that shows its words."""

    def __init__(self, owner: TranscriptSynchronizer, previous: asyncio.Task[None] | None) -> None:
        self._owner = owner
        self.pacer = owner._new_pacer()
        self._previous = previous
        self._changed = asyncio.Event()
        self._started_at: float | None = None
        self._paused_at: float | None = time.time() if owner._paused else None
        self._paused_for = 0.0
        self._finish: str | None = None
        self._unpaced = False
        self.task: asyncio.Task[None] | None = None
        self.has_text = False

    def _wake(self) -> None:
        self._changed.set()
        if self.task is None and not self._owner._scope.closed:
            self.task = self._owner._scope.spawn(self._show(), name="show transcript")

    # -- what happens to it -----------------------------------------------------------------------

    def push_text(self, text: str) -> None:
        """More text of this segment."""
        self.has_text = True
        self.pacer.push_text(text)
        self._wake()

    def end_text(self) -> None:
        """Its text is complete."""
        self.pacer.end_text()
        self._wake()

    def started(self, at: float) -> None:
        """Its audio began to be heard, at a `time.time()`."""
        self._started_at = at
        self._wake()

    def pause(self) -> None:
        """Its audio is silent for a while."""
        if self._paused_at is None:
            self._paused_at = time.time()
            self._wake()

    def resume(self) -> None:
        """It is heard again; the time in between does not count."""
        if self._paused_at is not None:
            self._paused_for += max(0.0, time.time() - max(self._paused_at, self._started_at or 0))
            self._paused_at = None
            self._wake()

    def show_unpaced(self) -> None:
        """There is no audio to keep step with."""
        self._unpaced = True
        self._wake()

    def finish(self, position: float, *, interrupted: bool) -> str:
        """The audio is over. Returns the transcript that counts as heard."""
        complete = self.pacer.text_ended and self.pacer.audio_ended and not self.pacer.truncated
        if not interrupted and complete:
            self._finish = "show the rest"
            heard = self.pacer.whole
        else:
            if not interrupted and not self.pacer.truncated:
                logger.warning("the audio finished before its text had ended")
            self._finish = "drop the rest"
            heard = self.pacer.heard(position)
        self._wake()
        return heard

    # -- showing ----------------------------------------------------------------------------------

    async def _show(self) -> None:
        sink = self._owner._text_sink
        try:
            previous = self._previous
            if previous is not None and await wait_until(previous, CLOSE_TIMEOUT):
                logger.warning("the text output did not take a segment within 5 s, dropping it")
                previous.cancel()
            while not await self._step(sink):
                pass
        finally:
            if sink is not None and self.has_text:
                sink.flush()

    async def _step(self, sink: TextOutput | None) -> bool:
        """Show what is due, wait for what comes next. True when the segment is over."""
        self._changed.clear()
        if self._unpaced or self._finish == "show the rest":
            text = self.pacer.rest()
            if text and sink is not None:
                await sink.capture_text(text)
            over = self.pacer.text_ended or self._finish is not None
            if not over:
                await self._changed.wait()
            return over
        if self._finish is not None:
            return True
        due = self.pacer.due_at()
        if due is None or self._started_at is None or self._paused_at is not None:
            await self._changed.wait()
            return False
        delay = due - self._position()
        if delay > _TICK:
            await self._wait(delay)
            return False
        word = self.pacer.take()
        if sink is not None:
            await sink.capture_text(word)
        return False

    def _position(self) -> float:
        assert self._started_at is not None
        return time.time() - self._started_at - self._paused_for

    async def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            timer.cancel()


class TranscriptSynchronizer:
    """Keeps the transcript in step with the voice. Set both of its outputs on the session.

    Args:
        next_in_chain_audio: Plays the voice.
        next_in_chain_text: Shows the words; None if only the history is to know what was heard.
        speed: How much faster than ordinary speech the words come while the real rate is unknown.
        hyphenate_word: Cuts a word into syllables.
        word_tokenizer: Cuts text into words.
    """

    def __init__(
        self,
        *,
        next_in_chain_audio: AudioOutput,
        next_in_chain_text: TextOutput | None,
        speed: float = 1.0,
        hyphenate_word: Callable[[str], list[str]] | None = None,
        word_tokenizer: NotGivenOr[tokenize.WordTokenizer] = NOT_GIVEN,
    ) -> None:
        self._speed = speed
        self._hyphenate = hyphenate_word
        self._tokenizer = word_tokenizer
        self._text_sink = next_in_chain_text
        self._paused = False
        self._enabled = True
        self._scope = TaskScope("transcript synchronizer")
        self._audio_output = _SyncedAudioOutput(self, next_in_chain_audio)
        self._text_output = _SyncedTextOutput(self, next_in_chain_text)
        self._segment: _Segment | None = None
        self._audio_attached = self._text_attached = True
        self._warned = False

    def _new_pacer(self) -> WordPacer:
        return WordPacer(speed=self._speed, syllables=self._syllables, split=self._words)

    def _syllables(self, word: str) -> int:
        if self._hyphenate is None:
            from ...tokenize.basic import hyphenate_word

            self._hyphenate = hyphenate_word
        return max(1, len(self._hyphenate(word)))

    def _words(self, text: str) -> list[str]:
        if is_given(self._tokenizer):
            return list(self._tokenizer.tokenize(text))
        return split_words(text)

    @property
    def audio_output(self) -> AudioOutput:
        """For `session.output.audio`."""
        return self._audio_output

    @property
    def text_output(self) -> TextOutput:
        """For `session.output.transcription`."""
        return self._text_output

    @property
    def enabled(self) -> bool:
        """Whether words are paced; otherwise everything passes through."""
        return self._enabled and self._audio_attached and self._text_attached

    def set_enabled(self, enabled: bool) -> None:
        """Pace words, or let everything pass through."""
        if enabled != self._enabled:
            self._enabled = enabled
            self.rotate_segment()

    def rotate_segment(self) -> None:
        """Begin a fresh segment; the present one keeps showing what it has."""
        segment, self._segment = self._segment, None
        if segment is not None and segment._finish is None and segment.has_text:
            segment._finish = "drop the rest"
            segment._wake()
        self._last_task = segment.task if segment is not None else None

    _last_task: asyncio.Task[None] | None = None

    def _current(self) -> _Segment:
        if self._segment is None:
            self._segment = _Segment(self, self._last_task)
        return self._segment

    def _finished(self, position: float, *, interrupted: bool) -> str | None:
        """The sink finished a segment: what of its text was heard, and on with a fresh one."""
        if not self.enabled or self._segment is None:
            return None
        segment, self._segment = self._segment, None
        heard = segment.finish(position, interrupted=interrupted)
        self._last_task = segment.task
        return heard

    def _attachment_changed(self) -> None:
        """Outputs are set and removed one after the other: look once both have been."""
        try:
            asyncio.get_running_loop().call_soon(self._check_attachment)
        except RuntimeError:
            return  # set up outside of a loop: nothing runs yet

    def _check_attachment(self) -> None:
        if self._audio_attached == self._text_attached:
            self._warned = False
        elif not self._warned:
            self._warned = True
            logger.warning(
                "only one output of the transcript synchronizer is attached, so the transcript is "
                "not kept in step: was session.output.audio or .transcription replaced?"
            )

    async def barrier(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Wait until the words of finished segments are shown, at most `timeout` seconds."""
        if self._last_task is not None:
            await wait_until(self._last_task, timeout)

    async def aclose(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Stop showing words. Bounded, whatever the text output does.

        Args:
            timeout: Seconds for the words that are still to be shown.
        """
        self._enabled = False
        try:
            await self.barrier(timeout)
        finally:
            self._scope.cancel_soon()
        await self._scope.cancel(min(timeout, 0.5))


class _SyncedAudioOutput(_AudioWrapper):
    def __init__(self, sync: TranscriptSynchronizer, sink: AudioOutput) -> None:
        super().__init__(sink, label="TranscriptSynchronizer")
        self._sync = sync
        self._pushed = 0.0

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Pass a frame on, and tell the pacer how much there is to say."""
        await super().capture_frame(frame)
        self._pushed += frame.duration
        if self._sync.enabled:
            self._sync._current().pacer.push_audio(frame.duration)

    def flush(self) -> None:
        """The audio of the segment is complete; if there was none, its text needs no pace."""
        super().flush()
        pushed, self._pushed = self._pushed, 0.0
        if not self._sync.enabled:
            return
        if pushed:
            segment = self._sync._current()
            segment.pacer.end_audio()
            segment._wake()
        elif not self._pending_playback_count:
            self._sync._current().show_unpaced()

    def pause(self) -> None:
        super().pause()
        self._sync._paused = True
        if self._sync._segment is not None:
            self._sync._segment.pause()

    def resume(self) -> None:
        super().resume()
        self._sync._paused = False
        if self._sync._segment is not None:
            self._sync._segment.resume()

    def _mark_input_truncated(self) -> None:
        super()._mark_input_truncated()
        if self._sync.enabled:
            self._sync._current().pacer.truncated = True

    def on_attached(self) -> None:
        super().on_attached()
        self._sync._audio_attached = True
        self._sync._attachment_changed()

    def on_detached(self) -> None:
        super().on_detached()
        self._sync._audio_attached = False
        self._sync._attachment_changed()

    def on_playback_started(self, *, created_at: float) -> None:
        if self._sync.enabled:
            self._sync._current().started(created_at)
        super().on_playback_started(created_at=created_at)

    def on_playback_finished(
        self,
        *,
        playback_position: float,
        interrupted: bool,
        synchronized_transcript: str | None = None,
    ) -> None:
        """A segment was played, or cut off: report it with the words that were shown till then."""
        if not self._pending_playback_count:
            return
        heard = self._sync._finished(playback_position, interrupted=interrupted)
        super().on_playback_finished(
            playback_position=playback_position,
            interrupted=interrupted,
            synchronized_transcript=heard if heard is not None else synchronized_transcript,
        )


class _SyncedTextOutput(TextOutput):
    def __init__(self, sync: TranscriptSynchronizer, sink: TextOutput | None) -> None:
        super().__init__(label="TranscriptSynchronizer", next_in_chain=sink)
        self._sync = sync

    async def capture_text(self, text: str) -> None:
        """Take text to be shown in step with the audio; at once where there is no audio to follow."""
        if self._sync.enabled:
            self._sync._current().push_text(text)
        elif self.next_in_chain is not None:
            await self.next_in_chain.capture_text(text)

    def flush(self) -> None:
        """The text of the segment is complete."""
        if not self._sync.enabled:
            if self.next_in_chain is not None:
                self.next_in_chain.flush()
        elif self._sync._segment is not None:
            self._sync._segment.end_text()

    def on_attached(self) -> None:
        super().on_attached()
        self._sync._text_attached = True
        self._sync._attachment_changed()

    def on_detached(self) -> None:
        super().on_detached()
        self._sync._text_attached = False
        self._sync._attachment_changed()


def find_micro_track_id(room: Any, identity: str) -> str:
    """Sid of a participant's first microphone track.

    Raises:
        ValueError: The participant, or the track, is not there.
    """
    from livekit import rtc

    if identity == room.local_participant.identity:
        participant = room.local_participant
    else:
        participant = room.remote_participants.get(identity)
    if participant is None:
        raise ValueError(f"there is no participant {identity!r} in the room")
    for publication in participant.track_publications.values():
        if publication.source == rtc.TrackSource.SOURCE_MICROPHONE:
            return str(publication.sid)
    raise ValueError(f"participant {identity!r} has published no microphone")


__all__ = ["STANDARD_SPEECH_RATE", "TranscriptSynchronizer", "WordPacer", "find_micro_track_id"]
