"""A place in somebody else's code where it gets stuck, in one of the ways in which code does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

SURVIVOR = "SURVIVOR"
"""What code says, yields or returns when it goes on after it was given up. Nobody may ever get it."""


class Parking:
    """Code calls `at(place)` everywhere; at some places it gets stuck.

    Args:
        place: Where; a tuple for several places.
        how: One of `WAYS`.
    """

    def __init__(self, place: str | tuple[str, ...], how: str) -> None:
        self.places = (place,) if isinstance(place, str) else place
        self.how = how
        self.reached = asyncio.Event()
        self.over = False
        """Nothing parks any more: the second life of a session is a healthy one."""
        self.tasks: set[asyncio.Task[Any]] = set()
        """The tasks that got stuck."""
        self.misdeeds: list[str] = []
        """What a survivor tried and was not refused."""
        self._released = asyncio.Event()
        self._thread_released = threading.Event()
        self._threads: list[threading.Thread] = []
        self._loop = asyncio.get_running_loop()

    async def at(self, place: str) -> bool:
        """Get stuck, if this is the place. True for code that goes on although it was given up."""
        if not self.stuck_at(place):
            return False
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        await WAYS[self.how](self)
        return True

    def at_sync(self, place: str) -> Any:
        """The same in a method that is not a coroutine: broken at once, or an awaitable that parks."""
        if not self.stuck_at(place):
            return None
        if self.how == RAISES:
            raise RuntimeError(f"{place} is broken")
        if self.how == CANCELS:
            raise asyncio.CancelledError  # as the result of a future that was cancelled does
        return self.at(place)

    def at_in_thread(self, place: str) -> bool:
        """The same in code that runs in a worker thread."""
        if place not in self.places or self.over:
            return False
        self._threads.append(threading.current_thread())
        self._loop.call_soon_threadsafe(self.reached.set)
        if self.how == RAISES:
            raise RuntimeError(f"{place} is broken")
        self._thread_released.wait(60)
        return True

    def stuck_at(self, place: str) -> bool:
        """Whether this is the place; it counts as reached then."""
        if place not in self.places or self.over:
            return False
        self.reached.set()
        return True

    def let_go(self) -> None:
        """Whatever is still stuck goes on."""
        self.over = True
        self._released.set()
        self._thread_released.set()
        for thread in self._threads:
            thread.join(1.0)

    # -- ways of being stuck ----------------------------------------------------------------------

    async def sleep(self) -> None:
        await asyncio.sleep(3600)

    async def wait_for_nothing(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def ignore_cancellation(self) -> None:
        while not self._released.is_set():
            try:
                await self._released.wait()
            except asyncio.CancelledError:
                pass

    async def raise_on_cancellation(self) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            raise RuntimeError(f"{self.places[0]} broke when it was cancelled") from None

    async def cancel_itself(self) -> None:
        raise asyncio.CancelledError

    async def block_a_thread(self) -> None:
        await asyncio.to_thread(self._thread_released.wait, 60)


SLEEPS = "sleeps for an hour"
AWAITS = "awaits what nobody sets"
IGNORES = "ignores cancellation"
RAISES = "raises when cancelled"
THREAD = "blocks a worker thread"
CANCELS = "cancels itself"

WAYS: dict[str, Callable[[Parking], Awaitable[None]]] = {
    SLEEPS: Parking.sleep,
    AWAITS: Parking.wait_for_nothing,
    IGNORES: Parking.ignore_cancellation,
    RAISES: Parking.raise_on_cancellation,
    THREAD: Parking.block_a_thread,
    CANCELS: Parking.cancel_itself,
}
