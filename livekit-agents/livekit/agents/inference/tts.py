"""Speech synthesis through the inference gateway."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast, overload

from typing_extensions import TypedDict, Unpack

from .. import tts
from .._exceptions import APIConnectionError, APIError, APITimeoutError
from .._streams import report_survivors
from ..language import LanguageCode
from ..types import (
    DEFAULT_API_CONNECT_OPTIONS,
    NOT_GIVEN,
    APIConnectOptions,
    NotGivenOr,
    TimedString,
)
from ..utils import ConnectionPool, is_given
from ..utils.aio import TaskScope
from ..utils.misc import shortuuid
from ._protocol.tts import (
    Done,
    InputTranscript,
    OutputAlignment,
    OutputAudio,
    SessionCreate,
    SessionFlush,
    encode_client,
)
from ._socket import SessionSource, dial
from ._stt_models import provider_of, split_model
from ._tts_connection import SERVICE, StaleConnection, TtsConnection, TtsSegment
from ._tts_models import (
    CartesiaModels,
    CartesiaOptions,
    DeepgramModels,
    DeepgramOptions,
    FallbackModel,
    FallbackModelType,
    FishAudioModels,
    FishAudioOptions,
    InworldModels,
    InworldOptions,
    RimeModels,
    RimeOptions,
    TTSEncoding,
    TTSModels,
    XaiModels,
    XaiOptions,
    aligns_text,
    markup_key,
)
from ._utils import (
    Gateway,
    check_extra,
    check_sample_rate,
    create_inference_request_id,
    read_fallback,
)

if TYPE_CHECKING:
    import aiohttp

    from .. import tokenize

__all__ = [
    "DEFAULT_ENCODING",
    "DEFAULT_SAMPLE_RATE",
    "TTS",
    "CartesiaModels",
    "CartesiaOptions",
    "DeepgramModels",
    "DeepgramOptions",
    "FallbackModel",
    "FallbackModelType",
    "FishAudioModels",
    "FishAudioOptions",
    "InworldModels",
    "InworldOptions",
    "RimeModels",
    "RimeOptions",
    "SynthesizeStream",
    "TTSEncoding",
    "TTSModels",
    "XaiModels",
    "XaiOptions",
]

DEFAULT_ENCODING: TTSEncoding = "pcm_s16le"
DEFAULT_SAMPLE_RATE = 24000

_MAX_CONNECTION_AGE = 300.0
"""Seconds that an idle connection is kept."""

_ACLOSE_TIMEOUT = 2.0


@dataclass
class _Options:
    model: str
    voice: str | None
    language: LanguageCode | None
    encoding: TTSEncoding
    sample_rate: int
    extra_kwargs: dict[str, Any]
    fallback: list[FallbackModel] | None
    conn_options: APIConnectOptions

    def copy(self) -> _Options:
        return replace(self, extra_kwargs=dict(self.extra_kwargs))


class _Arguments(TypedDict, total=False):
    """What all constructors of `TTS` take."""

    voice: NotGivenOr[str]
    language: NotGivenOr[str]
    encoding: NotGivenOr[TTSEncoding]
    sample_rate: NotGivenOr[int]
    base_url: NotGivenOr[str]
    api_key: NotGivenOr[str]
    api_secret: NotGivenOr[str]
    http_session: aiohttp.ClientSession | None
    fallback: NotGivenOr[list[FallbackModelType] | FallbackModelType]
    conn_options: NotGivenOr[APIConnectOptions]


class TTS(tts.TTS[Any]):
    """Speaks with a voice that LiveKit serves.

    ::

        AgentSession(tts=inference.TTS("cartesia/sonic-3", voice="…"))

    Connections are kept for the next utterance. One that the gateway ended meanwhile is replaced
    without a word.
    """

    class Markup(tts.TTS.Markup):
        """The markup dialect of the model."""

        def __init__(self, gateway_tts: TTS) -> None:
            super().__init__(gateway_tts)
            self._gateway_tts = gateway_tts

        def _provider_key(self) -> str:
            return markup_key(self._gateway_tts._opts.model)

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
        model: RimeModels,
        *,
        extra_kwargs: NotGivenOr[RimeOptions] = ...,
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
        model: XaiModels,
        *,
        extra_kwargs: NotGivenOr[XaiOptions] = ...,
        **arguments: Unpack[_Arguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        model: FishAudioModels,
        *,
        extra_kwargs: NotGivenOr[FishAudioOptions] = ...,
        **arguments: Unpack[_Arguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        model: str,
        *,
        extra_kwargs: NotGivenOr[dict[str, Any]] = ...,
        **arguments: Unpack[_Arguments],
    ) -> None: ...
    def __init__(
        self,
        model: TTSModels | str,
        *,
        voice: NotGivenOr[str] = NOT_GIVEN,
        language: NotGivenOr[str] = NOT_GIVEN,
        encoding: NotGivenOr[TTSEncoding] = NOT_GIVEN,
        sample_rate: NotGivenOr[int] = NOT_GIVEN,
        base_url: NotGivenOr[str] = NOT_GIVEN,
        api_key: NotGivenOr[str] = NOT_GIVEN,
        api_secret: NotGivenOr[str] = NOT_GIVEN,
        http_session: aiohttp.ClientSession | None = None,
        extra_kwargs: NotGivenOr[Any] = NOT_GIVEN,
        fallback: NotGivenOr[list[FallbackModelType] | FallbackModelType] = NOT_GIVEN,
        conn_options: NotGivenOr[APIConnectOptions] = NOT_GIVEN,
    ) -> None:
        """Choose a voice. Nothing is connected yet.

        Args:
            model: ``"provider/model"`` or ``"provider"``, perhaps with ``":voice"``.
            voice: Has precedence over that in `model`.
            language: Of the text.
            encoding: Of the audio on the wire.
            sample_rate: Of the speech, in Hz.
            base_url: Of the gateway; `LIVEKIT_INFERENCE_URL` by default.
            api_key: `LIVEKIT_INFERENCE_API_KEY` or `LIVEKIT_API_KEY` by default.
            api_secret: `LIVEKIT_INFERENCE_API_SECRET` or `LIVEKIT_API_SECRET` by default.
            http_session: What to connect with; that of the job by default. It is yours to close.
            extra_kwargs: Options of the provider.
            fallback: Models that the gateway tries when this one fails.
            conn_options: Timeout and retries of the gateway towards the provider. Those of the
                client are given to `stream` and `synthesize`.

        Raises:
            ValueError: Credentials are missing, or an argument can't be used.
        """
        self._gateway = Gateway.resolve(base_url=base_url, api_key=api_key, api_secret=api_secret)
        name, suffix = _parse_model_string(model)
        self._opts = _Options(
            model=name,
            voice=voice if is_given(voice) else suffix,
            language=LanguageCode(language) if is_given(language) else None,
            encoding=encoding if is_given(encoding) else DEFAULT_ENCODING,
            sample_rate=check_sample_rate(sample_rate, DEFAULT_SAMPLE_RATE),
            extra_kwargs=_check_extra(extra_kwargs),
            fallback=_normalize_fallback(fallback) if is_given(fallback) else None,
            conn_options=conn_options if is_given(conn_options) else DEFAULT_API_CONNECT_OPTIONS,
        )
        super().__init__(
            capabilities=tts.TTSCapabilities(streaming=True, aligned_transcript=self._aligns()),
            sample_rate=self._opts.sample_rate,
            num_channels=1,
        )
        self._session = SessionSource(http_session)
        self._streams: weakref.WeakSet[SynthesizeStream] = weakref.WeakSet()
        self._readers = TaskScope(f"{self._label} connections")
        self._pool: ConnectionPool[TtsConnection] = ConnectionPool(
            max_session_duration=_MAX_CONNECTION_AGE,
            mark_refreshed_on_get=True,
            connect_cb=self._connect,
            close_cb=TtsConnection.aclose,
        )
        self._closed = False

    @classmethod
    def from_model_string(cls, model: str) -> TTS:
        """Make one of ``"provider/model:voice"``.

        Raises:
            ValueError: Credentials are missing, or the string names no model.
        """
        return cls(model)

    @property
    def model(self) -> str:
        """The model's name."""
        return self._opts.model

    @property
    def provider(self) -> str:
        """`"livekit"`."""
        return "livekit"

    def update_options(
        self,
        *,
        voice: NotGivenOr[str] = NOT_GIVEN,
        model: NotGivenOr[TTSModels | str] = NOT_GIVEN,
        language: NotGivenOr[str] = NOT_GIVEN,
        extra_kwargs: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
    ) -> None:
        """Speak differently, from the next utterance on.

        Args:
            voice: Another voice.
            model: Another model, perhaps with ``":voice"``.
            language: Of the text.
            extra_kwargs: Options of the provider, added to those there are.

        Raises:
            ValueError: An argument can't be used. Nothing changes.
        """
        opts = self._opts.copy()
        if is_given(model):
            opts.model, suffix = _parse_model_string(model)
            opts.voice = suffix if suffix is not None else opts.voice
        if is_given(voice):
            opts.voice = voice
        if is_given(language):
            opts.language = LanguageCode(language)
        if is_given(extra_kwargs):
            opts.extra_kwargs.update(_check_extra(extra_kwargs))
        self._opts = opts
        self._capabilities.aligned_transcript = self._aligns()

    def _aligns(self) -> bool:
        return aligns_text(provider_of(self._opts.model), self._opts.extra_kwargs)

    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> tts.ChunkedStream:
        """Speak a text that is known as a whole. Starts at once.

        Args:
            text: What to say.
            conn_options: How often to try, and how long to wait for the gateway.

        Raises:
            RuntimeError: The object was closed, or no event loop is running.
        """
        self._check_open()
        return self._synthesize_with_stream(text, conn_options=conn_options)

    def stream(
        self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> SynthesizeStream:
        """Speak a text that is still being written.

        Args:
            conn_options: How often to try, and how long to wait for the gateway.

        Raises:
            RuntimeError: The object was closed, or no event loop is running.
        """
        self._check_open()
        stream = SynthesizeStream(tts=self, conn_options=conn_options)
        self._streams.add(stream)
        return stream

    def prewarm(self) -> None:
        """Connect in the background, so that the first words come sooner.

        Raises:
            RuntimeError: The object was closed, or no event loop is running.
        """
        self._check_open()
        self._pool.prewarm()

    async def aclose(self) -> None:
        """Close all streams and connections, in two seconds at most. Idempotent.

        The object is not used again.
        """
        self._closed = True
        scope = TaskScope(self._label)
        for stream in list(self._streams):
            scope.spawn(stream.aclose(), name="close a stream")
        scope.spawn(self._pool.aclose(), name="close the pool")
        await scope.join(_ACLOSE_TIMEOUT)
        self._readers.cancel_soon()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this inference.TTS is closed: make another one")

    # -- connections ------------------------------------------------------------------------------

    async def _connect(self, timeout: float) -> TtsConnection:
        socket = await dial(
            self._session.get(),
            self._gateway.websocket_url("/tts", model=self._opts.model),
            self._gateway,
            service=SERVICE,
            timeout=timeout,
            greeting=self._greeting(),
        )
        try:
            return TtsConnection(socket, self._readers, on_lost=self._pool.remove)
        except RuntimeError:  # closed meanwhile
            socket.abort()
            raise APIConnectionError(f"{SERVICE} was closed", retryable=False) from None

    def _greeting(self) -> str:
        opts = self._opts
        fallback = None
        if opts.fallback is not None:
            fallback = tuple(
                {
                    "model": entry["model"],
                    "voice": entry["voice"],
                    "extra": entry.get("extra_kwargs", {}),
                }
                for entry in opts.fallback
            )
        return encode_client(
            SessionCreate(
                sample_rate=opts.sample_rate,
                encoding=opts.encoding,
                extra=opts.extra_kwargs,
                voice=opts.voice,
                model=opts.model,
                language=opts.language,
                fallback=fallback,
                connect_timeout=opts.conn_options.timeout,
                retries=opts.conn_options.max_retry,
            )
        )


class SynthesizeStream(tts.SynthesizeStream):
    """One utterance. See `tts.SynthesizeStream`."""

    def __init__(self, *, tts: TTS, conn_options: APIConnectOptions) -> None:
        """Open the stream. It takes a connection at once.

        Args:
            tts: Whom errors and metrics are reported on. Its options now are those of the stream.
            conn_options: How often to try, and how long to wait for the gateway.

        Raises:
            RuntimeError: No event loop is running.
        """
        self._gateway_tts = tts
        self._opts = tts._opts.copy()
        key = tts.markup._provider_key()
        self._markup_in_use = tts.markup if tts._expressive and key else None
        super().__init__(tts=tts, conn_options=conn_options)

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        try:
            try:
                await self._speak(output_emitter)
            except StaleConnection:
                # Whatever else lies in the pool is as old. Nothing was said yet: nobody notices.
                self._gateway_tts._pool.invalidate()
                self._prepare_retry()
                await self._speak(output_emitter)
        except StaleConnection:
            raise APIConnectionError(f"{SERVICE} connection broke twice") from None
        except asyncio.TimeoutError:
            raise APITimeoutError(f"{SERVICE} connection timed out.") from None
        except APIError:
            raise
        except Exception as error:
            raise APIConnectionError(f"{SERVICE} failed") from error

    async def _speak(self, emitter: tts.AudioEmitter) -> None:
        pool = self._gateway_tts._pool
        async with pool.connection(timeout=self._conn_options.timeout) as connection:
            self._acquire_time = pool.last_acquire_time
            self._connection_reused = pool.last_connection_reused
            segment = connection.open_segment(self._conn_options.timeout)
            scope = TaskScope(SERVICE)
            sending = scope.spawn(self._send_text(segment), name="send text", log_errors=False)
            try:
                speech = _Speech(
                    emitter,
                    request_id=create_inference_request_id(
                        connection.session_id, "tts", fallback_prefix="tts_"
                    ),
                    sample_rate=self._opts.sample_rate,
                    provider=provider_of(self._opts.model),
                    expressive=self._markup_in_use is not None,
                )
                async for message in segment.messages():
                    speech.take(message)
                if sending.done():
                    sending.result()
                if not speech.heard and self._spoken_text().strip():
                    # the base would notice, too; raised here it costs the connection
                    raise APIError("no audio frames were pushed for the text")
            finally:
                segment.end()
                scope.cancel_soon()
                report_survivors(await scope.cancel(self._close_grace / 4))

    async def _send_text(self, segment: TtsSegment) -> None:
        """Send the text sentence by sentence, while it is being written."""
        try:
            opts = self._opts
            async for sentence in self._sentences():
                self._mark_started()
                await segment.send(
                    encode_client(
                        InputTranscript(
                            transcript=f"{sentence} ",
                            voice=opts.voice,
                            model=opts.model,
                            language=opts.language,
                            extra=opts.extra_kwargs,
                        )
                    )
                )
            await segment.send(encode_client(SessionFlush()), last=True)
        except (APIError, StaleConnection):
            pass  # the segment has failed, and its messages end with the error
        except Exception as error:
            segment._fail(APIConnectionError(f"{SERVICE}: the text could not be prepared"))
            raise error

    async def _sentences(self) -> AsyncIterator[str]:
        from ..tts._provider_format import sentence_tokenizer

        tokenizer = sentence_tokenizer(
            provider_of(self._opts.model), expressive=self._markup_in_use is not None
        )
        stream = tokenizer.stream()
        scope = TaskScope(SERVICE)
        feeding = scope.spawn(self._feed(stream), name="feed the tokenizer", log_errors=False)
        markup = self._markup_in_use
        try:
            async for data in stream:
                text = data.token
                if markup is not None:
                    text = markup.convert(markup.normalize(text))
                if text.strip():
                    yield text
            if feeding.done():
                feeding.result()
        finally:
            scope.cancel_soon()
            await stream.aclose()

    async def _feed(self, stream: tokenize.SentenceStream) -> None:
        markup = self._markup_in_use
        try:
            async for item in self._input_ch:
                if not isinstance(item, str):
                    stream.flush()
                else:
                    stream.push_text(item if markup is None else markup.normalize(item))
            stream.end_input()
        except Exception:
            await stream.aclose()
            raise


class _Speech:
    """Hands the gateway's answers to the emitter."""

    def __init__(
        self,
        emitter: tts.AudioEmitter,
        *,
        request_id: str,
        sample_rate: int,
        provider: str,
        expressive: bool,
    ) -> None:
        self._emitter = emitter
        self._request_id = request_id
        self._sample_rate = sample_rate
        self._word_end = " " if provider == "cartesia" else ""
        self._expressive = expressive
        self._held: list[TimedString] = []
        self._started = False
        self.heard = False
        """Whether there was any audio."""

    def take(self, message: Any) -> None:
        """Take an answer."""
        if not self._started:
            self._start(message.session_id)
        if isinstance(message, OutputAudio):
            self.heard = self.heard or bool(message.pcm)
            self._emitter.push(message.pcm)
        elif isinstance(message, OutputAlignment):
            self._push_words(self._words_of(message))
        elif isinstance(message, Done):
            self._push_words([], final=True)
            self._emitter.end_segment()

    def _start(self, session_id: str | None) -> None:
        # Not before the first answer: until then the connection may turn out to be stale.
        self._started = True
        self._emitter.initialize(
            request_id=self._request_id,
            sample_rate=self._sample_rate,
            num_channels=1,
            mime_type="audio/pcm",
            stream=True,
        )
        self._emitter.start_segment(segment_id=session_id or shortuuid("segment_"))

    def _words_of(self, message: OutputAlignment) -> list[TimedString]:
        end = self._word_end if message.words else ""
        return [
            TimedString(mark.text + end, start_time=mark.start, end_time=mark.end)
            for mark in message.words or message.chars or ()
        ]

    def _push_words(self, words: list[TimedString], *, final: bool = False) -> None:
        if self._expressive:
            from ..tts._provider_format import drop_bracket_cues

            words = drop_bracket_cues(words, self._held, final=final)
        if words:
            self._emitter.push_timed_transcript(words)


def _parse_model_string(model: str) -> tuple[str, str | None]:
    name, voice = split_model(model)
    if not name.strip():
        raise ValueError(
            f"{model!r} names no model: expected 'provider/model' or 'provider/model:voice'"
        )
    return name, voice


def _check_extra(extra: NotGivenOr[Any]) -> dict[str, Any]:
    return check_extra(extra, lambda options: encode_client(InputTranscript("", extra=options)))


def _fallback_of(model: str) -> FallbackModel:
    name, voice = _parse_model_string(model)
    return {"model": name, "voice": voice or ""}


def _normalize_fallback(fallback: Any) -> list[FallbackModel]:
    return read_fallback(
        fallback, _fallback_of, lambda entry: cast(FallbackModel, {"voice": "", **entry})
    )
