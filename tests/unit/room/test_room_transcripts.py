from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from livekit import rtc

from fakes.room import SIP, FakeRoom, FakeRtc
from livekit.agents.types import TimedString
from livekit.agents.utils.aio import TaskScope
from livekit.agents.voice.room_io import (
    _ParticipantStreamTranscriptionOutput,
    _ParticipantTranscriptionOutput,
)

FINAL = "lk.transcription_final"
SEGMENT = "lk.segment_id"
TRACK = "lk.transcribed_track_id"


@asynccontextmanager
async def writing(
    fake_rtc: FakeRtc, *, sip: bool = False, **options: Any
) -> AsyncIterator[tuple[FakeRoom, Any]]:
    """The transcript of a caller who has published a microphone."""
    room = fake_rtc.room()
    facts: dict[str, Any] = {"kind": SIP} if sip else {}
    room.publish(room.join(client_protocol=0, **facts), sid="TR_caller")
    output = _ParticipantTranscriptionOutput(
        room=room,  # type: ignore[arg-type]
        participant="caller",
        **options,
    )
    yield room, output
    await output.aclose()
    assert not room.registered
    fake_rtc.native.release()
    await asyncio.sleep(5.0)


async def settle() -> None:
    await asyncio.sleep(0.01)


async def test_increments_go_into_one_stream_that_ends_as_final(fake_rtc: FakeRtc) -> None:
    async with writing(fake_rtc) as (room, output):
        for piece in ("good ", "evening", "!"):
            await output.capture_text(piece)
        [stream] = room.sent.texts
        assert stream.topic == "lk.transcription" and stream.sender == "caller"
        assert stream.attributes[FINAL] == "false" and stream.attributes[TRACK] == "TR_caller"
        output.flush()
        await settle()
        assert stream.text == "good evening!" and stream.closed
        assert stream.attributes[FINAL] == "true"
        await output.capture_text("next")
        output.flush()
        await settle()
        ids = [each.attributes[SEGMENT] for each in room.sent.texts]
        assert len(set(ids)) == 2 and all(each.startswith("SG_") for each in ids)


async def test_whole_texts_each_have_a_stream_and_the_last_is_final(fake_rtc: FakeRtc) -> None:
    async with writing(fake_rtc, is_delta_stream=False) as (room, output):
        for text in ("what", "what are", "what are your hours"):
            await output.capture_text(text)
        output.flush()
        await settle()
        streams = room.sent.texts
        assert [each.text for each in streams] == [
            "what", "what are", "what are your hours", "what are your hours",
        ]  # fmt: skip
        assert [each.attributes[FINAL] for each in streams] == ["false"] * 3 + ["true"]
        assert len({each.attributes[SEGMENT] for each in streams}) == 1


async def test_packets_for_old_clients_carry_the_whole_segment(fake_rtc: FakeRtc) -> None:
    async with writing(fake_rtc) as (room, output):
        await output.capture_text("good ")
        await output.capture_text("evening")
        output.flush()
        await settle()
        sent = [(each.track_sid, each.segments[0]) for each in room.sent.transcriptions]
        assert {sid for sid, _ in sent} == {"TR_caller"}
        assert [(s.text, s.final) for _, s in sent][-2:] == [
            ("good evening", False),
            ("good evening", True),
        ]
        assert len({segment.id for _, segment in sent}) == 1


async def test_phones_need_no_packets_and_a_client_that_joins_late_gets_all_of_it(
    fake_rtc: FakeRtc,
) -> None:
    async with writing(fake_rtc, sip=True) as (room, output):
        await output.capture_text("good ")
        assert not room.sent.transcriptions
        room.join("old app", client_protocol=2)
        await output.capture_text("evening")
        assert [each.segments[0].text for each in room.sent.transcriptions] == ["good evening"]


async def test_packets_name_the_avatar_that_speaks_for_the_agent(fake_rtc: FakeRtc) -> None:
    async with writing(fake_rtc) as (room, output):
        output.set_participant("agent")
        avatar = room.join("face", attributes={"lk.publish_on_behalf": "agent"})
        room.publish(avatar, sid="TR_face")
        await output.capture_text("hello")
        [packet] = room.sent.transcriptions
        assert (packet.participant_identity, packet.track_sid) == ("face", "TR_face")


async def test_markup_is_not_shown_and_the_expression_goes_along(fake_rtc: FakeRtc) -> None:
    async with writing(fake_rtc) as (room, output):
        await output.capture_text('<expr type="expression" label="happy"/>')
        assert not room.sent.texts
        await output.capture_text("good even")
        await output.capture_text('ing <expr type="break"')
        await output.capture_text(' label="short"/>there')
        output.flush()
        await settle()
        [stream] = room.sent.texts
        assert stream.text == "good evening there"
        assert json.loads(stream.attributes["lk.expression"])["expression"] == "happy"


async def test_lines_of_json_carry_the_timing(fake_rtc: FakeRtc) -> None:
    async with writing(fake_rtc, json_format=True) as (room, output):
        await output.capture_text(TimedString("hello", start_time=0.5, end_time=1.0))
        await output.capture_text(" there")
        output.flush()
        await settle()
        [stream] = room.sent.texts
        lines = [json.loads(line) for line in stream.text.splitlines()]
        assert lines[0] == {"text": "hello", "start_time": 0.5, "end_time": 1.0}
        assert lines[1] == {"text": " there"}


async def test_a_switch_ends_the_segment_as_it_began(fake_rtc: FakeRtc) -> None:
    async with writing(fake_rtc) as (room, output):
        room.publish(room.join("other", client_protocol=0), sid="TR_other")
        await output.capture_text("this is Ann")
        output.set_participant("other")
        await output.capture_text("this is Bob")
        output.set_participant(None)
        await output.capture_text("nobody hears this")
        await settle()
        shown = [(s.sender, s.attributes[TRACK], s.text, s.closed) for s in room.sent.texts]
        assert shown == [
            ("caller", "TR_caller", "this is Ann", True),
            ("other", "TR_other", "this is Bob", True),
        ]
        finals = [t for t in room.sent.transcriptions if t.segments[0].final]
        assert [(t.track_sid, t.segments[0].text) for t in finals] == [
            ("TR_caller", "this is Ann"),
            ("TR_other", "this is Bob"),
        ]


async def test_a_track_is_found_when_it_is_published_and_followed_when_republished(
    fake_rtc: FakeRtc,
) -> None:
    async with writing(fake_rtc) as (room, output):
        output.set_participant("agent")
        await output.capture_text("one")
        output.flush()
        await settle()
        await room.sent.publish_track(type("Track", (), {"name": "voice"}), None)
        [publication] = room.sent.track_publications.values()
        await output.capture_text("two")
        output.flush()
        previous, publication.sid = publication.sid, "TR_again"
        room.emit("local_track_republished", publication, previous)
        await output.capture_text("three")
        output.flush()
        output.set_track("TR_pinned")
        await output.capture_text("four")
        output.flush()
        await settle()
        tracks = [each.attributes.get(TRACK) for each in room.sent.texts]
        assert tracks == [None, previous, "TR_again", "TR_pinned"]


async def test_after_a_failed_write_the_next_text_opens_a_new_stream_of_the_same_segment(
    fake_rtc: FakeRtc,
) -> None:
    async with writing(fake_rtc, sip=True) as (room, output):
        await output.capture_text("one ")
        fake_rtc.native.failing["write"] = rtc.StreamError("lost")
        await output.capture_text("two ")
        fake_rtc.native.failing.clear()
        await output.capture_text("three")
        output.flush()
        await settle()
        first, second = room.sent.texts
        assert first.attributes[SEGMENT] == second.attributes[SEGMENT]
        assert second.text == " three" and second.closed


async def test_a_capture_that_is_cancelled_loses_neither_its_text_nor_the_end(
    fake_rtc: FakeRtc,
) -> None:
    async with writing(fake_rtc, sip=True) as (room, output):
        fake_rtc.native.silent.add("write")
        capturing = TaskScope("test").spawn(output.capture_text("hello"))
        await settle()
        capturing.cancel()
        await asyncio.wait((capturing,))
        output.flush()
        fake_rtc.native.release()
        await settle()
        [stream] = room.sent.texts
        assert stream.text == "hello" and stream.closed


async def test_nothing_is_sent_while_the_room_is_not_connected(fake_rtc: FakeRtc) -> None:
    async with writing(fake_rtc) as (room, output):
        room.disconnect()
        await output.capture_text("hello")
        output.flush()
        await settle()
        assert not room.sent.texts and not room.sent.transcriptions


async def test_the_text_goes_on_to_the_next_sink(fake_rtc: FakeRtc) -> None:
    inner = _ParticipantStreamTranscriptionOutput(fake_rtc.room())  # type: ignore[arg-type]
    captured: list[str] = []

    async def note(text: str) -> None:
        captured.append(text)

    inner.capture_text = note  # type: ignore[method-assign]
    async with writing(fake_rtc, next_in_chain=inner) as (_, output):
        await output.capture_text("hello")
    assert captured == ["hello"]


@pytest.mark.parametrize("stuck", ["stream_text", "write", "close_text"])
async def test_a_call_that_is_never_answered_does_not_stop_the_transcript_for_good(
    fake_rtc: FakeRtc, stuck: str
) -> None:
    async with writing(fake_rtc, sip=True) as (room, output):
        fake_rtc.native.silent.add(stuck)
        await output.capture_text("lost")
        output.flush()
        await asyncio.sleep(10.0)
        fake_rtc.native.silent.clear()
        await output.capture_text("found")
        output.flush()
        await settle()
        assert room.sent.texts[-1].text == "found" and room.sent.texts[-1].closed
