"""Several recognizers as one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from livekit import rtc

from fakes.stt import FOREVER, FakeRecognizeStream, FakeSTT, Utterance
from fakes.vad import FakeVAD
from livekit.agents._exceptions import APIConnectionError, APIStatusError, APITimeoutError
from livekit.agents.stt import (
    AvailabilityChangedEvent,
    FallbackAdapter,
    RecognizeStream,
    SpeechEvent,
    SpeechEventType,
    StreamAdapter,
    STTCapabilities,
)
from livekit.agents.stt.fallback_adapter import FallbackRecognizeStream
from livekit.agents.types import APIConnectOptions
from livekit.agents.utils import aio

DOWN = APIConnectionError("down")
AUDIO = rtc.AudioFrame.create(16000, 1, 1600)
FINAL = SpeechEventType.FINAL_TRANSCRIPT


def now() -> float:
    return asyncio.get_running_loop().time()


def availability_of(stt: FallbackAdapter) -> list[tuple[str, bool]]:
    changes: list[tuple[str, bool]] = []

    def note(event: AvailabilityChangedEvent) -> None:
        changes.append((event.stt.label, event.available))

    stt.on("stt_availability_changed", note)
    return changes


def errors_of(stt: FallbackAdapter) -> list[bool]:
    errors: list[bool] = []
    stt.on("error", lambda event: errors.append(event.recoverable))
    return errors


async def speak(stream: RecognizeStream, seconds: float) -> None:
    for _ in range(round(seconds / 0.1)):
        stream.push_frame(AUDIO)
        await asyncio.sleep(0.1)


async def hear(stream: RecognizeStream) -> list[SpeechEvent]:
    return [event async for event in stream]


def texts(events: list[SpeechEvent]) -> list[str]:
    return [event.alternatives[0].text for event in events if event.type is FINAL]


# -- requests -------------------------------------------------------------------------------------


async def test_the_first_that_works_transcribes() -> None:
    a, b = FakeSTT(label="a", fail_always=DOWN), FakeSTT(label="b", transcripts=["hello"])
    stt = FallbackAdapter([a, b], max_retry_per_stt=2)
    changes = availability_of(stt)
    event = await stt.recognize(AUDIO)
    assert event.alternatives[0].text == "hello"
    assert changes == [("a", False)]
    assert len(a.recognized) >= 3
    await stt.aclose()


async def test_all_failing_is_one_error() -> None:
    stt = FallbackAdapter([FakeSTT(label="a", fail_always=DOWN), FakeSTT(fail_always=DOWN)])
    errors = errors_of(stt)
    with pytest.raises(APIConnectionError, match=r"all STTs failed \(\[a, fakes.stt.FakeSTT\]\)"):
        await stt.recognize(AUDIO)
    assert errors == [False]
    await stt.aclose()


async def test_an_unavailable_member_is_skipped_until_a_probe_brings_it_back() -> None:
    a = FakeSTT(label="a", failures=[DOWN, DOWN], recognize_time=1.0)
    b = FakeSTT(label="b", transcripts=["b1", "b2"])
    stt = FallbackAdapter([a, b], max_retry_per_stt=0)
    changes = availability_of(stt)
    await stt.recognize(AUDIO)  # a fails; its first probe will fail too
    await asyncio.sleep(5)
    assert changes == [("a", False)]
    await stt.recognize(AUDIO)  # skips a, probes again
    assert len(a.recognized) == 3
    assert len(b.recognized) == 2
    await asyncio.sleep(5)
    assert changes == [("a", False), ("a", True)]
    a.transcripts = ["a1"]
    assert (await stt.recognize(AUDIO)).alternatives[0].text == "a1"
    await stt.aclose()


async def test_when_all_are_unavailable_all_are_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    a = FakeSTT(label="a", fail_always=DOWN)
    stt = FallbackAdapter([a], max_retry_per_stt=0)
    with pytest.raises(APIConnectionError):
        await stt.recognize(AUDIO)
    await asyncio.sleep(1)
    a.fail_always = None
    a.transcripts = ["back"]
    changes = availability_of(stt)
    assert (await stt.recognize(AUDIO)).alternatives[0].text == "back"
    assert "all STTs are unavailable, retrying.." in caplog.text
    assert changes == [("a", True)]
    await stt.aclose()


async def test_only_one_probe_of_a_member_runs_and_none_after_closing() -> None:
    a = FakeSTT(label="a", fail_always=DOWN)
    stt = FallbackAdapter([a, FakeSTT()], max_retry_per_stt=0)
    await stt.recognize(AUDIO)
    a.recognize_time = 100.0
    for _ in range(3):
        await stt.recognize(AUDIO)
    await asyncio.sleep(1)
    assert len(a.recognized) == 3, "served, probed, probed again"
    changes = availability_of(stt)
    a.fail_always = None
    began = now()
    await stt.aclose()
    await stt.aclose()
    assert now() == began
    await stt.recognize(AUDIO)
    await asyncio.sleep(200)
    assert len(a.recognized) == 3
    assert changes == []


# -- streams --------------------------------------------------------------------------------------


async def test_a_stream_moves_on_when_a_member_fails() -> None:
    a, b = FakeSTT(label="a", fail_always=DOWN), FakeSTT(label="b")
    stt = FallbackAdapter([a, b])
    changes = availability_of(stt)
    errors = errors_of(stt)
    async with stt.stream() as stream:
        await asyncio.sleep(1)
        b.streams[0].final("hello")
        event = await stream.__anext__()
        assert event.alternatives[0].text == "hello"
    assert changes == [("a", False)]
    assert errors == []
    assert stt.metrics_metadata.model_name == "fake-model"


async def test_speech_into_a_dying_member_is_heard_by_the_next() -> None:
    utterance = Utterance("call my brother", 1.0, 2.5)
    a, b = FakeSTT(label="a"), FakeSTT(label="b", timeline=[utterance])
    stt = FallbackAdapter([a, b], max_retry_per_stt=0)
    async with stt.stream() as stream:
        await speak(stream, 2.0)
        a.streams[0].drop(APIStatusError("gone", status_code=403))
        await speak(stream, 1.5)
        stream.end_input()
        events = await hear(stream)
    assert texts(events) == ["call my brother"]
    (attempt,) = b.attempts
    assert attempt.offset == 0.0
    assert attempt.duration == pytest.approx(3.5)


async def test_what_was_said_while_a_member_was_unreachable_is_heard_by_the_next() -> None:
    # nobody could have told us that somebody was speaking
    a = FakeSTT(label="a", fail_always=APITimeoutError(), connect_time=4.0)
    b = FakeSTT(label="b", timeline=[Utterance("are you there", 1.0, 2.0)])
    stt = FallbackAdapter([a, b], max_retry_per_stt=1, attempt_timeout=4.0, retry_interval=1)
    async with stt.stream() as stream:
        await speak(stream, 9.0)
        stream.end_input()
        assert texts(await hear(stream)) == ["are you there"]


async def test_what_one_member_transcribed_the_next_does_not_hear_again() -> None:
    said = [Utterance("one", 0.5, 1.0), Utterance("two", 2.0, 3.0)]
    a, b = FakeSTT(label="a", timeline=said), FakeSTT(label="b", timeline=said)
    stt = FallbackAdapter([a, b], max_retry_per_stt=0)
    async with stt.stream() as stream:
        stream.start_time_offset = 0.0
        await speak(stream, 2.5)
        a.streams[0].drop(DOWN)
        await speak(stream, 1.5)
        stream.end_input()
        assert texts(await hear(stream)) == ["one", "two"]
    assert b.attempts[0].offset == pytest.approx(1.2, abs=0.2)


async def test_a_caller_may_choose_the_time_line() -> None:
    a = FakeSTT(label="a", timeline=[Utterance("one", 100.5, 101.0)])
    async with FallbackAdapter([a]).stream() as stream:
        stream.start_time_offset = 100.0
        await speak(stream, 2.0)
        stream.end_input()
        final = next(e for e in await hear(stream) if e.type is FINAL)
    assert final.alternatives[0].start_time == 100.5
    assert a.attempts[0].offset == 100.0


async def test_all_members_failing_ends_the_stream() -> None:
    members = [FakeSTT(label="a", fail_always=DOWN), FakeSTT(label="b", fail_always=DOWN)]
    stt = FallbackAdapter(members)
    errors = errors_of(stt)
    async with stt.stream() as stream:
        stream.end_input()
        with pytest.raises(APIConnectionError, match="all STTs failed"):
            await hear(stream)
    assert errors == [False]


async def test_all_members_failing_is_retried_if_wanted() -> None:
    members = [FakeSTT(label=name, fail_always=DOWN) for name in "ab"]
    stt = FallbackAdapter(members, max_retry_per_stt=0)
    errors = errors_of(stt)
    async with stt.stream(conn_options=APIConnectOptions(max_retry=2)) as stream:
        with pytest.raises(APIConnectionError, match="after 3 attempts"):
            await hear(stream)
    assert errors == [True, True, False]


async def test_a_handshake_that_times_out_is_given_up_in_time() -> None:
    a = FakeSTT(label="a", fail_always=APITimeoutError(), connect_time=3.1)
    b = FakeSTT(label="b")
    stt = FallbackAdapter([a, b], attempt_timeout=3.0, max_retry_per_stt=1, retry_interval=5)
    async with stt.stream():
        began = now()
        switched = asyncio.Event()
        b.setup = lambda _: switched.set()
        await switched.wait()
        assert now() - began <= 2 * 3.1 + 0.1
        assert len(a.streams[0].attempts) == 2


async def test_a_quiet_call_survives_recycled_connections_without_a_sound() -> None:
    a, b = FakeSTT(label="a"), FakeSTT(label="b")
    stt = FallbackAdapter([a, b])
    errors = errors_of(stt)
    changes = availability_of(stt)
    async with stt.stream(conn_options=APIConnectOptions()) as stream:
        for _ in range(13):
            await asyncio.sleep(180)
            a.streams[0].drop(APIStatusError("closed", status_code=1006))
        await asyncio.sleep(1)
        a.streams[0].final("still here")
        assert (await stream.__anext__()).alternatives[0].text == "still here"
    assert len(a.attempts) == 14
    assert b.streams == [] and errors == [] and changes == []


async def test_a_member_without_streaming_is_wrapped() -> None:
    requests = FakeSTT(label="a", transcripts=["one"], capabilities=STTCapabilities(False, False))
    with pytest.raises(ValueError, match="do not support streaming: a"):
        FallbackAdapter([requests, FakeSTT()])
    stt = FallbackAdapter([requests], vad=FakeVAD(speech=[(0.5, 1.0)]))
    async with stt.stream() as stream:
        await speak(stream, 2.0)
        stream.end_input()
        assert texts(await hear(stream)) == ["one"]
    await stt.aclose()


async def test_an_utterance_a_wrapped_member_failed_on_is_heard_by_the_next() -> None:
    said = [(0.5, 1.0), (2.0, 2.5)]
    requests = FakeSTT(
        label="a",
        transcripts=["one"],
        failures=[None, DOWN],
        capabilities=STTCapabilities(False, False),
    )
    streaming = FakeSTT(
        label="b", timeline=[Utterance("one", 0.5, 1.0), Utterance("two", 2.0, 2.5)]
    )
    stt = FallbackAdapter([requests, streaming], vad=FakeVAD(speech=said), max_retry_per_stt=0)
    changes: list[Any] = []
    stt.on("stt_availability_changed", changes.append)
    async with stt.stream() as stream:
        await speak(stream, 4.0)
        stream.end_input()
        assert texts(await hear(stream)) == ["one", "two"]
    assert isinstance(changes[0].stt, StreamAdapter)
    await stt.aclose()


# -- probes of streams ----------------------------------------------------------------------------


async def test_a_member_that_hears_again_is_available_for_the_next_stream() -> None:
    utterance = Utterance("hello", 3.0, 4.0)
    a = FakeSTT(label="a", failures=[DOWN])
    b = FakeSTT(label="b")
    a.timeline = (Utterance("hello", 2.5, 3.0),)
    b.timeline = (utterance,)
    stt = FallbackAdapter([a, b], max_retry_per_stt=0)
    changes = availability_of(stt)
    async with stt.stream() as stream:
        await speak(stream, 6.0)
        assert changes == [("a", False), ("a", True)]
        assert a.open_streams == [], "the probe is over"
        assert len(b.open_streams) == 1, "who serves goes on"
        stream.end_input()
        assert texts(await hear(stream)) == ["hello"]
    async with stt.stream():
        await asyncio.sleep(1)
        assert len(a.open_streams) == 1


async def test_probes_end_with_their_stream_and_the_next_one_starts_its_own() -> None:
    a, b = FakeSTT(label="a", failures=[DOWN]), FakeSTT(label="b")
    stt = FallbackAdapter([a, b], max_retry_per_stt=0)
    stream = stt.stream()
    await speak(stream, 1.0)
    assert len(a.open_streams) == 1
    began = now()
    await stream.aclose()
    assert now() == began
    assert a.open_streams == []
    async with stt.stream() as later:
        await speak(later, 1.0)
        assert len(a.open_streams) == 1
        assert a.open_streams[0].attempts[0].duration == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(("fed", "lasts"), [(False, 10), (True, 60)])
async def test_a_probe_without_audio_or_result_gives_up(fed: bool, lasts: float) -> None:
    a, b = FakeSTT(label="a", failures=[DOWN]), FakeSTT(label="b")
    stt = FallbackAdapter([a, b], max_retry_per_stt=0)
    async with stt.stream() as stream:
        await asyncio.sleep(0.1)
        began = now()
        while a.open_streams or len(a.streams) < 2:
            await (speak(stream, 1.0) if fed else asyncio.sleep(1.0))
        assert now() - began == pytest.approx(lasts, abs=2)


# -- close ----------------------------------------------------------------------------------------


async def test_closing_makes_no_member_unavailable() -> None:
    class FailsOnClose(FakeRecognizeStream):
        async def _run(self) -> None:
            try:
                await super()._run()
            except asyncio.CancelledError:
                raise DOWN from None

    class FailingSTT(FakeSTT):
        def stream(self, **options: Any) -> FakeRecognizeStream:
            return FailsOnClose(stt=self, conn_options=options["conn_options"])

    a, b = FailingSTT(label="a"), FakeSTT(label="b")
    stt = FallbackAdapter([a, b])
    changes = availability_of(stt)
    errors = errors_of(stt)
    stream = stt.stream()
    await asyncio.sleep(1)
    await stream.aclose()
    await asyncio.sleep(100)
    assert (changes, errors, b.streams) == ([], [], [])


@pytest.mark.parametrize("knob", ["hang_on_close", "ignore_cancellation"])
async def test_closing_is_bounded_with_a_member_that_never_ends(knob: str) -> None:
    a = FakeSTT(label="a")
    setattr(a, knob, FOREVER)
    stt = FallbackAdapter([a])
    stream = stt.stream()
    await asyncio.sleep(1)
    began = now()
    await stream.aclose()
    assert now() - began <= 2.0
    await asyncio.sleep(2)  # the member's stream gives up by itself
    assert stream._task.done()
    if knob == "ignore_cancellation":
        assert a.streams[0]._task in aio.abandoned()
        a.ignore_cancellation = False  # let the test end
        a.streams[0]._task.cancel()
        await asyncio.sleep(0)


# -- what it looks like ---------------------------------------------------------------------------


def test_nobody_is_not_enough() -> None:
    with pytest.raises(ValueError, match="at least one"):
        FallbackAdapter([])


def test_capabilities_are_what_all_can_do() -> None:
    full = STTCapabilities(
        True,
        True,
        diarization=True,
        aligned_transcript="word",
        offline_recognize=True,
        keyterms=True,
        chat_context=True,
        manual_flush=True,
    )
    plain = STTCapabilities(True, False, offline_recognize=False)
    both = FallbackAdapter([FakeSTT(capabilities=full), FakeSTT(capabilities=plain)])
    assert both.capabilities == STTCapabilities(
        True, False, offline_recognize=True, keyterms=True, chat_context=True
    )
    assert FallbackAdapter([FakeSTT(capabilities=full)]).capabilities == full
    plain.manual_flush = True
    assert both.capabilities.manual_flush, "read live"


async def test_it_passes_on_what_concerns_members() -> None:
    a, b = FakeSTT(label="a"), FakeSTT(label="b")
    stt = FallbackAdapter([a, b])
    metrics: list[Any] = []
    stt.on("metrics_collected", metrics.append)
    stt.prewarm()
    stt._update_session_keyterms(["LiveKit"])
    stt._push_conversation_item("item")  # type: ignore[arg-type]
    assert (a.prewarmed, b.prewarmed) == (1, 0)
    assert a.keyterms == b.keyterms == ["LiveKit"]
    assert a.conversation_items == b.conversation_items == ["item"]
    await stt.recognize(AUDIO)
    assert [m.label for m in metrics] == ["a"], "counted once"
    await stt.aclose()
    await a.recognize(AUDIO)
    assert len(metrics) == 1
    assert (a.closed, b.closed) == (0, 0)
    assert (stt.model, stt.provider) == ("fake-model", "fake-provider")
    assert stt.label.endswith("FallbackAdapter")


async def test_its_streams_have_a_name_of_their_own() -> None:
    async with FallbackAdapter([FakeSTT()]).stream() as stream:
        assert isinstance(stream, FallbackRecognizeStream)
