"""Whom a microphone belongs to: the speaker who is loudest in it. No I/O."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

from livekit import rtc


@dataclass
class PrimarySpeakerDetectionOptions:
    """When another speaker becomes the primary one."""

    frame_size_ms: int = 100
    """Length of the windows that loudness is measured in."""
    rms_buffer_duration: float = 120.0
    """Seconds of audio whose loudness is remembered."""
    min_rms_samples: int = 3
    """Windows that a transcript must cover to say anything about its speaker."""
    rms_smoothing_factor: float = 0.5
    """Weight, 0..1, of what is known about a speaker against a new measurement."""
    threshold_multiplier: float = 1.3
    """How much louder than the primary speaker another one must be, right after that spoke."""
    decay_to_equal_time: float = 60
    """Seconds of the primary speaker's silence after which being as loud is enough."""
    threshold_min_multiplier: float = 0.5
    """How quiet another speaker may be however long the primary one is silent."""


class PrimarySpeakerDetector:
    """Measures the audio and decides, transcript by transcript, who the primary speaker is."""

    def __init__(self, options: PrimarySpeakerDetectionOptions) -> None:
        self._options = options
        self._primary: str | None = None
        self._primary_last_end = 0.0
        self._loudness: dict[str, float] = {}  # smoothed RMS of each speaker
        self._pending = bytearray()
        self._duration = 0.0
        self._windows_seen = 0
        self._windows: deque[float] = deque(
            maxlen=max(1, round(options.rms_buffer_duration * 1000 / options.frame_size_ms))
        )

    @property
    def primary(self) -> str | None:
        """The primary speaker, once somebody was heard."""
        return self._primary

    def push(self, frame: rtc.AudioFrame) -> None:
        """Measure the next audio (int16, any number of channels)."""
        self._duration += frame.duration
        self._pending += frame.data.cast("B")
        samples = frame.sample_rate * self._options.frame_size_ms // 1000
        size = samples * frame.num_channels * 2
        while len(self._pending) >= size > 0:
            self._windows.append(_rms(self._pending[:size]))
            self._windows_seen += 1
            del self._pending[:size]

    def transcribed(self, speaker: str, start: float, end: float) -> None:
        """Learn that somebody spoke.

        Args:
            speaker: Who.
            start: When it began, in seconds of the pushed audio.
            end: When it ended.
        """
        measured = self._rms_between(start, end)
        if measured is not None:
            known = self._loudness.get(speaker)
            weight = self._options.rms_smoothing_factor
            self._loudness[speaker] = (
                measured if known is None else known * weight + measured * (1 - weight)
            )
            if self._takes_over(speaker):
                self._primary = speaker
        if speaker == self._primary:
            self._primary_last_end = end

    def _takes_over(self, speaker: str) -> bool:
        if self._primary is None:
            return True
        if speaker == self._primary:
            return False
        return self._loudness[speaker] > self._loudness[self._primary] * self._threshold()

    def _threshold(self) -> float:
        options = self._options
        multiplier = options.threshold_multiplier
        if multiplier > 1:
            silence = max(0.0, self._duration - self._primary_last_end)
            multiplier -= (multiplier - 1) / options.decay_to_equal_time * silence
        return max(multiplier, options.threshold_min_multiplier)

    def _rms_between(self, start: float, end: float) -> float | None:
        window = self._options.frame_size_ms / 1000
        oldest = self._windows_seen - len(self._windows)
        first = int(start / window + 1e-6) - oldest
        last = int(-(-end // window)) - oldest
        if first < 0 or last - first < self._options.min_rms_samples:
            return None  # forgotten already, or too short to tell
        samples = list(self._windows)[first:last]
        if len(samples) < self._options.min_rms_samples:
            return None
        return statistics.median(samples)


def _rms(samples: bytearray) -> float:
    import numpy as np

    values = np.frombuffer(bytes(samples), dtype=np.int16).astype(np.float32)
    return float(np.sqrt(np.mean(values * values)))
