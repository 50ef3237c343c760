"""The file of an agent, whose jobs do what the names of their rooms say, and tell it in a file."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
from typing import Any

from livekit.agents import (
    AgentServer,
    JobContext,
    JobProcess,
    JobRequest,
    WorkerPermissions,
    cli,
)

NOTES = "PARITY_NOTES"
"""Environment variable: the file."""

log = logging.getLogger("agent-of-parity")


def note(what: str) -> None:
    """Note something; each line in one write, for there are several processes."""
    with open(os.environ[NOTES], "a") as file:
        file.write(what + "\n")


def prepare(proc: JobProcess) -> None:
    """Before any job."""
    proc.userdata["ready"] = proc.executor_type.value


async def decide(request: JobRequest) -> None:
    """Accept or not."""
    verb = request.room.name.partition("-")[0]
    note(f"request {request.room.name}: {request.agent_name!r} {request.publisher.identity!r}")
    if verb == "rejected":
        await request.reject()
    elif verb == "passed":
        await request.reject(terminate=False)
    elif verb == "undecided":
        pass
    elif verb == "failing":
        raise ValueError("can't decide")
    elif verb == "named":
        await request.accept(
            name="N", identity="I", metadata="M", attributes={"a": "b", "lk.agent.name": "mine"}
        )
    else:
        await request.accept()


async def ended(ctx: JobContext) -> None:
    """After each job."""
    note(f"{ctx.room.name}: on_session_end")


async def work(ctx: JobContext) -> None:
    """A job."""
    verb = ctx.room.name.partition("-")[0]

    async def with_reason(reason: str) -> None:
        note(f"{ctx.room.name}: shut down because of {reason!r}")

    async def without() -> None:
        note(f"{ctx.room.name}: shut down")

    ctx.add_shutdown_callback(with_reason)
    ctx.add_shutdown_callback(without)
    ctx.log_context_fields = {"of": "the job"}
    if verb == "telling":
        _tell(ctx)
    if verb == "raising":
        raise ValueError("a bug")
    if verb == "dying":
        os._exit(3)
    if verb == "staying":
        note(f"{ctx.room.name}: works")
        try:
            await asyncio.Event().wait()
        finally:
            note(f"{ctx.room.name}: entrypoint ends")
    ctx.shutdown("enough")


def _tell(ctx: JobContext) -> None:
    log.info("a line", extra={"number": 1, "lk.pii.word": "secret", "_hidden": 2})
    log.warning({"structured": True, "message": "a dict"})
    try:
        raise ValueError("wrong")
    except ValueError:
        log.exception("a failure")
    facts: dict[str, Any] = {
        "prepared": ctx.proc.userdata["ready"],
        "job": [ctx.job.id, ctx.job.room.name, ctx.job.agent_name, ctx.job.metadata],
        "worker": ctx.worker_id,
        "claims": ctx.token_claims().identity,
        "identity": ctx.local_participant_identity,
        "fake": ctx.is_fake_job(),
        "directory": ctx.session_directory.is_dir(),
        "headers": ctx.inference_headers,
        "simulation": ctx.simulation_context(),
        "url": ctx._info.url.split(":")[0],
        "arguments": [ctx._info.accept_arguments.identity, ctx._info.accept_arguments.metadata],
    }
    for what in ("agent", "primary_session"):
        try:
            facts[what] = str(getattr(ctx, what))
        except Exception as error:
            facts[what] = type(error).__name__
    for key, value in facts.items():
        note(f"{ctx.room.name}: {key} is {json.dumps(value)}")


def _load(full: bool) -> float:
    return 1.0 if full else 0.0


server = AgentServer(
    setup_fnc=prepare,
    load_fnc=functools.partial(_load, bool(os.environ.get("PARITY_FULL"))),
    host="127.0.0.1",
    port=int(os.environ.get("PARITY_PORT", "0")),
    prometheus_port=int(os.environ.get("PARITY_METRICS", "0")) or None,
    num_idle_processes=1,
    permissions=WorkerPermissions(can_publish=False, hidden=True),
    max_retry=int(os.environ.get("PARITY_RETRIES", "16")),
)
server.rtc_session(
    work, agent_name=os.environ.get("PARITY_NAME", ""), on_request=decide, on_session_end=ended
)

if __name__ == "__main__":
    cli.run_app(server)
