"""Which audio is speech, told by its loudness; and which speech no transcript has covered yet."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from livekit import rtc

CHUNK_DURATION = 0.05
"""Seconds of audio that are sent at once."""

JUDGED_DURATION = 0.2
"""Seconds of sent audio that are judged at once."""

_WAKE_LEVEL = 100.0
_LOUD_LEVEL = 400.0
_SPEECH_LEVEL = 100.0
_ABOVE_FLOOR = 2.5
_FLOOR = 40.0
_FLOOR_GROWTH = 0.4  # of itself per second

_SAME_UTTERANCE = 0.5
ALIGNMENT_SLACK = 0.3
"""Seconds by which the end of a transcript may miss the end of the sound."""

FORGET_AFTER = 30.0
"""Seconds after which sound that got no transcript was no speech."""


def loudness(pcm: bytes | bytearray | memoryview) -> float:
    """Root mean square of signed 16-bit samples; 0 for none."""
    samples = np.frombuffer(pcm, np.int16).astype(np.float32)
    return math.sqrt(np.dot(samples, samples) / samples.size) if samples.size else 0.0


def is_silence(frame: rtc.AudioFrame) -> bool:
    """Whether nobody can be heard in a frame, as far as its length allows to tell."""
    return frame.duration <= JUDGED_DURATION and loudness(frame.data) < _WAKE_LEVEL


class WakeGate:
    """Decides when audio that nobody listens to is worth a connection. When in doubt, it is."""

    def __init__(self) -> None:
        self._previous = 0.0

    def hears(self, level: float) -> bool:
        """Judge the next chunk of 50 ms by its loudness. Digital silence never opens the gate."""
        previous, self._previous = self._previous, level
        return level >= _LOUD_LEVEL or min(level, previous) >= _WAKE_LEVEL


class SpeechGate:
    """Tells speech from the noise of the room, which it gets used to within seconds."""

    def __init__(self) -> None:
        self._floor = _FLOOR
        self.steady = 0.0
        """For how many seconds it has not been as quiet as the room."""
        self.got_used = False
        """The audio judged last is loud, but no louder than everything since then: noise."""

    def hears(self, level: float, seconds: float) -> bool:
        """Judge a piece of audio by its loudness.

        Args:
            level: Its loudness.
            seconds: Its length, a fraction of a second.
        """
        loud = level >= _SPEECH_LEVEL
        speech = loud and level >= self._floor * _ABOVE_FLOOR
        self.got_used = loud and not speech
        grown = self._floor * (1.0 + _FLOOR_GROWTH * seconds)
        if level > grown:
            self.steady += seconds
            self._floor = grown
        else:
            self.steady = 0.0 if speech or not loud else self.steady + seconds
            self._floor = max(level, _FLOOR)
        return speech


@dataclass
class _Run:
    start: float
    end: float
    loud: float


class SpokenAudio:
    """Stretches of speech on one connection. All times are seconds since its first sample."""

    def __init__(self) -> None:
        self._runs: deque[_Run] = deque()
        self._covered = 0.0

    def add(self, start: float, duration: float) -> None:
        """Note a chunk of speech. Chunks come in order."""
        if start + duration <= self._covered:
            return
        if self._runs and start - self._runs[-1].end <= _SAME_UTTERANCE:
            self._runs[-1].end = start + duration
            self._runs[-1].loud += duration
        else:
            self._runs.append(_Run(start, start + duration, duration))
        while self._runs and start - self._runs[0].end > FORGET_AFTER:
            self._runs.popleft()

    def dismiss(self, since: float) -> None:
        """What was noted since this time turned out to be noise."""
        while self._runs and self._runs[-1].start >= since:
            self._runs.pop()
        if self._runs and self._runs[-1].end > since:
            run = self._runs[-1]
            run.loud = min(run.loud, since - run.start)
            run.end = since

    def cover(self, until: float) -> None:
        """A transcript, or the server's word, answers for everything before this time."""
        self._covered = max(self._covered, until)
        while self._runs and self._runs[0].end <= self._covered + ALIGNMENT_SLACK:
            self._runs.popleft()

    def expire(self, now: float) -> None:
        """Forget sound that had its chance."""
        if not self._runs:
            return
        while self._runs and now - self._runs[0].end > FORGET_AFTER:
            self._runs.popleft()

    @property
    def covered(self) -> float:
        """What has been answered for."""
        return self._covered

    @property
    def pending(self) -> bool:
        """Whether speech waits for a transcript."""
        return bool(self._runs)

    @property
    def onset(self) -> float | None:
        """Where the oldest speech without a transcript begins."""
        return max(self._runs[0].start, self._covered) if self._runs else None

    @property
    def amount(self) -> float:
        """Seconds of sound that wait for a transcript, pauses not counted."""
        return sum(run.loud for run in self._runs)
