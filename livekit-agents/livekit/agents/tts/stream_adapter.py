"""`StreamAdapter`: text piece by piece for a synthesizer that only speaks whole texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from .. import tokenize
from .._streams import report_survivors
from ..types import (
    DEFAULT_API_CONNECT_OPTIONS,
    NOT_GIVEN,
    APIConnectOptions,
    NotGivenOr,
    TimedString,
)
from ..utils.aio import TaskScope
from ..utils.misc import is_given, shortuuid
from ._repeats import RepeatTrimmer
from ._synthesis import NESTED_SHARE
from .audio_emitter import AudioEmitter
from .stream_pacer import SentenceStreamPacer
from .tts import TTS, ChunkedStream, SynthesizeStream, TTSCapabilities

if TYPE_CHECKING:
    from ..metrics import TTSMetrics

# The wrapped synthesizer repeats each sentence by itself; repeating all of them would say them twice.
DEFAULT_STREAM_ADAPTER_API_CONNECT_OPTIONS = APIConnectOptions(
    max_retry=0, timeout=DEFAULT_API_CONNECT_OPTIONS.timeout
)


class StreamAdapter(TTS[Any]):
    """Cuts text into sentences and has them spoken one after the other.

    Frames carry the sentence being spoken as timed transcript. `synthesize` goes to the wrapped
    synthesizer unchanged. Its metrics are re-emitted here; closing the adapter doesn't close it.

    Args:
        tts: The synthesizer to wrap.
        sentence_tokenizer: How to cut text. BlingFire, keeping white space, by default.
        text_pacing: Hold sentences back while there is plenty of audio left to play, so that later
            ones are spoken in larger pieces and an interruption wastes less. True for the default
            limits.
    """

    class Markup(TTS.Markup):
        """The dialect of the wrapped synthesizer."""

        def _provider_key(self) -> str:
            assert isinstance(self._tts, StreamAdapter)
            return self._tts._wrapped_tts.markup._provider_key()

    def __init__(
        self,
        *,
        tts: TTS[Any],
        sentence_tokenizer: NotGivenOr[tokenize.SentenceTokenizer] = NOT_GIVEN,
        text_pacing: SentenceStreamPacer | bool = False,
    ) -> None:
        super().__init__(
            capabilities=TTSCapabilities(streaming=True, aligned_transcript=True),
            sample_rate=tts.sample_rate,
            num_channels=tts.num_channels,
        )
        self._wrapped_tts = tts
        self._sentence_tokenizer = sentence_tokenizer
        self._stream_pacer: SentenceStreamPacer | None = None
        if isinstance(text_pacing, SentenceStreamPacer):
            self._stream_pacer = text_pacing
        elif text_pacing:
            self._stream_pacer = SentenceStreamPacer()
        tts.on("metrics_collected", self._forward_metrics)

    @property
    def model(self) -> str:
        """Name of the wrapped model."""
        return self._wrapped_tts.model

    @property
    def provider(self) -> str:
        """Who runs the wrapped model."""
        return self._wrapped_tts.provider

    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> ChunkedStream:
        """Speak a text that is known as a whole, with the wrapped TTS alone."""
        return self._wrapped_tts.synthesize(text, conn_options=conn_options)

    def stream(
        self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> StreamAdapterWrapper:
        """Speak text that is still being written.

        Args:
            conn_options: For the synthesis of each sentence.
        """
        return StreamAdapterWrapper(tts=self, conn_options=conn_options)

    def prewarm(self) -> None:
        """Let the wrapped TTS connect ahead of the first use."""
        self._wrapped_tts.prewarm()

    async def aclose(self) -> None:
        """Stop re-emitting metrics. The wrapped synthesizer stays open."""
        self._wrapped_tts.off("metrics_collected", self._forward_metrics)

    def _set_expressive(self, enabled: bool) -> None:
        super()._set_expressive(enabled)
        self._wrapped_tts._set_expressive(enabled)

    def _forward_metrics(self, metrics: TTSMetrics) -> None:
        self.emit("metrics_collected", metrics)

    def _open_sentences(self, *, expressive: bool) -> tokenize.SentenceStream:
        if is_given(self._sentence_tokenizer):
            return self._sentence_tokenizer.stream()
        tokenizer = tokenize.blingfire.SentenceTokenizer(retain_format=True, xml_aware=expressive)
        return tokenizer.stream()


class StreamAdapterWrapper(SynthesizeStream):
    """Stream of a `StreamAdapter`.

    Args:
        tts: The adapter.
        conn_options: For the synthesis of each sentence.
    """

    _tts_request_span_name: ClassVar[str] = "tts_stream_adapter"
    _tts_attempt_span_name: ClassVar[str | None] = None
    _reports_metrics: ClassVar[bool] = False
    _watches_idle: ClassVar[bool] = False

    def __init__(self, *, tts: StreamAdapter, conn_options: APIConnectOptions) -> None:
        self._adapter = tts
        self._wrapped_tts_conn_options = conn_options
        wrapped = tts._wrapped_tts
        self._converts_markup = wrapped._expressive and bool(wrapped.markup._provider_key())
        super().__init__(tts=tts, conn_options=DEFAULT_STREAM_ADAPTER_API_CONNECT_OPTIONS)

    async def _run(self, output_emitter: AudioEmitter) -> None:
        output_emitter.initialize(
            request_id=shortuuid(),
            sample_rate=self._adapter.sample_rate,
            num_channels=self._adapter.num_channels,
            mime_type="audio/pcm",
            stream=True,
        )
        output_emitter.start_segment(segment_id=shortuuid())

        sentences = self._adapter._open_sentences(expressive=self._converts_markup)
        if (pacer := self._adapter._stream_pacer) is not None:
            sentences = pacer.wrap(sent_stream=sentences, audio_emitter=output_emitter)

        scope = TaskScope(self._adapter.label)
        feeder = scope.spawn(self._feed(sentences), name="StreamAdapter.feed", log_errors=False)
        position = 0.0
        try:
            async for sentence in sentences:
                position += await self._speak(sentence.token, position, output_emitter)
            if feeder.done():
                feeder.result()  # a tokenizer that failed must not pass for the end of the text
        finally:
            scope.cancel_soon()
            await sentences.aclose()
            report_survivors(await scope.cancel(self._close_grace * NESTED_SHARE))

    async def _feed(self, sentences: tokenize.SentenceStream) -> None:
        """Hand the text to the tokenizer as it is written."""
        markup = self._adapter._wrapped_tts.markup
        try:
            async for item in self._input_ch:
                if not isinstance(item, str):
                    sentences.flush()
                else:
                    sentences.push_text(markup.normalize(item) if self._converts_markup else item)
            sentences.end_input()
        except Exception:
            await sentences.aclose()
            raise

    async def _speak(self, sentence: str, position: float, emitter: AudioEmitter) -> float:
        """Have a sentence spoken, and return its length in seconds."""
        emitter.push_timed_transcript(TimedString(sentence, start_time=position))
        markup = self._adapter._wrapped_tts.markup
        text = sentence
        if self._converts_markup:
            text = markup.convert(markup.normalize(sentence))
        if not text.strip():
            return 0.0

        self._mark_started()
        speech = RepeatTrimmer()
        stream = self._adapter._wrapped_tts.synthesize(
            text, conn_options=self._wrapped_tts_conn_options
        )
        async with self._nested(stream):
            async for audio in stream:
                frame = speech.trim(audio)
                if frame is not None:
                    emitter.push_frame(frame)
        emitter.flush()
        return speech.position
