"""A connection to an MCP server: one task that opens it, keeps it, and closes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Protocol

import mcp_types as types
from mcp import ClientSession

from ..log import logger
from ..utils.aio import TaskScope, wait_until

# Seconds. Together less than the 2 s that a step of a closing session has.
_EXIT_GRACE = 1.0  # to say goodbye, and for a server process to exit by itself
_TERMINATION_GRACE = 0.4  # for a process that was asked to terminate
_KILL_GRACE = 0.2  # to notice that a process was killed
_CANCEL_GRACE = 0.2  # for our own task, once cancelled


class ConnectionOwner(Protocol):
    """What a connection needs of the server object it belongs to."""

    name: str

    def client_streams(self) -> AbstractAsyncContextManager[Any]:
        """Open the transport; yields the SDK's read and write streams."""

    def _kill(self, *, force: bool) -> None:
        """End whatever the transport started, if there is anything. Must not block."""

    def _on_tools_changed(self) -> None:
        """The server has other tools than before."""

    def _on_lost(self, connection: Connection) -> None:
        """The connection ended without having been closed."""


class Connection:
    """One attempt to connect and, if it succeeds, the session.

    The SDK's contexts are bound to the task that enters them: left in another task they never
    finish. So a single task enters them, waits to be told to stop, and leaves them.

    Args:
        owner: The server object.
        request_timeout: Seconds for each request; None waits without limit.
        connect_timeout: Seconds for opening the transport and the session; None for no limit.
    """

    def __init__(
        self,
        owner: ConnectionOwner,
        *,
        request_timeout: float | None,
        connect_timeout: float | None,
    ) -> None:
        self._owner = owner
        self._request_timeout = request_timeout
        self._session: ClientSession | None = None
        self._error: BaseException | None = None
        self._waiters = 0
        self._stop = asyncio.Event()
        self._settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._scope = TaskScope(f"MCP server {owner.name}")
        self._closers = TaskScope(f"close of MCP server {owner.name}")
        self._closing: asyncio.Task[None] | None = None
        self._task = self._scope.spawn(self._run(), name="connection")
        if connect_timeout is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(connect_timeout, self._overdue, connect_timeout)
            self._settled.add_done_callback(lambda _: timer.cancel())

    @property
    def session(self) -> ClientSession | None:
        """The session, while it is up."""
        return self._session

    @property
    def over(self) -> bool:
        """Whether it failed, was lost, or is being closed."""
        return self._settled.done() and self._session is None

    async def ready(self) -> ClientSession:
        """Wait until the session is up. Several tasks may wait for the same attempt.

        The attempt ends when the last one that waits is cancelled.

        Raises:
            ConnectionError: The connection was closed meanwhile.
            Exception: Why it failed; possibly an exception group.
        """
        self._waiters += 1
        try:
            await asyncio.wait([self._settled])
        finally:
            self._waiters -= 1
            if not self._waiters and not self._settled.done():
                self.close_soon()
        if self._session is not None:
            return self._session
        raise self._error or ConnectionError(f"the MCP server {self._owner.name} was closed")

    def close_soon(self) -> asyncio.Task[None]:
        """Begin to close; the task that does it ends within 2 s, whatever the server does.

        Closing goes on if nobody waits for that task. Idempotent.
        """
        if self._closing is None:
            self._session = None
            if self._settled.done():
                self._stop.set()
            else:
                self._settle(ConnectionError(f"the MCP server {self._owner.name} was closed"))
                self._task.cancel()
            self._closing = self._closers.spawn(self._wind_down(), name="wind down")
        return self._closing

    def give_up(self) -> None:
        """The time for closing is over: kill what was started, cancel the rest, wait for nothing."""
        if self._task.done():
            return  # the server may be in use again
        try:
            self._owner._kill(force=True)
        except Exception:
            logger.exception("the MCP server %s can't be ended", self._owner.name)
        self._scope.cancel_soon()
        self._closers.cancel_soon()

    def lose(self) -> None:
        """Give up a session that the server no longer knows."""
        self._lost("the server has ended the session")

    async def _run(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                streams = await stack.enter_async_context(self._owner.client_streams())
                session = await stack.enter_async_context(
                    ClientSession(
                        _ReadTap(streams[0], self._stop.set),
                        streams[1],
                        read_timeout_seconds=self._request_timeout,
                        message_handler=self._on_message,
                    )
                )
                await session.initialize()
                if self._settled.done():
                    return  # closed, or overdue, at the last moment
                self._session = session
                self._settle(None)
                await self._stop.wait()
                self._lost("the server has closed it")
        except asyncio.CancelledError:
            self._settle(ConnectionError("the attempt to connect was cancelled"))
            raise
        except Exception as error:
            self._failed(_unwrapped(error))
        finally:
            self._session = None

    def _failed(self, error: Exception) -> None:
        if not self._settled.done():
            self._settle(error)
        elif self._closing is not None:
            logger.debug("the MCP server %s failed while closing: %r", self._owner.name, error)
        else:
            self._lost(repr(error))

    def _lost(self, reason: str) -> None:
        if self._closing is not None:
            return
        logger.warning("lost the connection to the MCP server %s: %s", self._owner.name, reason)
        self.close_soon()
        self._owner._on_lost(self)

    def _settle(self, error: BaseException | None) -> None:
        if not self._settled.done():
            self._error = error
            self._settled.set_result(None)

    def _overdue(self, timeout: float) -> None:
        if not self._settled.done():
            self._settle(
                TimeoutError(f"the MCP server {self._owner.name} isn't ready after {timeout:g} s")
            )
            self.close_soon()
            self._task.cancel()

    async def _wind_down(self) -> None:
        for grace, force in ((_EXIT_GRACE, False), (_TERMINATION_GRACE, True)):
            if not await wait_until(self._task, grace):
                return
            try:
                self._owner._kill(force=force)
            except Exception:
                logger.exception("the MCP server %s can't be ended", self._owner.name)
        if not await wait_until(self._task, _KILL_GRACE):
            return
        for survivor in await self._scope.cancel(_CANCEL_GRACE):
            logger.warning("%s: %s does not end and is abandoned", survivor.owner, survivor.name)

    async def _on_message(self, message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._owner._on_tools_changed()
        elif isinstance(message, Exception):
            logger.debug("MCP server %s: %r", self._owner.name, message)


def _unwrapped(error: Exception) -> Exception:
    """The one exception in a group of one: what a task group makes of any failure."""
    inner: tuple[Any, ...] = getattr(error, "exceptions", ())
    if len(inner) == 1 and isinstance(inner[0], Exception):
        return _unwrapped(inner[0])
    return error


class _ReadTap:
    """The SDK's read stream, which also tells when it ends: nothing else in the SDK does."""

    def __init__(self, stream: Any, on_end: Callable[[], None]) -> None:
        self._stream = stream
        self._on_end = on_end

    async def receive(self) -> Any:
        """The next message. What ends the stream is told, and raised."""
        try:
            return await self._stream.receive()
        except Exception:
            self._on_end()
            raise

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except Exception:
            self._on_end()
            raise

    def __aiter__(self) -> _ReadTap:
        return self

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> _ReadTap:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> bool | None:
        result: bool | None = await self._stream.__aexit__(*exc)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
