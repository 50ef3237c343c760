"""Where the agent's audio goes, and what is known of how far it was played.

An output is a *chain of sinks*: wrappers (a transcript synchronizer, a recorder) around a leaf that
really plays. Sound is cut into *segments* by `flush()`; the leaf reports each segment finished
exactly once, and the chain settles a segment that a broken leaf never reports.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from livekit import rtc

from ..._emitter import IsolatedEmitter
from ...log import logger
from ._chain import ChainLink


@dataclass
class PlaybackStartedEvent:
    """The first sound of a segment was played."""

    created_at: float
    """When, in epoch seconds."""


@dataclass
class PlaybackProgressedEvent:
    """A stretch of a segment that really played; never revised."""

    started_at: float
    """When it began, in epoch seconds."""
    offset: float
    """Where in the segment it began, in seconds."""
    duration: float
    """How long it was, in seconds."""


@dataclass
class PlaybackFinishedEvent:
    """A segment is over."""

    playback_position: float
    """Seconds of the segment that were played."""
    interrupted: bool
    """Whether the rest was dropped."""
    synchronized_transcript: str | None = None
    """The text shown up to here, where the transcript is paced to the sound."""


class _CaptureCancelledEvent(PlaybackFinishedEvent):
    """A capture was cancelled before the sink took any sound."""


@dataclass
class AudioOutputCapabilities:
    """What a sink can do."""

    pause: bool


_AudioEvents = Literal["playback_started", "playback_progressed", "playback_finished"]


class AudioOutput(ABC, ChainLink["AudioOutput"], IsolatedEmitter[_AudioEvents]):
    """A sink for the agent's audio.

    Subclasses implement `capture_frame`, `flush` (both call `super()`) and `clear_buffer`, and
    call `on_playback_finished` once for every segment. Times are `time.time()` seconds.
    """

    def __init__(
        self,
        *,
        label: str,
        capabilities: AudioOutputCapabilities,
        next_in_chain: AudioOutput | None = None,
        sample_rate: int | None = None,
    ) -> None:
        """Set up a sink.

        Args:
            label: What to call it in logs.
            capabilities: What it can do by itself.
            next_in_chain: The sink it wraps. A bare leaf gets a stable swap point in between.
            sample_rate: In Hz; None takes any rate.
        """
        if (
            next_in_chain is not None
            and next_in_chain.next_in_chain is None
            and not isinstance(next_in_chain, _AudioSinkProxy)
            and not isinstance(self, _AudioSinkProxy)
        ):
            next_in_chain = _AudioSinkProxy(next_in_chain)
        ChainLink.__init__(self, label=label, wrapped=next_in_chain)
        IsolatedEmitter.__init__(self)
        self._capabilities = capabilities
        self._sample_rate = sample_rate
        self._capturing = False
        self._captured_segments = 0
        self._finished_segments = 0
        self._settled_late = 0
        self._reports_start = False
        self._last_finished = PlaybackFinishedEvent(playback_position=0.0, interrupted=False)
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._segment_pushed = 0.0
        self._segment_started_at: float | None = None
        if next_in_chain is not None:
            self._follow(next_in_chain)

    def _follow(self, sink: AudioOutput) -> None:
        sink.on("playback_started", self._forward_started)
        sink.on("playback_progressed", self._forward_progressed)
        sink.on("playback_finished", self._forward_finished)

    def _unfollow(self, sink: AudioOutput) -> None:
        sink.off("playback_started", self._forward_started)
        sink.off("playback_progressed", self._forward_progressed)
        sink.off("playback_finished", self._forward_finished)

    @property
    def next_in_chain(self) -> AudioOutput | None:
        """The sink it wraps, or None for a leaf."""
        return self._wrapped

    @property
    def sample_rate(self) -> int | None:
        """The rate it wants, in Hz; None takes any."""
        return self._sample_rate

    @property
    def can_pause(self) -> bool:
        """Whether it, and all it wraps, can pause without losing what is buffered."""
        return self._capabilities.pause and (self._wrapped is None or self._wrapped.can_pause)

    # -- capturing ------------------------------------------------------------------------------

    @abstractmethod
    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Take a frame, faster than it plays. The first after a `flush` opens a segment."""
        if not self._capturing:
            self._capturing = True
            self._captured_segments += 1
            self._segment_pushed = 0.0
            self._segment_started_at = None
        self._segment_pushed += frame.duration

    @abstractmethod
    def flush(self) -> None:
        """The segment is complete; it plays on."""
        self._capturing = False

    @abstractmethod
    def clear_buffer(self) -> None:
        """Stop at once and drop what was not played. The sink then reports the finish."""

    def pause(self) -> None:
        """Stop the sound, keep what is buffered."""
        if self._wrapped is not None:
            self._wrapped.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._wrapped is not None:
            self._wrapped.resume()

    def _mark_input_truncated(self) -> None:
        """The segment about to be flushed was cut short by its source, not by the user."""
        if self._wrapped is not None:
            self._wrapped._mark_input_truncated()

    # -- playing --------------------------------------------------------------------------------

    @property
    def captured_playout_segments(self) -> int:
        """Segments accepted so far."""
        return self._captured_segments

    @property
    def _pending_playback_count(self) -> int:
        return self._captured_segments - self._finished_segments

    def _reset_playback_count(self) -> None:
        self._captured_segments = self._finished_segments = 0
        self._wake_waiters(everyone=True)

    def on_playback_started(self, *, created_at: float) -> None:
        """Sinks call it when the first sound of a segment plays. `created_at`: epoch seconds."""
        self._segment_started_at = created_at
        self._reports_start = True
        self.emit("playback_started", PlaybackStartedEvent(created_at=created_at))

    def on_playback_progressed(self, *, started_at: float, offset: float, duration: float) -> None:
        """Sinks may call it for stretches that really played."""
        self.emit(
            "playback_progressed",
            PlaybackProgressedEvent(started_at=started_at, offset=offset, duration=duration),
        )

    def on_playback_finished(
        self,
        *,
        playback_position: float,
        interrupted: bool,
        synchronized_transcript: str | None = None,
    ) -> None:
        """Sinks call it once for every segment. Dropped, with a warning, when none is pending."""
        self._record_finished(
            PlaybackFinishedEvent(playback_position, interrupted, synchronized_transcript)
        )

    def _record_finished(self, event: PlaybackFinishedEvent) -> None:
        if self._settled_late and not self._finishes_present_segment():
            self._settled_late -= 1  # was settled when the wait for it was given up
            logger.debug("%s finished a segment that was given up before", self.label)
            return
        self._settled_late = 0  # finishes come in order: what was given up is lost
        if self._pending_playback_count <= 0:
            logger.warning(
                "%s reported a segment finished, but none is pending; ignored", self.label
            )
            return
        self._finished_segments += 1
        self._last_finished = event
        self._wake_waiters()
        self.emit("playback_finished", event)

    def _finishes_present_segment(self) -> bool:
        """Whether a finish is one of the present segment, rather than a late one of an earlier."""
        started = self._segment_started_at is not None or not self._reports_start
        return started and self._pending_playback_count > 0

    async def wait_for_playout(self) -> PlaybackFinishedEvent:
        """Return when every segment accepted so far has finished, with the last finish.

        At once when nothing is pending, with the event of the previous segment.
        """
        target = self._captured_segments
        if self._finished_segments < target:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (target, waiter)
            self._waiters.append(entry)
            try:
                await waiter
            finally:
                if entry in self._waiters:
                    self._waiters.remove(entry)
        return self._last_finished

    def _wake_waiters(self, *, everyone: bool = False) -> None:
        for target, waiter in self._waiters:
            if not waiter.done() and (everyone or self._finished_segments >= target):
                waiter.set_result(None)

    def _give_up_playout(self) -> PlaybackFinishedEvent:
        """Settle what is pending as interrupted at the best known position, in the whole chain.

        For a sink that does not report its finish: later segments are not blamed for it, and
        should the report come after all it is ignored.
        """
        if self._wrapped is not None:
            pending_below = self._wrapped._pending_playback_count
            self._wrapped._give_up_playout()  # reports to this sink through the ordinary way
            if pending_below and not self._pending_playback_count:
                return self._last_finished
        while self._pending_playback_count > 0:
            self._capturing = False
            self.on_playback_finished(playback_position=self._estimate(), interrupted=True)
            if self._wrapped is None:
                self._settled_late += 1
        return self._last_finished

    def _estimate(self) -> float:
        """Seconds of the present segment that were probably played."""
        if self._segment_started_at is None:
            return 0.0
        return min(self._segment_pushed, max(0.0, time.time() - self._segment_started_at))

    # -- passing on -----------------------------------------------------------------------------

    def _forward_started(self, event: PlaybackStartedEvent) -> None:
        self.on_playback_started(created_at=event.created_at)

    def _forward_progressed(self, event: PlaybackProgressedEvent) -> None:
        self.on_playback_progressed(
            started_at=event.started_at, offset=event.offset, duration=event.duration
        )

    def _forward_finished(self, event: PlaybackFinishedEvent) -> None:
        if isinstance(event, _CaptureCancelledEvent):
            if self._pending_playback_count > 0:
                self._record_finished(event)
            else:  # not counted here; a wrapper above may have
                self.emit("playback_finished", event)
            return
        self.on_playback_finished(
            playback_position=event.playback_position,
            interrupted=event.interrupted,
            synchronized_transcript=event.synchronized_transcript,
        )


class _AudioWrapper(AudioOutput):
    """A sink that hands everything on to the one it wraps; a base for those that add something."""

    def __init__(self, sink: AudioOutput, *, label: str) -> None:
        super().__init__(
            label=label, capabilities=AudioOutputCapabilities(pause=True), next_in_chain=sink
        )

    @property
    def _sink(self) -> AudioOutput:
        assert self._wrapped is not None
        return self._wrapped

    @property
    def sample_rate(self) -> int | None:
        """That of the sink it wraps."""
        return self._sink.sample_rate

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Pass a frame on; it counts once the sink has taken it."""
        await self._sink.capture_frame(frame)
        await super().capture_frame(frame)

    def flush(self) -> None:
        super().flush()
        self._sink.flush()

    def clear_buffer(self) -> None:
        self._sink.clear_buffer()


class _AudioSinkProxy(_AudioWrapper):
    """A stable place in the chain whose leaf can be swapped while it plays (avatars do that)."""

    def __init__(self, leaf: AudioOutput) -> None:
        super().__init__(leaf, label="AudioSinkProxy")
        self._attached = False
        self._offset = 0.0
        self._progress = 0.0

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        if not self._capturing:
            self._offset = self._progress = 0.0
        await super().capture_frame(frame)

    def on_attached(self) -> None:
        self._attached = True
        super().on_attached()

    def on_detached(self) -> None:
        self._attached = False
        super().on_detached()

    def on_playback_progressed(self, *, started_at: float, offset: float, duration: float) -> None:
        """Report progress of the leaf, counted from the beginning of the segment."""
        offset += self._offset
        self._progress = max(self._progress, offset + duration)
        super().on_playback_progressed(started_at=started_at, offset=offset, duration=duration)

    def on_playback_finished(
        self,
        *,
        playback_position: float,
        interrupted: bool,
        synchronized_transcript: str | None = None,
    ) -> None:
        """Report the end, at the position in the whole segment and not in the leaf's part of it."""
        super().on_playback_finished(
            playback_position=playback_position + self._offset,
            interrupted=interrupted,
            synchronized_transcript=synchronized_transcript,
        )

    def set_leaf(self, leaf: AudioOutput) -> None:
        """Swap the leaf. A segment that the old one still plays is settled where it had got to."""
        old = self._sink
        if leaf is old:
            return
        self._unfollow(old)
        pending, capturing = self._pending_playback_count > 0, self._capturing
        if pending:
            if capturing:
                old.flush()
            old.clear_buffer()
        self._wrap(leaf)
        self._follow(leaf)
        if self._attached:
            old.on_detached()
            leaf.on_attached()
        if capturing:
            # what the new leaf reports is relative to where it took over
            self._offset = self._segment_pushed
        elif pending:
            reached = self._progress or self._estimate()
            while self._pending_playback_count > 0:
                super().on_playback_finished(playback_position=reached, interrupted=True)
