"""The event loop of a process or thread of ours: as `asyncio.run`, but ending within a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ..log import logger
from ..telemetry.loop_monitor import start_monitoring, stop_monitoring
from ..utils.aio import wait_until
from .end_steps import describe_survivors

__all__ = ["run_loop"]

_TASKS = 2.0
"""Seconds that tasks which nobody owns get to end after their cancellation."""

_GENERATORS = 1.0
"""Seconds for closing asynchronous generators."""


def run_loop(
    main: Callable[[], Coroutine[Any, Any, None]],
    *,
    debug: bool = False,
    name: str,
    created: Callable[[asyncio.AbstractEventLoop], None] = lambda _: None,
    resume_after: type[BaseException] | None = None,
) -> None:
    """Run a coroutine on a loop of its own, in the calling thread.

    What is still running after it is cancelled and, if it ignores that, named and left behind.
    Blocked threads of the default executor are not waited for.

    Args:
        main: makes the coroutine.
        debug: of the loop.
        name: for the monitor of the loop, and logs.
        created: called with the loop before it runs.
        resume_after: what a signal handler raises to break a call that blocks the loop. It ends
            whoever made the call; the loop goes on.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.set_debug(debug)
    loop.slow_callback_duration = 0.1
    created(loop)
    if name == "job":
        start_monitoring(loop, name=name)
    task = loop.create_task(main(), name=name)
    try:
        try:
            loop.run_until_complete(task)
        except BaseException as error:
            if resume_after is None or not isinstance(error, resume_after) or task.done():
                raise
            loop.run_until_complete(task)
    finally:
        try:
            stop_monitoring(loop)
            loop.run_until_complete(_end(name))
        finally:
            asyncio.set_event_loop(None)
            loop.close()


async def _end(name: str) -> None:
    from ..utils.aio.task_scope import abandon, is_abandoned

    loop = asyncio.get_running_loop()
    own = asyncio.current_task()
    rest = [t for t in asyncio.all_tasks() if t is not own and not is_abandoned(t)]
    for task in rest:
        task.cancel()
    late = await wait_until(rest, _TASKS)
    describe_survivors(name, [abandon(t, name) for t in late])
    generators = loop.create_task(loop.shutdown_asyncgens())
    if await wait_until(generators, _GENERATORS):
        logger.warning("%s: asynchronous generators could not be closed", name)
        generators.cancel()
