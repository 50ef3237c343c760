"""Two nodes of a LiveKit server that share a Redis: jobs cross them, and outlive one of them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from livekit import api

from e2e.harness.caller import Caller
from e2e.harness.jobs import Worker, eventually, working
from e2e.harness.server import LiveKitServer, free_ports

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(180)]


@contextmanager
def redis() -> Iterator[str]:
    """A Redis of its own. Yields its address."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.fail(
            "two nodes share a Redis: apt-get install redis-server, or your system's package"
        )
    (port,) = free_ports(1)
    command = [
        binary,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10.0
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "Redis did not start"
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def run_job(worker: Worker, node: LiveKitServer, room: str, folder: Path) -> None:
    """Have a job for a room that a node makes: there is a caller in it, and the agent joins."""
    worker._server = node

    async def made() -> bool:
        # a node that died is given rooms until the others notice
        try:
            async with node.api() as client:
                await client.room.create_room(api.CreateRoomRequest(name=room))
        except (api.TwirpError, OSError):
            return False
        return True

    await eventually(made, "a room", 30.0)
    with Caller(node.url, node.token(room, "user"), folder / f"{room}.wav") as caller:
        await caller.until("joined")
        await worker.dispatch(room, "brief")
        await worker.trace(room, "ended", 40.0)


async def test_jobs_cross_nodes_and_survive_that_one_goes_away(tmp_path: Path) -> None:
    binary = Path(os.environ["LIVEKIT_SERVER"])
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    with redis() as address:
        one, two = (LiveKitServer(binary, folder, redis=address) for folder in folders)
        with one, two:
            async with working(one, tmp_path, name="nodes") as first:
                await run_job(first, two, "crosses", tmp_path)
                async with working(two, tmp_path, name="nodes") as second:
                    one.crash()
                    await run_job(second, two, "survives", tmp_path)
                    one.start()
                    await eventually(lambda: _registered(first, 2), "the worker to be back", 40.0)
                    second.screen.send_signal(signal.SIGTERM)
                    assert await second.screen.exits() == 0
                await run_job(first, two, "returns", tmp_path)
                first.screen.send_signal(signal.SIGTERM)
                assert await first.screen.exits() == 0


async def _registered(worker: Worker, times: int) -> bool:
    return worker.screen.text.count("registered worker") >= times
