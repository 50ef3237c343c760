"""What is known of the job in an executor. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..job import RunningJobInfo
from .job_executor import JobStatus

__all__ = ["JobRecord"]


class JobRecord:
    """From the hand-over of a job to its verdict. The first verdict stands."""

    def __init__(self, ended: Callable[[], None]) -> None:
        """Set up; `ended` is called once, when there is a verdict."""
        self.info: RunningJobInfo | None = None
        self.error = ""
        self._ended = ended
        self._status: JobStatus | None = None

    @property
    def status(self) -> JobStatus:
        """How it stands. Raises RuntimeError before there is a job."""
        if self._status is None:
            raise RuntimeError("there was no job yet, so it has no status")
        return self._status

    def start(self, info: RunningJobInfo) -> None:
        """A job is handed over. Raises RuntimeError when there is one already."""
        if self.info is not None:
            raise RuntimeError(f"this executor has a job already: {self.info.job.id}")
        self.info = info
        self._status = JobStatus.RUNNING

    def failed(self, error: str) -> None:
        """Something went wrong; the verdict will say so when the job ends."""
        self.error = self.error or error

    def end(self, error: str = "") -> None:
        """The job is over. It failed if an error is known."""
        if self._status is JobStatus.RUNNING:
            self.failed(error)
            self._status = JobStatus.FAILED if self.error else JobStatus.SUCCESS
            self._ended()

    def logging_extra(self) -> dict[str, Any]:
        """Fields for log records about the job."""
        if self.info is None:
            return {}
        job = self.info.job
        extra = {"job_id": job.id, "room": job.room.name, "room_id": job.room.sid}
        if job.agent_name:
            extra["agent_name"] = job.agent_name
        return extra
