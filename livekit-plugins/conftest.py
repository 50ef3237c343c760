"""Coroutine tests of the plugins run as those in ``tests/`` do; here is also speech to test with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np
import pytest

# pytest finds the hooks by their names in this module
from conftest import (
    pytest_configure as pytest_configure,
    pytest_pyfunc_call as pytest_pyfunc_call,
)
from livekit import rtc

from livekit.plugins import piper
from livekit.plugins.piper._voice import Job, Speaking

FRAMES_PER_SECOND = 50

SAME_EVERY_TIME = Speaking(noise_scale=0.0, noise_w=0.0)
"""Piper varies its speech at random; a recogniser must be tested with the same audio each time."""


@functools.cache
def _speech(text: str, sample_rate: int) -> bytes:
    voice = piper.Voice.load()
    pcm = voice.speak(text, SAME_EVERY_TIME, Job())
    frame = rtc.AudioFrame(pcm, voice.sample_rate, 1, len(pcm) // 2)
    resampler = rtc.AudioResampler(
        voice.sample_rate, sample_rate, quality=rtc.AudioResamplerQuality.HIGH
    )
    frames = [*resampler.push(frame), *resampler.flush()]
    return b"".join(bytes(part.data) for part in frames)


@pytest.fixture
def say() -> Callable[..., list[rtc.AudioFrame]]:
    """Makes a caller's audio: frames of 20 ms with the sentences, faint noise and pauses."""

    def say(
        *sentences: str, sample_rate: int = 16000, channels: int = 1, pause: float = 0.7
    ) -> list[rtc.AudioFrame]:
        silence = bytes(2 * int(pause * sample_rate))
        pcm = silence + silence.join(_speech(text, sample_rate) for text in sentences) + silence
        samples = np.frombuffer(pcm, dtype=np.int16)
        noise = np.random.default_rng(0).normal(0, 15, len(samples))
        noisy = np.clip(samples + noise, -32768, 32767).astype(np.int16)
        return list(_frames(np.repeat(noisy, channels), sample_rate, channels))

    return say


def _frames(samples: np.ndarray, sample_rate: int, channels: int) -> Iterator[rtc.AudioFrame]:
    size = sample_rate // FRAMES_PER_SECOND
    data = samples.tobytes()
    step = size * channels * 2
    for start in range(0, len(data) - step + 1, step):
        yield rtc.AudioFrame(data[start : start + step], sample_rate, channels, size)
