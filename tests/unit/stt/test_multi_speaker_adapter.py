"""Who the primary speaker is, and what happens to what others say."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from livekit import rtc

from fakes.stt import FakeRecognizeStream, FakeSTT
from livekit.agents._exceptions import APIConnectionError, APIStatusError
from livekit.agents.stt import (
    MultiSpeakerAdapter,
    RecognizeStream,
    SpeechEvent,
    SpeechEventType,
    STTCapabilities,
)
from livekit.agents.stt.multi_speaker_adapter import PrimarySpeakerDetectionOptions
from livekit.agents.stt.primary_speaker import PrimarySpeakerDetector
from livekit.agents.types import APIConnectOptions

DIARIZING = STTCapabilities(True, True, diarization=True)


def sound(seconds: float, loudness: int) -> rtc.AudioFrame:
    samples = round(seconds * 1000)
    return rtc.AudioFrame(np.full(samples, loudness, np.int16).tobytes(), 1000, 1, samples)


class Conversation:
    """A detector, and who says what how loud."""

    def __init__(self, **options: Any) -> None:
        self.detector = PrimarySpeakerDetector(PrimarySpeakerDetectionOptions(**options))
        self.now = 0.0

    def says(self, speaker: str, loudness: int, seconds: float = 1.0) -> str | None:
        start = self.now
        self.quiet(seconds, loudness)
        self.detector.transcribed(speaker, start, self.now)
        return self.detector.primary

    def quiet(self, seconds: float, loudness: int = 0) -> None:
        self.detector.push(sound(seconds, loudness))
        self.now += seconds


def test_the_first_speaker_is_the_primary_one() -> None:
    assert Conversation().says("A", 500) == "A"


def test_another_one_must_be_clearly_louder() -> None:
    talk = Conversation()
    talk.says("A", 1000)
    assert talk.says("B", 1250) == "A"
    assert talk.says("C", 1400) == "C"


def test_loudness_is_smoothed() -> None:
    talk = Conversation()
    talk.says("A", 1000)
    talk.says("B", 1000)
    assert talk.says("B", 1500) == "A"  # 1250 on average
    assert talk.says("B", 1500) == "B"  # 1375


def test_silence_of_the_primary_speaker_lowers_the_bar() -> None:
    talk = Conversation()
    talk.says("A", 1000)
    talk.quiet(59)
    assert talk.says("B", 1010) == "B"


def test_however_long_the_silence_the_bar_has_a_floor() -> None:
    talk = Conversation(rms_buffer_duration=1000.0)
    talk.says("A", 1000)
    talk.quiet(500)
    assert talk.says("B", 490) == "A"
    assert talk.says("C", 510) == "C"


def test_a_bar_at_or_below_equal_does_not_move() -> None:
    talk = Conversation(threshold_multiplier=1.0, threshold_min_multiplier=0.1)
    talk.says("A", 1000)
    talk.quiet(200)
    assert talk.says("B", 990) == "A"
    assert talk.says("B", 1100) == "B"


def test_too_short_or_forgotten_audio_says_nothing() -> None:
    talk = Conversation(rms_buffer_duration=5.0)
    assert talk.says("A", 1000, seconds=0.2) is None
    talk.quiet(10)
    talk.detector.transcribed("A", 0.0, 1.0)
    assert talk.detector.primary is None
    talk.detector.transcribed("A", 100.0, 101.0)
    assert talk.detector.primary is None


@given(
    st.lists(
        st.tuples(st.sampled_from("ABC"), st.integers(0, 30000), st.floats(0.01, 3.0)), max_size=20
    )
)
def test_the_primary_speaker_is_someone_who_spoke(turns: list[tuple[str, int, float]]) -> None:
    talk = Conversation(rms_buffer_duration=10.0)
    for speaker, loudness, seconds in turns:
        before = talk.detector.primary
        after = talk.says(speaker, loudness, seconds)
        assert after in (before, speaker)


# -- the stream -----------------------------------------------------------------------------------


async def opened(adapter: MultiSpeakerAdapter, **options: Any) -> tuple[RecognizeStream, Any]:
    stream = adapter.stream(**options)
    stream.push_frame(sound(1.0, 1000))
    stream.push_frame(sound(1.0, 200))
    await asyncio.sleep(0.1)
    assert isinstance(adapter.wrapped_stt, FakeSTT)
    return stream, adapter.wrapped_stt.streams[0]


async def converse(adapter: MultiSpeakerAdapter) -> list[SpeechEvent]:
    """A speaks loud, B quiet in the background."""
    stream, provider = await opened(adapter)
    provider.final("I am here", speaker_id="A", start_time=0.0, end_time=1.0)
    provider.interim("I am", speaker_id="B", start_time=1.0, end_time=1.5)
    provider.final("I am too", speaker_id="B", start_time=1.0, end_time=2.0)
    provider.final("nobody", start_time=1.0, end_time=2.0)
    stream.end_input()
    events = [event async for event in stream]
    await stream.aclose()
    return events


def summary(events: list[SpeechEvent]) -> list[tuple[str, bool | None]]:
    return [(e.alternatives[0].text, e.alternatives[0].is_primary_speaker) for e in events]


async def test_transcripts_say_whether_it_was_the_primary_speaker() -> None:
    events = await converse(MultiSpeakerAdapter(stt=FakeSTT(capabilities=DIARIZING)))
    assert summary(events) == [
        ("I am here", True),
        ("I am", False),
        ("I am too", False),
        ("nobody", None),
    ]


async def test_transcripts_are_formatted() -> None:
    adapter = MultiSpeakerAdapter(
        stt=FakeSTT(capabilities=DIARIZING),
        primary_format="{text}!",
        background_format="[{speaker_id}: {text}]",
    )
    texts = [text for text, _ in summary(await converse(adapter))]
    assert texts == ["I am here!", "[B: I am]", "[B: I am too]", "nobody"]


async def test_the_background_can_be_left_out() -> None:
    adapter = MultiSpeakerAdapter(
        stt=FakeSTT(capabilities=DIARIZING), suppress_background_speaker=True
    )
    events = await converse(adapter)
    assert summary(events) == [("I am here", True), ("", None), ("nobody", None)]
    assert events[1].type is SpeechEventType.FINAL_TRANSCRIPT
    assert events[1].alternatives[0].language == ""


async def test_without_detection_nothing_is_changed(caplog: pytest.LogCaptureFixture) -> None:
    adapter = MultiSpeakerAdapter(
        stt=FakeSTT(capabilities=DIARIZING),
        detect_primary_speaker=False,
        suppress_background_speaker=True,
    )
    assert "suppress_background_speaker" in caplog.text
    assert {primary for _, primary in summary(await converse(adapter))} == {None}


async def test_times_are_on_the_time_line_of_the_caller() -> None:
    adapter = MultiSpeakerAdapter(stt=FakeSTT(capabilities=DIARIZING))
    stream = adapter.stream()
    stream.start_time_offset = 100.0
    stream.push_frame(sound(1.0, 1000))
    await asyncio.sleep(0.1)
    provider: FakeRecognizeStream = adapter.wrapped_stt.streams[0]  # type: ignore[attr-defined]
    assert provider.start_time_offset == 100.0
    provider.final("hello", speaker_id="A", start_time=100.0, end_time=101.0)
    assert (await stream.__anext__()).alternatives[0].is_primary_speaker
    await stream.aclose()


async def test_the_wrapped_stream_alone_reconnects() -> None:
    stt = FakeSTT(capabilities=DIARIZING, fail_always=APIConnectionError("down"))
    adapter = MultiSpeakerAdapter(stt=stt)
    errors: list[Any] = []
    adapter.on("error", errors.append)
    async with adapter.stream(conn_options=APIConnectOptions(max_retry=3)) as stream:
        with pytest.raises(APIConnectionError):
            await stream.__anext__()
    assert len(stt.attempts) == 4
    assert [e.recoverable for e in errors] == [False]


async def test_a_quiet_call_survives_recycled_connections() -> None:
    stt = FakeSTT(capabilities=DIARIZING)
    adapter = MultiSpeakerAdapter(stt=stt)
    errors: list[Any] = []
    adapter.on("error", errors.append)
    stt.on("error", errors.append)
    stream, provider = await opened(adapter)
    for _ in range(13):
        await asyncio.sleep(180)
        provider.drop(APIStatusError("closed", status_code=1006))
    await asyncio.sleep(1)
    provider.final("still here")
    assert (await stream.__anext__()).alternatives[0].text == "still here"
    assert errors == [] and len(provider.attempts) == 14
    await stream.aclose()


async def test_flushes_are_passed_on_and_a_provider_may_end_by_itself() -> None:
    class Brief(FakeSTT):
        def stream(self, **kwargs: Any) -> Any:
            stream = super().stream(**kwargs)

            async def run() -> None:
                async for item in stream._input_ch:
                    if not isinstance(item, rtc.AudioFrame):
                        stream.final("flushed")
                        return

            stream._run = run  # type: ignore[method-assign]
            return stream

    async with MultiSpeakerAdapter(stt=Brief(capabilities=DIARIZING)).stream() as stream:
        stream.push_frame(sound(1.0, 1000))
        stream.flush()
        assert [e.alternatives[0].text async for e in stream] == ["flushed"]


async def test_closing_closes_the_wrapped_stream() -> None:
    stt = FakeSTT(capabilities=DIARIZING)
    stream, provider = await opened(MultiSpeakerAdapter(stt=stt))
    began = asyncio.get_running_loop().time()
    await stream.aclose()
    assert asyncio.get_running_loop().time() == began
    assert provider._task.done() and stt.closed == 0


def test_diarization_is_required() -> None:
    with pytest.raises(ValueError, match="diarization"):
        MultiSpeakerAdapter(stt=FakeSTT())


def test_it_looks_like_the_wrapped_recognizer() -> None:
    stt = FakeSTT(capabilities=DIARIZING)
    adapter = MultiSpeakerAdapter(stt=stt)
    assert adapter.capabilities is stt.capabilities
    assert (adapter.model, adapter.provider) == ("fake-model", "fake-provider")
