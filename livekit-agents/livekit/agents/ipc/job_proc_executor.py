"""A job in a process of its own."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from multiprocessing.context import BaseContext
from typing import Any

from ..job import JobContext, JobProcess
from ..telemetry import _worker_metrics as metrics
from . import proto
from .inference_executor import InferenceExecutor
from .inference_relay import InferenceRelay
from .job_holder import JobHolder
from .job_proc_lazy_main import JobProcArgs, job_proc_main
from .job_record import JobRecord
from .job_run import JobFunctions
from .log_queue import logger_levels
from .supervised_proc import SupervisedProc
from .supervision import JobEndBudgets

__all__ = ["ProcJobExecutor"]


class ProcJobExecutor(SupervisedProc, JobHolder):
    """Runs one job in a process, and outlives whatever the job does."""

    what = "job process"

    def __init__(
        self,
        *,
        initialize_process_fnc: Callable[[JobProcess], Any] | None,
        job_entrypoint_fnc: Callable[[JobContext], Awaitable[Any]],
        session_end_fnc: Callable[[JobContext], Awaitable[Any]] | None,
        simulation_end_fnc: Callable[..., Any] | None,
        inference_executor: InferenceExecutor | None,
        initialize_timeout: float,
        close_timeout: float,
        session_end_timeout: float,
        memory_warn_mb: float,
        memory_limit_mb: float,
        ping_interval: float,
        ping_timeout: float,
        high_ping_threshold: float,
        http_proxy: str | None,
        mp_ctx: BaseContext,
        loop: asyncio.AbstractEventLoop,
        entrypoint_timeout: float = 15.0,
        session_close_timeout: float = 60.0,
        on_job_ended: Callable[[ProcJobExecutor], None] | None = None,
    ) -> None:
        """Prepare. The functions must be importable by name: the process gets them that way."""
        super().__init__(
            initialize_timeout=initialize_timeout,
            close_timeout=close_timeout,
            memory_warn_mb=memory_warn_mb,
            memory_limit_mb=memory_limit_mb,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            high_ping_threshold=high_ping_threshold,
            http_proxy=http_proxy,
            mp_ctx=mp_ctx,
            loop=loop,
        )
        from ..utils.misc import shortuuid

        self._id = shortuuid("PCEXEC_")
        self._functions = JobFunctions(
            initialize_process_fnc, job_entrypoint_fnc, session_end_fnc, simulation_end_fnc
        )
        self._budgets = JobEndBudgets(
            entrypoint=entrypoint_timeout,
            session=session_close_timeout,
            session_end=session_end_timeout if session_end_fnc is not None else 0.0,
            callbacks_asked=close_timeout,
        )
        self._on_job_ended = on_job_ended
        self._job = JobRecord(self._job_ended)
        self._relay = InferenceRelay(inference_executor, self._send)

    def logging_extra(self) -> dict[str, Any]:
        """Fields for log records about it, and of it."""
        return {**super().logging_extra(), **self._job.logging_extra()}

    def _main(self) -> Callable[..., None]:
        return job_proc_main

    def _arguments(self, control: socket.socket, logs: socket.socket) -> JobProcArgs:
        return JobProcArgs(
            functions=self._functions,
            budgets=self._budgets,
            user_arguments=self._user_arguments,
            control=control,
            logs=logs,
            logger_levels=logger_levels(),
        )

    def _end_budget(self) -> float:
        if self._job.info is None:
            return self._close_timeout
        return self._budgets.whole(asked=True)

    def _received(self, msg: Any) -> None:
        now = time.monotonic()
        asked = self._supervision.asked
        if isinstance(msg, proto.JobStep):
            self._supervision.end_begun(now, self._budgets.whole(asked), msg.text)
        elif isinstance(msg, proto.JobFailed):
            self._job.failed(msg.text)
        elif isinstance(msg, proto.ShuttingDown):
            self._supervision.leaving(now, self._budgets.tail(asked))
            self._job.end()
        elif isinstance(msg, proto.InferenceRequest):
            self._scope.spawn(self._relay.serve(msg), name=f"inference {msg.method}")

    def _job_started(self) -> None:
        metrics.job_started()

    def _job_ended(self) -> None:
        metrics.job_ended()
        super()._job_ended()

    def _died(self) -> None:
        code = self.exitcode
        if self.kill_reason:
            self._job.end(f"the job process was killed: {self.kill_reason}")
        elif code:
            self._job.end(f"the job process exited with code {code}")
        else:
            self._job.end()
