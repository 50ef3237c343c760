"""The emulator itself: what it lets in, what it hears, what it counts, what it breaks."""

from __future__ import annotations

import json

import aiohttp
import pytest
from gateway import GatewayEmulator, faults
from gateway.__main__ import parse_fault
from gateway.calls import calling, emulated, sentence
from gateway.recognizers import TONE_WORDS, ToneRecognizer, speak_tones

from livekit.agents.inference._protocol.stt import (
    InputAudio,
    SessionCreate,
    SessionFinalize,
    StartOfSpeech,
    Transcript,
    TranscriptKind,
    decode_server,
    encode_client,
)
from livekit.agents.inference._utils import Gateway


def _headers(gateway: GatewayEmulator) -> dict[str, str]:
    return Gateway(**gateway.arguments()).headers()


@pytest.mark.parametrize("rate", [16000, 24000])
def test_every_word_has_a_tone_that_is_understood(rate: int) -> None:
    messages: list[object] = []
    recognizer = ToneRecognizer(messages.append, rate)
    pcm = bytes(rate * 2) + speak_tones(TONE_WORDS, rate) + bytes(rate * 2)
    for start in range(0, len(pcm), 998):
        recognizer.feed(pcm[start : start + 998])
    final = messages[-1]
    assert isinstance(messages[0], StartOfSpeech) and isinstance(final, Transcript)
    assert final.kind is TranscriptKind.FINAL
    assert final.text.split() == TONE_WORDS
    assert final.start == pytest.approx(1.0, abs=0.02)


def test_half_a_word_is_none() -> None:
    messages: list[object] = []
    recognizer = ToneRecognizer(messages.append, 16000)
    pcm = speak_tones(["alpha", "bravo"])
    recognizer.feed(pcm[len(pcm) * 3 // 4 // 2 * 2 :])
    recognizer.finalize()
    assert not [m for m in messages if isinstance(m, Transcript)]


@pytest.mark.real_time
async def test_on_a_real_socket_it_hears_counts_and_notices_the_end() -> None:
    async with emulated(real_sockets=True) as (gateway, session):
        url = gateway.base_url + "/stt?model=deepgram%2Fnova-3"
        async with session.ws_connect(url, headers=_headers(gateway)) as ws:
            await ws.send_str(encode_client(SessionCreate(16000)))
            await ws.send_str(encode_client(InputAudio(speak_tones(sentence(0)))))
            await ws.send_str(encode_client(SessionFinalize()))
            kinds = []
            while "SessionFinalized" not in kinds:
                message = decode_server((await ws.receive()).data)
                kinds.append(type(message).__name__)
            assert gateway.open_sockets == len(gateway.open_connections) == 1
        assert kinds == ["SessionCreated", "StartOfSpeech", "Transcript", "SessionFinalized"] or (
            kinds[:2] == ["SessionCreated", "StartOfSpeech"] and kinds.count("Transcript") >= 1
        )
        await gateway.until_closed()
        [record] = gateway.of("stt")
        assert record.query == {"model": "deepgram/nova-3"}
        assert record.audio_seconds == pytest.approx(5 * 0.26)
        assert (record.closed_by, record.close_code) == ("client", 1000)


@pytest.mark.parametrize(
    ("headers", "hint"),
    [
        ({}, "no bearer token"),
        ({"Authorization": "Basic x"}, "no bearer token"),
        ({"Authorization": "Bearer x"}, ""),
    ],
)
async def test_without_a_valid_token_nobody_is_let_in(headers: dict[str, str], hint: str) -> None:
    async with emulated() as (gateway, session):
        for path in ("/stt", "/tts", "/bargein"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(gateway.base_url + path, headers=headers)
            assert caught.value.status == 401
        async with session.post(gateway.base_url + "/chat/completions", headers=headers) as answer:
            body = await answer.json()
        assert (answer.status, body["type"]) == (401, "unauthorized")
        assert hint in body["error"]
        assert [record.refused for record in gateway.records] == [401] * 4


async def test_a_session_begins_with_its_creation() -> None:
    async with emulated() as (gateway, session):
        async with session.ws_connect(gateway.base_url + "/stt", headers=_headers(gateway)) as ws:
            await ws.send_str(encode_client(SessionFinalize()))
            assert json.loads((await ws.receive()).data)["type"] == "error"
            assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE


async def test_a_model_is_refused_a_sample_rate_that_it_can_not_take() -> None:
    async with emulated() as (gateway, session):
        async with session.ws_connect(gateway.base_url + "/stt", headers=_headers(gateway)) as ws:
            await ws.send_str(
                encode_client(SessionCreate(16000, model="openai/gpt-live-transcribe"))
            )
            error = json.loads((await ws.receive()).data)
    assert error["code"] == 400 and "24000" in error["message"]


async def test_a_gateway_that_went_away_comes_back_at_the_same_address() -> None:
    async with emulated() as (gateway, session), calling(gateway, session) as call:
        await call.caller.be_quiet(0.2)
        await gateway.go_away()
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(gateway.base_url + "/models")
        await gateway.come_back()
        async with session.get(gateway.base_url + "/models") as answer:
            assert await answer.json() == {"object": "list", "data": []}


async def test_faults_are_for_one_connection_each_unless_they_stand() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.refuse(503), faults.refuse(404))
        gateway.standing["stt"] = faults.refuse(500)
        statuses = []
        for _ in range(3):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(gateway.base_url + "/stt", headers=_headers(gateway))
            statuses.append(caught.value.status)
    assert statuses == [503, 404, 500]


def test_faults_can_be_given_on_the_command_line() -> None:
    assert parse_fault("stt:drop:how=1011,after_audio=2.5") == (
        "stt",
        faults.drop(1011, after_audio=2.5),
    )
    assert parse_fault("llm:completion:kind=drip") == ("llm", faults.completion("drip"))
    assert parse_fault("tts:no_close_reply") == ("tts", faults.no_close_reply())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("sst:drop", "no route 'sst'"),
        ("stt:dorp", "no fault 'dorp'"),
        ("stt:Fault", "no fault 'Fault'"),
        ("stt:drop:1011", "should be OPTION=VALUE"),
        ("stt:drop:when=1", "unexpected keyword"),
        ("stt:refuse", "missing"),
    ],
)
def test_a_fault_that_can_not_be_read_is_explained(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_fault(text)
