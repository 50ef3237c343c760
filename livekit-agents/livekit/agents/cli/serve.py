"""Runs a server until a signal ends it, and ends the process with a status that tells how it went."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from .._worker.connection import ConnectionFailedError, ConnectionRejectedError
from ..ipc.child_loop import run_loop
from ..ipc.supervision import JobEndBudgets
from ..log import logger
from ..utils.aio import TaskScope
from ..worker import AgentServer
from .errors import CLIError
from .proto import CliArgs
from .signals import ExitSignals, _LoopBlocked

__all__ = ["exit_now", "run_worker"]

_CLOSE_MARGIN = 30.0
"""Seconds for closing a server beyond what its jobs may take."""

_THREAD_END = 0.25
"""Seconds that a thread gets to end by itself at the end of the process."""

_ATEXIT = 5.0
"""Seconds for functions registered with `atexit`."""

_EXPLAINED = (ValueError, CLIError, ConnectionFailedError, ConnectionRejectedError)
"""Errors whose text says all that the user needs."""

Beside = Callable[[AgentServer], Coroutine[Any, Any, None]]


class _WorkerRun:
    """One run of a server by the command line."""

    def __init__(
        self,
        server: AgentServer,
        *,
        devmode: bool,
        unregistered: bool,
        drain: bool,
        beside: Beside | None,
    ) -> None:
        self._server = server
        self._devmode = devmode
        self._unregistered = unregistered
        self._drain = drain
        self._beside = beside
        self._scope = TaskScope("command line")
        self.failed = False

    async def run(self) -> None:
        """Serve until a signal, or until the server or what runs beside it ends."""
        loop = asyncio.get_running_loop()
        leave = asyncio.Event()
        with ExitSignals(loop, leave.set):
            ends: list[asyncio.Task[Any]] = [
                self._scope.spawn(leave.wait(), name="wait for a signal")
            ]
            serving = self._scope.spawn(
                self._server.run(devmode=self._devmode, unregistered=self._unregistered),
                name="agent server",
                log_errors=False,
            )
            ends.append(serving)
            if self._beside is not None:
                ends.append(
                    self._scope.spawn(self._beside(self._server), name="beside", log_errors=False)
                )
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled() and task.exception() is not None:
                    self._tell(task.exception())
            await self._end()

    async def _end(self) -> None:
        if self._drain:
            try:
                await self._server.drain()
            except asyncio.TimeoutError:
                logger.warning("drain timed out, forcing shutdown")
        with _CloseWatch(self._close_budget()):
            await self._server.aclose()
            await self._scope.cancel(2.0)

    def _close_budget(self) -> float:
        options = self._server._options
        budgets = JobEndBudgets(
            entrypoint=options["entrypoint_shutdown_timeout"],
            session=options["session_close_timeout"],
            session_end=options["session_end_timeout"],
            callbacks_asked=options["shutdown_process_timeout"],
        )
        return budgets.whole(asked=True) + _CLOSE_MARGIN

    def _tell(self, error: BaseException | None) -> None:
        self.failed = True
        if isinstance(error, _EXPLAINED):
            logger.error("worker failed: %s", error)
        else:
            logger.error("worker failed", exc_info=error)


class _CloseWatch:
    """Ends the process when closing the server takes longer than all its parts may."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._over = threading.Event()

    def __enter__(self) -> None:
        threading.Thread(target=self._run, name="close_watch", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _run(self) -> None:
        if not self._over.wait(self._seconds):
            logger.error("the worker could not be closed within %g s, exiting", self._seconds)
            exit_now(1)


def run_worker(
    server: AgentServer,
    args: CliArgs,
    *,
    unregistered: bool = False,
    beside: Beside | None = None,
) -> int:
    """Run a server until it ends or is ended. Returns the exit status of the process.

    Args:
        server: To run.
        args: What the command line says.
        unregistered: Don't connect to a LiveKit server.
        beside: Runs along with the server, which ends with it.
    """
    server.update_options(
        **{
            name: value
            for name, value in (
                ("ws_url", args.url),
                ("api_key", args.api_key),
                ("api_secret", args.api_secret),
            )
            if value
        }  # type: ignore[arg-type]
    )
    server._simulation = args.simulation
    run = _WorkerRun(
        server,
        devmode=args.dev,
        unregistered=unregistered,
        drain=not args.dev and not unregistered,
        beside=beside,
    )
    run_loop(run.run, name="worker", resume_after=_LoopBlocked)
    return 1 if run.failed else 0


def exit_now(code: int) -> None:
    """End this process without waiting for threads. Does not return."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(code)


def exit_process(code: int) -> None:
    """End this process, within seconds. Does not return.

    Functions registered with `atexit` run; threads that are left are named and not waited for: they
    may hang in somebody's blocking call, and native libraries crash when the interpreter is taken
    apart under a thread of theirs.
    """
    for thread in threading.enumerate():
        if thread is threading.current_thread() or thread.daemon:
            continue
        if thread.name.startswith("asyncio_"):
            continue  # of the default executor: mostly idle
        thread.join(_THREAD_END)
        if thread.is_alive():
            logger.warning("thread %s does not end, exiting without it", thread.name)
    last = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
    last.start()
    last.join(_ATEXIT)
    exit_now(code)
