"""The detector that runs in the process, with the real model."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from livekit import rtc

from livekit.agents import inference
from livekit.agents.inference.vad import VAD
from livekit.agents.vad import VADEvent, VADEventType

WINDOW = 0.032


@cache
def sung_vowel(seconds: float, rate: int = 48000) -> npt.NDArray[np.float64]:
    """A pulse train at about 120 Hz through three formants, swelling four times a second."""
    count = int(seconds * rate)
    time = np.arange(count) / rate
    pitch = 120 * (1 + 0.03 * np.sin(2 * np.pi * 3 * time)) + 20 * np.sin(2 * np.pi * 0.7 * time)
    pulses = np.diff(np.floor(np.cumsum(pitch) / rate), prepend=0).astype(float)
    spectrum = np.fft.rfft(pulses, 2 * count)
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(2 * count))
    for frequency, bandwidth in ((700, 80), (1220, 90), (2600, 120)):
        radius = np.exp(-np.pi * bandwidth / rate)
        angle = 2 * np.pi * frequency / rate
        spectrum = spectrum / (1 - 2 * radius * np.cos(angle) * z + radius**2 * z**2)
    return np.fft.irfft(spectrum)[:count] * (0.55 - 0.45 * np.cos(2 * np.pi * 4 * time))


def voice(rate: int, seconds: float) -> npt.NDArray[np.int16]:
    """The same vowel at any rate."""
    count = int(seconds * rate)
    sound = np.fft.irfft(np.fft.rfft(sung_vowel(seconds))[: count // 2 + 1], count)
    return np.asarray(sound / np.abs(sound).max() * 9000).astype(np.int16)


def scene(rate: int, *parts: float) -> npt.NDArray[np.int16]:
    """Silence and voice in turn, of the given lengths in seconds."""
    return np.concatenate(
        [
            voice(rate, length) if index % 2 else np.zeros(int(length * rate), np.int16)
            for index, length in enumerate(parts)
        ]
    )


def frames_of(
    samples: npt.NDArray[np.int16], rate: int, seconds: float = 0.02
) -> list[rtc.AudioFrame]:
    size = int(rate * seconds)
    return [
        rtc.AudioFrame(part.tobytes(), rate, 1, len(part))
        for part in (samples[i : i + size] for i in range(0, len(samples), size))
    ]


async def detect(vad: VAD, samples: npt.NDArray[np.int16], rate: int = 16000) -> list[VADEvent]:
    async with vad.stream() as stream:
        for frame in frames_of(samples, rate):
            stream.push_frame(frame)
        stream.end_input()
        return [event async for event in stream]


def changes(events: list[VADEvent]) -> list[VADEvent]:
    return [event for event in events if event.type is not VADEventType.INFERENCE_DONE]


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100, 48000])
async def test_speech_is_found_at_any_rate(rate: int) -> None:
    events = await detect(VAD(), scene(rate, 1.0, 1.0, 1.5), rate)
    done = [event for event in events if event.type is VADEventType.INFERENCE_DONE]
    assert len(done) == int(3.5 / WINDOW)
    assert done[-1].samples_index == pytest.approx(len(done) * WINDOW * rate, abs=1)
    assert {event.frames[0].sample_rate for event in events} == {rate}

    start, end = changes(events)
    assert start.type is VADEventType.START_OF_SPEECH
    assert end.type is VADEventType.END_OF_SPEECH
    assert 1.0 <= start.timestamp <= 1.25
    assert start.frames[0].duration == pytest.approx(0.5 + start.speech_duration, abs=WINDOW)
    assert 0.3 <= end.speech_duration <= 1.1
    assert end.silence_duration == pytest.approx(0.256)
    assert end.frames[0].duration == pytest.approx(end.timestamp - start.timestamp + 0.564, abs=0.1)


async def test_all_rates_agree_on_where_speech_is() -> None:
    spans = []
    for rate in (8000, 16000, 24000, 48000):
        start, end = changes(await detect(VAD(), scene(rate, 1.0, 1.0, 1.5), rate))
        spans.append((start.timestamp, end.timestamp))
    assert max(s for s, _ in spans) - min(s for s, _ in spans) <= 3 * WINDOW
    # the voice swells four times a second: at one rate its last, dying swell may go unheard
    assert max(e for _, e in spans) - min(e for _, e in spans) <= 0.25 + 4 * WINDOW


async def test_a_flush_in_speech_gives_no_end_and_the_next_speech_a_new_start() -> None:
    async with VAD().stream() as stream:
        for frame in frames_of(scene(16000, 0.5, 0.5), 16000):
            stream.push_frame(frame)
        stream.flush()
        for frame in frames_of(scene(16000, 1.0, 1.0, 1.0), 16000):
            stream.push_frame(frame)
        stream.end_input()
        events = changes([event async for event in stream])
    assert [event.type.value for event in events] == [
        "start_of_speech",
        "start_of_speech",
        "end_of_speech",
    ]


async def test_frames_of_another_rate_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async with VAD().stream() as stream:
        stream.push_frame(rtc.AudioFrame.create(16000, 1, 512))
        stream.push_frame(rtc.AudioFrame.create(48000, 1, 4800))
        stream.push_frame(rtc.AudioFrame.create(16000, 1, 512))
        stream.end_input()
        assert len([event async for event in stream]) == 2
    assert "a frame with another sample rate was already pushed" in caplog.text


async def test_an_executor_is_used_and_left_alone() -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        assert len(changes(await detect(VAD(executor=executor), scene(16000, 0.5, 1.0, 1.0)))) == 2
        assert executor.submit(lambda: 42).result() == 42


async def test_options_change_for_open_and_for_future_streams() -> None:
    vad = VAD()
    stream = vad.stream()
    vad.update_options(min_silence_duration=5.0, activation_threshold=0.6)
    assert vad.min_silence_duration == 5.0
    for frame in frames_of(scene(16000, 0.5, 1.0, 2.0), 16000):
        stream.push_frame(frame)
    stream.end_input()
    kinds = [event.type for event in changes([event async for event in stream])]
    assert kinds == [VADEventType.START_OF_SPEECH]
    await stream.aclose()
    later = changes(await detect(vad, scene(16000, 0.5, 1.0, 2.0)))
    assert [event.type for event in later] == kinds


async def test_a_slow_inference_is_warned_about(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("livekit.agents.inference.vad.SLOW_INFERENCE_THRESHOLD", -1.0)
    async with VAD().stream() as stream:
        stream.push_frame(rtc.AudioFrame.create(16000, 1, 512))
        stream.end_input()
        with caplog.at_level(logging.WARNING):
            assert len([event async for event in stream]) == 1
    (record,) = [r for r in caplog.records if "slower than realtime" in r.message]
    assert record.delay >= 0  # type: ignore[attr-defined]


async def test_a_burst_of_audio_lets_other_tasks_run() -> None:
    turns = 0
    async with VAD().stream() as stream:
        for frame in frames_of(np.zeros(16000 * 20, np.int16), 16000, 1.0):
            stream.push_frame(frame)
        stream.end_input()
        while not stream._task.done():
            turns += 1
            await asyncio.sleep(0)
    assert turns > 20


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="silero"):
        VAD(model="webrtc")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="deactivation_threshold"):
        VAD(deactivation_threshold=0.0)


@pytest.mark.parametrize(("activation", "expected"), [(0.5, 0.35), (0.1, 0.01)])
def test_the_deactivation_threshold_follows_the_activation(
    activation: float, expected: float
) -> None:
    vad = VAD(activation_threshold=activation)
    assert vad._options.deactivation_threshold == pytest.approx(expected)


def test_the_detector_has_a_name() -> None:
    vad: Any = inference.VAD()
    assert (vad.model, vad.provider) == ("silero", "livekit-local-inference")
    assert vad.capabilities.update_interval == 0.032
    assert vad.min_silence_duration == 0.25


def test_the_native_library_is_loaded_with_the_first_stream() -> None:
    code = (
        "import sys; from livekit.agents.inference import VAD; VAD();"
        "assert 'livekit.local_inference' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
