"""What executors of jobs have in common, whether the job runs in a process or in a thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from ..job import RunningJobInfo
from . import proto
from .channel import Message
from .job_executor import JobStatus
from .job_record import JobRecord

__all__ = ["JobHolder"]


class JobHolder:
    """Holds one job: hands it over, and tells how it stands.

    The class that runs it sets the attributes below, and implements `_send`.
    """

    what = "job"
    """What runs the job, for messages."""

    _id: str
    _job: JobRecord
    _initialized: asyncio.Future[str]
    _gone: asyncio.Future[None]
    _closing: bool
    _on_job_ended: Callable[[Any], None] | None
    _user_arguments: Any | None = None

    def _send(self, msg: Message) -> None:
        raise NotImplementedError

    @property
    def id(self) -> str:
        """Of this executor."""
        return self._id

    @property
    def user_arguments(self) -> Any | None:
        """What the launcher passes along; set it before the start."""
        return self._user_arguments

    @user_arguments.setter
    def user_arguments(self, value: Any | None) -> None:
        self._user_arguments = value

    @property
    def running_job(self) -> RunningJobInfo | None:
        """The job. It stays set when the job is over."""
        return self._job.info

    @property
    def status(self) -> JobStatus:
        """How the job stands. Raises RuntimeError before there is one."""
        return self._job.status

    @property
    def error(self) -> str:
        """Why the job failed, in words; empty otherwise."""
        return self._job.error

    async def launch_job(self, info: RunningJobInfo) -> None:
        """Hand over the job.

        Raises:
            RuntimeError: there is a job already, or what runs it is not ready, or is gone.
        """
        ready = self._initialized.done() and not self._initialized.result()
        if not ready or self._gone.done() or self._closing:
            raise RuntimeError(f"the {self.what} is not ready for a job")
        info.launched_at = time.time()
        self._job.start(info)
        self._job_started()
        request = proto.StartJobRequest()
        request.running_job = info
        self._send(request)

    def end_reported(self) -> None:
        """The server knows that the job ended: it may leave the room now."""
        self._send(proto.ShuttingDownAck())

    def _job_started(self) -> None:
        """The job is about to be handed over."""

    def _job_ended(self) -> None:
        if self._on_job_ended is not None:
            self._on_job_ended(self)
        else:
            self.end_reported()
