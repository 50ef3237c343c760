"""What keeps a process of ours from outliving its worker, its job, or a signal meant for others."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from ..log import logger
from .log_queue import LogForwarder
from .process_tree import kill_group, lead_own_session
from .stack_dump import dump_stacks

__all__ = ["ParentWatch", "exit_process", "install_signal_handlers"]

_POLL = 1.0
"""Seconds between two looks at the parent, where its end does not wake us."""

_THREAD_REPORT = 0.25
"""Seconds a thread gets to end by itself before it is reported."""

_FLUSH = 2.0
"""Seconds for the last log records to leave."""


def install_signal_handlers(loop: Callable[[], asyncio.AbstractEventLoop | None]) -> None:
    """Ignore the signals by which a whole group is stopped (the worker decides), allow dumps.

    To be called first of all, under every start method: a fork server imports modules long before
    the process exists, so nothing that happens at import time does.
    """
    lead_own_session()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, lambda *_: dump_stacks(loop()))


class ParentWatch:
    """A thread that ends this process some time after its worker is gone.

    A thread and not a task: the event loop may be blocked, and nobody else is left to notice.
    """

    def __init__(self, control: socket.socket, patience: Callable[[], float]) -> None:
        """Start watching.

        Args:
            control: the socket to the worker. It is watched through a copy, never read.
            patience: asked when the worker is gone: seconds until this process is ended.
        """
        self._fd = os.dup(control.fileno())
        self._parent = os.getppid()
        self._patience = patience
        self._thread = threading.Thread(target=self._run, name="parent_watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._parent_gone():
            pass
        time.sleep(self._patience())
        sys.stderr.write(
            f"process {os.getpid()}: the worker is gone and the job did not end in time, exiting\n"
        )
        sys.stderr.flush()
        kill_group(os.getpid())
        os._exit(1)

    def _parent_gone(self) -> bool:
        if os.getppid() != self._parent:
            return True
        if not hasattr(select, "poll"):
            time.sleep(_POLL)
            return False
        poller = select.poll()
        poller.register(self._fd, getattr(select, "POLLRDHUP", 0) | select.POLLHUP)
        return bool(poller.poll(_POLL * 1000))


def exit_process(code: int, logs: LogForwarder | None) -> None:
    """End this process now, whatever threads are left. Does not return.

    Returning from the main function would make the interpreter wait for them, without limit: a job
    that ended well would be taken for stuck because a library left a thread behind.
    """
    main = threading.current_thread()
    for thread in threading.enumerate():
        if thread is main or thread.daemon or thread.name.startswith(("asyncio_", "ThreadPool")):
            continue
        thread.join(_THREAD_REPORT)
        if thread.is_alive():
            frame = sys._current_frames().get(thread.ident or 0)
            stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
            logger.warning(
                "thread %s is still running at the end of the process\n%s", thread.name, stack
            )
    if logs is not None:
        logs.stop(_FLUSH)
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)
    os._exit(code)


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except (OSError, ValueError, AttributeError):
        pass  # closed, or none at all
