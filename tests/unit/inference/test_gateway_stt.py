"""Recognition through the gateway, on an emulated network and virtual time."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from gateway import faults
from gateway.calls import QUICK, RATE, calling, emulated, sentence
from gateway.recognizers import speak_tones
from livekit import rtc

from livekit.agents import APIConnectionError, APIStatusError, inference
from livekit.agents.inference._protocol import stt as protocol
from livekit.agents.stt import SpeechEventType

START, INTERIM, FINAL, END = (
    SpeechEventType.START_OF_SPEECH,
    SpeechEventType.INTERIM_TRANSCRIPT,
    SpeechEventType.FINAL_TRANSCRIPT,
    SpeechEventType.END_OF_SPEECH,
)
A, B = sentence(0), sentence(10)


async def test_a_sentence_is_transcribed_with_its_words_times_and_usage() -> None:
    async with emulated() as (gateway, session), calling(gateway, session) as call:
        await call.caller.be_quiet(1.0)
        await call.caller.say(*A)
        await call.caller.be_quiet(1.0)
        heard = call.heard
    kinds = heard.kinds()
    assert kinds[0] is START and kinds[-2:] == [FINAL, END]
    assert set(kinds[1:-2]) == {INTERIM}
    assert heard.finals == [" ".join(A)]
    [(start, end)] = heard.times
    assert start == pytest.approx(1.0, abs=0.05)
    assert end == pytest.approx(1.0 + 5 * 0.26, abs=0.1)
    words = next(e for e in heard.events if e.type is FINAL).alternatives[0].words
    assert words is not None and [str(word) for word in words] == A
    assert words[1].start_time == pytest.approx(1.26, abs=0.03)
    assert heard.billed == pytest.approx(2.8, abs=0.1)
    assert heard.errors == []


async def test_the_handshake_is_what_the_gateway_expects() -> None:
    async with emulated() as (gateway, session):
        async with calling(
            gateway,
            session,
            model="deepgram/nova-3:de",
            extra_kwargs={"endpointing": 25, "keyterm": "livekit"},
            fallback=[
                "cartesia/ink-2:en",
                {"model": "xai/stt-1", "extra_kwargs": {"format": True}},
            ],
        ) as call:
            await call.caller.be_quiet(0.12)
        [record] = gateway.of("stt")
    assert record.query == {"model": "deepgram/nova-3"}
    assert record.headers["Authorization"].startswith("Bearer ")
    created = record.messages[0][1]
    assert json.loads(protocol.encode_client(created)) == {
        "type": "session.create",
        "settings": {
            "sample_rate": "16000",
            "encoding": "pcm_s16le",
            "extra": {"endpointing": 25, "keyterm": ["livekit"]},
            "language": "de",
        },
        "model": "deepgram/nova-3",
        "fallback": {
            "models": [
                {"model": "cartesia/ink-2", "extra": None},
                {"model": "xai/stt-1", "extra": {"format": True}},
            ]
        },
        "connection": {"timeout": 10.0, "retries": 3},
    }
    assert record.kinds() == ["SessionCreate", "SessionFinalize", "SessionClose"]
    assert (record.closed_by, record.close_code) == ("client", 1000)
    assert record.audio_seconds == pytest.approx(0.12)


@pytest.mark.parametrize("model", [None, "auto"])
async def test_without_a_model_the_gateway_chooses(model: str | None) -> None:
    async with emulated() as (gateway, session):
        arguments = {} if model is None else {"model": model}
        stt = inference.STT(http_session=session, **arguments, **gateway.arguments())  # type: ignore[arg-type]
        async with stt.stream() as stream:
            stream.end_input()
            async for _ in stream:
                pass
        [record] = gateway.of("stt")
    assert record.query == ({} if model is None else {"model": "auto"})
    assert record.messages[0][1].model is None


async def test_a_flush_sends_what_is_left_and_no_message() -> None:
    async with emulated() as (gateway, session), calling(gateway, session) as call:
        call.stream.push_frame(rtc.AudioFrame(bytes(2 * 900), RATE, 1, 900))
        call.stream.flush()
        await asyncio.sleep(0.1)
        [record] = gateway.of("stt")
        assert len(record.pcm) == 1800
        assert record.kinds() == ["SessionCreate"]


async def test_the_end_waits_a_second_after_the_gateway_has_finalized() -> None:
    async with emulated() as (gateway, session), calling(gateway, session) as call:
        await call.caller.say(*A)
        began = asyncio.get_running_loop().time()
        heard = await call.finish()
        took = asyncio.get_running_loop().time() - began
    assert heard.words == A and heard.failure is None
    assert took == pytest.approx(1.0, abs=0.1)


async def test_after_a_final_transcript_the_end_waits_three_seconds_for_another() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.stall_writes(after_audio=2.3))
        async with calling(gateway, session) as call:
            await call.caller.say(*A)
            await call.caller.be_quiet(1.2)
            call.stream.end_input()
            began = asyncio.get_running_loop().time()
            await call.reading
            took = asyncio.get_running_loop().time() - began
    assert call.heard.words == A
    assert took == pytest.approx(3.0, abs=0.1)


async def test_without_any_transcript_the_end_waits_half_a_minute() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.stall_writes(after_messages=1))
        async with calling(gateway, session) as call:
            await call.caller.be_quiet(1.0)
            began = asyncio.get_running_loop().time()
            await call.finish()
            took = asyncio.get_running_loop().time() - began
    assert took == pytest.approx(30.0, abs=0.1)


async def test_speech_at_the_end_that_nobody_answers_for_is_heard_on_another_connection() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.stall_writes(after_messages=1))
        async with calling(gateway, session) as call:
            await call.caller.say(*A)
            heard = await call.finish()
    assert heard.words == A
    assert [error.recoverable for error in heard.errors] == [True]


# -- idle connections ------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["error_and_close", "error_only", "close_only"])
@pytest.mark.parametrize("code", [2007, "2007"])
async def test_an_idle_connection_is_ended_and_the_next_word_is_heard_whole(
    variant: str, code: int | str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.idle_recycle(20.0, code=code, variant=variant))
        async with calling(gateway, session) as call:
            await call.caller.be_quiet(1.0)
            await call.caller.mute(60.0)
            assert gateway.open_connections == []
            await call.caller.be_quiet(5.0)
            assert gateway.dials("stt") == 1, "silence is no reason to connect"
            await call.caller.say(*A)
            await call.caller.be_quiet(1.0)
            heard = call.heard
            assert call.stream._num_retries == 0
    assert gateway.dials("stt") == 2
    assert heard.words == A
    assert heard.errors == []
    [(start, _)] = heard.times
    assert start == pytest.approx(66.0, abs=0.1)
    assert [r.message for r in caplog.records if r.name == "livekit.agents"] == []


@pytest.mark.parametrize("minutes", [3, 30])
async def test_a_silent_call_of_forty_minutes_outlives_its_connections(minutes: int) -> None:
    async with emulated(keep_audio=False) as (gateway, session):
        gateway.standing["stt"] = faults.idle_recycle(minutes * 60.0)
        async with calling(gateway, session) as call:
            await call.caller.be_quiet(1.0)
            await call.caller.mute(40 * 60.0)
            await call.caller.say(*A)
            await call.caller.be_quiet(1.0)
            heard = call.heard
            assert call.stream._num_retries == 0
    assert heard.words == A and heard.errors == []
    assert heard.times[0][0] == pytest.approx(2401.0, abs=0.1)
    assert gateway.dials("stt") == 2


async def test_a_gateway_that_ends_every_connection_is_dialled_only_for_speech() -> None:
    async with emulated() as (gateway, session):
        gateway.standing["stt"] = faults.recycle_flap()
        async with calling(gateway, session) as call:
            await call.caller.be_quiet(30.0)
            assert gateway.dials("stt") == 1
            gateway.standing.clear()
            await call.caller.say(*A)
            await call.caller.be_quiet(1.0)
    assert call.heard.words == A and call.heard.errors == []


async def test_idle_while_speech_waits_for_its_transcript_is_a_failure_and_nothing_is_lost() -> (
    None
):
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.error(2007, then="close", after_audio=0.8))
        async with calling(gateway, session) as call:
            await call.caller.say(*A)
            await call.caller.be_quiet(1.0)
    assert call.heard.words == A
    assert [error.recoverable for error in call.heard.errors] == [True]


@pytest.mark.parametrize("end", ["end_input", "aclose"])
async def test_a_parked_stream_ends_at_once_without_a_dial(end: str) -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.idle_recycle(20.0))
        async with calling(gateway, session) as call:
            await call.caller.mute(25.0)
            await call.caller.be_quiet(1.0)
            began = asyncio.get_running_loop().time()
            if end == "end_input":
                await call.finish()
            else:
                await call.stream.aclose()
            assert asyncio.get_running_loop().time() - began < 0.05
        assert gateway.dials("stt") == 1
        assert call.heard.failure is None


# -- broken connections ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["abort", "fin", 1000, 1001, 1011, 1013, 4000])
@pytest.mark.parametrize("after", [0.3, 0.7, 1.3])
async def test_a_sentence_survives_a_connection_that_breaks_in_it(
    how: str | int, after: float
) -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.drop(how, after_audio=1.0 + after))
        async with calling(gateway, session) as call:
            await call.caller.be_quiet(1.0)
            await call.caller.say(*A)
            await call.caller.be_quiet(3.0)
            await call.caller.say(*B)
            await call.caller.be_quiet(1.0)
            heard = call.heard
    assert heard.words == A + B
    assert [error.recoverable for error in heard.errors] == [True]
    assert [start for start, _ in heard.times] == [
        pytest.approx(1.0, abs=0.05),
        pytest.approx(1.0 + 1.3 + 3.0, abs=0.05),
    ]
    assert heard.kinds().count(START) == heard.kinds().count(END) == 2
    assert heard.billed == pytest.approx(call.caller.spoken, abs=1.2)


async def test_replayed_audio_goes_faster_than_it_was_spoken() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.drop(after_audio=1.0), faults.refuse(503), faults.refuse(503))
        async with calling(gateway, session) as call:
            await call.caller.say(*sentence(0, 30))  # 7.8 s
            await call.caller.be_quiet(0.6)
            assert call.heard.words == sentence(0, 30)
    assert len(call.heard.errors) == 3


async def test_words_that_were_transcribed_are_not_sent_again() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.drop(after_audio=2.0))
        async with calling(gateway, session) as call:
            await call.caller.say(*A)
            await call.caller.be_quiet(0.65)
            assert call.heard.words == A
            await call.caller.be_quiet(2.0)
            await call.caller.say(*B)
            await call.caller.be_quiet(1.0)
        first, second = gateway.of("stt")
    assert call.heard.words == A + B
    total = first.audio_seconds + second.audio_seconds
    assert total <= call.caller.spoken + 0.6, "hardly anything was sent twice"


async def test_a_provider_that_is_gone_for_good_ends_the_stream() -> None:
    async with emulated() as (gateway, session):
        gateway.standing["stt"] = faults.refuse(503)
        async with calling(gateway, session) as call:
            await call.caller.be_quiet(20.0)
            heard = call.heard
    assert gateway.dials("stt") == 4
    assert [error.recoverable for error in heard.errors] == [True, True, True, False]
    assert isinstance(heard.failure, APIConnectionError)
    assert "after 4 attempts" in str(heard.failure)


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_refusal_that_blames_the_request_is_final_and_names_the_status(status: int) -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.refuse(status))
        async with calling(gateway, session) as call:
            await call.reading
    assert gateway.dials("stt") == 1
    assert isinstance(call.heard.failure, APIStatusError)
    assert call.heard.failure.status_code == status
    assert [error.recoverable for error in call.heard.errors] == [False]
    assert "Bearer" not in repr(call.heard.failure.__context__)


async def test_a_wrong_secret_is_refused_by_the_gateway() -> None:
    async with emulated() as (gateway, session):
        stt = inference.STT(
            http_session=session, **{**gateway.arguments(), "api_secret": "wrong" * 8}
        )
        async with stt.stream() as stream:
            with pytest.raises(APIStatusError, match="401"):
                await stream.__anext__()


async def test_a_server_that_asks_for_patience_is_dialled_when_it_said() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.refuse(429, retry_after=7.0))
        async with calling(gateway, session) as call:
            await call.caller.be_quiet(8.0)
        first, second = gateway.records
    assert second.opened_at - first.opened_at == pytest.approx(7.0, abs=0.1)


QUOTA = {"type": "inference_quota_exceeded", "hint": "buy more", "quota_type": "stt"}


@pytest.mark.parametrize(
    ("body", "dials"),
    [({**QUOTA, "remaining_limit": 0}, 1), ({**QUOTA, "category": "credits"}, 1), (QUOTA, 4)],
)
async def test_a_quota_that_is_used_up_ends_the_stream_and_one_that_recovers_does_not_yet(
    body: dict[str, Any], dials: int
) -> None:
    async with emulated() as (gateway, session):
        gateway.standing["stt"] = faults.refuse(429, body=body)
        async with calling(gateway, session) as call:
            await call.reading
        assert gateway.dials("stt") == dials
        assert session.trace_configs == []
    error = call.heard.errors[0].error
    assert isinstance(error, APIStatusError)
    assert error.body == body and (error.request_id or "").startswith("req_")
    assert "buy more (429 Too Many Requests)" in str(error)


async def test_a_refusal_that_is_never_said_to_the_end_is_one_all_the_same() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.refuse(401, unfinished=True))
        async with calling(gateway, session) as call:
            began = asyncio.get_running_loop().time()
            await call.reading
            assert asyncio.get_running_loop().time() - began < 1.5
    assert isinstance(call.heard.failure, APIStatusError)
    assert call.heard.failure.status_code == 401


@pytest.mark.parametrize("how", ["abort", "fin"])
async def test_a_connection_that_breaks_during_the_handshake_is_tried_again(how: str) -> None:
    async with emulated() as (gateway, session):
        # the HTTP library itself tries once more when a handshake breaks
        gateway.inject("stt", faults.reset_upgrade(how), faults.reset_upgrade(how))
        async with calling(gateway, session) as call:
            await call.caller.say(*A)
            await call.caller.be_quiet(1.0)
    assert call.heard.words == A
    assert [error.recoverable for error in call.heard.errors] == [True]


# -- a gateway that talks nonsense -----------------------------------------------------------------


@pytest.mark.parametrize("payload", ["{bad", "[1]", "null", b"\x00\x01", '{"type": 3}'])
async def test_a_message_that_can_not_be_read_is_skipped(payload: str | bytes) -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.malformed(payload, after_audio=0.3))
        async with calling(gateway, session) as call:
            await call.caller.say(*A)
            await call.caller.be_quiet(1.0)
    assert call.heard.words == A and call.heard.errors == []


async def test_five_unreadable_messages_in_a_row_end_the_connection() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.malformed(times=5, after_audio=0.3))
        async with calling(gateway, session) as call:
            await call.caller.say(*A)
            await call.caller.be_quiet(1.0)
    assert call.heard.words == A
    assert [error.recoverable for error in call.heard.errors] == [True]


@pytest.mark.parametrize(
    "fault",
    [
        faults.null_fields(),
        faults.unknown_messages(after_messages=3),
        faults.duplicate_finals(),
        faults.wrong_order(),
    ],
    ids=str,
)
async def test_odd_messages_do_not_change_what_was_said(fault: faults.Fault) -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", fault)
        async with calling(gateway, session) as call:
            await call.caller.say(*A)
            await call.caller.be_quiet(1.0)
            await call.caller.say(*B)
            await call.caller.be_quiet(1.0)
    assert call.heard.words == A + B and call.heard.errors == []
    assert call.heard.kinds().count(START) == call.heard.kinds().count(END) == 2


async def test_transcripts_out_of_order_are_all_delivered_with_their_own_times() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.swapped_finals())
        async with calling(gateway, session) as call:
            await call.caller.say(*A)
            await call.caller.be_quiet(1.0)
            await call.caller.say(*B)
            await call.caller.be_quiet(1.0)
    assert sorted(call.heard.words) == sorted(A + B)
    assert call.heard.finals == [" ".join(B), " ".join(A)]
    assert call.heard.times[1][0] == pytest.approx(0.0, abs=0.05)


async def test_a_huge_message_costs_the_connection_and_no_word() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.huge_frame(after_audio=0.3))
        async with calling(gateway, session) as call:
            await call.caller.say(*A)
            await call.caller.be_quiet(1.0)
    assert call.heard.words == A
    assert [error.recoverable for error in call.heard.errors] == [True]


async def test_a_policy_violation_gets_one_more_try_with_a_new_token() -> None:
    async with emulated() as (gateway, session):
        gateway.standing["stt"] = faults.drop(1008, after_messages=1)
        async with calling(gateway, session) as call:
            await call.reading
        first, second = gateway.of("stt")
    assert first.headers["Authorization"] and second.headers["Authorization"]
    assert [error.recoverable for error in call.heard.errors] == [True, False]
    assert isinstance(call.heard.failure, APIStatusError)
    assert call.heard.failure.status_code == 1008


# -- a gateway that falls silent -------------------------------------------------------------------


async def test_a_gateway_that_hears_and_says_nothing_is_given_up_after_twenty_seconds() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.stall_writes(after_messages=1))
        async with calling(gateway, session) as call:
            await call.caller.say(*A)
            await call.caller.be_quiet(18.0)
            assert call.heard.errors == []
            await call.caller.be_quiet(6.0)
    assert [error.recoverable for error in call.heard.errors] == [True]
    assert "does not answer" in str(call.heard.errors[0].error)


async def test_silence_and_steady_noise_are_no_reason_to_suspect_the_gateway() -> None:
    import numpy as np

    noise = np.random.default_rng(1).normal(0, 300, RATE * 120).astype(np.int16).tobytes()
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.stall_writes(after_messages=1))
        async with calling(gateway, session) as call:
            await call.caller.be_quiet(120.0)
            await call.caller.play(noise)
    assert call.heard.errors == []
    assert gateway.dials("stt") == 1


async def test_a_dead_connection_is_noticed_and_the_words_since_are_heard() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.half_open(after_audio=30.0))
        async with calling(gateway, session) as call:
            await call.caller.be_quiet(31.0)
            await call.caller.mute(20.0)
            await call.caller.say(*A)
            await call.caller.be_quiet(30.0)
            assert call.heard.words == A
    assert gateway.dials("stt") == 2
    assert gateway.open_sockets == 0


# -- options ---------------------------------------------------------------------------------------


async def test_terms_to_listen_for_are_sent_between_utterances() -> None:
    async with emulated() as (gateway, session):
        async with calling(gateway, session, extra_kwargs={"keyterm": ["own"]}) as call:
            await call.caller.be_quiet(0.1)
            call.stt._update_session_keyterms(["one"])
            await call.caller.be_quiet(0.1)
            await call.caller.say(*A[:3])
            call.stt._update_session_keyterms(["two"])
            call.stt._update_session_keyterms(["two", "own"])
            await call.caller.be_quiet(0.1)
            [record] = gateway.of("stt")
            assert len(record.messages) == 2
            await call.caller.be_quiet(1.0)
            updates = [message.extra for _, message in record.messages[1:]]
    assert updates == [{"keyterm": ["own", "one"]}, {"keyterm": ["own", "two"]}]
    assert call.stt._opts.extra_kwargs == {"keyterm": ["own"]}


async def test_changed_options_reach_the_running_session_and_the_next() -> None:
    async with emulated() as (gateway, session):
        async with calling(gateway, session) as call:
            await call.caller.be_quiet(0.1)
            call.stt.update_options(model="deepgram/nova-2:fr", extra={"numerals": True})
            await call.caller.be_quiet(0.1)
            [record] = gateway.of("stt")
            assert record.messages[1][1] == protocol.SessionUpdate(
                model="deepgram/nova-2", language=None, extra={"numerals": True}
            )
        async with call.stt.stream() as stream:
            stream.push_frame(rtc.AudioFrame(bytes(3200), RATE, 1, 1600))
            await asyncio.sleep(0.1)
        created = gateway.of("stt")[1].messages[0][1]
    assert (created.model, created.language) == ("deepgram/nova-2", "fr")
    assert created.extra["numerals"] is True


async def test_what_the_agent_said_is_passed_on_to_models_that_want_to_know() -> None:
    item = SimpleNamespace(type="message", role="assistant", text_content="x" * 1000 + "y" * 1750)
    async with emulated() as (gateway, session):
        async with calling(gateway, session, model="assemblyai/u3-rt-pro") as call:
            await call.caller.be_quiet(0.1)
            call.stt._push_conversation_item(SimpleNamespace(item=item))  # type: ignore[arg-type]
            await call.caller.be_quiet(0.1)
            [record] = gateway.of("stt")
            assert record.messages[1][1].extra == {"agent_context": "y" * 1750}


def _stt(**options: Any) -> inference.STT:
    return inference.STT(**{"api_key": "k", "api_secret": "s", **options})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"api_key": ""}, "api_key is required"),
        ({"model": ":en"}, "names no model"),
        ({"sample_rate": 0}, "sample_rate must be"),
        ({"sample_rate": "16k"}, "sample_rate must be"),
        ({"extra_kwargs": {"x": object()}}, "extra_kwargs"),
        ({"fallback": [{}]}, "fallback"),
        ({"base_url": "nowhere"}, "base URL"),
        ({"replay_duration": -1}, "replay_duration must be"),
        ({"replay_duration": float("nan")}, "replay_duration must be"),
        ({"replay_duration": True}, "replay_duration must be"),
        ({"replay_duration": "10"}, "replay_duration must be"),
    ],
)
def test_bad_options_are_refused_before_anything_is_connected(
    options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        _stt(**options)


def test_capabilities_follow_the_model() -> None:
    assert _stt(model="deepgram/nova-3").capabilities.aligned_transcript == "word"
    assert _stt(model="deepgram/nova-3").capabilities.keyterms
    mixed = _stt(model="deepgram/nova-3", fallback="cartesia/ink-2")
    assert mixed.capabilities.aligned_transcript is False
    assert _stt(extra_kwargs={"diarization": "none"}).capabilities.diarization is False
    assert _stt(extra_kwargs={"diarize": True}).capabilities.diarization
    assert _stt(model="assemblyai/u3-rt-pro").capabilities.chat_context
    assert not _stt(model="auto").capabilities.keyterms
    assert _stt(model="openai/gpt-live-transcribe")._opts.sample_rate == 24000
    assert _stt(model="cartesia/ink-2:english")._opts.language == "en"


async def test_a_closed_stt_opens_no_streams() -> None:
    async with emulated() as (gateway, session), calling(gateway, session) as call:
        await call.caller.be_quiet(0.2)
        await call.stt.aclose()
        await call.stt.aclose()
        assert gateway.open_connections == []
        with pytest.raises(RuntimeError, match="closed"):
            call.stt.stream()


async def test_recognize_says_that_there_are_only_streams() -> None:
    with pytest.raises(NotImplementedError, match="stream"):
        await _stt().recognize([], conn_options=QUICK)


async def test_audio_faster_than_life_is_taken_as_it_comes() -> None:
    pcm = speak_tones(A) + bytes(RATE * 2)
    async with emulated() as (gateway, session), calling(gateway, session) as call:
        call.stream.push_frame(rtc.AudioFrame(pcm, RATE, 1, len(pcm) // 2))
        heard = await call.finish()
    assert heard.words == A
    assert gateway.of("stt")[0].pcm == pcm
