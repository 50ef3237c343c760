"""Running something only once the requests for it pause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from .task_scope import TaskScope

T = TypeVar("T")


class Debounced(Generic[T]):
    """Runs an async function after ``delay`` seconds without a further request.

    There is one run at a time: a request cancels the run before it, whether that is still waiting
    or already working. Failures are logged.
    """

    def __init__(self, func: Callable[[], Coroutine[Any, Any, T]], delay: float) -> None:
        """Wrap ``func``.

        Args:
            func: what to run; takes no arguments.
            delay: seconds.
        """
        self._func = func
        self._delay = delay
        self._scope = TaskScope(f"debounced {getattr(func, '__qualname__', repr(func))}")
        self._task: asyncio.Task[T] | None = None

    def schedule(self) -> asyncio.Task[T]:
        """Run after the delay. Returns the task, which includes the delay."""
        return self._start(self._run_later())

    def run(self) -> asyncio.Task[T]:
        """Run now. Returns the task."""
        return self._start(self._func())

    def __call__(self) -> asyncio.Task[T]:
        return self.run()

    def cancel(self) -> asyncio.Task[T] | None:
        """Cancel the run in progress. Returns its task, if there is one."""
        task = self._task
        if task is not None:
            task.cancel()
        self._task = None
        return task

    def is_running(self) -> bool:
        """Whether a run is waiting or working."""
        return self._task is not None and not self._task.done()

    def _start(self, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        self.cancel()
        self._task = self._scope.spawn(coro)
        return self._task

    async def _run_later(self) -> T:
        await asyncio.sleep(self._delay)
        return await self._func()


def debounced(
    delay: float,
) -> Callable[[Callable[[], Coroutine[Any, Any, T]]], Debounced[T]]:
    """Decorator: turn an async function without arguments into a `Debounced` one.

    Args:
        delay: seconds.
    """

    def decorate(func: Callable[[], Coroutine[Any, Any, T]]) -> Debounced[T]:
        return Debounced(func, delay)

    return decorate
