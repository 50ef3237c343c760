"""Several synthesizers, of which one that works speaks."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fakes.tts import FakeSynthesizeStream, FakeTTS, heard, timed_words
from livekit.agents._exceptions import APIConnectionError
from livekit.agents.metrics import TTSMetrics
from livekit.agents.tts import (
    AvailabilityChangedEvent,
    FallbackAdapter,
    SynthesizedAudio,
    TTSError,
)
from livekit.agents.types import USERDATA_TTS_STARTED_TIME, APIConnectOptions

TEXT = "the whole text. "

Speak = Callable[[FallbackAdapter], Awaitable[list[SynthesizedAudio]]]


def broken(**kwargs: Any) -> FakeTTS:
    return FakeTTS(failures=[APIConnectionError()] * 99, label="broken", **kwargs)


class Listener:
    """What an adapter reported."""

    def __init__(self, adapter: FallbackAdapter) -> None:
        self.availability: list[tuple[str, bool]] = []
        self.errors: list[TTSError] = []
        self.metrics: list[TTSMetrics] = []
        adapter.on("tts_availability_changed", self._changed)
        adapter.on("error", self.errors.append)
        adapter.on("metrics_collected", self.metrics.append)

    def _changed(self, event: AvailabilityChangedEvent) -> None:
        self.availability.append((event.tts.label, event.available))


async def synthesize(adapter: FallbackAdapter) -> list[SynthesizedAudio]:
    async with adapter.synthesize(TEXT) as stream:
        return [audio async for audio in stream]


async def stream(adapter: FallbackAdapter) -> list[SynthesizedAudio]:
    async with adapter.stream() as stream:
        for start in range(0, len(TEXT), 4):
            stream.push_text(TEXT[start : start + 4])
        stream.end_input()
        return [audio async for audio in stream]


both_ways = pytest.mark.parametrize("speak", [synthesize, stream])


def now() -> float:
    return asyncio.get_running_loop().time()


@both_ways
async def test_the_first_member_speaks_while_it_works(speak: Speak) -> None:
    first, second = FakeTTS(), FakeTTS()
    adapter = FallbackAdapter([first, second])
    listener = Listener(adapter)
    audio = await speak(adapter)
    assert heard(audio) == TEXT
    assert [piece.is_final for piece in audio] == [False] * (len(audio) - 1) + [True]
    assert (first.attempts, second.attempts) == ([TEXT], [])
    assert len(listener.metrics) == 1
    assert listener.availability == []
    await adapter.aclose()


@both_ways
async def test_the_next_member_speaks_the_whole_text(speak: Speak) -> None:
    first, second = broken(), FakeTTS(label="good")
    adapter = FallbackAdapter([first, second], max_retry_per_tts=1)
    listener = Listener(adapter)
    assert heard(await speak(adapter)) == TEXT
    assert len(first.attempts) >= 2
    assert listener.availability == [("broken", False)]
    assert listener.errors == [], "errors of members stay with them"
    await adapter.aclose()


async def test_text_written_during_the_failover_reaches_the_next_member() -> None:
    first, second = broken(), FakeTTS()
    adapter = FallbackAdapter([first, second], max_retry_per_tts=0)
    async with adapter.stream() as stream:
        stream.push_text("one ")
        await asyncio.sleep(0)
        stream.push_text("two ")
        await asyncio.sleep(1)
        stream.push_text("three")
        stream.end_input()
        audio = [piece async for piece in stream]
    assert heard(audio) == "one two three"
    await adapter.aclose()


async def test_a_member_that_goes_silent_is_left_after_its_time() -> None:
    adapter = FallbackAdapter([FakeTTS(first_audio_delay=math.inf), FakeTTS()], max_retry_per_tts=0)
    start = now()
    assert heard(await stream(adapter)) == TEXT
    assert now() - start == pytest.approx(10.0)
    await adapter.aclose()


@both_ways
async def test_a_member_that_fails_halfway_ends_the_utterance_and_the_app_is_told(
    speak: Speak,
) -> None:
    first, second = broken(fail_after=0.3), FakeTTS()
    adapter = FallbackAdapter([first, second], max_retry_per_tts=0)
    listener = Listener(adapter)
    audio = await speak(adapter)
    assert heard(audio) and TEXT.startswith(heard(audio)) and heard(audio) != TEXT
    assert audio[-1].is_final
    assert second.attempts == []
    assert listener.availability == [("broken", False)]
    assert [error.recoverable for error in listener.errors] == [True]
    await adapter.aclose()


async def test_no_word_is_heard_twice_when_a_member_repeats_itself() -> None:
    first = FakeTTS(failures=[APIConnectionError()], fail_after=0.3)
    adapter = FallbackAdapter([first])
    assert heard(await synthesize(adapter)) == TEXT
    await adapter.aclose()


@both_ways
async def test_all_members_failing_is_an_error(speak: Speak) -> None:
    adapter = FallbackAdapter([broken(), broken()], max_retry_per_tts=0)
    listener = Listener(adapter)
    with pytest.raises(APIConnectionError, match=r"all TTSs failed \(\['broken', 'broken'\]\)"):
        await speak(adapter)
    assert [error.recoverable for error in listener.errors] == [False]
    await adapter.aclose()


@both_ways
async def test_when_all_are_unavailable_all_are_tried(speak: Speak) -> None:
    first, second = broken(), broken()
    adapter = FallbackAdapter([first, second], max_retry_per_tts=0)
    with pytest.raises(APIConnectionError):
        await speak(adapter)
    await adapter._scope.join()
    second.failures.clear()
    assert heard(await speak(adapter)) == TEXT
    await adapter.aclose()


@both_ways
async def test_a_member_that_works_again_serves_the_next_request(speak: Speak) -> None:
    first = FakeTTS(failures=[APIConnectionError()], label="first")
    second = FakeTTS(label="second")
    adapter = FallbackAdapter([first, second], max_retry_per_tts=0)
    listener = Listener(adapter)
    await speak(adapter)
    await adapter._scope.join()
    assert listener.availability == [("first", False), ("first", True)]
    assert first.attempts[-1] == TEXT, "it was tried out with the same text"
    await speak(adapter)
    assert len(second.attempts) == 1
    await adapter.aclose()


@both_ways
async def test_a_skipped_member_is_tried_out_again_but_only_once_at_a_time(speak: Speak) -> None:
    first = broken(first_audio_delay=5.0, fail_after=0.1)
    adapter = FallbackAdapter([first, FakeTTS()], max_retry_per_tts=0)
    adapter._members[0].available = False
    await speak(adapter)
    await speak(adapter)
    assert len(adapter._scope.tasks) == 1
    assert len(first.attempts) <= 1
    await adapter._scope.join()
    await speak(adapter)
    assert len(adapter._scope.tasks) == 1
    await adapter.aclose()


async def test_a_probe_that_hangs_is_ended() -> None:
    first = FakeTTS(failures=[APIConnectionError()], label="first")
    adapter = FallbackAdapter([first, FakeTTS()], max_retry_per_tts=0)
    first.first_audio_delay = math.inf
    await synthesize(adapter)
    await asyncio.sleep(61)
    assert not adapter._scope.tasks
    assert not adapter._members[0].available
    await adapter.aclose()


@both_ways
async def test_other_sample_rates_are_converted(speak: Speak) -> None:
    low, high = FakeTTS(sample_rate=8000), FakeTTS(sample_rate=24000)
    adapter = FallbackAdapter([low, high])
    assert adapter.sample_rate == 24000
    audio = await speak(adapter)
    assert {piece.frame.sample_rate for piece in audio} == {24000}
    seconds = sum(piece.frame.duration for piece in audio)
    assert seconds == pytest.approx(len(TEXT) * 0.05, abs=0.02)
    await adapter.aclose()


@both_ways
async def test_members_that_only_speak_whole_texts_take_part(speak: Speak) -> None:
    whole = FakeTTS(streaming=False)
    adapter = FallbackAdapter([broken(), whole], max_retry_per_tts=0)
    assert adapter.capabilities.streaming
    assert heard(await speak(adapter)).strip() == TEXT.strip()
    await adapter.aclose()


@both_ways
async def test_timed_words_are_passed_on(speak: Speak) -> None:
    adapter = FallbackAdapter([FakeTTS(aligned=True)])
    assert adapter.capabilities.aligned_transcript
    audio = await speak(adapter)
    assert "".join(timed_words(audio)) == TEXT
    await adapter.aclose()


async def test_delays_count_from_the_first_member() -> None:
    mute = FakeTTS(seconds_per_char=0.0)
    adapter = FallbackAdapter([mute, FakeTTS()], max_retry_per_tts=0)
    audio = await stream(adapter)
    first = mute.streams[0]
    assert isinstance(first, FakeSynthesizeStream)
    stamps = {piece.frame.userdata[USERDATA_TTS_STARTED_TIME] for piece in audio}
    assert stamps == {first._started_stamp}
    await adapter.aclose()


@both_ways
async def test_closing_a_stream_blames_nobody(speak: Speak) -> None:
    class Resentful(FakeTTS):
        """Answers a cancellation with a connection error."""

        async def linger(self, seconds: float) -> None:
            raise APIConnectionError("torn down")

    first = Resentful(first_audio_delay=math.inf, label="first")
    second = FakeTTS()
    adapter = FallbackAdapter([first, second])
    listener = Listener(adapter)
    speech = adapter.synthesize(TEXT) if speak is synthesize else adapter.stream()
    if speak is stream:
        speech.push_text(TEXT)  # type: ignore[attr-defined]
    await asyncio.sleep(1)
    start = now()
    await speech.aclose()
    assert now() == start
    assert listener.availability == []
    assert listener.errors == []
    assert second.attempts == []
    assert not adapter._scope.tasks
    await adapter.aclose()


async def test_no_probe_starts_after_the_adapter_was_closed() -> None:
    first = broken()
    adapter = FallbackAdapter([first, FakeTTS(first_audio_delay=5.0)], max_retry_per_tts=0)
    adapter._members[0].available = False
    speech = adapter.synthesize(TEXT)
    await adapter.aclose()
    async with speech:
        assert heard([piece async for piece in speech]) == TEXT
    assert first.attempts == []


async def test_closing_ends_probes_within_bounds() -> None:
    first = FakeTTS(first_audio_delay=math.inf, ignores_cancellation=math.inf)
    adapter = FallbackAdapter([first, FakeTTS()])
    adapter._members[0].available = False
    await synthesize(adapter)
    await asyncio.sleep(1)
    start = now()
    await adapter.aclose()
    assert now() - start <= 2.0
    first.let_go()
    await asyncio.sleep(1)


async def test_the_adapter_goes_through_all_members_again_if_asked_to() -> None:
    first = FakeTTS(failures=[APIConnectionError()])
    adapter = FallbackAdapter([first], max_retry_per_tts=0)
    options = APIConnectOptions(max_retry=1, retry_interval=0.1)
    async with adapter.stream(conn_options=options) as stream:
        stream.push_text(TEXT)
        stream.end_input()
        assert heard([piece async for piece in stream]) == TEXT
    await adapter.aclose()


async def test_names_the_member_that_is_next_and_the_one_that_spoke() -> None:
    class Named(FakeTTS):
        @property
        def model(self) -> str:
            return self.label

    first, second = Named(label="one", failures=[APIConnectionError()] * 99), Named(label="two")
    adapter = FallbackAdapter([first, second], max_retry_per_tts=0)
    assert adapter.model == "one"
    assert adapter.metrics_metadata["model_name"] == "one"
    await synthesize(adapter)
    assert adapter.model == "two"
    assert adapter.metrics_metadata["model_name"] == "two"
    adapter.prewarm()
    assert (first.prewarmed, second.prewarmed) == (1, 0)
    await adapter.aclose()
    assert not first.closed


async def test_members_must_agree_on_channels() -> None:
    with pytest.raises(ValueError, match="at least one"):
        FallbackAdapter([])
    with pytest.raises(ValueError, match="number of channels"):
        FallbackAdapter([FakeTTS(num_channels=1), FakeTTS(num_channels=2)])
