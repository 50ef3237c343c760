"""Jobs on a real server: dispatched, run in processes of a worker, ended in every way."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from livekit import api

from e2e.harness.caller import Caller
from e2e.harness.jobs import PROGRAM, Worker, eventually, until, working
from e2e.harness.server import LiveKitServer
from fakes.terminal import terminal
from fakes.worker import alive

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(180)]


async def test_a_job_that_ended_normally_is_a_success_and_stays_one(
    server: LiveKitServer, tmp_path: Path
) -> None:
    async with working(server, tmp_path, name="jobs-success") as worker:
        with Caller(server.url, server.token("success", "user"), tmp_path / "heard.wav") as caller:
            await caller.until("joined")
            await worker.dispatch("success", "brief")
            ended = await worker.trace("success", "ended")
            assert ended["reason"] == "the session is closed"
            await until(lambda: not alive(ended["pid"]), "the end of the process")
            assert await server.identities("success") == {"user"}
            assert worker.endings("success") == ["JS_SUCCESS"]
        worker.screen.send_signal(signal.SIGTERM)
        assert await worker.screen.exits() == 0


@pytest.mark.parametrize("way", ["leaves", "is killed"])
async def test_a_caller_who_hangs_up_ends_the_session_and_the_room_ends_the_job(
    way: str, server: LiveKitServer, tmp_path: Path
) -> None:
    room = way.replace(" ", "-")
    async with working(server, tmp_path, name=f"jobs-{room}") as worker:
        with Caller(server.url, server.token(room, "user"), tmp_path / "heard.wav") as caller:
            await caller.until("joined")
            await worker.dispatch(room)
            started = await worker.trace(room, "talking")
            if way == "leaves":
                caller.leave()
                closed = await worker.trace(room, "closed")
                assert closed["reason"] == "participant_disconnected"
            else:
                caller.kill()
        async with server.api() as client:
            await client.room.delete_room(api.DeleteRoomRequest(room=room))
        ended = await worker.trace(room, "ended")
        assert ended["reason"] == "room disconnected"
        await until(lambda: not alive(started["pid"]), "the end of the process")
        assert len(worker.traces(room, "closed")) == 1
        assert worker.endings(room) == ["JS_SUCCESS"]
        worker.screen.send_signal(signal.SIGTERM)
        assert await worker.screen.exits() == 0


@pytest.mark.parametrize("command", ["start", "dev"])
async def test_sigterm_ends_the_worker_under_a_wedged_tool(
    command: str, server: LiveKitServer, tmp_path: Path
) -> None:
    room = f"wedged-{command}"
    options = ("--drain-timeout", "1") if command == "start" else ("--no-reload",)
    async with working(server, tmp_path, *options, name=room, command=command) as worker:
        with Caller(server.url, server.token(room, "user"), tmp_path / "heard.wav") as caller:
            await caller.until("joined")
            await worker.dispatch(room, "wedged")
            wedged = await worker.trace(room, "wedged")
            began = time.monotonic()
            worker.screen.send_signal(signal.SIGTERM)
            assert await worker.screen.exits(40.0) == 0
            took = time.monotonic() - began
            # drain 1 s, forced close 5 + 0.5 s, what ignores its end 2 s each; the rest is slack
            assert took < 20, f"it took {took:.1f} s"
            assert len(worker.traces(room, "closed")) == 1
            assert worker.traces(room, "ended")[0]["reason"] == "parent process shutdown"
            assert not alive(wedged["pid"])
            await eventually(lambda: _only(server, room, {"user"}), "the agent to be gone")
            assert worker.endings(room) == ["JS_SUCCESS"]


async def _only(server: LiveKitServer, room: str, expected: set[str]) -> bool:
    return await server.identities(room) == expected


async def test_a_killed_worker_leaves_nothing_and_the_other_gets_the_next_job(
    server: LiveKitServer, tmp_path: Path
) -> None:
    name = "jobs-killed"
    async with working(server, tmp_path, name=name) as first:
        with Caller(server.url, server.token("first", "user"), tmp_path / "heard.wav") as caller:
            await caller.until("joined")
            await first.dispatch("first")
            talking = await first.trace("first", "talking")
            async with working(server, tmp_path, name=name) as second:
                first.screen.send_signal(signal.SIGKILL)
                await first.screen.exits()
                ended = await second.trace("first", "ended")
                assert ended["reason"] == "the worker is gone"
                await until(lambda: not alive(talking["pid"]), "the end of the process")
                await eventually(lambda: _only(server, "first", {"user"}), "the agent to be gone")
                await second.dispatch("next", "brief")
                await second.trace("next", "ended")
                second.screen.send_signal(signal.SIGTERM)
                assert await second.screen.exits() == 0


async def test_twenty_jobs_at_once(server: LiveKitServer, tmp_path: Path) -> None:
    rooms = [f"many-{number}" for number in range(20)]
    async with working(server, tmp_path, name="jobs-many", idle=2) as worker:
        began = {room: time.time() for room in rooms}
        await asyncio.gather(*(worker.dispatch(room, "brief") for room in rooms))
        await asyncio.gather(*(worker.trace(room, "ended", 100.0) for room in rooms))
        traces = {room: worker.traces(room) for room in rooms}
        await until(
            lambda: not any(alive(t[0]["pid"]) for t in traces.values()), "the end of all processes"
        )
        assert len({t[0]["pid"] for t in traces.values()}) == len(rooms)
        latencies = sorted(traces[room][0]["at"] - began[room] for room in rooms)
        print(
            f"\ndispatch to entrypoint, 20 at once: median {statistics.median(latencies):.2f} s, "
            f"slowest {latencies[-1]:.2f} s"
        )
        for room in rooms:
            assert worker.endings(room) == ["JS_SUCCESS"], room
        worker.screen.send_signal(signal.SIGTERM)
        assert await worker.screen.exits() == 0


async def test_connect_joins_one_room_without_a_dispatch(
    server: LiveKitServer, tmp_path: Path
) -> None:
    env = {
        "LIVEKIT_URL": server.url,
        "LIVEKIT_API_KEY": server.key,
        "LIVEKIT_API_SECRET": server.secret,
        "E2E_OUT": str(tmp_path),
    }
    options = ("connect", "--room", "lobby", "--participant-identity", "ann")
    async with terminal(PROGRAM, *options, env=env) as screen:
        worker = Worker(server, screen, "", tmp_path)
        await worker.trace("lobby", "talking")
        assert await server.identities("lobby") == {"ann"}
        screen.interrupt()
        assert await screen.exits() == 0
        await eventually(lambda: _only(server, "lobby", set()), "the agent to be gone")
        assert worker.traces("lobby", "ended")[0]["reason"] == "parent process shutdown"


@pytest.mark.timeout(900)
async def test_two_hundred_jobs_in_a_row_leave_the_worker_as_it_was(
    server: LiveKitServer, tmp_path: Path
) -> None:
    async with working(server, tmp_path, name="jobs-row", idle=2) as worker:
        process = psutil.Process(worker.screen.process.pid)
        latencies: list[float] = []
        usage: list[tuple[float, int, int]] = []
        for number in range(200):
            room, began = f"row-{number}", time.time()
            await worker.dispatch(room, "brief")
            await worker.trace(room, "ended")
            latencies.append(worker.traces(room)[0]["at"] - began)
            if number in (20, 199):
                await asyncio.sleep(1.0)  # the last processes end, idle ones start
                children = process.children(recursive=True)
                usage.append((process.memory_info().rss / 2**20, len(children), process.num_fds()))
        latencies.sort()
        print(
            f"\ndispatch to entrypoint, 200 in a row: p50 {latencies[100] * 1000:.0f} ms, "
            f"p99 {latencies[197] * 1000:.0f} ms; worker after 20 and 200 jobs (MB, processes, "
            f"descriptors): {usage}"
        )
        (memory, processes, descriptors), after = usage
        assert after[0] < memory + 15
        assert after[1] <= processes and after[2] <= descriptors + 5
        endings = Counter(tuple(worker.endings(f"row-{number}")) for number in range(200))
        assert endings == {("JS_SUCCESS",): 200}
        worker.screen.send_signal(signal.SIGTERM)
        assert await worker.screen.exits() == 0
