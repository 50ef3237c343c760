"""The connection of a realtime session: dialled, kept, replaced when lost or old, closed in time.

It knows nothing of what is said: the session answers for that.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

import aiohttp

from ..._close_codes import CloseKind, classify_close
from ..._exceptions import APIConnectionError, APIError
from ..._streams import report_survivors
from ..._websocket import CLOSE_TIMEOUT, Closed, WebSocket, upgrade
from ...log import logger
from ...types import APIConnectOptions
from ...utils.aio import TaskScope
from ...utils.retry import RetryPolicy, set_retry_after
from ._outbox import Event, Outbox

_RENEWAL_GRACE = 30.0
"""Seconds that something under way may delay the renewal of a connection."""

_BUSY_DELAY = 2.0
"""Seconds to wait for a server that asks to be left alone for a while."""

_SHUTDOWN = 0.5
"""Seconds for the tasks of a line to end."""


class Renewal(Exception):
    """The server ends an ordinary connection, as it does now and then: nothing is wrong."""


class LineUser(Protocol):
    """What a session does for its line."""

    def _ensure_http_session(self) -> aiohttp.ClientSession:
        """What to dial with."""
        ...

    def _create_ws_url_and_headers(self) -> tuple[str, dict[str, str]]:
        """Where to dial, for one attempt."""
        ...

    def _line_opened(self, acquire_time: float, *, again: bool) -> None:
        """There is a connection; `again` if there was one before that this one replaces."""
        ...

    def _line_received(self, message: str | bytes) -> None:
        """The server says something.

        Raises:
            APIError: This connection is of no use any more, or no connection ever will be.
            Renewal: Another one is needed.
        """
        ...

    def _line_lost(self, error: APIError | None, *, recoverable: bool) -> None:
        """A connection has ended or could not be made.

        Args:
            error: Why; None if that is in order.
            recoverable: Whether there will be another attempt.
        """
        ...

    def _line_idle(self) -> Coroutine[Any, Any, None]:
        """Wait for a good moment to replace the connection."""
        ...


class Line:
    """Keeps a session connected until it is closed or has to be given up.

    Args:
        user: The session.
        outbox: What is to be sent.
        peer: Who is at the other end, for messages.
        conn_options: Limits of dialling and retrying.
        max_duration: Seconds after which a connection is replaced; None for never.
    """

    def __init__(
        self,
        user: LineUser,
        outbox: Outbox,
        *,
        peer: str,
        conn_options: APIConnectOptions,
        max_duration: float | None,
    ) -> None:
        self._user = user
        self._outbox = outbox
        self._peer = peer
        self._options = conn_options
        self._max_duration = max_duration
        self._retry = RetryPolicy(conn_options)
        self._socket: WebSocket | None = None
        self._scope = TaskScope(f"{peer} line")
        self._retired = TaskScope(f"{peer} line (closing)")
        self._fault: asyncio.Future[None] | None = None
        self._last = False
        self._closing = False
        self.given_up = False
        """There is no connection and will be none."""

    def start(self) -> None:
        """Begin to dial."""
        self._scope.spawn(self._run(), name="line")

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._socket is not None

    def succeeded(self) -> None:
        """The connection has proved to be good: earlier failures are forgotten."""
        self._retry.reset()

    def break_off(self, error: APIError) -> None:
        """The connection is of no use any more: it has failed with this error."""
        if self._fault is not None and not self._fault.done():
            self._fault.set_exception(error)

    def say_goodbye(self) -> None:
        """The session is closing: this connection is the last, and nobody minds how it ends."""
        self._last = True

    async def aclose(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close the connection, within `timeout` and half a second. Idempotent."""
        self._closing = self.given_up = True
        self._scope.cancel_soon()
        socket, self._socket = self._socket, None
        try:
            if socket is not None:
                await socket.aclose(timeout=timeout)
        finally:
            survivors = [
                *await self._scope.cancel(_SHUTDOWN / 2),
                *await self._retired.cancel(_SHUTDOWN / 2),
            ]
            report_survivors(survivors)

    async def _run(self) -> None:
        again, loop = False, asyncio.get_running_loop()
        while True:
            connected_at: float | None = None
            try:
                socket, took = await self._dial()
                connected_at, replaces, again = loop.time(), again, True
                await self._converse(socket, partial(self._user._line_opened, took, again=replaces))
            except Exception as error:
                if self._last:
                    self._user._line_lost(None, recoverable=False)
                    return
                lived = 0.0 if connected_at is None else loop.time() - connected_at
                failure = self._judge(error, lived)
                delay = 0.0 if failure is None else self._retry.next_delay(failure)
                self.given_up = delay is None
                self._user._line_lost(failure, recoverable=delay is not None)
                if delay is None:
                    return
                await asyncio.sleep(delay)
            else:
                self._user._line_lost(None, recoverable=not self._last)
                if self._last:
                    return

    def _judge(self, error: Exception, lived: float) -> APIError | None:
        """What to tell of the end of a connection that lived for so many seconds; None: nothing."""
        established = lived > self._options.timeout
        if established:
            self._retry.reset()
        if isinstance(error, Renewal):
            if established:
                return None
            return APIConnectionError(f"{self._peer} ended the connection at once: {error}")
        if isinstance(error, APIError):
            return error
        logger.error("%s: the connection failed unexpectedly", self._peer, exc_info=error)
        failure = APIConnectionError(f"the connection to {self._peer} failed", retryable=False)
        failure.__cause__ = error
        return failure

    async def _dial(self) -> tuple[WebSocket, float]:
        url, headers = self._user._create_ws_url_and_headers()
        started = time.perf_counter()
        http = self._user._ensure_http_session()
        ws = await upgrade(http, url, headers, self._peer, self._options.timeout)
        self._socket = socket = WebSocket(ws, self._peer)
        return socket, time.perf_counter() - started

    async def _converse(self, socket: WebSocket, opened: Callable[[], None]) -> None:
        """Send and receive until the connection is lost or has served its time."""
        scope = TaskScope(f"{self._peer} connection")
        self._fault = fault = asyncio.get_running_loop().create_future()
        tasks: list[asyncio.Future[None]] = [fault]
        try:
            opened()
            for work in (self._send_all(socket), self._receive_all(socket)):
                tasks.append(scope.spawn(work, log_errors=False))
            done = await _first(tasks, self._max_duration)
            if not done:
                idle = scope.spawn(self._user._line_idle(), name="wait for a pause")
                done = await _first([*tasks, idle], _RENEWAL_GRACE)
            for ended in done:
                ended.result()
        finally:
            for future in tasks:
                future.add_done_callback(_retrieve)
            scope.cancel_soon()
            fault.cancel()
            self._socket = None
            self._retire(socket)

    def _retire(self, socket: WebSocket) -> None:
        """Close a connection that is no longer used, without waiting for the peer."""
        if self._retired.closed:
            socket.abort()
        elif not self._closing:  # else `aclose` holds it already
            self._retired.spawn(socket.aclose(), name="close a connection")

    async def _send_all(self, socket: WebSocket) -> None:
        while True:
            event: Event = await self._outbox.take()
            await socket.send(json.dumps(event))

    async def _receive_all(self, socket: WebSocket) -> None:
        while True:
            message = await socket.receive()
            if isinstance(message, Closed):
                raise self._end_of(message)
            self._user._line_received(message)

    def _end_of(self, closed: Closed) -> Exception:
        kind = classify_close(closed.code, closed.reason)
        if kind is CloseKind.IDLE:
            return Renewal(closed.reason or "idle")
        code = "" if closed.code is None else f" (code {closed.code})"
        reason = f": {closed.reason}" if closed.reason else ""
        error = APIConnectionError(f"{self._peer} closed the connection{code}{reason}")
        error.__cause__ = closed.cause
        if closed.code == 1013:  # try again later
            set_retry_after(error, _BUSY_DELAY)
        return error


async def _first(
    tasks: list[asyncio.Future[None]], timeout: float | None
) -> set[asyncio.Future[None]]:
    done, _ = await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    return done


def _retrieve(task: asyncio.Future[None]) -> None:
    """How it ended is of no interest any more; asyncio need not complain."""
    if not task.cancelled():
        task.exception()
