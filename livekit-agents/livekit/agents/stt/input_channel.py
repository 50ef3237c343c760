"""The channel that a recognition stream's audio arrives in, one for each connection attempt."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from livekit import rtc

from ..utils.aio import Chan
from .replay_buffer import ReplayBuffer

T = TypeVar("T")


class InputChannel(Chan[rtc.AudioFrame | T]):
    """A channel over a replay buffer, which thereby learns what the attempt has taken."""

    def __init__(self, buffer: ReplayBuffer[T]) -> None:
        super().__init__()
        # the buffer is the queue: it has the part of deque's interface that channels use
        self._items = buffer  # type: ignore[assignment]

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
