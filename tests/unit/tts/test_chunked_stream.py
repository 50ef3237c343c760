"""Speaking a text that is known as a whole."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import pytest

from fakes.tts import FakeTTS, heard
from livekit.agents._exceptions import APIConnectionError, APIError, APIStatusError
from livekit.agents.metrics import TTSMetrics
from livekit.agents.tts import (
    TTS,
    AudioEmitter,
    ChunkedStream,
    SynthesizedAudio,
    TTSCapabilities,
    TTSError,
)
from livekit.agents.types import USERDATA_TTS_STARTED_TIME, APIConnectOptions


class Listener:
    """What a synthesizer reported."""

    def __init__(self, tts: TTS[Any]) -> None:
        self.metrics: list[TTSMetrics] = []
        self.errors: list[TTSError] = []
        tts.on("metrics_collected", self.metrics.append)
        tts.on("error", self.errors.append)

    @property
    def recoverable(self) -> list[bool]:
        return [error.recoverable for error in self.errors]


async def read(stream: ChunkedStream) -> list[SynthesizedAudio]:
    async with stream:
        return [audio async for audio in stream]


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_speaks_the_text_and_marks_the_last_frame() -> None:
    audio = await read(FakeTTS().synthesize("hello"))
    assert heard(audio) == "hello"
    assert [piece.is_final for piece in audio] == [False] * (len(audio) - 1) + [True]
    assert {piece.request_id for piece in audio} == {"request-0"}


async def test_frames_tell_when_synthesis_was_requested() -> None:
    before = time.perf_counter()
    audio = await read(FakeTTS().synthesize("hello"))
    stamps = {piece.frame.userdata[USERDATA_TTS_STARTED_TIME] for piece in audio}
    assert len(stamps) == 1
    assert before <= stamps.pop() <= time.perf_counter()


async def test_collect_joins_all_audio() -> None:
    async with FakeTTS().synthesize("hello") as stream:
        frame = await stream.collect()
    assert heard([frame]) == "hello"
    assert frame.duration == pytest.approx(0.25)


async def test_collect_refuses_to_return_nothing() -> None:
    async with FakeTTS().synthesize("") as stream:
        with pytest.raises(ValueError, match="no audio"):
            await stream.collect()


async def test_reports_metrics_at_the_end() -> None:
    tts = FakeTTS(first_audio_delay=0.3, chunk_delay=0.1)
    listener = Listener(tts)
    await read(tts.synthesize("hello"))
    (metrics,) = listener.metrics
    assert metrics.ttfb == pytest.approx(0.3)
    assert metrics.duration == pytest.approx(0.6)
    assert metrics.audio_duration == pytest.approx(0.25)
    assert metrics.characters_count == 5
    assert metrics.request_id == "request-0"
    assert not metrics.streamed and not metrics.cancelled
    assert metrics.metadata is not None and metrics.metadata.model_name == "unknown"


async def test_a_failed_attempt_is_repeated_after_a_short_wait() -> None:
    tts = FakeTTS(failures=[APIConnectionError(), APIConnectionError()])
    listener = Listener(tts)
    start = now()
    assert heard(await read(tts.synthesize("hello"))) == "hello"
    assert 0.05 + 1.0 <= now() - start <= 0.1 + 2.0
    assert listener.recoverable == [True, True]
    assert len(listener.metrics) == 1


async def test_gives_up_after_the_last_retry_and_keeps_raising() -> None:
    error = APIConnectionError("nobody there")
    tts = FakeTTS(failures=[error] * 9)
    listener = Listener(tts)
    stream = tts.synthesize("hello", conn_options=APIConnectOptions(max_retry=2))
    for _ in range(2):
        with pytest.raises(APIConnectionError) as raised:
            await stream.__anext__()
        assert raised.value is error
    assert stream.done and stream.exception is error
    await stream.aclose()
    assert len(tts.attempts) == 3
    assert listener.recoverable == [True, True, False]
    assert listener.metrics == []


@pytest.mark.parametrize(
    "error", [APIStatusError("no such voice", status_code=404), ValueError("a bug in the plugin")]
)
async def test_errors_that_cannot_heal_end_it_at_once(error: Exception) -> None:
    tts = FakeTTS(failures=[error])
    listener = Listener(tts)
    with pytest.raises(type(error)):
        await read(tts.synthesize("hello"))
    assert len(tts.attempts) == 1
    assert listener.recoverable == [False]
    assert listener.errors[0].error is error


async def test_an_error_keeps_its_cause() -> None:
    error = APIConnectionError("nobody there")
    error.__cause__ = OSError("no route")
    stream = FakeTTS(failures=[error] * 9).synthesize("hello")
    with pytest.raises(APIConnectionError, match="caused by OSError: no route"):
        await read(stream)


async def test_no_audio_for_a_text_is_a_failure() -> None:
    tts = FakeTTS(seconds_per_char=0.0)
    listener = Listener(tts)
    with pytest.raises(APIError, match="no audio frames were pushed for text: hello"):
        await read(tts.synthesize("hello"))
    assert listener.recoverable == [True, True, True, False]


async def test_no_audio_for_blank_text_is_fine() -> None:
    tts = FakeTTS(seconds_per_char=0.0)
    assert await read(tts.synthesize("  ")) == []
    assert len(tts.attempts) == 1


async def test_a_retry_after_partial_audio_starts_over_under_a_new_request_id() -> None:
    tts = FakeTTS(failures=[APIConnectionError()], fail_after=0.2)
    audio = await read(tts.synthesize("hello"))
    second = [piece for piece in audio if piece.request_id == "request-1"]
    assert heard(second) == "hello"
    assert audio[: -len(second)], "the listener had heard some of the first attempt"
    assert not any(piece.is_final for piece in audio[: -len(second)])


async def test_status_499_ends_quietly() -> None:
    tts = FakeTTS(failures=[APIStatusError("gave up", status_code=499)])
    listener = Listener(tts)
    assert await read(tts.synthesize("hello")) == []
    assert len(tts.attempts) == 1
    assert listener.errors == []


class Forgetful(TTS[Any]):
    """Its streams return without doing anything."""

    def __init__(self) -> None:
        super().__init__(
            capabilities=TTSCapabilities(streaming=False), sample_rate=8000, num_channels=1
        )

    def synthesize(self, text: str, **kwargs: Any) -> ChunkedStream:
        class Stream(ChunkedStream):
            async def _run(self, output_emitter: AudioEmitter) -> None:
                self._set_token_usage(input_tokens=1)

        return Stream(tts=self, input_text=text, conn_options=APIConnectOptions())


async def test_a_plugin_that_forgets_to_initialize_the_emitter_is_told() -> None:
    with pytest.raises(RuntimeError, match="AudioEmitter isn't started"):
        await read(Forgetful().synthesize("hello"))


async def test_stream_says_how_to_stream_when_it_cannot() -> None:
    with pytest.raises(NotImplementedError, match="StreamAdapter"):
        Forgetful().stream()


async def test_closing_early_is_immediate_and_reports_what_was_used() -> None:
    tts = FakeTTS(chunk_delay=1.0)
    listener = Listener(tts)
    stream = tts.synthesize("hello")
    received = [await stream.__anext__()]
    start = now()
    await stream.aclose()
    assert now() == start
    received += [piece async for piece in stream]
    assert tts.running == 0
    assert [metrics.cancelled for metrics in listener.metrics] == [True]
    heard_seconds = sum(piece.frame.duration for piece in received)
    assert listener.metrics[0].audio_duration == pytest.approx(heard_seconds)
    assert listener.errors == []
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()


async def test_closing_wakes_a_waiting_consumer() -> None:
    stream = FakeTTS(first_audio_delay=math.inf).synthesize("hello")
    consumer = asyncio.create_task(read(stream))
    await asyncio.sleep(1)
    await stream.aclose()
    assert await consumer == []


async def test_closing_twice_and_at_the_same_time_is_one_close() -> None:
    tts = FakeTTS(hangs_in_close=1.0)
    listener = Listener(tts)
    stream = tts.synthesize("hello world")
    await stream.__anext__()
    start = now()
    await asyncio.gather(*(stream.aclose() for _ in range(3)))
    await stream.aclose()
    assert now() - start <= 1.0
    assert len(listener.metrics) == 1


@pytest.mark.parametrize("fault", ["ignores_cancellation", "hangs_in_close"])
async def test_a_plugin_that_does_not_stop_is_abandoned_and_silenced(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    tts = FakeTTS(silent_after=0.1, **{fault: math.inf})  # type: ignore[arg-type]
    listener = Listener(tts)
    stream = tts.synthesize("hello")
    received = [await stream.__anext__()]
    start = now()
    await stream.aclose()
    assert now() - start == pytest.approx(2.0)
    assert "ignored its cancellation" in caplog.text

    await asyncio.sleep(5)
    assert tts.running == 1
    received += [piece async for piece in stream]
    assert "!" not in heard(received)
    assert len(listener.metrics) == 1 and listener.metrics[0].cancelled
    tts.let_go()
    await asyncio.sleep(1)
    assert tts.running == 0
    assert len(listener.metrics) == 1


class Resentful(FakeTTS):
    """Its streams answer a cancellation with a connection error."""

    def synthesize(self, text: str, **kwargs: Any) -> ChunkedStream:
        outer = self

        class Stream(ChunkedStream):
            async def _run(self, output_emitter: AudioEmitter) -> None:
                outer.attempts.append(self._input_text)
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    raise APIConnectionError("torn down") from None

        return Stream(tts=self, input_text=text, conn_options=APIConnectOptions())


async def test_nothing_is_retried_or_reported_once_closing() -> None:
    tts = Resentful()
    listener = Listener(tts)
    stream = tts.synthesize("hello")
    await asyncio.sleep(1)
    start = now()
    await stream.aclose()
    assert now() == start
    await asyncio.sleep(60)
    assert len(tts.attempts) == 1
    assert listener.errors == []


async def test_closing_during_a_backoff_ends_it() -> None:
    tts = FakeTTS(failures=[APIConnectionError()] * 9)
    stream = tts.synthesize("hello", conn_options=APIConnectOptions(retry_interval=60))
    await asyncio.sleep(10)
    attempts = len(tts.attempts)
    start = now()
    await stream.aclose()
    assert now() == start
    await asyncio.sleep(100)
    assert len(tts.attempts) == attempts


async def test_closing_before_it_began_never_runs_the_plugin() -> None:
    tts = FakeTTS()
    await tts.synthesize("hello").aclose()
    assert tts.attempts == []


async def test_handlers_that_raise_harm_nobody() -> None:
    def broken(_: object) -> None:
        raise TypeError("a bug in the application")

    tts = FakeTTS(failures=[APIConnectionError()])
    tts.on("error", broken)
    tts.on("metrics_collected", broken)
    listener = Listener(tts)
    assert heard(await read(tts.synthesize("hello"))) == "hello"
    assert len(listener.errors) == len(listener.metrics) == 1


async def test_a_failure_nobody_reads_is_not_reported_as_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream = FakeTTS(failures=[ValueError("a bug")]).synthesize("hello")
    await asyncio.sleep(1)
    await stream.aclose()
    del stream
    assert "never retrieved" not in caplog.text


async def test_speaks_whole_texts_through_a_provider_that_only_streams() -> None:
    class OnlyStreams(FakeTTS):
        def synthesize(self, text: str, **kwargs: Any) -> ChunkedStream:
            return self._synthesize_with_stream(text, **kwargs)

    tts = OnlyStreams(failures=[APIConnectionError()], aligned=True)
    assert heard(await read(tts.synthesize("hello"))) == "hello"
    assert tts.attempts == ["", "hello"]
