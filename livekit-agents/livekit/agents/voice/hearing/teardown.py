"""Ending streams of others within a bound, whatever they do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ...utils.aio import Survivor, TaskScope, wait_until

KILL_GRACE = 0.5
"""Seconds at the end of a teardown that are left for reacting to a (second) cancellation."""


def split(timeout: float) -> tuple[float, float]:
    """The part of `timeout` in which things may end by themselves, and the rest."""
    grace = min(KILL_GRACE, timeout / 2)
    return timeout - grace, grace


async def end_tasks(scope: TaskScope, timeout: float) -> list[Survivor]:
    """Cancel a scope's tasks, letting them clean up; cancel again and give up at `timeout`.

    Unlike `TaskScope.cancel` the second cancellation comes late, since the first one is how a
    stream is closed in the ordinary way: what it does then may take its time.
    """
    patience, grace = split(timeout)
    scope.cancel_soon()
    await wait_until(scope.tasks, patience)
    return await scope.cancel(grace)


class Closers:
    """Streams that were given up and are closing. None is forgotten, none is cut short early.

    A closing stream must not be cancelled: that would orphan what it was about to close. Only
    when the time is up it is, and then reported.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._scope = TaskScope(owner)
        self._survivors: list[Survivor] = []

    def close(self, name: str, aclose: Callable[[], Awaitable[object]]) -> None:
        """Start closing something, in the background. A list it returns counts as survivors."""

        async def run() -> None:
            left = await aclose()
            if isinstance(left, list):
                self._survivors += left

        if self._scope.closed:  # something retired after the end still has to be closed
            self._scope = TaskScope(self._owner)
        self._scope.spawn(run(), name=f"close {name}")

    async def finish(self, timeout: float) -> list[Survivor]:
        """Wait for all, at most `timeout` seconds; returns what ignored the final cancellation."""
        if self._scope.tasks:
            patience, grace = split(timeout)
            await asyncio.sleep(0)  # each one gets to run, however short the time
            await self._scope.join(patience)
            self._survivors += await self._scope.cancel(grace)
        survivors, self._survivors = self._survivors, []
        return survivors


async def side_by_side(*closing: Coroutine[Any, Any, list[Survivor]]) -> list[Survivor]:
    """Run teardowns, each of them bounded, at the same time. Cancelling the wait stops none."""
    scope = TaskScope("hearing")
    tasks = [scope.spawn(coro) for coro in closing]
    await wait_until(tasks, None)
    return [
        survivor
        for task in tasks
        if not task.cancelled() and task.exception() is None
        for survivor in task.result()
    ]
