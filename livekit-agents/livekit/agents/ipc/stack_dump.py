"""What every thread and task of a process is doing, written to a file before it is killed."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import threading
import time
import traceback
from typing import TextIO

from ..utils.aio.task_scope import await_stack

__all__ = ["dump_stacks", "dumps_wanted"]


def dumps_wanted() -> bool:
    """Whether `LK_DUMP_STACK_TRACES` asks for dumps."""
    return os.environ.get("LK_DUMP_STACK_TRACES", "0").lower() not in ("", "0", "false", "no")


def dump_stacks(loop: asyncio.AbstractEventLoop | None) -> str | None:
    """Write the stacks of this process to a file in `LK_DUMP_DIR` (default: the temp directory).

    Args:
        loop: the event loop whose tasks are described.

    Returns:
        The path of the file; None when dumps are not wanted.
    """
    if not dumps_wanted():
        return None
    handle, path = tempfile.mkstemp(
        prefix=f"livekit-agents-pid-{os.getpid()}-{time.time_ns()}-",
        suffix=".stacktrace",
        dir=os.environ.get("LK_DUMP_DIR") or None,
    )
    with open(handle, "w", encoding="utf-8") as out:
        _write_threads(out)
        if loop is not None:
            _write_tasks(out, loop)
        _write_memory(out)
    return path


def _write_threads(out: TextIO) -> None:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        out.write(f"thread {names.get(ident, '?')} ({ident})\n")
        out.writelines(traceback.format_stack(frame))
        out.write("\n")


def _write_tasks(out: TextIO, loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        state = "running" if not task.done() else "done"
        out.write(f"task {task.get_name()} ({state})\n{await_stack(task)}\n")


def _write_memory(out: TextIO) -> None:
    from .memory import measure

    sample = measure(os.getpid())
    if sample is not None:
        out.write(f"memory: {sample.mb:.0f} MB ({sample.metric})\n")
