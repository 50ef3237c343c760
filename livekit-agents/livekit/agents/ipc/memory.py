"""How much memory a process uses, and when that is worth a word, or its life."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["MemoryAction", "MemorySample", "MemoryWatch", "measure"]

_REPEAT_AFTER = 120.0
"""Seconds after which a warning is repeated."""

_REPEAT_GROWTH = 50.0
"""MB of growth after which it is repeated earlier."""


@dataclass(frozen=True)
class MemorySample:
    """One measurement."""

    mb: float
    metric: str
    """`pss` (shared pages counted in part), `uss` (own pages only) or `rss` (all)."""


class MemoryAction(Enum):
    """What to do about a sample."""

    NOTHING = "nothing"
    WARN = "warn"
    KILL = "kill"


class MemoryWatch:
    """Decides about samples. No I/O."""

    def __init__(self, *, warn_mb: float, limit_mb: float) -> None:
        """Watch with a threshold for warnings and a limit, in MB; 0: none."""
        self.warn_mb = warn_mb
        self.limit_mb = limit_mb
        self.baseline: float | None = None
        """The first sample, in MB."""
        self._warned_at = -math.inf
        self._warned_mb = 0.0

    @property
    def active(self) -> bool:
        """Whether there is anything to watch."""
        return self.warn_mb > 0 or self.limit_mb > 0

    def sample(self, now: float, mb: float) -> MemoryAction:
        """What a measurement calls for."""
        if self.baseline is None:
            self.baseline = mb
        if 0 < self.limit_mb < mb:
            return MemoryAction.KILL
        if not 0 < self.warn_mb < mb:
            return MemoryAction.NOTHING
        if now - self._warned_at < _REPEAT_AFTER and mb - self._warned_mb < _REPEAT_GROWTH:
            return MemoryAction.NOTHING
        self._warned_at, self._warned_mb = now, mb
        return MemoryAction.WARN


def measure(pid: int) -> MemorySample | None:
    """Memory of a process; None when it is gone or may not be looked at. Takes milliseconds."""
    import psutil  # type: ignore[import-untyped,unused-ignore]

    try:
        process = psutil.Process(pid)
        try:
            full: Any = process.memory_full_info()
        except psutil.AccessDenied:
            return MemorySample(process.memory_info().rss / 2**20, "rss")
    except psutil.Error:
        return None
    for metric in ("pss", "uss"):
        value = getattr(full, metric, 0)
        if value:
            return MemorySample(value / 2**20, metric)
    return MemorySample(full.rss / 2**20, "rss")
