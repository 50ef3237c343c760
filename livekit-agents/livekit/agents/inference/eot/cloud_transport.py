"""Asking the model behind the gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from livekit import rtc

from ..._exceptions import APIError, APIStatusError
from ...log import logger
from ...types import APIConnectOptions
from ...utils.aio import TaskScope
from .._errors import ConnectionState, Failure, Phase, classify_end, classify_server_error
from .._protocol.wire import ServerError
from .._socket import Closed, GatewaySocket, SessionSource, dial
from .._utils import Gateway, create_inference_request_id
from .transports import Answer

if TYPE_CHECKING:
    from livekit.protocol.agent_pb import agent_inference

SERVICE = "LiveKit Inference turn detection"

_LATENCY_LIMIT = 0.5
_MAX_WAITING = 2.0
"""Seconds of audio kept while connecting."""


@dataclass(frozen=True)
class CloudTransportOptions:
    gateway: Gateway
    session: SessionSource
    sample_rate: int
    conn_options: APIConnectOptions


class CloudTransport:
    """The model behind the gateway. Connected from the start; an idle end is fine.

    Args:
        opts: Where and how.
        on_answer: Called with answers.
        on_session: Called with each `SessionCreated`.
        on_failure: Called once when it can't go on.
    """

    def __init__(
        self,
        opts: CloudTransportOptions,
        on_answer: Callable[[Answer], None],
        on_session: Callable[[agent_inference.SessionCreated], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._opts = opts
        self._on_answer = on_answer
        self._on_session = on_session
        self._on_failure = on_failure
        self._scope = TaskScope("cloud turn detector")
        self._socket: GatewaySocket | None = None
        self._resampler: rtc.AudioResampler | None = None
        self._connecting = False
        self._failed = False
        self._input_ended = False
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._question: str | None = None
        self._send_lock = asyncio.Lock()
        self._connect()

    # -- input ------------------------------------------------------------------------------------

    def push(self, frame: rtc.AudioFrame) -> None:
        """Send audio, or keep the last two seconds while connecting."""
        if frame.sample_rate == self._opts.sample_rate:
            self._push(frame.data.tobytes())
            return
        if self._resampler is None:
            self._resampler = rtc.AudioResampler(
                frame.sample_rate,
                self._opts.sample_rate,
                num_channels=frame.num_channels,
                quality=rtc.AudioResamplerQuality.QUICK,
            )
        for piece in self._resampler.push(frame):
            self._push(piece.data.tobytes())

    def _push(self, pcm: bytes) -> None:
        self._waiting.append(pcm)
        self._waiting_bytes += len(pcm)
        if self._socket is None:
            limit = int(_MAX_WAITING * self._opts.sample_rate) * 2
            while self._waiting_bytes > limit and len(self._waiting) > 1:
                self._waiting_bytes -= len(self._waiting.pop(0))
        self._send_soon()

    def flush(self) -> None:
        """The gateway forgets the audio, too."""
        if self._resampler is not None:
            self._resampler.flush()
        self._waiting.clear()
        self._waiting_bytes = 0
        if self._socket is not None:
            message = _message()
            message.session_flush.SetInParent()
            self._spawn(self._send(message))

    def new_request_id(self) -> str:
        """An id for a request."""
        session_id = self._socket.session_id if self._socket is not None else None
        return create_inference_request_id(session_id, "eot", fallback_prefix="turn_request_")

    def ask(self, request_id: str) -> None:
        """Ask now, or as soon as there is a connection."""
        self._question = request_id
        self._send_soon()

    def end_input(self) -> None:
        """Say good-bye."""
        self._input_ended = True
        if self._socket is not None:
            message = _message()
            message.session_close.SetInParent()
            self._spawn(self._send(message))

    async def aclose(self) -> None:
        """Close the connection, within a second."""
        self._failed = True
        self._scope.cancel_soon()
        if self._socket is not None:
            await self._socket.aclose()

    def _spawn(self, work: Any) -> None:
        if self._scope.closed:
            work.close()
        else:
            self._scope.spawn(work)

    # -- sending ----------------------------------------------------------------------------------

    def _send_soon(self) -> None:
        if self._socket is None:
            # an idle end costs nothing; who has something to ask connects again
            if self._question is not None or self._connecting:
                self._connect()
        elif not self._send_lock.locked():
            self._spawn(self._send_waiting())

    async def _send_waiting(self) -> None:
        async with self._send_lock:
            while self._socket is not None and (self._waiting or self._question is not None):
                if self._waiting:
                    await self._send(self._audio_message())
                elif self._question is not None:
                    message = _message()
                    message.inference_start.request_id = self._question
                    self._question = None
                    await self._send(message)

    def _audio_message(self) -> agent_inference.ClientMessage:
        pcm = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        message = _message()
        message.input_audio.audio = pcm
        message.input_audio.num_samples = len(pcm) // 2
        message.input_audio.created_at.CopyFrom(message.created_at)
        return message

    async def _send(self, message: agent_inference.ClientMessage) -> None:
        socket = self._socket
        if socket is None:
            return
        try:
            await socket.send(message.SerializeToString())
        except APIError:
            pass  # the reader tells why

    # -- connection -------------------------------------------------------------------------------

    def _connect(self) -> None:
        if not self._connecting and not self._failed and not self._input_ended:
            self._connecting = True
            self._spawn(self._serve())

    async def _serve(self) -> None:
        try:
            await self._converse()
        except Exception as error:
            self._fail(error)
        finally:
            self._connecting = False

    async def _converse(self) -> None:
        opts = self._opts
        socket = await dial(
            opts.session.get(),
            opts.gateway.websocket_url("/eot"),
            opts.gateway,
            service=SERVICE,
            timeout=opts.conn_options.timeout,
        )
        self._socket = socket
        try:
            from livekit.protocol.agent_pb import agent_inference

            create = _message()
            create.session_create.settings.sample_rate = opts.sample_rate
            create.session_create.settings.encoding = agent_inference.AUDIO_ENCODING_PCM_S16LE
            await self._send(create)
            self._send_soon()
            error = await self._read(socket)
        finally:
            self._socket = None
            socket.abort()
        if error is not None:
            raise error

    async def _read(self, socket: GatewaySocket) -> APIError | None:
        from livekit.protocol.agent_pb import agent_inference

        while True:
            received = await socket.receive()
            if isinstance(received, Closed):
                return self._end_of(received)
            if isinstance(received, str):
                logger.warning("%s sent text where a binary message was expected", SERVICE)
                continue
            message = agent_inference.ServerMessage()
            try:
                message.ParseFromString(received)
            except Exception:
                logger.warning("%s sent a message that can't be read", SERVICE)
                continue
            kind = message.WhichOneof("message")
            if kind == "session_created":
                self._on_session(message.session_created)
            elif kind == "eot_prediction":
                self._on_prediction(message)
            elif kind == "error":
                return self._error_of(message.error)
            elif kind == "session_closed":
                return self._end_of(Closed(1000))

    def _state(self) -> ConnectionState:
        phase = Phase.DRAINING if self._input_ended else Phase.OPEN
        return ConnectionState(phase, age=float("inf"))

    def _end_of(self, closed: Closed) -> APIError | None:
        failure = classify_end(closed.code, closed.reason, self._state())
        if failure in (Failure.IDLE, Failure.ENDED, Failure.RECYCLED):
            return None
        return APIStatusError(
            f"{SERVICE} connection closed", status_code=closed.code or -1, retryable=False
        )

    def _error_of(self, error: Any) -> APIError | None:
        failure = classify_server_error(ServerError(error.code, error.message), self._state())
        if failure in (Failure.IDLE, Failure.ENDED):
            return None
        return APIStatusError(
            f"{SERVICE} returned an error", status_code=error.code, retryable=False
        )

    def _on_prediction(self, message: agent_inference.ServerMessage) -> None:
        prediction = message.eot_prediction
        stats = prediction.inference_stats
        heard_at = _seconds(stats.latest_client_created_at)
        delay = max(0.0, time.time() - heard_at) if heard_at else 0.0
        if delay > _LATENCY_LIMIT:
            logger.warning("turn detection transport latency is too high: %.0f ms", delay * 1000)
        self._on_answer(
            Answer(
                message.request_id,
                prediction.probability,
                backchannel_probability=prediction.backchannel_probability or None,
                total_duration=_seconds(stats.client_e2e_latency),
                inference_duration=_seconds(stats.server_e2e_latency),
                detection_delay=delay,
            )
        )

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            self._on_failure(error)


def _message() -> agent_inference.ClientMessage:
    from livekit.protocol.agent_pb import agent_inference

    message = agent_inference.ClientMessage()
    message.created_at.FromNanoseconds(int(time.time() * 1e9))
    return message


def _seconds(value: Any) -> float:
    """A protobuf time stamp or duration in seconds; 0 if it is not set."""
    return float(value.seconds) + float(value.nanos) / 1e9
