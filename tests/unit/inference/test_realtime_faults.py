"""Realtime models behind a gateway that fails: nothing hangs, nothing stays open, nothing is lost."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from gateway import Fault, faults
from gateway.calls import sentence
from gateway.realtime_route import ScriptedReply
from gateway.recognizers import speak_tones
from hypothesis import given, settings, strategies as st
from livekit import rtc

from fakes.realtime_line import RealtimeTestLine, hear_out, realtime_line, silence
from livekit.agents import APIConnectionError, APIStatusError
from livekit.agents.llm import ChatContext, RealtimeError
from livekit.agents.llm._realtime import openai_codec as codec
from livekit.agents.types import APIConnectOptions

CLOSE_BOUND = 1.5


def now() -> float:
    return asyncio.get_running_loop().time()


def context(*ids: str) -> ChatContext:
    chat_ctx = ChatContext()
    for item_id in ids:
        chat_ctx.add_message(role="user", content=item_id, id=item_id)
    return chat_ctx


# -- connections that are lost ---------------------------------------------------------------------


async def test_a_connection_that_breaks_in_a_response_ends_it_and_the_next_one_knows_what_was_said() -> (
    None
):
    async with realtime_line() as line:
        await line.session.update_chat_ctx(context("u1"))
        await line.session.update_instructions("be brief")
        line.script(ScriptedReply("one two three four five six"))
        event = await line.session.generate_reply()
        await line.settle(0.2)
        line.gateway.strike("realtime", faults.drop())
        texts, seconds, _ = await hear_out(event)
        assert texts[0].startswith("one") and seconds > 0
        await line.settle(1.0)
        assert line.errors == [True]
        assert len(line.of("session_reconnected")) == 1
        assert line.server.said == ["user: u1", f"assistant: {texts[0]}"]
        assert line.server.session["instructions"] == "be brief"
        assert len(line.of("remote_item_added")) == 2, "what is replayed is no news"
        line.script(ScriptedReply("again"))
        assert (await hear_out(await line.session.generate_reply()))[0] == ["again"]


async def test_what_is_asked_and_said_while_there_is_no_connection_waits_for_one() -> None:
    async with realtime_line(turn_detection_disabled=True) as line:
        await line.settle()
        line.gateway.inject("realtime", faults.refuse(503))
        line.gateway.strike("realtime", faults.drop())
        line.session.clear_audio()
        await line.settle(0.15)
        words = sentence(2, 3)
        pcm = speak_tones(words, 24000)
        line.session.push_audio(rtc.AudioFrame(pcm, 24000, 1, len(pcm) // 2))
        line.session.commit_audio()
        update = asyncio.ensure_future(line.session.update_chat_ctx(context("u1")))
        reply = line.session.generate_reply()
        assert (await hear_out(await reply))[0] == [f"You said: {' '.join(words)}"]
        await update
        assert line.server.said[:2] == ["user: u1", f"user: {' '.join(words)}"]
        assert line.gateway.dials("realtime") == 3


@pytest.mark.parametrize("detects", [True, False])
async def test_a_sentence_into_which_a_connection_breaks_is_heard_whole(detects: bool) -> None:
    words = sentence(4, 6)
    pcm = speak_tones(words, 24000)
    half = len(pcm) // 4 * 2
    async with realtime_line(turn_detection_disabled=not detects) as line:
        line.session.push_audio(silence(2.0))
        line.session.push_audio(rtc.AudioFrame(pcm[:half], 24000, 1, half // 2))
        await line.settle()
        line.gateway.strike("realtime", faults.drop())
        line.session.update_options(tool_choice="none")
        await line.settle(1.0)
        rest = pcm[half:]
        line.session.push_audio(rtc.AudioFrame(rest, 24000, 1, len(rest) // 2))
        line.session.push_audio(silence(1.0))
        if not detects:
            line.session.commit_audio()
        await line.settle(1.0)
        heard = [e for e in line.of("input_audio_transcription_completed") if e.is_final]
        assert [e.transcript for e in heard] == [" ".join(words)]
        assert len(line.gateway.of("realtime")) == 2


async def test_a_sentence_that_was_taken_is_not_heard_again() -> None:
    pcm = speak_tones(sentence(4, 6), 24000)
    async with realtime_line() as line:
        line.session.push_audio(rtc.AudioFrame(pcm, 24000, 1, len(pcm) // 2))
        line.session.push_audio(silence(0.6))
        await line.settle(5.0)
        line.gateway.strike("realtime", faults.drop())
        line.session.update_options(tool_choice="none")
        await line.settle(5.0)
        assert len(line.gateway.of("realtime")) == 2
        assert len([e for e in line.of("input_audio_transcription_completed") if e.is_final]) == 1


async def test_what_was_not_confirmed_in_time_is_told_the_next_connection() -> None:
    async with realtime_line() as line:
        await line.session.update_chat_ctx(context("u1"))
        line.gateway.strike("realtime", faults.stall_writes())
        line.session.clear_audio()
        await line.settle()
        with pytest.raises(RealtimeError):
            await line.session.update_chat_ctx(context("u1", "u2"))
        line.gateway.strike("realtime", faults.drop())
        line.session.clear_audio()
        await line.settle(1.0)
        assert line.server.said == ["user: u1", "user: u2"]
        assert [item.id for item in line.session.chat_ctx.items] == ["u1", "u2"]
        await line.session.update_chat_ctx(context("u2"))
        assert line.server.said == ["user: u2"]


async def test_a_request_that_was_on_its_way_fails_with_the_connection() -> None:
    async with realtime_line() as line:
        line.script(ScriptedReply(never_begins=True))
        reply = line.session.generate_reply()
        await line.settle()
        line.gateway.strike("realtime", faults.drop(1011))
        line.session.clear_audio()
        with pytest.raises(RealtimeError, match="lost"):
            await reply


async def test_a_second_loss_before_the_replay_is_confirmed_loses_nothing() -> None:
    async with realtime_line() as line:
        await line.session.update_chat_ctx(context("u1", "u2", "u3"))
        line.gateway.inject("realtime", faults.drop(after_messages=2))
        line.gateway.strike("realtime", faults.drop())
        line.session.clear_audio()
        await line.settle(5.0)
        assert len(line.gateway.of("realtime")) == 3
        assert line.server.said == ["user: u1", "user: u2", "user: u3"]
        assert [item.id for item in line.session.chat_ctx.items] == ["u1", "u2", "u3"]


async def test_a_new_connection_is_told_what_was_heard_and_not_what_was_said() -> None:
    async with realtime_line() as line:
        line.script(ScriptedReply("one two three four five six seven"))
        event = await line.session.generate_reply()
        await line.settle(0.4)
        line.session.interrupt()
        (message,) = line.session.chat_ctx.messages()
        line.session.truncate(
            message_id=message.id, modalities=["audio"], audio_end_ms=200, audio_transcript="one"
        )
        await hear_out(event)
        await line.settle()
        assert line.server.truncated == {message.id: 200}
        line.gateway.strike("realtime", faults.drop())
        line.session.clear_audio()
        await line.settle(1.0)
        assert line.server.said == ["assistant: one"]


async def test_a_message_told_to_a_new_connection_is_cut_as_text() -> None:
    async with realtime_line() as line:
        line.script(ScriptedReply("one two three"))
        await hear_out(await line.session.generate_reply())
        line.gateway.strike("realtime", faults.drop())
        line.session.clear_audio()
        await line.settle(1.0)
        (message,) = line.session.chat_ctx.messages()
        line.session.truncate(
            message_id=message.id, modalities=["audio"], audio_end_ms=200, audio_transcript="one"
        )
        await line.settle()
        assert line.server.said == ["assistant: one"] and line.server.truncated == {}


@pytest.mark.parametrize(
    ("fault", "attempts", "final"),
    [
        (faults.refuse(401), 1, APIStatusError),
        (faults.refuse(404), 1, APIStatusError),
        (faults.refuse(503), 3, APIStatusError),
        (faults.stall_upgrade(), 3, APIConnectionError),
        (faults.reset_upgrade(), 3, APIConnectionError),
        (faults.drop(1011), 3, APIConnectionError),
        (faults.recycle_flap(), 3, APIConnectionError),
    ],
    ids=str,
)
async def test_a_gateway_that_does_not_serve_is_given_up_and_every_wait_ends(
    fault: Fault, attempts: int, final: type[Exception]
) -> None:
    options = APIConnectOptions(max_retry=2, retry_interval=1.0, timeout=5.0)
    async with realtime_line(conn_options=options) as line:
        line.gateway.standing["realtime"] = fault
        reply = line.session.generate_reply()
        update = asyncio.ensure_future(line.session.update_chat_ctx(context("u")))
        began = now()
        with pytest.raises(RealtimeError):
            await reply
        with pytest.raises(RealtimeError):
            await update
        while not line.errors or line.errors[-1]:
            await line.settle(1.0)
        assert now() - began < 20.0
        # aiohttp repeats a request whose connection broke before the answer
        assert attempts <= line.gateway.dials("realtime") <= 2 * attempts
        assert line.errors == [True] * (attempts - 1) + [False]
        assert isinstance(line.of("error")[-1].error, final)
        assert "Bearer" not in repr(line.of("error")[-1].error)
        with pytest.raises(RealtimeError, match="over"):
            await line.session.generate_reply()
        with pytest.raises(RealtimeError, match="over"):
            await line.session.update_chat_ctx(context("u"))


async def test_a_gateway_that_ends_idle_connections_is_no_failure() -> None:
    async with realtime_line() as line:
        await line.session.update_chat_ctx(context("u1"))
        line.gateway.strike("realtime", faults.idle_recycle(60.0))
        line.session.clear_audio()
        await line.settle(100.0)
        assert line.errors == [] and len(line.of("session_reconnected")) == 1
        assert line.server.said == ["user: u1"]


async def test_a_used_up_quota_ends_the_session() -> None:
    body = {"type": "inference_quota_exceeded", "category": "credits", "remaining_limit": 0}
    async with realtime_line() as line:
        await line.settle()
        await line.server.say("error", error=body)
        await line.settle(5.0)
        assert line.errors == [False] and line.gateway.dials("realtime") == 1


async def test_a_peer_that_falls_silent_is_noticed() -> None:
    async with realtime_line() as line:
        await line.settle()
        line.gateway.strike("realtime", faults.half_open())
        line.session.clear_audio()
        await line.settle(60.0)
        assert line.errors == [True]
        line.script(ScriptedReply("back"))
        assert (await hear_out(await line.session.generate_reply()))[0] == ["back"]


async def test_a_word_that_is_no_message_harms_nothing_but_five_in_a_row_do() -> None:
    async with realtime_line() as line:
        await line.settle()
        line.gateway.strike("realtime", faults.malformed(times=4))
        line.session.clear_audio()
        await line.settle()
        assert line.errors == []
        line.gateway.strike("realtime", faults.unknown_messages())
        line.session.clear_audio()
        await line.settle()
        line.gateway.strike("realtime", faults.malformed("[]", times=5))
        line.session.clear_audio()
        await line.settle(2.0)
        assert line.errors == [True] and len(line.gateway.of("realtime")) == 2


# -- renewal ---------------------------------------------------------------------------------------


async def test_an_old_connection_is_replaced_between_responses() -> None:
    async with realtime_line(max_session_duration=30.0) as line:
        await line.settle(29.9)
        line.script(ScriptedReply("one two three four five six"))
        event = await line.session.generate_reply()
        texts, _, _ = await hear_out(event)
        assert texts == ["one two three four five six"]
        await line.settle(1.0)
        assert line.errors == [] and len(line.gateway.of("realtime")) == 2
        assert line.server.said == [f"assistant: {texts[0]}"]


async def test_a_response_that_never_ends_does_not_keep_an_old_connection_for_ever() -> None:
    async with realtime_line(max_session_duration=30.0) as line:
        line.script(ScriptedReply("and on", never_ends=True))
        event = await line.session.generate_reply()
        await line.settle(59.0)
        assert len(line.gateway.of("realtime")) == 1
        await line.settle(3.0)
        assert len(line.gateway.of("realtime")) == 2 and line.errors == []
        assert (await hear_out(event))[0] == ["and on"]


async def test_a_connection_that_breaks_while_its_renewal_waits_is_replaced_like_any_other() -> (
    None
):
    async with realtime_line(max_session_duration=30.0) as line:
        line.script(ScriptedReply("and on", never_ends=True))
        event = await line.session.generate_reply()
        await line.settle(35.0)
        line.gateway.strike("realtime", faults.drop())
        line.session.clear_audio()
        await line.settle(2.0)
        assert line.errors == [True] and len(line.gateway.of("realtime")) == 2
        assert (await hear_out(event))[0] == ["and on"]


# -- closing ---------------------------------------------------------------------------------------


async def _while_dialling(line: RealtimeTestLine) -> None:
    line.gateway.standing["realtime"] = faults.stall_upgrade()


async def _while_waiting_to_retry(line: RealtimeTestLine) -> None:
    line.gateway.standing["realtime"] = faults.refuse(503)
    await line.settle(0.5)


async def _while_idle(line: RealtimeTestLine) -> None:
    await line.settle()


async def _while_it_speaks(line: RealtimeTestLine) -> None:
    line.script(ScriptedReply("one two three four five six"))
    await line.session.generate_reply()


async def _while_the_peer_does_not_read(line: RealtimeTestLine) -> None:
    await _while_it_speaks(line)
    line.gateway.strike("realtime", faults.stall_reads())
    line.session.push_audio(silence(30.0))
    await line.settle()


async def _while_the_peer_is_gone(line: RealtimeTestLine) -> None:
    await _while_it_speaks(line)
    line.gateway.strike("realtime", faults.half_open())
    line.session.push_audio(silence(30.0))
    await line.settle()


async def _while_the_peer_answers_no_goodbye(line: RealtimeTestLine) -> None:
    line.gateway.strike("realtime", faults.no_close_reply())
    await _while_it_speaks(line)


async def _while_the_peer_chatters(line: RealtimeTestLine) -> None:
    await line.settle()
    line.gateway.strike("realtime", faults.error(500, then="chatter"))
    line.session.clear_audio()
    await line.settle()


async def _after_it_was_given_up(line: RealtimeTestLine) -> None:
    line.gateway.standing["realtime"] = faults.refuse(401)
    await line.settle()


@pytest.mark.parametrize(
    "when",
    [
        _while_dialling,
        _while_waiting_to_retry,
        _while_idle,
        _while_it_speaks,
        _while_the_peer_does_not_read,
        _while_the_peer_is_gone,
        _while_the_peer_answers_no_goodbye,
        _while_the_peer_chatters,
        _after_it_was_given_up,
    ],
)
async def test_a_close_is_bounded_at_any_time_and_nothing_is_left(when: Any) -> None:
    async with realtime_line() as line:
        await when(line)
        generations = line.of("generation_created")
        waiting = line.session.generate_reply()
        update = asyncio.ensure_future(line.session.update_chat_ctx(context("u")))
        await asyncio.sleep(0)
        errors, began = list(line.errors), now()
        await asyncio.gather(line.session.aclose(), line.session.aclose())
        assert now() - began <= CLOSE_BOUND
        for event in generations:
            await asyncio.wait_for(hear_out(event), 0.1)
        for future in (waiting, update):
            with pytest.raises(RealtimeError):
                await asyncio.wait_for(future, 0.1)
        await line.gateway.until_closed(0.5)
        dials = line.gateway.dials("realtime")
        await line.settle(60.0)
        assert line.gateway.dials("realtime") == dials and line.errors == errors
        line.session.push_audio(silence(1.0))
        line.session.interrupt()
        await line.session.aclose()


async def test_cancelling_who_closes_does_not_keep_the_connection() -> None:
    async with realtime_line() as line:
        await line.settle()
        line.gateway.strike("realtime", faults.half_open())
        line.session.clear_audio()
        await line.settle()
        closing = asyncio.ensure_future(line.session.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await line.gateway.until_closed(CLOSE_BOUND)


# -- whatever a server may send --------------------------------------------------------------------

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["message", "function_call", "m1", "r1", "failed", "audio", "AAAA", "AA="]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "type", "role", "content", "text", "error", "usage", "logprob"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)
_FIELDS = [
    "response",
    "response_id",
    "item",
    "item_id",
    "part",
    "delta",
    "metadata",
    "transcript",
    "logprobs",
    "usage",
    "error",
    "previous_item_id",
    "event_id",
    "call_id",
    "name",
    "arguments",
    "status",
    "id",
]
_KINDS = [*codec._READERS, *codec._OLD_NAMES, "session.created", "no.such.event"]
_EVENTS = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from(_KINDS),
    st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=6),
)


@given(event=_EVENTS)
@settings(max_examples=300, deadline=None)
def test_reading_an_event_yields_one_or_says_that_it_is_none(event: dict[str, Any]) -> None:
    try:
        codec.decode(event)
    except codec.BadEvent:
        pass


@given(message=st.text() | st.binary() | _JSON.map(json.dumps) | st.just("[" * 100_000))
@settings(max_examples=100, deadline=None)
def test_reading_a_message_yields_an_event_or_says_that_it_is_none(message: str | bytes) -> None:
    try:
        assert isinstance(codec.parse(message)["type"], str)
    except codec.BadEvent:
        pass


_SENSIBLE = [
    {"type": "response.created", "response": {"id": "r1"}},
    {"type": "response.output_item.added", "item": {"type": "message", "id": "m1"}},
    {"type": "response.output_audio.delta", "item_id": "m1", "delta": "AAAA"},
    {"type": "response.output_item.done", "item": {"type": "message", "id": "m1"}},
    {"type": "response.done", "response": {"id": "r1", "status": "completed"}},
    {"type": "conversation.item.deleted", "item_id": "m1"},
    {
        "type": "conversation.item.added",
        "item": {"type": "message", "id": "m1", "role": "assistant"},
    },
]


@given(events=st.lists(_EVENTS | st.sampled_from(_SENSIBLE), max_size=20))
@settings(max_examples=30, deadline=None)
async def test_no_sequence_of_events_breaks_a_session(events: list[dict[str, Any]]) -> None:
    async with realtime_line() as line:
        await line.settle(0.1)
        for event in events:
            if event.get("error") is None:  # an error may be one that ends the session
                await line.server.wire.send_raw(json.dumps(event))
        await line.settle(0.1)
        created = line.of("generation_created")
        await line.session.aclose()
        for generation in created:
            await asyncio.wait_for(hear_out(generation), 0.1)
        assert all(line.errors)
