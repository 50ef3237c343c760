"""Starting a process, learning that it died, and nothing else.

The death is learned from the operating system, never from a pipe: whatever the process started may
hold its pipes open long after it.
"""

from __future__ import annotations

import multiprocessing.connection as mp_connection
import os
import threading
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

from ..log import logger
from .process_tree import kill_group, kill_tree

__all__ = ["ProcessHandle"]

# `Process.start` looks at all children, and taking an exit code twice loses it
_bookkeeping = threading.Lock()


class ProcessHandle:
    """One process of ours."""

    def __init__(self, mp_ctx: BaseContext, *, target: Callable[..., None], name: str) -> None:
        """Prepare.

        Args:
            mp_ctx: `spawn` or `forkserver`.
            target: module-level function that the process runs.
            name: of the process.
        """
        self._mp_ctx = mp_ctx
        self._target = target
        self._name = name
        self._proc: Any = None
        self._dead = False
        self.pid: int | None = None
        """Of the process, once started."""
        self.exitcode: int | None = None
        """Of the process, once dead; negative: the signal that killed it."""

    @property
    def alive(self) -> bool:
        """Whether it was started and has not been seen dead."""
        return self._proc is not None and not self._dead

    def start(self, args: Any, died: Callable[[int | None], None]) -> None:
        """Start the process. Blocks for some milliseconds; call it from a worker thread.

        Args:
            args: for the target; pickled.
            died: called from another thread with the exit code.
        """
        proc = self._mp_ctx.Process(target=self._target, args=(args,), name=self._name)  # type: ignore[attr-defined]
        with _bookkeeping:
            proc.start()
        self._proc = proc
        self.pid = proc.pid
        threading.Thread(
            target=self._watch, args=(died,), name=f"join_{self._name}", daemon=True
        ).start()

    def kill(self) -> None:
        """Kill the process and whatever it started. Does nothing to a dead one."""
        if self.alive and self.pid is not None:
            kill_tree(self.pid)

    def send_signal(self, sig: int) -> None:
        """Send a signal. Does nothing to a dead process."""
        if self.alive and self.pid is not None:
            try:
                os.kill(self.pid, sig)
            except (ProcessLookupError, PermissionError):
                pass

    def _watch(self, died: Callable[[int | None], None]) -> None:
        self._await_death()
        with _bookkeeping:
            self._proc.join()
            self.exitcode = self._proc.exitcode
            self._dead = True
            self._proc.close()
        if self.pid is not None:
            kill_group(self.pid)  # what it started and left behind
        try:
            died(self.exitcode)
        except RuntimeError:
            logger.debug("process %s died after the event loop of its owner", self.pid)

    def _await_death(self) -> None:
        if self._mp_ctx.get_start_method() == "forkserver":
            mp_connection.wait([self._proc.sentinel])  # written to by the server itself
        elif hasattr(os, "waitid"):
            try:
                os.waitid(os.P_PID, self._proc.pid, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                pass  # reaped by somebody else: it is dead
        else:
            self._proc.join()
