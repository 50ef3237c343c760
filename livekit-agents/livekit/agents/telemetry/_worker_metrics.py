"""What the worker counts. Costs nothing until `telemetry.metrics` (Prometheus) is loaded."""

from __future__ import annotations

import sys
from typing import Any

_PROMETHEUS = f"{__package__}.metrics"


def _metrics() -> Any:
    return sys.modules.get(_PROMETHEUS)


def job_started() -> None:
    """A job process got a job."""
    if (metrics := _metrics()) is not None:
        metrics.job_started()


def job_ended() -> None:
    """A job is over."""
    if (metrics := _metrics()) is not None:
        metrics.job_ended()


def proc_initialized(*, time_elapsed: float) -> None:
    """A job process took so many seconds to get ready."""
    if (metrics := _metrics()) is not None:
        metrics.proc_initialized(time_elapsed=time_elapsed)


def worker_load(load: float, children: int) -> None:
    """The load of the worker, and how many processes it has."""
    if (metrics := _metrics()) is not None:
        metrics._worker_load(load, children)
