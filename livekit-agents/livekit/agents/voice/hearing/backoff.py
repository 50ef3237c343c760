"""How long to wait before opening a broken stream again."""

from __future__ import annotations

FIRST_DELAY = 0.5
MAX_DELAY = 5.0
HEALTHY_AFTER = 10.0
"""Seconds a stream must have lived for its failure to count as a first one again."""


class Backoff:
    """Delays of 0.5 s, doubling up to 5 s, until the stream proves healthy."""

    def __init__(self, first: float = FIRST_DELAY, maximum: float = MAX_DELAY) -> None:
        self._first = first
        self._maximum = maximum
        self._next = first

    def next_delay(self) -> float:
        """Seconds to wait after this failure."""
        delay, self._next = self._next, min(self._next * 2, self._maximum)
        return delay

    def reset(self) -> None:
        """The stream works: the next failure is a first one."""
        self._next = self._first
