"""One run of an `AgentServer`: what it starts, in which order, and how all of it ends."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ..job import RunningJobInfo
from ..log import logger
from ..telemetry import _worker_metrics as metrics
from ..telemetry.loop_monitor import start_monitoring, stop_monitoring
from ..utils.aio import TaskScope, wait_until
from ..version import __version__
from .load import LoadGauge, LoadProbe, default_load
from .protocol import Registered, WorkerProtocol

if TYPE_CHECKING:
    import aiohttp
    from livekit import api
    from livekit.protocol import agent

    from ..ipc.inference_proc_executor import InferenceProcExecutor
    from ..ipc.job_executor import JobExecutor
    from ..ipc.proc_pool import ProcPool
    from ..utils.http_server import HttpServer
    from ..worker import AgentServer
    from .connection import WorkerConnection
    from .offers import JobOffers
    from .settings import RunSettings

__all__ = ["ServerRun"]

_REQUEST_PATIENCE = 5.0
"""Seconds that `on_request` gets to return when the server closes."""

_MAX_LOAD_WITH_ROOM = 0.99
"""The load that a worker reports at most while it takes jobs."""

_FLUSH = 5.0
"""Seconds for the last messages to the LiveKit server."""


class ServerRun:
    """Owns everything between `run()` and `aclose()`. Never used again after that."""

    def __init__(self, server: AgentServer, settings: RunSettings) -> None:
        self.server = server
        self.settings = settings
        self.gauge = LoadGauge(
            threshold=math.inf if settings.simulation else settings.load_threshold,
            max_idle=settings.num_idle_processes,
        )
        self.inference: InferenceProcExecutor | None = None
        self.connection: WorkerConnection | None = None
        self.draining = False
        self.lock = asyncio.Lock()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._scope = TaskScope("agent server")
        self._work = TaskScope("agent server: jobs")
        self._pool: ProcPool | None = None
        self._offers: JobOffers | None = None
        self._http: aiohttp.ClientSession | None = None
        self._api: api.LiveKitAPI | None = None
        self._http_server: HttpServer | None = None
        self._prometheus: HttpServer | None = None
        self._probe = LoadProbe(settings.load_fnc or default_load, server)
        self._connection_task: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._full: bool | None = None

    # -- start ----------------------------------------------------------------------------------------

    async def start(self) -> bool:
        """Start everything. False when `aclose` came before the end of it.

        What was started before a failure is ended by `aclose`.
        """
        async with self.lock:
            self._starting = self._scope.spawn(
                self._start(), name="start agent server", log_errors=False
            )
            try:
                await asyncio.wait((self._starting,))
            except asyncio.CancelledError:
                self._starting.cancel()
                raise
        if self._starting.cancelled():
            return False
        self._starting.result()
        return self._closing is None

    @property
    def started(self) -> bool:
        """Whether everything has started."""
        return self._starting is not None and self._starting.done()

    async def _start(self) -> None:
        settings = self.settings
        settings.export()
        logger.info(
            "starting worker",
            extra={"version": __version__, "rtc-version": _rtc_version()},
        )
        _log_plugins()
        mp_ctx = settings.make_context()
        await self._start_inference(mp_ctx)
        await self._start_http()
        await self._start_pool(mp_ctx)
        if not settings.unregistered:
            self._start_connection()
        self._scope.spawn(self._follow_load(), name="load of the worker")
        # only now: what is imported while it starts blocks nobody
        start_monitoring(asyncio.get_running_loop(), name="worker", emit_spans=False)

    async def _start_inference(self, mp_ctx: Any) -> None:
        from ..inference_runner import _InferenceRunner

        if not _InferenceRunner.registered_runners:
            return
        from ..ipc.inference_proc_executor import InferenceProcExecutor

        self.inference = InferenceProcExecutor(
            runners=dict(_InferenceRunner.registered_runners),
            initialize_timeout=300.0,
            close_timeout=5.0,
            memory_warn_mb=2000,
            memory_limit_mb=0,
            ping_interval=5.0,
            ping_timeout=60.0,
            high_ping_threshold=2.5,
            mp_ctx=mp_ctx,
            loop=asyncio.get_running_loop(),
            http_proxy=self.settings.http_proxy,
        )
        logger.info("starting inference executor")
        await self.inference.start()
        await self.inference.initialize()

    async def _start_http(self) -> None:
        settings = self.settings
        if settings.simulation:
            logger.info("simulation: no HTTP server is started and there is no load limit")
            return
        from .endpoints import make_http_server

        self._http_server = make_http_server(settings.host, settings.port, self)
        await self._http_server.start()
        self.server._worker_info.http_port = self._http_server.port
        logger.info("HTTP server listening on %s:%d", settings.host, self._http_server.port)
        if settings.prometheus_port is not None:
            from ..telemetry.http_server import HttpServer as PrometheusServer

            self._prometheus = PrometheusServer(settings.host, settings.prometheus_port)
            await self._prometheus.start()
            logger.info(
                "Prometheus metrics at http://%s:%d/metrics",
                settings.host or "localhost",
                self._prometheus.port,
            )

    async def _start_pool(self, mp_ctx: Any) -> None:
        from ..ipc.proc_pool import ProcPool

        server, settings = self.server, self.settings
        assert server._entrypoint is not None
        self._pool = ProcPool(
            initialize_process_fnc=server.setup_fnc,
            job_entrypoint_fnc=server._entrypoint,
            session_end_fnc=server._hooks.get("on_session_end"),
            simulation_end_fnc=server._hooks.get("on_simulation_end"),
            num_idle_processes=settings.num_idle_processes,
            initialize_timeout=settings.initialize_process_timeout,
            close_timeout=settings.shutdown_process_timeout,
            session_end_timeout=settings.session_end_timeout,
            entrypoint_timeout=settings.entrypoint_shutdown_timeout,
            session_close_timeout=settings.session_close_timeout,
            inference_executor=self.inference,
            job_executor_type=settings.job_executor_type,
            mp_ctx=mp_ctx,
            memory_warn_mb=settings.job_memory_warn_mb,
            memory_limit_mb=settings.job_memory_limit_mb,
            http_proxy=settings.http_proxy,
            loop=asyncio.get_running_loop(),
        )
        self._pool.on("process_job_launched", self._job_launched)
        self._pool.on("process_job_ended", self._job_ended)
        await self._pool.start()

    def _start_connection(self) -> None:
        import aiohttp
        from livekit import api

        from ..utils.http_context import _ssl_context
        from ..worker import ASSIGNMENT_TIMEOUT, HEARTBEAT_INTERVAL
        from .connection import WorkerConnection
        from .offers import JobOffers

        server, settings = self.server, self.settings
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=_ssl_context()))
        self._api = api.LiveKitAPI(
            settings.ws_url, settings.api_key, settings.api_secret, session=self._http
        )
        self.connection = WorkerConnection(
            WorkerProtocol(settings.register_request(server)),
            http=self._http,
            url=settings.ws_url,
            worker_token=settings.worker_token,
            make_token=settings.make_worker_token,
            proxy=settings.http_proxy,
            max_retry=settings.max_retry,
            heartbeat=HEARTBEAT_INTERVAL,
            active_jobs=lambda: [job.job.id for job in self.active_jobs if not job.fake_job],
            on_event=self._on_event,
        )
        self._offers = JobOffers(
            agent_name=lambda: server._agent_name,
            worker_id=lambda: server.id,
            url=settings.ws_url,
            on_request=server._hooks.get("on_request"),
            has_room=self._has_room,
            gauge=self.gauge,
            send=self.connection.send,
            launch=self.launch,
            assignment_timeout=ASSIGNMENT_TIMEOUT,
        )
        self._connection_task = self._scope.spawn(
            self.connection.run(), name="connection to livekit", log_errors=False
        )
        self._connection_task.add_done_callback(self._connection_ended)
        self._scope.spawn(self._report_status(), name="status of the worker")

    def _connection_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self.closed.done():
            return
        if (error := task.exception()) is not None:
            self.closed.set_exception(error)

    # -- what the server wants --------------------------------------------------------------------

    def _on_event(self, event: Any) -> None:
        from livekit.protocol import agent

        if isinstance(event, Registered):
            self._registered(event.response)
        elif isinstance(event, agent.AvailabilityRequest):
            assert self._offers is not None
            self._offers.offered(event)
        elif isinstance(event, agent.JobAssignment):
            assert self._offers is not None
            self._offers.assigned(event)
        elif isinstance(event, agent.JobTermination):
            executor = self._pool.get_by_job_id(event.job_id) if self._pool is not None else None
            if executor is not None:
                self._work.spawn(executor.aclose(), name=f"terminate job {event.job_id}")

    def _registered(self, response: Any) -> None:
        server, info = self.server, response.server_info
        server._id = response.worker_id
        logger.info(
            "registered worker",
            extra={
                "agent_name": server._agent_name,
                "deployment": self.settings.deployment,
                "id": response.worker_id,
                "url": self.settings.ws_url,
                "region": info.region,
                "protocol": info.protocol,
            },
        )
        self._full = None
        self._send_status()
        server.emit("worker_registered", response.worker_id, info)

    # -- jobs -----------------------------------------------------------------------------------------

    def active_executors(self) -> list[JobExecutor]:
        """Those whose job has not ended."""
        from ..ipc.job_executor import JobStatus

        processes = self._pool.processes if self._pool is not None else []
        return [
            executor
            for executor in processes
            if executor.running_job is not None and executor.status is JobStatus.RUNNING
        ]

    @property
    def active_jobs(self) -> list[RunningJobInfo]:
        """The jobs that have not ended."""
        return [e.running_job for e in self.active_executors() if e.running_job is not None]

    async def launch(self, info: RunningJobInfo) -> None:
        """Run a job; returns when a process has it."""
        assert self._pool is not None
        await self._pool.launch_job(info)

    def _job_launched(self, executor: JobExecutor) -> None:
        from livekit.protocol import agent

        update = self._job_status(executor, agent.JobStatus.JS_RUNNING)
        if self.connection is not None and update is not None:
            self.connection.send(update)

    def _job_ended(self, executor: JobExecutor) -> None:
        """Tell the server, and let the job leave its room when the server knows.

        A server that sees the agent leave while the job runs takes the job for failed.
        """
        from livekit.protocol import agent

        from ..ipc.job_executor import JobStatus

        failed = executor.status is JobStatus.FAILED
        status = agent.JobStatus.JS_FAILED if failed else agent.JobStatus.JS_SUCCESS
        update = self._job_status(executor, status, error=executor.error)
        if self.connection is None or update is None:
            executor.end_reported()
        else:
            self.connection.send_confirmed(update, executor.end_reported)

    def _job_status(
        self, executor: JobExecutor, status: int, *, error: str = ""
    ) -> agent.WorkerMessage | None:
        """What to tell the server of a job; None of one it does not know."""
        from livekit.protocol import agent

        info = executor.running_job
        if info is None or info.fake_job:
            return None
        update = agent.UpdateJobStatus(job_id=info.job.id, status=status, error=error)  # type: ignore[arg-type]
        return agent.WorkerMessage(update_job=update)

    # -- load -----------------------------------------------------------------------------------------

    async def _has_room(self) -> bool:
        self.gauge.load = await self._probe.value()
        return not self.draining and self.gauge.has_room(len(self.active_executors()))

    async def _follow_load(self) -> None:
        from ..worker import UPDATE_LOAD_INTERVAL

        while True:
            self.gauge.load = await self._probe.value()
            assert self._pool is not None
            target = self.gauge.idle_target(len(self.active_executors()))
            if target is not None:
                self._pool.set_target_idle_processes(target)
            metrics.worker_load(self.gauge.load, len(self._pool.processes))
            await asyncio.sleep(UPDATE_LOAD_INTERVAL)

    async def _report_status(self) -> None:
        from ..worker import UPDATE_STATUS_INTERVAL

        while True:
            self._send_status()
            await asyncio.sleep(UPDATE_STATUS_INTERVAL)

    def _send_status(self) -> None:
        from livekit.protocol import agent

        if self.connection is None:
            return
        jobs = len(self.active_executors())
        if self.draining:
            update = agent.UpdateWorkerStatus(status=agent.WorkerStatus.WS_FULL, job_count=jobs)
        else:
            full = not self.gauge.has_room(jobs)
            self._log_capacity(full)
            status = agent.WorkerStatus.WS_FULL if full else agent.WorkerStatus.WS_AVAILABLE
            # a server gives no job to a load of 1, whatever the worker says about itself
            load = self.gauge.load if full else min(self.gauge.load, _MAX_LOAD_WITH_ROOM)
            update = agent.UpdateWorkerStatus(status=status, load=load, job_count=jobs)
        self.connection.send(agent.WorkerMessage(update_worker=update))

    def _log_capacity(self, full: bool) -> None:
        if self._full is not None and full != self._full:
            extra = {"load": self.gauge.load, "threshold": self.gauge.threshold}
            if full:
                logger.info("worker is at full capacity, marking as unavailable", extra=extra)
            else:
                logger.info("worker is below capacity, marking as available", extra=extra)
        self._full = full

    # -- drain and close --------------------------------------------------------------------------------

    async def drain(self, timeout: float | None) -> None:
        """Take no more jobs, and wait for those that run.

        Raises:
            asyncio.TimeoutError: some still run after `timeout` seconds. They go on.
        """
        deadline = math.inf if not timeout else time.monotonic() + timeout
        first = not self.draining
        self.draining = True
        async with self.lock:
            if not first:
                return
            logger.info("draining worker", extra={"id": self.server.id, "timeout": timeout})
            self._send_status()
            if self._offers is not None and not await self._offers.settle(_left(deadline)):
                await self._offers.aclose(0.0)
            await self._jobs_ended(deadline)

    async def _jobs_ended(self, deadline: float) -> None:
        while executors := self._with_job():
            joins = TaskScope("drain")
            tasks = [joins.spawn(executor.join()) for executor in executors]
            late = await wait_until(tasks, _left(deadline))
            await joins.cancel(0.1)
            if late:
                raise asyncio.TimeoutError(
                    f"{len(late)} jobs still run at the end of the drain timeout"
                )

    def _with_job(self) -> list[JobExecutor]:
        processes = self._pool.processes if self._pool is not None else []
        return [executor for executor in processes if executor.running_job is not None]

    async def aclose(self) -> None:
        """End everything. Every caller waits for the one close."""
        if self._closing is None:
            self.draining = True
            closing = TaskScope("closing the agent server")
            self._closing = closing.spawn(self._close(), name="close agent server")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        """Jobs end first, while the server can still be told; then everything else."""
        logger.info("shutting down worker", extra={"id": self.server.id})
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await wait_until(self._starting, 2.0)
        self._send_status()
        stop_monitoring(asyncio.get_running_loop())
        ending = TaskScope("closing the agent server: jobs")
        if self._offers is not None:
            ending.spawn(self._guard("job offers", self._offers.aclose(_REQUEST_PATIENCE)))
        if self._pool is not None:
            ending.spawn(self._guard("process pool", self._pool.aclose()))
        await ending.join()  # both are bounded
        await self._work.cancel(1.0)
        if self.inference is not None:
            await self._guard("inference process", self.inference.aclose())
        if self.connection is not None:
            await self._guard("last messages", self.connection.flush(_FLUSH))
            await self._guard("connection", self.connection.aclose())
        await self._scope.cancel(5.0)
        for name, close in self._closers():
            await self._guard(name, close())
        if not self.closed.done():
            self.closed.set_result(None)
        else:
            self.closed.exception()  # it was raised by `run`

    def _closers(self) -> list[tuple[str, Callable[[], Coroutine[Any, Any, Any]]]]:
        parts: list[tuple[str, Any]] = [
            ("API client", self._api),
            ("HTTP server", self._http_server),
            ("Prometheus server", self._prometheus),
        ]
        closers = [(name, part.aclose) for name, part in parts if part is not None]
        if self._http is not None:
            closers.append(("HTTP session", self._http.close))
        return closers

    async def _guard(self, name: str, coro: Coroutine[Any, Any, Any]) -> None:
        """One part that fails to close keeps no other from it."""
        try:
            await coro
        except Exception:
            logger.exception("%s failed to close", name)


def _left(deadline: float) -> float | None:
    return None if deadline == math.inf else max(0.0, deadline - time.monotonic())


def _rtc_version() -> str:
    from livekit import rtc

    return getattr(rtc, "__version__", "")


def _log_plugins() -> None:
    from ..plugin import Plugin

    for plugin in Plugin.registered_plugins:
        logger.info("plugin registered", extra={"plugin": plugin.title, "version": plugin.version})
