"""Which connections a stream has opened, so that they can be cut without its help.

A stream whose code ignores its cancellation would otherwise keep its socket, and the provider its
slot, until the process ends; and a client that reconnects by itself would dial for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from .log import logger

_recording: ContextVar[Connections | None] = ContextVar("livekit_agents_connections", default=None)


class Connections:
    """The connections of one owner.

    What is opened by tasks that were started in `recording`, through
    `utils.http_context.http_session` or a `utils.ConnectionPool`, is noted here.

    Args:
        owner: Whose they are, for messages.
    """

    __slots__ = ("_cut", "_open", "_owner")

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._open: dict[object, Callable[[], None]] = {}
        self._cut = False

    @property
    def refused(self) -> bool:
        """Whether they were cut; then none may be opened any more."""
        return self._cut

    def opened(self, connection: object, cut: Callable[[], None]) -> None:
        """Note a connection and how to cut it, which must not block."""
        if self._cut:
            cut()
        else:
            self._open[connection] = cut

    def gone(self, connection: object) -> None:
        """A connection was closed or given back. One that is not known is ignored."""
        self._open.pop(connection, None)

    def cut(self) -> None:
        """Close what is open, without asking anyone, and refuse to open more. Idempotent."""
        self._cut = True
        connections, self._open = self._open, {}
        for cut in connections.values():
            try:
                cut()
            except Exception:
                logger.exception("failed to cut a connection of %s", self._owner)
        if connections:
            logger.warning("cut %d connection(s) that %s left open", len(connections), self._owner)

    def recording(self) -> _Recording:
        """Have the tasks that are started in the block note their connections here."""
        return _Recording(self)

    def __repr__(self) -> str:
        return f"<Connections of {self._owner}: {len(self._open)} open>"


class _Recording:
    """The block of `Connections.recording`. A plain class: it is entered for every stream."""

    __slots__ = ("_connections", "_token")

    def __init__(self, connections: Connections | None) -> None:
        self._connections = connections

    def __enter__(self) -> None:
        self._token = _recording.set(self._connections)

    def __exit__(self, *_: object) -> None:
        _recording.reset(self._token)


def recording_connections() -> Connections | None:
    """Where the running code has to note the connections it opens, if anywhere."""
    return _recording.get()


def shared() -> _Recording:
    """A block whose tasks open connections that belong to nobody in particular."""
    return _Recording(None)
