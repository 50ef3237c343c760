"""Offers of jobs: how they are answered, and what becomes of the accepted ones."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from livekit.protocol import agent

import livekit.agents.worker as worker_module
from fakes.livekit_server import API_KEY, API_SECRET, FakeLiveKitServer
from fakes.worker import Serving, scripted, serve
from livekit.agents import AgentServer, AssignmentTimeoutError, JobExecutorType, JobRequest

pytestmark = pytest.mark.real_time


def threaded(
    on_request: Callable[[JobRequest], Any] | None = None, agent_name: str = "", **options: Any
) -> AgentServer:
    """A server whose jobs run in threads, which start at once."""
    defaults: dict[str, Any] = {
        "job_executor_type": JobExecutorType.THREAD,
        "port": 0,
        "host": "127.0.0.1",
        "num_idle_processes": 0,
        "load_threshold": float("inf"),
        "entrypoint_shutdown_timeout": 0.2,
        "shutdown_process_timeout": 1.0,
    }
    server = AgentServer(**{**defaults, **options})
    server.setup_fnc = lambda proc: proc.userdata.update(prepared=True)
    server.rtc_session(scripted, agent_name=agent_name, on_request=on_request)
    return server


async def answer(serving: Serving, job: str) -> agent.AvailabilityResponse:
    await serving.livekit.wait_for(lambda: serving.livekit.answers(job))
    return serving.livekit.answers(job)[0]


async def test_the_agent_appears_in_the_room_as_it_was_accepted(out: Path) -> None:
    async def on_request(request: JobRequest) -> None:
        assert request.agent_name == "support" and request.room.name == "finish"
        await request.accept(
            name="Ann", identity="ann", metadata="{}", attributes={"a": "b", "lk.agent.name": "x"}
        )

    async with serve(threaded(on_request, agent_name="support"), out) as serving:
        assert serving.peer is not None and serving.peer.register.agent_name == "support"
        job = await serving.offer("finish", agent_name="support")
        given = await answer(serving, job)
        assert (given.participant_name, given.participant_identity) == ("Ann", "ann")
        assert dict(given.participant_attributes) == {"a": "b", "lk.agent.name": "x"}
        assert await serving.livekit.ended(job) == "JS_SUCCESS"


async def test_a_rejected_job_goes_to_nobody_unless_said_otherwise(out: Path) -> None:
    for terminate in (True, False):

        async def on_request(request: JobRequest, terminate: bool = terminate) -> None:
            await request.reject(terminate=terminate)
            await request.accept()  # too late: ignored, with a warning

        async with serve(threaded(on_request), out) as serving:
            given = await answer(serving, await serving.offer("finish"))
            assert (given.available, given.terminate) == (False, terminate)


async def _silent(request: JobRequest) -> None:
    """Neither accepts nor rejects."""


async def _broken(request: JobRequest) -> None:
    raise RuntimeError("no")


@pytest.mark.parametrize("on_request", [_silent, _broken])
async def test_a_request_that_nobody_answers_is_rejected_for_this_worker(
    on_request: Any, out: Path
) -> None:
    async with serve(threaded(on_request), out) as serving:
        given = await answer(serving, await serving.offer("finish"))
        assert (given.available, given.terminate) == (False, False)


async def test_a_request_function_that_hangs_is_declined_when_the_worker_closes(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def on_request(request: JobRequest) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("livekit.agents._worker.run._REQUEST_PATIENCE", 0.2)
    server = threaded(on_request)
    async with serve(server, out) as serving:
        job = await serving.offer("finish")
        await asyncio.sleep(0.1)
        await asyncio.wait_for(server.aclose(), 5)
        assert not (await answer(serving, job)).available


async def test_a_job_that_is_never_assigned_times_out(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = []

    async def on_request(request: JobRequest) -> None:
        try:
            await request.accept()
        except AssignmentTimeoutError as error:
            errors.append(error)

    monkeypatch.setattr(worker_module, "ASSIGNMENT_TIMEOUT", 0.2)
    async with serve(threaded(on_request), out) as serving:
        serving.livekit.assign = False
        await serving.offer("finish")
        await serving.until(lambda: errors)


async def test_a_full_or_draining_worker_takes_no_jobs(out: Path) -> None:
    server = threaded(load_threshold=0.5, load_fnc=lambda: 0.9)
    async with serve(server, out) as serving:
        given = await answer(serving, await serving.offer("finish"))
        assert (given.available, given.terminate) == (False, False)
    server = threaded()
    async with serve(server, out) as serving:
        await server.drain()
        assert server.draining
        assert not (await answer(serving, await serving.offer("finish"))).available
    assert not server.draining, "a closed server can be run again"


async def test_a_worker_that_takes_jobs_never_reports_a_load_at_which_it_would_get_none(
    out: Path,
) -> None:
    async with serve(threaded(load_fnc=lambda: 1.0), out) as serving:
        peer = serving.peer
        assert peer is not None

        def last() -> agent.UpdateWorkerStatus | None:
            told = [m.update_worker for m in peer.messages if m.HasField("update_worker")]
            return told[-1] if told and told[-1].load else None

        await serving.livekit.wait_for(last)
        state = last()
        assert state is not None and state.status == agent.WorkerStatus.WS_AVAILABLE
        assert state.load < 1.0


@pytest.mark.parametrize("failing", ["raises", "hangs"])
async def test_a_broken_load_function_leaves_no_offer_unanswered(
    failing: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    let_go = threading.Event()

    def load() -> float:
        if failing == "raises":
            raise RuntimeError("no")
        let_go.wait(20)
        return 0.0

    monkeypatch.setattr("livekit.agents._worker.load._PROBE_TIMEOUT", 0.2)
    async with serve(threaded(load_threshold=0.5, load_fnc=load), out) as serving:
        assert await serving.run("finish") == "JS_SUCCESS"
        let_go.set()


async def test_jobs_go_on_while_the_connection_is_lost_and_are_announced_to_the_next(
    out: Path,
) -> None:
    async with serve(threaded(), out) as serving:
        registered: list[str] = []
        serving.server.on("worker_registered", lambda id, _: registered.append(id))
        job = await serving.offer("stay")
        await serving.livekit.running(job)
        first = serving.peer
        assert first is not None
        await first.ws.close()
        await serving.livekit.wait_for(lambda: serving.livekit.workers[-1] is not first)
        second = serving.livekit.workers[-1]
        await serving.livekit.wait_for(
            lambda: any(job in m.migrate_job.job_ids for m in second.messages)
        )
        assert serving.server.id == registered[-1]
        assert [j.job.id for j in serving.server.active_jobs] == [job]
        await serving.livekit.terminate(second, job)
        assert await serving.livekit.ended(job) == "JS_SUCCESS"


async def test_a_server_that_confirms_nothing_keeps_no_job_from_ending(out: Path) -> None:
    async with serve(threaded(), out) as serving:
        serving.livekit.confirms = False
        assert await serving.run("finish") == "JS_SUCCESS"
        await serving.until(lambda: serving.trace("ended-finish"), 5)


async def test_a_worker_gives_up_when_the_server_can_t_be_reached_for_long(out: Path) -> None:
    server = threaded(max_retry=1, ws_url="ws://127.0.0.1:9", api_key=API_KEY, api_secret="x" * 32)
    with pytest.raises(RuntimeError, match="failed to connect to livekit after 1 attempts"):
        await server.run()
    async with aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{server.worker_info.http_port}/"
        async with http.get(url) as health:
            assert health.status == 503
    await server.aclose()
    await server.aclose()


async def test_a_worker_that_is_refused_says_so_at_once(out: Path) -> None:
    async with FakeLiveKitServer().serve() as livekit:
        livekit.refuse = lambda _: web.Response(status=401)
        server = threaded(ws_url=livekit.url, api_key="wrong", api_secret="x" * 32)
        with pytest.raises(RuntimeError, match="rejects the API key and secret"):
            await server.run()
        await server.aclose()
        assert livekit.attempts == 1


async def test_a_server_that_accepts_and_closes_is_called_with_pauses(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeLiveKitServer().serve() as livekit:
        livekit.close_after_register = True
        server = threaded(ws_url=livekit.url, api_key=API_KEY, api_secret=API_SECRET)
        running = asyncio.get_running_loop().create_task(server.run())
        await livekit.wait_for(lambda: livekit.attempts >= 2)
        await asyncio.sleep(0.5)
        assert livekit.attempts <= 3
        await server.aclose()
        await running


@pytest.mark.parametrize("missing", ["ws_url", "api_key", "api_secret"])
async def test_missing_credentials_are_named(
    missing: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"):
        monkeypatch.delenv(name, raising=False)
    options = {"ws_url": "ws://host", "api_key": "key", "api_secret": "secret"}
    server = threaded(**{**options, missing: None})
    with pytest.raises(ValueError, match=f"{missing} is required"):
        await server.run()
    await server.aclose()


async def test_a_server_runs_once_at_a_time_and_can_be_run_again(out: Path) -> None:
    server = threaded()
    for _ in range(2):
        started = asyncio.Event()
        server.once("worker_started", started.set)
        running = asyncio.get_running_loop().create_task(server.run(unregistered=True))
        await started.wait()
        with pytest.raises(RuntimeError, match="already running"):
            await server.run()
        with pytest.raises(RuntimeError, match="can't be changed"):
            server.update_options(max_retry=1)
        await server.simulate_job("finish", fake_job=True)
        await server.aclose()
        await running
    assert server.active_jobs == []


async def test_a_server_that_is_closed_while_it_starts_does_not_start(out: Path) -> None:
    server = threaded(job_executor_type=JobExecutorType.PROCESS, num_idle_processes=2)
    running = asyncio.get_running_loop().create_task(server.run(unregistered=True))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(server.aclose(), 15)
    await asyncio.wait_for(running, 5)


async def test_a_job_in_a_thread_that_never_ends_is_left_behind_and_failed(
    out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A blocked thread can't be killed; nothing waits for it."""
    import threading

    from fakes.worker import SCRIPTS

    let_go = threading.Event()

    async def block(ctx: Any) -> None:
        let_go.wait(20)

    server = threaded(shutdown_process_timeout=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCRIPTS, "block", block)
        async with serve(server, out) as serving:
            job = await serving.offer("block")
            await serving.until(lambda: serving.trace("started-block"))
            await asyncio.wait_for(server.aclose(), 5)
            assert await serving.livekit.ended(job) == "JS_FAILED"
        let_go.set()


async def test_the_worker_tells_about_itself_over_http(out: Path) -> None:
    async with serve(threaded(agent_name="support"), out) as serving:
        job = await serving.offer("wait")
        await serving.livekit.running(job)
        port = serving.server.worker_info.http_port
        async with aiohttp.ClientSession() as http:
            async with http.get(f"http://127.0.0.1:{port}/") as health:
                assert (health.status, await health.text()) == (200, "OK")
            async with http.get(f"http://127.0.0.1:{port}/worker") as info:
                told = await info.json()
        assert told["worker_type"] == "JT_ROOM" and told["agent_name"] == "support"
        assert told["active_jobs"] == 1 and told["protocol_version"] == 1


async def test_hosted_agents_use_the_default_load(
    out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LIVEKIT_WORKER_TOKEN", "hosted")
    server = threaded(load_fnc=lambda: 5.0, load_threshold=0.1)
    with caplog.at_level(logging.WARNING, "livekit.agents"):
        async with serve(server, out) as serving:
            assert serving.peer is not None
            assert serving.peer.query == {"worker_token": "hosted"}
    told = [record.getMessage() for record in caplog.records]
    assert any("load_fnc is not used" in line for line in told)
    assert any("load_threshold is not used" in line for line in told)
