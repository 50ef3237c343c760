"""`AgentServer`: what it serves, and with which options. How it does is in `_worker`."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from ._emitter import IsolatedEmitter
from .job import JobContext, JobExecutorType, JobProcess, JobRequest, RunningJobInfo
from .log import logger
from .types import NOT_GIVEN, NotGivenOr
from .utils import is_given

if TYPE_CHECKING:
    from livekit.protocol import models

    from ._worker.run import ServerRun

T = TypeVar("T")

ASSIGNMENT_TIMEOUT = 7.5
"""Seconds an accepted job may take to be assigned."""

DRAIN_TIMEOUT = 3600
"""Seconds running jobs may take to end when the server is told to stop."""

HEARTBEAT_INTERVAL = 30
"""Seconds between two messages that keep the connection alive."""

UPDATE_STATUS_INTERVAL = 2.5
"""Seconds between two reports of the worker's state to the server."""

UPDATE_LOAD_INTERVAL = 0.5
"""Seconds between two measurements of the load."""

WORKER_PROTOCOL_VERSION = 1
"""Version of what `GET /worker` answers."""

VALID_LOG_LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "CRITICAL")

EventTypes = Literal["worker_started", "worker_registered"]


class AssignmentTimeoutError(Exception):
    """An accepted job was not assigned in time."""


class ServerType(Enum):
    """What a job is about: a room, or one publisher in it."""

    ROOM = 0  # JT_ROOM of livekit.protocol.agent.JobType
    PUBLISHER = 1  # JT_PUBLISHER


WorkerType = ServerType


@dataclass
class WorkerPermissions:
    """What agents may do in their rooms."""

    can_publish: bool = True
    can_subscribe: bool = True
    can_publish_data: bool = True
    can_update_metadata: bool = True
    can_publish_sources: list[models.TrackSource] = field(default_factory=list)
    hidden: bool = False


@dataclass(frozen=True)
class ServerEnvOption(Generic[T]):
    """An option with one default for development and one for production."""

    dev_default: T
    prod_default: T

    @staticmethod
    def getvalue(opt: T | ServerEnvOption[T], devmode: bool) -> T:
        """The value of an option, or the default that fits the mode."""
        if isinstance(opt, ServerEnvOption):
            return opt.dev_default if devmode else opt.prod_default
        return opt


@dataclass
class WorkerInfo:
    """What is known of a running server."""

    http_port: int
    cloud_agents: bool = False


def _cpus() -> int:
    return max(1, math.ceil(os.cpu_count() or 1))


_LOAD_THRESHOLD = ServerEnvOption(dev_default=math.inf, prod_default=0.7)
_PORT = ServerEnvOption(dev_default=0, prod_default=8081)
_LOG_LEVEL = ServerEnvOption(dev_default="DEBUG", prod_default="INFO")
_EXECUTOR = JobExecutorType.THREAD if sys.platform == "win32" else JobExecutorType.PROCESS
_CONTEXT: Literal["spawn", "forkserver"] = (
    "forkserver" if sys.platform.startswith("linux") else "spawn"
)


async def _accept_all(request: JobRequest) -> None:
    await request.accept()


def _no_setup(_: JobProcess) -> None:
    """Nothing to prepare."""


@dataclass
class ServerOptions:
    """All options of a server in one picklable object, entrypoint included."""

    entrypoint_fnc: Callable[[JobContext], Coroutine[Any, Any, None]]
    request_fnc: Callable[[JobRequest], Coroutine[Any, Any, None]] = _accept_all
    prewarm_fnc: Callable[[JobProcess], Any] = _no_setup
    load_fnc: Callable[..., float] | None = None
    job_executor_type: JobExecutorType = _EXECUTOR
    load_threshold: float | ServerEnvOption[float] = _LOAD_THRESHOLD
    job_memory_warn_mb: float = 1000
    job_memory_limit_mb: float = 0
    drain_timeout: int = DRAIN_TIMEOUT
    num_idle_processes: int | ServerEnvOption[int] = field(
        default_factory=lambda: ServerEnvOption(dev_default=0, prod_default=min(_cpus(), 4))
    )
    shutdown_process_timeout: float = 10.0
    session_end_timeout: float = 300.0
    initialize_process_timeout: float = 10.0
    permissions: WorkerPermissions = field(default_factory=WorkerPermissions)
    agent_name: str = ""
    worker_type: ServerType = ServerType.ROOM
    max_retry: int = 16
    ws_url: str | None = None
    api_key: str | None = field(repr=False, default=None)
    api_secret: str | None = field(repr=False, default=None)
    log_level: str | ServerEnvOption[str] = _LOG_LEVEL
    host: str = ""
    port: int | ServerEnvOption[int] = _PORT
    http_proxy: NotGivenOr[str | None] = NOT_GIVEN
    multiprocessing_context: Literal["spawn", "forkserver"] = _CONTEXT
    preload_modules: list[str] | None = None
    prometheus_port: NotGivenOr[int] = NOT_GIVEN
    prometheus_multiproc_dir: str | None = None

    def validate_config(self, devmode: bool) -> None:
        """Warn of options that make no sense together."""
        threshold = ServerEnvOption.getvalue(self.load_threshold, devmode)
        if threshold > 1 and not devmode:
            logger.warning("load_threshold is %g: above 1 there is always room", threshold)


WorkerOptions = ServerOptions

Entrypoint = Callable[[JobContext], Coroutine[Any, Any, None]]
EntrypointT = TypeVar("EntrypointT", bound=Entrypoint)


class AgentServer(IsolatedEmitter[EventTypes]):
    """Offers an agent to a LiveKit server and runs the jobs it is given."""

    def __init__(
        self,
        *,
        job_executor_type: JobExecutorType = _EXECUTOR,
        load_threshold: float | ServerEnvOption[float] = _LOAD_THRESHOLD,
        job_memory_warn_mb: float = 1000,
        job_memory_limit_mb: float = 0,
        drain_timeout: int = DRAIN_TIMEOUT,
        num_idle_processes: int | ServerEnvOption[int] | None = None,
        shutdown_process_timeout: float = 10.0,
        session_end_timeout: float = 300.0,
        initialize_process_timeout: float = 10.0,
        permissions: WorkerPermissions | None = None,
        max_retry: int = 16,
        ws_url: str | None = None,
        api_key: str | None = None,
        api_secret: str | None = None,
        host: str = "",
        port: int | ServerEnvOption[int] = _PORT,
        http_proxy: NotGivenOr[str | None] = NOT_GIVEN,
        multiprocessing_context: Literal["spawn", "forkserver"] = _CONTEXT,
        setup_fnc: Callable[[JobProcess], Any] | None = None,
        load_fnc: Callable[..., float] | None = None,
        preload_modules: list[str] | None = None,
        prometheus_port: int | None = None,
        prometheus_multiproc_dir: str | None = None,
        log_level: str | ServerEnvOption[str] = _LOG_LEVEL,
        entrypoint_shutdown_timeout: float = 15.0,
        session_close_timeout: float = 60.0,
    ) -> None:
        """Set up a server; nothing connects and no event loop is needed.

        Timeouts are seconds, memory is MB (0 = no limit). Credentials default to `LIVEKIT_URL`,
        `LIVEKIT_API_KEY` and `LIVEKIT_API_SECRET`.

        Args:
            job_executor_type: Jobs run in processes, or in threads.
            load_threshold: Load from which no more jobs are taken; inf: never.
            job_memory_warn_mb: Memory of a job process that is worth a warning.
            job_memory_limit_mb: Memory of a job process above which it is killed.
            drain_timeout: For running jobs, when the server is told to stop.
            num_idle_processes: Processes kept ready for jobs.
            shutdown_process_timeout: When the server closes a job: for the job to confirm the
                request, and for its shutdown callbacks. It does not bound the close of the session
                before them, which has `session_close_timeout`.
            session_end_timeout: For `on_session_end`.
            initialize_process_timeout: For `setup_fnc` and what it needs.
            permissions: Of agents in their rooms.
            max_retry: Failures in a row after which connecting is given up.
            ws_url: Of the LiveKit server.
            api_key: Of the LiveKit server.
            api_secret: Of the LiveKit server.
            host: Address of the health server; empty: all.
            port: Of the health server; 0: any.
            http_proxy: For outgoing connections; `HTTPS_PROXY` or `HTTP_PROXY` by default.
            multiprocessing_context: How processes are started.
            setup_fnc: Called in each job process before any job.
            load_fnc: Tells how busy the machine is, 0..1; may take the server as argument.
            preload_modules: Modules that job processes have in common, imported once.
            prometheus_port: Serves `/metrics`; needs `prometheus-client`.
            prometheus_multiproc_dir: Where processes keep their metrics.
            log_level: Of the logs.
            entrypoint_shutdown_timeout: For the entrypoint to return by itself when its job ends.
            session_close_timeout: For sessions to close when their job ends; then their close is
                forced.

        Raises:
            ValueError: For an unknown log level.
        """
        super().__init__()
        self._options: dict[str, Any] = {
            "job_executor_type": job_executor_type,
            "load_threshold": load_threshold,
            "job_memory_warn_mb": job_memory_warn_mb,
            "job_memory_limit_mb": job_memory_limit_mb,
            "drain_timeout": drain_timeout,
            "num_idle_processes": num_idle_processes
            if num_idle_processes is not None
            else ServerEnvOption(dev_default=0, prod_default=_cpus()),
            "shutdown_process_timeout": shutdown_process_timeout,
            "session_end_timeout": session_end_timeout,
            "initialize_process_timeout": initialize_process_timeout,
            "entrypoint_shutdown_timeout": entrypoint_shutdown_timeout,
            "session_close_timeout": session_close_timeout,
            "max_retry": max_retry,
            "ws_url": ws_url or os.environ.get("LIVEKIT_URL", ""),
            "api_key": api_key or os.environ.get("LIVEKIT_API_KEY", ""),
            "api_secret": api_secret or os.environ.get("LIVEKIT_API_SECRET", ""),
            "host": host,
            "port": port,
            "http_proxy": http_proxy
            if is_given(http_proxy)
            else os.environ.get("HTTPS_PROXY") or os.environ.get("HTTP_PROXY"),
            "multiprocessing_context": multiprocessing_context,
            "preload_modules": preload_modules,
            "prometheus_port": prometheus_port,
            "prometheus_multiproc_dir": prometheus_multiproc_dir,
        }
        self._permissions = permissions if permissions is not None else WorkerPermissions()
        self._log_level = _checked_level(log_level)
        self._setup_fnc: Callable[[JobProcess], Any] | None = None
        self._load_fnc: Callable[..., float] | None = None
        self.setup_fnc = setup_fnc
        self.load_fnc = load_fnc
        self._entrypoint: Entrypoint | None = None
        self._agent_name = ""
        self._type = ServerType.ROOM
        self._hooks: dict[str, Callable[..., Any] | None] = {}
        self._worker_token = os.environ.get("LIVEKIT_WORKER_TOKEN", "")
        self._deployment = os.environ.get("LIVEKIT_AGENT_DEPLOYMENT", "")
        self._worker_info = WorkerInfo(http_port=0, cloud_agents=bool(self._worker_token))
        self._simulation = False
        self._id = "unregistered"
        self._run: ServerRun | None = None

    @classmethod
    def from_server_options(cls, options: ServerOptions) -> AgentServer:
        """A server with the options, and the entrypoint, of `options`."""
        fields = {
            name: getattr(options, name)
            for name in ServerOptions.__dataclass_fields__
            if name
            not in ("entrypoint_fnc", "request_fnc", "prewarm_fnc", "agent_name", "worker_type")
        }
        port = fields.pop("prometheus_port")
        server = cls(
            setup_fnc=options.prewarm_fnc,
            prometheus_port=port if is_given(port) else None,
            **fields,
        )
        server.rtc_session(
            options.entrypoint_fnc,
            agent_name=options.agent_name,
            type=options.worker_type,
            on_request=options.request_fnc,
        )
        return server

    @property
    def log_level(self) -> str | ServerEnvOption[str]:
        """Level of the logs, in upper case."""
        return self._log_level

    @property
    def setup_fnc(self) -> Callable[[JobProcess], Any] | None:
        """Called in each job process before any job. Raises TypeError when set to a non-callable."""
        return self._setup_fnc

    @setup_fnc.setter
    def setup_fnc(self, value: Callable[[JobProcess], Any] | None) -> None:
        self._setup_fnc = _checked_callable("setup_fnc", value)

    @property
    def load_fnc(self) -> Callable[..., float] | None:
        """Tells how busy the machine is, 0..1. Raises TypeError when set to a non-callable."""
        return self._load_fnc

    @load_fnc.setter
    def load_fnc(self, value: Callable[..., float] | None) -> None:
        self._load_fnc = _checked_callable("load_fnc", value)

    @property
    def id(self) -> str:
        """The id the server gave, "unregistered" before."""
        return self._id

    @property
    def worker_info(self) -> WorkerInfo:
        """What is known of the running server."""
        return self._worker_info

    @property
    def active_jobs(self) -> list[RunningJobInfo]:
        """The jobs that run."""
        return self._run.active_jobs if self._run is not None else []

    @property
    def draining(self) -> bool:
        """Whether it takes no more jobs."""
        return self._run is not None and self._run.draining

    @property
    def _job_executor_type(self) -> JobExecutorType:
        executor_type: JobExecutorType = self._options["job_executor_type"]
        return executor_type

    @_job_executor_type.setter
    def _job_executor_type(self, value: JobExecutorType) -> None:
        self._options["job_executor_type"] = value

    @property
    def _ws_url(self) -> str:
        return str(self._options["ws_url"])

    @overload
    def rtc_session(
        self,
        func: EntrypointT,
        *,
        agent_name: str = "",
        type: ServerType = ServerType.ROOM,
        on_request: Callable[[JobRequest], Any] | None = None,
        on_session_end: Callable[[JobContext], Any] | None = None,
        on_simulation_end: Callable[..., Any] | None = None,
    ) -> EntrypointT: ...

    @overload
    def rtc_session(
        self,
        func: None = None,
        *,
        agent_name: str = "",
        type: ServerType = ServerType.ROOM,
        on_request: Callable[[JobRequest], Any] | None = None,
        on_session_end: Callable[[JobContext], Any] | None = None,
        on_simulation_end: Callable[..., Any] | None = None,
    ) -> Callable[[EntrypointT], EntrypointT]: ...

    def rtc_session(
        self,
        func: EntrypointT | None = None,
        *,
        agent_name: str = "",
        type: ServerType = ServerType.ROOM,
        on_request: Callable[[JobRequest], Any] | None = None,
        on_session_end: Callable[[JobContext], Any] | None = None,
        on_simulation_end: Callable[..., Any] | None = None,
    ) -> EntrypointT | Callable[[EntrypointT], EntrypointT]:
        """Register the entrypoint, directly or as a decorator.

        Args:
            func: Called with the `JobContext` of each job.
            agent_name: Non-empty means that the agent is dispatched only when asked for by name.
                `LIVEKIT_AGENT_NAME_OVERRIDE` beats it, `LIVEKIT_AGENT_NAME` is the default.
            type: Jobs per room or per publisher.
            on_request: Decides about offered jobs.
            on_session_end: Awaited after each job.
            on_simulation_end: Called after a simulated job.

        Raises:
            RuntimeError: If an entrypoint was registered before.
        """

        def register(entrypoint: EntrypointT) -> EntrypointT:
            if self._entrypoint is not None:
                raise RuntimeError(
                    "this AgentServer has an entrypoint already; one server runs one kind of agent"
                )
            self._entrypoint = entrypoint
            self._agent_name = (
                os.environ.get("LIVEKIT_AGENT_NAME_OVERRIDE")
                or agent_name
                or os.environ.get("LIVEKIT_AGENT_NAME", "")
            )
            self._type = type
            self._hooks = {
                "on_request": on_request,
                "on_session_end": on_session_end,
                "on_simulation_end": on_simulation_end,
            }
            return entrypoint

        return register if func is None else register(func)

    def update_options(
        self,
        *,
        ws_url: NotGivenOr[str] = NOT_GIVEN,
        api_key: NotGivenOr[str] = NOT_GIVEN,
        api_secret: NotGivenOr[str] = NOT_GIVEN,
        max_retry: NotGivenOr[int] = NOT_GIVEN,
        job_executor_type: NotGivenOr[JobExecutorType] = NOT_GIVEN,
        load_threshold: NotGivenOr[float] = NOT_GIVEN,
        job_memory_warn_mb: NotGivenOr[float] = NOT_GIVEN,
        job_memory_limit_mb: NotGivenOr[float] = NOT_GIVEN,
        drain_timeout: NotGivenOr[int] = NOT_GIVEN,
        num_idle_processes: NotGivenOr[int] = NOT_GIVEN,
        shutdown_process_timeout: NotGivenOr[float] = NOT_GIVEN,
        session_end_timeout: NotGivenOr[float] = NOT_GIVEN,
        initialize_process_timeout: NotGivenOr[float] = NOT_GIVEN,
    ) -> None:
        """Change options before the server runs. For their meaning see the constructor.

        Raises:
            RuntimeError: The server runs.
        """
        options = {name: value for name, value in locals().items() if name != "self"}
        if self._run is not None:
            raise RuntimeError("the options of a running AgentServer can't be changed")
        self._options.update({k: v for k, v in options.items() if is_given(v)})

    async def run(self, *, devmode: bool = False, unregistered: bool = False) -> None:
        """Serve jobs until `aclose`. The server can be run again after that.

        Args:
            devmode: Use the defaults for development.
            unregistered: Don't connect to a LiveKit server: jobs come from `simulate_job` only.

        Raises:
            RuntimeError: There is no entrypoint, or the LiveKit server can't be reached or refuses
                the worker. Jobs that run go on until `drain` or `aclose`.
            ValueError: URL, API key or secret are missing.
        """
        if self._run is not None:
            raise RuntimeError("worker is already running")
        if self._entrypoint is None:
            raise RuntimeError(
                "no entrypoint is registered: decorate a function with @server.rtc_session()"
            )
        from ._worker.run import ServerRun
        from ._worker.settings import RunSettings

        settings = RunSettings.resolve(self, devmode=devmode, unregistered=unregistered)
        run = self._run = ServerRun(self, settings)
        try:
            if await run.start():
                self.emit("worker_started")
            await asyncio.shield(run.closed)
        except BaseException:
            if not run.closed.done():  # a start that failed, or a cancelled caller
                await self.aclose()
            raise

    async def drain(self, timeout: NotGivenOr[int | None] = NOT_GIVEN) -> None:
        """Take no more jobs, and wait for those that run. Can't be undone.

        Args:
            timeout: Seconds; None or 0: no limit; `drain_timeout` by default.

        Raises:
            asyncio.TimeoutError: Some still run after that. They go on.
        """
        if self._run is not None:
            await self._run.drain(timeout if is_given(timeout) else self._options["drain_timeout"])

    async def simulate_job(
        self,
        room: str,
        *,
        fake_job: bool = False,
        agent_identity: str | None = None,
        room_info: models.Room | None = None,
        token: str | None = None,
    ) -> None:
        """Run a job that no server asked for.

        Args:
            room: Name of the room.
            fake_job: There is no room: everything about it is mocked.
            agent_identity: Of the agent in the room.
            room_info: The room, as the server describes it.
            token: To join the room with; made from the credentials by default.

        Raises:
            RuntimeError: The server does not run.
            ValueError: A real job lacks identity or room.
        """
        if self._run is None:
            raise RuntimeError("the AgentServer does not run: start it with run() first")
        from ._worker.simulated import simulated_job

        await self._run.launch(
            simulated_job(
                self,
                room,
                fake_job=fake_job,
                agent_identity=agent_identity,
                room_info=room_info,
                token=token,
            )
        )

    async def _reload_jobs(self, jobs: list[RunningJobInfo]) -> None:
        """Take over jobs of a former worker, with tokens that are valid for another hour."""
        from ._worker.simulated import renewed

        assert self._run is not None, "jobs are reloaded into a running server"
        for info in jobs:
            extra = {"job_id": info.job.id, "room": info.job.room.name}
            logger.info("reloading job", extra=extra)
            try:
                await self._run.launch(renewed(info, str(self._options["api_secret"])))
            except Exception:
                logger.exception("the job can't be taken over", extra=extra)

    async def aclose(self) -> None:
        """Stop serving: jobs are ended, and then everything else. Does nothing when nothing runs.

        Bounded: each job has the time that the steps of its end may take, see `JobEndBudgets`.
        """
        run = self._run
        if run is None:
            return
        await run.aclose()
        if self._run is run:
            self._run = None
            self._id = "unregistered"


def _checked_callable(name: str, value: T) -> T:
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable or None, got {type(value).__name__}")
    return value


def _checked_level(level: str | ServerEnvOption[str]) -> str | ServerEnvOption[str]:
    if isinstance(level, ServerEnvOption):
        return ServerEnvOption(_one_level(level.dev_default), _one_level(level.prod_default))
    return _one_level(level)


def _one_level(level: str) -> str:
    if level.upper() not in VALID_LOG_LEVELS:
        raise ValueError(f"log_level must be one of {', '.join(VALID_LOG_LEVELS)}, got {level!r}")
    return level.upper()


__all__ = [
    "ASSIGNMENT_TIMEOUT",
    "DRAIN_TIMEOUT",
    "HEARTBEAT_INTERVAL",
    "UPDATE_LOAD_INTERVAL",
    "UPDATE_STATUS_INTERVAL",
    "VALID_LOG_LEVELS",
    "WORKER_PROTOCOL_VERSION",
    "AgentServer",
    "AssignmentTimeoutError",
    "EventTypes",
    "ServerEnvOption",
    "ServerOptions",
    "ServerType",
    "WorkerInfo",
    "WorkerOptions",
    "WorkerPermissions",
    "WorkerType",
]
