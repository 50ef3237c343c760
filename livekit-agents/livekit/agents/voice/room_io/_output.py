"""The track that the agent speaks on."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from typing import Any

from livekit import rtc

from ...log import logger
from ...telemetry import trace_types
from ...telemetry.traces import tracer
from ...utils.aio import Survivor, TaskScope, wait_until
from ...utils.aio.task_scope import abandon
from ...utils.audio import AudioByteStream
from ..io import AudioOutput, AudioOutputCapabilities
from ._native import answer
from .playout import PlayedRun, PlayoutMeter

QUEUE_MS = 200
"""How much the native source holds. What it holds at a pause is lost, so it is little."""

CAPTURE_TIMEOUT = 2.0
"""Seconds for the native source to take a frame: ten times its queue. Its answer may be lost."""

SLOW_PUBLISH = 10.0
"""Seconds after which a publish that is not answered is worth a warning."""

_UNDERRUN_MARGIN = 0.02
"""Seconds before the source runs dry at which an incomplete frame is sent, and the least to send."""


class _Segment:
    """One utterance: what of it still waits, what has played, and how it stands."""

    def __init__(self) -> None:
        self.frames: deque[rtc.AudioFrame] = deque()
        self.waiting = 0.0
        """Seconds of sound in `frames`."""
        self.meter = PlayoutMeter()
        self.emitted = False
        """Whether whole frames have been queued."""
        self.started = False
        self.flushed = False
        self.interrupted = False
        self.finished = asyncio.get_running_loop().create_future()


class _ParticipantAudioOutput(AudioOutput):
    """Plays on a track of the local participant.

    Sound may be captured faster than it plays; it is cut into 50 ms frames, and a queue of 200 ms
    in the native source is kept filled. Every segment that was opened is reported finished exactly
    once, also when it was empty, or when the output is closed.
    """

    def __init__(
        self,
        room: rtc.Room,
        *,
        sample_rate: int,
        num_channels: int,
        track_publish_options: rtc.TrackPublishOptions,
        track_name: str = "roomio_audio",
    ) -> None:
        """Set up the source; nothing is published before `start`.

        Args:
            room: Where to speak.
            sample_rate: Of the frames that will be captured, in Hz.
            num_channels: Of the frames that will be captured.
            track_publish_options: How to publish the track.
            track_name: Its name.
        """
        super().__init__(
            label="RoomIO",
            capabilities=AudioOutputCapabilities(pause=True),
            sample_rate=sample_rate,
        )
        self._room = room
        self._options = track_publish_options
        self._track_name = track_name
        self._source = rtc.AudioSource(sample_rate, num_channels, queue_size_ms=QUEUE_MS)
        self._framer = AudioByteStream(sample_rate, num_channels, sample_rate // 20)
        loop = asyncio.get_running_loop()
        self._subscribed: asyncio.Future[None] = loop.create_future()
        self._scope = TaskScope("room audio output")
        self._publishes = TaskScope("publishing in a room")  # outlives the output
        self._publishing: asyncio.Task[rtc.LocalTrackPublication] | None = None
        self._publication: rtc.LocalTrackPublication | None = None
        self._segment: _Segment | None = None
        self._paused = False
        self._closed = False
        self._error: Exception | None = None
        self._change: asyncio.Future[None] | None = None
        self._tail_timer: asyncio.TimerHandle | None = None

    @property
    def subscribed(self) -> asyncio.Future[None]:
        """Resolved when somebody hears the track; cancelled by a close before that. Shared: wait
        for it with `asyncio.wait` or a shield."""
        return self._subscribed

    @property
    def publication(self) -> rtc.LocalTrackPublication | None:
        """The published track, once it is."""
        return self._publication

    # -- publishing -------------------------------------------------------------------------------

    async def start(self, *, trace_context: Any = None) -> None:
        """Publish the track, and return when somebody has subscribed to it.

        Raises:
            RuntimeError: The output is closed.
        """
        if self._closed:
            raise RuntimeError("the room's audio output is closed")
        if not self._scope.tasks:
            self._scope.spawn(self._forward(), name="room audio output")
        with tracer.detached_span("publish_audio_output", context=trace_context) as span:
            publication = await self._publish()
            span.set_attribute(trace_types.ATTR_TRACK_SID, publication.sid)
            await publication.wait_for_subscription()
        if not self._subscribed.done():
            self._subscribed.set_result(None)

    async def _publish(self) -> rtc.LocalTrackPublication:
        track = rtc.LocalAudioTrack.create_audio_track(self._track_name, self._source)
        # not a task of the scope: a publish that is cancelled half-way could never be undone
        self._publishing = self._publishes.spawn(
            self._room.local_participant.publish_track(track, self._options),
            name="publish the agent's track",
            log_errors=False,
        )
        self._publishing.add_done_callback(self._published)
        if await wait_until(self._publishing, SLOW_PUBLISH):
            logger.warning("the agent's track is still not published after %.0f s", SLOW_PUBLISH)
            await asyncio.wait((self._publishing,))
        self._publication = self._publishing.result()
        for former in _left_published.pop(self._room, ()):  # one voice is enough
            self._publishes.spawn(_unpublish(self._room, former), name="unpublish a former track")
        return self._publication

    def fail(self, error: Exception) -> None:
        """Nobody will ever hear the track: captures raise instead of waiting."""
        self._error = error
        self._subscribed.cancel()

    def _published(self, publishing: asyncio.Task[rtc.LocalTrackPublication]) -> None:
        """A publish that outlived the output leaves no track behind."""
        failed = publishing.cancelled() or publishing.exception() is not None
        if self._closed and not failed:
            self._publishes.spawn(
                _unpublish(self._room, publishing.result()), name="unpublish the agent's track"
            )

    # -- capturing --------------------------------------------------------------------------------

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Take a frame of the right rate and channels; waits until somebody hears the track.

        Does nothing once closed.

        Raises:
            RuntimeError: The track could not be published.
        """
        if not self._subscribed.done():
            await asyncio.wait((self._subscribed,))
        if self._error is not None:
            raise RuntimeError("the agent's track could not be published") from self._error
        while self._segment is not None and self._segment.flushed:
            logger.error("audio was captured while the previous segment still plays: it waits")
            await asyncio.wait((self._segment.finished,))
        if self._closed:
            return
        await super().capture_frame(frame)
        if self._segment is None:
            self._segment = _Segment()
        if frame.samples_per_channel:
            self._queue(self._framer.push(frame.data.cast("B")))
        self._arm_tail_timer()

    def _queue(self, frames: list[rtc.AudioFrame]) -> None:
        segment = self._segment
        if segment is not None and frames:
            segment.emitted = True
            if not segment.interrupted:
                segment.frames.extend(frames)
                segment.waiting += sum(frame.duration for frame in frames)
                self._changed()

    def flush(self) -> None:
        """The segment is complete. It plays on, and is then reported finished."""
        super().flush()
        segment = self._segment
        if segment is None:
            return
        if segment.flushed:
            logger.error("the segment was flushed a second time while it plays")
            return
        self._disarm_tail_timer()
        self._queue(self._framer.flush())
        segment.flushed = True
        if segment.interrupted or not segment.frames:
            # not from inside flush(): whoever flushes may not be done with the segment
            asyncio.get_running_loop().call_soon(self._finish_if_over, segment)
        self._changed()

    def clear_buffer(self) -> None:
        """Stop now, and drop what was not played. The finish is reported when it is flushed."""
        self._disarm_tail_timer()
        self._framer.clear()
        segment = self._segment
        if segment is None or segment.interrupted:
            return
        segment.interrupted = True
        segment.frames.clear()
        self._drop_queued(segment)
        self._finish_if_over(segment)
        self._changed()

    def pause(self) -> None:
        """Fall silent, keep what waits. Up to 200 ms that the source holds are lost."""
        super().pause()
        self._paused = True
        self._disarm_tail_timer()
        self._changed()

    def resume(self) -> None:
        """Speak on."""
        super().resume()
        self._paused = False
        self._arm_tail_timer()
        self._changed()

    # -- the tail ---------------------------------------------------------------------------------

    def _arm_tail_timer(self) -> None:
        """Less than a frame waits for more, but not longer than the source has something to say."""
        self._disarm_tail_timer()
        segment, tail = self._segment, self._framer.buffered_duration
        if segment is None or self._paused or not tail or segment.flushed:
            return
        if not segment.emitted and tail < _UNDERRUN_MARGIN:
            return
        loop = asyncio.get_running_loop()
        ahead = segment.meter.left(loop.time()) + segment.waiting
        self._tail_timer = loop.call_later(max(0.0, ahead - _UNDERRUN_MARGIN), self._send_tail)

    def _send_tail(self) -> None:
        self._tail_timer = None
        self._queue(self._framer.flush())

    def _disarm_tail_timer(self) -> None:
        if self._tail_timer is not None:
            self._tail_timer.cancel()
            self._tail_timer = None

    # -- playing ----------------------------------------------------------------------------------

    async def _forward(self) -> None:
        """Keep the native source filled, and notice when a segment has played."""
        loop = asyncio.get_running_loop()
        while True:
            segment = self._segment
            if segment is None or segment.interrupted:
                await self._wait_for_change(None)
            elif segment.frames and self._paused:
                self._drop_queued(segment)
                await self._wait_for_change(None)
            elif segment.frames:
                await self._submit(segment, segment.frames.popleft())
            elif segment.flushed and not self._paused:
                left = segment.meter.left(loop.time())
                if left <= 0.0:
                    self._finish_if_over(segment)
                else:
                    await self._wait_for_change(left)
            else:
                await self._wait_for_change(None)

    async def _submit(self, segment: _Segment, frame: rtc.AudioFrame) -> None:
        segment.waiting -= frame.duration
        if not segment.started:
            segment.started = True
            self.on_playback_started(created_at=time.time())
            if segment.interrupted:  # by a listener
                return
        self._report(segment.meter.submit(frame.duration, asyncio.get_running_loop().time()))
        try:
            taken = self._source.capture_frame(frame)
            await answer(self._scope, taken, CAPTURE_TIMEOUT, name="capture a frame")
        except asyncio.TimeoutError as error:
            logger.warning("the audio source did not take a frame: %s", error)
        except Exception:
            logger.exception("the audio source refused a frame")

    def _drop_queued(self, segment: _Segment) -> None:
        """Silence the source at once."""
        now = asyncio.get_running_loop().time()
        if segment.meter.left(now) > 0.0:
            self._source.clear_queue()
        self._report(segment.meter.cut(now))

    def _report(self, run: PlayedRun | None) -> None:
        if run is None:
            return
        ended_ago = asyncio.get_running_loop().time() - run.ended_at
        self.on_playback_progressed(
            started_at=time.time() - ended_ago - run.duration,
            offset=run.offset,
            duration=run.duration,
        )

    def _finish_if_over(self, segment: _Segment) -> None:
        """Report the end of a segment that is complete and has played, or was interrupted."""
        if segment is not self._segment or not segment.flushed or segment.finished.done():
            return
        now = asyncio.get_running_loop().time()
        if not segment.interrupted and (
            self._paused or segment.frames or segment.meter.left(now) > 0.0
        ):
            return
        self._report(segment.meter.cut(now))
        # the state is reset before the report: a listener may begin the next segment from it
        self._segment = None
        segment.finished.set_result(None)
        self.on_playback_finished(
            playback_position=segment.meter.played, interrupted=segment.interrupted
        )

    def _changed(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    async def _wait_for_change(self, timeout: float | None) -> None:
        self._change = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait((self._change,), timeout=timeout)
        finally:
            self._change = None

    # -- the end ----------------------------------------------------------------------------------

    async def aclose(self) -> list[Survivor]:
        """End playing: an open segment is reported as interrupted. The track stays published.

        Idempotent; bounded. Returns what could not be ended.
        """
        if self._closed:
            return []
        self._closed = True
        self._subscribed.cancel()
        segment = self._segment
        if segment is not None:
            segment.flushed = True
            self.clear_buffer()
            self._finish_if_over(segment)
        super().flush()
        survivors = await self._scope.cancel(0.5)
        publishing = self._publishing
        if publishing is not None and await wait_until(publishing, 0.25):
            survivors.append(abandon(publishing, "room audio output"))
        if self._publication is not None and self._room.isconnected():
            _left_published.setdefault(self._room, []).append(self._publication)
        await self._source.aclose()
        return survivors


_left_published: weakref.WeakKeyDictionary[rtc.Room, list[rtc.LocalTrackPublication]] = (
    weakref.WeakKeyDictionary()
)
"""Tracks of outputs that were closed: unpublished when the next one has published its own."""


async def _unpublish(room: rtc.Room, publication: rtc.LocalTrackPublication) -> None:
    if room.isconnected():
        try:
            await room.local_participant.unpublish_track(publication.sid)
        except Exception:
            logger.warning("could not unpublish the track %s", publication.sid, exc_info=True)


__all__ = ["_ParticipantAudioOutput"]
