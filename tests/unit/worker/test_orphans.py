"""Processes whose worker is gone end by themselves, whatever they are doing."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.worker import alive, make_server, serve

pytestmark = pytest.mark.real_time

_BLOCKED = """
import socket, sys, time
from livekit.agents.ipc.child_guard import ParentWatch, install_signal_handlers
install_signal_handlers(lambda: None)
ParentWatch(socket.socket(fileno=int(sys.argv[1])), lambda: 0.2)
print("ready", flush=True)
time.sleep(3600)
"""


async def test_a_blocked_process_ends_when_its_worker_is_gone() -> None:
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(  # noqa: ASYNC220 (stands for a job)
        [sys.executable, "-c", _BLOCKED, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    theirs.close()
    try:
        assert process.stdout is not None and process.stderr is not None
        await asyncio.to_thread(process.stdout.readline)
        process.terminate()  # ignored: the worker decides
        ours.close()
        await asyncio.wait_for(asyncio.to_thread(process.wait), 10)
        assert b"the worker is gone" in await asyncio.to_thread(process.stderr.read)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


async def test_processes_can_be_spawned_instead_of_forked(out: Path) -> None:
    server = make_server(multiprocessing_context="spawn", initialize_process_timeout=30.0)
    async with serve(server, out) as serving:
        assert await serving.run("fork") == "JS_SUCCESS"
        pid = int(serving.trace("started-fork") or 0)
        child = int(serving.trace("child-fork") or 0)
        await serving.until(lambda: not alive(pid) and not alive(child))
        job = await serving.offer("vanish")
        assert await serving.livekit.ended(job) == "JS_FAILED"
        assert "code 3" in serving.livekit.error(job)
    assert os.getpid() != pid
