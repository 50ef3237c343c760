"""What an avatar's worker is made of: where its audio comes from, and what makes its video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from livekit import rtc

from ..._emitter import IsolatedEmitter


class AudioSegmentEnd:
    """Stands in a stream of frames for the end of a segment of speech."""

    def __repr__(self) -> str:
        return "AudioSegmentEnd()"


class AudioReceiver(ABC, IsolatedEmitter[Literal["clear_buffer"]]):
    """Yields the agent's audio on the avatar's side, and reports back what was played.

    Emits `clear_buffer` when what is not yet played has to be dropped.
    """

    async def start(self) -> None:
        """Get ready to receive."""

    @abstractmethod
    def notify_playback_finished(
        self, playback_position: float, interrupted: bool
    ) -> Coroutine[Any, Any, None] | None:
        """Report the end of a segment, once for each.

        Args:
            playback_position: Seconds of it that were played.
            interrupted: Whether the rest was dropped.
        """

    @abstractmethod
    def notify_playback_started(self) -> Coroutine[Any, Any, None] | None:
        """Report that a segment has begun to play."""

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[rtc.AudioFrame | AudioSegmentEnd]:
        """Frames, with an `AudioSegmentEnd` behind each segment."""

    async def aclose(self) -> None:
        """Receive no more."""


class VideoGenerator(ABC):
    """Makes an avatar's pictures, and the sound that belongs to them, out of the agent's audio."""

    @abstractmethod
    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """Take the agent's audio."""

    @abstractmethod
    def clear_buffer(self) -> Coroutine[Any, Any, None] | None:
        """Drop what has been pushed and is not yet shown."""

    @abstractmethod
    def __aiter__(
        self,
    ) -> AsyncIterator[rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd]:
        """What to show and to play, in order."""


@dataclass
class AvatarOptions:
    """The format of an avatar's tracks."""

    video_width: int
    video_height: int
    video_fps: float
    audio_sample_rate: int
    audio_channels: int


__all__ = ["AudioReceiver", "AudioSegmentEnd", "AvatarOptions", "VideoGenerator"]
