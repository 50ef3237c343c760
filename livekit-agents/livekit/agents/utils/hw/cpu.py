"""CPU share and load, as seen by the container this process runs in.

Control group files: https://docs.kernel.org/admin-guide/cgroup-v2.html (CPU interface files) and
https://docs.kernel.org/scheduler/sched-bwc.html.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from pathlib import Path

from ...log import logger

_CGROUP_V2 = Path("/sys/fs/cgroup")
_CGROUP_V1_DIRS = (
    Path("/sys/fs/cgroup/cpu"),
    Path("/sys/fs/cgroup/cpuacct"),
    Path("/sys/fs/cgroup/cpu,cpuacct"),
)
_V1_COUNT_WITHOUT_QUOTA = 2.0

_PLAUSIBLE_EXCESS = 2.0
"""A group may burst over its quota for a moment; more than twice is a broken counter."""


class CPUMonitor(ABC):
    """Counts CPUs and measures their load."""

    @abstractmethod
    def cpu_count(self) -> float:
        """Number of CPUs this process may use; a fraction in containers. ``NUM_CPUS`` overrides."""

    @abstractmethod
    def cpu_percent(self, interval: float = 0.5) -> float:
        """Share of those CPUs that is busy, 0 to 1.

        Blocks the calling thread.

        Args:
            interval: seconds to measure.
        """


class DefaultCPUMonitor(CPUMonitor):
    """The whole machine, through psutil."""

    def cpu_count(self) -> float:
        """See `CPUMonitor.cpu_count`."""
        return _count_from_env() or float(_machine_count())

    def cpu_percent(self, interval: float = 0.5) -> float:
        """See `CPUMonitor.cpu_percent`."""
        import psutil  # type: ignore[import-untyped,unused-ignore]

        return float(psutil.cpu_percent(interval)) / 100.0


class _CGroupMonitor(CPUMonitor):
    """What the two generations of control groups share."""

    def cpu_percent(self, interval: float = 0.5) -> float:
        """See `CPUMonitor.cpu_percent`. 0 when the counters jumped in a way that can't be."""
        began, used_before = time.monotonic(), self._used_seconds()
        time.sleep(interval)
        elapsed, used = time.monotonic() - began, self._used_seconds() - used_before
        if elapsed <= 0:
            return 0.0
        # NUM_CPUS may be less than what the group really uses: judge by the machine
        if not 0 <= used <= elapsed * _machine_count() * _PLAUSIBLE_EXCESS:
            logger.warning(
                "discarding an impossible CPU usage: %.3f s used in %.3f s", used, elapsed
            )
            return 0.0
        return min(1.0, used / (elapsed * self.cpu_count()))

    @abstractmethod
    def _used_seconds(self) -> float:
        """CPU seconds the group has used so far."""


class CGroupV2CPUMonitor(_CGroupMonitor):
    """A container under cgroup v2 (unified hierarchy)."""

    def __init__(self) -> None:
        self._root = _CGROUP_V2

    def cpu_count(self) -> float:
        """See `CPUMonitor.cpu_count`: quota divided by period (``cpu.max``), or all CPUs."""
        return _count_from_env() or self._quota() or float(_machine_count())

    def _quota(self) -> float | None:
        try:
            quota, period = (self._root / "cpu.max").read_text().split()
            return None if quota == "max" else float(quota) / float(period)
        except (OSError, ValueError, ZeroDivisionError):
            return None

    def _used_seconds(self) -> float:
        for line in (self._root / "cpu.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == "usage_usec":
                return int(value) / 1e6
        raise RuntimeError(f"{self._root / 'cpu.stat'} has no line usage_usec")


class CGroupV1CPUMonitor(_CGroupMonitor):
    """A container under cgroup v1."""

    def cpu_count(self) -> float:
        """See `CPUMonitor.cpu_count`: quota divided by period, at least 1; without a quota 2."""
        if count := _count_from_env():
            return count
        quota = _read_v1("cpu.cfs_quota_us")
        period = _read_v1("cpu.cfs_period_us")
        if quota is None or period is None or quota <= 0 or period <= 0:
            return _V1_COUNT_WITHOUT_QUOTA
        return max(1.0, quota / period)

    def _used_seconds(self) -> float:
        used = _read_v1("cpuacct.usage")
        if used is None:
            raise RuntimeError("no cgroup v1 file cpuacct.usage found")
        return used / 1e9


def get_cpu_monitor() -> CPUMonitor:
    """The monitor that fits the system: cgroup v2, cgroup v1, or psutil."""
    if (_CGROUP_V2 / "cpu.stat").exists():
        return CGroupV2CPUMonitor()
    if _read_v1("cpuacct.usage") is not None:
        return CGroupV1CPUMonitor()
    return DefaultCPUMonitor()


def _machine_count() -> int:
    return os.cpu_count() or 1


def _count_from_env() -> float | None:
    """``NUM_CPUS``, or None when it is unset or (with a warning) not a positive number."""
    text = os.environ.get("NUM_CPUS")
    if not text:
        return None
    try:
        count = float(text)
        if not 0 < count < float("inf"):
            raise ValueError
    except ValueError:
        logger.warning("ignoring NUM_CPUS=%r: expected a positive number", text)
        return None
    return count


def _read_v1(name: str) -> int | None:
    for directory in _CGROUP_V1_DIRS:
        try:
            return int((directory / name).read_text())
        except (OSError, ValueError):
            continue
    return None
