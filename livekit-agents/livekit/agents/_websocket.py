"""A WebSocket of a client: dialled within a time, closed within a second, never in the logs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from ._dial_errors import dial_error
from ._exceptions import APIConnectionError, APIError
from ._refusal import RefusalReader
from .utils import http_context
from .utils.aio import Deadline, run_bounded

HEARTBEAT = 20.0
"""Seconds between pings. A peer that does not answer one in half that time is gone."""

CLOSE_TIMEOUT = 1.0
"""Seconds that closing may take, everything included."""

_GOODBYE_TIMEOUT = 0.25


@dataclass(frozen=True)
class Closed:
    """The connection ended, received in place of a message."""

    code: int | None
    """Close code; None if there was none."""
    reason: str = ""
    cause: BaseException | None = None


class WebSocket:
    """An open connection. One task may receive, any may send.

    Args:
        ws: What `upgrade` returned.
        peer: Who is at the other end, for error messages.
    """

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, peer: str) -> None:
        self._ws = ws
        self._peer = peer
        self._transport = _transport_of(ws)

    @property
    def closed(self) -> bool:
        """Whether it is closed, or known to be broken."""
        return self._ws.closed or (self._transport is not None and self._transport.is_closing())

    async def send(self, message: str | bytes) -> None:
        """Send text or bytes. Waits while the peer does not read.

        Raises:
            APIConnectionError: The connection is broken.
        """
        try:
            if isinstance(message, str):
                await self._ws.send_str(message)
            else:
                await self._ws.send_bytes(message)
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise APIConnectionError(f"the connection to {self._peer} is broken") from error

    async def receive(self) -> str | bytes | Closed:
        """Wait for a message, or the end."""
        message = await self._ws.receive()
        if message.type is aiohttp.WSMsgType.TEXT or message.type is aiohttp.WSMsgType.BINARY:
            data: str | bytes = message.data
            return data
        code = self._ws.close_code
        code = None if code is None else int(code)  # some versions give members of an enum
        if message.type is aiohttp.WSMsgType.ERROR:
            return Closed(code, cause=self._ws.exception() or _as_exception(message.data))
        reason = message.extra if isinstance(message.extra, str) else ""
        return Closed(None if code in (None, 1005) else code, reason, self._ws.exception())

    async def aclose(self, *, goodbye: str | None = None, timeout: float = CLOSE_TIMEOUT) -> None:
        """Say good-bye and close; cut the connection if that takes longer than `timeout` seconds.

        Args:
            goodbye: A last message, sent if the connection takes it.
            timeout: Seconds for everything. The connection is cut at once if the call is cancelled.
        """
        deadline = Deadline(timeout)
        try:
            if goodbye is not None and not self.closed:
                await self._say(goodbye, min(_GOODBYE_TIMEOUT, timeout))
            # the grace of run_bounded is for somebody else's cleanup; here cutting is the cleanup
            await run_bounded(
                self._close(), deadline.remaining() or 0.0, owner=f"socket to {self._peer}"
            )
        except asyncio.CancelledError:
            self.abort()
            raise
        except Exception:
            pass  # late or broken: cut below
        self._cut_if_stuck()

    async def _say(self, goodbye: str, timeout: float) -> None:
        try:
            await run_bounded(self.send(goodbye), timeout, owner=f"socket to {self._peer}")
        except (asyncio.TimeoutError, APIError):
            pass

    async def _close(self) -> None:
        await self._ws.close()

    def _cut_if_stuck(self) -> None:
        """A closed transport with bytes to send would wait for the peer to read them, for ever."""
        transport = self._transport
        if transport is not None and (
            not transport.is_closing() or transport.get_write_buffer_size() > 0
        ):
            transport.abort()

    def abort(self) -> None:
        """Cut the connection, also when the peer reads nothing of what is still to be sent."""
        if self._transport is not None:
            self._transport.abort()


def _transport_of(ws: aiohttp.ClientWebSocketResponse) -> asyncio.WriteTransport | None:
    """aiohttp has no public name for it, and forgets it before the connection is really gone."""
    connection = getattr(getattr(ws, "_response", None), "connection", None)
    transport: asyncio.WriteTransport | None = getattr(connection, "transport", None)
    return transport


def _as_exception(value: object) -> BaseException | None:
    return value if isinstance(value, BaseException) else None


class SessionSource:
    """The HTTP session to dial with: the caller's, or that of the job.

    Args:
        given: The caller's; it is theirs to close.
        fallback: Makes one where there is no job.
    """

    def __init__(
        self,
        given: aiohttp.ClientSession | None,
        fallback: Callable[[], aiohttp.ClientSession] | None = None,
    ) -> None:
        self._given = given
        self._fallback = fallback
        self._cached: aiohttp.ClientSession | None = None

    def get(self) -> aiohttp.ClientSession:
        """The session.

        Raises:
            RuntimeError: There is neither a job nor a session of the caller.
        """
        if self._given is not None:
            return self._given
        if self._cached is None or self._cached.closed:
            self._cached = self._find()
        return self._cached

    def _find(self) -> aiohttp.ClientSession:
        try:
            return http_context.http_session()
        except RuntimeError:
            if self._fallback is None:
                raise
            return self._fallback()


async def upgrade(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str], service: str, timeout: float
) -> aiohttp.ClientWebSocketResponse:
    """The handshake. A socket that opens while the caller gives up is cut.

    Raises:
        APIError: It failed; names `service`, and says itself whether to try again.
    """
    if session.closed:
        raise APIConnectionError(
            f"failed to connect to {service}: the HTTP session is closed", retryable=False
        )
    opening = _Opening(session, url, headers)
    try:
        return await asyncio.wait_for(opening.run(), timeout)
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
        opening.discard()
        failure: Exception = error
    except BaseException:
        opening.discard()
        raise
    if isinstance(failure, aiohttp.ClientResponseError):
        # It has the request with the token in it; outside of the handler it leaves no trace.
        raise dial_error(failure, service, opening.refusal.body)
    raise dial_error(failure, service) from failure


class _Opening:
    def __init__(self, session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> None:
        self._session = session
        self._url = url
        self._headers = headers
        self._ws: Any = None
        self.refusal = RefusalReader()

    async def run(self) -> aiohttp.ClientWebSocketResponse:
        """Open the socket."""
        options: dict[str, Any] = {"headers": self._headers, "heartbeat": HEARTBEAT}
        with self.refusal.watching(self._session):
            # generic in some versions
            ws: Any = await self._session.ws_connect(self._url, **options)
        self._ws = ws
        return ws  # type: ignore[no-any-return]

    def discard(self) -> None:
        """Nobody wants the socket any more: cut it, if it is open."""
        if self._ws is not None:
            transport = _transport_of(self._ws)
            if transport is not None:
                transport.abort()
