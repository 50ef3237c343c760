"""Synthesis through the gateway, on an emulated network and virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from gateway import GatewayEmulator, faults
from gateway.calls import QUICK, emulated
from gateway.voices import ToneVoice

from livekit.agents import APIConnectOptions, APIError, APIStatusError, APITimeoutError, inference
from livekit.agents.inference._protocol import tts as protocol
from livekit.agents.metrics import TTSMetrics
from livekit.agents.tts import SynthesizedAudio, TTSError
from livekit.agents.types import USERDATA_TIMED_TRANSCRIPT

TEXT = "Hello there, my friend. How do you do?"
SECONDS = ToneVoice().duration("Hello there, my friend.") + ToneVoice().duration("How do you do?")


@dataclass
class Voice:
    """A gateway TTS and what it reported."""

    tts: inference.TTS
    errors: list[TTSError] = field(default_factory=list)
    metrics: list[TTSMetrics] = field(default_factory=list)

    async def speak(self, text: str = TEXT, *, options: APIConnectOptions = QUICK) -> list[Any]:
        async with self.tts.stream(conn_options=options) as stream:
            stream.push_text(text)
            stream.end_input()
            return [audio async for audio in stream]


@contextlib.asynccontextmanager
async def speaking(
    gateway: GatewayEmulator,
    session: aiohttp.ClientSession,
    model: str = "deepgram/aura-2:apollo",
    **options: Any,
) -> AsyncIterator[Voice]:
    tts = inference.TTS(model, http_session=session, **gateway.arguments(), **options)
    voice = Voice(tts)
    tts.on("error", voice.errors.append)
    tts.on("metrics_collected", voice.metrics.append)
    try:
        yield voice
    finally:
        await tts.aclose()


def _seconds(audio: list[SynthesizedAudio]) -> float:
    return sum(piece.frame.duration for piece in audio)


async def test_a_text_is_spoken_sentence_by_sentence_on_one_connection() -> None:
    async with emulated() as (gateway, session), speaking(gateway, session) as voice:
        first = await voice.speak()
        second = await voice.speak("Again.")
        [record] = gateway.of("tts")
    assert _seconds(first) == pytest.approx(SECONDS, abs=0.01)
    assert _seconds(second) == pytest.approx(6 * 0.06, abs=0.01)
    assert first[-1].is_final and second[-1].is_final
    said = [m.transcript for _, m in record.messages if isinstance(m, protocol.InputTranscript)]
    assert said == ["Hello there, my friend. ", "How do you do? ", "Again. "]
    assert record.kinds().count("SessionFlush") == 2
    assert voice.errors == []
    assert [m.connection_reused for m in voice.metrics] == [False, True]
    assert [m.characters_count for m in voice.metrics] == [len(TEXT), 6]


async def test_the_handshake_is_what_the_gateway_expects() -> None:
    async with emulated() as (gateway, session):
        async with speaking(
            gateway,
            session,
            "cartesia/sonic-3:v",
            language="en",
            extra_kwargs={"speed": "fast"},
            fallback=["rime/mist", {"model": "xai/tts-1", "voice": "w", "extra_kwargs": {"a": 1}}],
        ) as voice:
            await voice.speak("Hi.")
        [record] = gateway.of("tts")
    assert record.query == {"model": "cartesia/sonic-3"}
    created, sentence, flush = (message for _, message in record.messages)
    assert json.loads(protocol.encode_client(created)) == {
        "type": "session.create",
        "sample_rate": "24000",
        "encoding": "pcm_s16le",
        "extra": {"speed": "fast"},
        "voice": "v",
        "model": "cartesia/sonic-3",
        "language": "en",
        "fallback": {
            "models": [
                {"model": "rime/mist", "voice": "", "extra": {}},
                {"model": "xai/tts-1", "voice": "w", "extra": {"a": 1}},
            ]
        },
        "connection": {"timeout": 10.0, "retries": 3},
    }
    assert sentence == protocol.InputTranscript(
        "Hi. ", voice="v", model="cartesia/sonic-3", language="en", extra={"speed": "fast"}
    )
    assert flush == protocol.SessionFlush()


async def test_words_come_with_their_times_when_asked_for() -> None:
    async with emulated() as (gateway, session):
        async with speaking(
            gateway, session, "cartesia/sonic-3", extra_kwargs={"add_timestamps": True}
        ) as voice:
            assert voice.tts.capabilities.aligned_transcript
            audio = await voice.speak("Hello there.")
    words = [w for piece in audio for w in piece.frame.userdata.get(USERDATA_TIMED_TRANSCRIPT, [])]
    assert "".join(words) == "Hello there. "


async def test_without_text_nothing_is_spoken_and_nothing_is_wrong() -> None:
    async with emulated() as (gateway, session), speaking(gateway, session) as voice:
        assert await voice.speak("") == []
        assert gateway.of("tts")[0].kinds()[-1] == "SessionFlush"
    assert voice.errors == []


async def test_changed_options_apply_from_the_next_utterance_on() -> None:
    async with emulated() as (gateway, session), speaking(gateway, session) as voice:
        await voice.speak("One.")
        voice.tts.update_options(model="deepgram/aura:zeus", extra_kwargs={"mip_opt_out": True})
        await voice.speak("Two.")
        [record] = gateway.of("tts")
    sentences = [m for _, m in record.messages if isinstance(m, protocol.InputTranscript)]
    assert sentences[1] == protocol.InputTranscript(
        "Two. ", voice="zeus", model="deepgram/aura", extra={"mip_opt_out": True}
    )
    assert sentences[0].extra == {}


# -- pooled connections ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        faults.idle_recycle(20.0),
        faults.idle_recycle(20.0, code="2007"),
        faults.idle_recycle(20.0, variant="error_only"),
        faults.idle_recycle(20.0, variant="close_only"),
    ],
    ids=str,
)
async def test_a_pooled_connection_that_the_gateway_ended_is_replaced_without_a_word(
    fault: faults.Fault,
) -> None:
    async with emulated() as (gateway, session), speaking(gateway, session) as voice:
        gateway.inject("tts", fault)
        await voice.speak("One.")
        await asyncio.sleep(25.0)
        assert gateway.open_connections == []
        assert _seconds(await voice.speak()) == pytest.approx(SECONDS, abs=0.01)
    assert voice.errors == []
    assert gateway.dials("tts") == 2


async def test_a_pooled_connection_that_died_unnoticed_is_replaced_without_a_word() -> None:
    async with emulated() as (gateway, session), speaking(gateway, session) as voice:
        gateway.inject("tts", faults.drop(after_messages=4))
        await voice.speak("One.")
        began = asyncio.get_running_loop().time()
        assert _seconds(await voice.speak()) == pytest.approx(SECONDS, abs=0.01)
        assert asyncio.get_running_loop().time() - began < 0.1, "at once, without a pause"
    assert voice.errors == []
    assert gateway.dials("tts") == 2


async def test_audio_left_over_from_one_utterance_does_not_begin_the_next() -> None:
    async with emulated() as (gateway, session), speaking(gateway, session) as voice:
        gateway.inject("tts", faults.late_audio())
        await voice.speak("One.")
        second = await voice.speak("Two.")
    assert _seconds(second) == pytest.approx(4 * 0.06, abs=0.01)
    assert voice.errors == []


async def test_an_interrupted_utterance_ends_its_connection_at_once() -> None:
    class Slow(ToneVoice):
        async def say(self, text: str, sample_rate: int) -> AsyncIterator[bytes]:
            async for pcm in super().say(text, sample_rate):
                yield pcm
                await asyncio.sleep(0.5)

    async with emulated(voice=Slow()) as (gateway, session), speaking(gateway, session) as voice:
        stream = voice.tts.stream(conn_options=QUICK)
        stream.push_text(TEXT)
        stream.end_input()
        await stream.__anext__()
        await stream.aclose()
        await asyncio.sleep(1.0)
        [record] = gateway.of("tts")
        assert (record.closed_by, record.close_code) == ("client", 1000)
        assert gateway.open_sockets == 0


async def test_a_second_utterance_at_the_same_time_gets_its_own_connection() -> None:
    async with emulated() as (gateway, session), speaking(gateway, session) as voice:
        voice.tts.prewarm()
        first, second = await asyncio.gather(voice.speak("One."), voice.speak("Two."))
        assert _seconds(first) == _seconds(second)
        assert gateway.dials("tts") == 2


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        faults.refuse(500),
        faults.refuse(429, retry_after=1.0),
        faults.drop(after_messages=1),
        faults.drop(1011, after_messages=2),
        faults.error(2007, then="close", after_messages=2),
        faults.error("overloaded", after_messages=2),
        faults.error(503, then="chatter", after_messages=2),
        faults.closed_early(after_messages=2),
        faults.huge_frame(after_messages=2),
        faults.malformed(times=5, after_messages=2),
        faults.done_without_audio(),
        faults.stall_writes(after_messages=1),
        faults.half_open(after_messages=2),
        faults.stall_upgrade(),
    ],
    ids=str,
)
async def test_a_failure_before_the_first_sound_is_retried_with_all_the_text(
    fault: faults.Fault,
) -> None:
    async with emulated() as (gateway, session), speaking(gateway, session) as voice:
        gateway.inject("tts", fault)
        audio = await voice.speak()
        assert _seconds(audio) == pytest.approx(SECONDS, abs=0.01)
        assert [error.recoverable for error in voice.errors] == [True]
        assert len(voice.metrics) == 1
        await voice.tts.aclose()
        assert gateway.open_sockets <= (fault.kind == "stall_upgrade")


@pytest.mark.parametrize(
    "fault", [faults.null_fields(), faults.no_session_id(), faults.malformed()], ids=str
)
async def test_odd_messages_do_not_hurt(fault: faults.Fault) -> None:
    async with emulated() as (gateway, session), speaking(gateway, session) as voice:
        gateway.inject("tts", fault)
        assert _seconds(await voice.speak()) == pytest.approx(SECONDS, abs=0.01)
    assert voice.errors == []


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_refusal_that_blames_the_request_is_final(status: int) -> None:
    async with emulated() as (gateway, session), speaking(gateway, session) as voice:
        gateway.inject("tts", faults.refuse(status))
        with pytest.raises(APIStatusError) as caught:
            await voice.speak()
    assert caught.value.status_code == status
    assert [error.recoverable for error in voice.errors] == [False]
    assert gateway.dials("tts") == 1


@pytest.mark.parametrize(
    "fault", [faults.drop(after_audio=0.2), faults.stall_writes(after_audio=0.2)], ids=str
)
async def test_a_failure_after_the_first_sound_is_not_retried(fault: faults.Fault) -> None:
    async with emulated() as (gateway, session), speaking(gateway, session) as voice:
        gateway.inject("tts", fault)
        async with voice.tts.stream(conn_options=QUICK) as stream:
            stream.push_text(TEXT)
            stream.end_input()
            await stream.__anext__()
            with pytest.raises(APIError):
                [_ async for _ in stream]
        await asyncio.sleep(1.1)
        assert gateway.open_connections == []
    assert [error.recoverable for error in voice.errors] == [False]
    assert gateway.dials("tts") == 1


async def test_a_slow_writer_is_no_failure_of_the_gateway() -> None:
    async with emulated() as (gateway, session), speaking(gateway, session) as voice:
        async with voice.tts.stream(conn_options=QUICK) as stream:
            stream.push_text("Hello there, my friend. How")
            await asyncio.sleep(60.0)
            stream.push_text(" do you do?")
            stream.end_input()
            audio = [piece async for piece in stream]
    assert _seconds(audio) == pytest.approx(SECONDS, abs=0.01)
    assert voice.errors == []


async def test_a_silent_gateway_is_given_up_after_the_timeout() -> None:
    async with emulated() as (gateway, session), speaking(gateway, session) as voice:
        gateway.standing["tts"] = faults.stall_writes(after_messages=1)
        with pytest.raises(APITimeoutError):
            await voice.speak(options=APIConnectOptions(max_retry=0, timeout=5.0))


@pytest.mark.parametrize("failures", [0, 2])
async def test_a_whole_text_is_reported_once_for_each_attempt(failures: int) -> None:
    async with emulated() as (gateway, session), speaking(gateway, session) as voice:
        gateway.inject("tts", *[faults.refuse(500)] * failures)
        async with voice.tts.synthesize(TEXT, conn_options=QUICK) as stream:
            frame = await stream.collect()
    assert frame.duration == pytest.approx(SECONDS, abs=0.02)
    assert [error.recoverable for error in voice.errors] == [True] * failures
    assert [(m.streamed, m.characters_count) for m in voice.metrics] == [(False, len(TEXT))]


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [None, faults.no_close_reply(), faults.half_open()], ids=str)
async def test_closing_ends_all_connections_within_two_seconds(fault: faults.Fault | None) -> None:
    async with emulated() as (gateway, session), speaking(gateway, session) as voice:
        if fault is not None:
            gateway.inject("tts", faults.no_close_reply() if fault.kind == "half_open" else fault)
        await voice.speak("One.")
        if fault is not None and fault.kind == "half_open":
            gateway.inject("tts", fault)
        stream = voice.tts.stream(conn_options=QUICK)
        stream.push_text("Two. ")
        other = voice.tts.stream(conn_options=QUICK)
        await asyncio.sleep(0.1)
        began = asyncio.get_running_loop().time()
        await voice.tts.aclose()
        await voice.tts.aclose()
        assert asyncio.get_running_loop().time() - began <= 2.0
        await other.aclose()
        await stream.aclose()
        assert gateway.open_sockets == 0
        for use in (voice.tts.stream, voice.tts.prewarm):
            with pytest.raises(RuntimeError, match="closed"):
                use()
    assert voice.errors == []


def _tts(model: str = "cartesia/sonic-3", **options: Any) -> inference.TTS:
    return inference.TTS(model, **{"api_key": "k", "api_secret": "s", **options})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"api_secret": ""}, "api_secret is required"),
        ({"model": ":v"}, "names no model"),
        ({"sample_rate": 1}, "sample_rate must be"),
        ({"extra_kwargs": {"x": object()}}, "extra_kwargs"),
        ({"fallback": 3}, "fallback"),
    ],
)
def test_bad_options_are_refused_before_anything_is_connected(
    options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        _tts(**options)


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("cartesia/sonic-3", "cartesia"),
        ("inworld/inworld-tts-2", "inworld"),
        ("inworld/inworld-tts-1", ""),
        ("fishaudio/drama-3", "fishaudio_drama"),
        ("fishaudio/s2-pro", "fishaudio"),
    ],
)
def test_the_dialect_of_markup_follows_the_model(model: str, key: str) -> None:
    assert _tts(model).markup._provider_key() == key
