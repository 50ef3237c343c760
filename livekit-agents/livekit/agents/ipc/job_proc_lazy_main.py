"""What a job process does, from its first line to its last. Imported by the process itself."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass, field
from typing import Any

from ..log import logger
from ..utils.aio.duplex_unix import DuplexClosed, _AsyncDuplex, _Duplex
from . import proto
from .channel import recv_message, send_message
from .child_guard import ParentWatch, exit_process, install_signal_handlers
from .child_loop import run_loop
from .job_run import JobFunctions
from .log_queue import LogForwarder, forward_logs, set_logger_levels
from .supervision import JobEndBudgets

__all__ = ["JobProcArgs", "job_proc_main"]

_SESSION_ACLOSE_TIMEOUT = 60.0
"""Seconds after which the close of a session is forced; the default of `session_close_timeout`."""

_SILENCE = 10.0
"""Seconds beyond the ping timeout after which silence means that the worker is dead."""


@dataclass
class JobProcArgs:
    """What crosses to the process when it starts. Everything in it can be pickled."""

    functions: JobFunctions
    budgets: JobEndBudgets
    user_arguments: Any
    control: socket.socket
    logs: socket.socket
    logger_levels: dict[str, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    """Of the worker now: a fork server has the one of the time when it was started."""


class _Current:
    """What the signal handler and the watch of the parent need to know."""

    loop: asyncio.AbstractEventLoop | None = None
    runtime: Any = None


def job_proc_main(args: JobProcArgs) -> None:
    """Run a job process. Ends the process; does not return."""
    current = _Current()
    install_signal_handlers(lambda: current.loop)
    ParentWatch(
        args.control,
        lambda: current.runtime.patience if current.runtime is not None else 2.0,
    )
    os.environ.update(args.environment)
    set_logger_levels(args.logger_levels)
    logs = LogForwarder(args.logs)
    forward_logs(logs)
    code = 1
    try:
        code = _serve(args, current)
    except DuplexClosed:
        pass  # the worker went away while we started
    except BaseException:
        logger.exception("the job process failed")
    finally:
        exit_process(code, logs)


def _serve(args: JobProcArgs, current: _Current) -> int:
    from ..job import JobExecutorType, JobProcess

    duplex = _Duplex.open(args.control)
    request = recv_message(duplex, proto.IPC_MESSAGES)
    assert isinstance(request, proto.InitializeRequest), "the first message initialises"
    proc = JobProcess(
        executor_type=JobExecutorType.PROCESS,
        user_arguments=args.user_arguments,
        http_proxy=request.http_proxy or None,
    )
    try:
        _set_up(args.functions, proc)
    except Exception as error:
        logger.exception("setup_fnc failed, this process takes no jobs")
        send_message(duplex, proto.InitializeResponse(f"{type(error).__name__}: {error}"))
        return 1
    send_message(duplex, proto.InitializeResponse())

    async def main() -> None:
        from .job_runtime import JobRuntime

        current.runtime = JobRuntime(
            await _AsyncDuplex.open(duplex.detach()),
            proc=proc,
            functions=args.functions,
            budgets=args.budgets,
            silence_timeout=request.ping_timeout + _SILENCE,
        )
        await current.runtime.run()

    run_loop(
        main,
        debug=request.asyncio_debug,
        name="job",
        created=lambda loop: setattr(current, "loop", loop),
    )
    return 0


def _set_up(functions: JobFunctions, proc: Any) -> None:
    from . import job_runtime, warm_up  # loaded before there is a job to wait for them

    _ = job_runtime
    warm_up.warm_up()
    if functions.initialize_process is not None:
        functions.initialize_process(proc)
