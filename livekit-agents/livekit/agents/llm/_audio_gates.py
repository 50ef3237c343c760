"""Gates that tell speech from silence in the output of a model, by its loudness."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from typing import Protocol

from livekit import rtc

_MIN_FLOOR = 1e-4
"""Loudness below which nothing counts as noise; 1.0 is a full-scale square wave."""


class AudioGate(Protocol):
    """Decides, frame by frame, whether a model is speaking."""

    def update(self, frame: rtc.AudioFrame) -> bool:
        """Take the next frame. Returns whether the gate is open now."""
        ...

    def deactivate(self) -> None:
        """Close the gate, because the speech has ended by other means."""
        ...


class _LevelGate(ABC):
    """Opens above a multiple of the noise floor, closes after a while below a smaller one."""

    def __init__(
        self, *, activation_ratio: float, deactivation_ratio: float, min_silence_duration: float
    ) -> None:
        self._activation_ratio = activation_ratio
        self._deactivation_ratio = deactivation_ratio
        self._min_silence_duration = min_silence_duration
        self._open = False
        self._silence = 0.0

    def update(self, frame: rtc.AudioFrame) -> bool:
        """Take the next frame. Returns whether the gate is open now."""
        level, duration = rms(frame), frame.duration
        floor = max(_MIN_FLOOR, self._noise_floor())
        if not self._open:
            self._open = level > floor * self._activation_ratio
            self._silence = 0.0
        elif level >= floor * self._deactivation_ratio:
            self._silence = 0.0
        else:
            self._silence += duration
            # Half a sample of slack: durations of frames don't add up exactly.
            self._open = self._silence < self._min_silence_duration - 0.5 / frame.sample_rate
        self._heard(level, duration, is_open=self._open)
        return self._open

    def deactivate(self) -> None:
        """Close the gate, because the speech has ended by other means."""
        self._open = False
        self._silence = 0.0

    @abstractmethod
    def _noise_floor(self) -> float:
        """How loud the model's silence is."""

    def _heard(  # noqa: B027 (nothing to learn by default)
        self, level: float, duration: float, *, is_open: bool
    ) -> None:
        """Learn from a frame."""


class FixedGate(_LevelGate):
    """For a model whose silence is always equally loud."""

    def __init__(
        self,
        silence: float,
        *,
        activation_ratio: float = 3.0,
        deactivation_ratio: float = 1.8,
        min_silence_duration: float = 0.5,
    ) -> None:
        """Set up a closed gate.

        Args:
            silence: Loudness (RMS, 1.0 is full scale) of the model's silence.
            activation_ratio: How many times louder speech is at least.
            deactivation_ratio: Below this many times, it is silence again.
            min_silence_duration: Seconds of silence that close the gate.
        """
        super().__init__(
            activation_ratio=activation_ratio,
            deactivation_ratio=deactivation_ratio,
            min_silence_duration=min_silence_duration,
        )
        self._floor = silence

    def _noise_floor(self) -> float:
        return self._floor


class AdaptiveNoiseGate(_LevelGate):
    """Learns how loud the model's silence is from the quietest stretch while it doesn't speak."""

    def __init__(
        self,
        *,
        activation_ratio: float = 3.0,
        deactivation_ratio: float = 1.8,
        min_silence_duration: float = 0.5,
        window: float = 10.0,
    ) -> None:
        """Set up a closed gate.

        Args:
            activation_ratio: How many times louder than silence speech is at least.
            deactivation_ratio: Below this many times, it is silence again.
            min_silence_duration: Seconds of silence that close the gate; also the length of the
                stretches that are compared.
            window: Seconds of audio for which a stretch is remembered.
        """
        super().__init__(
            activation_ratio=activation_ratio,
            deactivation_ratio=deactivation_ratio,
            min_silence_duration=min_silence_duration,
        )
        self._window = window
        self._clock = 0.0
        self._floor = 0.0
        self._stretch: deque[tuple[float, float]] = deque()  # (duration, energy) of frames
        self._duration = 0.0
        self._energy = 0.0
        # (end, loudness) of stretches, in increasing loudness: the first is the quietest, the
        # others are those that become it when it is forgotten.
        self._quietest: deque[tuple[float, float]] = deque()

    def _noise_floor(self) -> float:
        while len(self._quietest) > 1 and self._quietest[0][0] < self._clock - self._window:
            self._quietest.popleft()
        if self._quietest:
            self._floor = self._quietest[0][1]
        return self._floor

    def _heard(self, level: float, duration: float, *, is_open: bool) -> None:
        self._clock += duration
        if is_open:
            self._stretch.clear()
            self._duration = self._energy = 0.0
            return
        self._stretch.append((duration, level * level * duration))
        self._duration += duration
        self._energy += level * level * duration
        while self._duration - self._stretch[0][0] >= self._min_silence_duration:
            oldest, energy = self._stretch.popleft()
            self._duration -= oldest
            self._energy -= energy
        if self._duration >= self._min_silence_duration:
            loudness = math.sqrt(max(0.0, self._energy) / self._duration)
            while self._quietest and self._quietest[-1][1] >= loudness:
                self._quietest.pop()
            self._quietest.append((self._clock, loudness))


def rms(frame: rtc.AudioFrame) -> float:
    """Loudness of a frame, 0 to 1: the root of the mean square of its samples, all channels."""
    import numpy as np

    samples = np.frombuffer(frame.data, dtype=np.int16)
    if not len(samples):
        return 0.0
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) / 32768.0
