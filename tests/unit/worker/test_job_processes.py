"""Job processes: how they start, fail to start, are watched, log, and infer."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fakes.worker import Echo, alive, make_server, prepare_badly, prepare_for_ever, serve
from livekit.agents.inference_runner import _InferenceRunner

pytestmark = pytest.mark.real_time


def idle_pids(server: Any) -> list[int]:
    """The processes that wait for a job."""
    return [p.pid for p in server._run._pool.processes if p.running_job is None and p.pid]


def read_dump(folder: Path, pid: str | None) -> str:
    """What a process wrote down before it was killed."""
    (dump,) = folder.glob(f"livekit-agents-pid-{pid}-*.stacktrace")
    return dump.read_text(encoding="utf-8")


async def test_processes_that_can_t_be_prepared_are_not_tried_without_pause(
    out: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("livekit.agents.ipc.proc_pool._BACKOFF_BASE", 0.05)
    server = make_server(setup_fnc=prepare_badly, num_idle_processes=1)
    async with serve(server, out) as serving:
        job = await serving.offer("finish")
        assert await serving.livekit.ended(job) == "JS_FAILED"
        assert "no job process can be initialized" in serving.livekit.error(job)
        failures = [r for r in caplog.records if r.getMessage() == "error initializing process"]
        assert 1 <= len(failures) <= 6
        assert "the model is missing" in str(failures[0].exc_info)


async def test_a_process_that_never_gets_ready_is_killed(
    out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_server(setup_fnc=prepare_for_ever, initialize_process_timeout=0.5)
    async with serve(server, out) as serving:
        await serving.offer("finish")
        await serving.until(
            lambda: any("did not initialize in time" in r.getMessage() for r in caplog.records)
        )
        pids = [getattr(r, "pid", 0) for r in caplog.records if "did not init" in r.getMessage()]
        await serving.until(lambda: not alive(pids[0]))


async def test_an_idle_process_that_dies_is_replaced_and_gets_no_job(out: Path) -> None:
    server = make_server(num_idle_processes=1)
    async with serve(server, out) as serving:
        (first,) = idle_pids(server)
        os.kill(first, signal.SIGKILL)
        await serving.until(lambda: idle_pids(server) not in ([], [first]))
        assert await serving.run("finish") == "JS_SUCCESS"
        assert serving.trace("started-finish") != str(first)


async def test_signals_to_the_group_don_t_end_processes_nor_their_jobs(out: Path) -> None:
    async with serve(make_server(), out) as serving:
        job = await serving.offer("wait")
        await serving.until(lambda: serving.trace("started-wait"))
        pid = int(serving.trace("started-wait") or 0)
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
        await asyncio.sleep(0.3)
        assert alive(pid) and serving.livekit.statuses(job) == ["JS_RUNNING"]
        assert os.getpgid(pid) == pid, "it leads a group of its own"


async def test_a_process_that_uses_too_much_memory_is_killed(
    out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("livekit.agents.ipc.supervised_proc._MEMORY_INTERVAL", 0.1)
    async with serve(make_server(job_memory_limit_mb=200), out) as serving:
        job = await serving.offer("grow")
        assert await serving.livekit.ended(job) == "JS_FAILED"
        assert "exceeded memory limit" in serving.livekit.error(job)
    record = next(r for r in caplog.records if "exceeded memory limit" in r.getMessage())
    assert record.__dict__["memory_usage_mb"] > 200
    assert record.__dict__["job_id"] == job and record.__dict__["has_running_job"]


async def test_a_process_that_answers_no_pings_is_killed_and_dumps_its_stacks(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("livekit.agents.ipc.proc_pool._PING_INTERVAL", 0.2)
    monkeypatch.setattr("livekit.agents.ipc.proc_pool._PING_TIMEOUT", 1.5)
    monkeypatch.setenv("LK_DUMP_STACK_TRACES", "1")
    monkeypatch.setenv("LK_DUMP_DIR", str(out))
    async with serve(make_server(), out) as serving:
        job = await serving.offer("block")
        assert await serving.livekit.ended(job) == "JS_FAILED"
        assert "unresponsive" in serving.livekit.error(job)
        pid = serving.trace("started-block")
    text = read_dump(out, pid)
    assert "in _block" in text and "job_user_entrypoint" in text


async def test_what_a_job_logs_arrives_with_the_fields_of_its_process(
    out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serve(make_server(), out) as serving:
        job = await serving.offer("finish")
        await serving.livekit.ended(job)
        await serving.until(
            lambda: any(r.getMessage() == "a line from the job" for r in caplog.records)
        )
        pid = int(serving.trace("started-finish") or 0)
    record = next(r for r in caplog.records if r.getMessage() == "a line from the job")
    fields = record.__dict__
    assert fields["from_job"] == job and fields["job_id"] == job and fields["room"] == "finish"
    assert fields["pid"] == record.process == pid


async def test_jobs_share_one_process_for_local_models_which_is_replaced_when_it_dies(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_InferenceRunner, "registered_runners", {"test_echo": Echo})
    monkeypatch.setattr("livekit.agents.ipc.inference_proc_executor._BACKOFF", (0.05,))
    server = make_server()
    async with serve(server, out) as serving:
        assert await serving.run("infer") == "JS_SUCCESS"
        told = (serving.trace("told-infer") or "").splitlines()
        assert told[0] == told[1] and told[0].startswith("wait ")
        assert told[2] == "at once"
        assert told[3] == "inference of test_echo failed: this input is bad"
        assert told[4].startswith("inference of nobody failed")
        assert told[5] == "inference of test_echo failed: the inference process died"
        again = told[6].removeprefix("again ")
        assert again != told[0].removeprefix("wait ")
        assert alive(int(again))
        began = time.monotonic()
        await server.aclose()
        assert time.monotonic() - began < 5
        assert not alive(int(again))
