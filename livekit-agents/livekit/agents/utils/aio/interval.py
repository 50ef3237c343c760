"""A ticker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from .sleep import Sleep


class Interval:
    """Ticks at once, and then each time ``interval`` seconds after the tick before.

    A late tick delays all later ones; none is made up for. Also an async iterator over the numbers
    of the ticks. To be used by one task.
    """

    def __init__(self, interval: float) -> None:
        """Prepare a ticker of ``interval`` seconds."""
        self._interval = interval
        self._count = 0
        self._last: float | None = None
        self._wait: Sleep | None = None

    async def tick(self) -> int:
        """Wait for the next tick and return its number, counted from 0."""
        loop = asyncio.get_running_loop()
        if self._last is not None:
            self._wait = Sleep(self._last + self._interval - loop.time())
            try:
                await self._wait
            finally:
                self._wait = None
        self._last = loop.time()
        self._count += 1
        return self._count - 1

    def reset(self) -> None:
        """Put off the next tick: it comes ``interval`` seconds from now."""
        if self._last is not None:
            self._last = asyncio.get_running_loop().time()
        if self._wait is not None:
            self._wait.reset(self._interval)

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        return await self.tick()


def interval(interval: float) -> Interval:
    """An `Interval` of ``interval`` seconds."""
    return Interval(interval)
