"""`TTS`: what every speech synthesizer offers. The classes it works with are importable from here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from .._emitter import IsolatedEmitter
from .._model import MeteredModel
from .._streams import ClosesOnExit, qualified_name
from ..types import DEFAULT_API_CONNECT_OPTIONS, USERDATA_TIMED_TRANSCRIPT, APIConnectOptions
from ..utils.misc import shortuuid
from ._data import MarkupInfo, SynthesizedAudio, TTSCapabilities, TTSError
from ._dump import lk_dump_tts
from .audio_emitter import AudioEmitter
from .chunked_stream import ChunkedStream
from .synthesize_stream import SynthesizeStream

if TYPE_CHECKING:
    pass

__all__ = [
    "TTS",
    "AudioEmitter",
    "ChunkedStream",
    "MarkupInfo",
    "SynthesizeStream",
    "SynthesizedAudio",
    "TEvent",
    "TTSCapabilities",
    "TTSError",
    "lk_dump_tts",
]

TEvent = TypeVar("TEvent")


class TTS(
    ABC,
    MeteredModel,
    ClosesOnExit,
    IsolatedEmitter[Literal["metrics_collected", "error"] | TEvent],
    Generic[TEvent],
):
    """Base of speech synthesizers.

    One object serves any number of requests at the same time. It emits `"metrics_collected"`
    (`TTSMetrics`) and `"error"` (`TTSError`) for all of them.

    Args:
        capabilities: What it can do.
        sample_rate: Of the audio it makes, in Hz.
        num_channels: Of the audio it makes.
    """

    class Markup:
        """The markup dialect a synthesizer understands, for expressive speech.

        A plugin whose provider has one overrides `_provider_key`.
        """

        def __init__(self, tts: TTS[Any]) -> None:
            """Describe the dialect of a synthesizer."""
            self._tts = tts

        def _provider_key(self) -> str:
            """Name of the dialect; "" when there is none."""
            return ""

        @property
        def info(self) -> MarkupInfo:
            """What the dialect can express."""
            from ._provider_format import supported_nonverbals

            return MarkupInfo(nonverbals=supported_nonverbals(self._provider_key()))

        def llm_instructions(
            self, *, speech_steering: Mapping[str, Any] | None = None
        ) -> str | None:
            """Text that teaches a language model to mark up its answers; None without a dialect.

            Args:
                speech_steering: Which sounds it may use, how fast it speaks.
            """
            from ._provider_format import llm_instructions

            return llm_instructions(self._provider_key(), speech_steering)

        def normalize(self, text: str) -> str:
            """Repair markup that a language model left unfinished."""
            from ._provider_format import normalize_markup

            return normalize_markup(self._provider_key(), text)

        def convert(self, text: str) -> str:
            """Rewrite the common markup into the provider's own. Unchanged without a dialect."""
            from ._provider_format import convert_markup

            return convert_markup(self._provider_key(), text)

    def __init__(
        self, *, capabilities: TTSCapabilities, sample_rate: int, num_channels: int
    ) -> None:
        super().__init__()
        self._capabilities = capabilities
        self._sample_rate = sample_rate
        self._num_channels = num_channels
        self._label = qualified_name(self)
        self._expressive = False
        self._markup = self.Markup(self)

    @property
    def capabilities(self) -> TTSCapabilities:
        """What it can do."""
        return self._capabilities

    @property
    def sample_rate(self) -> int:
        """Of the audio it makes, in Hz."""
        return self._sample_rate

    @property
    def num_channels(self) -> int:
        """Of the audio it makes."""
        return self._num_channels

    @property
    def markup(self) -> TTS.Markup:
        """The markup dialect it understands."""
        return self._markup

    @abstractmethod
    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> ChunkedStream:
        """Speak a text that is known as a whole. Starts at once.

        Args:
            text: What to say.
            conn_options: How often to try, and how long to wait for the provider.
        """

    def stream(
        self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> SynthesizeStream:
        """Speak a text that is still being written.

        Args:
            conn_options: How often to try, and how long to wait for the provider.

        Raises:
            NotImplementedError: It only speaks whole texts (`capabilities.streaming` is False).
        """
        raise NotImplementedError(
            f"{self._label} speaks whole texts only; wrap it in tts.StreamAdapter to stream"
        )

    def _synthesize_with_stream(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> ChunkedStream:
        """A `synthesize` for plugins whose provider only streams."""
        return _ChunkedOverStream(tts=self, input_text=text, conn_options=conn_options)

    def _set_expressive(self, enabled: bool) -> None:
        """Say whether the text of the next stream is marked up.

        The object is shared between turns and sessions: call this right before `stream`, without
        awaiting in between.
        """
        self._expressive = enabled

    def prewarm(self) -> None:
        """Connect ahead of the first request, in the background. Does nothing by default."""

    async def aclose(self) -> None:
        """Release connections. Does nothing by default."""


class _ChunkedOverStream(ChunkedStream):
    """Speaks a whole text through `TTS.stream`. Retries are this stream's own."""

    async def _run(self, output_emitter: AudioEmitter) -> None:
        output_emitter.initialize(
            request_id=shortuuid(),
            sample_rate=self._tts.sample_rate,
            num_channels=self._tts.num_channels,
            mime_type="audio/pcm",
            stream=False,
        )
        options = APIConnectOptions(max_retry=0, timeout=self._conn_options.timeout)
        stream = self._tts.stream(conn_options=options)
        stream._report_nothing()
        async with self._nested(stream):
            stream.push_text(self._input_text)
            stream.end_input()
            async for audio in stream:
                self._acquire_time = stream._acquire_time
                self._connection_reused = stream._connection_reused
                words = audio.frame.userdata.get(USERDATA_TIMED_TRANSCRIPT)
                if words:
                    output_emitter.push_timed_transcript(words)
                output_emitter.push(audio.frame.data.cast("B").tobytes())
        output_emitter.flush()
