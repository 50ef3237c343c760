"""The agent's audio for an avatar in the same process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from livekit import rtc

from ...utils.aio import Chan
from ..io import AudioOutput, AudioOutputCapabilities
from ._types import AudioReceiver, AudioSegmentEnd


class QueueAudioOutput(AudioOutput, AudioReceiver):
    """Both ends of a queue: the session's audio output, and an avatar's `AudioReceiver`.

    The reader answers every segment, and every `clear_buffer` event during one, with
    `notify_playback_finished`.
    """

    def __init__(
        self, *, sample_rate: int | None = None, wait_playback_start: bool = False
    ) -> None:
        """Make a queue.

        Args:
            sample_rate: What the reader wants, in Hz; None takes any.
            wait_playback_start: The reader calls `notify_playback_started`; otherwise the first
                frame of a segment counts as its start.
        """
        AudioOutput.__init__(
            self,
            label="DebugQueueIO",
            capabilities=AudioOutputCapabilities(pause=False),
            sample_rate=sample_rate,
        )
        self._queue: Chan[rtc.AudioFrame | AudioSegmentEnd] = Chan()
        self._wait_playback_start = wait_playback_start

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Queue a frame. Does nothing once closed."""
        if self._queue.closed:
            return
        first = not self._capturing
        await super().capture_frame(frame)
        self._queue.send_nowait(frame)
        if first and not self._wait_playback_start:
            self.on_playback_started(created_at=time.time())

    def flush(self) -> None:
        """Queue the end of the segment, if something was captured."""
        if self._capturing and not self._queue.closed:
            self._queue.send_nowait(AudioSegmentEnd())
        super().flush()

    def clear_buffer(self) -> None:
        """Empty the queue, and tell the reader."""
        while not self._queue.empty():
            self._queue.recv_nowait()
        self.emit("clear_buffer")  # type: ignore[arg-type]

    def notify_playback_finished(self, playback_position: float, interrupted: bool) -> None:
        """The reader has played a segment. See `AudioReceiver`."""
        self.on_playback_finished(playback_position=playback_position, interrupted=interrupted)

    def notify_playback_started(self) -> None:
        """The reader plays. Counts only with `wait_playback_start`."""
        if self._wait_playback_start:
            self.on_playback_started(created_at=time.time())

    def __aiter__(self) -> AsyncIterator[rtc.AudioFrame | AudioSegmentEnd]:
        return self._queue

    async def aclose(self) -> None:
        """End the queue: the reader sees what is in it, and then the end."""
        self._queue.close()
        await asyncio.sleep(0)


__all__ = ["QueueAudioOutput"]
