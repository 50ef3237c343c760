"""Answering machine detection at work: replies wait for it, and a session closes with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from livekit import rtc

from fakes.hearing import settle
from fakes.llm import FakeLLM, Reply
from fakes.room import FakeRoom, Native
from fakes.session import Recorded, make_session, now
from fakes.speaker import Speaker
from fakes.stt import FakeSTT
from fakes.tts import FakeTTS
from fakes.vad import FakeVAD
from livekit.agents import AMD, Agent, AgentSession
from livekit.agents.llm import FunctionToolCall
from livekit.agents.vad import VADEventType
from livekit.agents.voice.amd.line import wait_until_open


def verdict(label: str) -> Reply:
    call = FunctionToolCall(
        name="save_prediction", arguments=json.dumps({"label": label}), call_id="1"
    )
    return Reply(tool_calls=[call])


class Call:
    """An agent that has dialled out."""

    def __init__(self, **options: Any) -> None:
        self.stt, self.vad = FakeSTT(), FakeVAD()
        self.judge = FakeLLM()
        self.speaker = Speaker()
        self.session: AgentSession[Any] = make_session(
            FakeLLM(default="good day"),
            stt=self.stt,
            vad=self.vad,
            tts=FakeTTS(),
            aec_warmup_duration=None,
            **options,
        )
        self.session.output.audio = self.speaker
        self.recorded = Recorded(self.session)

    def detect(self, **options: Any) -> AMD:
        options.setdefault("llm", self.judge)
        return AMD(self.session, suppress_compatibility_warning=True, **options)

    async def hears(self, seconds: float, text: str = "") -> None:
        ears = self.vad.streams[-1]
        ears.send(VADEventType.START_OF_SPEECH, speech_duration=0.05)
        await asyncio.sleep(seconds)
        if text:
            self.stt.streams[-1].final(text)
        await asyncio.sleep(0.25)
        ears.send(
            VADEventType.END_OF_SPEECH,
            silence_duration=0.25,
            speech_duration=seconds,
            speaking=False,
        )
        await settle()

    @property
    def spoken(self) -> list[str]:
        return [line for line in self.recorded.story if line.startswith("assistant")]


@asynccontextmanager
async def dialled(**options: Any) -> AsyncIterator[Call]:
    call = Call(**options)
    await call.session.start(Agent(instructions="sell"))
    try:
        yield call
    finally:
        await call.session.aclose()


async def test_the_agent_greets_once_a_human_has_picked_up() -> None:
    async with dialled() as call, call.detect() as amd:
        assert call.session.amd is amd and amd.pending and amd.enabled
        call.session.say("good morning")
        hearing = asyncio.ensure_future(call.hears(1.0))
        await asyncio.sleep(1.4)
        assert call.session.agent_state != "speaking"
        result = await amd.execute()
        await hearing
        assert result.is_human and result.reason == "short_greeting" and not amd.pending
        await asyncio.sleep(10)
        assert call.spoken == ["assistant: good morning"]
    assert call.session.amd is None and not amd.enabled


async def test_what_was_meant_for_a_human_is_not_said_to_a_voicemail() -> None:
    async with dialled() as call, call.detect() as amd:
        events: list[Any] = []
        amd.on("amd_prediction", events.append)
        call.judge.default = verdict("machine-vm")
        greeting = call.session.say("good morning")
        await call.hears(4.0, "please leave a message after the tone")
        result = await amd.execute()
        assert result.is_machine and events == [result]
        assert result.transcript == "please leave a message after the tone"
        assert greeting.interrupted
        call.session.say("call me back")
        await asyncio.sleep(20)
        assert call.spoken == ["assistant: call me back"]
        assert call.judge.requests[0].tool_choice == "required"


async def test_a_menu_gets_an_agent_that_presses_keys() -> None:
    async with dialled() as call:
        async with call.detect() as amd:
            call.judge.default = verdict("machine-ivr")
            await call.hears(4.0, "press one for sales")
            assert (await amd.execute()).category == "machine-ivr"
        assert call.session._ivr_activity is not None
        assert [tool.id for tool in call.session.tools] == ["send_dtmf_events"]
    assert call.session._ivr_activity is None and call.session.tools == []


async def test_the_next_agent_waits_for_the_verdict_too() -> None:
    async with dialled() as call, call.detect() as amd:
        call.session.update_agent(Agent(instructions="sell more"))
        await asyncio.sleep(1)
        call.session.say("hello from me")
        await asyncio.sleep(5)
        assert call.spoken == []
        assert (await amd.execute()).reason == "no_speech_timeout"
        await asyncio.sleep(5)
        assert call.spoken == ["assistant: hello from me"]


@pytest.mark.parametrize("wedged", [False, True])
async def test_a_close_ends_a_detection_in_progress(wedged: bool) -> None:
    async with dialled() as call:
        amd = await call.detect().__aenter__()
        call.judge.default = Reply(hangs=True, ignores_cancellation=wedged)
        await call.hears(4.0, "please leave")
        waiting = asyncio.ensure_future(amd.execute())
        await settle()
        began = now()
        await call.session.aclose()
        assert now() - began <= 5.0 + 2 * 2.0 + 0.5
        with pytest.raises(RuntimeError, match="amd closed before a result was available"):
            await waiting
        assert len(call.recorded.closes) == 1
        report = call.recorded.closes[0].report
        assert report is not None and bool(report.survivors) is wedged
        call.judge.release()
        await settle()
        assert call.session.amd is None


async def test_leaving_without_a_verdict_lets_the_agent_speak() -> None:
    async with dialled() as call:
        async with call.detect():
            call.session.say("hello")
            await asyncio.sleep(1)
            assert call.spoken == []
        await asyncio.sleep(5)
        assert call.spoken == ["assistant: hello"]


async def test_words_come_from_its_own_recogniser_if_it_has_one() -> None:
    own = FakeSTT()
    async with dialled() as call, call.detect(stt=own) as amd:
        await settle()
        call.judge.default = verdict("machine-vm")
        own.streams[-1].final("nobody is here")
        await call.hears(4.0, "no buddy is hear")
        assert (await amd.execute()).transcript == "nobody is here"
        await settle()
        assert not own.streams[-1].connected


async def test_without_a_model_it_can_not_be_entered() -> None:
    session = make_session()
    session._llm = None
    await session.start(Agent(instructions="x"))
    with pytest.raises(ValueError, match="needs an LLM"):
        await AMD(session).__aenter__()
    assert session.amd is None
    await session.aclose()


def test_unknown_options_are_refused() -> None:
    session: Any = SimpleNamespace()
    with pytest.raises(ValueError, match="no detection option"):
        AMD(session, detection_options={"tiemout": 1.0})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(ValueError, match="negative"):
        AMD(session, detection_options={"timeout": -1.0})


SIP = rtc.ParticipantKind.PARTICIPANT_KIND_SIP


async def test_a_phone_counts_once_it_is_answered() -> None:
    room = FakeRoom(Native())
    watching = asyncio.ensure_future(wait_until_open(room, "caller", arrival_timeout=60))  # type: ignore[arg-type]
    await asyncio.sleep(20)
    caller = room.join(kind=SIP, attributes={"sip.callStatus": "ringing"})
    room.publish(caller)
    await asyncio.sleep(30)
    assert not watching.done()
    caller.attributes["sip.callStatus"] = "active"
    room.emit("participant_attributes_changed", {}, caller)
    assert await watching is True
    assert not room.registered


@pytest.mark.parametrize("how", ["nobody", "mute", "hangs up", "room", "rings forever"])
async def test_a_call_that_is_not_answered(how: str) -> None:
    room = FakeRoom(Native())
    identity = None if how == "nobody" else "caller"
    began = now()
    watching = asyncio.ensure_future(wait_until_open(room, identity, arrival_timeout=60))  # type: ignore[arg-type]
    await settle()
    if how != "nobody":
        caller = room.join(kind=SIP)
        if how != "mute":
            room.publish(caller)
        await settle()
        if how == "hangs up":
            room.leave(caller)
        elif how == "room":
            room.disconnect()
    assert await watching is False
    bounds = {"nobody": 5.0, "mute": 5.0, "hangs up": 0.0, "room": 0.0, "rings forever": 120.0}
    assert now() - began == pytest.approx(bounds[how], abs=0.01)
