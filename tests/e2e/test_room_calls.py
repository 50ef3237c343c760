"""Calls on real WebRTC: heard, answered, written down, and hung up in every way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from livekit import rtc

from e2e.harness.call import calling
from e2e.harness.network import Network
from e2e.harness.server import LiveKitServer
from e2e.harness.speech import Speech, overlap, seconds_of
from fakes.llm import FakeLLM

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(120)]

QUESTION = "What are your opening hours?"
ANSWER = "I have booked a table for two people this morning."


async def test_the_caller_is_heard_and_hears_the_answer(
    server: LiveKitServer, speech: Speech, tmp_path: Path
) -> None:
    question = await speech.say(QUESTION)
    llm = FakeLLM(default=ANSWER)
    async with calling(server, tmp_path / "heard.wav", llm=llm) as call:
        call.caller.speak(question)
        await call.agent_is("speaking")
        await call.agent_is("listening")
        await asyncio.sleep(0.5)  # what is on the way arrives
        call.caller.leave()
        await call.caller.until("left")
        closed = await call.closed(within=3.0)
    assert overlap(llm.requests[-1].user_text, QUESTION) >= 0.75
    assert overlap(await speech.words_of(tmp_path / "heard.wav"), ANSWER) >= 0.75
    assert closed.reason == "participant_disconnected"


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
async def test_a_caller_on_the_phone_hangs_up(
    direction: str, server: LiveKitServer, tmp_path: Path
) -> None:
    phone = {"sip.phoneNumber": "+15550100", "sip.callID": "SCL_1", "sip.callStatus": "active"}
    if direction == "inbound":
        phone["sip.ruleID"] = "SDR_1"
    llm = FakeLLM(default=ANSWER)
    async with calling(server, tmp_path / "heard.wav", llm=llm, phone=phone) as call:
        linked = call.session.room_io.linked_participant
        assert linked is not None and linked.kind == rtc.ParticipantKind.PARTICIPANT_KIND_SIP
        assert linked.attributes["sip.phoneNumber"] == "+15550100"
        call.caller.write("hello")
        await call.agent_is("speaking")
        # a phone that was called needs no warm-up
        assert call.session._aec_warmup_active == (direction == "inbound")
        await call.caller.until("hears")
        call.caller.leave()
        closed = await call.closed(within=3.0)
    assert closed.reason == "participant_disconnected"


LOST = "I would like to know something else, and this is what nobody is ever going to hear."


async def test_a_line_that_is_dead_for_three_seconds_ends_no_call(
    far_server: LiveKitServer, network: Network, speech: Speech, tmp_path: Path
) -> None:
    before, lost = await speech.say("Please book a table for two people."), await speech.say(LOST)
    after = await speech.say(QUESTION, after=2.0)
    assert seconds_of(lost) > 4.0
    llm, happened = FakeLLM(default=ANSWER), []
    with network.line() as line:
        async with calling(far_server, tmp_path / "heard.wav", llm=llm, line=line) as call:
            linked = call.session.room_io.linked_participant
            for event in ("participant_disconnected", "participant_connected", "disconnected"):
                call.room.on(event, lambda *_, event=event: happened.append(event))
            for speech_file in (before, lost, after):
                call.caller.speak(speech_file)
            await asyncio.sleep(seconds_of(before) + 0.3)
            line.cut()
            await asyncio.sleep(3.0)
            line.mend()
            await call.caller.until("spoken")
            await call.until(lambda: heard(llm, QUESTION), "the words after the cut")
            await call.agent_is("speaking")
            await call.agent_is("listening")
            assert not happened and not call.closes
            assert call.session.room_io.linked_participant is linked
            await asyncio.sleep(0.5)  # what is on the way arrives
            call.caller.leave()
            await call.caller.until("left")
            closed = await call.closed(within=3.0)
    assert overlap(" ".join(request.user_text for request in llm.requests), LOST) < 0.5
    # the first answer is lost in the cut; how the second begins is stretched by the client's buffer
    assert "this morning" in await speech.words_of(tmp_path / "heard.wav")
    assert closed.reason == "participant_disconnected"


def heard(llm: FakeLLM, words: str) -> bool:
    """Whether the caller was understood to say this, in any turn."""
    return any(overlap(request.user_text, words) >= 0.75 for request in llm.requests)
