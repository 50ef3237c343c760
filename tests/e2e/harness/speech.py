"""Speech for tests: texts become WAV files (piper), WAV files become words (pocketsphinx)."""

from __future__ import annotations

import asyncio
import re
import wave
from pathlib import Path
from typing import Any

from livekit import rtc

from livekit.agents import stt as stt_module
from livekit.plugins import piper, pocketsphinx


class Speech:
    """Speaks, and listens. Each text is synthesised once.

    Args:
        folder: For the WAV files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def say(self, text: str, *, after: float = 0.0) -> Path:
        """A WAV file (mono, int16) in which `text` is spoken after some seconds of silence."""
        name = re.sub(r"\W+", "-", text.lower()).strip("-")
        path = self._folder / f"{name}-{after:g}.wav"
        if not path.exists():
            await self._synthesise(text, after, path)
        return path

    async def _synthesise(self, text: str, after: float, path: Path) -> None:
        voice = piper.TTS()
        pcm, rate = bytearray(), voice.sample_rate
        async for event in voice.synthesize(text):
            pcm += event.frame.data.tobytes()
        await voice.aclose()
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(bytes(2 * int(after * rate)) + bytes(pcm))

    async def words_of(self, path: Path) -> str:
        """What is said in a WAV file, in lower case."""
        with wave.open(str(path)) as file:
            rate, channels = file.getframerate(), file.getnchannels()
            pcm = file.readframes(file.getnframes()) + bytes(2 * rate * channels)
        recogniser = pocketsphinx.STT()
        stream = recogniser.stream()
        samples = rate // 50
        step = samples * 2 * channels
        heard: list[str] = []

        async def feed() -> None:
            for start in range(0, len(pcm) - step, step):
                stream.push_frame(
                    rtc.AudioFrame(pcm[start : start + step], rate, channels, samples)
                )
            stream.end_input()

        feeding = asyncio.create_task(feed())
        async for event in stream:
            if event.type is stt_module.SpeechEventType.FINAL_TRANSCRIPT:
                heard.append(event.alternatives[0].text)
        await feeding
        await stream.aclose()
        await recogniser.aclose()
        return " ".join(heard)


def seconds_of(path: Path) -> float:
    """How long a WAV file plays."""
    with wave.open(str(path)) as file:
        return file.getnframes() / file.getframerate()


def overlap(heard: str, expected: str) -> float:
    """The share of the expected words that were heard."""
    words = set(re.findall(r"[a-z']+", expected.lower()))
    return len(words & set(re.findall(r"[a-z']+", heard.lower()))) / len(words)


def seconds_of_sound(path: Path, *, louder_than: int = 300) -> float:
    """How much of a WAV file is not silence, in seconds, by blocks of 20 ms."""
    import numpy as np

    with wave.open(str(path)) as file:
        rate, channels = file.getframerate(), file.getnchannels()
        samples: Any = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
    block = rate * channels // 50
    whole = samples[: len(samples) - len(samples) % block].reshape(-1, block).astype(np.int32)
    return float((np.abs(whole).max(axis=1) > louder_than).sum()) / 50
