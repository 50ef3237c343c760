"""Waiting for the native layer, which may never answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from ...utils.aio import TaskScope, wait_until

T = TypeVar("T")


async def answer(scope: TaskScope, call: Coroutine[Any, Any, T], timeout: float, *, name: str) -> T:
    """Await a native call, for `timeout` seconds at most.

    A call that does not answer is cancelled and stays in `scope`, which names it when it is closed
    and the call still has not ended. A caller who is cancelled cancels the call.

    Raises:
        asyncio.TimeoutError: There was no answer in time. Errors of the call are raised as they are.
        RuntimeError: The scope is closed.
    """
    task = scope.spawn(call, name=name, log_errors=False)
    task.add_done_callback(_retrieve)
    try:
        pending = await wait_until(task, timeout)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if pending or task.cancelled():
        task.cancel()
        raise asyncio.TimeoutError(f"{name}: no answer within {timeout:g} s")
    return task.result()


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Its failure is for whoever waits; if nobody does any more, for nobody."""
    if not task.cancelled():
        task.exception()


__all__ = ["answer"]
