"""Sending sentences when their speech is needed."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fakes.sentences import BarStream, BarTokenizer
from fakes.tts import FakeTTS, heard
from livekit.agents.tts import (
    AudioEmitter,
    SentenceStreamPacer,
    StreamAdapter,
    SynthesizedAudio,
    SynthesizeStream,
)
from livekit.agents.tts.stream_pacer import Pace, StreamPacerOptions, StreamPacerWrapper
from livekit.agents.types import APIConnectOptions
from livekit.agents.utils.aio import Chan

OPTIONS = StreamPacerOptions(min_remaining_audio=5.0, max_text_length=20)


def now() -> float:
    return asyncio.get_running_loop().time()


# -- when text is due


def test_the_first_sentence_is_due_at_once_and_goes_alone() -> None:
    pace = Pace(OPTIONS)
    assert pace.is_due(100.0, 0.0)
    waiting = deque(["one", "two"])
    assert pace.batch(waiting) == "one"
    pace.sent(100.0, 0.0)
    assert not pace.is_due(100.0, 0.0)


def test_later_sentences_go_together_up_to_the_length() -> None:
    pace = Pace(OPTIONS)
    pace.sent(100.0, 0.0)
    waiting = deque(["twelve chars", "and nine", "left"])
    assert pace.batch(waiting) == "twelve chars and nine"
    assert pace.batch(waiting) == "left"


def test_nothing_is_due_while_audio_keeps_coming() -> None:
    pace = Pace(OPTIONS)
    pace.sent(100.0, 0.0)
    for turn in range(1, 50):
        pace.look(100.0 + turn * 0.2, turn * 0.1)
        assert not pace.is_due(100.0 + turn * 0.2, turn * 0.1)


def test_text_is_due_when_generation_stopped_and_little_audio_is_left() -> None:
    pace = Pace(OPTIONS)
    pace.sent(100.0, 0.0)
    pace.look(100.2, 8.0)
    pace.look(100.4, 8.0)
    assert pace.remaining(100.4, 8.0) == pytest.approx(7.8)
    assert not pace.is_due(100.4, 8.0)
    assert pace.next_look(100.4, 8.0) == pytest.approx(2.8)
    assert pace.is_due(103.2, 8.0)


def test_two_looks_in_a_row_prove_nothing() -> None:
    pace = Pace(OPTIONS)
    pace.sent(100.0, 0.0)
    pace.look(100.2, 1.0)
    pace.look(100.25, 1.0)
    assert not pace.is_due(100.25, 1.0)


def test_a_batch_without_audio_holds_nobody_up_for_long() -> None:
    pace = Pace(OPTIONS)
    pace.sent(100.0, 0.0)
    pace.look(101.9, 0.0)
    assert not pace.is_due(101.9, 0.0)
    pace.look(102.1, 0.0)
    assert pace.is_due(102.1, 0.0)


@given(audio=st.lists(st.floats(0.0, 2.0), max_size=60))
def test_once_audio_stops_growing_text_becomes_due_in_bounded_time(audio: list[float]) -> None:
    pace = Pace(OPTIONS)
    clock, total = 100.0, 0.0
    pace.sent(clock, total)
    for seconds in audio:
        total += seconds
        clock += 0.2
        pace.look(clock, total)
    until = clock + total + 3.0
    while not pace.is_due(clock, total):
        clock += pace.next_look(clock, total)
        pace.look(clock, total)
        assert clock <= until


# -- the stream


class Paced:
    """A pacer between a sentence stream and an emitter that the test fills."""

    def __init__(self, **options: Any) -> None:
        self.channel: Chan[SynthesizedAudio] = Chan()
        self.emitter = AudioEmitter(label="test", dst_ch=self.channel)
        self.emitter.initialize(
            request_id="r", sample_rate=1000, num_channels=1, mime_type="audio/pcm"
        )
        pacer = SentenceStreamPacer(**options)
        self.stream: StreamPacerWrapper = pacer.wrap(
            sent_stream=BarStream(), audio_emitter=self.emitter
        )
        self.sent: list[tuple[float, str]] = []
        self._reader = asyncio.create_task(self._read(now()))

    async def _read(self, start: float) -> None:
        async for sentence in self.stream:
            self.sent.append((round(now() - start, 3), sentence.token))

    def speak(self, seconds: float) -> None:
        self.emitter.push(b"\0\1" * int(seconds * 1000))
        self.emitter.flush()

    async def close(self) -> None:
        await self.stream.aclose()
        await self._reader
        await self.emitter.aclose()


async def test_holds_text_back_until_little_audio_is_left() -> None:
    paced = Paced(min_remaining_audio=5.0)
    paced.stream.push_text("one|two|three|")
    await asyncio.sleep(0.05)
    assert paced.sent == [(0.0, "one")]
    paced.speak(10.0)
    await asyncio.sleep(4.8)
    assert paced.sent == [(0.0, "one")]
    assert paced.emitter.holding_text
    await asyncio.sleep(0.7)
    assert [text for _, text in paced.sent] == ["one", "two three"]
    assert not paced.emitter.holding_text
    await paced.close()


async def test_ends_when_everything_was_sent() -> None:
    paced = Paced()
    paced.stream.push_text("one|two|")
    paced.stream.end_input()
    assert paced.stream.closed
    await asyncio.sleep(5)
    assert [text for _, text in paced.sent] == ["one", "two"]
    await paced.close()
    with pytest.raises(RuntimeError, match="is closed"):
        paced.stream.push_text("late")


async def test_a_batch_that_brings_no_audio_does_not_stall_the_rest() -> None:
    paced = Paced(max_text_length=1)
    paced.stream.push_text("one|two|three|")
    await asyncio.sleep(6)
    assert [text for _, text in paced.sent] == ["one", "two", "three"]
    assert paced.sent[-1][0] <= 5.0
    await paced.close()


async def test_ends_at_once_when_nobody_listens_any_more() -> None:
    paced = Paced()
    paced.stream.push_text("one|two|")
    await asyncio.sleep(0.01)
    paced.channel.close()
    paced.stream.end_input()
    await asyncio.sleep(0.01)
    assert [text for _, text in paced.sent] == ["one"]
    await paced.close()


async def test_closing_drops_what_waits_and_leaves_no_timer() -> None:
    paced = Paced()
    paced.stream.push_text("one|two|")
    await asyncio.sleep(0.01)
    start = now()
    await paced.close()
    await paced.stream.aclose()
    assert now() == start
    assert [text for _, text in paced.sent] == ["one"]


async def test_a_paced_adapter_speaks_everything() -> None:
    tts = FakeTTS(streaming=False)
    adapter = StreamAdapter(
        tts=tts,
        sentence_tokenizer=BarTokenizer(),
        text_pacing=SentenceStreamPacer(min_remaining_audio=1.0),
    )
    stream = adapter.stream()
    stream.push_text("one|two|three|")
    stream.end_input()
    async with stream:
        audio = [piece async for piece in stream]
    assert heard(audio) == "onetwo three"
    assert tts.attempts == ["one", "two three"]


async def test_pacing_can_be_switched_on_with_the_usual_limits() -> None:
    adapter = StreamAdapter(tts=FakeTTS(streaming=False), text_pacing=True)
    assert adapter._stream_pacer is not None


async def test_a_provider_given_no_text_on_purpose_is_not_taken_for_silent() -> None:
    class Paces(FakeTTS):
        """A plugin that paces its own input, as some do."""

        def stream(self, **kwargs: Any) -> SynthesizeStream:
            return PacingStream(tts=self, conn_options=APIConnectOptions(max_retry=0))

    class PacingStream(SynthesizeStream):
        async def _run(self, output_emitter: AudioEmitter) -> None:
            output_emitter.initialize(
                request_id="r", sample_rate=1000, num_channels=1, mime_type="audio/pcm"
            )
            sentences = SentenceStreamPacer().wrap(BarStream(), output_emitter)
            async for item in self._input_ch:
                if isinstance(item, str):
                    sentences.push_text(item)
            sentences.end_input()
            async for _ in sentences:
                self._mark_started()
                output_emitter.push(b"\0\1" * 30_000)
                output_emitter.flush()
            await sentences.aclose()

    stream = Paces().stream()
    stream.push_text("one|two|")
    stream.end_input()
    async with stream:
        seconds = [piece.frame.duration async for piece in stream]
    assert sum(seconds) == pytest.approx(60.0, abs=0.1)
