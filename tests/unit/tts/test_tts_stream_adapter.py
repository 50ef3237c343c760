"""Streaming with a synthesizer that only speaks whole texts."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from fakes.sentences import BarStream, BarTokenizer
from fakes.tts import FakeTTS, heard, timed_words
from livekit.agents._exceptions import APIConnectionError
from livekit.agents.metrics import TTSMetrics
from livekit.agents.tokenize import SentenceStream
from livekit.agents.tts import StreamAdapter, SynthesizedAudio, SynthesizeStream, TTSError
from livekit.agents.types import USERDATA_TTS_STARTED_TIME, APIConnectOptions


def adapt(tts: FakeTTS, **kwargs: Any) -> StreamAdapter:
    return StreamAdapter(tts=tts, sentence_tokenizer=BarTokenizer(), **kwargs)


def whole_texts(**kwargs: Any) -> FakeTTS:
    return FakeTTS(streaming=False, **kwargs)


async def read(stream: SynthesizeStream) -> list[SynthesizedAudio]:
    async with stream:
        return [audio async for audio in stream]


async def say(stream: SynthesizeStream, *tokens: str) -> list[SynthesizedAudio]:
    for token in tokens:
        stream.push_text(token)
    stream.end_input()
    return await read(stream)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_speaks_sentence_by_sentence_as_one_segment() -> None:
    tts = whole_texts()
    audio = await say(adapt(tts).stream(), "he", "llo|wor", "ld|")
    assert heard(audio) == "helloworld"
    assert tts.attempts == ["hello", "world"]
    assert len({piece.segment_id for piece in audio}) == 1
    assert [piece.is_final for piece in audio] == [False] * (len(audio) - 1) + [True]
    assert all(USERDATA_TTS_STARTED_TIME in piece.frame.userdata for piece in audio)


async def test_the_first_sentence_is_heard_while_the_second_is_written() -> None:
    stream = adapt(whole_texts()).stream()
    stream.push_text("hello|wor")
    await stream.__anext__()
    await stream.aclose()


async def test_the_default_tokenizer_keeps_the_text_whole() -> None:
    tts = whole_texts(seconds_per_char=0.002)
    text = "This is the first sentence of all.\nAnd here the second one begins. "
    audio = await say(StreamAdapter(tts=tts).stream(), text)
    assert len(tts.attempts) == 2
    assert "".join(timed_words(audio)) == text


async def test_frames_carry_the_sentence_and_when_it_starts() -> None:
    audio = await say(adapt(whole_texts()).stream(), "hello|my|world")
    assert [(word, word.start_time) for word in timed_words(audio)] == [
        ("hello", 0.0),
        ("my", pytest.approx(0.25)),
        ("world", pytest.approx(0.35)),
    ]


async def test_blank_sentences_are_shown_but_not_spoken() -> None:
    tts = whole_texts()
    audio = await say(adapt(tts).stream(), "hello|\n|world")
    assert tts.attempts == ["hello", "world"]
    assert timed_words(audio) == ["hello", "\n", "world"]


async def test_flush_ends_a_sentence() -> None:
    tts = whole_texts()
    stream = adapt(tts).stream()
    stream.push_text("hello")
    stream.flush()
    await asyncio.sleep(1)
    assert tts.attempts == ["hello"]
    await stream.aclose()


async def test_a_sentence_is_repeated_by_the_wrapped_synthesizer() -> None:
    tts = whole_texts(failures={1: APIConnectionError()})
    adapter = adapt(tts)
    errors: list[TTSError] = []
    adapter.on("error", errors.append)
    assert heard(await say(adapter.stream(), "hello|world")) == "helloworld"
    assert errors == [], "errors of the wrapped synthesizer are its own"


async def test_no_word_is_heard_twice_when_a_sentence_is_repeated() -> None:
    tts = whole_texts(failures={0: APIConnectionError(), 1: APIConnectionError()}, fail_after=0.2)
    audio = await say(adapt(tts).stream(), "hello world|again")
    assert heard(audio) == "hello worldagain"
    assert tts.attempts == ["hello world"] * 3 + ["again"]


async def test_a_sentence_that_cannot_be_spoken_ends_the_stream() -> None:
    tts = whole_texts(failures=[APIConnectionError()] * 9)
    adapter = adapt(tts)
    errors: list[TTSError] = []
    adapter.on("error", errors.append)
    options = APIConnectOptions(max_retry=1)
    with pytest.raises(APIConnectionError):
        await say(adapter.stream(conn_options=options), "hello|world")
    assert tts.attempts == ["hello", "hello"]
    assert [error.recoverable for error in errors] == [False]


async def test_metrics_are_those_of_the_wrapped_synthesizer_until_closed() -> None:
    tts = whole_texts()
    adapter = adapt(tts)
    metrics: list[TTSMetrics] = []
    adapter.on("metrics_collected", metrics.append)
    await say(adapter.stream(), "hello|world")
    assert [m.characters_count for m in metrics] == [5, 5]
    assert {m.label for m in metrics} == {tts.label}
    await adapter.aclose()
    await adapter.aclose()
    await say(adapter.stream(), "more")
    assert len(metrics) == 2
    assert not tts.closed


async def test_passes_on_what_the_wrapped_synthesizer_is() -> None:
    tts = whole_texts(sample_rate=8000, num_channels=2, markup_key="cartesia")
    adapter = adapt(tts)
    assert (adapter.sample_rate, adapter.num_channels) == (8000, 2)
    assert (adapter.model, adapter.provider) == (tts.model, tts.provider)
    assert adapter.capabilities.streaming and adapter.capabilities.aligned_transcript
    assert adapter.markup._provider_key() == "cartesia"
    adapter._set_expressive(True)
    assert tts._expressive
    adapter.prewarm()
    assert tts.prewarmed == 1
    async with adapter.synthesize("hello") as stream:
        assert heard([await stream.collect()]) == "hello"


async def test_a_tokenizer_that_fails_ends_the_stream_with_its_error() -> None:
    class BrokenStream(BarStream):
        def push_text(self, text: str) -> None:
            raise ValueError("cannot read this")

    class Broken(BarTokenizer):
        def stream(self, *, language: str | None = None) -> SentenceStream:
            return BrokenStream()

    adapter = StreamAdapter(tts=whole_texts(), sentence_tokenizer=Broken())
    with pytest.raises(ValueError, match="cannot read this"):
        await say(adapter.stream(), "hello")


async def test_closing_is_immediate() -> None:
    tts = whole_texts(chunk_delay=1.0)
    stream = adapt(tts).stream()
    stream.push_text("hello|world|")
    await stream.__anext__()
    start = now()
    await stream.aclose()
    assert now() == start
    assert tts.running == 0
    await asyncio.sleep(10)
    assert tts.attempts == ["hello"]


@pytest.mark.parametrize("fault", ["ignores_cancellation", "hangs_in_close"])
async def test_only_the_wrapped_stream_that_does_not_stop_is_abandoned(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    tts = whole_texts(silent_after=0.1, **{fault: math.inf})
    stream = adapt(tts).stream()
    stream.push_text("hello|world|")
    received = [await stream.__anext__()]
    await asyncio.sleep(1)
    start = now()
    await stream.aclose()
    assert 0.5 <= now() - start <= 1.0
    assert caplog.text.count("is left behind") == 1
    assert "FakeChunkedStream" in caplog.text
    await asyncio.sleep(5)
    received += [piece async for piece in stream]
    assert "!" not in heard(received)
    tts.let_go()
    await asyncio.sleep(1)
    assert tts.attempts == ["hello"]
