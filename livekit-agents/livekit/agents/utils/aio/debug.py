"""Finding callbacks that block the event loop."""

from __future__ import annotations

import asyncio
import functools
from asyncio import events
from time import perf_counter  # real time, whatever clock the loop follows
from typing import Any

from ...log import logger

_MAX_DESCRIPTION = 300


def hook_slow_callbacks(slow_duration: float) -> None:
    """Warn about every callback or task step that keeps an event loop busy for too long.

    Affects all loops of the process that are based on asyncio's own. Calling it again changes the
    threshold.

    Args:
        slow_duration: seconds.
    """
    run: Any = events.Handle._run
    original = getattr(run, "_unhooked", run)

    @functools.wraps(original)
    def timed_run(handle: asyncio.Handle) -> Any:
        began = perf_counter()
        result = original(handle)
        elapsed = perf_counter() - began
        if elapsed >= slow_duration:
            logger.warning("Running %s took too long: %.2f seconds", _describe(handle), elapsed)
        return result

    timed_run._unhooked = original  # type: ignore[attr-defined]
    events.Handle._run = timed_run  # type: ignore[method-assign,assignment]


def _describe(handle: asyncio.Handle) -> str:
    callback = getattr(handle, "_callback", None)
    owner = getattr(callback, "__self__", None)
    text = repr(owner if isinstance(owner, asyncio.Task) else handle)
    return text if len(text) <= _MAX_DESCRIPTION else text[:_MAX_DESCRIPTION] + "…"
