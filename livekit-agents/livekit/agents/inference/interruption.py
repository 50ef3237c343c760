"""A model behind the gateway that tells interruptions from "uh-huh"."""

from __future__ import annotations

import asyncio
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from livekit import rtc
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    model_serializer,
)

from .._emitter import IsolatedEmitter
from .._exceptions import APIError, APIStatusError
from .._streams import CLOSE_GRACE, EventChannel, qualified_name, report_survivors
from ..log import logger
from ..types import NOT_GIVEN, APIConnectOptions, NotGivenOr
from ..utils import is_given
from ..utils.aio import Chan, ChanClosed, TaskScope, wait_until
from ..utils.retry import RetryPolicy
from ._errors import (
    ConnectionState,
    Failure,
    Phase,
    classify_end,
    classify_server_error,
    end_error,
)
from ._overlap_audio import SAMPLE_RATE, OverlapAudio, Requests, frames_of
from ._protocol import bargein as protocol
from ._protocol.stt import SessionClose
from ._protocol.wire import ProtocolError, ServerError
from ._socket import Closed, GatewaySocket, SessionSource, dial
from ._utils import Gateway

if TYPE_CHECKING:
    import aiohttp

    from ..voice.hearing.overlap import OverlapEnded, OverlapSignal, OverlapStarted

__all__ = [
    "AUDIO_PREFIX_DURATION",
    "DEFAULT_INTERRUPTION_CONN_OPTIONS",
    "DETECTION_INTERVAL",
    "MAX_AUDIO_DURATION",
    "MIN_INTERRUPTION_DURATION",
    "REMOTE_INFERENCE_TIMEOUT",
    "SAMPLE_RATE",
    "AdaptiveInterruptionDetector",
    "InterruptionCacheEntry",
    "InterruptionDataFrameType",
    "InterruptionDetectionError",
    "InterruptionOptions",
    "InterruptionStreamBase",
    "InterruptionWSMessageType",
    "InterruptionWebSocketStream",
    "OverlappingSpeechEvent",
]

MIN_INTERRUPTION_DURATION = 0.025 * 2
MAX_AUDIO_DURATION = 3
AUDIO_PREFIX_DURATION = 1.0
DETECTION_INTERVAL = 0.1
REMOTE_INFERENCE_TIMEOUT = 0.7
DEFAULT_INTERRUPTION_CONN_OPTIONS = APIConnectOptions(max_retry=0)

SERVICE = "LiveKit Inference interruption detection"

_PROBABILITY_FRAMES = frames_of(MIN_INTERRUPTION_DURATION)
_MAX_QUEUED = 500
"""Items that may wait for a slow connection; audio beyond that is not judged."""

InterruptionDataFrameType: TypeAlias = "rtc.AudioFrame | OverlapSignal"
"""What a stream takes: audio, and what happens between user and agent."""


class OverlappingSpeechEvent(BaseModel):
    """The user spoke over the agent, and what the model made of it. Durations in seconds."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    type: Literal["overlapping_speech"] = "overlapping_speech"
    created_at: float = Field(default_factory=time.time)
    detected_at: float = Field(default_factory=time.time)
    is_interruption: bool = False
    agent_ended: bool = False
    """The agent fell silent first: nothing was decided."""
    total_duration: float = 0.0
    """From the request to its answer."""
    prediction_duration: float = 0.0
    """What the model itself took."""
    detection_delay: float = 0.0
    """From the start of the overlap to the verdict."""
    overlap_started_at: float | None = None
    speech_input: Any = None
    """The audio that was judged: an array of int16 at 16 kHz. Not part of dumps."""
    probabilities: Any = None
    """For each frame of 25 ms: an array of float32. Not part of dumps."""
    probability: float = 0.0
    num_requests: int = 0

    @classmethod
    def from_cache_entry(
        cls,
        *,
        entry: InterruptionCacheEntry,
        is_interruption: bool,
        started_at: float | None = None,
        ended_at: float | None = None,
        agent_ended: bool = False,
    ) -> OverlappingSpeechEvent:
        """Make an event of what is known about a request.

        Args:
            entry: The request.
            is_interruption: The verdict.
            started_at: When the overlap began, epoch seconds.
            ended_at: When it ended, epoch seconds; now by default.
            agent_ended: The agent fell silent first.
        """
        return cls(
            detected_at=time.time() if ended_at is None else ended_at,
            is_interruption=is_interruption,
            agent_ended=agent_ended,
            total_duration=entry.get_total_duration(),
            prediction_duration=entry.get_prediction_duration(),
            detection_delay=entry.get_detection_delay(),
            overlap_started_at=started_at,
            speech_input=entry.speech_input,
            probabilities=entry.probabilities,
            probability=entry.get_probability(),
        )

    @model_serializer(mode="wrap")
    def serialize_model(self, handler: SerializerFunctionWrapHandler) -> Any:
        """Dump without the arrays."""
        copy = self.model_copy(update={"speech_input": None, "probabilities": None})
        return handler(copy)


class InterruptionDetectionError(BaseModel):
    """Detection failed; argument of the `"error"` event."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    type: Literal["interruption_detection_error"] = "interruption_detection_error"
    timestamp: float = Field(default_factory=time.time)
    label: str
    error: Exception = Field(..., exclude=True)
    recoverable: bool


@dataclass
class InterruptionCacheEntry:
    """One request of an overlap, and its answer if it came. Durations in seconds."""

    created_at: int = field(default_factory=lambda: time.perf_counter_ns())
    speech_input: Any = None
    total_duration: float | None = None
    prediction_duration: float | None = None
    detection_delay: float | None = None
    probabilities: Any = None
    is_interruption: bool | None = None

    def get_total_duration(self, default: float = 0.0) -> float:
        """From the request to its answer."""
        return default if self.total_duration is None else self.total_duration

    def get_prediction_duration(self, default: float = 0.0) -> float:
        """What the model took."""
        return default if self.prediction_duration is None else self.prediction_duration

    def get_detection_delay(self, default: float = 0.0) -> float:
        """From the start of the overlap to the answer."""
        return default if self.detection_delay is None else self.detection_delay

    def get_probability(self, default: float = 0.0) -> float:
        """How likely it is an interruption, as likely as its two likeliest frames."""
        if self.probabilities is None or len(self.probabilities) < _PROBABILITY_FRAMES:
            return default
        return float(sorted(self.probabilities)[-_PROBABILITY_FRAMES])


@dataclass
class InterruptionOptions:
    """How to detect. Durations in seconds."""

    sample_rate: int
    threshold: float | None
    min_frames: int
    max_audio_duration: float
    audio_prefix_duration: float
    detection_interval: float
    inference_timeout: float
    base_url: str
    api_key: str
    api_secret: str


class AdaptiveInterruptionDetector(
    IsolatedEmitter[Literal["overlapping_speech", "error", "metrics_collected"]]
):
    """Judges speech over the agent. One object serves any number of streams."""

    def __init__(
        self,
        *,
        threshold: NotGivenOr[float] = NOT_GIVEN,
        min_interruption_duration: float = MIN_INTERRUPTION_DURATION,
        max_audio_duration: float = MAX_AUDIO_DURATION,
        audio_prefix_duration: float = AUDIO_PREFIX_DURATION,
        detection_interval: float = DETECTION_INTERVAL,
        inference_timeout: float = REMOTE_INFERENCE_TIMEOUT,
        base_url: str | None = None,
        api_key: str | None = None,
        api_secret: str | None = None,
        http_session: aiohttp.ClientSession | None = None,
    ) -> None:
        """Choose how to judge. Nothing is connected yet.

        Args:
            threshold: Probability from which speech is an interruption; the model's by default.
            min_interruption_duration: Seconds that an interruption lasts at least.
            max_audio_duration: Seconds of audio that are judged, at most 3.
            audio_prefix_duration: Seconds from before the speech that are judged with it.
            detection_interval: Seconds of new audio between two requests.
            inference_timeout: Seconds to wait for an answer.
            base_url: Of the gateway; `LIVEKIT_INFERENCE_URL` by default.
            api_key: `LIVEKIT_INFERENCE_API_KEY` or `LIVEKIT_API_KEY` by default.
            api_secret: `LIVEKIT_INFERENCE_API_SECRET` or `LIVEKIT_API_SECRET` by default.
            http_session: What to connect with; that of the job by default. It is yours to close.

        Raises:
            ValueError: Credentials are missing, or a duration is out of range.
        """
        super().__init__()
        if not 0 < max_audio_duration <= MAX_AUDIO_DURATION:
            raise ValueError(
                f"max_audio_duration must be at most {MAX_AUDIO_DURATION:.1f} seconds, got "
                f"{max_audio_duration}"
            )
        self._gateway = Gateway.resolve(
            base_url=base_url or NOT_GIVEN,
            api_key=api_key or NOT_GIVEN,
            api_secret=api_secret or NOT_GIVEN,
        )
        self._opts = InterruptionOptions(
            sample_rate=SAMPLE_RATE,
            threshold=threshold if is_given(threshold) else None,
            min_frames=frames_of(min_interruption_duration),
            max_audio_duration=max_audio_duration,
            audio_prefix_duration=audio_prefix_duration,
            detection_interval=detection_interval,
            inference_timeout=inference_timeout,
            base_url=self._gateway.base_url,
            api_key=self._gateway.api_key,
            api_secret=self._gateway.api_secret,
        )
        self._label = qualified_name(self)
        self._session = SessionSource(http_session)
        self._streams: weakref.WeakSet[InterruptionWebSocketStream] = weakref.WeakSet()
        self._closed = False

    @property
    def model(self) -> str:
        """Name of the model."""
        return "adaptive interruption"

    @property
    def provider(self) -> str:
        """`"livekit"`."""
        return "livekit"

    @property
    def label(self) -> str:
        """Module and class, for logs and events."""
        return self._label

    @property
    def sample_rate(self) -> int:
        """Of the audio that is judged, in Hz."""
        return self._opts.sample_rate

    def stream(
        self, *, conn_options: APIConnectOptions = DEFAULT_INTERRUPTION_CONN_OPTIONS
    ) -> InterruptionWebSocketStream:
        """Start to judge.

        Args:
            conn_options: How often to reconnect after a failure, and the connect timeout.

        Raises:
            RuntimeError: The detector was closed, or no event loop is running.
        """
        if self._closed:
            raise RuntimeError("this AdaptiveInterruptionDetector is closed: make another one")
        stream = InterruptionWebSocketStream(model=self, conn_options=conn_options)
        self._streams.add(stream)
        return stream

    def update_options(
        self,
        *,
        threshold: NotGivenOr[float] = NOT_GIVEN,
        min_interruption_duration: NotGivenOr[float] = NOT_GIVEN,
    ) -> None:
        """Judge differently. Running streams connect anew.

        Args:
            threshold: As for the constructor.
            min_interruption_duration: As for the constructor.
        """
        if is_given(threshold):
            self._opts.threshold = threshold
        if is_given(min_interruption_duration):
            self._opts.min_frames = frames_of(min_interruption_duration)
        for stream in list(self._streams):
            stream.update_options()

    async def aclose(self) -> None:
        """Close all streams, in two seconds at most. Idempotent."""
        self._closed = True
        scope = TaskScope(self._label)
        for stream in list(self._streams):
            scope.spawn(stream.aclose(), name="close a stream")
        await scope.join(CLOSE_GRACE)

    def _report(self, event: OverlappingSpeechEvent) -> None:
        from ..metrics.base import InterruptionMetrics, Metadata

        self.emit("overlapping_speech", event)
        undecided = event.is_interruption or event.agent_ended
        self.emit(
            "metrics_collected",
            InterruptionMetrics(
                timestamp=event.detected_at,
                total_duration=event.total_duration,
                prediction_duration=event.prediction_duration,
                detection_delay=event.detection_delay,
                num_interruptions=int(event.is_interruption),
                num_backchannels=int(not undecided),
                num_requests=event.num_requests,
                metadata=Metadata(model_name=self.model, model_provider=self.provider),
            ),
        )


class InterruptionStreamBase(ABC):
    """One conversation's worth of judging. Iterating yields `OverlappingSpeechEvent`."""

    def __init__(
        self, *, model: AdaptiveInterruptionDetector, conn_options: APIConnectOptions
    ) -> None:
        """Open the stream.

        Args:
            model: Whom errors, events and metrics are reported on.
            conn_options: How often to reconnect after a failure, and the connect timeout.

        Raises:
            RuntimeError: No event loop is running.
        """
        self._model = model
        self._conn_options = conn_options
        self._input_ch: Chan[Any] = Chan()
        self._event_ch: Chan[OverlappingSpeechEvent] = EventChannel(model._report)
        self._resampler: rtc.AudioResampler | None = None
        self._pushed_rate: int | None = None
        self._failure: Exception | None = None
        self._closing = False
        self._scope = TaskScope(model.label)
        self._task = self._scope.spawn(self._main_task(), name="judge overlaps")
        self._task.add_done_callback(lambda _: self._event_ch.close())

    @abstractmethod
    async def _run(self) -> None:
        """Judge until the input ends."""

    def push_frame(self, frame: rtc.AudioFrame) -> None:
        """Let the model hear the user. Never blocks.

        Raises:
            RuntimeError: The stream is over.
        """
        if self._input_ch.closed or self._event_ch.closed:
            raise RuntimeError(f"{qualified_name(self)} is closed")
        for piece in self._at_model_rate(frame):
            if self._input_ch.qsize() < _MAX_QUEUED:
                self._input_ch.send_nowait(piece)

    def _at_model_rate(self, frame: rtc.AudioFrame) -> list[rtc.AudioFrame]:
        if self._pushed_rate is None:
            self._pushed_rate = frame.sample_rate
            if frame.sample_rate != SAMPLE_RATE:
                self._resampler = rtc.AudioResampler(
                    frame.sample_rate,
                    SAMPLE_RATE,
                    num_channels=frame.num_channels,
                    quality=rtc.AudioResamplerQuality.QUICK,
                )
        if frame.sample_rate != self._pushed_rate:
            return []
        return [frame] if self._resampler is None else self._resampler.push(frame)

    def send(self, event: OverlapSignal) -> None:
        """Tell what happens between user and agent, in order with the audio."""
        if not self._input_ch.closed:
            self._input_ch.send_nowait(event)

    def flush(self) -> None:
        """Let audio that is held back for resampling go."""
        if self._resampler is not None and not self._input_ch.closed:
            for piece in self._resampler.flush():
                self._input_ch.send_nowait(piece)

    def end_input(self) -> None:
        """Nothing more will come; the stream ends."""
        self.flush()
        self._input_ch.close()

    async def aclose(self) -> None:
        """Stop at once. Takes a second at most. Idempotent."""
        self._closing = True
        self._input_ch.close()
        try:
            report_survivors(await self._scope.cancel(CLOSE_GRACE))
        finally:
            self._event_ch.close()

    async def _main_task(self) -> None:
        policy = RetryPolicy(self._conn_options)
        while not self._closing:
            try:
                await self._run()
                return
            except Exception as error:
                if self._closing:
                    return
                delay = policy.next_delay(error) if isinstance(error, APIError) else None
                self._emit_error(error, recoverable=delay is not None)
                if delay is None:
                    self._failure = error
                    return
                logger.warning("%s failed: %s, retrying in %.2fs", SERVICE, error, delay)
                await asyncio.sleep(delay)

    def _emit_error(self, error: Exception, *, recoverable: bool) -> None:
        self._model.emit(
            "error",
            InterruptionDetectionError(
                label=self._model.label, error=error, recoverable=recoverable
            ),
        )

    async def __anext__(self) -> OverlappingSpeechEvent:
        try:
            return await self._event_ch.recv()
        except ChanClosed:
            pass
        if self._failure is not None and not self._closing:
            raise self._failure
        raise StopAsyncIteration

    def __aiter__(self) -> AsyncIterator[OverlappingSpeechEvent]:
        return self


class _Reconnect:
    """In the input of a stream: use new options from here on."""


@dataclass(frozen=True)
class _Lost:
    """In the input of a stream: this connection failed."""

    error: Exception
    socket: GatewaySocket | None
    """None: it didn't come about."""


@dataclass(frozen=True)
class _Answer:
    """In the input of a stream: the gateway has judged."""

    message: protocol.InferenceDone


class InterruptionWebSocketStream(InterruptionStreamBase):
    """Judges by the gateway. Connected while the agent speaks; idle ends of the connection are fine."""

    def __init__(
        self, *, model: AdaptiveInterruptionDetector, conn_options: APIConnectOptions
    ) -> None:
        """See `InterruptionStreamBase`."""
        opts = model._opts
        self._audio = OverlapAudio(
            max_duration=opts.max_audio_duration,
            prefix=opts.audio_prefix_duration,
            interval=opts.detection_interval,
        )
        self._requests = Requests(lambda created_at: InterruptionCacheEntry(created_at=created_at))
        self._overlap_started_at: float | None = None
        self._socket: GatewaySocket | None = None
        self._readers: TaskScope | None = None
        self._dialling: asyncio.Task[GatewaySocket] | None = None
        super().__init__(model=model, conn_options=conn_options)

    def update_options(
        self,
        *,
        threshold: NotGivenOr[float] = NOT_GIVEN,
        min_interruption_duration: NotGivenOr[float] = NOT_GIVEN,
    ) -> None:
        """Connect anew, with other options.

        Args:
            threshold: As for the detector, whose other streams keep theirs until they reconnect.
            min_interruption_duration: Likewise.
        """
        if is_given(threshold):
            self._model._opts.threshold = threshold
        if is_given(min_interruption_duration):
            self._model._opts.min_frames = frames_of(min_interruption_duration)
        if not self._input_ch.closed:
            self._input_ch.send_nowait(_Reconnect())

    async def _run(self) -> None:
        try:
            async for item in self._input_ch:
                if isinstance(item, rtc.AudioFrame):
                    window = self._audio.push(item.data.cast("B"))
                    if window is not None:
                        await self._ask(window)
                else:
                    await self._on_signal(item)
        finally:
            await self._disconnect()

    async def _on_signal(self, signal: Any) -> None:
        from ..voice.hearing import overlap

        if isinstance(signal, _Answer):
            self._on_answer(signal.message)
        elif isinstance(signal, _Lost):
            if signal.socket is self._socket:
                raise signal.error
        elif isinstance(signal, _Reconnect):
            await self._disconnect()
        elif isinstance(signal, overlap.AgentSpeechStarted):
            self._audio.agent_started()
            self._connect_soon()
        elif isinstance(signal, overlap.AgentSpeechEnded):
            self._audio.agent_ended()
        elif isinstance(signal, overlap.OverlapStarted):
            await self._on_overlap_started(signal)
        elif isinstance(signal, overlap.OverlapEnded):
            self._on_overlap_ended(signal)

    async def _on_overlap_started(self, signal: OverlapStarted) -> None:
        if self._audio.overlap_started(signal.speech_duration):
            self._requests.clear()
            self._overlap_started_at = signal.started_at
            self._connect_soon()

    def _on_overlap_ended(self, signal: OverlapEnded) -> None:
        if not self._audio.overlap_open:
            return
        self._audio.overlap_ended()
        self._decide(self._last_answered(), False, signal.ended_at, signal.agent_ended)

    def _last_answered(self) -> InterruptionCacheEntry:
        for record in reversed(self._requests.records):
            assert isinstance(record, InterruptionCacheEntry)
            if record.total_duration is not None:
                return record
        return InterruptionCacheEntry()

    def _on_answer(self, message: protocol.InferenceDone) -> None:
        entry = self._requests.answered(message.created_at)
        if not isinstance(entry, InterruptionCacheEntry) or not self._audio.overlap_open:
            return
        import numpy as np

        entry.total_duration = (_stamp() - entry.created_at) / 1e9
        entry.prediction_duration = message.prediction_duration
        entry.probabilities = np.asarray(message.probabilities, dtype=np.float32)
        entry.is_interruption = message.is_interruption
        if self._overlap_started_at is not None:
            entry.detection_delay = time.time() - self._overlap_started_at
        if message.is_interruption:
            self._audio.overlap_ended()
            self._decide(entry, True, None, False)

    def _decide(
        self,
        entry: InterruptionCacheEntry,
        is_interruption: bool,
        ended_at: float | None,
        agent_ended: bool,
    ) -> None:
        event = OverlappingSpeechEvent.from_cache_entry(
            entry=entry,
            is_interruption=is_interruption,
            started_at=self._overlap_started_at,
            ended_at=ended_at,
            agent_ended=agent_ended,
        )
        event.num_requests = self._requests.count
        self._event_ch.send_nowait(event)

    # -- connection -------------------------------------------------------------------------------

    async def _ask(self, window: bytes) -> None:
        import numpy as np

        self._check_patience()
        socket = await self._connected()
        entry = self._requests.add(_stamp())
        assert isinstance(entry, InterruptionCacheEntry)
        entry.speech_input = np.frombuffer(window, dtype=np.int16)
        message = protocol.encode_client(protocol.AudioWindow(entry.created_at, window))
        try:
            await asyncio.wait_for(socket.send(message), self._model._opts.inference_timeout)
        except asyncio.TimeoutError:
            raise self._too_slow() from None

    def _check_patience(self) -> None:
        oldest = self._requests.oldest_unanswered
        if oldest is None:
            return
        waited = (_stamp() - oldest) / 1e9
        if waited > self._model._opts.inference_timeout:
            raise self._too_slow()

    def _too_slow(self) -> APIStatusError:
        return APIStatusError(
            f"{SERVICE} did not answer within {self._model._opts.inference_timeout:g} s",
            status_code=408,
            retryable=False,
        )

    def _connect_soon(self) -> None:
        """Dial, unless connected: beside everything else, since nobody asks anything yet."""
        if self._dialling is not None or (self._socket is not None and not self._socket.closed):
            return
        self._dialling = self._scope.spawn(self._dial(), name="dial", log_errors=False)
        self._dialling.add_done_callback(self._on_dialled)

    def _on_dialled(self, task: asyncio.Task[GatewaySocket]) -> None:
        if task is not self._dialling:
            return
        self._dialling = None
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._note(_Lost(error, None))

    async def _connected(self) -> GatewaySocket:
        """The connection. Waits for it no longer than for an answer: the user is speaking."""
        self._connect_soon()
        task = self._dialling
        if task is None:
            assert self._socket is not None
            return self._socket
        task.remove_done_callback(self._on_dialled)  # a failure is told once, here
        if await wait_until(task, self._model._opts.inference_timeout):
            raise self._too_slow()
        self._dialling = None
        return task.result()

    async def _dial(self) -> GatewaySocket:
        await self._hang_up()
        opts = self._model._opts
        gateway = self._model._gateway
        self._socket = socket = await dial(
            self._model._session.get(),
            gateway.websocket_url("/bargein"),
            gateway,
            service=SERVICE,
            timeout=self._conn_options.timeout,
            greeting=str(
                protocol.encode_client(
                    protocol.SessionCreate(threshold=opts.threshold, min_frames=opts.min_frames)
                )
            ),
        )
        self._readers = TaskScope(SERVICE)
        self._readers.spawn(self._read(socket), name="read verdicts")
        return socket

    async def _disconnect(self) -> None:
        task, self._dialling = self._dialling, None
        if task is not None:
            task.cancel()
        await self._hang_up()

    async def _hang_up(self) -> None:
        socket, self._socket = self._socket, None
        readers, self._readers = self._readers, None
        if readers is not None:
            readers.cancel_soon()
        if socket is not None:
            await socket.aclose(goodbye=str(protocol.encode_client(SessionClose())))

    async def _read(self, socket: GatewaySocket) -> None:
        while True:
            received = await socket.receive()
            error = None
            if isinstance(received, Closed):
                failure = classify_end(received.code, received.reason, self._state())
                if failure is not Failure.IDLE and failure is not Failure.RECYCLED:
                    error = end_error(failure, received.code, f"{SERVICE} connection closed")
            else:
                try:
                    message = protocol.decode_server(received)
                except ProtocolError as caught:
                    logger.warning("%s sent a message that can't be read: %s", SERVICE, caught)
                    continue
                if isinstance(message, protocol.InferenceDone):
                    self._note(_Answer(message))
                    continue
                error = self._error_of(message)
                if error is None and not isinstance(message, ServerError):
                    continue
            # without an error the connection was only idle, and is opened again when needed
            if error is not None:
                self._note(_Lost(error, socket))
            else:
                socket.abort()
            return

    def _state(self) -> ConnectionState:
        asking = self._requests.oldest_unanswered is not None and self._audio.overlap_open
        return ConnectionState(Phase.OPEN, age=float("inf"), speech_pending=asking)

    def _error_of(self, message: Any) -> APIError | None:
        if isinstance(message, protocol.SessionCreated):
            if message.default_threshold is None and self._model._opts.threshold is None:
                return APIStatusError(
                    f"{SERVICE} has no threshold of its own: set one",
                    status_code=500,
                    retryable=False,
                )
            return None
        if not isinstance(message, ServerError):
            return None
        failure = classify_server_error(message, self._state())
        if failure is Failure.IDLE:
            return None
        code = message.code if isinstance(message.code, int) else -1
        return APIStatusError(
            f"{SERVICE} returned an error", status_code=code, body=message.message
        )

    def _note(self, item: Any) -> None:
        if not self._input_ch.closed:
            self._input_ch.send_nowait(item)


def _stamp() -> int:
    """Nanoseconds on the clock that names requests."""
    return int(time.perf_counter() * 1e9)


class InterruptionWSMessageType(str, Enum):
    """Types of the messages on the wire."""

    SESSION_CREATE = "session.create"
    SESSION_CLOSE = "session.close"
    SESSION_CREATED = "session.created"
    SESSION_CLOSED = "session.closed"
    INTERRUPTION_DETECTED = "bargein_detected"
    INFERENCE_DONE = "inference_done"
    ERROR = "error"


class InterruptionWSSessionCreateSettings(BaseModel):
    """How to judge, as a client says it."""

    sample_rate: int
    num_channels: int
    threshold: float | None = None
    min_frames: int
    encoding: Literal["s16le"]


class InterruptionWSSessionCreateMessage(BaseModel):
    """Opens a session."""

    type: Literal[InterruptionWSMessageType.SESSION_CREATE] = (
        InterruptionWSMessageType.SESSION_CREATE
    )
    settings: InterruptionWSSessionCreateSettings


class InterruptionWSSessionCloseMessage(BaseModel):
    """Says good-bye."""

    type: Literal[InterruptionWSMessageType.SESSION_CLOSE] = InterruptionWSMessageType.SESSION_CLOSE


class InterruptionWSSessionCreatedMessage(BaseModel):
    """The session is open."""

    type: Literal[InterruptionWSMessageType.SESSION_CREATED] = (
        InterruptionWSMessageType.SESSION_CREATED
    )
    default_threshold: float | None = None


class InterruptionWSSessionClosedMessage(BaseModel):
    """The session is closed."""

    type: Literal[InterruptionWSMessageType.SESSION_CLOSED] = (
        InterruptionWSMessageType.SESSION_CLOSED
    )


class InterruptionWSDetectedMessage(BaseModel):
    """A window was judged to be an interruption."""

    type: Literal[InterruptionWSMessageType.INTERRUPTION_DETECTED] = (
        InterruptionWSMessageType.INTERRUPTION_DETECTED
    )
    created_at: int
    prediction_duration: float = Field(default=0.0)
    probabilities: list[float] = Field(default_factory=list)


class InterruptionWSInferenceDoneMessage(BaseModel):
    """A window was judged to be none."""

    type: Literal[InterruptionWSMessageType.INFERENCE_DONE] = (
        InterruptionWSMessageType.INFERENCE_DONE
    )
    created_at: int
    prediction_duration: float = Field(default=0.0)
    probabilities: list[float] = Field(default_factory=list)


class InterruptionWSErrorMessage(BaseModel):
    """Something failed."""

    type: Literal[InterruptionWSMessageType.ERROR] = InterruptionWSMessageType.ERROR
    message: str
    code: int
    session_id: str


AnyInterruptionWSMessage = (
    InterruptionWSSessionCreateMessage
    | InterruptionWSSessionCloseMessage
    | InterruptionWSSessionCreatedMessage
    | InterruptionWSSessionClosedMessage
    | InterruptionWSDetectedMessage
    | InterruptionWSInferenceDoneMessage
    | InterruptionWSErrorMessage
)
InterruptionWSMessage: TypeAdapter[AnyInterruptionWSMessage] = TypeAdapter(
    Annotated[AnyInterruptionWSMessage, Field(discriminator="type")]
)
"""Reads and writes any of the messages: for tools that look at the wire. The detector itself uses
a reader that skips what it does not know."""
