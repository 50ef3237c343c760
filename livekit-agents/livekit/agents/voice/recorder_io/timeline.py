"""Sound placed on an absolute timeline. No I/O: fed with samples and when they were heard."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.int16]


class Channel:
    """One mono channel: pieces are put anywhere, and taken from the beginning on.

    Silence is where nothing was put. What is put where it was taken already is dropped, and
    counted in `late`.
    """

    def __init__(self) -> None:
        self.taken = 0
        """Samples taken so far: everything before is settled."""
        self.late = 0
        """Samples that came after their place was taken."""
        self._pieces: deque[tuple[int, Samples]] = deque()

    def put(self, start: int, samples: Samples) -> None:
        """Place samples; `start` is the index of the first one."""
        missed = min(max(0, self.taken - start), len(samples))
        self.late += missed
        if missed < len(samples):
            self._pieces.append((start + missed, samples[missed:]))

    def take(self, until: int) -> Samples:
        """What is between the last `until` and this one."""
        import numpy as np

        taken = np.zeros(max(0, until - self.taken), dtype=np.int16)
        rest: deque[tuple[int, Samples]] = deque()
        for start, samples in self._pieces:
            offset = start - self.taken
            piece = samples[: max(0, until - start)]
            taken[offset : offset + len(piece)] = piece
            if len(piece) < len(samples):
                rest.append((start + len(piece), samples[len(piece) :]))
        self._pieces = rest
        self.taken = max(self.taken, until)
        return taken


class Run:
    """Consecutive frames. It keeps its own clock, so that jitter makes no gaps.

    Args:
        tolerance: Seconds that the clock may differ from the frames' times.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._clock: float | None = None

    @property
    def end(self) -> float | None:
        """Where the next frame is expected; None before the first one."""
        return self._clock

    def place(self, start: float, duration: float) -> tuple[float, bool]:
        """Where a frame belongs that seems to start at `start`, and whether a new run begins."""
        new = self._clock is None or abs(start - self._clock) > self._tolerance
        begin = start if new or self._clock is None else self._clock
        self._clock = begin + duration
        return begin, new

    def close(self) -> None:
        """The next frame begins a new run."""
        self._clock = None


def mono(frame: Any) -> Samples:
    """The samples of a frame; several channels are averaged."""
    import numpy as np

    samples = np.frombuffer(frame.data, dtype=np.int16)
    if frame.num_channels == 1:
        return samples
    averaged: Samples = samples.reshape(-1, frame.num_channels).mean(axis=1).astype(np.int16)
    return averaged


__all__ = ["Channel", "Run", "mono"]
