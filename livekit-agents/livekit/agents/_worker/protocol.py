"""The protocol between a worker and a LiveKit server. No I/O: bytes and messages in and out.

A connection begins with `register`; then the server offers jobs (`availability`), assigns the ones
that were accepted (`assignment`) and takes them back (`termination`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit, urlunsplit

from google.protobuf.message import DecodeError
from livekit.protocol import agent

from ..log import logger

__all__ = ["ProtocolError", "Registered", "WorkerProtocol", "agent_url"]

QUEUE_SIZE = 128
"""Messages that wait for a connection."""


class ProtocolError(Exception):
    """The other end does not speak this protocol."""


@dataclass(frozen=True)
class Registered:
    """The server knows this worker now."""

    response: agent.RegisterWorkerResponse


Event = Registered | agent.AvailabilityRequest | agent.JobAssignment | agent.JobTermination


def agent_url(url: str, worker_token: str = "") -> str:
    """Where workers connect, for a LiveKit server at `url`.

    Raises:
        ValueError: `url` is not one of a server.
    """
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.netloc:
        raise ValueError(
            f"{url!r} is not the URL of a LiveKit server: expected something like "
            "wss://my-project.livekit.cloud or ws://localhost:7880"
        )
    query = urlencode({"worker_token": worker_token}) if worker_token else ""
    return urlunsplit((scheme, parts.netloc, f"{parts.path.rstrip('/')}/agent", query, ""))


class _Outgoing:
    """A message that waits to be written."""

    __slots__ = ("message", "written")

    def __init__(self, message: agent.WorkerMessage, written: Callable[[], None] | None) -> None:
        self.message = message
        self.written = written


class WorkerProtocol:
    """What is said, in which order, and what waits while there is no connection."""

    def __init__(self, register: agent.RegisterWorkerRequest) -> None:
        """Set up, with how the worker introduces itself."""
        self._register = register
        self._queue: deque[_Outgoing] = deque()
        self._registered = False

    @property
    def registered(self) -> bool:
        """Whether there is a connection on which the server knows this worker."""
        return self._registered

    @property
    def pending(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._queue)

    def connected(self) -> bytes:
        """A connection is made. Returns the first message."""
        self._registered = False
        return agent.WorkerMessage(register=self._register).SerializeToString()

    def lost(self) -> None:
        """The connection is gone. Reports of the worker's state are outdated; the rest waits."""
        self._registered = False
        for waiting in self._queue:
            _call(waiting)
        self._queue = deque(
            waiting
            for waiting in self._queue
            if waiting.message.WhichOneof("message") not in ("update_worker", "ping")
        )

    def received(self, data: bytes, active_jobs: Iterable[str] = ()) -> Event | None:
        """What a message from the server means; None: nothing to us.

        Args:
            data: the message.
            active_jobs: ids of the jobs that run. After a registration they are announced, so that
                the server connects them to this worker's new id.

        Raises:
            ProtocolError: it is not a message of this protocol, or not one that may come first.
        """
        try:
            message = agent.ServerMessage.FromString(data)
        except DecodeError as error:
            raise ProtocolError(f"the server sent something unreadable: {error}") from error
        kind = message.WhichOneof("message")
        if not self._registered:
            if kind != "register":
                raise ProtocolError(f"expected the server to register this worker, got {kind!r}")
            self._registered = True
            jobs = list(active_jobs)
            if jobs:
                self.send(agent.WorkerMessage(migrate_job=agent.MigrateJobRequest(job_ids=jobs)))
            return Registered(message.register)
        if kind in ("availability", "assignment", "termination"):
            event: Event = getattr(message, kind)
            return event
        return None

    def send(self, message: agent.WorkerMessage, written: Callable[[], None] | None = None) -> None:
        """Queue a message.

        Args:
            message: to send. One about the worker's state is dropped while there is no connection.
            written: called when it was written, or when it is clear that it has to wait for the
                next connection.
        """
        outgoing = _Outgoing(message, written)
        if not self._registered:
            _call(outgoing)
            if message.WhichOneof("message") in ("update_worker", "ping"):
                return
        self._queue.append(outgoing)
        if len(self._queue) > QUEUE_SIZE:
            dropped = self._queue.popleft()
            _call(dropped)
            logger.warning(
                "too many messages wait for the LiveKit server, the oldest is dropped: %s",
                dropped.message.WhichOneof("message"),
            )

    def next_message(self) -> bytes | None:
        """The next message to write, if the server is ready for it."""
        if not self._registered or not self._queue:
            return None
        return self._queue[0].message.SerializeToString()

    def wrote(self) -> None:
        """The message from `next_message` was written."""
        if self._queue:
            _call(self._queue.popleft())


def _call(outgoing: _Outgoing) -> None:
    written, outgoing.written = outgoing.written, None
    if written is not None:
        written()
