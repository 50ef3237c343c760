"""What an entrypoint can do with its job."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jwt
import pytest
from livekit import rtc
from livekit.protocol import agent, models

from livekit.agents import AgentServer, JobContext, WorkerOptions, get_job_context
from livekit.agents.ipc.mock_room import MockRoom, _participant
from livekit.agents.job import (
    AutoSubscribe,
    JobAcceptArguments,
    JobExecutorType,
    JobProcess,
    RunningJobInfo,
    current_simulation,
)
from livekit.agents.simulation import SimulationMode
from livekit.agents.testing import fake_job_context
from livekit.agents.worker import ServerType

STANDARD = rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD
SIP = rtc.ParticipantKind.PARTICIPANT_KIND_SIP


class Room(MockRoom):
    """A room that participants can join."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: dict[str, list[Any]] = {}
        self.connects: list[rtc.RoomOptions] = []
        self.remote_participants: dict[str, Any] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    def on(self, event: str, callback: Any = None) -> Any:
        self.handlers.setdefault(event, []).append(callback)
        return callback

    async def connect(self, url: str, token: str, options: rtc.RoomOptions) -> None:
        self.connects.append(options)
        await self.gate.wait()

    def join(self, identity: str, kind: int = STANDARD) -> Any:
        participant = _participant(identity, f"PA_{identity}", kind)
        self.remote_participants[identity] = participant
        for handler in self.handlers.get("participant_connected", []):
            handler(participant)
        return participant


def job(room: Any, *, attributes: dict[str, str] | None = None, token: str = "") -> JobContext:
    return JobContext(
        proc=JobProcess(
            executor_type=JobExecutorType.PROCESS, user_arguments=None, http_proxy=None
        ),
        info=RunningJobInfo(
            accept_arguments=JobAcceptArguments("", "agent", ""),
            job=agent.Job(id="AJ_1", room=models.Room(name="room"), attributes=attributes or {}),
            url="ws://host",
            token=token,
            worker_id="AW_1",
            fake_job=False,
        ),
        room=room,
        on_connect=lambda: None,
        on_shutdown=lambda _: None,
        inference_executor=None,  # type: ignore[arg-type]
    )


async def test_connecting_twice_or_at_once_connects_once() -> None:
    room = Room()
    ctx = job(room)
    room.gate.clear()
    calls = [asyncio.ensure_future(ctx.connect()) for _ in range(3)]
    await asyncio.sleep(0)
    room.gate.set()
    await asyncio.gather(*calls)
    await ctx.connect()
    assert len(room.connects) == 1 and room.connects[0].auto_subscribe


async def test_a_cancelled_caller_leaves_the_connection_to_be_made() -> None:
    room = Room()
    ctx = job(room)
    room.gate.clear()
    call = asyncio.ensure_future(ctx.connect())
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.sleep(0)
    assert not ctx._connected
    room.gate.set()
    await ctx.connect()
    assert len(room.connects) == 1


async def test_a_connection_that_fails_can_be_tried_again() -> None:
    room = Room()
    ctx = job(room)

    async def fail(*_: Any, **__: Any) -> None:
        raise rtc.ConnectError("no")

    connect, room.connect = room.connect, fail  # type: ignore[method-assign]
    with pytest.raises(rtc.ConnectError):
        await ctx.connect()
    room.connect = connect  # type: ignore[method-assign]
    await ctx.connect()
    assert ctx._connected


@pytest.mark.parametrize("choice", list(AutoSubscribe))
async def test_only_the_wanted_tracks_are_subscribed(choice: AutoSubscribe) -> None:
    class Publication:
        def __init__(self, kind: int) -> None:
            self.kind = kind
            self.subscribed = False

        def set_subscribed(self, value: bool) -> None:
            self.subscribed = value

    audio, video = (
        Publication(rtc.TrackKind.KIND_AUDIO),
        Publication(rtc.TrackKind.KIND_VIDEO),
    )
    room = Room()
    room.join("user").track_publications = {"a": audio}
    await job(room).connect(auto_subscribe=choice)
    for handler in room.handlers.get("track_published", []):
        handler(video, None)
    assert room.connects[0].auto_subscribe == (choice is AutoSubscribe.SUBSCRIBE_ALL)
    assert audio.subscribed == (choice is AutoSubscribe.AUDIO_ONLY)
    assert video.subscribed == (choice is AutoSubscribe.VIDEO_ONLY)


async def test_participant_entrypoints_run_for_those_there_and_those_to_come(
    caplog: pytest.LogCaptureFixture,
) -> None:
    room = Room()
    ctx = job(room)
    greeted: list[str] = []

    def entrypoint(prefix: str) -> Any:
        async def greet(_: JobContext, participant: Any) -> None:
            greeted.append(prefix + participant.identity)
            await asyncio.sleep(1)

        return greet

    room.join("early")
    ctx.add_participant_entrypoint(entrypoint("1 "))
    await ctx.connect()
    ctx.add_participant_entrypoint(entrypoint("2 "), kind=SIP)
    room.join("caller", SIP)
    ctx.add_participant_entrypoint(entrypoint("3 "))
    room.join("agent", rtc.ParticipantKind.PARTICIPANT_KIND_AGENT)
    room.join("caller", SIP)  # again, while the former visit is still attended to
    await asyncio.sleep(0.1)
    assert sorted(greeted) == [
        *["1 caller"] * 2,
        "1 early",
        *["2 caller"] * 2,
        *["3 caller"] * 2,
        "3 early",
    ]
    assert sum("joined again" in r.getMessage() for r in caplog.records) == 3
    await ctx._participants.cancel(0.1)


async def test_only_callers_can_be_transferred() -> None:
    ctx = job(Room())
    with pytest.raises(AssertionError, match="only SIP participants"):
        ctx.transfer_sip_participant(_participant("user", "PA", STANDARD), "+1")  # type: ignore[arg-type]


async def test_without_a_room_requests_about_it_do_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with fake_job_context() as ctx:
        await ctx.delete_room()
        await ctx.add_sip_participant(call_to="+1", trunk_id="T", participant_identity="x")
        await ctx.transfer_sip_participant("x", "+2")
    assert sum("does nothing" in r.getMessage() for r in caplog.records) == 3


async def test_code_finds_the_job_it_runs_in() -> None:
    assert get_job_context(required=False) is None
    with pytest.raises(RuntimeError, match="no job context found"):
        get_job_context()
    with fake_job_context(job_id="J", job_metadata="m") as ctx:
        assert get_job_context() is ctx
        assert (ctx.job.id, ctx.job.metadata, ctx.is_fake_job()) == ("J", "m", True)
        with pytest.raises(RuntimeError, match="no AgentSession"):
            _ = ctx.primary_session
        with pytest.raises(NotImplementedError, match="no model runs"):
            await ctx.inference_executor.do_inference("x", b"")
        directory = ctx.session_directory
        assert directory.is_dir()
        assert await asyncio.ensure_future(_job_of_task()) is ctx
    assert not directory.exists()


async def _job_of_task() -> JobContext:
    return get_job_context()


def test_the_token_tells_who_the_agent_is() -> None:
    claims = {"sub": "ann", "video": {"roomJoin": True, "room": "lobby"}}
    token = jwt.encode(claims, "a-secret-that-is-long-enough-for-hs256", algorithm="HS256")
    loop = asyncio.new_event_loop()
    try:
        ctx = loop.run_until_complete(_make(token))
    finally:
        loop.close()
    assert ctx.local_participant_identity == ctx.token_claims().identity == "ann"
    assert ctx.token_claims().video is not None and ctx.token_claims().video.room == "lobby"


async def _make(token: str) -> JobContext:
    return job(Room(), token=token)


async def test_a_simulated_job_knows_its_scenario() -> None:
    dispatch = {
        "simulationRunId": "SR_1",
        "jobId": "SJ_1",
        "scenario": {"label": "angry", "userdata": json.dumps({"mood": 1})},
        "somethingNew": True,
    }
    ctx = job(Room(), attributes={"lk.simulator.dispatch": json.dumps(dispatch)})
    simulation = ctx.simulation_context()
    assert simulation is not None and simulation is ctx.simulation_context()
    assert simulation.simulation_run_id == "SR_1" and simulation.userdata() == {"mood": 1}
    assert ctx.inference_headers == {"X-LiveKit-Inference-Priority": "low"}
    assert simulation.simulation_job_id == "SJ_1" and simulation.scenario.label == "angry"
    assert simulation.simulation_mode == SimulationMode.SIMULATION_MODE_TEXT
    assert simulation.job_context is ctx and simulation.simulation_run is None
    with pytest.raises(RuntimeError, match="at the end of the simulation"):
        _ = simulation.simulator_verdict
    simulation.fail("slow")
    simulation.fail("rude")
    assert simulation.user_verdict is not None and simulation.user_verdict.reason == "rude"
    assert simulation.user_verdict is not None and not simulation.user_verdict.success


@pytest.mark.parametrize("text", ["{", "{}", json.dumps({"jobId": "x"})])
async def test_what_describes_no_simulation_is_none(text: str) -> None:
    ctx = job(Room(), attributes={"lk.simulator.dispatch": text})
    assert ctx.simulation_context() is None and ctx.inference_headers == {}
    assert current_simulation() is None


async def test_recording_audio_alone_can_t_be_redacted() -> None:
    ctx = job(Room())
    ctx._redaction_enabled = True
    with pytest.raises(ValueError, match="redaction"):
        ctx.init_recording({"audio": True, "transcript": False})
    ctx.init_recording({"audio": True, "transcript": True})


async def _entry(ctx: JobContext) -> None:
    """An entrypoint."""


def test_options_of_old_make_the_same_server(monkeypatch: pytest.MonkeyPatch) -> None:
    options = WorkerOptions(_entry, agent_name="a", worker_type=ServerType.PUBLISHER, port=5)
    server = AgentServer.from_server_options(options)
    assert (server._entrypoint, server._agent_name, server._type) == (
        _entry,
        "a",
        ServerType.PUBLISHER,
    )
    assert server._options["port"] == 5


def test_the_name_of_an_agent_comes_from_code_or_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def name(given: str) -> str:
        server = AgentServer()
        server.rtc_session(_entry, agent_name=given)
        return server._agent_name

    assert name("code") == "code"
    monkeypatch.setenv("LIVEKIT_AGENT_NAME", "environment")
    assert (name("code"), name("")) == ("code", "environment")
    monkeypatch.setenv("LIVEKIT_AGENT_NAME_OVERRIDE", "override")
    assert name("code") == "override"


def test_a_server_runs_one_kind_of_agent() -> None:
    server = AgentServer()
    assert server.rtc_session()(_entry) is _entry
    with pytest.raises(RuntimeError, match="one server runs one kind of agent"):
        server.rtc_session(_entry)
    with pytest.raises(ValueError, match="log_level"):
        AgentServer(log_level="loud")
    with pytest.raises(TypeError):
        server.setup_fnc = 3  # type: ignore[assignment]


@pytest.mark.parametrize("simulator", [True, False])
async def test_the_simulator_s_departure_ends_the_job(simulator: bool) -> None:
    ended: list[str] = []
    room = Room()
    ctx = job(room, attributes={"lk.simulator.dispatch": json.dumps({"simulationRunId": "SR_1"})})
    ctx._on_shutdown = ended.append
    await ctx.connect()
    participant = room.join("caller")
    participant.attributes = {"lk.simulator": "true"} if simulator else {}
    for handler in room.handlers["participant_disconnected"]:
        handler(participant)
    assert ended == ["simulation completed"] * simulator
    simulation = ctx.simulation_context()
    assert simulation is not None and simulation.userdata() == {}
