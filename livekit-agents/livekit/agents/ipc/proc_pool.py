"""Warm processes (or threads), so that a job need not wait for one."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from multiprocessing.context import BaseContext
from typing import Any, Literal

from .._emitter import IsolatedEmitter
from ..job import JobContext, JobExecutorType, JobProcess, RunningJobInfo
from ..log import logger
from ..telemetry import _worker_metrics as metrics
from ..utils.aio import TaskScope, wait_until
from ..utils.hw import get_cpu_monitor
from .inference_executor import InferenceExecutor
from .job_executor import JobExecutor

__all__ = ["ProcPool"]

EventTypes = Literal[
    "process_created",
    "process_started",
    "process_ready",
    "process_closed",
    "process_job_launched",
    "process_job_ended",
]

_MAX_ATTEMPTS = 3
_MAX_CONCURRENT_INITIALIZATIONS = min(math.ceil(get_cpu_monitor().cpu_count()), 4)
_PING_INTERVAL = 2.5
_PING_TIMEOUT = 60.0
_HIGH_PING = 0.5
_BACKOFF_BASE = 0.25
_BACKOFF_MAX = 10.0


class ProcPool(IsolatedEmitter[EventTypes]):
    """Keeps idle processes ready, gives them jobs, and ends all of them.

    Emits `process_created`, `process_started`, `process_ready`, `process_closed`,
    `process_job_launched` and `process_job_ended`, each with the executor.
    """

    def __init__(
        self,
        *,
        initialize_process_fnc: Callable[[JobProcess], Any] | None,
        job_entrypoint_fnc: Callable[[JobContext], Awaitable[Any]],
        session_end_fnc: Callable[[JobContext], Awaitable[Any]] | None,
        simulation_end_fnc: Callable[..., Any] | None,
        num_idle_processes: int,
        initialize_timeout: float,
        close_timeout: float,
        session_end_timeout: float,
        inference_executor: InferenceExecutor | None,
        job_executor_type: JobExecutorType,
        mp_ctx: BaseContext,
        memory_warn_mb: float,
        memory_limit_mb: float,
        http_proxy: str | None,
        loop: asyncio.AbstractEventLoop,
        entrypoint_timeout: float = 15.0,
        session_close_timeout: float = 60.0,
    ) -> None:
        """Prepare. Times are seconds, memory is MB."""
        super().__init__()
        self._executor_type = job_executor_type
        self._loop = loop
        self._common: dict[str, Any] = {
            "initialize_process_fnc": initialize_process_fnc,
            "job_entrypoint_fnc": job_entrypoint_fnc,
            "session_end_fnc": session_end_fnc,
            "simulation_end_fnc": simulation_end_fnc,
            "inference_executor": inference_executor,
            "initialize_timeout": initialize_timeout,
            "close_timeout": close_timeout,
            "session_end_timeout": session_end_timeout,
            "entrypoint_timeout": entrypoint_timeout,
            "session_close_timeout": session_close_timeout,
            "ping_interval": _PING_INTERVAL,
            "high_ping_threshold": _HIGH_PING,
            "http_proxy": http_proxy,
            "loop": loop,
            "on_job_ended": lambda executor: self.emit("process_job_ended", executor),
        }
        self._process_only: dict[str, Any] = {
            "memory_warn_mb": memory_warn_mb,
            "memory_limit_mb": memory_limit_mb,
            "ping_timeout": _PING_TIMEOUT,
            "mp_ctx": mp_ctx,
        }
        self._initialize_timeout = initialize_timeout
        self._max_idle = num_idle_processes
        self._target_idle = num_idle_processes
        self._executors: list[JobExecutor] = []
        self._warm: deque[JobExecutor] = deque()
        self._spawning: set[asyncio.Task[None]] = set()
        self._waiting: deque[asyncio.Future[JobExecutor]] = deque()
        self._failures = 0
        self._changed = asyncio.Event()
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT_INITIALIZATIONS)
        self._scope = TaskScope("process pool")
        self._started = False
        self._closed = False

    # -- state --------------------------------------------------------------------------------------

    @property
    def processes(self) -> list[JobExecutor]:
        """All that are not closed, with a job or without."""
        return list(self._executors)

    @property
    def target_idle_processes(self) -> int:
        """How many idle ones are kept."""
        return self._target_idle

    def set_target_idle_processes(self, num_idle_processes: int) -> None:
        """Keep so many idle ones from now on, at most as many as the pool was made for."""
        self._target_idle = num_idle_processes
        self._changed.set()

    def get_by_job_id(self, job_id: str) -> JobExecutor | None:
        """The executor of a job, or None."""
        for executor in self._executors:
            if executor.running_job is not None and executor.running_job.job.id == job_id:
                return executor
        return None

    # -- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to keep processes ready, and wait for the first ones for a while."""
        if self._started:
            return
        self._started = True
        self._scope.spawn(self._keep_ready(), name="process pool")
        wanted = min(self._target_idle, self._max_idle)
        deadline = self._loop.time() + self._initialize_timeout + 2
        while len(self._warm) < wanted and not self._failures:
            left = deadline - self._loop.time()
            if left <= 0:
                logger.warning("idle processes are not ready yet, going on without them")
                return
            await asyncio.sleep(min(0.02, left))

    async def aclose(self) -> None:
        """End all processes, side by side, each bounded. Idempotent."""
        if self._closed:
            await self._scope.join(self._initialize_timeout)
            return
        self._closed = True
        self._changed.set()
        for waiter in self._waiting:
            waiter.cancel()
        closing = TaskScope("closing the process pool")
        tasks = [
            closing.spawn(executor.aclose(), name=f"close {executor.id}")
            for executor in list(self._executors)
        ]
        await wait_until(tasks, None)  # every executor bounds its own close
        await self._scope.cancel(5.0)

    async def launch_job(self, info: RunningJobInfo) -> None:
        """Give a job to a warm process, or to the first that gets ready.

        Raises:
            RuntimeError: no process could take it.
        """
        error: Exception | None = None
        for _ in range(_MAX_ATTEMPTS):
            executor = await self._acquire()
            try:
                await executor.launch_job(info)
            except RuntimeError as failure:
                error = failure
                logger.warning("a process can't take the job, trying another", exc_info=failure)
                self._scope.spawn(executor.aclose(), name=f"close {executor.id}")
                continue
            self.emit("process_job_launched", executor)
            self._changed.set()
            return
        raise RuntimeError(f"no process could take job {info.job.id}") from error

    # -- keeping them ready -------------------------------------------------------------------------

    async def _acquire(self) -> JobExecutor:
        if self._closed:
            raise RuntimeError("the process pool is closed")
        if self._warm:
            return self._warm.popleft()
        if self._executor_type is JobExecutorType.PROCESS and self._max_idle:
            logger.warning(
                "no warmed process available for job, waiting for one to be created",
            )
        waiter: asyncio.Future[JobExecutor] = self._loop.create_future()
        self._waiting.append(waiter)
        self._changed.set()
        try:
            return await waiter
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    async def _keep_ready(self) -> None:
        while not self._closed:
            self._changed.clear()
            target = max(min(self._target_idle, self._max_idle), len(self._waiting))
            missing = target - len(self._warm) - len(self._spawning)
            for _ in range(missing):
                task = self._scope.spawn(self._spawn(), name="spawn a process")
                self._spawning.add(task)
                task.add_done_callback(self._spawned)
            await self._changed.wait()
            if self._failures:
                await asyncio.sleep(min(_BACKOFF_BASE * 2**self._failures, _BACKOFF_MAX))

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._spawning.discard(task)
        self._changed.set()

    async def _spawn(self) -> None:
        async with self._slots:
            if self._closed:
                return
            executor = self._make()
            self._executors.append(executor)
            self.emit("process_created", executor)
            began = time.monotonic()
            try:
                await executor.start()
                self._scope.spawn(self._follow(executor), name=f"follow {executor.id}")
                self.emit("process_started", executor)
                await executor.initialize()
            except Exception as error:
                self._failed(executor, error)
                return
        self._failures = 0
        metrics.proc_initialized(time_elapsed=time.monotonic() - began)
        self.emit("process_ready", executor)
        self._offer(executor)

    def _offer(self, executor: JobExecutor) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(executor)
                return
        self._warm.append(executor)

    def _failed(self, executor: JobExecutor, error: Exception) -> None:
        """A process that can't be had: after some in a row those who wait are told."""
        self._failures += 1
        if not self._closed:
            logger.error(
                "error initializing process", exc_info=error, extra=executor.logging_extra()
            )
            self._scope.spawn(executor.aclose(), name=f"close {executor.id}")
        if not executor.started:
            self._forget(executor)
        if self._failures >= _MAX_ATTEMPTS:
            for waiter in self._waiting:
                if not waiter.done():
                    waiter.set_exception(
                        RuntimeError(f"no job process can be initialized: {error}")
                    )
            self._waiting.clear()

    async def _follow(self, executor: JobExecutor) -> None:
        """When an executor is gone, whatever the reason, nobody shall be given it."""
        await executor.join()
        self._forget(executor)

    def _forget(self, executor: JobExecutor) -> None:
        if executor in self._warm:
            self._warm.remove(executor)
        if executor in self._executors:
            self._executors.remove(executor)
            self.emit("process_closed", executor)
        self._changed.set()

    def _make(self) -> JobExecutor:
        if self._executor_type is JobExecutorType.THREAD:
            from .job_thread_executor import ThreadJobExecutor

            return ThreadJobExecutor(**self._common)
        from .job_proc_executor import ProcJobExecutor

        return ProcJobExecutor(**self._common, **self._process_only)
