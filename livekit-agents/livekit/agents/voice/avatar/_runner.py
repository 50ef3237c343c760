"""Runs an avatar: audio in, pictures and sound out, on tracks of the room."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Coroutine, Iterator
from typing import Any

from livekit import rtc

from ...log import logger
from ...utils.aio import TaskScope, wait_until
from ..room_io._native import answer
from ._types import AudioReceiver, AudioSegmentEnd, AvatarOptions, VideoGenerator

PUBLISH_TIMEOUT = 15.0

LISTENER_TIMEOUT = 5.0
"""Seconds to wait before the first words for somebody who hears them."""


class AvatarRunner:
    """Feeds a `VideoGenerator` with the agent's audio and publishes what it makes."""

    def __init__(
        self,
        room: rtc.Room,
        *,
        audio_recv: AudioReceiver,
        video_gen: VideoGenerator,
        options: AvatarOptions,
        _queue_size_ms: int = 100,
        _lazy_publish: bool = True,
    ) -> None:
        """Set up a runner; nothing happens before `start`.

        Args:
            room: Where to publish, connected or to be connected.
            audio_recv: Where the agent's audio comes from.
            video_gen: Makes pictures and sound.
            options: The format of the tracks.
        """
        self._room = room
        self._audio = audio_recv
        self._video = video_gen
        self._options = options
        self._queue_size_ms = _queue_size_ms
        self._lazy_publish = _lazy_publish
        self._scope = TaskScope("avatar")
        self._notifications = TaskScope("avatar notifications")
        self._sync: rtc.AVSynchronizer | None = None
        self._sources: tuple[rtc.AudioSource, rtc.VideoSource] | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._position = 0.0
        """Seconds of the present segment handed to the track."""
        self._playing = False
        self._waited = False
        """Whether there is a listener, or there was none in time."""
        self._interruptions = 0
        self._receiving = False
        self._owed = 0
        """Segments that were received and whose end was not reported yet."""

    @property
    def av_sync(self) -> rtc.AVSynchronizer | None:
        """Keeps pictures and sound in step; None before `start`."""
        return self._sync

    async def start(self) -> None:
        """Begin. Tracks are published with the first picture or sound.

        What comes first waits until somebody has subscribed to the sound, for 5 s at most.

        Raises:
            RuntimeError: It runs already.
        """
        if self._sync is not None:
            raise RuntimeError("the avatar runs already")
        options = self._options
        await self._audio.start()
        self._audio.on("clear_buffer", self._on_clear)
        self._sources = (
            rtc.AudioSource(
                options.audio_sample_rate, options.audio_channels, queue_size_ms=self._queue_size_ms
            ),
            rtc.VideoSource(options.video_width, options.video_height),
        )
        self._sync = rtc.AVSynchronizer(
            audio_source=self._sources[0],
            video_source=self._sources[1],
            video_fps=options.video_fps,
            video_queue_size_ms=self._queue_size_ms,
        )
        if not self._lazy_publish:
            self._publish_soon()
        self._tasks = [
            self._scope.spawn(self._read_audio(), name="avatar: audio in"),
            self._scope.spawn(self._forward(), name="avatar: out"),
        ]

    # -- publishing -------------------------------------------------------------------------------

    def _publish_soon(self) -> None:
        if self._publishing is None:
            self._publishing = self._scope.spawn(self._publish(), name="publish an avatar")

    async def _publish(self) -> None:
        assert self._sources is not None
        await _connected(self._room)
        audio, video = self._sources
        local = self._room.local_participant
        tracks: list[tuple[rtc.LocalTrack, rtc.TrackSource.ValueType]] = [
            (
                rtc.LocalAudioTrack.create_audio_track("avatar_audio", audio),
                rtc.TrackSource.SOURCE_MICROPHONE,
            ),
            (
                rtc.LocalVideoTrack.create_video_track("avatar_video", video),
                rtc.TrackSource.SOURCE_CAMERA,
            ),
        ]
        published = []
        for track, source in tracks:
            publishing = local.publish_track(track, rtc.TrackPublishOptions(source=source))
            name = f"publish {track.name}"
            published.append(await answer(self._scope, publishing, PUBLISH_TIMEOUT, name=name))
        listener = published[0].wait_for_subscription()
        try:
            await answer(self._scope, listener, LISTENER_TIMEOUT, name="wait for a listener")
        except asyncio.TimeoutError:
            logger.warning("nobody listens to the avatar yet: it speaks all the same")

    async def _listened_to(self) -> None:
        """Publish, and return when somebody listens, or did not in time.

        What is played before that nobody ever hears.
        """
        self._publish_soon()
        if not self._waited:
            assert self._publishing is not None
            await wait_until(self._publishing, LISTENER_TIMEOUT)
            self._waited = True

    # -- running ----------------------------------------------------------------------------------

    async def _read_audio(self) -> None:
        async for item in self._audio:
            frame = isinstance(item, rtc.AudioFrame)
            if frame and not self._receiving:
                self._owed += 1
            self._receiving = frame
            await self._video.push_audio(item)

    async def _forward(self) -> None:
        assert self._sync is not None
        async for item in self._video:
            if isinstance(item, AudioSegmentEnd):
                await self._sync.wait_for_playout()
                self._finished(interrupted=False)
                continue
            before = self._interruptions
            await self._listened_to()
            if self._interruptions != before:
                continue  # it belongs to what was interrupted
            if isinstance(item, rtc.AudioFrame):
                await self._play(item)
            else:
                await self._sync.push(item)

    async def _play(self, frame: rtc.AudioFrame) -> None:
        """Hand sound to the track, up to an interruption."""
        assert self._sync is not None
        if not self._playing:
            self._playing, self._position = True, 0.0
            self._notify(self._audio.notify_playback_started())
        before = self._interruptions
        for piece in _pieces(frame, self._queue_size_ms):
            if self._interruptions != before:
                return
            self._position += piece.duration
            await self._sync.push(piece)

    def _finished(self, *, interrupted: bool) -> None:
        """A segment is over. What was received and never played counts as interrupted, too."""
        position, self._position, self._playing = self._position, 0.0, False
        while self._owed:
            self._owed -= 1
            self._notify(self._audio.notify_playback_finished(position, interrupted))
            position = 0.0
            if not interrupted:
                return

    def _on_clear(self) -> None:
        self._receiving = False
        self._interruptions += 1
        self._scope.spawn(self._clear(), name="avatar: interrupt")

    async def _clear(self) -> None:
        assert self._sync is not None and self._sources is not None
        result = self._video.clear_buffer()
        if inspect.isawaitable(result):
            await result
        self._position = max(0.0, self._position - self._sources[0].queued_duration)
        await self._sync.clear_queue()
        self._finished(interrupted=True)

    def _notify(self, result: Coroutine[Any, Any, None] | None) -> None:
        """Run what a receiver's report returned, without holding up the pictures."""
        if result is not None and inspect.iscoroutine(result):
            self._notifications.spawn(result, name="avatar: report")

    async def wait_for_complete(self) -> None:
        """Return when the audio has ended and all of it was shown.

        Raises:
            RuntimeError: It does not run.
            Exception: What the receiver or the generator failed with.
        """
        if not self._tasks:
            raise RuntimeError("the avatar is not started: call start() first")
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in self._tasks:
            if task.done():
                task.result()

    async def aclose(self) -> None:
        """End it, the receiver too. Safe at any time, bounded."""
        self._audio.off("clear_buffer", self._on_clear)
        closing = TaskScope("avatar close")
        receiver = closing.spawn(self._audio.aclose(), name="close the audio receiver")
        await self._scope.cancel(1.0)
        await self._notifications.cancel(0.5)
        await wait_until(receiver, 1.0)
        await closing.cancel(0.25)
        self._tasks = []
        sync, self._sync = self._sync, None
        if sync is not None:
            await sync.aclose()
        if self._sources is not None:
            for source in self._sources:
                await source.aclose()
            self._sources = None
        logger.debug("the avatar has ended")


def _pieces(frame: rtc.AudioFrame, queue_size_ms: int) -> Iterator[rtc.AudioFrame]:
    """Equal parts of a frame that fit into the queue of a track.

    The queue holds whole blocks of 10 ms: one of 100 ms at 22.05 kHz takes 2200 samples, not 2205.
    Of what doesn't fit, the native source loses track now and then, and then refuses all sound.
    """
    room = frame.sample_rate // 100 * max(1, queue_size_ms // 10)
    if frame.samples_per_channel <= room:
        yield frame
        return
    count = math.ceil(frame.samples_per_channel / room)
    samples = math.ceil(frame.samples_per_channel / count)
    width = samples * frame.num_channels
    for start in range(0, len(frame.data), width):
        data = frame.data[start : start + width]
        yield rtc.AudioFrame(
            bytes(data), frame.sample_rate, frame.num_channels, len(data) // frame.num_channels
        )


async def _connected(room: rtc.Room) -> None:
    if room.isconnected():
        return
    connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def look(state: object) -> None:
        if room.isconnected() and not connected.done():
            connected.set_result(None)

    room.on("connection_state_changed", look)
    try:
        await connected
    finally:
        room.off("connection_state_changed", look)


__all__ = ["AvatarRunner"]
