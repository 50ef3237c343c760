"""The base of voice activity detectors: input, output, metrics, close."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from livekit import rtc

from fakes.vad import FOREVER, FakeVAD, FakeVADStream
from livekit.agents.utils import aio
from livekit.agents.vad import VAD, VADEvent, VADEventType, VADStream


def silence(seconds: float) -> rtc.AudioFrame:
    return rtc.AudioFrame.create(16000, 1, round(seconds * 16000))


async def drain(stream: VADStream) -> list[VADEvent]:
    return [event async for event in stream]


def changes(events: list[VADEvent]) -> list[VADEventType]:
    return [event.type for event in events if event.type is not VADEventType.INFERENCE_DONE]


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_speech_is_reported_when_it_starts_and_ends() -> None:
    async with FakeVAD(speech=[(0.3, 0.8)]).stream() as stream:
        for _ in range(15):
            stream.push_frame(silence(0.1))
        stream.end_input()
        events = await drain(stream)
    assert changes(events) == [VADEventType.START_OF_SPEECH, VADEventType.END_OF_SPEECH]


async def test_the_detector_begins_only_after_its_constructor() -> None:
    class Late(FakeVADStream):
        def __init__(self, vad: FakeVAD) -> None:
            super().__init__(vad)
            self.ready = True

        async def _main_task(self) -> None:
            assert self.ready

    async with Late(FakeVAD()) as stream:
        assert await drain(stream) == []


async def test_a_flush_keeps_its_place_among_the_frames() -> None:
    async with FakeVAD().stream() as stream:
        stream.push_frame(silence(0.1))
        stream.flush()
        stream.push_frame(silence(0.1))
        stream.end_input()
        await drain(stream)
    kinds = [type(item).__name__ for item in stream.items]
    assert kinds == ["AudioFrame", "_FlushSentinel", "AudioFrame", "_FlushSentinel"]


async def test_pushing_after_the_end_is_refused() -> None:
    async with FakeVAD().stream() as stream:
        stream.end_input()
        late_calls: list[Callable[[], None]] = [
            lambda: stream.push_frame(silence(0.1)),
            stream.flush,
            stream.end_input,
        ]
        for late in late_calls:
            with pytest.raises(RuntimeError, match=r"fakes.vad.FakeVADStream input ended"):
                late()


async def test_pushing_into_a_failed_stream_is_refused_and_its_error_is_raised() -> None:
    stream = FakeVAD(fail_after=0.15).stream()
    stream.push_frame(silence(0.1))
    stream.push_frame(silence(0.1))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broke"):
            await drain(stream)
    with pytest.raises(RuntimeError, match="is closed"):
        stream.push_frame(silence(0.1))
    await stream.aclose()
    assert await drain(stream) == []


async def test_metrics_come_once_a_second_of_audio() -> None:
    vad = FakeVAD(update_interval=0.1, inference_duration=0.01)
    metrics: list[Any] = []

    def broken(_: Any) -> None:
        raise TypeError("a bug of the user")

    vad.on("metrics_collected", broken)
    vad.on("metrics_collected", metrics.append)
    async with vad.stream() as stream:
        for _ in range(25):
            stream.push_frame(silence(0.1))
        stream.end_input()
        assert len(await drain(stream)) == 25
    assert [m.inference_count for m in metrics] == [10, 10]
    assert metrics[0].inference_duration_total == pytest.approx(0.1)
    assert metrics[0].label == "fakes.vad.FakeVAD" and metrics[0].idle_time >= 0
    assert (metrics[0].metadata.model_name, metrics[0].metadata.model_provider) == (
        "unknown",
        "unknown",
    )


async def test_closing_wakes_the_consumer() -> None:
    stream = FakeVAD().stream()
    consumer = aio.TaskScope("test").spawn(drain(stream))
    await asyncio.sleep(1)
    began = now()
    await asyncio.gather(stream.aclose(), stream.aclose())
    assert await consumer == []
    assert now() == began


async def test_a_cleanup_that_hangs_is_cut_off() -> None:
    stream = FakeVAD(hang_on_close=FOREVER).stream()
    await asyncio.sleep(1)
    began = now()
    await stream.aclose()
    assert now() - began == pytest.approx(1.0)


async def test_a_detector_that_never_ends_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    vad = FakeVAD(ignore_cancellation=True)
    stream = vad.stream()
    consumer = aio.TaskScope("test").spawn(drain(stream))
    await asyncio.sleep(1)
    began = now()
    await stream.aclose()
    assert now() - began == pytest.approx(2.0)
    assert await consumer == []
    assert "left behind" in caplog.text
    stream.send(VADEventType.START_OF_SPEECH)  # goes nowhere
    assert await drain(stream) == []

    vad.ignore_cancellation = False  # let the test end
    stream._task.cancel()
    await asyncio.sleep(0)


def test_a_detector_has_a_name() -> None:
    class Mine(VAD):
        def stream(self) -> VADStream:
            raise AssertionError

    vad = FakeVAD()
    assert (vad.model, vad.provider, vad._label) == ("unknown", "unknown", "fakes.vad.FakeVAD")
    assert vad.capabilities.update_interval == 0.1
    with pytest.raises(TypeError):
        VAD(capabilities=vad.capabilities)  # type: ignore[abstract]
    assert Mine(capabilities=vad.capabilities)._label.endswith("Mine")
