"""One connection to ``/stt``, from its first chunk of audio to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

from livekit import rtc

from .._exceptions import APIConnectionError, APIError, APITimeoutError
from ..log import logger
from ..utils.aio import TaskScope
from ..vad import VADEventType
from ._errors import (
    MAX_BAD_FRAMES,
    Failure,
    classify_end,
    classify_server_error,
    end_error,
    server_error,
)
from ._protocol.stt import (
    SessionClose,
    SessionClosed,
    SessionFinalize,
    SessionUpdate,
    Transcript,
    TranscriptKind,
    decode_server,
    encode_audio,
    encode_client,
)
from ._protocol.wire import ProtocolError, ServerError, UnknownMessage
from ._socket import Closed, GatewaySocket
from ._spoken_audio import CHUNK_DURATION, JUDGED_DURATION, loudness
from ._stt_session import SttSession

if TYPE_CHECKING:
    from ..stt import SpeechEvent
    from ..stt.input_channel import InputChannel
    from ..vad import VADStream

SERVICE = "LiveKit Inference STT"

_LAST_WORD_TIMEOUT = 1.0
"""Seconds that the receiver gets to say why a connection broke that can't be written to."""

_COMPLAINT_INTERVAL = 10.0


class Outcome(Enum):
    """How a connection ended, if it did not fail."""

    ENDED = "ended"
    """The input ended and everything is transcribed."""
    IDLE = "idle"
    """The gateway ended it because nobody was talking."""


class SttConnection:
    """Sends audio, receives transcripts, and finds out when and why it is over.

    Args:
        socket: An open connection, greeted.
        session: What the stream knows.
        sample_rate: Of the audio, in Hz.
        take: The input: frames and flush marks.
        is_replayed: Whether the frame taken last had been sent before.
        emit: Takes the events.
        note_speech: Told when there begins to be speech without a transcript, and when it ends.
        offset: Tells where the connection's first sample lies on the time line of the stream.
        vad: Finds the ends of utterances for models that don't.
    """

    def __init__(
        self,
        socket: GatewaySocket,
        session: SttSession,
        *,
        sample_rate: int,
        take: InputChannel[Any],
        is_replayed: Callable[[], bool],
        emit: Callable[[list[SpeechEvent]], None],
        note_speech: Callable[[bool], None],
        offset: Callable[[], float],
        vad: VADStream | None,
    ) -> None:
        self._socket = socket
        self._session = session
        self._take = take
        self._is_replayed = is_replayed
        self._emit = emit
        self._note_speech = note_speech
        self._speech_noted = session.speech_pending
        self._offset = offset
        self._vad = vad
        self._chunk_bytes = int(sample_rate * CHUNK_DURATION) * 2
        self._byte_rate = sample_rate * 2
        self._judged_bytes = int(sample_rate * JUDGED_DURATION) * 2
        self._buffer = bytearray()
        self._unjudged = bytearray()
        self._unjudged_replayed = False
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[Outcome] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._bad_frames = 0
        self._complained_at: float | None = None
        self._server_said_goodbye = False
        self.failure: Failure | None = None
        """What class of failure it ended with."""

    async def run(self) -> Outcome:
        """Work until the connection is over.

        Raises:
            APIError: It failed.
        """
        scope = TaskScope("gateway stt connection")
        scope.spawn(self._guard(self._send_audio()), name="send audio")
        scope.spawn(self._guard(self._receive()), name="receive transcripts")
        if self._vad is not None:
            scope.spawn(self._guard(self._watch_vad(self._vad)), name="watch the VAD")
        self._arm_timer()
        try:
            return await self._over
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._over.cancel()
            scope.cancel_soon()

    async def update(self, update: SessionUpdate) -> None:
        """Send changed options. A connection that is closed ignores them."""
        if self._socket.closed or self._over.done():
            return
        try:
            await self._socket.send(encode_client(update))
        except APIError:
            logger.debug("%s: an update of options was not sent", SERVICE)

    @property
    def goodbye(self) -> str | None:
        """What to say before closing the socket."""
        return None if self._server_said_goodbye else encode_client(SessionClose())

    # -- the end ----------------------------------------------------------------------------------

    def _finish(self, outcome: Outcome | BaseException) -> None:
        if self._over.done():
            return
        if isinstance(outcome, Outcome):
            self._over.set_result(outcome)
        else:
            self._over.set_exception(outcome)

    async def _guard(self, work: Any) -> None:
        try:
            await work
        except Exception as error:
            self._finish(error)

    def _end(self, failure: Failure, make_error: Callable[[], APIError]) -> None:
        """The connection is over in this way."""
        if failure in (Failure.ENDED, Failure.CLOSED):
            self._finish(Outcome.ENDED)
        elif failure is Failure.IDLE:
            self._finish(Outcome.IDLE)
        else:
            self.failure = failure
            self._finish(make_error())

    # -- timers -----------------------------------------------------------------------------------

    def _arm_timer(self) -> None:
        """Look again at the earliest moment at which waiting may have to stop."""
        moments = (self._session.drained_at, self._session.stalled_at)
        due = min((moment for moment in moments if moment is not None), default=None)
        if due is None or self._over.done():
            return
        if self._timer is not None:
            if self._timer.when() <= due and not self._timer.cancelled():
                return  # it will look at the new moment when it fires
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._loop.time()
        drained_at, stalled_at = self._session.drained_at, self._session.stalled_at
        if drained_at is not None and drained_at <= now:
            self._finish(Outcome.ENDED)
        elif stalled_at is not None and stalled_at <= now and self._session.speech_pending:
            self.failure = Failure.TRANSIENT
            self._session.give_up()
            self._finish(APITimeoutError(f"{SERVICE} does not answer for the speech it got"))
        else:
            self._arm_timer()

    # -- sending ----------------------------------------------------------------------------------

    async def _send_audio(self) -> None:
        take = self._take
        try:
            while not take.closed or not take.empty():
                await take.enough(self._missing)
                while (item := take.poll()) is not None:
                    if isinstance(item, rtc.AudioFrame):
                        await self._send_frame(item)
                    else:
                        await self._send_rest()
            await self._end_input()
        except APIConnectionError as error:
            # What is still in the receive buffer may say why; it has precedence.
            self._loop.call_later(_LAST_WORD_TIMEOUT, self._on_unwritable, error)

    def _on_unwritable(self, error: APIConnectionError) -> None:
        if self._over.done():
            return
        state = self._session.state(now=self._loop.time())
        failed = APIConnectionError(f"{SERVICE} connection closed unexpectedly")
        failed.__cause__ = error
        self._end(classify_end(None, "", state), lambda: failed)

    @property
    def _missing(self) -> float:
        """Seconds of audio until there is something to do."""
        if self._vad is not None:
            return 0.0
        return (self._chunk_bytes - len(self._buffer)) / self._byte_rate

    async def _send_frame(self, frame: rtc.AudioFrame) -> None:
        if self._vad is not None:
            _push_to_vad(self._vad, frame)
        buffer = self._buffer
        buffer += frame.data
        size = self._chunk_bytes
        if len(buffer) < size:
            return
        replayed = self._is_replayed()
        start = 0
        while len(buffer) - start >= size:
            await self._send_chunk(buffer[start : start + size], replayed)
            start += size
        del buffer[:start]

    async def _send_rest(self) -> None:
        """What is left of the last 50 ms."""
        if self._buffer:
            rest = bytes(self._buffer)
            self._buffer.clear()
            await self._send_chunk(rest, self._is_replayed())

    async def _send_chunk(self, pcm: bytes | bytearray, replayed: bool) -> None:
        await self._socket.send(encode_audio(pcm))
        if replayed is not self._unjudged_replayed:
            self._judge()
            self._unjudged_replayed = replayed
        self._unjudged += pcm
        if len(self._unjudged) >= self._judged_bytes:
            self._judge()

    def _judge(self) -> None:
        """Account for what was sent since the last time. Done for a few chunks at once: it costs
        more than sending one."""
        if not self._unjudged:
            return
        self._session.sent(
            len(self._unjudged) / self._byte_rate,
            loudness(self._unjudged),
            now=self._loop.time(),
            replayed=self._unjudged_replayed,
        )
        self._unjudged.clear()
        pending = self._session.speech_pending
        if pending is not self._speech_noted:
            self._speech_noted = pending
            self._note_speech(pending)
        if pending:
            self._arm_timer()

    async def _end_input(self) -> None:
        await self._send_rest()
        self._judge()
        if self._vad is not None:
            try:
                self._vad.end_input()
            except RuntimeError:
                pass  # it has ended by itself
        self._session.finalizing()
        # From now on an end is a normal end; the finalize itself may meet a closed connection.
        self._session.input_ended(now=self._loop.time())
        self._arm_timer()
        await self._socket.send(encode_client(SessionFinalize()))

    async def _watch_vad(self, vad: VADStream) -> None:
        async for event in vad:
            if event.type is VADEventType.END_OF_SPEECH and not self._socket.closed:
                self._judge()
                self._session.finalizing()
                try:
                    await self._socket.send(encode_client(SessionFinalize()))
                except APIConnectionError:
                    return  # the receiver will tell

    # -- receiving --------------------------------------------------------------------------------

    async def _receive(self) -> None:
        while not self._over.done():
            received = await self._socket.receive()
            if isinstance(received, Closed):
                self._on_closed(received)
                return
            try:
                if isinstance(received, bytes):
                    raise ProtocolError("expected text, got a binary frame")
                message = decode_server(received)
            except ProtocolError as error:
                self._on_bad_frame(error)
                continue
            self._bad_frames = 0
            if not isinstance(message, UnknownMessage):
                self._on_message(message)

    def _on_message(self, message: Any) -> None:
        if not isinstance(message, Transcript) or message.kind is TranscriptKind.FINAL:
            self._judge()  # what is said now is said about everything sent
        now = self._loop.time()
        if isinstance(message, ServerError):
            self._on_server_error(message, now)
        elif isinstance(message, SessionClosed):
            self._server_said_goodbye = True
            self._on_closed(Closed(None, ""), early=True)
        else:
            events = self._session.receive(message, offset=self._offset(), now=now)
            self._emit(events)
            self._arm_timer()

    def _on_closed(self, closed: Closed, *, early: bool = False) -> None:
        """The server has ended the connection, or the session before that."""
        self._judge()
        state = self._session.state(now=self._loop.time())
        # an announced end is an orderly one
        failure = classify_end(1000 if early else closed.code, closed.reason, state)
        text = "session closed before input ended" if early else "connection closed unexpectedly"
        self._end(
            failure, lambda: end_error(failure, closed.code, f"{SERVICE} {text}", closed.cause)
        )

    def _on_server_error(self, message: ServerError, now: float) -> None:
        failure = classify_server_error(message, self._session.state(now=now))
        if failure.counted:
            logger.error(
                "received error from LiveKit Inference STT", extra={"lk.pii.event": message.body}
            )
        self._end(failure, lambda: server_error(message, failure, f"{SERVICE} returned an error"))

    def _on_bad_frame(self, error: ProtocolError) -> None:
        now = self._loop.time()
        self._bad_frames += 1
        if self._complained_at is None or now - self._complained_at >= _COMPLAINT_INTERVAL:
            self._complained_at = now
            logger.warning("%s sent a message that can't be read: %s", SERVICE, error)
        if self._bad_frames >= MAX_BAD_FRAMES:
            self.failure = Failure.PROTOCOL
            failed = APIConnectionError(f"{SERVICE} sent {self._bad_frames} unreadable messages")
            failed.__cause__ = error
            self._finish(failed)


def _push_to_vad(vad: VADStream, frame: rtc.AudioFrame) -> None:
    try:
        vad.push_frame(frame)
    except RuntimeError:
        pass  # it has ended by itself; the input goes on without it
