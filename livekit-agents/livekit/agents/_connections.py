"""Which connections a stream has opened, so that they can be cut without its help.

A stream whose code ignores its cancellation would otherwise keep its socket, and the provider its
slot, until the process ends; and a client that reconnects by itself would dial for ever.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar
from typing import Any

from .log import logger

_recording: ContextVar[Connections | None] = ContextVar("livekit_agents_connections", default=None)


class Connections:
    """The connections of one owner.

    What is opened by tasks that were started in `recording`, through
    `utils.http_context.http_session` or a `utils.ConnectionPool`, is noted here. What they open
    through a library of their own is found on the event loop, where it lets itself be asked.

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
        dialled = [transport.abort for transport in self._dialled()]
        self._cut_these(dialled)

    @property
    def any_left(self) -> bool:
        """Whether some that were noted are still in use."""
        return bool(self._open)

    def cut_leftovers(self) -> None:
        """Close what an owner that has ended in peace holds open, if nobody can need it any more.

        A connection that a task reads which the owner has started and left running is one that its
        provider's code keeps for others as well, such as one for all speech of a voice: it stays.
        One that nobody reads was forgotten. What a library of the provider dialled by itself is
        not looked at: it may be idle in a pool of that library.
        """
        if self._open and not self._has_tasks():
            self._cut_these([])

    def _cut_these(self, dialled: list[Callable[[], None]]) -> None:
        self._cut = True
        connections, self._open = self._open, {}
        for cut in (*connections.values(), *dialled):
            try:
                cut()
            except Exception:
                logger.exception("failed to cut a connection of %s", self._owner)
        if number := len(connections) + len(dialled):
            logger.warning("cut %d connection(s) that %s left open", number, self._owner)

    def _has_tasks(self) -> bool:
        """Whether a task runs that was started by the owner's code."""
        return any(
            context.get(_recording) is self
            for task in asyncio.all_tasks()
            if (context := _context_of(task)) is not None
        )

    def _dialled(self) -> Iterator[asyncio.WriteTransport]:
        """Connections that were opened by the owner's code itself, whatever library it used.

        asyncio has no public list of its connections. Each has a reader in the loop's selector,
        with the context of whoever opened it. A loop without these has no answer.
        """
        selector = getattr(asyncio.get_running_loop(), "_selector", None)
        for key in list(selector.get_map().values()) if selector is not None else ():
            for handle in key.data if isinstance(key.data, tuple) else ():
                context = getattr(handle, "_context", None)
                transport = getattr(getattr(handle, "_callback", None), "__self__", None)
                if (
                    context is not None
                    and context.get(_recording) is self
                    and isinstance(transport, asyncio.WriteTransport)
                ):
                    yield transport
                    break

    def recording(self) -> _Recording:
        """Have the tasks that are started in the block note their connections here."""
        return _Recording(self)

    def __repr__(self) -> str:
        return f"<Connections of {self._owner}: {len(self._open)} open>"


def _context_of(task: asyncio.Task[Any]) -> Context | None:
    """The context of a task, which has no public name before Python 3.12."""
    get_context = getattr(task, "get_context", None)
    if get_context is not None:
        context: Context = get_context()
        return context
    return next((part for part in gc.get_referents(task) if isinstance(part, Context)), None)


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
