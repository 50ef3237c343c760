"""The messages between the worker and its processes, and who sends which."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from . import channel

if TYPE_CHECKING:
    from ..job import RunningJobInfo

__all__ = [
    "DumpStackTraceRequest",
    "Exiting",
    "IPC_MESSAGES",
    "InferenceRequest",
    "InferenceResponse",
    "InitializeRequest",
    "InitializeResponse",
    "JobFailed",
    "JobStep",
    "PingRequest",
    "PongResponse",
    "ShutdownRequest",
    "ShutdownRequestAck",
    "ShuttingDown",
    "ShuttingDownAck",
    "StartJobRequest",
]


_CODECS: dict[str, tuple[Callable[[BinaryIO, Any], None], Callable[[BinaryIO], Any]]] = {
    "bool": (channel.write_bool, channel.read_bool),
    "bytes": (channel.write_bytes, channel.read_bytes),
    "float": (channel.write_float, channel.read_float),
    "int": (channel.write_long, channel.read_long),
    "str": (channel.write_string, channel.read_string),
}


@dataclass
class _Fields:
    """A message whose fields follow each other on the wire, each as its type is written."""

    def write(self, b: BinaryIO) -> None:
        """Write the fields."""
        for each in fields(self):
            _CODECS[str(each.type)][0](b, getattr(self, each.name))

    def read(self, b: BinaryIO) -> None:
        """Fill in the fields."""
        for each in fields(self):
            setattr(self, each.name, _CODECS[str(each.type)][1](b))


@dataclass
class _Text(_Fields):
    """A message with one text."""

    text: str = ""


@dataclass
class InitializeRequest(_Fields):
    """To the process, first of all: get ready."""

    MSG_ID: ClassVar[int] = 0
    asyncio_debug: bool = False
    ping_interval: float = 0.0
    ping_timeout: float = 0.0
    """Seconds without a message after which the process takes the worker for dead; 0: never."""
    high_ping_threshold: float = 0.0
    http_proxy: str = ""


@dataclass
class InitializeResponse(_Fields):
    """To the worker: the process is ready, or why it is not."""

    MSG_ID: ClassVar[int] = 1
    error: str = ""


@dataclass
class PingRequest(_Fields):
    """To the process: are you there?"""

    MSG_ID: ClassVar[int] = 2
    timestamp: int = 0
    """Milliseconds, by the clock of the worker."""


@dataclass
class PongResponse(_Fields):
    """To the worker: here."""

    MSG_ID: ClassVar[int] = 3
    last_timestamp: int = 0
    """Of the ping."""
    timestamp: int = 0
    """By the clock of the process."""


_STAMPS = ("received_at", "accepted_at", "assigned_at", "launched_at")


@dataclass
class StartJobRequest:
    """To the process: run this job."""

    MSG_ID: ClassVar[int] = 4
    running_job: RunningJobInfo = field(init=False)

    def write(self, b: BinaryIO) -> None:
        """Write the fields."""
        info = self.running_job
        accept = info.accept_arguments
        channel.write_bytes(b, info.job.SerializeToString())
        for text in (accept.name, accept.identity, accept.metadata, info.url, info.token):
            channel.write_string(b, text)
        channel.write_string(b, info.worker_id)
        channel.write_bool(b, info.fake_job)
        for stamp in _STAMPS:
            channel.write_double(b, getattr(info, stamp))
        channel.write_string(b, "" if accept.attributes is None else json.dumps(accept.attributes))

    def read(self, b: BinaryIO) -> None:
        """Fill in the fields."""
        from livekit.protocol import agent

        from ..job import JobAcceptArguments, RunningJobInfo

        job = agent.Job()
        job.ParseFromString(channel.read_bytes(b))
        name, identity, metadata, url, token, worker_id = (channel.read_string(b) for _ in range(6))
        fake_job = channel.read_bool(b)
        stamps = {stamp: channel.read_double(b) for stamp in _STAMPS}
        attributes = channel.read_string(b)
        self.running_job = RunningJobInfo(
            accept_arguments=JobAcceptArguments(
                name=name,
                identity=identity,
                metadata=metadata,
                attributes=json.loads(attributes) if attributes else None,
            ),
            job=job,
            url=url,
            token=token,
            worker_id=worker_id,
            fake_job=fake_job,
            **stamps,
        )


@dataclass
class ShutdownRequest(_Fields):
    """To the process: end the job, if there is one, and leave."""

    MSG_ID: ClassVar[int] = 5
    reason: str = ""


@dataclass
class Exiting(_Fields):
    """To the worker: the job is over, the process will end."""

    MSG_ID: ClassVar[int] = 6
    reason: str = ""


@dataclass
class InferenceRequest(_Fields):
    """From a job to the worker, and from there to the process that runs local models."""

    MSG_ID: ClassVar[int] = 7
    method: str = ""
    request_id: str = ""
    data: bytes = b""


@dataclass
class InferenceResponse:
    """The way back of an `InferenceRequest`."""

    MSG_ID: ClassVar[int] = 8
    request_id: str = ""
    data: bytes | None = None
    error: str = ""

    def write(self, b: BinaryIO) -> None:
        """Write the fields."""
        channel.write_string(b, self.request_id)
        channel.write_bool(b, self.data is not None)
        if self.data is not None:
            channel.write_bytes(b, self.data)
        channel.write_string(b, self.error)

    def read(self, b: BinaryIO) -> None:
        """Fill in the fields."""
        self.request_id = channel.read_string(b)
        self.data = channel.read_bytes(b) if channel.read_bool(b) else None
        self.error = channel.read_string(b)


@dataclass
class DumpStackTraceRequest(_Fields):
    """To the process: write down what every thread and task is doing."""

    MSG_ID: ClassVar[int] = 9


@dataclass
class ShutdownRequestAck(_Fields):
    """To the worker: the request to shut down has been read."""

    MSG_ID: ClassVar[int] = 10


@dataclass
class ShuttingDown(_Fields):
    """To the worker: session and end hooks are done, the room is left next."""

    MSG_ID: ClassVar[int] = 11


@dataclass
class JobStep(_Text):
    """To the worker: the end of the job has reached the step of this name."""

    MSG_ID: ClassVar[int] = 12


@dataclass
class JobFailed(_Text):
    """To the worker: the entrypoint raised this error."""

    MSG_ID: ClassVar[int] = 13


@dataclass
class ShuttingDownAck(_Fields):
    """To the process: the server has been told that the job ended, go on."""

    MSG_ID: ClassVar[int] = 14


_ALL: tuple[type[channel.Message], ...] = (
    InitializeRequest,
    InitializeResponse,
    PingRequest,
    PongResponse,
    StartJobRequest,
    ShutdownRequest,
    Exiting,
    InferenceRequest,
    InferenceResponse,
    DumpStackTraceRequest,
    ShutdownRequestAck,
    ShuttingDown,
    JobStep,
    JobFailed,
    ShuttingDownAck,
)

IPC_MESSAGES: dict[int, type[channel.Message]] = {kind.MSG_ID: kind for kind in _ALL}
"""Message id -> class."""
