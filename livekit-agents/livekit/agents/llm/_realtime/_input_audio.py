"""What the user says, in the form that realtime servers take: 24 kHz, mono, int16. No I/O."""

from __future__ import annotations

from livekit import rtc

from ...utils.audio import AudioByteStream

SAMPLE_RATE = 24000
NUM_CHANNELS = 1
CHUNK = 0.1
"""Seconds of audio in one event."""


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


def _mono(frame: rtc.AudioFrame) -> bytes:
    if frame.num_channels == 1:
        return frame.data.tobytes()
    import numpy as np

    samples = np.frombuffer(frame.data, dtype=np.int16).reshape(-1, frame.num_channels)
    mono: bytes = samples.mean(axis=1).astype(np.int16).tobytes()
    return mono


def _duration(pcm: bytes) -> float:
    return len(pcm) / 2 / SAMPLE_RATE
