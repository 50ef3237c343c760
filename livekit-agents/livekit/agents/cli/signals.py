"""What a signal does to a running worker: the first asks it to end, the second insists.

A signal handler may interrupt any line of anybody's code, so the first signal only schedules the
end on the event loop. If the loop is blocked, a thread breaks the call that blocks it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

__all__ = ["HANDLED_SIGNALS", "ExitSignals"]

HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_EXIT_ESCALATION_TIMEOUT = 3.0
"""Seconds that the loop may take to notice the first signal."""


class _LoopBlocked(SystemExit):
    """Raised out of a signal handler to break a call that blocks the event loop."""


class ExitSignals:
    """Catches SIGINT and SIGTERM for the time of a `with` block, on the main thread."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_exit: Callable[[], None], *, what: str = "worker"
    ) -> None:
        """Set up.

        Args:
            loop: where `on_exit` is called.
            on_exit: called once, for the first signal.
            what: is ended, for the message on stderr.
        """
        self._loop = loop
        self._on_exit = on_exit
        self._what = what
        self._received = False
        self._served = threading.Event()
        self._previous: dict[int, object] = {}

    @property
    def received(self) -> bool:
        """Whether there was a signal."""
        return self._received

    def __enter__(self) -> ExitSignals:
        if threading.current_thread() is threading.main_thread():
            for number in HANDLED_SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._served.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._received and self._breaking:
            self._breaking = False
            raise _LoopBlocked(1)
        if self._received:
            sys.stderr.write("exiting forcefully\n")
            sys.stderr.flush()
            os._exit(1)
        self._received = True
        self._loop.call_soon_threadsafe(self._serve)
        threading.Thread(target=self._escalate, args=(number,), daemon=True).start()

    _breaking = False

    def _serve(self) -> None:
        self._served.set()
        self._on_exit()

    def _escalate(self, number: int) -> None:
        if self._served.wait(_EXIT_ESCALATION_TIMEOUT):
            return
        sys.stderr.write(f"the {self._what} is blocked, breaking the call that blocks it\n")
        self._breaking = True
        ident = threading.main_thread().ident
        if hasattr(signal, "pthread_kill") and ident is not None:
            signal.pthread_kill(ident, number)
        else:
            os._exit(1)
