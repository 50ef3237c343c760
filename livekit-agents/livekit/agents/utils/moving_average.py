"""Average of the latest samples."""

from __future__ import annotations

from collections import deque


class MovingAverage:
    """The mean of the last ``window_size`` samples."""

    def __init__(self, window_size: int) -> None:
        """Make an empty window.

        Raises:
            ValueError: ``window_size`` is less than 1.
        """
        if window_size < 1:
            raise ValueError(f"window_size must be at least 1, got {window_size}")
        self._samples: deque[float] = deque(maxlen=window_size)

    def add_sample(self, sample: float) -> None:
        """Add a sample; a full window drops its oldest."""
        self._samples.append(sample)

    def get_avg(self) -> float:
        """The mean, 0 without samples."""
        return sum(self._samples) / len(self._samples) if self._samples else 0.0

    def reset(self) -> None:
        """Drop all samples."""
        self._samples.clear()

    def size(self) -> int:
        """Number of samples in the window."""
        return len(self._samples)
