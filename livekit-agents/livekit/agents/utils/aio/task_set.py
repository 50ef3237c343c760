"""Background tasks that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from .task_scope import TaskScope

_T = TypeVar("_T")


class TaskSet:
    """Keeps a strong reference to tasks until they are done, so that none is garbage collected.

    It has no end: to stop the tasks of a component, give it a `TaskScope` instead.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Make an empty set.

        Args:
            loop: accepted for compatibility; tasks run on the loop of their creator.
        """
        self._scope = TaskScope("TaskSet")

    def create_task(
        self, coro: Coroutine[Any, Any, _T], name: str | None = None
    ) -> asyncio.Task[_T]:
        """Start ``coro`` and keep its task until it is done.

        Raises:
            RuntimeError: no event loop is running.
        """
        return self._scope.spawn(coro, name=name, log_errors=False)

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        """The tasks that are not done. A copy."""
        return set(self._scope.tasks)
