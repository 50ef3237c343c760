"""Connections that are expensive to open, kept for the next use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Generic, TypeVar

from .._connections import Connections, recording_connections, shared
from .._exceptions import APIConnectionError
from ..log import logger
from .aio.task_scope import Deadline, TaskScope, run_bounded, wait_until

T = TypeVar("T")

_CLOSE_TIMEOUT = 1.0
"""Seconds that closing one connection may take."""

_ACLOSE_TIMEOUT = 2.0
"""Seconds that closing the pool may take."""


class ConnectionPool(Generic[T]):
    """Keeps connections open between uses. To be used on one event loop.

    Connections are closed in the background, side by side, each within a second: a dead peer never
    delays the next use. A connection whose attribute ``closed`` is true is not handed out again.

    There is no limit to the number of connections. They must be hashable and compare by identity.

    Attributes:
        last_acquire_time: seconds the last `get` spent connecting; 0 for a reused connection.
        last_connection_reused: whether the last `get` found an open connection.
    """

    # No lock: an idle connection is handed out at once, and whoever needs a new one connects in a
    # task of its own. Two counters tell a finished handshake whether it is still wanted:
    # `_generation` grows with every invalidate() (the options it used are stale: connect again),
    # `_life` with every aclose() (nobody would close it: give up).

    def __init__(
        self,
        *,
        max_session_duration: float | None = None,
        mark_refreshed_on_get: bool = False,
        connect_cb: Callable[[float], Awaitable[T]] | None = None,
        close_cb: Callable[[T], Awaitable[None]] | None = None,
        connect_timeout: float = 10.0,
    ) -> None:
        """Make an empty pool. No event loop needs to be running yet.

        Args:
            max_session_duration: seconds after which a connection is not used again.
            mark_refreshed_on_get: count that time from the last use, not from the connect.
            connect_cb: opens a connection; gets the seconds it may take.
            close_cb: closes a connection; without it connections are just dropped.
            connect_timeout: seconds for the connection that `prewarm` opens.
        """
        self._max_session_duration = max_session_duration
        self._mark_refreshed_on_get = mark_refreshed_on_get
        self._connect_cb = connect_cb
        self._close_cb = close_cb
        self._connect_timeout = connect_timeout

        self.last_acquire_time: float = 0.0
        self.last_connection_reused: bool = False

        self._idle: dict[T, float] = {}  # -> loop time from which the age counts
        self._in_use: dict[T, float] = {}
        self._borrowers: dict[T, Connections] = {}
        self._retired: set[T] = set()  # in use, to be closed when returned
        self._unclosed: list[T] = []  # given up while no event loop was running
        self._generation = 0
        self._life = 0
        self._dials = TaskScope("connection pool")
        self._closers = TaskScope("connection pool")
        self._prewarm_task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def connection(self, *, timeout: float) -> AsyncIterator[T]:
        """Borrow a connection for an ``async with`` block.

        After an error in the block, cancellation included, its state is unknown, so it is removed.

        Args:
            timeout: seconds to wait for it.

        Raises:
            what `get` raises.
        """
        conn = await self.get(timeout=timeout)
        try:
            yield conn
        except BaseException:
            self.remove(conn)
            raise
        self.put(conn)

    async def get(self, *, timeout: float) -> T:
        """Take an idle connection, or open one. Give it back with `put` or `remove`.

        A pool that was closed opens again.

        Args:
            timeout: seconds, for everything.

        Raises:
            NotImplementedError: a connection is needed and there is no ``connect_cb``.
            asyncio.TimeoutError: the time is over.
            APIConnectionError: the pool was closed meanwhile.
            Exception: what ``connect_cb`` raises.
        """
        self._close_leftovers()
        deadline = Deadline(timeout)
        life = self._life
        while True:
            conn = self._take_idle()
            if conn is not None:
                self._lent(conn)
                self.last_acquire_time, self.last_connection_reused = 0.0, True
                return conn
            prewarm = self._prewarm_task
            if prewarm is None or prewarm.done():
                break
            await wait_until(prewarm, deadline)
            self._check(life, deadline, timeout)
        began = asyncio.get_running_loop().time()
        conn = await self._connect(life, deadline, timeout)
        self._lent(conn)
        self.last_acquire_time = asyncio.get_running_loop().time() - began
        self.last_connection_reused = False
        return conn

    def put(self, conn: T) -> None:
        """Give a connection back for reuse.

        One that was invalidated meanwhile is closed; one that the pool does not know is ignored.
        """
        since = self._in_use.pop(conn, None)
        if since is None:
            return
        self._returned(conn)
        if conn in self._retired:
            self._retired.discard(conn)
            self._close_soon(conn)
        else:
            self._idle[conn] = since

    def remove(self, conn: T) -> None:
        """Close a connection instead of giving it back. An unknown one is ignored."""
        self._retired.discard(conn)
        self._returned(conn)
        known = self._in_use.pop(conn, None) is not None
        if self._idle.pop(conn, None) is not None or known:
            self._close_soon(conn)

    def invalidate(self) -> None:
        """Use none of the present connections again, because options changed.

        Idle ones are closed; those in use may be used to their end. A handshake in progress is
        repeated.
        """
        self._generation += 1
        self._retired.update(self._in_use)
        idle, self._idle = self._idle, {}
        for conn in idle:
            self._close_soon(conn)

    def prewarm(self) -> None:
        """Open a connection in the background, unless there is one already.

        A `get` meanwhile waits for it. A failure is logged without its message, which may hold
        credentials.

        Raises:
            RuntimeError: no event loop is running.
        """
        running = self._prewarm_task is not None and not self._prewarm_task.done()
        if not running and not self._idle and not self._in_use:
            self._prewarm_task = self._dial_scope().spawn(self._prewarm(), name="prewarm")

    async def aclose(self) -> None:
        """Close all connections, also those in use, and end handshakes in progress.

        Takes two seconds at most, whatever the peers do. A `get` that waits raises; one that comes
        later opens the pool again. Idempotent.
        """
        self._life += 1
        deadline = Deadline(_ACLOSE_TIMEOUT)
        self.invalidate()
        in_use, self._in_use = self._in_use, {}
        self._retired.clear()
        for conn in in_use:
            self._returned(conn)
            self._close_soon(conn)
        self._close_leftovers()
        for survivor in await self._dials.cancel(_CLOSE_TIMEOUT / 2):
            logger.warning("connection pool: a handshake does not end\n%s", survivor.stack)
        await self._closers.join(deadline.remaining())

    def _take_idle(self) -> T | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            conn, since = self._idle.popitem()  # the one used last is the likeliest to be alive
            expired = (
                self._max_session_duration is not None and now - since > self._max_session_duration
            )
            if expired or getattr(conn, "closed", False) is True:
                self._close_soon(conn)
                continue
            self._in_use[conn] = now if self._mark_refreshed_on_get else since
            return conn
        return None

    def _check(self, life: int, deadline: Deadline, timeout: float) -> None:
        if life != self._life:
            raise _closed_error()
        if deadline.expired:
            raise asyncio.TimeoutError(f"no connection within {timeout:g} s")

    async def _connect(self, life: int, deadline: Deadline, timeout: float) -> T:
        """Dial in a task, so that neither timeout nor cancellation can lose a finished handshake."""
        with shared():  # it may outlive whoever needs it first
            dial = self._dial_scope().spawn(
                self._dial(deadline, timeout), name="connect", log_errors=False
            )
        try:
            await wait_until(dial, deadline)
        except asyncio.CancelledError:
            self._drop(dial)
            raise
        if life != self._life or not dial.done() or dial.cancelled():
            self._drop(dial)
            self._check(life, deadline, timeout)
            raise APIConnectionError("the handshake of a pooled connection was cancelled")
        return dial.result()

    async def _dial(self, deadline: Deadline, timeout: float) -> T:
        """Open a connection with options that are still valid when it is open.

        It counts as in use from that very moment: were it left to whoever waits for this task,
        an `aclose` in between would not see it.
        """
        if self._connect_cb is None:
            raise NotImplementedError(
                "ConnectionPool has no connect_cb: pass one to open connections"
            )
        life = self._life
        left = timeout
        while True:
            generation = self._generation
            conn = await self._connect_cb(left)
            if life == self._life and generation == self._generation:
                self._in_use[conn] = asyncio.get_running_loop().time()
                return conn
            self._close_soon(conn)
            self._check(life, deadline, timeout)
            left = deadline.remaining() or 0.0

    def _drop(self, dial: asyncio.Task[T]) -> None:
        """Give up a handshake. Should it succeed all the same, the connection is closed."""

        def close_result(dial: asyncio.Task[T]) -> None:
            if not dial.cancelled() and dial.exception() is None:
                self.remove(dial.result())

        dial.cancel()
        dial.add_done_callback(close_result)

    async def _prewarm(self) -> None:
        deadline = Deadline(self._connect_timeout)
        try:
            conn = await self._connect(self._life, deadline, self._connect_timeout)
        except Exception as error:
            logger.warning(
                "failed to prewarm connection pool", extra={"exception_type": type(error).__name__}
            )
            return
        self.put(conn)

    def _lent(self, conn: T) -> None:
        """Should the borrower never end, the connection is closed without it."""
        borrower = recording_connections()
        if borrower is not None:
            self._borrowers[conn] = borrower
            borrower.opened(conn, partial(self.remove, conn))

    def _returned(self, conn: T) -> None:
        borrower = self._borrowers.pop(conn, None)
        if borrower is not None:
            borrower.gone(conn)

    def _dial_scope(self) -> TaskScope:
        if self._dials.closed:  # the pool was closed and is used again
            self._dials = TaskScope("connection pool")
        return self._dials

    def _close_soon(self, conn: T) -> None:
        if self._close_cb is None:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._unclosed.append(conn)  # called from plain code: the next get() or aclose() does
        else:
            self._closers.spawn(self._close(conn, self._close_cb))

    def _close_leftovers(self) -> None:
        leftovers, self._unclosed = self._unclosed, []
        for conn in leftovers:
            self._close_soon(conn)

    async def _close(self, conn: T, close_cb: Callable[[T], Awaitable[None]]) -> None:
        async def call() -> None:
            await close_cb(conn)

        try:
            await run_bounded(call(), _CLOSE_TIMEOUT, owner="connection pool", name="close")
        except asyncio.TimeoutError:
            logger.warning("a pooled connection did not close within %g s", _CLOSE_TIMEOUT)
        except Exception as error:
            logger.warning("failed to close a pooled connection", exc_info=error)


def _closed_error() -> APIConnectionError:
    return APIConnectionError("the connection pool was closed while connecting", retryable=False)
