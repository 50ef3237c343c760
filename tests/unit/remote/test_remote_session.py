"""A session that is followed and steered from elsewhere, through a room or a TCP connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from livekit.protocol.agent_pb import agent_session as pb

from fakes.llm import FakeLLM, Reply
from fakes.room import FakeRoom, FakeRtc, join_rooms
from fakes.session import make_session, now
from livekit.agents import Agent, __version__, function_tool
from livekit.agents.llm import FunctionToolCall
from livekit.agents.simulation import SimulationContext, SimulationVerdict
from livekit.agents.testing import fake_job_context
from livekit.agents.utils.aio import TaskScope
from livekit.agents.voice.events import EotPredictionEvent
from livekit.agents.voice.remote_session import (
    RemoteSession,
    RoomSessionTransport,
    SessionHost,
    SessionTransport,
    TcpSessionTransport,
)
from livekit.agents.voice.room_io import RoomOptions


class Desk(Agent):
    def __init__(self) -> None:
        super().__init__(id="desk", instructions="be brief")

    @function_tool
    async def look_up(self) -> str:
        """Look something up."""
        return "room 7"


class Link:
    """A client and a session in one room, and what the client was told."""

    def __init__(self, session: Any, client: RemoteSession, room: FakeRoom, far: FakeRoom) -> None:
        self.session, self.client, self.room, self.far = session, client, room, far
        self.told: list[tuple[str, Any]] = []
        for name in (
            "agent_state_changed",
            "user_state_changed",
            "conversation_item_added",
            "function_tools_executed",
            "tool_execution_updated",
            "session_usage_updated",
            "eot_prediction",
            "error",
        ):
            client.on(name, lambda event, name=name: self.told.append((name, event)))  # type: ignore[arg-type, misc]

    def named(self, name: str) -> list[Any]:
        return [getattr(event, name) for told, event in self.told if told == name]


@asynccontextmanager
async def following(
    fake_rtc: FakeRtc, llm: FakeLLM | None = None, **start: Any
) -> AsyncIterator[Link]:
    room, far = fake_rtc.room(), fake_rtc.room(identity="observer")
    join_rooms(room, far)
    session = make_session(llm)
    client = RemoteSession.from_room(far, "agent")  # type: ignore[arg-type]
    link = Link(session, client, room, far)
    await client.start()
    options = RoomOptions(audio_output=False)
    await session.start(Desk(), room=room, room_options=options, **start)  # type: ignore[arg-type]
    yield link
    await session.aclose()
    await client.aclose()
    assert not room.registered and not far.registered


async def test_a_client_follows_what_happens(fake_rtc: FakeRtc) -> None:
    call = FunctionToolCall(name="look_up", arguments="{}", call_id="call_1")
    llm = FakeLLM([Reply(tool_calls=[call]), "it is room 7"])
    async with following(fake_rtc, llm) as link:
        await link.client.wait_for_ready()
        await link.session.generate_reply(user_input="where is it")
        await asyncio.sleep(0.1)
        assert link.named("agent_state_changed")[0].new_state == pb.AgentState.AS_LISTENING
        items = [added.item for added in link.named("conversation_item_added")]
        said = [i.message for i in items if i.WhichOneof("item") == "message"]
        assert [part.text for m in said for part in m.content] == ["where is it", "it is room 7"]
        assert items[0].agent_handoff.new_agent_id == "desk", "from before the host started"
        [executed] = link.named("function_tools_executed")
        assert executed.function_calls[0].name == "look_up"
        assert executed.function_call_outputs[0].output == "room 7"
        updates = [u.WhichOneof("update") for u in link.named("tool_execution_updated")]
        assert updates == ["started", "ended"]
        assert len(link.named("session_usage_updated")[-1].usage.model_usage) == 1


async def test_a_client_may_ask_and_is_answered(fake_rtc: FakeRtc) -> None:
    async with following(fake_rtc, FakeLLM(default="good evening")) as link:
        info = await link.client.get_agent_info()
        assert (info.id, info.instructions, list(info.tools)) == ("desk", "be brief", ["look_up"])
        framework = await link.client.get_framework_info()
        assert (framework.sdk, framework.sdk_version) == ("python", __version__)
        state = await link.client.get_session_state()
        assert state.agent_state == pb.AgentState.AS_LISTENING and state.agent_id == "desk"
        assert state.options["max_tool_steps"] == "3"
        ran = await link.client.run("hello")
        assert [item.message.content[0].text for item in ran.items] == ["good evening"]
        history = await link.client.get_chat_history()
        texts = [i.message.content[0].text for i in history.items if i.HasField("message")]
        assert texts == ["hello", "good evening"]
        await link.client.update_io(output_audio_enabled=False, input_audio_enabled=True)
        assert not link.session.output.audio_enabled and link.session.input.audio_enabled


async def test_errors_come_back_in_words(fake_rtc: FakeRtc) -> None:
    async with following(fake_rtc, FakeLLM()) as link:
        with pytest.raises(RuntimeError, match="empty run_input text"):
            await link.client.run("")
        with pytest.raises(RuntimeError, match="not part of a simulation"):
            await link.client.finalize_simulation(provisional_success=True)
        with pytest.raises(RuntimeError, match="unknown request"):
            await link.client._request(pb.SessionRequest(), 1.0)
        link.session.history.items.append(object())  # nothing can be made of it
        with pytest.raises(RuntimeError, match="internal error"):
            await link.client.get_chat_history()
        link.session.history.items.pop()


async def test_who_waits_for_an_answer_when_the_session_closes_gets_one(fake_rtc: FakeRtc) -> None:
    async with following(fake_rtc, FakeLLM(default=Reply(hangs=True))) as link:
        asking = TaskScope("test").spawn(link.client.run("hello"), log_errors=False)
        await asyncio.sleep(1.0)
        began = now()
        await link.session.aclose()
        with pytest.raises(RuntimeError, match="session closed"):
            await asking
        assert now() - began < 1.0


async def test_a_session_without_a_host_is_not_followed(fake_rtc: FakeRtc) -> None:
    async with following(fake_rtc, session_host=False) as link:
        with pytest.raises(TimeoutError):
            await link.client.wait_for_ready(timeout=2.0)


async def test_the_second_session_of_a_room_starts_although_it_can_not_be_followed(
    fake_rtc: FakeRtc, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(fake_rtc) as link:
        other = make_session()
        await other.start(Agent(instructions=""), room=link.room)
        assert "another one of this room is followed" in caplog.text
        await other.aclose()
        assert (await link.client.get_agent_info()).id == "desk"


async def test_a_client_that_is_not_started_or_whose_room_is_gone_says_so(
    fake_rtc: FakeRtc,
) -> None:
    client = RemoteSession.from_room(fake_rtc.room(), "agent")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="not started"):
        await client.get_agent_info()
    async with following(fake_rtc) as link:
        link.far.disconnect()
        with pytest.raises(RuntimeError, match="not connected"):
            await link.client.get_agent_info()


async def test_a_send_that_is_never_answered_does_not_hold_the_close_up(fake_rtc: FakeRtc) -> None:
    async with following(fake_rtc) as link:
        fake_rtc.native.silent.add("send_bytes")
        fake_rtc.native.stubborn.add("send_bytes")
        link.session.generate_reply(user_input="hello")
        await asyncio.sleep(1.0)
        began = now()
        await link.session.aclose()
        assert now() - began <= link.session.options.close_budgets.whole
        fake_rtc.native.release()
        await asyncio.sleep(10.0)


async def test_a_host_that_was_never_started_can_be_closed(fake_rtc: FakeRtc) -> None:
    session, room = make_session(), fake_rtc.room()
    host = SessionHost(RoomSessionTransport(room))  # type: ignore[arg-type]
    host.register_session(session)
    assert await host.aclose() == [] and await host.aclose() == []
    assert not any(session._events.values())


class Pipe(SessionTransport):
    """Messages from a test, and to it."""

    def __init__(self, *messages: pb.AgentSessionMessage) -> None:
        self.messages, self.sent = list(messages), list[pb.AgentSessionMessage]()

    async def start(self) -> None: ...

    async def send_message(self, msg: pb.AgentSessionMessage) -> None:
        self.sent.append(msg)

    async def close(self) -> None: ...

    def __aiter__(self) -> AsyncIterator[pb.AgentSessionMessage]:
        return self

    async def __anext__(self) -> pb.AgentSessionMessage:
        if not self.messages:
            raise StopAsyncIteration
        return self.messages.pop(0)


async def test_audio_of_a_client_reaches_the_input() -> None:
    frames: list[Any] = []
    played: list[bool] = []
    message = pb.AgentSessionMessage()
    message.audio_input.data = bytes(960)
    message.audio_input.sample_rate, message.audio_input.num_channels = 48000, 1
    message.audio_input.samples_per_channel = 480
    finished = pb.AgentSessionMessage()
    finished.audio_playback_finished.SetInParent()
    source: Any = type("Input", (), {"push_frame": lambda self, frame: frames.append(frame)})()
    sink: Any = type("Output", (), {"notify_playout_finished": lambda self: played.append(True)})()
    host = SessionHost(Pipe(message, finished), source, sink)
    await host.start()
    host._on_eot_prediction(
        EotPredictionEvent(probability=0.75, threshold=0.5, inference_duration=0.02, delay=1.25)
    )
    await asyncio.sleep(0.1)
    await host.aclose()
    assert frames[0].sample_rate == 48000 and played == [True]
    sent: Any = host._transport
    event = sent.sent[0].event.eot_prediction
    assert event.probability == 0.75 and event.delay.seconds == 1
    assert event.delay.nanos == 250_000_000


async def test_requests_that_do_not_end_are_named(caplog: pytest.LogCaptureFixture) -> None:
    session = make_session(FakeLLM(default=Reply(hangs=True)))
    await session.start(Desk())
    run = pb.SessionRequest(request_id="1", run_input=pb.SessionRequest.RunInput(text="hello"))
    host = SessionHost(Pipe(pb.AgentSessionMessage(request=run)))
    host.register_session(session)
    await host.start()
    await asyncio.sleep(0.1)
    began = now()
    await host.aclose()
    assert now() - began == pytest.approx(3.0, abs=0.3)
    assert "request run_input" in caplog.text
    await session.aclose()


# -- TCP ------------------------------------------------------------------------------------------


@asynccontextmanager
async def peer() -> AsyncIterator[tuple[TcpSessionTransport, asyncio.StreamReader, Any]]:
    """A transport that is connected, and the other end of its connection."""
    accepted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(
        lambda reader, writer: accepted.set_result((reader, writer)), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    transport = TcpSessionTransport("127.0.0.1", port)
    await transport.start()
    reader, writer = await accepted
    yield transport, reader, writer
    await transport.close()
    await transport.close()
    writer.close()
    server.close()


def framed(message: pb.AgentSessionMessage) -> bytes:
    data = message.SerializeToString()
    return len(data).to_bytes(4, "big") + data


def ping(request_id: str) -> pb.AgentSessionMessage:
    request = pb.SessionRequest(request_id=request_id, ping=pb.SessionRequest.Ping())
    return pb.AgentSessionMessage(request=request)


@pytest.mark.real_time
async def test_tcp_messages_are_framed_by_their_length() -> None:
    async with peer() as (transport, reader, writer):
        writer.write(framed(ping("one")) + framed(ping("two"))[:7])
        first = await transport.__anext__()
        writer.write(framed(ping("two"))[7:])
        second = await transport.__anext__()
        assert [m.request.request_id for m in (first, second)] == ["one", "two"]
        await transport.send_message(ping("three"))
        await asyncio.to_thread(transport.send_message_threadsafe, ping("four"))
        expected = framed(ping("three")) + framed(ping("four"))
        assert await reader.readexactly(len(expected)) == expected
        writer.close()
        assert [m async for m in transport] == []


@pytest.mark.real_time
async def test_a_tcp_message_that_is_too_large_ends_the_stream(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with peer() as (transport, _, writer):
        writer.write((1 << 21).to_bytes(4, "big"))
        assert [m async for m in transport] == []
        assert "too large" in caplog.text


@pytest.mark.real_time
async def test_a_tcp_peer_that_stops_reading_does_not_hold_the_close_up() -> None:
    async with peer() as (transport, _, _writer):
        big = pb.AgentSessionMessage()
        big.audio_output.data = bytes(900_000)
        sending = TaskScope("test").spawn(_flood(transport, big), log_errors=False)
        await asyncio.sleep(0.3)
        assert not sending.done(), "waits above 64 KiB"
        await asyncio.wait_for(transport.close(), 20.0)
        await asyncio.wait((sending,), timeout=20.0)
        with pytest.raises(RuntimeError, match="not connected"):
            await transport.send_message(big)
        transport.send_message_threadsafe(big)


async def _flood(transport: TcpSessionTransport, message: pb.AgentSessionMessage) -> None:
    for _ in range(100):
        await transport.send_message(message)


async def test_a_simulator_finalises_and_is_told_the_agent_s_own_verdict(
    fake_rtc: FakeRtc,
) -> None:
    dispatch = '{"simulationRunId": "SR_1"}'
    with fake_job_context() as ctx:
        ctx.job.attributes["lk.simulator.dispatch"] = dispatch
        async with following(fake_rtc) as link:
            simulation = ctx.simulation_context()
            assert simulation is not None
            answer = await link.client.finalize_simulation(
                provisional_success=True, provisional_reason="polite"
            )
            assert simulation.simulator_verdict == SimulationVerdict(True, "polite")
            assert simulation.simulation_run is not None and simulation.simulation_run.id == "SR_1"
            assert not answer.HasField("user_verdict")

            async def veto(of: SimulationContext) -> None:
                of.fail(f"not {of.simulator_verdict.reason}")

            ctx._simulation_end_fnc = veto
            answer = await link.client.finalize_simulation(
                provisional_success=True, provisional_reason="on time"
            )
            assert not answer.user_verdict.success
            assert answer.user_verdict.reason == "not on time"

            def broken(of: SimulationContext) -> None:
                raise OSError("no database")

            ctx._simulation_end_fnc = broken
            with pytest.raises(RuntimeError, match="on_simulation_end failed: no database"):
                await link.client.finalize_simulation(provisional_success=True)
