"""Speech recognition through the inference gateway."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast, overload

from livekit import rtc
from typing_extensions import TypedDict, Unpack

from .. import stt
from .._exceptions import APIError
from ..language import LanguageCode
from ..log import logger
from ..stt.input_channel import InputChannel
from ..stt.replay_buffer import DEFAULT_CAPACITY
from ..stt.retry_budget import Action
from ..types import (
    DEFAULT_API_CONNECT_OPTIONS,
    NOT_GIVEN,
    APIConnectOptions,
    NotGivenOr,
)
from ..utils import is_given
from ..utils.aio import TaskScope, run_bounded
from ..utils.misc import shortuuid
from ..vad import VADEventType
from ._errors import Failure
from ._protocol.stt import SessionCreate, SessionUpdate, encode_client
from ._socket import CLOSE_TIMEOUT, GatewaySocket, SessionSource, dial
from ._spoken_audio import CHUNK_DURATION, WakeGate, is_silence, loudness
from ._stt_connection import SERVICE, Outcome, SttConnection
from ._stt_models import (
    DEFAULT_SAMPLE_RATE,
    AssemblyAIModels,
    AssemblyaiOptions,
    CartesiaModels,
    CartesiaOptions,
    DeepgramFluxModels,
    DeepgramFluxOptions,
    DeepgramModels,
    DeepgramOptions,
    FallbackModel,
    FallbackModelType,
    GoogleModels,
    GoogleOptions,
    InworldModels,
    InworldOptions,
    OpenAIModels,
    OpenAIOptions,
    SpeechmaticsModels,
    SpeechmaticsOptions,
    STTEncoding,
    STTLanguages,
    STTModels,
    XaiModels,
    XaiOptions,
    aligns_words,
    diarizes,
    keyterm_key,
    merge_keyterms,
    needs_endpointing,
    provider_of,
    sample_rate_of,
    split_model,
    takes_chat_context,
)
from ._stt_session import (
    FINAL_TRANSCRIPT_INACTIVITY_TIMEOUT,
    FINALIZATION_TIMEOUT,
    SttSession,
)
from ._utils import Gateway, check_extra, check_sample_rate, read_fallback

if TYPE_CHECKING:
    import aiohttp

    from ..utils import AudioBuffer
    from ..vad import VAD, VADStream
    from ..voice.events import ConversationItemAddedEvent

__all__ = [
    "DEFAULT_ENCODING",
    "DEFAULT_SAMPLE_RATE",
    "FINALIZATION_TIMEOUT",
    "FINAL_TRANSCRIPT_INACTIVITY_TIMEOUT",
    "AssemblyAIModels",
    "AssemblyaiOptions",
    "CartesiaModels",
    "CartesiaOptions",
    "DeepgramFluxModels",
    "DeepgramFluxOptions",
    "DeepgramModels",
    "DeepgramOptions",
    "FallbackModel",
    "FallbackModelType",
    "GoogleModels",
    "GoogleOptions",
    "InworldModels",
    "InworldOptions",
    "OpenAIModels",
    "OpenAIOptions",
    "STT",
    "STTEncoding",
    "STTLanguages",
    "STTModels",
    "STTOptions",
    "SpeechStream",
    "SpeechmaticsModels",
    "SpeechmaticsOptions",
    "XaiModels",
    "XaiOptions",
]

DEFAULT_ENCODING: STTEncoding = "pcm_s16le"

_PREROLL = 1.5
"""Seconds of audio from before the first sound that go with it to a new connection."""

_SILENCE_HELD = 30.0
"""Seconds of silence kept in between speech without a transcript. It takes half a minute to be sure
that a connection is dead; ordinarily the answer comes within a second or two."""

_CONTEXT_CHARACTERS = 1750
_MIN_STALL_TIMEOUT = 20.0
_ACLOSE_TIMEOUT = 2.0


@dataclass
class STTOptions:
    """How to recognize. `sample_rate` in Hz."""

    model: NotGivenOr[str]
    language: NotGivenOr[LanguageCode]
    encoding: STTEncoding
    sample_rate: int
    base_url: str
    api_key: str
    api_secret: str
    extra_kwargs: dict[str, Any]
    fallback: NotGivenOr[list[FallbackModel]]
    conn_options: NotGivenOr[APIConnectOptions]

    @property
    def _model_name(self) -> str | None:
        return self.model if is_given(self.model) else None

    def _copy(self) -> STTOptions:
        return replace(self, extra_kwargs=dict(self.extra_kwargs))


class _Arguments(TypedDict, total=False):
    """What all constructors of `STT` take."""

    language: NotGivenOr[STTLanguages | str]
    base_url: NotGivenOr[str]
    encoding: NotGivenOr[STTEncoding]
    sample_rate: NotGivenOr[int]
    api_key: NotGivenOr[str]
    api_secret: NotGivenOr[str]
    http_session: aiohttp.ClientSession | None
    fallback: NotGivenOr[list[FallbackModelType] | FallbackModelType]
    conn_options: NotGivenOr[APIConnectOptions]
    replay_duration: float


class STT(stt.STT[Any]):
    """Recognizes speech with a model that LiveKit serves.

    ::

        AgentSession(stt=inference.STT("deepgram/nova-3", language="en"))

    A connection that was quiet for long is ended by the gateway; the stream goes on and connects
    again when somebody speaks. Audio that a broken connection took without a transcript is sent
    again on the next one.
    """

    @overload
    def __init__(
        self,
        model: CartesiaModels,
        *,
        extra_kwargs: NotGivenOr[CartesiaOptions] = ...,
        **arguments: Unpack[_Arguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        model: DeepgramModels,
        *,
        extra_kwargs: NotGivenOr[DeepgramOptions] = ...,
        **arguments: Unpack[_Arguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        model: DeepgramFluxModels,
        *,
        extra_kwargs: NotGivenOr[DeepgramFluxOptions] = ...,
        **arguments: Unpack[_Arguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        model: AssemblyAIModels,
        *,
        extra_kwargs: NotGivenOr[AssemblyaiOptions] = ...,
        **arguments: Unpack[_Arguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        model: XaiModels,
        *,
        extra_kwargs: NotGivenOr[XaiOptions] = ...,
        **arguments: Unpack[_Arguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        model: InworldModels,
        *,
        extra_kwargs: NotGivenOr[InworldOptions] = ...,
        **arguments: Unpack[_Arguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        model: GoogleModels,
        *,
        extra_kwargs: NotGivenOr[GoogleOptions] = ...,
        **arguments: Unpack[_Arguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        model: SpeechmaticsModels,
        *,
        extra_kwargs: NotGivenOr[SpeechmaticsOptions] = ...,
        vad: NotGivenOr[VAD] = ...,
        **arguments: Unpack[_Arguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        model: OpenAIModels,
        *,
        extra_kwargs: NotGivenOr[OpenAIOptions] = ...,
        vad: NotGivenOr[VAD] = ...,
        **arguments: Unpack[_Arguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        model: NotGivenOr[str] = ...,
        *,
        extra_kwargs: NotGivenOr[dict[str, Any]] = ...,
        vad: NotGivenOr[VAD] = ...,
        **arguments: Unpack[_Arguments],
    ) -> None: ...
    def __init__(
        self,
        model: NotGivenOr[STTModels | str] = NOT_GIVEN,
        *,
        language: NotGivenOr[STTLanguages | str] = NOT_GIVEN,
        base_url: NotGivenOr[str] = NOT_GIVEN,
        encoding: NotGivenOr[STTEncoding] = NOT_GIVEN,
        sample_rate: NotGivenOr[int] = NOT_GIVEN,
        api_key: NotGivenOr[str] = NOT_GIVEN,
        api_secret: NotGivenOr[str] = NOT_GIVEN,
        http_session: aiohttp.ClientSession | None = None,
        extra_kwargs: NotGivenOr[Any] = NOT_GIVEN,
        fallback: NotGivenOr[list[FallbackModelType] | FallbackModelType] = NOT_GIVEN,
        conn_options: NotGivenOr[APIConnectOptions] = NOT_GIVEN,
        vad: NotGivenOr[VAD] = NOT_GIVEN,
        replay_duration: float = DEFAULT_CAPACITY,
    ) -> None:
        """Choose a model. Nothing is connected yet.

        Args:
            model: ``"provider/model"``, perhaps with ``":language"``. Not given or ``"auto"``: the
                gateway chooses.
            language: Of the speech. Has precedence over that in `model`.
            base_url: Of the gateway; `LIVEKIT_INFERENCE_URL` by default.
            encoding: Of the audio on the wire.
            sample_rate: Of the audio on the wire, in Hz; what the model wants by default.
            api_key: `LIVEKIT_INFERENCE_API_KEY` or `LIVEKIT_API_KEY` by default.
            api_secret: `LIVEKIT_INFERENCE_API_SECRET` or `LIVEKIT_API_SECRET` by default.
            http_session: What to connect with; that of the job by default. It is yours to close.
            extra_kwargs: Options of the provider.
            fallback: Models that the gateway tries when this one fails.
            conn_options: Timeout and retries of the gateway towards the provider. Those of the
                client are given to `stream`.
            vad: Finds the ends of utterances for models that don't. `inference.VAD` by default.
            replay_duration: Seconds of speech that a stream keeps through a reconnect, 0 for none:
                what was pushed while there was no connection, and what a connection took without
                a final transcript for it. The next connection gets it first, faster than it was
                spoken. Of more than that the oldest is lost; one warning and the counter
                `lk.agents.stt.lost_audio_duration` tell how much. Silence (less than 100 RMS of
                16 bits) in between does not count, up to half a minute. Words of a transcript
                that was not final when the connection broke are final instead of lost.

        Raises:
            ValueError: Credentials are missing, or an argument can't be used.
        """
        name, suffix = _parse_model_string(model) if is_given(model) else (None, NOT_GIVEN)
        if is_given(language):
            suffix = LanguageCode(language)
        gateway = Gateway.resolve(base_url=base_url, api_key=api_key, api_secret=api_secret)
        extra = _check_extra(extra_kwargs)
        self._gateway = gateway
        self._opts = STTOptions(
            model=NOT_GIVEN if name is None else name,
            language=suffix,
            encoding=encoding if is_given(encoding) else DEFAULT_ENCODING,
            sample_rate=_check_sample_rate(name, sample_rate),
            base_url=gateway.base_url,
            api_key=gateway.api_key,
            api_secret=gateway.api_secret,
            extra_kwargs=extra,
            fallback=_normalize_fallback(fallback) if is_given(fallback) else NOT_GIVEN,
            conn_options=conn_options,
        )
        super().__init__(
            capabilities=stt.STTCapabilities(
                streaming=True, interim_results=True, offline_recognize=False
            )
        )
        self.replay_duration = replay_duration
        self._sample_rate_given = is_given(sample_rate)
        self._given_vad = vad
        self._vad: VAD | None = None
        self._resolve_model()
        self._session = SessionSource(http_session)
        self._streams: weakref.WeakSet[SpeechStream] = weakref.WeakSet()
        self._session_keyterms: list[str] = []
        self._closed = False

    @classmethod
    def from_model_string(cls, model: str) -> STT:
        """Make one of ``"provider/model:language"``.

        Raises:
            ValueError: Credentials are missing, or the string names no model.
        """
        return cls(model)

    @property
    def model(self) -> str:
        """The model's name, `"unknown"` if the gateway chooses."""
        return self._opts._model_name or "unknown"

    @property
    def provider(self) -> str:
        """`"livekit"`."""
        return "livekit"

    async def _recognize_impl(
        self,
        buffer: AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> stt.SpeechEvent:
        raise NotImplementedError(
            "the gateway recognizes streams only: push the frames to STT.stream() instead"
        )

    def stream(
        self,
        *,
        language: NotGivenOr[STTLanguages | str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> SpeechStream:
        """Start to recognize.

        Args:
            language: Of the speech, if another than that of the object.
            conn_options: How often to reconnect in a row, and the connect timeout.

        Raises:
            RuntimeError: The object was closed, or no event loop is running.
        """
        if self._closed:
            raise RuntimeError("this inference.STT is closed: make another one")
        opts = self._opts._copy()
        if is_given(language):
            opts.language = LanguageCode(language)
        stream = SpeechStream(
            stt=self, opts=opts, conn_options=conn_options, vad_instance=self._vad
        )
        self._streams.add(stream)
        return stream

    def update_options(
        self,
        *,
        model: NotGivenOr[STTModels | str] = NOT_GIVEN,
        language: NotGivenOr[STTLanguages | str] = NOT_GIVEN,
        extra: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
    ) -> None:
        """Change options, of running streams as well.

        Args:
            model: Another model, perhaps with ``":language"``. A running stream tells the gateway,
                but keeps its sample rate.
            language: Another language.
            extra: Options of the provider, added to those there are.

        Raises:
            ValueError: The model's name is malformed.
        """
        if is_given(model):
            name, suffix = _parse_model_string(model)
            self._opts.model = model = name
            if is_given(suffix) and not is_given(language):
                self._opts.language = suffix
            if not self._sample_rate_given:
                self._opts.sample_rate = sample_rate_of(name)
        if is_given(language):
            self._opts.language = LanguageCode(language)
        if is_given(extra):
            self._opts.extra_kwargs = {**self._opts.extra_kwargs, **extra}
        self._resolve_model()
        for stream in list(self._streams):
            stream.update_options(model=model, language=language, extra=extra)

    def _resolve_model(self) -> None:
        """Find out what the model can do and needs."""
        opts = self._opts
        model = opts._model_name
        fallback = opts.fallback if is_given(opts.fallback) else []
        names = [model, *(entry["model"] for entry in fallback)]
        capabilities = self._capabilities
        capabilities.diarization = diarizes(opts.extra_kwargs)
        capabilities.keyterms = keyterm_key(model) is not None
        capabilities.chat_context = takes_chat_context(model)
        capabilities.aligned_transcript = "word" if all(map(aligns_words, names)) else False
        if not needs_endpointing(model):
            self._vad = None
            if is_given(self._given_vad):
                logger.warning("%s ends utterances itself: the given VAD is not used", model)
            return
        if is_given(self._given_vad):
            self._vad = self._given_vad
        elif self._vad is None:
            from .vad import VAD

            self._vad = VAD()

    async def aclose(self) -> None:
        """Close all streams, in two seconds at most. Idempotent; the object is not used again."""
        self._closed = True
        streams = list(self._streams)
        if not streams:
            return
        scope = TaskScope("inference.STT")
        for stream in streams:
            scope.spawn(stream.aclose(), name="close a stream")
        await scope.join(_ACLOSE_TIMEOUT)

    # -- hooks of the voice pipeline --------------------------------------------------------------

    def _update_session_keyterms(self, keyterms: list[str]) -> None:
        if keyterms == self._session_keyterms:
            return
        if not self._capabilities.keyterms:
            super()._update_session_keyterms(keyterms)
            return
        self._session_keyterms = list(keyterms)
        for stream in list(self._streams):
            stream._keyterms_changed()

    def _push_conversation_item(self, ev: ConversationItemAddedEvent) -> None:
        if not self._capabilities.chat_context:
            super()._push_conversation_item(ev)
            return
        item = ev.item
        if item.type != "message" or item.role != "assistant":
            return
        text = item.text_content
        if text:
            self.update_options(extra={"agent_context": text[-_CONTEXT_CHARACTERS:]})


class SpeechStream(stt.SpeechStream):
    """A recognition that goes on from connection to connection. See `stt.RecognizeStream`."""

    def __init__(
        self,
        *,
        stt: STT,
        opts: STTOptions,
        conn_options: APIConnectOptions,
        vad_instance: VAD | None = None,
    ) -> None:
        """Open the stream.

        Args:
            stt: Whom errors and metrics are reported on.
            opts: How to recognize; the stream's own copy.
            conn_options: How often to reconnect in a row, and the connect timeout.
            vad_instance: Finds the ends of utterances, for models that don't.

        Raises:
            RuntimeError: No event loop is running.
        """
        super().__init__(stt=stt, conn_options=conn_options, sample_rate=opts.sample_rate)
        self._inference_stt = stt
        self._opts = opts
        self._vad = vad_instance
        self._model = opts._model_name
        self._connection: SttConnection | None = None
        self._keyterms_deferred = False
        self._one_retry_used = False
        self._after_failure = False
        self._failed_offset: float | None = None  # of the connection that broke last
        self._replays = stt.replay_duration > 0 and conn_options.max_retry > 0
        self._session = SttSession(
            language=opts.language if is_given(opts.language) else None,
            request_id=shortuuid("stt_request_"),
            stall_timeout=max(_MIN_STALL_TIMEOUT, 2 * conn_options.timeout),
            replayed_speech=stt.replay_duration if self._replays else None,
        )

    # -- options ----------------------------------------------------------------------------------

    def update_options(
        self,
        *,
        model: NotGivenOr[STTModels | str] = NOT_GIVEN,
        language: NotGivenOr[STTLanguages | str] = NOT_GIVEN,
        extra: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
    ) -> None:
        """Change options of this stream; what can't be changed while it runs is only forwarded.

        Args:
            model: Another model. Sample rate and voice activity detection stay as they are.
            language: Another language.
            extra: Options of the provider, added to those there are. Not used if `model` is one of
                another provider.

        Raises:
            ValueError: The model's name is malformed.
        """
        name: str | None = None
        same_provider = True
        if is_given(model):
            name, suffix = _parse_model_string(model)
            same_provider = provider_of(name) == provider_of(self._model)
            refused = sample_rate_of(name) != sample_rate_of(self._model)
            if refused:
                logger.warning(
                    "%s needs another sample rate than %s: open a new stream for it",
                    name,
                    self._model,
                )
            elif same_provider and is_given(suffix) and not is_given(language):
                language = suffix
        if is_given(language):
            self._opts.language = LanguageCode(language)
            self._session.language = self._opts.language
        forwarded: dict[str, Any] | None = None
        if is_given(extra) and same_provider:
            self._opts.extra_kwargs.update(extra)
            forwarded = self._with_keyterms(extra)
        self._send_update(
            SessionUpdate(
                model=name,
                language=str(self._opts.language) if is_given(language) else None,
                extra=forwarded,
            )
        )

    def _with_keyterms(self, extra: dict[str, Any]) -> dict[str, Any]:
        """Changed options as they are sent: terms to listen for always as a whole."""
        key = keyterm_key(self._model)
        if key is None or key not in extra:
            return dict(extra)
        self._keyterms_deferred = False
        return {**extra, key: self._keyterms(key)}

    def _keyterms(self, key: str) -> list[Any]:
        own = self._opts.extra_kwargs.get(key)
        return merge_keyterms(key, own, self._inference_stt._session_keyterms)

    def _keyterms_changed(self) -> None:
        """The session's terms are others: tell the gateway, but not in the middle of speech."""
        if self._session.speaking:
            self._keyterms_deferred = True
        else:
            self._send_keyterms()

    def _send_keyterms(self) -> None:
        self._keyterms_deferred = False
        key = keyterm_key(self._model)
        if key is not None:
            self._send_update(SessionUpdate(extra={key: self._keyterms(key)}))

    def _send_update(self, update: SessionUpdate) -> None:
        """Without a connection there is nobody to tell; the next one begins with all options."""
        connection = self._connection
        if connection is None or self._task_scope.closed or update == SessionUpdate():
            return
        self._task_scope.spawn(connection.update(update), name="send options")

    def _greeting(self) -> str:
        opts = self._opts
        extra = dict(opts.extra_kwargs)
        key = keyterm_key(self._model)
        if key is not None:
            extra[key] = self._keyterms(key)
        server_options = (
            opts.conn_options if is_given(opts.conn_options) else DEFAULT_API_CONNECT_OPTIONS
        )
        return encode_client(
            SessionCreate(
                sample_rate=opts.sample_rate,
                encoding=opts.encoding,
                extra=extra,
                language=str(opts.language) if is_given(opts.language) else None,
                model=None if self._model in (None, "auto") else self._model,
                fallback=tuple(
                    {"model": entry["model"], "extra": entry.get("extra_kwargs")}
                    for entry in opts.fallback
                )
                if is_given(opts.fallback)
                else None,
                connect_timeout=server_options.timeout,
                retries=server_options.max_retry,
            )
        )

    # -- connections ------------------------------------------------------------------------------

    async def _main_task(self) -> None:
        try:
            await super()._main_task()
        finally:
            if self._closing_task is None:
                self._send_events(self._session.stop_speaking())

    async def _run(self) -> None:
        while True:
            if await self._recognize() is Outcome.ENDED:
                return
            logger.debug("%s: the idle connection was ended, waiting for speech", SERVICE)
            if not await self._wait_for_speech():
                return
            self._replay_buffer.acknowledge(self._replay_buffer.taken - _PREROLL)
            self._after_failure = False
            self._failed_offset = None
            self._restart_input()
            self._count_reconnect(Action.PARK)

    async def _recognize(self) -> Outcome:
        """One connection."""
        socket = await self._dial()
        vad = self._vad.stream() if self._vad is not None else None
        assert isinstance(self._input_ch, InputChannel)
        connection = SttConnection(
            socket,
            self._session,
            sample_rate=self._opts.sample_rate,
            take=self._input_ch,
            is_replayed=lambda: self._after_failure and self._replay_buffer.last_replayed,
            emit=self._on_events,
            note_speech=self._replay_buffer.note_speech,
            offset=lambda: self.start_time_offset,
            vad=vad,
        )
        self._connection = connection
        try:
            return await connection.run()
        except APIError as error:
            self._judge_failure(error, connection.failure)
            raise
        finally:
            self._connection = None
            await self._release(connection, socket, vad)

    async def _dial(self) -> GatewaySocket:
        loop = asyncio.get_running_loop()
        gateway = self._inference_stt._gateway
        query = {} if self._model is None else {"model": self._model}
        began = loop.time()
        socket = await dial(
            self._inference_stt._session.get(),
            gateway.websocket_url("/stt", **query),
            gateway,
            service=SERVICE,
            timeout=self._conn_options.timeout,
            greeting=self._greeting(),
        )
        now = loop.time()
        if socket.session_id is not None:
            self._session.request_id = socket.session_id
        self._rescue_words()
        self._session.connected(now=now)
        # The age that decides about the retry budget is that of the connection.
        self._retry_budget.attempt_started()
        self._report_connection_acquired(now - began, False)
        self._report_replay()
        return socket

    def _rescue_words(self) -> None:
        """Words whose audio gave way are not lost if a transcript, though no final one, had them."""
        offset, self._failed_offset = self._failed_offset, None
        if offset is None:
            return
        events = self._session.rescue(self.start_time_offset - offset, offset=offset)
        if events:
            self._replay_buffer.skip(offset + self._session.covered - self._time_origin)
            self._send_events(events)

    def _report_replay(self) -> None:
        seconds = self._replay_buffer.replayable
        if self._after_failure and seconds > 0:
            logger.info(
                "%s is connected again, sending %.1f s of audio once more",
                SERVICE,
                seconds,
                extra={"stt": self._stt.label, "replayed_audio_duration": seconds},
            )
            self._stt._report_metrics(streamed=True, replayed_audio_duration=seconds)
            self._count_audio(seconds, "replayed")

    async def _release(
        self, connection: SttConnection, socket: GatewaySocket, vad: VADStream | None
    ) -> None:
        """Close what a connection used. Only the end of the stream waits for it."""
        closing = [socket.aclose(goodbye=connection.goodbye)]
        if vad is not None:
            closing.append(vad.aclose())
        if self._task_scope.closed:
            await _side_by_side(closing)
            return
        for work in closing:
            self._task_scope.spawn(work, name="close a connection")

    def _judge_failure(self, error: APIError, failure: Failure | None) -> None:
        """Settle what of the failed connection's audio the next one gets."""
        session = self._session
        self._after_failure = True
        if failure is not None and failure.one_retry:
            error.retryable = error.retryable and not self._one_retry_used
            self._one_retry_used = True
        self._replay_buffer.note_speech(session.speech_pending)
        if self._replays:
            self._failed_offset = self.start_time_offset
            self._replay_buffer.acknowledge(session.replay_from)
        else:
            self._replay_buffer.acknowledge(self._replay_buffer.taken)
            self._send_events(session.stop_speaking())

    def _replay_options(self) -> dict[str, Any]:
        return {
            "capacity": self._stt.replay_duration,
            "lookback": _PREROLL,  # to the audio from before the first sound after a quiet time
            "is_silence": is_silence,
            "silence": _SILENCE_HELD,
        }

    # -- events -----------------------------------------------------------------------------------

    def _on_events(self, events: list[stt.SpeechEvent]) -> None:
        self._replay_buffer.acknowledge(self._session.covered)
        self._replay_buffer.note_speech(self._session.speech_pending)
        self._send_events(events)

    def _send_events(self, events: list[stt.SpeechEvent]) -> None:
        for event in events:
            self._event_ch.send_nowait(event)
            if event.type is stt.SpeechEventType.END_OF_SPEECH and self._keyterms_deferred:
                self._send_keyterms()

    def _on_event(self, event: stt.SpeechEvent) -> None:
        # The session knows better than the events what was answered for.
        if event.type is stt.SpeechEventType.FINAL_TRANSCRIPT:
            self._one_retry_used = False
            self._retry_budget.transcribed()
        else:
            self._retry_budget.connection_proven()

    # -- without a connection ---------------------------------------------------------------------

    async def _wait_for_speech(self) -> bool:
        """Let audio pass until somebody speaks; False when the input ends before that."""
        self._replay_buffer.note_speech(False)
        self._send_events(self._session.stop_speaking())
        if self._vad is None:
            return await self._wait_for_sound()
        vad = self._vad.stream()
        try:
            return await self._wait_for_voice(vad)
        finally:
            await run_bounded(vad.aclose(), CLOSE_TIMEOUT, owner=SERVICE)

    async def _wait_for_sound(self) -> bool:
        gate = WakeGate()
        chunk = int(self._opts.sample_rate * CHUNK_DURATION) * 2
        buffer = bytearray()
        async for item in self._input_ch:
            if isinstance(item, rtc.AudioFrame):
                buffer += item.data.cast("B")
            while len(buffer) >= chunk:
                level = loudness(buffer[:chunk])
                del buffer[:chunk]
                if gate.hears(level):
                    return True
        return gate.hears(loudness(buffer))

    async def _wait_for_voice(self, vad: VADStream) -> bool:
        scope = TaskScope(SERVICE)
        feeding = scope.spawn(self._feed(vad), name="feed the VAD", log_errors=False)
        try:
            async for event in vad:
                if event.type is VADEventType.START_OF_SPEECH:
                    return True
            return False
        finally:
            feeding.cancel()
            await scope.join(CLOSE_TIMEOUT)

    async def _feed(self, vad: VADStream) -> None:
        async for item in self._input_ch:
            if isinstance(item, rtc.AudioFrame):
                vad.push_frame(item)
        vad.end_input()


async def _side_by_side(closing: list[Any]) -> None:
    scope = TaskScope(SERVICE)
    for work in closing:
        scope.spawn(work, name="close a connection")
    try:
        await scope.join(CLOSE_TIMEOUT + 0.1)
    finally:
        scope.cancel_soon()


def _parse_model_string(model: str) -> tuple[str, NotGivenOr[LanguageCode]]:
    name, suffix = split_model(model)
    if not name.strip():
        raise ValueError(
            f"{model!r} names no model: expected 'provider/model', 'provider/model:language' or "
            "'auto'"
        )
    return name, NOT_GIVEN if suffix is None else LanguageCode(suffix)


def _check_sample_rate(model: str | None, given: NotGivenOr[int]) -> int:
    wanted = sample_rate_of(model)
    rate = check_sample_rate(given, wanted)
    if provider_of(model) == "openai" and rate != wanted:
        logger.warning("%s takes %d Hz, but sample_rate is %d", model, wanted, rate)
    return rate


def _check_extra(extra: NotGivenOr[Any]) -> dict[str, Any]:
    return check_extra(extra, lambda options: encode_client(SessionUpdate(extra=options)))


def _normalize_fallback(fallback: Any) -> list[FallbackModel]:
    return read_fallback(
        fallback,
        lambda model: FallbackModel(model=_parse_model_string(model)[0]),
        lambda entry: cast(FallbackModel, entry),
    )
