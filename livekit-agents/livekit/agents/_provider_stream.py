"""A stream that a provider's code fills from a task of its own, and that always comes to an end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from ._connections import Connections
from ._streams import CLOSE_GRACE, ClosesOnExit, Patience, report_survivors
from .utils.aio import Survivor, TaskScope

__all__ = ["ProviderStream"]


class ProviderStream(ABC, ClosesOnExit):
    """Base of the streams of LLMs and TTSs: their task, and how it is ended."""

    def _open(self, owner: str) -> None:
        """Start `_main_task`, on behalf of `owner`. The last thing the constructor does."""
        self._closing = False
        self._close_grace = CLOSE_GRACE
        """Seconds that the provider's code may take for its cleanup."""
        self._closing_task: asyncio.Task[None] | None = None
        self._survivors: list[Survivor] = []
        self._scope = TaskScope(owner)
        self._recorded_connections = Connections(f"{owner} stream")
        # Subclasses go on with their own set-up after this constructor. A task factory that runs
        # tasks eagerly would call `_run` before they are done.
        self._constructing = True
        with self._recorded_connections.recording():
            self._task = self._scope.spawn(
                self._main_task(), name=f"{type(self).__name__}._main_task", log_errors=False
            )
        self._task.add_done_callback(self._on_task_done)
        self._constructing = False

    @abstractmethod
    async def _main_task(self) -> None:
        """Run the attempts, then `_end`."""

    @abstractmethod
    def _end(self, *, cancelled: bool) -> None:
        """Let the consumer finish, and report. Does nothing the second time."""

    def _before_close(self) -> None:
        """Let go of what the provider's code waits for, so that it can end."""

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # taken: the consumer sees it, or `aclose` made it moot
        self._end(cancelled=task.cancelled())  # it may have been cancelled before it ever ran

    async def aclose(self) -> None:
        """Stop, whatever the provider's code does.

        Takes no longer than the plugin's own cleanup, and 2 s at most: code that ignores its
        cancellation is abandoned with an error log, its connections are cut, and it can't emit
        anything any more. Idempotent; calls at the same time share one close. Cancelling a call
        ends its wait, not the close. Wakes a task that waits in `__anext__`.
        """
        closing = self._begin_close()
        if asyncio.current_task() is not self._task:  # which could wait for itself for ever
            await asyncio.shield(closing)

    def _begin_close(self) -> asyncio.Task[None]:
        if self._closing_task is None:
            self._closing = True
            self._before_close()
            self._closing_task = self._scope.spawn(
                self._end_task(), name=f"{type(self).__name__}.aclose"
            )
            self._scope.cancel_soon(spare=(self._closing_task,))
        return self._closing_task

    async def _end_task(self) -> None:
        patience = Patience(self._close_grace)
        survivors = await self._scope.cancel(self._close_grace)
        if survivors or patience.lost:
            self._recorded_connections.cut()
        if survivors:
            self._survivors = survivors
            report_survivors(survivors)
        self._end(cancelled=True)

    def _left(self) -> None:
        self._begin_close()
