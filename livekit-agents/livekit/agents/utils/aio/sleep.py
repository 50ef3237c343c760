"""A sleep that can be prolonged or shortened while somebody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Generator


class SleepFinished(Exception):
    """`Sleep.reset` came too late: the time is over."""


class Sleep:
    """Like `asyncio.sleep`, but the end can be moved. To be awaited by one task.

    ::

        away = sleep(15.0)
        ...                       # elsewhere, whenever the user speaks:
        away.reset()
        ...
        await away
    """

    def __init__(self, delay: float) -> None:
        """Prepare a sleep of ``delay`` seconds. It starts when it is awaited."""
        self._delay = delay
        self._over: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._cancelled = False

    def reset(self, new_delay: float | None = None) -> None:
        """Start over: the sleep ends ``new_delay`` (default: the same) seconds from now.

        Before the sleep is awaited this only changes its length.

        Raises:
            SleepFinished: it is over or was cancelled.
        """
        if self._cancelled or (self._over is not None and self._over.done()):
            raise SleepFinished
        if new_delay is not None:
            self._delay = new_delay
        if self._over is not None:
            self._start_timer(self._over)

    def cancel(self) -> None:
        """End it now: the waiting task gets `asyncio.CancelledError`. No effect once over."""
        if self._over is None:
            self._cancelled = True
        elif self._over.cancel():
            self._stop_timer()

    def __await__(self) -> Generator[object, None, None]:
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
            if self._cancelled:
                self._over.cancel()
            else:
                self._start_timer(self._over)
        try:
            yield from self._over
        finally:
            self._stop_timer()

    def _start_timer(self, over: asyncio.Future[None]) -> None:
        self._stop_timer()
        self._timer = over.get_loop().call_later(max(0.0, self._delay), _finish, over)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _finish(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


def sleep(delay: float) -> Sleep:
    """A `Sleep` of ``delay`` seconds."""
    return Sleep(delay)
