"""The side of a job: reads what the worker wants, answers at once, runs at most one job."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from typing import TYPE_CHECKING, Any

from ..log import logger
from ..utils.aio import TaskScope, wait_until
from ..utils.aio.duplex_unix import DuplexClosed, _AsyncDuplex
from . import proto
from .channel import Message, arecv_message, send_message_soon
from .inference_client import InferenceClient
from .job_end import WORKER_LOST, EndCause
from .job_run import JobFunctions, JobRun
from .supervision import JobEndBudgets

if TYPE_CHECKING:
    from ..job import JobProcess

__all__ = ["JobRuntime"]

_TOLD_TIMEOUT = 1.0
"""Seconds that the worker may take to pass on that a job has ended."""


class JobRuntime:
    """Serves one connection to the worker until there is no more reason to."""

    def __init__(
        self,
        duplex: _AsyncDuplex,
        *,
        proc: JobProcess,
        functions: JobFunctions,
        budgets: JobEndBudgets,
        silence_timeout: float = math.inf,
    ) -> None:
        """Take over a connection.

        Args:
            duplex: To the worker.
            proc: The process, or thread, this runs in.
            functions: The user's.
            budgets: Limits for the end of the job.
            silence_timeout: Seconds without any message after which the worker is taken for dead.
        """
        self._duplex = duplex
        self._proc = proc
        self._functions = functions
        self._budgets = budgets
        self._silence_timeout = silence_timeout
        self._scope = TaskScope("job runtime")
        self._inference = InferenceClient(self.send)
        self._job: JobRun | None = None
        self._job_task: asyncio.Task[None] | None = None
        self._told = asyncio.Event()
        self._over = asyncio.Event()
        self._step = ""

    @property
    def patience(self) -> float:
        """Seconds that this process may live on when the worker is gone."""
        return WORKER_LOST.whole(asked=False) if self._job is not None else 2.0

    async def run(self) -> None:
        """Serve. Returns when the job is over, the worker does not need us, or is gone."""
        reader = self._scope.spawn(self._read(), name="job_control")
        over = self._scope.spawn(self._over.wait(), name="job_over")
        try:
            await asyncio.wait((reader, over), return_when=asyncio.FIRST_COMPLETED)
            if self._job is not None and not self._over.is_set():
                self._told.set()  # there is nobody to confirm it
                self._job.end(EndCause("the worker is gone", worker_lost=True))
                await self._over.wait()
        finally:
            self._inference.close()
            await self._scope.cancel(0.5)
            await self._duplex.aclose()

    def send(self, msg: Message) -> None:
        """Send without waiting. A worker that is gone is noticed elsewhere."""
        try:
            send_message_soon(self._duplex, msg)
        except DuplexClosed:
            pass

    async def _read(self) -> None:
        while True:
            receiving = self._scope.spawn(
                arecv_message(self._duplex, proto.IPC_MESSAGES), name="job_recv", log_errors=False
            )
            limit = None if self._silence_timeout == math.inf else self._silence_timeout
            if await wait_until(receiving, limit):
                receiving.cancel()
                print("worker process is not responding.. worker crashed?", file=sys.stderr)
                return
            try:
                msg = receiving.result()
            except DuplexClosed:
                return
            self._received(msg)

    def _received(self, msg: Any) -> None:
        if isinstance(msg, proto.PingRequest):
            self.send(proto.PongResponse(msg.timestamp, int(time.time() * 1000)))
        elif isinstance(msg, proto.StartJobRequest):
            self._start(msg)
        elif isinstance(msg, proto.ShutdownRequest):
            self._shut_down(msg.reason)
        elif isinstance(msg, proto.InferenceResponse):
            self._inference.resolve(msg)
        elif isinstance(msg, proto.ShuttingDownAck):
            self._told.set()
        elif isinstance(msg, proto.DumpStackTraceRequest):
            from .stack_dump import dump_stacks

            dump_stacks(asyncio.get_running_loop())
        else:
            logger.warning("unexpected message %s from the worker", type(msg).__name__)

    def _start(self, msg: proto.StartJobRequest) -> None:
        if self._job is not None:
            logger.warning("a job runs already, the request to start another is ignored")
            return
        self._job = JobRun(
            msg.running_job,
            proc=self._proc,
            functions=self._functions,
            budgets=self._budgets,
            inference_executor=self._inference,
            announce=self._announce,
            failed=lambda error: self.send(proto.JobFailed(error)),
            tell=self._tell_end,
        )
        self._job_task = self._scope.spawn(self._run_job(self._job), name="job")

    async def _run_job(self, job: JobRun) -> None:
        try:
            await job.run()
        finally:
            self._over.set()

    def _shut_down(self, reason: str) -> None:
        self.send(proto.ShutdownRequestAck())
        if self._job is None:
            self.send(proto.ShuttingDown())
            self._over.set()
        else:
            self._job.end(EndCause(reason or "parent process shutdown", by_worker=True))

    def _announce(self, step: str) -> None:
        if step != self._step:
            self._step = step
            self.send(proto.JobStep(step))

    async def _tell_end(self) -> None:
        """Tell the worker that the job is over, and wait a moment until it told the server.

        The server takes an agent that leaves while its job runs for a failure.
        """
        self.send(proto.ShuttingDown())
        self.send(proto.Exiting(self._step))
        try:
            await asyncio.wait_for(self._told.wait(), _TOLD_TIMEOUT)
        except asyncio.TimeoutError:
            logger.debug("the worker did not confirm the end of the job in time")
