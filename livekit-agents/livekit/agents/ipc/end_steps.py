"""Steps that can be left behind: each has a limit, and none keeps the next from running."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from ..log import logger
from ..utils.aio import Survivor, TaskScope, wait_until

__all__ = ["EndSteps", "describe_survivors"]


class EndSteps:
    """Runs the steps of a job's end, one after the other."""

    def __init__(self, announce: Callable[[str], None], *, grace: float) -> None:
        """Set up.

        Args:
            announce: called with the name of each step that begins.
            grace: seconds that a step which was cancelled at its limit has to end.
        """
        self.announce = announce
        self._grace = grace
        self.overran: list[str] = []
        """Names of the steps that did not end within their limits."""

    async def run(
        self, name: str, step: Callable[[], Coroutine[Any, Any, Any]], limit: float
    ) -> Any:
        """Run a step in a task of its own. Returns its result, None if it failed or overran.

        Errors are logged. At its limit it is cancelled, and after the grace left behind: the log
        then says where it hangs.
        """
        self.announce(name)
        scope = TaskScope(f"end of the job: {name}")
        task = scope.spawn(step(), name=name, log_errors=False)
        if await wait_until(task, limit):
            self.overran.append(name)
            logger.warning("%s did not end within %g s, cancelling it", name, limit)
            describe_survivors(name, await scope.cancel(self._grace))
        if not task.done() or task.cancelled():
            return None
        error = task.exception()
        if error is not None:
            logger.error("error in %s", name, exc_info=error)
            return None
        return task.result()


def describe_survivors(name: str, survivors: list[Survivor]) -> None:
    """Log the tasks that ignored their cancellation, with what they wait for."""
    for survivor in survivors:
        logger.error(
            "%s: task %s ignores its cancellation and is left behind, after %.1f s at:\n%s",
            name,
            survivor.name,
            survivor.age,
            survivor.stack,
        )
