"""What the user says, in the form that realtime servers take: 24 kHz, mono, int16. No I/O."""

from __future__ import annotations

from collections import deque
from itertools import islice

from livekit import rtc

from ...utils.audio import AudioByteStream

SAMPLE_RATE = 24000
NUM_CHANNELS = 1
CHUNK = 0.1
"""Seconds of audio in one event."""

_PRE_ROLL = 1.0
"""Seconds of audio before somebody was heard speaking that may belong to what they say."""

_LONGEST_TURN = 30.0
"""Seconds of an unfinished turn that are kept."""


class InputAudio:
    """Cuts frames of any sample rate and number of channels into pieces of 100 ms."""

    def __init__(self) -> None:
        self._chunks = AudioByteStream(SAMPLE_RATE, NUM_CHANNELS, round(SAMPLE_RATE * CHUNK))
        self._resampler: rtc.AudioResampler | None = None
        self._rate = SAMPLE_RATE
        self.pending = 0.0
        """Seconds that were passed on since the last commit or clear."""

    def push(self, frame: rtc.AudioFrame) -> list[bytes]:
        """Take a frame; the pieces that are complete."""
        pieces: list[bytes] = []
        for pcm in self._resample(frame):
            pieces += [chunk.data.tobytes() for chunk in self._chunks.write(pcm)]
        self.pending += sum(map(_duration, pieces))
        return pieces

    def flush(self) -> list[bytes]:
        """What is left of the last piece."""
        pieces = [chunk.data.tobytes() for chunk in self._chunks.flush()]
        self.pending += sum(map(_duration, pieces))
        return pieces

    def clear(self) -> None:
        """Forget what is left of the last piece, and how much was passed on."""
        self._chunks.flush()
        self.pending = 0.0

    def _resample(self, frame: rtc.AudioFrame) -> list[bytes]:
        mono = _mono(frame)
        if frame.sample_rate != self._rate:
            self._rate, self._resampler = frame.sample_rate, None
        if frame.sample_rate == SAMPLE_RATE:
            return [mono]
        if self._resampler is None:
            self._resampler = rtc.AudioResampler(
                frame.sample_rate, SAMPLE_RATE, num_channels=NUM_CHANNELS
            )
        return [resampled.data.tobytes() for resampled in self._resampler.push(bytearray(mono))]


class UnansweredAudio:
    """What was sent of a turn that the server has not taken yet: another one would have to hear it."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._held = 0.0
        self.speaking = False
        """Whether the pieces belong to a turn, however long it is."""

    def sent(self, pcm: bytes) -> None:
        """A piece goes out."""
        self._pieces.append(pcm)
        self._held += _duration(pcm)
        limit = _LONGEST_TURN if self.speaking else _PRE_ROLL
        while self._held > limit:
            self._held -= _duration(self._pieces.popleft())

    def taken(self) -> None:
        """The turn is over, or is not wanted: the server has it, or never will."""
        self._pieces.clear()
        self._held = 0.0

    def lost(self, unsent: int) -> list[bytes]:
        """The pieces that went out in vain.

        Args:
            unsent: How many of the newest still wait to be sent.
        """
        count = max(0, len(self._pieces) - unsent)
        return list(islice(self._pieces, count))


def _mono(frame: rtc.AudioFrame) -> bytes:
    if frame.num_channels == 1:
        return frame.data.tobytes()
    import numpy as np

    samples = np.frombuffer(frame.data, dtype=np.int16).reshape(-1, frame.num_channels)
    mono: bytes = samples.mean(axis=1).astype(np.int16).tobytes()
    return mono


def _duration(pcm: bytes) -> float:
    return len(pcm) / 2 / SAMPLE_RATE
