"""A recognition stream: input, output, retries, close."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from livekit import rtc

from fakes.stt import FOREVER, FakeRecognizeStream, FakeSTT, Utterance
from livekit.agents import utils
from livekit.agents._exceptions import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
)
from livekit.agents.stt import (
    RecognitionUsage,
    RecognizeStream,
    SpeechEvent,
    SpeechEventType,
    STTError,
)
from livekit.agents.types import APIConnectOptions

RATE = 16000
ONE_RETRY = APIConnectOptions(max_retry=1)


def silence(seconds: float, *, rate: int = RATE, channels: int = 1) -> rtc.AudioFrame:
    return rtc.AudioFrame.create(rate, channels, round(seconds * rate))


def errors_of(stt: FakeSTT) -> list[STTError]:
    errors: list[STTError] = []
    stt.on("error", errors.append)
    return errors


def metrics_of(stt: FakeSTT) -> list[Any]:
    metrics: list[Any] = []
    stt.on("metrics_collected", metrics.append)
    return metrics


def now() -> float:
    return asyncio.get_running_loop().time()


async def drain(stream: RecognizeStream) -> list[SpeechEvent]:
    return [event async for event in stream]


async def next_final(stream: RecognizeStream) -> str:
    async for event in stream:
        if event.type is SpeechEventType.FINAL_TRANSCRIPT:
            return event.alternatives[0].text
    raise AssertionError("the stream ended without a final transcript")


# -- input ----------------------------------------------------------------------------------------


async def test_what_is_pushed_is_recognized_to_the_end() -> None:
    stt = FakeSTT(timeline=[Utterance("good morning", 0.1, 0.9)])
    async with stt.stream() as stream:
        stream.push_frame(silence(1.0))
        stream.end_input()
        events = await drain(stream)
    assert [event.type.value for event in events] == [
        "start_of_speech",
        "interim_transcript",
        "final_transcript",
        "end_of_speech",
    ]


async def test_run_begins_only_after_the_subclass_is_constructed() -> None:
    class Late(FakeRecognizeStream):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.greeting = "ready"

        async def _run(self) -> None:
            self.final(self.greeting)

    async with Late(stt=FakeSTT(), conn_options=ONE_RETRY) as stream:
        assert await next_final(stream) == "ready"


async def test_pushing_after_the_end_is_refused() -> None:
    async with FakeSTT().stream() as stream:
        stream.end_input()
        late_calls: list[Callable[[], None]] = [
            lambda: stream.push_frame(silence(0.1)),
            stream.flush,
            stream.end_input,
        ]
        for late in late_calls:
            with pytest.raises(RuntimeError, match="input ended"):
                late()


async def test_pushing_into_a_finished_stream_is_refused() -> None:
    class Brief(FakeRecognizeStream):
        async def _run(self) -> None:
            return

    async with Brief(stt=FakeSTT(), conn_options=ONE_RETRY) as stream:
        await drain(stream)
        with pytest.raises(RuntimeError, match="is closed"):
            stream.push_frame(silence(0.1))


async def test_the_sample_rate_must_not_change() -> None:
    async with FakeSTT().stream() as stream:
        stream.push_frame(silence(0.1, rate=24000))
        with pytest.raises(ValueError, match="sample rate"):
            stream.push_frame(silence(0.1, rate=16000))


async def test_frames_arrive_as_pushed_unless_a_rate_is_wanted() -> None:
    stt = FakeSTT()
    async with stt.stream() as stream:
        frame = silence(0.1, rate=44100)
        stream.push_frame(frame)
        stream.end_input()
        await drain(stream)
    assert stt.attempts[0].frames == [frame]


@pytest.mark.parametrize("channels", [1, 2])
async def test_frames_are_resampled_to_the_wanted_rate(channels: int) -> None:
    stt = FakeSTT(sample_rate=16000)
    async with stt.stream() as stream:
        for _ in range(10):
            stream.push_frame(silence(0.1, rate=48000, channels=channels))
        stream.end_input()
        await drain(stream)
    attempt = stt.attempts[0]
    assert {(f.sample_rate, f.num_channels) for f in attempt.frames} == {(16000, channels)}
    assert attempt.duration == pytest.approx(1.0, abs=0.01)
    # nothing is left in the resampler when the flush mark comes
    assert isinstance(attempt.items[-1], RecognizeStream._FlushSentinel)


async def test_a_flush_keeps_its_place_among_the_frames() -> None:
    stt = FakeSTT()
    async with stt.stream() as stream:
        stream.push_frame(silence(0.1))
        stream.flush()
        stream.push_frame(silence(0.2))
        stream.end_input()
        await drain(stream)
    kinds = [type(item).__name__ for item in stt.attempts[0].items]
    assert kinds == ["AudioFrame", "_FlushSentinel", "AudioFrame", "_FlushSentinel"]


# -- retries --------------------------------------------------------------------------------------


async def test_a_passing_failure_is_reported_and_survived(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stt = FakeSTT(
        failures=[APIConnectionError("no route")], timeline=[Utterance("hello", 0.0, 0.5)]
    )
    errors = errors_of(stt)
    async with stt.stream() as stream:
        stream.push_frame(silence(1.0))
        assert await next_final(stream) == "hello"
    assert [(e.recoverable, str(e.error)) for e in errors] == [(True, "no route")]
    assert errors[0].label == stt.label
    assert "failed to recognize speech: no route, retrying in" in caplog.text


async def test_the_stream_ends_when_the_retries_run_out() -> None:
    stt = FakeSTT(fail_always=APIConnectionError("no route"))
    errors = errors_of(stt)
    async with stt.stream(conn_options=APIConnectOptions(max_retry=3)) as stream:
        for _ in range(2):  # it says so as often as it is asked
            with pytest.raises(APIConnectionError, match="failed to recognize speech after") as e:
                await stream.__anext__()
            assert e.value.__cause__ is stt.fail_always
    assert len(stt.attempts) == 4
    assert [e.recoverable for e in errors] == [True, True, True, False]


async def test_an_error_that_retrying_cannot_change_ends_the_stream() -> None:
    refused = APIStatusError("bad key", status_code=401)
    stt = FakeSTT(fail_always=refused)
    errors = errors_of(stt)
    async with stt.stream() as stream:
        with pytest.raises(APIStatusError) as e:
            await drain(stream)
    assert e.value is refused
    assert [e.recoverable for e in errors] == [False]
    assert len(stt.attempts) == 1


async def test_a_bug_in_the_provider_ends_the_stream() -> None:
    stt = FakeSTT(fail_always=ZeroDivisionError("oops"))
    errors = errors_of(stt)
    async with stt.stream() as stream:
        with pytest.raises(ZeroDivisionError):
            await drain(stream)
    assert [e.recoverable for e in errors] == [False]


async def test_without_retries_the_first_error_is_raised_as_it_is() -> None:
    lost = APIConnectionError("lost")
    stt = FakeSTT(fail_always=lost)
    async with stt.stream(conn_options=APIConnectOptions(max_retry=0)) as stream:
        with pytest.raises(APIConnectionError) as e:
            await drain(stream)
    assert e.value is lost


async def test_a_final_transcript_restores_the_budget() -> None:
    stt = FakeSTT()
    errors = errors_of(stt)
    async with stt.stream(conn_options=ONE_RETRY) as stream:
        await asyncio.sleep(1)
        for round in range(5):
            stream.final(f"sentence {round}")
            stream.drop(APIConnectionError("dropped"))
            await asyncio.sleep(1)
        assert len(stream.attempts) == 6
    assert all(e.recoverable for e in errors)


async def test_a_handshake_that_always_times_out_ends_the_stream() -> None:
    # It fails a hair after the connect timeout: outliving that timeout proves nothing.
    stt = FakeSTT(fail_always=APITimeoutError(), connect_time=10.1)
    errors = errors_of(stt)
    async with stt.stream(conn_options=APIConnectOptions(max_retry=2)) as stream:
        with pytest.raises(APIConnectionError, match="after"):
            await drain(stream)
    assert len(stt.attempts) == 3
    assert [e.recoverable for e in errors] == [True, True, False]


async def test_a_provider_that_accepts_and_drops_at_once_runs_out_too() -> None:
    class Flapping(FakeRecognizeStream):
        async def _run(self) -> None:
            self.attempts.append(None)  # type: ignore[arg-type]
            self._report_connection_acquired(0.1, False)
            raise APIConnectionError("dropped")

    async with Flapping(stt=FakeSTT(), conn_options=APIConnectOptions(max_retry=3)) as stream:
        with pytest.raises(APIConnectionError):
            await drain(stream)
    assert len(stream.attempts) == 4


async def test_a_quiet_call_survives_any_number_of_recycled_connections() -> None:
    stt = FakeSTT()
    errors = errors_of(stt)
    async with stt.stream() as stream:
        for _ in range(13):
            await asyncio.sleep(180)
            stream.drop(APIStatusError("closed", status_code=1006))
            await asyncio.sleep(1)
            assert stream._num_retries == 0
        stream.final("still here")
        assert await next_final(stream) == "still here"
        assert len(stream.attempts) == 14
    assert errors == []


async def test_a_drop_in_the_middle_of_speech_is_reported() -> None:
    stt = FakeSTT()
    errors = errors_of(stt)
    async with stt.stream() as stream:
        await asyncio.sleep(60)
        stream.interim("I would like to")
        stream.drop(APIConnectionError("dropped"))
        await asyncio.sleep(1)
        assert len(stream.attempts) == 2
    assert [e.recoverable for e in errors] == [True]


async def test_an_idle_end_is_no_failure_and_waits_for_audio() -> None:
    stt = FakeSTT()
    errors = errors_of(stt)
    async with stt.stream() as stream:
        for _ in range(5):
            await asyncio.sleep(1800)
            stream.drop(APIStatusError("inactivity", status_code=2007))
            await asyncio.sleep(600)
            assert not stream.connected
            stream.push_frame(silence(0.1))
            await asyncio.sleep(0.2)
            assert stream.connected
        assert stream._num_retries == 0
    assert errors == []
    assert len(stt.attempts) == 6


async def test_a_server_that_idles_at_once_is_not_dialled_in_a_tight_loop() -> None:
    stt = FakeSTT(fail_always=APIError("idle", body={"code": "2007"}))
    async with stt.stream() as stream:
        for _ in range(600):
            stream.push_frame(silence(0.1))
            await asyncio.sleep(0.1)
    assert len(stt.attempts) < 20


async def test_input_ending_while_parked_ends_the_stream() -> None:
    stt = FakeSTT()
    async with stt.stream() as stream:
        await asyncio.sleep(100)
        stream.drop(APIStatusError("inactivity", status_code=2007))
        await asyncio.sleep(100)
        stream.end_input()
        assert await drain(stream) == []
    assert len(stt.attempts) == 1


# -- audio across reconnects ----------------------------------------------------------------------


def counted(start: int, count: int) -> rtc.AudioFrame:
    """A frame of 1 kHz audio whose samples say their index in the stream."""
    data = b"".join(i.to_bytes(2, "little") for i in range(start, start + count))
    return rtc.AudioFrame(data, sample_rate=1000, num_channels=1, samples_per_channel=count)


async def test_every_sample_without_an_answer_reaches_the_next_connection_once() -> None:
    stt = FakeSTT()
    async with stt.stream() as stream:
        stream.start_time_offset = 5.0
        for i in range(10):
            stream.push_frame(counted(i * 100, 100))
            await asyncio.sleep(0.1)
        stream.final("hello", start_time=5.0, end_time=5.25)
        stream.send(SpeechEventType.START_OF_SPEECH)
        stream.flush()
        await asyncio.sleep(0)
        stream.drop(APIConnectionError("dropped"))
        await asyncio.sleep(0.01)
        stream.push_frame(counted(1000, 100))
        await asyncio.sleep(1)
        stream.push_frame(counted(1100, 100))
        await asyncio.sleep(0.1)

        first, second = stream.attempts
        assert first.samples == list(range(1000))
        assert second.samples == list(range(250, 1200))
        assert first.offset == 5.0
        assert second.offset == pytest.approx(5.25)
        kinds = [type(item).__name__ for item in second.items]
        assert kinds.index("_FlushSentinel") == 8, "the flush keeps its place"


async def test_an_utterance_cut_by_a_drop_is_heard_in_full() -> None:
    stt = FakeSTT(timeline=[Utterance("call my brother", 0.5, 2.0)])
    async with stt.stream() as stream:
        for tick in range(30):
            stream.push_frame(silence(0.1))
            await asyncio.sleep(0.1)
            if tick == 12:
                stream.drop(APIConnectionError("dropped"))
        stream.end_input()
        events = await drain(stream)
    finals = [e for e in events if e.type is SpeechEventType.FINAL_TRANSCRIPT]
    assert [final.alternatives[0].text for final in finals] == ["call my brother"]
    assert finals[0].alternatives[0].start_time == 0.5


async def test_audio_beyond_the_ring_is_dropped_oldest_first_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stt = FakeSTT(failures=[None, *[APIConnectionError("down")] * 3])
    options = APIConnectOptions(max_retry=10, retry_interval=8.0)
    async with stt.stream(conn_options=options) as stream:
        await asyncio.sleep(1)
        stream.drop(APIConnectionError("dropped"))
        with caplog.at_level(logging.WARNING):
            for i in range(300):
                stream.push_frame(counted(i * 100, 100))
                await asyncio.sleep(0.1)
        last = stream.attempts[-1]
        assert len(stream.attempts) == 5
        assert last.samples[-1] == 29999
        assert last.samples == list(range(last.samples[0], 30000))
        missing = last.samples[0] / 1000
        assert missing > 0
    lost = [r for r in caplog.records if "audio are lost" in r.message]
    assert [r.dropped_audio_duration for r in lost] == [pytest.approx(missing)]  # type: ignore[attr-defined]


async def test_a_finished_input_is_replayed_before_the_stream_ends() -> None:
    stt = FakeSTT(timeline=[Utterance("good bye", 0.2, 0.8)])
    dropped: list[bool] = []

    class ClosesEarly(FakeRecognizeStream):
        async def _run(self) -> None:
            assert not (self.attempts and self._input_ch.closed)
            if not dropped:
                dropped.append(True)
                self.attempts.append(None)  # type: ignore[arg-type]
                async for _ in self._input_ch:
                    pass
                raise APIConnectionError("dropped")
            await super()._run()

    async with ClosesEarly(stt=stt, conn_options=ONE_RETRY) as stream:
        stream.push_frame(silence(1.0))
        stream.end_input()
        assert await next_final(stream) == "good bye"
        await drain(stream)


async def test_a_drop_after_the_last_answer_ends_a_finished_stream_quietly() -> None:
    stt = FakeSTT()
    errors = errors_of(stt)

    class Answers(FakeRecognizeStream):
        async def _run(self) -> None:
            self.attempts.append(None)  # type: ignore[arg-type]
            async for _ in self._input_ch:
                pass
            self.final("all of it")
            raise APIConnectionError("dropped")

    async with Answers(stt=stt, conn_options=ONE_RETRY) as stream:
        stream.push_frame(silence(1.0))
        stream.end_input()
        assert [e.alternatives[0].text for e in await drain(stream)] == ["all of it"]
    assert len(stream.attempts) == 1
    assert errors == []


async def test_a_task_of_a_dead_attempt_cannot_take_audio_of_the_next() -> None:
    leaked = utils.aio.TaskScope("test")
    stolen: list[Any] = []

    class Leaky(FakeRecognizeStream):
        async def _run(self) -> None:
            if not self.attempts:

                async def steal(channel: Any) -> None:
                    async for item in channel:
                        stolen.append(item)

                leaked.spawn(steal(self._input_ch))
            await super()._run()

    stt = FakeSTT(failures=[APIConnectionError("no")])
    async with Leaky(stt=stt, conn_options=ONE_RETRY) as stream:
        await asyncio.sleep(1)
        for _ in range(5):
            stream.push_frame(silence(0.1))
            await asyncio.sleep(0.1)
        assert len(stream.attempts[1].frames) == 5
    assert stolen == []
    assert not leaked.tasks


async def test_time_stamps_go_on_through_a_pause_in_the_audio() -> None:
    stt = FakeSTT()
    async with stt.stream() as stream:
        stream.push_frame(silence(1.0))
        await asyncio.sleep(100)  # muted
        stream.final("one")
        stream.drop(APIConnectionError("dropped"))
        await asyncio.sleep(100)
        stream.push_frame(silence(0.1))
        await asyncio.sleep(0.1)
        assert stream.attempts[0].offset == 0.0
        assert stream.attempts[1].offset == pytest.approx(200, abs=0.1)


# -- metrics --------------------------------------------------------------------------------------


async def test_usage_becomes_metrics_and_is_passed_on() -> None:
    stt = FakeSTT()
    metrics = metrics_of(stt)
    async with stt.stream() as stream:
        await asyncio.sleep(0)
        usage = RecognitionUsage(audio_duration=1.5, input_tokens=3, output_tokens=4)
        stream.send(
            SpeechEventType.RECOGNITION_USAGE,  # malformed: skipped
            SpeechEvent(SpeechEventType.RECOGNITION_USAGE, "r1", recognition_usage=usage),
        )
        stream.end_input()
        assert len(await drain(stream)) == 2
    (m,) = metrics
    assert (m.request_id, m.audio_duration, m.input_tokens, m.output_tokens) == ("r1", 1.5, 3, 4)
    assert m.streamed and m.label == stt.label and m.duration == 0.0
    assert (m.metadata.model_name, m.metadata.model_provider) == ("fake-model", "fake-provider")


async def test_acquiring_a_connection_is_measured() -> None:
    stt = FakeSTT()
    metrics = metrics_of(stt)
    async with stt.stream() as stream:
        stream._report_connection_acquired(0.25, True)
    (m,) = metrics
    assert (m.acquire_time, m.connection_reused, m.audio_duration) == (0.25, True, 0.0)
    assert m.streamed and m.request_id == ""


async def test_handlers_that_fail_hurt_nobody() -> None:
    stt = FakeSTT(failures=[APIConnectionError("no")])

    def broken(*_: Any) -> None:
        raise TypeError("a bug of the user")

    stt.on("error", broken)
    stt.on("metrics_collected", broken)
    errors = errors_of(stt)
    metrics = metrics_of(stt)
    async with stt.stream() as stream:
        await asyncio.sleep(1)
        usage = RecognitionUsage(audio_duration=1.0)
        stream.send(SpeechEvent(SpeechEventType.RECOGNITION_USAGE, recognition_usage=usage))
        stream.final("hello")
        assert await next_final(stream) == "hello"
    assert len(errors) == 1 and len(metrics) == 1


# -- close ----------------------------------------------------------------------------------------


async def test_closing_wakes_the_consumer() -> None:
    stream = FakeSTT().stream()
    scope = utils.aio.TaskScope("consumer")
    consumer = scope.spawn(drain(stream))
    await asyncio.sleep(1)
    began = now()
    await stream.aclose()
    assert await consumer == []
    assert now() == began


async def test_closing_before_anything_ran_is_fine() -> None:
    stt = FakeSTT()
    stream = stt.stream()
    await stream.aclose()
    await stream.aclose()
    assert stt.attempts == []
    assert await drain(stream) == []
    with pytest.raises(RuntimeError):
        stream.push_frame(silence(0.1))


async def test_a_failed_stream_closes_quietly() -> None:
    stt = FakeSTT(fail_always=ZeroDivisionError())
    stream = stt.stream()
    await asyncio.sleep(1)
    await stream.aclose()
    assert await drain(stream) == []


@pytest.mark.parametrize("phase", ["connecting", "backing off", "listening", "parked"])
async def test_nothing_reconnects_once_closed(phase: str) -> None:
    stt = FakeSTT(fail_always=APIConnectionError("no") if phase == "backing off" else None)
    if phase == "connecting":
        stt.connect_time = 60.0
    stream = stt.stream(conn_options=APIConnectOptions(max_retry=9, retry_interval=5))
    await asyncio.sleep(1.0)
    if phase == "parked":
        stream.drop(APIStatusError("inactivity", status_code=2007))
        await asyncio.sleep(10)
    errors = errors_of(stt)
    attempts = len(stt.attempts)
    began = now()
    await stream.aclose()
    assert now() == began
    await asyncio.sleep(600)
    assert len(stt.attempts) == attempts
    assert errors == []


async def test_a_cancellation_turned_into_an_error_does_not_reconnect() -> None:
    class Converts(FakeRecognizeStream):
        async def _run(self) -> None:
            self.attempts.append(None)  # type: ignore[arg-type]
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                raise APIConnectionError("send failed") from None

    stt = FakeSTT()
    errors = errors_of(stt)
    stream = Converts(stt=stt, conn_options=APIConnectOptions())
    await asyncio.sleep(1)
    began = now()
    await stream.aclose()
    assert now() == began
    await asyncio.sleep(600)
    assert len(stream.attempts) == 1
    assert errors == []
    assert await drain(stream) == []


async def test_a_cleanup_that_hangs_is_cut_off() -> None:
    stream = FakeSTT(hang_on_close=FOREVER).stream()
    await asyncio.sleep(1)
    began = now()
    await stream.aclose()
    assert now() - began == pytest.approx(1.0)
    assert stream._task.done()


async def test_a_provider_that_never_ends_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    stt = FakeSTT(ignore_cancellation=True)
    stream = stt.stream()
    consumer = utils.aio.TaskScope("consumer").spawn(drain(stream))
    await asyncio.sleep(1)
    began = now()
    await asyncio.gather(stream.aclose(), stream.aclose())
    assert now() - began == pytest.approx(2.0, abs=0.1)
    assert await consumer == []
    assert "left behind" in caplog.text

    metrics = metrics_of(stt)
    stream.final("too late")  # goes nowhere, and hurts nobody
    stream._report_connection_acquired(1.0, False)
    assert await drain(stream) == []
    assert metrics == []
    await end_abandoned(stream)


async def end_abandoned(stream: FakeRecognizeStream) -> None:
    """Let the test end: the provider finally gives in."""
    assert stream._task in utils.aio.abandoned()
    stream._stt.ignore_cancellation = False
    stream._stt.hang_on_close = 0.0
    for _ in range(3):
        stream._task.cancel()
        await asyncio.sleep(0)
    assert stream._task not in utils.aio.abandoned()


async def test_a_slow_cleanup_is_waited_for() -> None:
    stt = FakeSTT(hang_on_close=0.8)
    stream = stt.stream()
    await asyncio.sleep(1)
    began = now()
    await stream.aclose()
    assert now() - began == pytest.approx(0.8)
    assert not utils.aio.abandoned()


async def test_cancelling_who_closes_does_not_stop_the_close() -> None:
    stt = FakeSTT(hang_on_close=0.8)
    stream = stt.stream()
    await asyncio.sleep(1)
    closer = utils.aio.TaskScope("closer").spawn(stream.aclose())
    await asyncio.sleep(0.1)
    closer.cancel()
    await asyncio.sleep(1)
    assert closer.cancelled()
    assert stream._task.done()
    await stream.aclose()


async def test_a_stream_may_close_itself() -> None:
    class SelfClosing(FakeRecognizeStream):
        async def _run(self) -> None:
            await self.aclose()

    stream = SelfClosing(stt=FakeSTT(), conn_options=ONE_RETRY)
    assert await drain(stream) == []
    await stream.aclose()


async def test_usage_reported_while_closing_is_counted() -> None:
    class SaysGoodbye(FakeRecognizeStream):
        async def _run(self) -> None:
            try:
                await super()._run()
            finally:
                usage = RecognitionUsage(audio_duration=7.0)
                self.send(SpeechEvent(SpeechEventType.RECOGNITION_USAGE, recognition_usage=usage))

    stt = FakeSTT()
    metrics = metrics_of(stt)
    stream = SaysGoodbye(stt=stt, conn_options=ONE_RETRY)
    await asyncio.sleep(1)
    await stream.aclose()
    assert [m.audio_duration for m in metrics] == [7.0]


# -- attributes -----------------------------------------------------------------------------------


async def test_times_must_not_be_negative() -> None:
    async with FakeSTT().stream() as stream:
        stream.start_time_offset = 3.5
        stream.start_time = 12.0
        assert (stream.start_time_offset, stream.start_time) == (3.5, 12.0)
        with pytest.raises(ValueError):
            stream.start_time_offset = -1.0
        with pytest.raises(ValueError):
            stream.start_time = -1.0
