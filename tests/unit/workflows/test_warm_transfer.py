"""Calls are handed to a person: briefed, connected, refused, or broken off at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from livekit import api, rtc

from fakes.collecting import Collector
from fakes.llm import FakeLLM, Script
from fakes.room import SIP, FakeParticipant, FakeRoom, FakeRtc, Native
from fakes.session import Recorded, make_session, now
from fakes.tools import calls, messages
from fakes.tts import FakeTTS
from livekit.agents.beta.workflows import (
    TwilioConnectorWarmTransferTask,
    WarmTransferResult,
    WarmTransferTask,
    WorkflowInstructions,
    _consultation,
)
from livekit.agents.llm import ChatContext, ToolError
from livekit.agents.testing import fake_job_context
from livekit.agents.utils.aio import abandoned
from livekit.agents.voice import AgentSession


class ConsultationRoom(FakeRoom):
    """A room that the agent joins by itself."""

    def __init__(self, native: Native) -> None:
        super().__init__(native, connected=False)

    async def connect(self, url: str, token: str) -> None:  # type: ignore[override]
        await self.native.call("connect")
        super().connect()

    async def disconnect(self) -> None:  # type: ignore[override]
        await self.native.call("disconnect")
        if self.isconnected():
            super().disconnect()


class Exchange:
    """The server: two rooms, a person's phone, and a record of what was asked for."""

    def __init__(self, fake_rtc: FakeRtc, monkeypatch: pytest.MonkeyPatch) -> None:
        self.native = fake_rtc.native
        self.caller_room = fake_rtc.room()
        self.rooms: list[ConsultationRoom] = []
        self.person: FakeParticipant | None = None
        self.requests: list[Any] = []
        self.api: Any = SimpleNamespace(
            sip=SimpleNamespace(create_sip_participant=self._dial),
            room=SimpleNamespace(move_participant=self._move, delete_room=self._delete),
            connector=SimpleNamespace(connect_twilio_call=self._twilio),
        )
        monkeypatch.setattr(rtc, "Room", self._make_room)
        monkeypatch.setenv("LIVEKIT_API_KEY", "key")
        monkeypatch.setenv("LIVEKIT_API_SECRET", "a secret that is long enough for a signature")
        monkeypatch.delenv("LIVEKIT_SIP_OUTBOUND_TRUNK", raising=False)
        monkeypatch.delenv("LIVEKIT_SIP_NUMBER", raising=False)
        monkeypatch.setattr(_consultation, "BackgroundAudioPlayer", self._make_player)
        self.music: list[str] = []

    @property
    def room(self) -> ConsultationRoom:
        [room] = self.rooms
        return room

    def _make_room(self) -> ConsultationRoom:
        self.rooms.append(ConsultationRoom(self.native))
        return self.rooms[-1]

    def _make_player(self) -> Any:
        async def start(*, room: Any) -> None:
            await self.native.call("music")
            assert room is self.caller_room

        async def aclose() -> None:
            self.music.append("stopped")

        def play(sound: Any, *, loop: bool) -> None:
            self.music.append(f"{sound.source.name} {loop}")

        return SimpleNamespace(start=start, play=play, aclose=aclose)

    def pick_up(self, identity: str) -> None:
        self.person = self.room.join(identity, kind=SIP)
        self.room.publish(self.person)

    async def _dial(self, request: Any) -> None:
        self.requests.append(request)
        await self.native.call("dial")
        self.pick_up(request.participant_identity)

    async def _twilio(self, request: Any) -> Any:
        self.requests.append(request)
        return SimpleNamespace(connect_url="wss://example.com/x?a=1&b=2")

    async def _move(self, request: Any) -> None:
        self.requests.append(request)
        await self.native.call("move")
        assert self.person is not None
        self.room.leave(self.person)
        self.caller_room.join(self.person.identity, kind=SIP)

    async def _delete(self, request: Any) -> None:
        self.requests.append(request)
        await self.native.call("delete")

    def asked(self) -> list[str]:
        return [type(request).__name__.removesuffix("Request") for request in self.requests]


class Transfer:
    def __init__(self, exchange: Exchange, session: AgentSession[Any], agent: Collector) -> None:
        self.exchange, self.session, self.agent = exchange, session, agent
        self.recorded = Recorded(session)
        self.llm: Any = session.llm
        self.job: Any = None

    @property
    def outcome(self) -> Any:
        return self.agent.outcome

    @property
    def talk(self) -> AgentSession[Any] | None:
        """The session with the person."""
        others = [s for s in self.job._session_shutdown_registered if s is not self.session]
        return others[0] if others else None

    async def begin(self, *replies: Script) -> None:
        self.llm.replies[:] = [calls("collect"), *replies]
        self.session.generate_reply(user_input="a person please", input_modality="audio")
        await asyncio.sleep(5.0)

    async def person_says(self, text: str, *replies: Script, seconds: float = 10.0) -> None:
        self.llm.replies[:] = replies
        assert self.talk is not None
        self.talk.generate_reply(user_input=text, input_modality="audio")
        await asyncio.sleep(seconds)

    def assert_in_order(self) -> None:
        """Whatever the transfer came to: nothing of it is left."""
        for room in self.exchange.rooms:
            assert not room.isconnected() and not room.registered
        assert self.talk is None or (not self.talk._started and self.talk._activity is None)
        assert self.session.input.audio_enabled


@asynccontextmanager
async def transferring(
    exchange: Exchange, make: Any = None, **options: Any
) -> AsyncIterator[Transfer]:
    known = ChatContext.empty()
    known.add_message(role="user", content="my router is on fire")
    options.setdefault("sip_trunk_id", "ST_1")
    agent = Collector(make or (lambda: WarmTransferTask("+15550100", chat_ctx=known, **options)))
    room: Any = exchange.caller_room
    session = make_session(FakeLLM(default="hm"), tts=FakeTTS(), aec_warmup_duration=None)
    with fake_job_context(room=room) as job:
        job._info.fake_job = False
        job._api = exchange.api
        transfer = Transfer(exchange, session, agent)
        transfer.job = job
        await session.start(agent, room=room, record=False)
        room.publish(room.join("caller", kind=SIP))
        try:
            yield transfer
        finally:
            exchange.native.release()
            await session.aclose()
            for callback in job._shutdown_callbacks:
                await callback()
            await asyncio.sleep(1.0)


@pytest.fixture
def exchange(fake_rtc: FakeRtc, monkeypatch: pytest.MonkeyPatch) -> Exchange:
    return Exchange(fake_rtc, monkeypatch)


async def test_a_person_who_agrees_is_connected_with_the_caller(exchange: Exchange) -> None:
    async with transferring(
        exchange, sip_number="+15550111", sip_headers={"X-A": "b"}, dtmf="1", ringing_timeout=12.0
    ) as t:
        await t.begin("A caller's router is on fire. Do you take it?")
        assert t.outcome is None and not t.session.input.audio_enabled
        assert exchange.music == ["HOLD_MUSIC True"]
        dial = exchange.requests[0]
        assert dial.sip_call_to == "+15550100" and dial.sip_trunk_id == "ST_1"
        assert dial.sip_number == "+15550111" and dict(dial.headers) == {"X-A": "b"}
        assert dial.dtmf == "1" and dial.ringing_timeout.seconds == 12 and dial.wait_until_answered
        assert t.talk is not None
        assert messages(t.talk)[-1] == "assistant: A caller's router is on fire. Do you take it?"
        told = t.llm.requests[-1].chat_ctx.messages()[0].text_content
        assert "caller: my router is on fire" in told
        await t.person_says("put them through", calls("connect_to_caller"), "You are connected.")
        assert isinstance(t.outcome, WarmTransferResult)
        assert t.outcome.human_agent_identity in exchange.caller_room.remote_participants
        assert messages(t.session)[-1] == "assistant: You are connected."
        assert exchange.asked() == ["CreateSIPParticipant", "MoveParticipant"]
        assert exchange.music[-1] == "stopped"
        t.assert_in_order()


@pytest.mark.parametrize(
    ("decision", "why"),
    [
        ('decline_transfer {"reason": "I am at lunch"}', "I am at lunch"),
        ("voicemail_detected", "a machine answered"),
    ],
)
async def test_the_caller_is_told_when_nobody_takes_the_call(
    exchange: Exchange, decision: str, why: str
) -> None:
    async with transferring(exchange) as t:
        await t.begin("Do you take it?")
        await t.person_says("hm", calls(decision), "Nobody can come.")
        assert isinstance(t.outcome, ToolError) and why in t.outcome.message
        assert messages(t.session)[-1] == "assistant: Nobody can come."
        assert exchange.asked() == ["CreateSIPParticipant", "DeleteRoom"]
        t.assert_in_order()


async def test_a_person_who_hangs_up_gives_the_caller_back(exchange: Exchange) -> None:
    async with transferring(exchange) as t:
        await t.begin("Do you take it?")
        assert exchange.person is not None
        exchange.room.leave(exchange.person)
        await asyncio.sleep(10.0)
        assert "hung up before" in t.outcome.message
        t.assert_in_order()


async def test_a_phone_that_nobody_picks_up_rings_for_so_long_only(exchange: Exchange) -> None:
    exchange.native.silent.add("dial")
    async with transferring(exchange, ringing_timeout=10.0) as t:
        await t.begin()
        await asyncio.sleep(8.0)
        assert t.outcome is None
        await asyncio.sleep(5.0)
        assert t.outcome.message == "nobody picked up"
        t.assert_in_order()


async def test_the_reason_of_a_failed_call_is_told(exchange: Exchange) -> None:
    busy = api.TwirpError("unavailable", "Busy Here", status=486)
    exchange.native.failing["dial"] = busy
    async with transferring(exchange) as t:
        await t.begin()
        assert t.outcome.message == "the person could not be reached: Busy Here"
        t.assert_in_order()


@pytest.mark.parametrize("how", ["fails", "hangs"])
async def test_a_server_that_can_not_move_the_person_gives_the_caller_back(
    exchange: Exchange, how: str
) -> None:
    if how == "fails":
        exchange.native.failing["move"] = api.TwirpError("unimplemented", "no", status=501)
    else:
        exchange.native.silent.add("move")
    async with transferring(exchange) as t:
        await t.begin("Do you take it?")
        await t.person_says("yes", calls("connect_to_caller"))
        await asyncio.sleep(20.0)
        assert "technical reason" in t.outcome.message
        assert exchange.asked()[-1] == "DeleteRoom"
        t.assert_in_order()


async def test_a_line_that_can_not_be_set_up_is_given_up(exchange: Exchange) -> None:
    exchange.native.silent.add("connect")
    async with transferring(exchange) as t:
        await t.begin()
        await asyncio.sleep(30.0)
        assert "could not be set up" in t.outcome.message
        exchange.native.release()
        await asyncio.sleep(1.0)  # it connects after all, and is left at once
        t.assert_in_order()


async def test_without_music_the_transfer_goes_on(exchange: Exchange) -> None:
    exchange.native.failing["music"] = RuntimeError("no track")
    async with transferring(exchange) as t:
        await t.begin("Do you take it?")
        await t.person_says("yes", calls("connect_to_caller"), "Connected.")
        assert isinstance(t.outcome, WarmTransferResult)


async def test_music_is_optional(exchange: Exchange) -> None:
    async with transferring(exchange, hold_audio=None) as t:
        await t.begin("Do you take it?")
        assert exchange.music == []


MOMENTS = ["music", "connect", "dial", "talk", "move"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("server", ["answers", "hangs"])
async def test_a_caller_who_hangs_up_ends_everything_at_any_moment(
    exchange: Exchange, moment: str, server: str
) -> None:
    exchange.native.silent.add(moment)
    async with transferring(exchange) as t:
        await t.begin("Do you take it?")
        if moment == "move":
            await t.person_says("yes", calls("connect_to_caller"), seconds=2.0)
            assert exchange.asked()[-1] == "MoveParticipant"
        elif moment == "talk":
            assert t.talk is not None
        if server == "hangs":
            exchange.native.silent |= {"delete", "disconnect", "close_stream"}
        else:
            exchange.native.silent.discard("connect")
        began = now()
        exchange.caller_room.leave(exchange.caller_room.remote_participants["caller"])
        await asyncio.sleep(0)
        assert t.session._closing_task is not None
        await asyncio.wait((t.session._closing_task,), timeout=30)
        took = now() - began
        assert took <= (9.5 if server == "hangs" else 2.5)
        [close] = t.recorded.closes
        assert close.reason == "participant_disconnected"
        assert isinstance(t.outcome, Exception)
        exchange.native.release()
        await asyncio.sleep(10.0)
        t.assert_in_order()
        assert not abandoned()
        if moment in ("dial", "talk", "move"):
            assert "DeleteRoom" in exchange.asked(), "the person's phone rings on"


@pytest.mark.parametrize("tenths", range(8))
async def test_a_close_at_any_turn_of_the_loop_leaves_nothing(
    exchange: Exchange, tenths: int
) -> None:
    async with transferring(exchange) as t:
        t.llm.replies[:] = [calls("collect"), "Do you take it?"]
        t.session.generate_reply(user_input="a person please", input_modality="audio")
        for _ in range(6 * tenths):
            await asyncio.sleep(0)
        await t.session.aclose()
        assert not t.recorded.closes[0].report.survivors
        await asyncio.sleep(10.0)
        t.assert_in_order()


async def test_where_there_is_no_phone_nothing_is_begun(exchange: Exchange) -> None:
    async with transferring(exchange) as t:
        t.job._info.fake_job = True
        await t.begin("Sorry.")
        assert "no phone line" in t.outcome.message and not exchange.rooms
        t.job._info.fake_job = False


async def test_what_is_missing_is_said_at_once(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="whom to call"):
        WarmTransferTask(sip_trunk_id="ST_1")
    with pytest.raises(ValueError, match="outbound SIP trunk"):
        WarmTransferTask("+15550100")
    monkeypatch.setenv("LIVEKIT_SIP_OUTBOUND_TRUNK", "ST_2")
    WarmTransferTask(target_phone_number="+15550100")
    with pytest.raises(ValueError, match="Twilio needs credentials"):
        TwilioConnectorWarmTransferTask("+15550100", twilio_from_number="+15550111")
    with pytest.raises(ValueError, match="needs the twilio_call_token"):
        TwilioConnectorWarmTransferTask(
            "+1", twilio_from_number="+2", original_caller_number="+15550122"
        )


async def test_the_person_may_be_dialled_without_a_trunk(exchange: Exchange) -> None:
    connection = api.SIPOutboundConfig(hostname="sip.example.com")
    async with transferring(exchange, sip_trunk_id="", sip_connection=connection) as t:
        await t.begin("Do you take it?")
        assert exchange.requests[0].trunk.hostname == "sip.example.com"


async def test_the_briefing_can_be_reworded(exchange: Exchange) -> None:
    task = WarmTransferTask(
        "+1",
        sip_trunk_id="ST_1",
        instructions=WorkflowInstructions(persona="You are Ada.", extra="Be brief."),
        extra_instructions="Hurry.",
    )
    text = task._briefing.render(modality="audio")
    assert text.startswith("You are Ada.") and text.endswith("Be brief.\n\nHurry.")
    assert "connect_to_caller" in text and "nothing is known" in text


async def test_twilio_calls_the_person_into_the_room_and_hangs_up(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms: list[tuple[str, dict[str, str]]] = []

    class OnTwilio(TwilioConnectorWarmTransferTask):
        async def _twilio(self, path: str, form: dict[str, str]) -> Any:
            forms.append((path, form))
            if path == "Calls.json":
                exchange.pick_up(exchange.requests[0].participant_identity)
            return {"sid": "CA1"}

    def make() -> Any:
        return OnTwilio(
            "+15550100",
            twilio_from_number="+15550111",
            twilio_account_sid="AC1",
            twilio_auth_token="token",
            twilio_call_token="call",
            original_caller_number="+15550122",
        )

    async with transferring(exchange, make) as t:
        await t.begin("Do you take it?")
        path, form = forms[0]
        assert path == "Calls.json" and form["To"] == "+15550100" and form["From"] == "+15550122"
        assert form["CallToken"] == "call" and form["Timeout"] == "30"
        assert '<Stream url="wss://example.com/x?a=1&amp;b=2"/>' in form["Twiml"]
        await t.person_says("no", calls('decline_transfer {"reason": "no"}'), "Sorry.")
        assert forms[-1] == ("Calls/CA1.json", {"Status": "completed"})
        assert isinstance(t.outcome, ToolError)
        t.assert_in_order()
