"""For tests of agents: code that needs a job, without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .job import (
    JobAcceptArguments,
    JobContext,
    JobExecutorType,
    JobProcess,
    RunningJobInfo,
    _JobContextVar,
)

if TYPE_CHECKING:
    from livekit import rtc

    from .ipc.inference_executor import InferenceExecutor

__all__ = ["fake_job_context"]


class _NoInference:
    """Says what is missing."""

    async def do_inference(self, method: str, data: bytes) -> bytes | None:
        raise NotImplementedError(
            f"no model runs {method!r} here: pass inference_executor to fake_job_context()"
        )


@contextmanager
def fake_job_context(
    *,
    room: rtc.Room | None = None,
    job_id: str = "fake-job",
    job_metadata: str = "",
    agent_identity: str = "fake-agent",
    inference_executor: InferenceExecutor | None = None,
) -> Iterator[JobContext]:
    """Provide a job for the time of a block: `get_job_context()` returns it.

    ::

        with fake_job_context(job_metadata='{"user": 7}') as ctx:
            await entrypoint(ctx)

    The room is a mock unless one is given; `shutdown()` does nothing.

    Args:
        room: The room.
        job_id: Id of the job.
        job_metadata: What the dispatcher passes along.
        agent_identity: Of the agent in the room.
        inference_executor: Runs local models; calls without one raise NotImplementedError.
    """
    from livekit.protocol import agent, models

    from .ipc.mock_room import MockRoom

    mock: Any = MockRoom() if room is None else room
    job = agent.Job(
        id=job_id,
        metadata=job_metadata,
        type=agent.JobType.JT_ROOM,
        room=models.Room(name=str(mock.name), sid="RM_fake"),
    )
    ctx = JobContext(
        proc=JobProcess(executor_type=JobExecutorType.THREAD, user_arguments=None, http_proxy=None),
        info=RunningJobInfo(
            accept_arguments=JobAcceptArguments(name="", identity=agent_identity, metadata=""),
            job=job,
            url="",
            token="",
            worker_id="fake-worker",
            fake_job=True,
        ),
        room=mock,
        on_connect=lambda: None,
        on_shutdown=lambda _: None,
        inference_executor=inference_executor or _NoInference(),
    )
    ctx._connected = True
    token = _JobContextVar.set(ctx)
    try:
        yield ctx
    finally:
        _JobContextVar.reset(token)
        ctx._clean_up()
