"""Prometheus metrics of the worker. Loads `prometheus_client`.

With `PROMETHEUS_MULTIPROC_DIR` set the values of all processes are added up.
"""

from __future__ import annotations

import os
import socket

from prometheus_client import Gauge, Histogram

__all__ = [
    "CHILD_PROC_GAUGE",
    "CPU_LOAD_GAUGE",
    "PROC_INITIALIZE_TIME",
    "RUNNING_JOB_GAUGE",
    "job_ended",
    "job_started",
    "proc_initialized",
]

_LABELS = ("nodename",)
_NODE = socket.gethostname()

PROC_INITIALIZE_TIME = Histogram(
    "lk_agents_proc_initialize_duration_seconds",
    "Time to initialize a job process",
    _LABELS,
    buckets=(0.1, 0.5, 1, 2, 5, 10),
)
RUNNING_JOB_GAUGE = Gauge(
    "lk_agents_active_job_count", "Number of active jobs", _LABELS, multiprocess_mode="livesum"
)
CHILD_PROC_GAUGE = Gauge(
    "lk_agents_child_process_count",
    "Number of processes of the worker",
    _LABELS,
    multiprocess_mode="max",
)
CPU_LOAD_GAUGE = Gauge("lk_agents_worker_load", "Load of the worker", _LABELS)


def job_started() -> None:
    """A job process got a job."""
    RUNNING_JOB_GAUGE.labels(nodename=_NODE).inc()


def job_ended() -> None:
    """A job is over."""
    RUNNING_JOB_GAUGE.labels(nodename=_NODE).dec()


def proc_initialized(*, time_elapsed: float) -> None:
    """A job process took so many seconds to get ready."""
    PROC_INITIALIZE_TIME.labels(nodename=_NODE).observe(time_elapsed)


def _worker_load(load: float, children: int) -> None:
    CPU_LOAD_GAUGE.labels(nodename=_NODE).set(load)
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        CHILD_PROC_GAUGE.labels(nodename=_NODE).set(children)
