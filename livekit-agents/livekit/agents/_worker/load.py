"""How busy the worker is, and whether it takes another job."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ..log import logger

__all__ = ["CpuLoad", "LoadGauge", "LoadProbe", "default_load"]

_SAMPLES = 5
_SAMPLE_TIME = 0.5
_PROBE_TIMEOUT = 2.0
"""Seconds a user's `load_fnc` may take; then the last value counts."""


class CpuLoad:
    """The CPU load of the machine, or container, averaged over 2.5 s. One thread per process."""

    _instance: CpuLoad | None = None

    def __init__(self) -> None:
        """Start to measure."""
        self._samples: deque[float] = deque([0.0], maxlen=_SAMPLES)
        threading.Thread(target=self._run, name="worker_cpu_load", daemon=True).start()

    @classmethod
    def get(cls) -> CpuLoad:
        """The one of this process."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    @property
    def load(self) -> float:
        """0 to 1."""
        samples = list(self._samples)
        return sum(samples) / len(samples)

    def _run(self) -> None:
        from ..utils.hw import get_cpu_monitor

        monitor = get_cpu_monitor()
        while True:
            self._samples.append(monitor.cpu_percent(interval=_SAMPLE_TIME))


def default_load(_: Any = None) -> float:
    """The default `load_fnc`."""
    return CpuLoad.get().load


class LoadProbe:
    """Asks a `load_fnc`, in a thread of its own: a value is always there in time.

    A function that fails or hangs is reported, and the last value it gave counts.
    """

    def __init__(self, load_fnc: Callable[..., float], server: Any) -> None:
        """Take `fn()` or `fn(server)`."""
        takes_server = bool(inspect.signature(load_fnc).parameters)
        self._call: Callable[[], float] = (
            functools.partial(load_fnc, server) if takes_server else load_fnc
        )
        self._running: asyncio.Future[float] | None = None
        self._value = 0.0
        self._reported = False

    async def value(self) -> float:
        """The load now."""
        if self._running is None:
            self._running = asyncio.get_running_loop().create_future()
            threading.Thread(
                target=self._run,
                args=(self._running, asyncio.get_running_loop()),
                name="worker_load_fnc",
                daemon=True,
            ).start()
        running = self._running
        await asyncio.wait((running,), timeout=_PROBE_TIMEOUT)
        if not running.done():
            if not self._reported:
                self._reported = True
                logger.warning(
                    "load_fnc did not return within %g s, its last value is used", _PROBE_TIMEOUT
                )
            return self._value
        self._running = None
        error = running.exception()
        if error is not None:
            logger.error("load_fnc failed, its last value is used", exc_info=error)
        else:
            self._reported = False
            self._value = running.result()
        return self._value

    def _run(self, future: asyncio.Future[float], loop: asyncio.AbstractEventLoop) -> None:
        try:
            value = float(self._call())
        except Exception as error:
            _post(loop, _fail, future, error)
        else:
            _post(loop, _resolve, future, value)


def _post(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        pass  # the server has closed meanwhile


def _resolve(future: asyncio.Future[float], value: float) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[float], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


class LoadGauge:
    """Decides from the load, the jobs and the offers under way. No I/O."""

    def __init__(self, *, threshold: float, max_idle: int) -> None:
        """Set up; `threshold` inf: there is always room."""
        self.threshold = threshold
        self._max_idle = max_idle
        self.load = 0.0
        """As measured last."""
        self.reserved = 0
        """Offers that are being answered, or accepted and not yet running."""

    def effective(self, active_jobs: int) -> float:
        """The load, with what the reserved jobs will probably add."""
        return self.load + self.reserved * self._per_job(active_jobs)

    def has_room(self, active_jobs: int) -> bool:
        """Whether another job can be taken."""
        return math.isinf(self.threshold) or self.effective(active_jobs) < self.threshold

    def idle_target(self, active_jobs: int) -> int | None:
        """How many idle processes are worth keeping; None: as many as now."""
        if math.isinf(self.threshold):
            return None
        if not active_jobs:
            return self._max_idle
        per_job = self.load / active_jobs
        if per_job <= 0:
            return None
        return min(math.ceil(max(self.threshold - self.load, 0.0) / per_job), self._max_idle)

    def _per_job(self, active_jobs: int) -> float:
        if active_jobs:
            return self.load / active_jobs
        return 0.0 if math.isinf(self.threshold) else self.threshold / max(self._max_idle, 1)
