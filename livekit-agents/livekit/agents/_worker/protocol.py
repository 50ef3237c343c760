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


class WorkerProtocol:
    """What is said, in which order, and what waits while there is no connection."""

    def __init__(self, register: agent.RegisterWorkerRequest) -> None:
        """Set up, with how the worker introduces itself."""
        self._register = register
        self._queue: deque[agent.WorkerMessage] = deque()
        self._registered = False
        self._pings = 0
        self._unconfirmed: dict[int, Callable[[], None]] = {}

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
        self._queue = deque(message for message in self._queue if not _is_passing(message))
        for ping in list(self._unconfirmed):
            self.confirm(ping)

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
        if kind == "pong":
            self.confirm(message.pong.last_timestamp)
        if kind in ("availability", "assignment", "termination"):
            event: Event = getattr(message, kind)
            return event
        return None

    def send(self, message: agent.WorkerMessage) -> None:
        """Queue a message. One about the worker's state is dropped while not connected."""
        if not self._registered and _is_passing(message):
            return
        self._queue.append(message)
        if len(self._queue) > QUEUE_SIZE:
            logger.warning(
                "too many messages wait for the LiveKit server, the oldest is dropped: %s",
                self._queue.popleft().WhichOneof("message"),
            )

    def send_confirmed(
        self, message: agent.WorkerMessage, handled: Callable[[], None]
    ) -> int | None:
        """Queue a message, and a ping behind it, so that its answer says that both were handled.

        Args:
            message: to send.
            handled: called when the server has handled it, or when it is clear that it has to wait
                for the next connection.

        Returns:
            What `confirm` ends the wait with; None when there is no wait.
        """
        self.send(message)
        if not self._registered:
            handled()
            return None
        self._pings += 1
        self._unconfirmed[self._pings] = handled
        self.send(agent.WorkerMessage(ping=agent.WorkerPing(timestamp=self._pings)))
        return self._pings

    def confirm(self, ping: int) -> bool:
        """Go on without the answer to a ping. False when nobody waits for it any more."""
        handled = self._unconfirmed.pop(ping, None)
        if handled is not None:
            handled()
        return handled is not None

    def next_message(self) -> bytes | None:
        """The next message to write, if the server is ready for it."""
        if not self._registered or not self._queue:
            return None
        return self._queue[0].SerializeToString()

    def wrote(self) -> None:
        """The message from `next_message` was written."""
        if self._queue:
            self._queue.popleft()


def _is_passing(message: agent.WorkerMessage) -> bool:
    """Whether a message is of no use to a later connection."""
    return message.WhichOneof("message") in ("update_worker", "ping")
