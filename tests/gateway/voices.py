"""How the emulator speaks: PCM (16-bit mono) for a text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import numpy as np


class Voice(Protocol):
    """Speaks sentences."""

    def say(self, text: str, sample_rate: int) -> AsyncIterator[bytes]:
        """The speech in pieces."""


class ToneVoice:
    """A tone, the longer the more letters there are."""

    def __init__(self, *, seconds_per_letter: float = 0.06, piece: float = 0.1) -> None:
        self._per_letter = seconds_per_letter
        self._piece = piece

    def duration(self, text: str) -> float:
        """Seconds that a text takes."""
        return len(text.strip()) * self._per_letter

    async def say(self, text: str, sample_rate: int) -> AsyncIterator[bytes]:
        """A tone of 220 Hz."""
        time = np.arange(int(self.duration(text) * sample_rate)) / sample_rate
        pcm = (6000 * np.sin(2 * np.pi * 220 * time)).astype(np.int16).tobytes()
        size = int(self._piece * sample_rate) * 2
        for start in range(0, len(pcm), size):
            yield pcm[start : start + size]


class PiperVoice:
    """Real speech, by the plugin of the same name."""

    def __init__(self) -> None:
        from livekit.plugins import piper

        self._tts: Any = piper.TTS()

    async def say(self, text: str, sample_rate: int) -> AsyncIterator[bytes]:
        """Speech, resampled to what the client wants."""
        from livekit import rtc

        resampler: rtc.AudioResampler | None = None
        async with self._tts.synthesize(text) as stream:
            async for audio in stream:
                if audio.frame.sample_rate == sample_rate:
                    yield bytes(audio.frame.data)
                    continue
                if resampler is None:
                    resampler = rtc.AudioResampler(audio.frame.sample_rate, sample_rate)
                for frame in resampler.push(audio.frame):
                    yield bytes(frame.data)
        if resampler is not None:
            for frame in resampler.flush():
                yield bytes(frame.data)
