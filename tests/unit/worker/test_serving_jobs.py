"""A worker, registered with a server, runs jobs in processes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from fakes.worker import alive, make_server, serve

pytestmark = pytest.mark.real_time


async def test_job_is_taken_run_and_reported_as_success(out: Path) -> None:
    async with serve(make_server(), out) as serving:
        job = await serving.offer("finish")
        assert await serving.livekit.ended(job) == "JS_SUCCESS"
        assert serving.livekit.statuses(job) == ["JS_RUNNING", "JS_SUCCESS"]
        await serving.until(lambda: serving.trace("ended-finish") == "all done")
        assert serving.livekit.answers(job)[0].participant_identity == f"agent-{job}"


async def test_a_bug_in_the_entrypoint_fails_the_job_and_callbacks_still_run(out: Path) -> None:
    async with serve(make_server(), out) as serving:
        job = await serving.offer("raise")
        assert await serving.livekit.ended(job) == "JS_FAILED"
        assert serving.livekit.error(job) == "ValueError: the agent has a bug"
        await serving.until(lambda: serving.trace("ended-raise") == "job crashed")


async def test_a_process_that_vanishes_fails_its_job_alone(out: Path) -> None:
    async with serve(make_server(), out) as serving:
        other = await serving.offer("stay")
        job = await serving.offer("vanish")
        assert await serving.livekit.ended(job) == "JS_FAILED"
        assert "code 3" in serving.livekit.error(job)
        assert serving.livekit.statuses(other) == ["JS_RUNNING"]


async def test_closing_the_worker_ends_jobs_and_tells_the_server_before_it_disconnects(
    out: Path,
) -> None:
    server = make_server()
    async with serve(server, out) as serving:
        job = await serving.offer("wait")
        await serving.livekit.running(job)
        await serving.until(lambda: serving.trace("started-wait"))
        await server.aclose()
        assert serving.livekit.statuses(job) == ["JS_RUNNING", "JS_SUCCESS"]
        assert serving.trace("ended-wait") == "parent process shutdown"


async def test_a_blocked_event_loop_is_killed_when_the_worker_closes(out: Path) -> None:
    server = make_server(shutdown_process_timeout=0.5)
    async with serve(server, out) as serving:
        job = await serving.offer("block")
        await serving.until(lambda: serving.trace("started-block"))
        began = time.monotonic()
        await server.aclose()
        assert time.monotonic() - began < 5
        assert await serving.livekit.ended(job) == "JS_FAILED"
        assert "did not ack" in serving.livekit.error(job)
        assert not alive(int(serving.trace("started-block") or 0))


async def test_an_entrypoint_that_ignores_its_cancellation_ends_with_its_job(out: Path) -> None:
    async with serve(make_server(), out) as serving:
        assert await serving.run("stubborn") == "JS_SUCCESS"
        pid = int(serving.trace("started-stubborn") or 0)
        await serving.until(lambda: not alive(pid))
        assert serving.trace("ended-stubborn") == "stubborn"


async def test_what_a_job_leaves_behind_ends_with_it(out: Path) -> None:
    async with serve(make_server(), out) as serving:
        for room in ("fork", "thread"):
            assert await serving.run(room) == "JS_SUCCESS"
            pid = int(serving.trace(f"started-{room}") or 0)
            await serving.until(lambda pid=pid: not alive(pid))
        child = int(serving.trace("child-fork") or 0)
        await serving.until(lambda: not alive(child))
        await asyncio.wait_for(serving.server.aclose(), 5)


async def test_a_callback_that_hangs_keeps_no_other_from_running_nor_the_job_from_success(
    out: Path,
) -> None:
    server = make_server(shutdown_process_timeout=1.0)
    async with serve(server, out) as serving:
        assert await serving.run("hang") == "JS_SUCCESS"
        await serving.until(lambda: serving.trace("callback-hang"))
        assert serving.trace("ended-hang") == "with callbacks"
        pid = int(serving.trace("started-hang") or 0)
        await server.aclose()
        assert not alive(pid)


async def test_a_warm_process_takes_the_job_at_once(out: Path) -> None:
    async with serve(make_server(num_idle_processes=1), out) as serving:
        began = time.monotonic()
        assert await serving.run("finish") == "JS_SUCCESS"
        assert time.monotonic() - began < 2
