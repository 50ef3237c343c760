"""Speaking a text that is still being written."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from fakes.tts import FakeTTS, heard
from livekit.agents._exceptions import APIConnectionError, APIError, APIStatusError, APITimeoutError
from livekit.agents.metrics import TTSMetrics
from livekit.agents.tts import TTS, AudioEmitter, SynthesizedAudio, SynthesizeStream, TTSError
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


async def test_speaks_while_text_is_written() -> None:
    stream = FakeTTS().stream()
    stream.push_text("hel")
    first = await stream.__anext__()
    stream.push_text("lo")
    stream.end_input()
    rest = await read(stream)
    assert heard([first, *rest]) == "hello"
    assert rest[-1].is_final
    assert {piece.segment_id for piece in rest} == {"segment-0"}


async def test_without_text_there_is_no_audio_and_no_error() -> None:
    tts = FakeTTS()
    listener = Listener(tts)
    assert await say(tts.stream(), "", "  ") != []
    assert await say(tts.stream()) == []
    assert listener.errors == []


async def test_late_input_is_ignored() -> None:
    stream = FakeTTS().stream()
    stream.push_text("hi")
    stream.end_input()
    stream.push_text("late")
    stream.flush()
    stream.end_input()
    assert heard(await read(stream)) == "hi"
    stream.push_text("later")
    stream.flush()


async def test_a_stream_is_one_utterance(caplog: pytest.LogCaptureFixture) -> None:
    stream = FakeTTS().stream()
    stream.flush()  # nothing was written yet: the utterance is still to come
    stream.push_text("one")
    stream.flush()
    stream.push_text("two")
    stream.push_text("three")
    stream.end_input()
    assert heard(await read(stream)) == "one"
    assert caplog.text.count("handling multiple segments") == 2


async def test_reports_metrics_when_the_utterance_is_complete() -> None:
    tts = FakeTTS(first_audio_delay=0.2)
    listener = Listener(tts)
    stream = tts.stream()
    await asyncio.sleep(3)  # waiting for the language model is not the synthesizer's delay
    audio = await say(stream, "hel", "lo")
    (metrics,) = listener.metrics
    assert metrics.streamed and not metrics.cancelled
    assert metrics.ttfb == pytest.approx(0.2)
    assert metrics.characters_count == 5
    assert metrics.audio_duration == pytest.approx(0.25)
    assert (metrics.segment_id, metrics.request_id) == ("segment-0", "request-0")
    assert all(piece.frame.userdata[USERDATA_TTS_STARTED_TIME] > 0 for piece in audio)


async def test_an_interrupted_utterance_reports_the_characters_it_used() -> None:
    tts = FakeTTS(chunk_delay=1.0)
    listener = Listener(tts)
    stream = tts.stream()
    stream.push_text("hello world")
    await stream.__anext__()
    await stream.aclose()
    (metrics,) = listener.metrics
    assert metrics.cancelled and metrics.characters_count == 11
    assert metrics.audio_duration > 0


async def test_an_utterance_that_ended_before_its_input_did_is_reported_as_complete() -> None:
    class Hasty(FakeTTS):
        def stream(self, **kwargs: Any) -> SynthesizeStream:
            class Stream(SynthesizeStream):
                async def _run(self, output_emitter: AudioEmitter) -> None:
                    output_emitter.initialize(
                        request_id="r", sample_rate=8000, num_channels=1, mime_type="audio/pcm"
                    )
                    await self._input_ch.recv()
                    self._mark_started()
                    output_emitter.push(b"\0\1" * 800)

            return Stream(tts=self, conn_options=APIConnectOptions())

    tts = Hasty()
    listener = Listener(tts)
    stream = tts.stream()
    stream.push_text("hello")
    await read(stream)
    (metrics,) = listener.metrics
    assert not metrics.cancelled
    assert metrics.characters_count == 5
    assert metrics.audio_duration == pytest.approx(0.1)


async def test_an_utterance_interrupted_before_its_first_sound_is_reported_with_its_request() -> (
    None
):
    tts = FakeTTS(first_audio_delay=1.0)
    listener = Listener(tts)
    stream = tts.stream()
    stream.push_text("hello")
    await asyncio.sleep(0.5)
    await stream.aclose()
    (metrics,) = listener.metrics
    assert (metrics.request_id, metrics.ttfb, metrics.audio_duration) == ("request-0", -1.0, 0.0)


async def test_an_utterance_that_was_never_sent_reports_nothing() -> None:
    tts = FakeTTS()
    listener = Listener(tts)
    await tts.stream().aclose()
    assert listener.metrics == []


async def test_a_failed_attempt_is_repeated_with_all_the_text() -> None:
    tts = FakeTTS(failures=[APIConnectionError()])
    listener = Listener(tts)
    stream = tts.stream()
    stream.push_text("hel")
    await asyncio.sleep(0.01)  # the first attempt fails; this is written during the wait
    stream.push_text("lo")
    await asyncio.sleep(1)
    stream.push_text("!")
    stream.end_input()
    assert heard(await read(stream)) == "hello!"
    assert listener.recoverable == [True]
    assert len(listener.metrics) == 1


async def test_a_retry_after_the_end_of_input_has_it_all_and_ends() -> None:
    tts = FakeTTS(failures=[APIConnectionError(), APIConnectionError()])
    assert heard(await say(tts.stream(), "hel", "lo")) == "hello"
    assert tts.attempts[-1] == "hello"


async def test_a_helper_left_behind_by_a_failed_attempt_steals_no_text() -> None:
    stolen: list[object] = []
    helpers: list[asyncio.Task[None]] = []

    class Leaky(FakeTTS):
        def stream(self, **kwargs: Any) -> SynthesizeStream:
            class Stream(SynthesizeStream):
                async def _run(self, output_emitter: AudioEmitter) -> None:
                    if not helpers:
                        helpers.append(asyncio.create_task(self._steal()))
                        await asyncio.sleep(0.01)
                        raise APIConnectionError()
                    output_emitter.initialize(
                        request_id="r", sample_rate=8000, num_channels=1, mime_type="audio/pcm"
                    )
                    async for item in self._input_ch:
                        if isinstance(item, str):
                            output_emitter.push(b"\0\1" * 800)

                async def _steal(self) -> None:
                    async for item in self._input_ch:
                        stolen.append(item)

            return Stream(tts=self, conn_options=APIConnectOptions())

    stream = Leaky().stream()
    await asyncio.sleep(1)
    audio = await say(stream, "hello")
    assert audio and stolen == []
    await helpers[0]


async def test_is_not_repeated_once_the_listener_heard_some_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tts = FakeTTS(failures=[APIConnectionError()], fail_after=0.2)
    listener = Listener(tts)
    with pytest.raises(APIConnectionError):
        await say(tts.stream(), "hello world")
    assert len(tts.attempts) == 1
    assert listener.recoverable == [False]
    assert "skip retrying" in caplog.text


async def test_gives_up_with_the_last_error() -> None:
    tts = FakeTTS(failures=[APIConnectionError()] * 9)
    listener = Listener(tts)
    with pytest.raises(APIConnectionError):
        await say(tts.stream(conn_options=APIConnectOptions(max_retry=1)), "hello")
    assert listener.recoverable == [True, False]
    assert listener.metrics == []


async def test_no_audio_for_a_text_is_a_failure() -> None:
    tts = FakeTTS(seconds_per_char=0.0)
    with pytest.raises(APIError, match="no audio frames were pushed for text: hello"):
        await say(tts.stream(conn_options=APIConnectOptions(max_retry=0)), "hel", "lo")


async def test_status_499_ends_quietly() -> None:
    tts = FakeTTS(failures=[APIStatusError("gave up", status_code=499)])
    listener = Listener(tts)
    assert await say(tts.stream(), "hello") == []
    assert listener.errors == []


class TwoSegments(FakeTTS):
    def stream(self, **kwargs: Any) -> SynthesizeStream:
        class Stream(SynthesizeStream):
            async def _run(self, output_emitter: AudioEmitter) -> None:
                output_emitter.initialize(
                    request_id="r",
                    sample_rate=8000,
                    num_channels=1,
                    mime_type="audio/pcm",
                    stream=True,
                )
                for segment in "ab":
                    output_emitter.start_segment(segment_id=segment)
                    output_emitter.push(b"\0\1" * 800)
                    output_emitter.end_segment()

        return Stream(tts=self, conn_options=APIConnectOptions(max_retry=0))


async def test_a_plugin_that_splits_the_utterance_is_told() -> None:
    with pytest.raises(APIError, match="number of segments mismatch: expected 1, but got 2"):
        await say(TwoSegments().stream(), "hello")


async def test_calls_in_a_wrong_order_end_the_stream_without_retry() -> None:
    class Wrong(FakeTTS):
        def stream(self, **kwargs: Any) -> SynthesizeStream:
            outer = self

            class Stream(SynthesizeStream):
                async def _run(self, output_emitter: AudioEmitter) -> None:
                    outer.attempts.append("")
                    output_emitter.initialize(
                        request_id="r",
                        sample_rate=8000,
                        num_channels=1,
                        mime_type="audio/pcm",
                        stream=True,
                    )
                    output_emitter.push(b"\0\1" * 800)

            return Stream(tts=self, conn_options=APIConnectOptions())

    tts = Wrong()
    listener = Listener(tts)
    with pytest.raises(RuntimeError, match="start_segment"):
        await say(tts.stream(), "hello")
    assert len(tts.attempts) == 1
    assert listener.recoverable == [False]


# -- closing


async def test_closing_is_immediate_and_wakes_the_consumer() -> None:
    tts = FakeTTS()
    stream = tts.stream()
    consumer = asyncio.create_task(read(stream))
    await asyncio.sleep(1)
    start = now()
    await stream.aclose()
    assert now() == start
    assert await consumer == []
    assert tts.running == 0


async def test_a_cleanup_that_drains_the_input_is_not_a_deadlock() -> None:
    class Drains(FakeTTS):
        def stream(self, **kwargs: Any) -> SynthesizeStream:
            class Stream(SynthesizeStream):
                async def _run(self, output_emitter: AudioEmitter) -> None:
                    try:
                        await asyncio.Event().wait()
                    finally:
                        async for _ in self._input_ch:
                            pass

            return Stream(tts=self, conn_options=APIConnectOptions())

    stream = Drains().stream()
    stream.push_text("hello")
    await asyncio.sleep(1)
    start = now()
    await stream.aclose()
    assert now() == start


@pytest.mark.parametrize("fault", ["ignores_cancellation", "hangs_in_close"])
async def test_a_plugin_that_does_not_stop_is_abandoned_and_silenced(fault: str) -> None:
    tts = FakeTTS(**{fault: math.inf})  # type: ignore[arg-type]
    stream = tts.stream()
    stream.push_text("hello")
    received = [await stream.__anext__()]
    start = now()
    await stream.aclose()
    assert now() - start == pytest.approx(2.0)
    await asyncio.sleep(5)
    received += [piece async for piece in stream]
    assert heard(received) in "hello"
    tts.let_go()
    await asyncio.sleep(1)
    assert tts.running == 0


# -- a provider that goes silent


async def test_silence_after_all_text_was_sent_is_a_timeout_and_retried() -> None:
    tts = FakeTTS(first_audio_delay=math.inf)
    listener = Listener(tts)
    stream = tts.stream()
    stream.push_text("hello")
    await asyncio.sleep(60)  # the language model is slow: not the synthesizer's fault
    assert len(tts.attempts) == 1
    stream.end_input()
    start = now()
    await asyncio.sleep(10.01)
    tts.first_audio_delay = 0.0
    assert heard(await read(stream)) == "hello"
    assert 10.0 <= now() - start <= 10.2
    assert isinstance(listener.errors[0].error, APITimeoutError)
    assert listener.recoverable == [True]


async def test_silence_in_the_middle_of_the_speech_ends_it() -> None:
    tts = FakeTTS(silent_after=0.2)
    listener = Listener(tts)
    start = now()
    with pytest.raises(APITimeoutError, match="no audio was received for 15s"):
        await say(tts.stream(conn_options=APIConnectOptions(timeout=15)), "hello world")
    assert 15.0 <= now() - start <= 15.2
    assert listener.recoverable == [False]


async def test_slow_speech_is_not_silence() -> None:
    tts = FakeTTS(chunk_delay=9.0)
    assert heard(await say(tts.stream(), "hello")) == "hello"


async def test_the_next_attempt_gets_the_whole_limit_again() -> None:
    tts = FakeTTS(first_audio_delay=9.5, failures=[APIConnectionError()])
    tts.fail_after = 0.0
    options = APIConnectOptions(max_retry=1)
    stream = tts.stream(conn_options=options)
    stream.push_text("hello")
    await asyncio.sleep(9.0)
    stream.end_input()
    assert heard(await read(stream)) == "hello"


async def test_a_silent_plugin_that_ignores_the_timeout_is_abandoned() -> None:
    tts = FakeTTS(first_audio_delay=math.inf, ignores_cancellation=math.inf)
    listener = Listener(tts)
    stream = tts.stream()
    stream.push_text("hello")
    stream.end_input()
    consumer = asyncio.create_task(read(stream))
    start = now()
    await asyncio.sleep(13)
    assert listener.recoverable == [False]
    with pytest.raises(APITimeoutError):
        await consumer
    assert now() - start <= 15.0
    tts.let_go()
    await asyncio.sleep(1)
    assert len(tts.attempts) == 1


async def test_the_plugin_may_idle_after_closing_began() -> None:
    tts = FakeTTS(first_audio_delay=math.inf, hangs_in_close=1.5)
    listener = Listener(tts)
    stream = tts.stream()
    stream.push_text("hello")
    stream.end_input()
    await asyncio.sleep(9)
    await stream.aclose()
    await asyncio.sleep(30)
    assert listener.errors == []
