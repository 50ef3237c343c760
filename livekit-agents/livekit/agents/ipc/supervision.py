"""When a process is slow, stuck, or past its deadline. No I/O: fed with events and times.

The owner asks `next_at` when to look again, calls `tick` then, and acts on what it says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

__all__ = ["JobEndBudgets", "Kill", "KillReason", "Supervision"]

_OWN_LAG = 1.0
"""Seconds that the owner may wake up late before its own lag is given to the process as extra."""


@dataclass(frozen=True)
class JobEndBudgets:
    """Seconds that the steps of a job's end may take. Both sides count with the same figures."""

    entrypoint: float = 15.0
    """For the entrypoint to return by itself."""

    session: float = 60.0
    """For sessions to close; then their close is forced."""

    session_forced: float = 5.0
    """For a forced close to come to its end: twice `teardown_timeout` and a little."""

    session_end: float = 0.0
    """For `on_session_end`; 0 without one."""

    report: float = 60.0
    """For the session report and its upload."""

    cleanup: float = 2.0
    """For what still needs the room: avatars, background audio, deleting the room."""

    disconnect: float = 5.0
    """For leaving the room."""

    callbacks: float = 60.0
    """For the shutdown callbacks, side by side."""

    callbacks_asked: float = 10.0
    """The same when the worker is waiting: `shutdown_process_timeout`."""

    telemetry: float = 10.0
    """For traces and logs that are still to be sent."""

    models: float = 2.0
    """For closing the models that the sessions used."""

    grace: float = 2.0
    """For a step that was cancelled at its limit."""

    margin: float = 5.0
    """For the process itself to end."""

    def tail(self, asked: bool) -> float:
        """Seconds from the moment the session is closed to the end of the process, at most."""
        callbacks = self.callbacks_asked if asked else self.callbacks
        return (
            self.cleanup
            + self.disconnect
            + callbacks
            + self.telemetry
            + self.models
            + self.grace
            + self.margin
        )

    def whole(self, asked: bool) -> float:
        """Seconds from the first sign of the end to the end of the process, at most."""
        head = self.entrypoint + self.session + self.session_forced + self.session_end + self.report
        return head + self.tail(asked)


class KillReason(Enum):
    """Why a process is killed. The value is what the log says."""

    NO_ACK = "process did not ack shutdown in time, killing process"
    CLOSE = "process did not exit in time, killing process"
    UNRESPONSIVE = "process is unresponsive, killing process"
    MEMORY = "process exceeded memory limit, killing it"
    INITIALIZE = "process did not initialize in time, killing process"
    REQUESTED = "killing process"


@dataclass(frozen=True)
class Kill:
    """The verdict that a process has to be killed."""

    reason: KillReason
    waited: float
    """Seconds it was waited for."""

    step: str
    """What the end of the job was doing, if it had begun."""


class Supervision:
    """Decides from pings, pongs and the course of its end whether a process is left alone."""

    def __init__(self, *, ping_interval: float, ping_timeout: float, ack_timeout: float) -> None:
        """Nothing is due before `begin`.

        Args:
            ping_interval: seconds between two pings.
            ping_timeout: seconds without any pong after which the process is stuck; inf: never.
            ack_timeout: seconds that a request to shut down may stay unanswered; inf: for ever.
        """
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._ack_timeout = ack_timeout
        self._next_ping = math.inf
        self._last_pong = math.inf
        self._ack_by = math.inf
        self._asked_at = math.inf
        self._ending_at = math.inf
        self._end_by = math.inf
        self._expected = math.inf
        self.step = ""
        """What the end of the job is doing."""

    @property
    def asked(self) -> bool:
        """Whether the process was asked to end, and did not announce it by itself."""
        return self._asked_at < math.inf

    @property
    def ending(self) -> bool:
        """Whether the end has begun."""
        return self._ending_at < math.inf

    def begin(self, now: float) -> None:
        """The process is initialised: from now on it has to answer."""
        self._next_ping = now
        self._last_pong = now

    def pong(self, now: float) -> None:
        """A sign of life."""
        self._last_pong = now

    def shutdown_requested(self, now: float, budget: float) -> None:
        """It was asked to end: within `ack_timeout` it must say so, within `budget` be gone."""
        if not self.asked:
            self._asked_at = now
            self._ack_by = now + self._ack_timeout
            self._begin_end(now, budget)
            self._end_by = min(self._end_by, now + budget)

    def acked(self) -> None:
        """It has read the request."""
        self._ack_by = math.inf

    def end_begun(self, now: float, budget: float, step: str) -> None:
        """It says that its end has reached a step. The first sign starts the clock."""
        self.step = step
        self._begin_end(now, budget)

    def leaving(self, now: float, budget: float) -> None:
        """Only leaving, callbacks and clean-up remain. This can shorten the deadline only."""
        self._ack_by = math.inf
        self._begin_end(now, budget)
        self._end_by = min(self._end_by, now + budget)

    def next_at(self) -> float:
        """When to call `tick` again; inf: nothing is due."""
        self._expected = min(
            self._next_ping, self._last_pong + self._ping_timeout, self._ack_by, self._end_by
        )
        return self._expected

    def tick(self, now: float) -> tuple[bool, Kill | None]:
        """Whether a ping is to be sent now, and whether the process is to be killed."""
        lag = now - self._expected
        if lag > _OWN_LAG:
            self._forgive(lag)
        return self._ping_due(now), self._verdict(now)

    def _begin_end(self, now: float, budget: float) -> None:
        if not self.ending:
            self._ending_at = now
            self._end_by = now + budget

    def _forgive(self, lag: float) -> None:
        """Whoever slept through the answers can't blame the process for their absence."""
        self._last_pong += lag
        self._ack_by += lag
        self._end_by += lag

    def _ping_due(self, now: float) -> bool:
        if now < self._next_ping:
            return False
        self._next_ping = now + self._ping_interval
        return True

    def _verdict(self, now: float) -> Kill | None:
        if now >= self._ack_by:
            return Kill(KillReason.NO_ACK, now - self._asked_at, self.step)
        if now >= self._end_by:
            return Kill(KillReason.CLOSE, now - self._ending_at, self.step)
        if now >= self._last_pong + self._ping_timeout:
            return Kill(KillReason.UNRESPONSIVE, now - self._last_pong, self.step)
        return None
