"""The websocket to the LiveKit server: connects, reads, writes, connects again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import aiohttp

from ..log import logger
from ..utils.aio import TaskScope, wait_until
from .protocol import Event, ProtocolError, Registered, WorkerProtocol, agent_url
from .reconnect import ReconnectPolicy

if TYPE_CHECKING:
    from livekit.protocol import agent

__all__ = ["ConnectionFailedError", "ConnectionRejectedError", "WorkerConnection"]

_REGISTER_TIMEOUT = 10.0
"""Seconds the server may take to register the worker."""

_CONNECT_TIMEOUT = 10.0
"""Seconds the server may take to accept a connection."""

_CONFIRM_TIMEOUT = 0.5
"""Seconds the server may take to confirm a message."""

_CLOSE_TIMEOUT = 2.0


class ConnectionRejectedError(RuntimeError):
    """The server refuses this worker, and would refuse it again."""


class ConnectionFailedError(RuntimeError):
    """The server could not be reached, or kept, after many attempts."""


class WorkerConnection:
    """Keeps the worker registered for as long as `run` runs."""

    def __init__(
        self,
        protocol: WorkerProtocol,
        *,
        http: aiohttp.ClientSession,
        url: str,
        worker_token: str,
        make_token: Callable[[], str],
        proxy: str | None,
        max_retry: int,
        heartbeat: float,
        active_jobs: Callable[[], Iterable[str]],
        on_event: Callable[[Event], None],
    ) -> None:
        """Prepare.

        Args:
            protocol: What is said.
            http: Makes the connections.
            url: Of the LiveKit server.
            worker_token: Of hosted agents; may be empty.
            make_token: Makes the access token of an attempt.
            proxy: For the connection.
            max_retry: Failures in a row that are tried again.
            heartbeat: Seconds between two pings of the websocket.
            active_jobs: Ids of the jobs that run.
            on_event: Called with what the server wants.

        Raises:
            ValueError: `url` is not one of a server.
        """
        self._protocol = protocol
        self._http = http
        self._url = url
        self._agent_url = agent_url(url, worker_token)
        self._make_token = make_token
        self._proxy = proxy
        self._policy = ReconnectPolicy(max_retry)
        self._heartbeat = heartbeat
        self._active_jobs = active_jobs
        self._on_event = on_event
        self._scope = TaskScope("connection to livekit")
        self._outgoing = asyncio.Event()
        self._drained = asyncio.Event()
        self._ever_registered = False
        self._closing = False
        self.failed = False
        """Whether all attempts failed, so that there won't be a connection any more."""
        self.lost_at: float | None = time.monotonic()
        """Since when the worker is not registered (monotonic); None while it is."""

    def send(self, message: agent.WorkerMessage) -> None:
        """Queue a message: see `WorkerProtocol.send`."""
        self._protocol.send(message)
        self._outgoing.set()

    def send_confirmed(self, message: agent.WorkerMessage, handled: Callable[[], None]) -> None:
        """Queue a message, and be told when the server has handled it, or after half a second."""
        ping = self._protocol.send_confirmed(message, handled)
        self._outgoing.set()
        if ping is not None:
            asyncio.get_running_loop().call_later(_CONFIRM_TIMEOUT, self._protocol.confirm, ping)

    async def run(self) -> None:
        """Stay connected.

        Raises:
            ConnectionFailedError: All attempts failed.
            ConnectionRejectedError: The server refuses the worker.
        """
        while not self._closing:
            try:
                await self._connect_once()
            except ConnectionRejectedError:
                self.failed = True
                raise
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ProtocolError) as error:
                await self._wait_after(error)
            finally:
                if self.lost_at is None:
                    self.lost_at = time.monotonic()
                self._protocol.lost()
                self._drained.set()

    async def flush(self, timeout: float) -> None:
        """Wait until everything queued was written, for so long at most."""
        deadline = time.monotonic() + timeout
        while self._protocol.registered and self._protocol.pending:
            self._drained.clear()
            left = deadline - time.monotonic()
            if left <= 0:
                logger.warning("not everything could be sent to livekit before closing")
                return
            waiting = self._scope.spawn(self._drained.wait(), name="flush")
            await wait_until(waiting, left)
            waiting.cancel()

    async def aclose(self) -> None:
        """Close the connection."""
        self._closing = True
        await self._scope.cancel(_CLOSE_TIMEOUT)

    async def _wait_after(self, error: Exception) -> None:
        delay = self._policy.failed(time.monotonic())
        if delay is None:
            self.failed = True
            raise ConnectionFailedError(
                f"failed to connect to livekit after {self._policy.failures} attempts: "
                f"{_describe(error)} (url: {self._url})"
            ) from error
        logger.warning(
            "failed to connect to livekit, retrying in %ss",
            f"{delay:.1f}".rstrip("0").rstrip("."),
            extra={"error": _describe(error), "url": self._url},
        )
        await asyncio.sleep(delay)

    async def _connect_once(self) -> None:
        async with self._opened() as ws:
            await ws.send_bytes(self._protocol.connected())
            first = await asyncio.wait_for(self._receive(ws), _REGISTER_TIMEOUT)
            self._handle(first)
            self._policy.registered(time.monotonic())
            self._ever_registered = True
            self.lost_at = None
            writer = self._scope.spawn(self._write(ws), name="write to livekit", log_errors=False)
            try:
                while True:
                    self._handle(await self._receive(ws))
            finally:
                writer.cancel()
                await wait_until(writer, _CLOSE_TIMEOUT)

    def _opened(self) -> _Opened:
        return _Opened(self)

    async def _open(self) -> aiohttp.ClientWebSocketResponse:
        try:
            return await asyncio.wait_for(self._handshake(), _CONNECT_TIMEOUT)
        except aiohttp.WSServerHandshakeError as error:
            if error.status in (401, 403) and not self._ever_registered:
                raise ConnectionRejectedError(
                    f"the LiveKit server at {self._url} rejects the API key and secret "
                    f"(HTTP {error.status}): check LIVEKIT_API_KEY and LIVEKIT_API_SECRET, and "
                    "that they belong to this LIVEKIT_URL"
                ) from error
            raise

    async def _handshake(self) -> aiohttp.ClientWebSocketResponse:
        ws: Any = await self._http.ws_connect(
            self._agent_url,
            headers={"Authorization": f"Bearer {self._make_token()}"},
            heartbeat=self._heartbeat,
            autoping=True,
            proxy=self._proxy,
        )
        return cast("aiohttp.ClientWebSocketResponse", ws)

    async def _receive(self, ws: aiohttp.ClientWebSocketResponse) -> bytes:
        while True:
            msg = await ws.receive()
            if msg.type is aiohttp.WSMsgType.BINARY:
                data: bytes = msg.data
                return data
            if msg.type in (
                aiohttp.WSMsgType.CLOSE,
                aiohttp.WSMsgType.CLOSED,
                aiohttp.WSMsgType.CLOSING,
            ):
                raise ProtocolError(f"the server closed the connection (code {ws.close_code})")
            if msg.type is aiohttp.WSMsgType.ERROR:
                raise ProtocolError(f"the connection broke: {ws.exception()!r}")
            logger.warning("unexpected message of type %s from livekit", msg.type)

    def _handle(self, data: bytes) -> None:
        event = self._protocol.received(data, self._active_jobs())
        if event is not None:
            self._on_event(event)
        if isinstance(event, Registered):
            self._outgoing.set()

    async def _write(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            while (data := self._protocol.next_message()) is not None:
                await ws.send_bytes(data)
                self._protocol.wrote()
            self._drained.set()
            self._outgoing.clear()
            await self._outgoing.wait()


class _Opened:
    """A websocket that is closed within a bound, whatever the other end does."""

    def __init__(self, connection: WorkerConnection) -> None:
        self._connection = connection
        self._ws: aiohttp.ClientWebSocketResponse | None = None

    async def __aenter__(self) -> aiohttp.ClientWebSocketResponse:
        self._ws = await self._connection._open()
        return self._ws

    async def __aexit__(self, *_: Any) -> None:
        assert self._ws is not None
        try:
            await asyncio.wait_for(self._ws.close(), _CLOSE_TIMEOUT)
        except (asyncio.TimeoutError, OSError, aiohttp.ClientError):
            logger.debug("the connection to livekit did not close properly")


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__
