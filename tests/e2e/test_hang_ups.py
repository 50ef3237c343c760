"""Every way to hang up, in every state of the agent: the session closes, and the job is over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from gateway import GatewayEmulator
from livekit import api

from e2e.harness.call import calling
from e2e.harness.caller import Caller
from e2e.harness.jobs import Worker, eventually, until, working
from e2e.harness.network import Line, Network
from e2e.harness.server import LiveKitServer
from e2e.harness.speech import Speech
from fakes.llm import FakeLLM
from fakes.worker import alive

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(240)]

DESK = Path(__file__).parent / "harness" / "desk.py"
ABSENCE = 0.5
"""Seconds for which a caller who was lost may be away; the others meant to go."""

WAYS = (
    "leaves",
    "is killed",
    "room is deleted",
    "is removed",
    "server is restarted",
    "freezes",
    "network is cut",
)
STATES = ("listening", "thinking", "speaking", "wedged tool", "handoff", "during start")

LOST = ("is killed", "is removed", "server is restarted", "freezes", "network is cut")
"""These callers might come back."""

NOTICE = {"is killed": 45.0, "freezes": 60.0, "network is cut": 60.0, "server is restarted": 60.0}
"""Seconds until the server tells that the caller is gone; it waits for a lost one to resume."""

CLOSE = {"wedged tool": 5.0 + 0.5, "handoff": 5.0 + 0.5}
"""Seconds from then to the `close` event: the forced allowance, when something uses it up."""

SLACK = 1.5
"""Seconds for a machine that does other things, too."""

GONE = 45.0
"""Seconds for the server to see that the agent is gone: it ignores a goodbye that it gets while it
writes to a client that has just hung up, and waits for that one to resume."""

OVER = 8.0
"""Seconds from the `close` event to the end of the process, what is wedged in it included."""

TITLE = (
    "how the caller goes  while the agent is  noticed after  closed after  process gone  "
    "sockets  agents  jobs"
)


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Rows of the table that is printed when all ways have been tried."""
    rows: list[str] = []
    yield rows
    print("\n\n" + TITLE)
    print("\n".join(rows))


@dataclass
class Desk:
    """A call that a job has taken."""

    state: str
    room: str
    caller: Caller
    worker: Worker
    server: LiveKitServer
    gateway: GatewayEmulator
    line: Line | None

    async def bring_into_state(self) -> None:
        """Have the job take the call, and the agent get into its state."""
        await self.caller.until("joined")
        plan = {"state": self.state, "gateway": self.gateway.arguments()}
        await self.worker.dispatch(self.room, json.dumps(plan))
        if self.state != "during start":
            await self._in("listening")
        if self.state not in ("listening", "during start"):
            self.caller.write("hello")
        await self._in(self.state)
        if self.state == "speaking":
            await self.caller.until("hears")
        await eventually(self._together, f"agent and caller in {self.room}")
        if self.state != "during start":
            await until(lambda: bool(self.gateway.open_connections), "the agent's ears")

    async def _in(self, state: str) -> None:
        def there() -> bool:
            states = self.worker.traces(self.room, "in state")
            return any(trace["state"] == state for trace in states)

        await self.worker.until(there, f"the agent is {state}", 40.0)

    async def _together(self) -> bool:
        return len(await self.server.identities(self.room)) == 2

    async def outcome(self, way: str, hung_up: float) -> str:
        """Wait for the end of the job, and judge it. Returns a row of the table."""
        worker, room = self.worker, self.room
        closed = await worker.trace(room, "closed", NOTICE.get(way, 5.0) + 10.0)
        noticed = min(
            trace["at"]
            for event in ("participant_disconnected", "disconnected", "closed")
            for trace in worker.traces(room, event)
            if trace["at"] >= hung_up
        )
        ended = await worker.trace(room, "ended", OVER)
        await until(lambda: not alive(ended["pid"]), "the end of the process", OVER)
        gone = time.time()
        closing = closed["at"] - noticed - (ABSENCE if way in LOST else 0.0)
        # the server ends the job of a deleted room, too: who of the two is faster is left open
        either = ("participant_disconnected", *(["user_initiated"] * (way == "room is deleted")))
        assert closed["reason"] in either
        await until(lambda: self.gateway.open_sockets == 0, "the end of the sockets", 1.0)
        ears = {record.closed_by for record in self.gateway.of("stt")}
        assert ears <= {"client"}, f"{self.state}: closed in order, not lost with the process"
        assert len(worker.traces(room, "closed")) == len(worker.traces(room, "ended")) == 1
        assert closing <= CLOSE.get(self.state, 0.5) + SLACK, self.state
        agents, jobs = await eventually(
            partial(self._left_at_server, way), "the server to see the end", GONE
        )
        if way not in ("server is restarted", "room is deleted"):
            # the server takes the agent out of a deleted room, and may say that it had left
            assert worker.endings(room) == ["JS_SUCCESS"], self.state
        return (
            f"{way:19}  {self.state:18}  {noticed - hung_up:10.2f} s   {closing:9.3f} s   "
            f"{gone - closed['at']:9.2f} s   {self.gateway.open_sockets:6}  {agents:6}  {jobs:4}"
        )

    async def _left_at_server(self, way: str) -> tuple[int, int] | None:
        """How many agents and running jobs the server sees; None while there are any."""
        agents = [who for who in await self.server.identities(self.room) if who != "caller"]
        # a server that was started again never knew the jobs of its predecessor
        jobs = 1 - len(self.worker.endings(self.room)) if way != "server is restarted" else 0
        return None if agents or jobs else (len(agents), jobs)


async def hang_up(way: str, server: LiveKitServer, desks: list[Desk]) -> None:
    """Have all callers go."""
    if way == "server is restarted":
        server.crash()
        for desk in desks:
            desk.caller.kill()
        server.start()
    else:
        await asyncio.gather(*(_hang_up_one(way, server, desk) for desk in desks))


async def _hang_up_one(way: str, server: LiveKitServer, desk: Desk) -> None:
    if way == "leaves":
        desk.caller.leave()
    elif way == "is killed":
        desk.caller.kill()
    elif way == "freezes":
        desk.caller.freeze()
    elif way == "network is cut":
        assert desk.line is not None
        desk.line.cut()
    else:
        async with server.api() as client:
            if way == "room is deleted":
                await client.room.delete_room(api.DeleteRoomRequest(room=desk.room))
            else:
                await client.room.remove_participant(
                    api.RoomParticipantIdentity(room=desk.room, identity="caller")
                )


@contextmanager
def place(
    way: str, request: pytest.FixtureRequest, folder: Path
) -> Iterator[tuple[LiveKitServer, Network | None]]:
    """The server for the calls of one way to hang up: its own, if that ends it."""
    if way == "server is restarted":
        with LiveKitServer(Path(os.environ["LIVEKIT_SERVER"]), folder) as own:
            yield own, None
    elif way == "network is cut":
        yield request.getfixturevalue("far_server"), request.getfixturevalue("network")
    else:
        yield request.getfixturevalue("server"), None


@asynccontextmanager
async def desks(
    server: LiveKitServer, worker: Worker, folder: Path, network: Network | None
) -> AsyncIterator[list[Desk]]:
    """A call in each state, all at the same time."""
    async with AsyncExitStack() as stack:
        calls = []
        for state in STATES:
            room = f"{worker.name}-{state}".replace(" ", "-")
            token, recording = server.token(room, "caller"), folder / f"{room}.wav"
            gateway = await stack.enter_async_context(GatewayEmulator(keep_audio=False))
            line = None if network is None else stack.enter_context(network.line())
            caller = stack.enter_context(Caller(server.url, token, recording, line=line))
            calls.append(Desk(state, room, caller, worker, server, gateway, line))
        await asyncio.gather(*(desk.bring_into_state() for desk in calls))
        yield calls


@pytest.mark.parametrize("way", WAYS)
async def test_the_job_is_over_when_the_caller(
    way: str, request: pytest.FixtureRequest, tmp_path: Path, table: list[str]
) -> None:
    name = "desk-" + way.replace(" ", "-")
    with place(way, request, tmp_path) as (there, network):
        async with working(there, tmp_path, name=name, idle=2, program=DESK) as worker:
            async with desks(there, worker, tmp_path, network) as calls:
                hung_up = time.time()
                await hang_up(way, there, calls)
                table += await asyncio.gather(*(desk.outcome(way, hung_up) for desk in calls))
            worker.screen.send_signal(signal.SIGTERM)
            assert await worker.screen.exits() == 0


async def test_a_caller_who_was_thrown_out_may_come_back_and_is_heard(
    server: LiveKitServer, speech: Speech, tmp_path: Path
) -> None:
    question = await speech.say("What are your opening hours?", after=0.5)
    llm = FakeLLM(default="I have booked a table.")
    async with calling(server, tmp_path / "first.wav", llm=llm) as call:
        async with server.api() as client:
            await client.room.remove_participant(
                api.RoomParticipantIdentity(room=call.name, identity="caller")
            )
        await call.until(lambda: call.session.room_io.linked_participant is None, "the removal")
        token = server.token(call.name, "caller")
        with Caller(server.url, token, tmp_path / "second.wav") as again:
            await again.until("subscribed")
            room_io = call.session.room_io
            await call.until(lambda: room_io.linked_participant is not None, "the new link")
            again.speak(question)
            await call.agent_is("speaking")
            await again.until("hears")
            again.leave()
            closed = await call.closed(within=5.0)
    assert "hours" in llm.requests[-1].user_text
    assert closed.reason == "participant_disconnected"
