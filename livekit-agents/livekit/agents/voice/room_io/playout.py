"""What of a segment was really played. No I/O: fed with what goes to the track, and when."""

from __future__ import annotations

from dataclasses import dataclass

_EPSILON = 1e-6
"""Seconds, far below one sample: what is less is rounding."""


@dataclass(frozen=True)
class PlayedRun:
    """A stretch of a segment that played without a gap. All in seconds."""

    ended_at: float
    """On the clock that the meter is fed with."""
    offset: float
    """Where in the segment it began."""
    duration: float


class PlayoutMeter:
    """Follows a queue that plays in real time: how much of it is left, and what has played.

    One for each segment. Runs end at an underrun (when the queue ran dry) or when they are `cut`;
    each is returned exactly once.
    """

    __slots__ = ("_dry_at", "_run_length", "_run_offset", "dropped", "submitted")

    def __init__(self) -> None:
        self.submitted = 0.0
        """Seconds handed to the queue so far."""
        self.dropped = 0.0
        """Seconds of it that were taken out again before they played."""
        self._dry_at = 0.0
        self._run_offset = 0.0
        self._run_length = 0.0

    @property
    def played(self) -> float:
        """Seconds played, once the queue is empty."""
        return self.submitted - self.dropped

    def left(self, now: float) -> float:
        """Seconds that are queued and not yet played."""
        left = self._dry_at - now if self._run_length else 0.0
        return left if left > _EPSILON else 0.0

    def submit(self, duration: float, now: float) -> PlayedRun | None:
        """More sound is queued. Returns the run that an underrun had ended before, if one had."""
        run = self.cut(now, drop=False) if now >= self._dry_at else None
        if not self._run_length:
            self._run_offset, self._dry_at = self.submitted, now
        self._dry_at += duration
        self._run_length += duration
        self.submitted += duration
        return run

    def cut(self, now: float, *, drop: bool = True) -> PlayedRun | None:
        """The queue is emptied (`drop`), or is over. Returns what has played since the last run."""
        left = self.left(now) if drop else 0.0
        played, self._run_length = self._run_length - left, 0.0
        self.dropped += left
        if played <= _EPSILON:
            return None
        return PlayedRun(min(now, self._dry_at), self._run_offset, played)


__all__ = ["PlayedRun", "PlayoutMeter"]
