"""Jobs that no server dispatched: simulated ones, and those of a former worker."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import TYPE_CHECKING

from ..job import JobAcceptArguments, RunningJobInfo
from ..utils.misc import shortuuid

if TYPE_CHECKING:
    from livekit.protocol import models

    from ..worker import AgentServer

__all__ = ["renewed", "simulated_job"]

_RENEWED_FOR = 3600
"""Seconds that a token is made valid for."""


def simulated_job(
    server: AgentServer,
    room: str,
    *,
    fake_job: bool,
    agent_identity: str | None,
    room_info: models.Room | None,
    token: str | None,
) -> RunningJobInfo:
    """A job for `room`: see `AgentServer.simulate_job`."""
    from livekit.protocol import agent, models

    if token is not None:
        import jwt

        claims = jwt.decode(token, options={"verify_signature": False})
        agent_identity = agent_identity or claims.get("sub")
    if not fake_job and agent_identity is None:
        raise ValueError("agent_identity is required for a job with a real room, or a token")
    if not fake_job and room_info is None:
        raise ValueError("room_info is required for a job with a real room")
    identity = agent_identity or shortuuid("fake-agent-")
    if room_info is None:
        room_info = models.Room(sid=shortuuid("SRM_"), name=room)
    job = agent.Job(
        id=shortuuid("mock-job-" if fake_job else "job-"),
        room=room_info,
        type=agent.JobType.JT_ROOM,
        agent_name=server._agent_name,
        enable_recording=_console_records(),
    )
    return RunningJobInfo(
        accept_arguments=JobAcceptArguments(name="", identity=identity, metadata=""),
        job=job,
        url=server._ws_url,
        token=token if token is not None else _token(server, room, identity, fake=fake_job),
        worker_id=server.id,
        fake_job=fake_job,
        received_at=time.time(),
    )


def _console_records() -> bool:
    module = sys.modules.get("livekit.agents.cli.console")
    return module is not None and bool(module.AgentsConsole.get_instance().record)


def _token(server: AgentServer, room: str, identity: str, *, fake: bool) -> str:
    key, secret = server._options["api_key"], server._options["api_secret"]
    if fake and not (key and secret):
        return ""
    from livekit import api

    return (
        api.AccessToken(key, secret)
        .with_identity(identity)
        .with_kind("agent")
        .with_grants(api.VideoGrants(room_join=True, room=room, agent=True))
        .to_jwt()
    )


def renewed(info: RunningJobInfo, api_secret: str) -> RunningJobInfo:
    """The same job with a token that is valid for another hour.

    Raises:
        RuntimeError: There is no secret to sign it with.
    """
    if not api_secret:
        raise RuntimeError("the API secret is needed to take over jobs: set LIVEKIT_API_SECRET")
    import jwt

    claims = jwt.decode(info.token, api_secret, algorithms=["HS256"], options={"verify_exp": False})
    claims["exp"] = int(time.time()) + _RENEWED_FOR
    return dataclasses.replace(info, token=jwt.encode(claims, api_secret, algorithm="HS256"))
