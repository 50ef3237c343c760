"""Waiting for a number of jobs, as in Go."""

from __future__ import annotations

import asyncio


class WaitGroup:
    """Counts jobs: `add` when one starts, `done` when it ends, `wait` until none is left."""

    def __init__(self) -> None:
        self._count = 0
        self._zero = asyncio.Event()
        self._zero.set()

    def add(self, delta: int = 1) -> None:
        """Change the count of open jobs by ``delta``.

        Raises:
            ValueError: the count would become negative; it is left as it was.
        """
        if self._count + delta < 0:
            raise ValueError(
                f"WaitGroup: {self._count} job(s) open, cannot change that by {delta}: done() was "
                "called more often than add()"
            )
        self._count += delta
        if self._count == 0:
            self._zero.set()
        else:
            self._zero.clear()

    def done(self) -> None:
        """Count one job less. Raises as `add` does."""
        self.add(-1)

    async def wait(self) -> None:
        """Wait until no job is open."""
        await self._zero.wait()
