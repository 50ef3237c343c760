"""The options of one run: defaults resolved, credentials checked, environment prepared."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..job import JobExecutorType
from ..log import logger
from ..version import __version__
from .protocol import agent_url

if TYPE_CHECKING:
    from livekit.protocol import agent

    from ..worker import AgentServer

__all__ = ["RunSettings"]


@dataclass
class RunSettings:
    """What one run works with."""

    devmode: bool
    unregistered: bool
    simulation: bool
    job_executor_type: JobExecutorType
    load_threshold: float
    load_fnc: Callable[..., float] | None
    job_memory_warn_mb: float
    job_memory_limit_mb: float
    num_idle_processes: int
    shutdown_process_timeout: float
    session_end_timeout: float
    initialize_process_timeout: float
    entrypoint_shutdown_timeout: float
    session_close_timeout: float
    max_retry: int
    ws_url: str
    api_key: str
    api_secret: str
    host: str
    port: int
    http_proxy: str | None
    multiprocessing_context: str
    preload_modules: list[str]
    prometheus_port: int | None
    prometheus_multiproc_dir: str | None
    worker_token: str
    deployment: str

    @classmethod
    def resolve(cls, server: AgentServer, *, devmode: bool, unregistered: bool) -> RunSettings:
        """Settings for a run of `server`.

        Raises:
            ValueError: Credentials are missing, or the URL is none.
        """
        from ..worker import ServerEnvOption

        def value(name: str) -> Any:
            return ServerEnvOption.getvalue(server._options[name], devmode)

        worker_token = server._worker_token
        threshold, load_fnc = value("load_threshold"), server.load_fnc
        if worker_token:
            threshold, load_fnc = _hosted(server, devmode, threshold, load_fnc)
        settings = cls(
            devmode=devmode,
            unregistered=unregistered,
            simulation=server._simulation,
            job_executor_type=server._job_executor_type,
            load_threshold=threshold,
            load_fnc=load_fnc,
            preload_modules=list(value("preload_modules") or []),
            worker_token=worker_token,
            deployment=server._deployment,
            **{
                name: value(name)
                for name in (
                    "job_memory_warn_mb",
                    "job_memory_limit_mb",
                    "num_idle_processes",
                    "shutdown_process_timeout",
                    "session_end_timeout",
                    "initialize_process_timeout",
                    "entrypoint_shutdown_timeout",
                    "session_close_timeout",
                    "max_retry",
                    "ws_url",
                    "api_key",
                    "api_secret",
                    "host",
                    "port",
                    "http_proxy",
                    "multiprocessing_context",
                    "prometheus_port",
                    "prometheus_multiproc_dir",
                )
            },
        )
        if not unregistered:
            settings._check_credentials()
        if not devmode and not math.isinf(threshold) and threshold > 1:
            logger.warning("load_threshold is %g: above 1 there is always room", threshold)
        return settings

    def _check_credentials(self) -> None:
        for name, variable, what in (
            ("ws_url", "LIVEKIT_URL", "the URL of the LiveKit server"),
            ("api_key", "LIVEKIT_API_KEY", "its API key"),
            ("api_secret", "LIVEKIT_API_SECRET", "its API secret"),
        ):
            if not getattr(self, name):
                raise ValueError(
                    f"{name} is required, or add {variable} in your environment: {what}"
                )
        agent_url(self.ws_url)

    def export(self) -> None:
        """Give the processes what they need through their environment, and trusted certificates."""
        from ..utils.http_context import _set_default_cert_env

        for variable, value in (
            ("LIVEKIT_URL", self.ws_url),
            ("LIVEKIT_API_KEY", self.api_key),
            ("LIVEKIT_API_SECRET", self.api_secret),
            ("LIVEKIT_WORKER_TOKEN", self.worker_token),
            ("LIVEKIT_AGENT_DEPLOYMENT", self.deployment),
        ):
            if value:
                os.environ[variable] = value
        _set_default_cert_env()
        self._prepare_metrics()

    def _prepare_metrics(self) -> None:
        directory = self.prometheus_multiproc_dir or os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if not directory:
            return
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        for file in path.iterdir():  # of former runs, whose processes are gone
            if file.is_file():
                file.unlink()

    def make_context(self) -> Any:
        """How processes are started, with everything loaded ahead that they have in common."""
        if self.job_executor_type is JobExecutorType.THREAD:
            from multiprocessing import get_context

            return get_context("spawn")  # for the inference process only
        import multiprocessing as mp

        context = mp.get_context(self.multiprocessing_context)
        if self.multiprocessing_context == "forkserver":
            from ..plugin import Plugin

            plugins = [plugin.package for plugin in Plugin.registered_plugins if plugin.package]
            context.set_forkserver_preload(
                ["livekit.agents.ipc.forkserver_preload", *plugins, *self.preload_modules]
            )
        return context

    def make_worker_token(self) -> str:
        """A token that allows to register as a worker."""
        from livekit import api

        return (
            api.AccessToken(self.api_key, self.api_secret)
            .with_grants(api.VideoGrants(agent=True))
            .to_jwt()
        )

    def register_request(self, server: AgentServer) -> agent.RegisterWorkerRequest:
        """How the worker introduces itself."""
        from livekit.protocol import agent, models

        permissions = server._permissions
        return agent.RegisterWorkerRequest(
            type=server._type.value,  # type: ignore[arg-type]
            allowed_permissions=models.ParticipantPermission(
                can_publish=permissions.can_publish,
                can_subscribe=permissions.can_subscribe,
                can_publish_data=permissions.can_publish_data,
                can_update_metadata=permissions.can_update_metadata,
                can_publish_sources=permissions.can_publish_sources,
                hidden=permissions.hidden,
                agent=True,
            ),
            agent_name=server._agent_name,
            deployment=self.deployment,
            version=__version__,
        )


def _hosted(
    server: AgentServer, devmode: bool, threshold: float, load_fnc: Callable[..., float] | None
) -> tuple[float, None]:
    """On LiveKit Cloud the platform scales by the default load."""
    from ..worker import _LOAD_THRESHOLD

    default = _LOAD_THRESHOLD.dev_default if devmode else _LOAD_THRESHOLD.prod_default
    if load_fnc is not None:
        logger.warning("load_fnc is not used on LiveKit Cloud: the default load counts there")
    if threshold != default:
        logger.warning("load_threshold is not used on LiveKit Cloud: the default counts there")
    return default, None
