"""Loads what nearly every job needs before there is one, once per process image.

Under the fork server this runs in the server, and the processes share the result.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pkgutil

from ..log import logger

__all__ = ["warm_up"]

_MODULES = (
    "av",
    "livekit.rtc",
    "livekit.api",
    "livekit.agents.ipc.job_runtime",
    "livekit.agents.ipc.session_end",
    "livekit.agents.inference.vad",
    "livekit.agents.inference.eot.stream",
)
_WHOLE = "livekit.agents.voice"
"""A package of which a session uses nearly everything, module by module, when it first does."""
_NOT_OF_IT = (".avatar", ".background_audio")
_TELEMETRY = (
    "livekit.agents.telemetry.cloud",
    "livekit.agents.telemetry.report_upload",
    "requests",
    "opentelemetry.sdk.trace",
    "opentelemetry.sdk._logs",
    "opentelemetry.sdk.metrics",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
)
_CLOUD_HOSTS = (".livekit.cloud", ".livekit.run")
_PRELOAD_ENV = "LIVEKIT_AGENTS_PRELOAD_LOCAL_INFERENCE"

_done = False


def warm_up() -> None:
    """Import. Never raises: whatever fails here fails again where it is needed, and is told there."""
    global _done
    if _done:
        return
    _done = True
    modules: tuple[str, ...] = (*_MODULES, *_modules_of(_WHOLE))
    if _uploads():
        modules += _TELEMETRY
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:
            logger.debug("could not load %s ahead of time", name, exc_info=True)
    _load_models()


def _load_models() -> None:
    """Load the local models, where the processes to come can share what they take.

    The turn detector is large: a process that was spawned would not share it, and loads it only
    when a session hears somebody.
    """
    wanted = os.environ.get(_PRELOAD_ENV)
    if wanted is not None and wanted.lower() in ("0", "false", "no", "off"):
        return
    try:
        from livekit import local_inference

        local_inference.init_vad()
        if wanted is not None or multiprocessing.parent_process() is None:
            from ..inference.eot import local_model

            local_model.load()
    except Exception:
        logger.debug("could not load the local models ahead of time", exc_info=True)


def _modules_of(package: str) -> list[str]:
    path = importlib.import_module(package).__path__
    found = pkgutil.walk_packages(path, f"{package}.", onerror=lambda _: None)
    return [module.name for module in found if not any(part in module.name for part in _NOT_OF_IT)]


def _uploads() -> bool:
    """Whether jobs of this process will upload telemetry."""
    host = os.environ.get("LIVEKIT_URL", "").rstrip("/")
    return bool(os.environ.get("LIVEKIT_OBSERVABILITY_URL")) or host.endswith(_CLOUD_HOSTS)
