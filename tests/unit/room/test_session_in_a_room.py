"""A session in a room without a network: what the room sees, and every way a close may get stuck."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from livekit import rtc

from fakes.llm import FakeLLM
from fakes.room import AGENT, SIP, FakeParticipant, FakeRoom, FakeRtc
from fakes.session import Recorded, make_session, now
from fakes.tts import FakeTTS
from livekit.agents.utils.aio import TaskScope, abandoned
from livekit.agents.voice import Agent, AgentSession
from livekit.agents.voice.room_io import RoomIO, RoomOptions, TextInputEvent

Reason = rtc.DisconnectReason
STEP = 2.0
"""The default of `teardown_timeout`."""


@dataclass
class Call:
    room: FakeRoom
    session: AgentSession[Any]
    recorded: Recorded
    caller: FakeParticipant

    @property
    def room_io(self) -> Any:
        return self.session.room_io

    @property
    def transcripts(self) -> list[tuple[str, str]]:
        """Who said what, as the text streams of the room show it."""
        return [
            (writer.sender, writer.text)
            for writer in self.room.sent.texts
            if writer.attributes.get("lk.transcription_final") == "true" and writer.closed
        ]

    async def close_event(self) -> Any:
        await self.session.aclose()
        [event] = self.recorded.closes
        return event


def _session(llm: FakeLLM | None = None, **options: Any) -> AgentSession[Any]:
    return make_session(llm, tts=FakeTTS(), **options)


@asynccontextmanager
async def calling(
    fake_rtc: FakeRtc,
    llm: FakeLLM | None = None,
    *,
    room_options: RoomOptions | None = None,
    caller: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Call]:
    """A call that was answered. Whatever hangs is released at the end."""
    room = fake_rtc.room()
    session = _session(llm, **options)
    recorded = Recorded(session)
    await session.start(
        Agent(instructions="be brief"),
        room=room,  # type: ignore[arg-type]
        room_options=room_options or RoomOptions(),
    )
    participant = room.join(**(caller or {}))
    room.publish(participant)
    if not fake_rtc.native.silent:
        await session.room_io.wait_for_ready()
    try:
        yield Call(room, session, recorded, participant)
    finally:
        await session.aclose()
        fake_rtc.native.release()
        await asyncio.sleep(10.0)
        assert not room.registered
        assert not abandoned()


# -- what the room sees ---------------------------------------------------------------------------


async def test_the_answer_is_heard_and_written_down(fake_rtc: FakeRtc) -> None:
    async with calling(fake_rtc, FakeLLM(default="good evening")) as call:
        handle = call.session.generate_reply(user_input="hello")
        await handle
        await asyncio.sleep(0.1)
        assert call.transcripts == [("agent", "good evening")]
        assert sum(frame.duration for _, frame in fake_rtc.source.played) > 0.1
        await asyncio.sleep(0.1)
        assert call.room.sent.attributes["lk.agent.state"] == "listening"
        [writer] = [w for w in call.room.sent.texts if w.sender == "agent"]
        [publication] = call.room.sent.track_publications.values()
        assert writer.attributes["lk.transcribed_track_id"] == publication.sid
        assert writer.attributes["lk.segment_id"].startswith("SG_")


async def test_chat_is_answered_and_only_the_linked_participant_is_listened_to(
    fake_rtc: FakeRtc,
) -> None:
    llm = FakeLLM(default="good evening")
    async with calling(fake_rtc, llm) as call:
        call.room.join("stranger")
        refused = call.room.receive_text("stranger", "buy this")
        call.room.receive_text("caller", "hello there")
        await asyncio.sleep(3.0)
        assert [request.user_text for request in llm.requests] == ["hello there"]
        assert refused.closed, "a refused stream is closed"
        assert ("agent", "good evening") in call.transcripts


async def test_chat_that_comes_while_the_agent_may_not_be_interrupted_is_answered_after(
    fake_rtc: FakeRtc,
) -> None:
    async with calling(fake_rtc, FakeLLM(default="yes of course")) as call:
        call.session.say("this has to be said to its end", allow_interruptions=False)
        await asyncio.sleep(0.1)
        call.room.receive_text("caller", "may I ask something")
        await asyncio.sleep(5.0)
        assert [text for _, text in call.transcripts] == [
            "this has to be said to its end",
            "yes of course",
        ]


async def test_two_sessions_in_one_room_hear_each_their_own(fake_rtc: FakeRtc) -> None:
    heard: list[tuple[str, str]] = []

    def note(name: str) -> Any:
        return lambda session, event: heard.append((name, event.text))

    room: Any = fake_rtc.room()
    sessions = [_session(), _session()]
    ios = [RoomIO(s, room, participant=who) for s, who in zip(sessions, "ab", strict=True)]
    for name, io in zip("ab", ios, strict=True):
        await io.start()
        room.join(name)
        io.register_text_input(note(name))
    room.receive_text("a", "one")
    room.receive_text("b", "two")
    await asyncio.sleep(0.1)
    await ios[0].aclose()
    room.receive_text("b", "three")
    await asyncio.sleep(0.1)
    assert heard == [("a", "one"), ("b", "two"), ("b", "three")]
    await ios[1].aclose()
    assert not room.registered


async def test_text_options_take_a_callback_and_it_gets_the_message(fake_rtc: FakeRtc) -> None:
    events: list[TextInputEvent] = []
    async with calling(fake_rtc) as call:
        call.room_io.register_text_input(lambda session, event: events.append(event))
        call.room.receive_text("caller", "hello")
        await asyncio.sleep(0.1)
    [event] = events
    assert event.text == "hello" and event.participant is not None
    assert event.participant.identity == "caller"


async def test_what_the_session_has_already_is_not_taken_from_the_room(
    fake_rtc: FakeRtc, caplog: pytest.LogCaptureFixture
) -> None:
    from fakes.speaker import Speaker

    session, room, speaker = _session(), fake_rtc.room(), Speaker()
    session.output.audio = speaker
    options = RoomOptions(audio_output=True)
    await session.start(Agent(instructions=""), room=room, room_options=options)  # type: ignore[arg-type]
    assert "audio_output of the room options is not used" in caplog.text
    assert options.audio_output is True, "the caller's options are left alone"
    assert session.room_io.subscribed_fut is None
    assert "session.output.audio" in caplog.text
    await session.aclose()


# -- linking --------------------------------------------------------------------------------------


async def test_a_wanted_participant_may_come_after_a_room_that_is_not_connected_yet(
    fake_rtc: FakeRtc,
) -> None:
    session, room = _session(), fake_rtc.room(connected=False)
    room.join("somebody")
    await session.start(
        Agent(instructions=""),
        room=room,  # type: ignore[arg-type]
        room_options=RoomOptions(participant_identity="ann"),
    )
    room.connect()
    assert session.room_io.linked_participant is None
    room.join("ann")
    await session.room_io.wait_for_ready()
    assert session.room_io.linked_participant.identity == "ann"
    await session.aclose()


async def test_unlinking_before_the_first_link_does_not_keep_the_agent_mute(
    fake_rtc: FakeRtc,
) -> None:
    session, room = _session(), fake_rtc.room()
    await session.start(Agent(instructions=""), room=room)  # type: ignore[arg-type]
    session.room_io.unset_participant()
    caller = room.join()
    publication = room.publish(caller)
    await session.room_io.wait_for_ready()
    assert publication.track.streams, "the caller is heard"
    session.room_io.unset_participant()
    assert session.room_io.linked_participant is None
    other = room.publish(room.join("other"))
    assert other.track.streams, "and whoever comes next, too"
    await session.aclose()


async def test_a_phone_that_was_called_needs_no_echo_warm_up(fake_rtc: FakeRtc) -> None:
    async with calling(fake_rtc, caller={"kind": SIP}) as call:
        call.session.say("hello, this is a longer story")
        await asyncio.sleep(0.3)
        assert call.session.agent_state == "speaking" and not call.session._aec_warmup_active
    inbound = {"kind": SIP, "attributes": {"sip.ruleID": "rule"}}
    async with calling(FakeRtc(pytest.MonkeyPatch()), caller=inbound) as call:
        call.session.say("hello, this is a longer story")
        await asyncio.sleep(0.3)
        assert call.session._aec_warmup_active


async def test_nobody_goes_away_before_they_are_there_and_hear_the_agent(
    fake_rtc: FakeRtc,
) -> None:
    session, room = _session(), fake_rtc.room()
    room.sent.listeners = False
    await session.start(Agent(instructions=""), room=room)  # type: ignore[arg-type]
    room.join()
    await asyncio.sleep(60.0)
    assert session.user_state == "listening"
    [publication] = room.sent.track_publications.values()
    publication.first_subscription.set_result(None)  # type: ignore[attr-defined]
    await asyncio.sleep(20.0)
    assert session.user_state == "away"
    await session.aclose()


# -- hanging up -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reason", [Reason.CLIENT_INITIATED, Reason.ROOM_DELETED, Reason.USER_REJECTED]
)
async def test_a_caller_who_hangs_up_closes_the_session(fake_rtc: FakeRtc, reason: int) -> None:
    async with calling(fake_rtc) as call:
        call.session.say("let me tell you a long story " * 10)
        await asyncio.sleep(0.5)
        began = now()
        call.room.leave(call.caller, reason)
        event = await call.close_event()
        assert event.reason == "participant_disconnected" and event.report.clean
        assert now() - began < 0.1


@pytest.mark.parametrize(
    "reason", [Reason.PARTICIPANT_REMOVED, Reason.SIGNAL_CLOSE, Reason.CONNECTION_TIMEOUT]
)
async def test_a_caller_who_is_lost_may_come_back(fake_rtc: FakeRtc, reason: int) -> None:
    async with calling(fake_rtc) as call:
        call.room.leave(call.caller, reason)
        await asyncio.sleep(100.0)
        assert not call.recorded.closes and call.room_io.linked_participant is None
        assert call.session.user_state == "listening", "who is not there can't go away"
        call.room.join("somebody else")
        assert call.room_io.linked_participant is None
        again = call.room.join("caller")
        assert call.room_io.linked_participant is again
        assert call.room.publish(again).track.streams


async def test_a_caller_who_stays_lost_ends_the_session_if_so_wished(fake_rtc: FakeRtc) -> None:
    options = RoomOptions(close_after_absence=30.0)
    async with calling(fake_rtc, room_options=options) as call:
        call.room.leave(call.caller, Reason.SIGNAL_CLOSE)
        await asyncio.sleep(29.0)
        again = call.room.join("caller")
        await asyncio.sleep(60.0)
        assert not call.recorded.closes, "was back in time"
        call.room.leave(again, Reason.SIGNAL_CLOSE)
        await asyncio.sleep(29.0)
        assert not call.recorded.closes
        await asyncio.sleep(1.5)
        assert call.recorded.closes[0].reason == "participant_disconnected"


async def test_others_may_come_and_go(fake_rtc: FakeRtc) -> None:
    async with calling(fake_rtc) as call:
        other = call.room.join("other")
        call.room.leave(other)
        await asyncio.sleep(1.0)
        assert not call.recorded.closes


async def test_a_room_that_is_gone_closes_the_session_although_nobody_was_seen_leaving(
    fake_rtc: FakeRtc,
) -> None:
    async with calling(fake_rtc) as call:
        call.session.say("let me tell you a long story " * 10)
        await asyncio.sleep(0.5)
        call.room.disconnect()
        event = await call.close_event()
        assert event.reason == "participant_disconnected" and event.report.clean


async def test_with_close_on_disconnect_off_the_session_outlives_its_caller(
    fake_rtc: FakeRtc,
) -> None:
    async with calling(fake_rtc, room_options=RoomOptions(close_on_disconnect=False)) as call:
        call.room.leave(call.caller)
        call.room.disconnect()
        await asyncio.sleep(10.0)
        assert not call.recorded.closes


async def test_a_session_that_was_hung_up_can_be_started_and_hung_up_again(
    fake_rtc: FakeRtc,
) -> None:
    session = _session()
    recorded = Recorded(session)
    for _ in range(3):
        room = fake_rtc.room()
        await session.start(Agent(instructions=""), room=room)  # type: ignore[arg-type]
        caller = room.join()
        await session.room_io.wait_for_ready()
        room.leave(caller)
        await session.aclose()
        assert not room.registered
    assert [event.reason for event in recorded.closes] == ["participant_disconnected"] * 3


async def test_a_caller_who_leaves_before_anybody_heard_the_agent(fake_rtc: FakeRtc) -> None:
    session, room = _session(), fake_rtc.room()
    room.sent.listeners = False
    recorded = Recorded(session)
    await session.start(Agent(instructions=""), room=room)  # type: ignore[arg-type]
    ready = asyncio.ensure_future(session.room_io.wait_for_ready())
    caller = room.join()
    session.say("hello, are you there")
    await asyncio.sleep(1.0)
    room_io, began = session.room_io, now()
    room.leave(caller)
    await session.aclose()
    assert recorded.closes[0].report.clean and now() - began < 1.0
    with pytest.raises(RuntimeError, match="closed"):
        await ready
    assert room_io.linked_participant is None and room_io.subscribed_fut.cancelled()


@pytest.mark.parametrize("error", [ValueError("gone"), asyncio.CancelledError()])
async def test_a_room_that_can_t_be_let_go_of_keeps_nothing_else(
    fake_rtc: FakeRtc, error: BaseException
) -> None:
    session, room = _session(), fake_rtc.room()
    recorded = Recorded(session)
    await session.start(Agent(instructions=""), room=room)  # type: ignore[arg-type]
    off, kept = room.off, "participant_connected"

    def stubborn(event: Any, handler: Any) -> None:
        if event == kept:
            raise error
        off(event, handler)

    room.off = stubborn  # type: ignore[method-assign, assignment]
    await session.aclose()
    assert [event for event, handlers in room._events.items() if handlers] == [kept]
    assert recorded.closes[0].report.clean


async def test_a_farewell_that_nobody_hears_any_more_is_cut_short(fake_rtc: FakeRtc) -> None:
    async with calling(fake_rtc) as call:
        call.session.say("goodbye and thank you for calling us today, it was a pleasure")
        await asyncio.sleep(0.5)
        call.session.shutdown()
        await asyncio.sleep(0.5)
        assert not call.recorded.closes
        began = now()
        call.room.leave(call.caller, Reason.PARTICIPANT_REMOVED)
        event = await call.close_event()
        assert now() - began < 0.5
        assert event.reason == "user_initiated" and event.report.escalated


async def test_a_farewell_to_nobody_is_not_waited_for(fake_rtc: FakeRtc) -> None:
    session, room = _session(), fake_rtc.room()
    recorded = Recorded(session)
    await session.start(Agent(instructions=""), room=room)  # type: ignore[arg-type]
    session.say("is anybody there")
    await asyncio.sleep(1.0)
    began = now()
    session.shutdown()
    await session.aclose()
    assert now() - began < 0.5 and recorded.closes[0].report.forced


async def test_a_track_that_can_not_be_published_at_first_is_tried_again(
    fake_rtc: FakeRtc,
) -> None:
    session, room = _session(), fake_rtc.room()
    fake_rtc.native.failing["publish_track"] = RuntimeError("reconnecting")
    await session.start(Agent(instructions=""), room=room)  # type: ignore[arg-type]
    room.join()
    handle = session.say("hello")
    await asyncio.sleep(1.0)
    fake_rtc.native.failing.clear()
    await handle
    assert fake_rtc.source.played
    await session.aclose()


async def test_a_track_that_can_never_be_published_is_an_error_of_the_speech_and_no_hang(
    fake_rtc: FakeRtc,
) -> None:
    session, room = _session(), fake_rtc.room()
    fake_rtc.native.failing["publish_track"] = RuntimeError("not permitted")
    await session.start(Agent(instructions=""), room=room)  # type: ignore[arg-type]
    room.join()
    handle = session.say("hello")
    with pytest.raises(RuntimeError, match="not permitted"):
        await session.room_io.wait_for_ready()
    await asyncio.wait_for(asyncio.wait((asyncio.ensure_future(_ended(handle)),)), 5.0)
    assert handle.done()
    await session.aclose()


async def _ended(handle: Any) -> None:
    await handle.wait_for_playout()


async def test_one_thing_that_can_not_be_let_go_of_keeps_nothing_else(fake_rtc: FakeRtc) -> None:
    async with calling(fake_rtc) as call:

        def refuse(topic: str) -> None:
            call.room.text_handlers.pop(topic)
            raise KeyError(topic)

        call.room.unregister_text_stream_handler = refuse  # type: ignore[method-assign]
        await call.session.aclose()
        assert fake_rtc.source.closed


# -- what a close can get stuck in ----------------------------------------------------------------

STUCK = {
    "close_stream": "room audio input",
    "publish_transcription": None,
    "stream_text": None,
    "write": None,
    "close_text": None,
    "set_attributes": None,
    "publish_track": None,
    "wait_for_subscription": None,
    "capture_frame": None,
}


@pytest.mark.parametrize("stubborn", [False, True], ids=["cancellable", "stubborn"])
@pytest.mark.parametrize("call_name", STUCK)
async def test_no_native_call_that_never_returns_holds_the_close_up(
    fake_rtc: FakeRtc, call_name: str, stubborn: bool
) -> None:
    native = fake_rtc.native
    legacy = {"client_protocol": 0}
    early = call_name in ("publish_track", "wait_for_subscription")
    if early:
        native.silent.add(call_name)
        native.stubborn.update([call_name] if stubborn else [])
    async with calling(fake_rtc, caller=legacy) as call:
        native.silent.add(call_name)
        native.stubborn.update([call_name] if stubborn else [])
        call.session.say("let me tell you a long story " * 10)
        await asyncio.sleep(1.0)
        began = now()
        call.room.leave(call.caller)
        event = await call.close_event()
        assert event.reason == "participant_disconnected"
        whole = call.session.options.close_budgets.whole
        assert now() - began <= whole, event.report
        if not early:
            emitted = event.report.requested_at
            assert event.created_at - emitted <= 0.6, "the room is left after the close event"


async def test_a_stream_that_never_ends_is_named(
    fake_rtc: FakeRtc, caplog: pytest.LogCaptureFixture
) -> None:
    async with calling(fake_rtc) as call:
        fake_rtc.native.silent.add("close_stream")
        fake_rtc.native.stubborn.add("close_stream")
        await call.session.aclose()
        [survivor] = call.recorded.closes[0].report.survivors
        assert survivor.name.startswith("close the audio stream of TR_")
        assert "close the audio stream" in caplog.text


async def test_a_stream_whose_close_fails_stops_no_other_step(fake_rtc: FakeRtc) -> None:
    async with calling(fake_rtc) as call:
        fake_rtc.native.failing["close_stream"] = RuntimeError("broken")
        await call.session.aclose()
        report = call.recorded.closes[0].report
        assert {step.name for step in report.steps} >= {
            "room audio input",
            "room audio output",
            "agent transcript",
            "user transcript",
        }
        assert fake_rtc.source.closed


async def test_a_chat_callback_that_ignores_its_cancellation_is_left_behind(
    fake_rtc: FakeRtc,
) -> None:
    release = asyncio.Event()

    async def stubborn(session: Any, event: TextInputEvent) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                pass

    async with calling(fake_rtc) as call:
        call.room_io.register_text_input(stubborn)
        call.room.receive_text("caller", "hello")
        await asyncio.sleep(0.1)
        began = now()
        await call.session.aclose()
        assert now() - began <= STEP
        [survivor] = call.recorded.closes[0].report.survivors
        assert survivor.name == "chat message"
        release.set()


@pytest.mark.parametrize("how", ["aclose", "shutdown"])
async def test_a_chat_callback_may_close_the_session(fake_rtc: FakeRtc, how: str) -> None:
    async def close(session: AgentSession[Any], event: TextInputEvent) -> None:
        if how == "aclose":
            await session.aclose()
        else:
            session.shutdown()

    async with calling(fake_rtc) as call:
        call.room_io.register_text_input(close)
        call.room.receive_text("caller", "that is all")
        await asyncio.sleep(5.0)
        [event] = call.recorded.closes
        assert event.report.finished_at - event.report.requested_at <= STEP


async def test_a_start_that_fails_leaves_the_room_as_it_was(fake_rtc: FakeRtc) -> None:
    session, room = _session(), fake_rtc.room()
    elsewhere = Agent(instructions="")
    async with calling(FakeRtc(pytest.MonkeyPatch())):
        other = _session()
        await other.start(elsewhere)
        with pytest.raises(RuntimeError):
            await session.start(elsewhere, room=room)  # type: ignore[arg-type]
        assert not room.registered
        await other.aclose()
    await session.start(Agent(instructions=""), room=room)  # type: ignore[arg-type]
    await session.aclose()


async def test_a_second_session_in_a_room_takes_the_place_of_the_first_ones_track(
    fake_rtc: FakeRtc,
) -> None:
    room: Any = fake_rtc.room()
    room.join()
    for _ in range(3):
        session = _session()
        await session.start(Agent(instructions=""), room=room)
        await session.room_io.wait_for_ready()
        await asyncio.sleep(0.1)
        assert len(room.sent.track_publications) == 1
        await session.aclose()


class FakeJob:
    """A job whose server answers when a test says so."""

    def __init__(self) -> None:
        self._scope = TaskScope("job")
        self._primary_agent_session: Any = None
        self._session_shutdown_registered: set[Any] = set()
        self.job = SimpleNamespace(enable_recording=False, attributes={})
        self.connecting = asyncio.Event()
        self.deleted: list[str] = []
        self.answer = asyncio.Event()

    def is_fake_job(self) -> bool:
        return False

    def add_shutdown_callback(self, callback: Any) -> None: ...

    def simulation_context(self) -> None: ...

    def init_recording(self, options: Any) -> None: ...

    async def connect(self) -> None:
        await self.connecting.wait()

    def delete_room(self, *, room_name: str) -> asyncio.Task[Any]:
        self.deleted.append(room_name)
        return self._scope.spawn(self.answer.wait())  # type: ignore[arg-type]


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The job that the session runs in; made when first asked for, on the test's loop."""
    made: list[FakeJob] = []

    def current() -> FakeJob:
        if not made:
            made.append(FakeJob())
        return made[0]

    for module in ("session_start", "session_room"):
        monkeypatch.setattr(f"livekit.agents.voice.{module}.current_job", current)
    return current


async def test_a_room_whose_deletion_is_not_answered_is_left_to_the_job(
    fake_rtc: FakeRtc, job: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job().connecting.set()
    async with calling(fake_rtc, room_options=RoomOptions(delete_room_on_close=True)) as call:
        began = now()
        call.room.leave(call.caller)
        await call.session.aclose()
        assert job().deleted == ["a room"] and now() - began <= STEP
        assert "goes on in the background" in caplog.text
        assert not call.recorded.closes[0].report.survivors
        job().answer.set()


async def test_a_room_that_connects_late_is_joined_beside_the_agent(
    fake_rtc: FakeRtc, job: Any
) -> None:
    room: Any = fake_rtc.room(connected=False)
    session = _session()
    starting = asyncio.ensure_future(session.start(Agent(instructions=""), room=room))
    await asyncio.sleep(5.0)
    assert not starting.done()
    room.connect()
    job().connecting.set()
    await starting
    room.join()
    await session.room_io.wait_for_ready()
    await session.aclose()


async def test_a_start_that_is_given_up_while_the_room_connects_does_not_cancel_that(
    fake_rtc: FakeRtc, job: Any
) -> None:
    room: Any = fake_rtc.room(connected=False)
    session = _session()
    starting = asyncio.ensure_future(session.start(Agent(instructions=""), room=room))
    await asyncio.sleep(1.0)
    await session.aclose()
    with pytest.raises(RuntimeError, match="session closed"):
        await starting
    assert not room.registered
    [connecting] = job()._scope.tasks
    assert not connecting.cancelling() if hasattr(connecting, "cancelling") else True
    job().connecting.set()
    await asyncio.wait((connecting,))
    assert not connecting.cancelled()


async def test_a_room_that_can_not_be_connected_fails_the_start(
    fake_rtc: FakeRtc, job: Any
) -> None:
    async def refuse() -> None:
        raise ConnectionError("wrong token")

    job().connect = refuse
    room: Any = fake_rtc.room(connected=False)
    session = _session()
    with pytest.raises(ConnectionError, match="wrong token"):
        await session.start(Agent(instructions=""), room=room)
    assert not room.registered
    await session.aclose()


async def test_deleting_the_room_needs_a_job_and_says_so(
    fake_rtc: FakeRtc, caplog: pytest.LogCaptureFixture
) -> None:
    async with calling(fake_rtc, room_options=RoomOptions(delete_room_on_close=True)) as call:
        await call.session.aclose()
        assert caplog.text.count("delete_room_on_close needs a job") == 1
        assert call.recorded.closes[0].report.clean


async def test_an_agent_kind_can_be_chosen_by_hand(fake_rtc: FakeRtc) -> None:
    async with calling(fake_rtc) as call:
        other = call.room.join("bot", kind=AGENT)
        call.room_io.set_participant("bot")
        assert call.room_io.linked_participant is other
        assert call.room.publish(other).track.streams
