"""The channel that a recognition stream's audio arrives in, one for each connection attempt."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from livekit import rtc

from ..utils.aio import Chan, ChanClosed
from ..utils.aio.channel import wake_one
from .held_audio import EPSILON
from .replay_buffer import ReplayBuffer

T = TypeVar("T")


class InputChannel(Chan[rtc.AudioFrame | T]):
    """A channel over a replay buffer, which thereby learns what the attempt has taken."""

    def __init__(self, buffer: ReplayBuffer[T]) -> None:
        super().__init__()
        # the buffer is the queue: it has the part of deque's interface that channels use
        self._items = buffer  # type: ignore[assignment]
        self._buffer = buffer
        self._wanted = 0.0

    def send_nowait(self, value: rtc.AudioFrame | T) -> None:
        """Put a frame or a mark into the channel.

        Raises:
            ChanClosed: the channel is closed.
        """
        if self._closed:
            raise ChanClosed
        self._buffer.append(value)
        if self._receivers and (
            self._buffer.waiting >= self._wanted or not isinstance(value, rtc.AudioFrame)
        ):
            wake_one(self._receivers)

    async def enough(self, seconds: float) -> None:
        """Wait until something is to be taken: that much audio, a mark, or the end.

        Who sends in chunks need not wake up for every frame. What was there before is enough, too.
        """
        if self._items or self._closed:
            return
        self._wanted = seconds - EPSILON
        try:
            await self._wait(self._receivers, first=False)
        finally:
            self._wanted = 0.0

    def poll(self) -> rtc.AudioFrame | T | None:
        """Take the oldest item; None if there is none."""
        return self._items.popleft() if self._items else None

    def detach(self) -> None:
        """End this channel without its audio, which belongs to the next attempt.

        A task that the old attempt left behind can't take any of it.
        """
        self._items = deque()
        self.close()

    async def next_push(self) -> None:
        """Wait until something is sent or the channel is closed, without taking it."""
        if not self.closed:
            await self._wait(self._receivers, first=False)
