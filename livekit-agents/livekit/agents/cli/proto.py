"""What the command line says, and the jobs that a reload hands over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..job import JobAcceptArguments, RunningJobInfo

__all__ = ["CliArgs", "running_job_from_proto", "running_job_to_proto"]


@dataclass
class CliArgs:
    """The options of `start` and `dev`."""

    log_level: str
    url: str | None = None
    api_key: str | None = field(repr=False, default=None)
    api_secret: str | None = field(repr=False, default=None)
    cli_addr: str | None = None
    """`host:port` of the process that watches the files."""
    log_format: str = "json"
    dev: bool = False
    simulation: bool = False


def running_job_to_proto(info: RunningJobInfo) -> Any:
    """A running job as an `agent_dev.RunningAgentJobInfo`."""
    from livekit.protocol.agent_pb import agent_dev

    accept = info.accept_arguments
    return agent_dev.RunningAgentJobInfo(
        job=info.job.SerializeToString(),
        accept_name=accept.name,
        accept_identity=accept.identity,
        accept_metadata=accept.metadata,
        url=info.url,
        token=info.token,
        worker_id=info.worker_id,
        mock_job=info.fake_job,
    )


def running_job_from_proto(pb: Any) -> RunningJobInfo:
    """The other way."""
    from livekit.protocol import agent

    return RunningJobInfo(
        accept_arguments=JobAcceptArguments(
            name=pb.accept_name, identity=pb.accept_identity, metadata=pb.accept_metadata
        ),
        job=agent.Job.FromString(pb.job),
        url=pb.url,
        token=pb.token,
        worker_id=pb.worker_id,
        fake_job=pb.mock_job,
    )
