"""Streaming for recognizers that can't."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from livekit import rtc

from fakes.stt import FOREVER, FakeSTT
from fakes.vad import FakeVAD
from livekit.agents._exceptions import APIConnectionError
from livekit.agents.stt import (
    RecognizeStream,
    SpeechEvent,
    SpeechEventType,
    StreamAdapter,
    STTCapabilities,
)
from livekit.agents.types import APIConnectOptions

START, FINAL, END = (
    SpeechEventType.START_OF_SPEECH,
    SpeechEventType.FINAL_TRANSCRIPT,
    SpeechEventType.END_OF_SPEECH,
)
TWO_UTTERANCES = [(0.5, 1.0), (2.0, 2.5)]


def adapter(vad: FakeVAD | None = None, **options: Any) -> StreamAdapter:
    options.setdefault("capabilities", STTCapabilities(streaming=False, interim_results=False))
    return StreamAdapter(stt=FakeSTT(**options), vad=vad or FakeVAD(speech=TWO_UTTERANCES))


def fake(stt: StreamAdapter) -> FakeSTT:
    assert isinstance(stt.wrapped_stt, FakeSTT)
    return stt.wrapped_stt


async def speak(stream: RecognizeStream, seconds: float) -> None:
    for _ in range(round(seconds / 0.1)):
        stream.push_frame(rtc.AudioFrame.create(16000, 1, 1600))
        await asyncio.sleep(0.1)


async def hear(stream: RecognizeStream) -> list[SpeechEvent]:
    return [event async for event in stream]


async def test_each_utterance_becomes_a_request() -> None:
    stt = adapter(transcripts=["one", "two"])
    async with stt.stream() as stream:
        await speak(stream, 4.0)
        stream.end_input()
        events = await hear(stream)
    assert [event.type for event in events] == [START, END, FINAL] * 2
    assert [e.alternatives[0].text for e in events if e.type is FINAL] == ["one", "two"]
    first, _ = fake(stt).recognized
    assert isinstance(first, rtc.AudioFrame)
    assert first.duration == pytest.approx(0.8, abs=0.2)


async def test_events_say_when_speech_ended() -> None:
    stt = adapter(FakeVAD(speech=[(0.5, 1.0)], inference_duration=0.01), transcripts=["one"])
    async with stt.stream() as stream:
        await speak(stream, 2.0)
        stream.end_input()
        _, end, final = await hear(stream)
    silence = 0.3  # the detector waits for 0.25 s, in steps of 0.1 s
    assert end.speech_end_time == pytest.approx(time.time() - silence - 0.01, abs=1.0)
    assert final.speech_end_time == end.speech_end_time
    data = final.alternatives[0]
    assert data.end_time == pytest.approx(1.0, abs=0.01)
    assert data.start_time == pytest.approx(0.5, abs=0.2)


async def test_nothing_understood_is_nothing_said() -> None:
    async with adapter(transcripts=["", "two"]).stream() as stream:
        await speak(stream, 4.0)
        stream.end_input()
        events = await hear(stream)
    assert [event.type for event in events] == [START, END, START, END, FINAL]


async def test_a_slow_request_does_not_delay_the_next_start_of_speech() -> None:
    stt = adapter(transcripts=["one", "two"], recognize_time=5.0)
    async with stt.stream() as stream:
        await speak(stream, 4.0)
        stream.end_input()
        events = await hear(stream)
    assert [event.type for event in events] == [START, END, START, END, FINAL, FINAL]
    assert [e.alternatives[0].text for e in events if e.type is FINAL] == ["one", "two"]


async def test_an_utterance_that_fails_for_good_ends_the_stream_after_earlier_ones() -> None:
    stt = adapter(transcripts=["one"], failures=[None, *[APIConnectionError("down")] * 2])
    errors: list[Any] = []
    stt.on("error", errors.append)
    heard: list[SpeechEvent] = []
    options = APIConnectOptions(max_retry=1)
    async with stt.stream(conn_options=options) as stream:
        await speak(stream, 2.8)

        async def listen() -> None:
            async for event in stream:
                heard.append(event)

        with pytest.raises(APIConnectionError, match="after 2 attempts"):
            await listen()
    assert [event.type for event in heard] == [START, END, FINAL, START, END]
    assert [e.recoverable for e in errors] == [False]


async def test_a_flush_reaches_the_detector() -> None:
    vad = FakeVAD()
    async with adapter(vad).stream() as stream:
        stream.flush()
        stream.end_input()
        await hear(stream)
    assert vad.streams[0].flushes == 3  # the end brings one more, on each level


async def test_a_detector_that_breaks_ends_the_stream_with_its_error() -> None:
    async with adapter(FakeVAD(fail_after=0.35)).stream() as stream:
        stream.push_frame(rtc.AudioFrame.create(16000, 1, 16000))
        with pytest.raises(RuntimeError, match="the detector broke"):
            await hear(stream)


async def test_metrics_of_the_wrapped_recognizer_are_passed_on_until_closed() -> None:
    stt = adapter(transcripts=["one"] * 3)
    metrics: list[Any] = []
    errors: list[Any] = []
    stt.on("metrics_collected", metrics.append)
    stt.on("error", errors.append)
    await stt.recognize(rtc.AudioFrame.create(16000, 1, 1600))
    assert [m.label for m in metrics] == ["fakes.stt.FakeSTT"]
    await stt.aclose()
    await stt.recognize(rtc.AudioFrame.create(16000, 1, 1600))
    assert len(metrics) == 1
    assert fake(stt).closed == 0
    assert errors == []


async def test_retries_of_a_request_are_left_to_the_wrapped_recognizer() -> None:
    stt = adapter(fail_always=APIConnectionError("down"))
    errors: list[Any] = []
    stt.on("error", errors.append)
    with pytest.raises(APIConnectionError):
        await stt.recognize(
            rtc.AudioFrame.create(16000, 1, 1600), conn_options=APIConnectOptions(max_retry=2)
        )
    assert len(fake(stt).recognized) == 3
    assert [e.recoverable for e in errors] == [False]


def test_it_looks_like_the_wrapped_recognizer() -> None:
    stt = adapter(
        capabilities=STTCapabilities(
            False, False, offline_recognize=True, keyterms=True, chat_context=True, diarization=True
        )
    )
    assert stt.capabilities == STTCapabilities(
        True, False, keyterms=True, chat_context=True, diarization=False
    )
    assert (stt.model, stt.provider) == ("fake-model", "fake-provider")
    stt.prewarm()
    stt._update_session_keyterms(["LiveKit"])
    stt._push_conversation_item("item")  # type: ignore[arg-type]
    assert fake(stt).prewarmed == 1
    assert fake(stt).keyterms == ["LiveKit"]
    assert fake(stt).conversation_items == ["item"]


async def test_closing_in_a_request_is_immediate() -> None:
    vad = FakeVAD(speech=TWO_UTTERANCES)
    stt = adapter(vad, recognize_time=FOREVER)
    stream = stt.stream()
    await speak(stream, 2.0)
    assert len(fake(stt).recognized) == 1
    began = asyncio.get_running_loop().time()
    await stream.aclose()
    assert asyncio.get_running_loop().time() == began
    assert vad.open_streams == []


async def test_closing_is_bounded_with_a_detector_that_never_ends() -> None:
    vad = FakeVAD(ignore_cancellation=True)
    stream = adapter(vad).stream()
    await speak(stream, 0.5)
    began = asyncio.get_running_loop().time()
    await stream.aclose()
    assert asyncio.get_running_loop().time() - began <= 2.0
    await asyncio.sleep(2.0)  # the detector's stream gives it up by itself
    vad.ignore_cancellation = False  # let the test end
    vad.streams[0]._task.cancel()
    await asyncio.sleep(0)
