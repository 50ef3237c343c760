"""Noticing that a stream was dropped: nobody reads it, and nobody closed it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class ReaderWatch:
    """Calls back when the task that read last has ended and no other took over.

    The pause before that is long: each item may legitimately be read by a task of its own.
    """

    __slots__ = ("_grace", "_on_lost", "_reader", "_timer")

    def __init__(self, grace: float, on_lost: Callable[[], None]) -> None:
        """Start watching.

        Args:
            grace: Seconds between the end of the reader and the callback.
            on_lost: Called once; watching ends with it.
        """
        self._grace = grace
        self._on_lost = on_lost
        self._reader: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def note_reader(self) -> None:
        """The current task reads."""
        task = asyncio.current_task()
        if task is self._reader:
            return
        self.stop()
        self._reader = task
        if task is not None:
            task.add_done_callback(self._reader_ended)

    def stop(self) -> None:
        """Watch no more."""
        if self._reader is not None:
            self._reader.remove_done_callback(self._reader_ended)
            self._reader = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _reader_ended(self, task: asyncio.Task[Any]) -> None:
        self._reader = None
        self._timer = task.get_loop().call_later(self._grace, self._on_lost)
