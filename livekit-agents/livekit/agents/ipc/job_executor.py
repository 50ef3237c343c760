"""What runs one job, whether process or thread."""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

from ..job import RunningJobInfo

__all__ = ["JobExecutor", "JobStatus"]


class JobStatus(Enum):
    """How a job stands."""

    RUNNING = "running"
    FAILED = "failed"
    SUCCESS = "success"


class JobExecutor(Protocol):
    """Runs one job and then ends; never used again."""

    @property
    def id(self) -> str:
        """Of this executor."""
        ...

    @property
    def started(self) -> bool:
        """Whether it was started."""
        ...

    @property
    def user_arguments(self) -> Any | None:
        """What the launcher passes along; set it before the start."""
        ...

    @user_arguments.setter
    def user_arguments(self, value: Any | None) -> None: ...

    @property
    def running_job(self) -> RunningJobInfo | None:
        """The job. It stays set when the job is over."""
        ...

    @property
    def status(self) -> JobStatus:
        """How the job stands. Raises RuntimeError before there is one."""
        ...

    @property
    def error(self) -> str:
        """Why the job failed, in words; empty otherwise."""
        ...

    async def start(self) -> None:
        """Start the process or thread."""

    async def join(self) -> None:
        """Return when it is gone."""

    async def initialize(self) -> None:
        """Have it get ready."""

    async def aclose(self) -> None:
        """End the job, if there is one, and then the process or thread; bounded."""

    async def launch_job(self, info: RunningJobInfo) -> None:
        """Hand over the job."""

    def end_reported(self) -> None:
        """The server knows that the job ended: it may leave the room now."""

    def logging_extra(self) -> dict[str, Any]:
        """Fields for log records about it."""
        ...
