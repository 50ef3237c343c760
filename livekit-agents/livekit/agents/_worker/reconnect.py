"""When to connect again, and when to give up. No I/O."""

from __future__ import annotations

import random

__all__ = ["ReconnectPolicy"]

_STABLE = 30.0
"""Seconds a registered connection has to live until earlier failures are forgotten."""

_STEP, _MAX = 2.0, 10.0
_JITTER = 0.2


class ReconnectPolicy:
    """Counts failures in a row; each waits longer than the one before.

    A connection that is accepted and closed again counts as a failure, too: a server that does so
    would otherwise be called a thousand times a second.
    """

    def __init__(self, max_retry: int, rng: random.Random | None = None) -> None:
        """Allow `max_retry` failures in a row before the last attempt."""
        self._max_retry = max_retry
        self._rng = rng or random.Random()
        self._registered_at: float | None = None
        self.failures = 0
        """In a row."""

    def registered(self, now: float) -> None:
        """The server knows the worker."""
        self._registered_at = now

    def failed(self, now: float) -> float | None:
        """A connection, or an attempt, has failed. Returns the seconds to wait; None: give up."""
        if self._registered_at is not None and now - self._registered_at >= _STABLE:
            self.failures = 0
        self._registered_at = None
        if self.failures >= self._max_retry:
            return None
        delay = min(_STEP * self.failures, _MAX)
        self.failures += 1
        return delay * self._rng.uniform(1 - _JITTER, 1 + _JITTER)
