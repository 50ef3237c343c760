"""A connection to ``/tts``: it carries one segment after the other, and waits in a pool between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .._exceptions import APIConnectionError, APIError, APIStatusError, APITimeoutError
from ..utils.aio import Chan, TaskScope
from ._errors import (
    MAX_BAD_FRAMES,
    ConnectionState,
    Failure,
    Phase,
    classify_server_error,
    server_error,
)
from ._protocol.tts import Done, ServerMessage, decode_server
from ._protocol.wire import ProtocolError, ServerError, UnknownMessage
from ._socket import Closed, GatewaySocket

SERVICE = "LiveKit Inference TTS"

_CLOSE_TIMEOUT = 0.7
"""Seconds; less than the pool grants."""


class StaleConnection(Exception):
    """A pooled connection turned out to be dead before it carried anything for us."""


class TtsConnection:
    """An open connection with its reader.

    Args:
        socket: Greeted.
        scope: Owns the reader.
        on_lost: Called when the connection turns bad while nobody uses it.
    """

    def __init__(
        self,
        socket: GatewaySocket,
        scope: TaskScope,
        on_lost: Callable[[TtsConnection], None],
    ) -> None:
        self._socket = socket
        self._on_lost = on_lost
        self._segment: TtsSegment | None = None
        self._spoilt = False
        self._segments = 0
        self._reader = scope.spawn(self._read(), name="read speech")

    @property
    def session_id(self) -> str | None:
        """`X-LiveKit-Session-ID` of the dial."""
        return self._socket.session_id

    @property
    def closed(self) -> bool:
        """Whether it must not be used again."""
        return self._spoilt or self._socket.closed

    def open_segment(self, timeout: float) -> TtsSegment:
        """Begin to speak. One segment at a time.

        Args:
            timeout: Seconds that the gateway may take to answer.
        """
        self._segment = TtsSegment(self, timeout, reused=self._segments > 0)
        self._segments += 1
        return self._segment

    def close_segment(self) -> None:
        """What still comes belongs to nobody."""
        self._segment = None

    async def send(self, text: str) -> None:
        """Send a message.

        Raises:
            APIConnectionError: The connection is broken.
        """
        await self._socket.send(text)

    async def aclose(self) -> None:
        """Close the connection; the gateway stops synthesizing. Takes less than a second."""
        self._spoilt = True
        try:
            await self._socket.aclose(timeout=_CLOSE_TIMEOUT)
        finally:
            self._reader.cancel()

    # -- reading ----------------------------------------------------------------------------------

    async def _read(self) -> None:
        bad_frames = 0
        while True:
            received = await self._socket.receive()
            if isinstance(received, Closed):
                self._on_end(_closed_error())
                return
            try:
                if isinstance(received, bytes):
                    raise ProtocolError("expected text, got a binary frame")
                message = decode_server(received)
            except ProtocolError as error:
                bad_frames += 1
                left_over = self._segment is None and self._segments > 0
                if bad_frames >= MAX_BAD_FRAMES or left_over:
                    self._on_end(_unreadable_error(error))
                    return
                continue
            bad_frames = 0
            if isinstance(message, ServerError):
                self._on_end(_error_of(message, str(received)))
                return
            if not isinstance(message, UnknownMessage):
                self._on_message(message)

    def _on_message(self, message: ServerMessage) -> None:
        segment = self._segment
        if segment is not None:
            segment._on_message(message)
        elif self._segments or isinstance(message, Done):
            self._lose()  # left over from the last segment: the next one must not get it

    def _on_end(self, error: APIError) -> None:
        self._spoilt = True
        if self._segment is not None:
            self._segment._fail(error)
        else:
            self._lose()

    def _lose(self) -> None:
        self._spoilt = True
        self._on_lost(self)


class TtsSegment:
    """What is spoken for one stream: sentences out, messages in.

    While the gateway owes an answer, a timer runs. While the text is still being written, it
    doesn't.
    """

    def __init__(self, connection: TtsConnection, timeout: float, *, reused: bool) -> None:
        self._connection = connection
        self._timeout = timeout
        self._reused = reused
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._sent_something = False
        self._flushed = False
        self._answered = False
        self._error: Exception | None = None
        self._messages: Chan[ServerMessage] = Chan()

    async def send(self, text: str, *, last: bool = False) -> None:
        """Send a sentence, or the flush after the last one.

        Raises:
            APIError: The connection failed.
            StaleConnection: It had been dead for long.
        """
        self._sent_something = True
        self._flushed = self._flushed or last
        self._arm()
        try:
            await self._connection.send(text)
        except APIConnectionError as error:
            self._fail(_closed_error())
            assert self._error is not None
            raise self._error from error

    async def messages(self) -> Any:
        """The answers, as an iterator that ends after `Done`.

        Raises:
            APIError: The connection failed, or fell silent.
            StaleConnection: It had been dead for long.
        """
        async for message in self._messages:
            yield message
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Nothing more is expected."""
        self._disarm()
        self._connection.close_segment()
        self._messages.close()

    def _on_message(self, message: ServerMessage) -> None:
        if not self._sent_something:
            if self._reused:
                self._fail(_closed_error())  # of the segment before: not to be trusted
            return
        self._answered = True
        if isinstance(message, Done):
            self._messages.send_nowait(message)
            self.end()
            return
        if self._flushed:
            self._arm()
        else:
            self._disarm()
        self._messages.send_nowait(message)

    def _fail(self, error: APIError) -> None:
        if self._error is None and not self._messages.closed:
            stale = self._reused and not self._answered
            self._error = StaleConnection() if stale else error
            self.end()

    # -- patience ---------------------------------------------------------------------------------

    def _arm(self) -> None:
        self._disarm()
        self._timer = self._loop.call_later(self._timeout, self._on_silence)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_silence(self) -> None:
        self._answered = True  # it has taken our text: not stale, but silent
        self._fail(APITimeoutError(f"{SERVICE} connection timed out."))


def _closed_error() -> APIError:
    return APIStatusError("Gateway connection closed unexpectedly")


def _unreadable_error(cause: ProtocolError) -> APIError:
    error = APIConnectionError(f"{SERVICE} sent messages that can't be read")
    error.__cause__ = cause
    return error


def _error_of(message: ServerError, raw: str) -> APIError:
    failure = classify_server_error(message, ConnectionState(Phase.OPEN, speech_pending=True))
    if failure is Failure.IDLE:
        failure = Failure.TRANSIENT
    return server_error(message, failure, f"{SERVICE} returned error: {raw}")
