"""`STT` and its stream: PocketSphinx as a recogniser of `livekit.agents`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from livekit import rtc

from livekit.agents import stt, utils
from livekit.agents.language import LanguageCode
from livekit.agents.types import (
    DEFAULT_API_CONNECT_OPTIONS,
    NOT_GIVEN,
    APIConnectOptions,
    NotGivenOr,
    TimedString,
)
from livekit.agents.utils import AudioBuffer, is_given

from ._decoder import UtteranceDecoder
from ._endpointing import (
    FRAME_DURATION,
    SAMPLE_RATE,
    Ended,
    Endpointer,
    EndpointingOptions,
    Event,
    Speech,
    Started,
)
from ._engine import load_engine
from ._hypothesis import Hypothesis
from ._model import default_model
from ._search import Search, search_for, unknown_words
from ._worker import DecoderThread, EnginePool

_BATCH_DURATION = 0.1
"""Seconds of an utterance handed to the decoder at once: ten guesses a second are enough."""

_BATCH_BYTES = int(_BATCH_DURATION * SAMPLE_RATE) * 2

_STALL_TIMEOUT = 1.0
"""Seconds without any audio, as after muting a microphone, that end an open utterance."""

_CLOSE_PATIENCE = 0.5
"""Seconds that closing a stream waits for the decoder's thread. It then ends by itself."""

_VAD_MODES = range(4)


@dataclass
class _Options:
    search: Search
    language: LanguageCode
    interim_results: bool
    vad_mode: int
    endpointing: EndpointingOptions


class STT(stt.STT[str]):
    """Speech recognition in the process, with the US English model that PocketSphinx ships.

    No network, no key, some 90 MB for each running stream. Audio of any sample rate and channel
    count is converted to 16 kHz mono. Transcripts are lower case without punctuation and carry
    word times and confidences. A stream finds utterances by itself; no VAD is needed in front.

    What is listened for is anything, or the sentences of a JSGF grammar, or a few key phrases.
    Where the answers are known, a grammar makes recognition much more reliable.
    """

    def __init__(
        self,
        *,
        grammar: str | Path | None = None,
        key_phrases: Sequence[str] | Mapping[str, float] | None = None,
        pronunciations: Mapping[str, str] | None = None,
        language: str = "en-US",
        acoustic_model: str | Path | None = None,
        dictionary: str | Path | None = None,
        language_model: str | Path | None = None,
        interim_results: bool = True,
        vad_mode: int = 2,
        min_speech_duration: float = 0.1,
        min_silence_duration: float = 0.45,
        prefix_padding_duration: float = 0.3,
        max_utterance_duration: float = 20.0,
    ) -> None:
        """Choose what to listen for. The models are loaded by the first stream, or by `prewarm`.

        Args:
            grammar: A grammar in the Java Speech Grammar Format, or the `Path` of a file with one.
                Whatever is said is taken for the nearest of its sentences: set it while one of them
                is expected, and keep sentences for "none of these" in it if need be.
            key_phrases: Phrases to spot in running speech, with the evidence each needs: from
                1e-50 (never missed, often imagined) to 1e50. A mere list means 1e-2 for each.
            pronunciations: Phones of words that the dictionary lacks, such as
                ``{"livekit": "L AY V K IH T"}``.
            language: What the transcripts are labelled with.
            acoustic_model: Directory of another acoustic model (for 16 kHz).
            dictionary: Another pronunciation dictionary.
            language_model: Another n-gram language model.
            interim_results: Send guesses while an utterance goes on.
            vad_mode: How strictly voice is told from noise, 0 (loose) to 3 (strict).
            min_speech_duration: Seconds of voice that begin an utterance, up to 0.16.
            min_silence_duration: Seconds without voice that end it.
            prefix_padding_duration: Seconds from before the onset that are decoded with it.
            max_utterance_duration: Seconds after which an utterance is cut into two transcripts.

        Raises:
            ValueError: An option is out of range, a file doesn't exist, or a word of the grammar or
                the key phrases is not in the dictionary.
        """
        super().__init__(
            capabilities=stt.STTCapabilities(
                streaming=True,
                interim_results=interim_results,
                aligned_transcript="word",
                manual_flush=True,
            )
        )
        if vad_mode not in _VAD_MODES:
            raise ValueError(f"vad_mode must be 0, 1, 2 or 3, got {vad_mode!r}")
        self._model = default_model(
            acoustic=acoustic_model,
            dictionary=dictionary,
            language=language_model,
            pronunciations=pronunciations,
        )
        self._opts = _Options(
            search=self._checked_search(grammar, key_phrases),
            language=LanguageCode(language),
            interim_results=interim_results,
            vad_mode=vad_mode,
            endpointing=EndpointingOptions(
                min_speech_duration=min_speech_duration,
                min_silence_duration=min_silence_duration,
                prefix_padding_duration=prefix_padding_duration,
                max_utterance_duration=max_utterance_duration,
            ),
        )
        self._pool = EnginePool(lambda: load_engine(self._model, self._opts.search))

    @property
    def model(self) -> str:
        """Name of the acoustic model: ``en-us``, unless another one was given."""
        return self._model.name

    @property
    def provider(self) -> str:
        """``PocketSphinx``."""
        return "PocketSphinx"

    def update_options(
        self,
        *,
        grammar: NotGivenOr[str | Path | None] = NOT_GIVEN,
        key_phrases: NotGivenOr[Sequence[str] | Mapping[str, float] | None] = NOT_GIVEN,
    ) -> None:
        """Listen for something else, from the next utterance on, also in running streams.

        Args:
            grammar: As for the constructor. None, or giving `key_phrases`: no grammar.
            key_phrases: As for the constructor. None, or giving `grammar`: no key phrases.

        Raises:
            ValueError: As the constructor. What was listened for before stays.
        """
        if not is_given(grammar) and not is_given(key_phrases):
            return
        self._opts.search = self._checked_search(
            grammar if is_given(grammar) else None,
            key_phrases if is_given(key_phrases) else None,
        )

    def prewarm(self) -> None:
        """Load the models in the background, so that the first stream hears at once."""
        self._pool.prewarm()

    async def _recognize_impl(
        self,
        buffer: AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> stt.SpeechEvent:
        search = self._opts.search
        thread = DecoderThread(self._pool)
        try:
            await thread.open()
            heard = await thread.call(lambda decoder: decoder.decode(_mono_16k(buffer), search))
        finally:
            thread.close()
        return stt.SpeechEvent(
            type=stt.SpeechEventType.FINAL_TRANSCRIPT,
            request_id=utils.shortuuid(),
            alternatives=[_speech_data(heard, self._language(language), origin=0.0)],
        )

    def stream(
        self,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> SpeechStream:
        """Start to listen. Needs a running event loop.

        Args:
            language: What the transcripts are labelled with, instead of the `STT`'s.
            conn_options: Of no use here: there is no connection that could fail.
        """
        return SpeechStream(
            stt=self,
            options=self._opts,
            pool=self._pool,
            language=self._language(language),
            conn_options=conn_options,
        )

    async def aclose(self) -> None:
        """Free the models that no stream uses; the others when their streams close."""
        self._pool.close()

    def _language(self, language: NotGivenOr[str]) -> LanguageCode:
        return LanguageCode(language) if is_given(language) else self._opts.language

    def _checked_search(
        self,
        grammar: str | Path | None,
        key_phrases: Sequence[str] | Mapping[str, float] | None,
    ) -> Search:
        search = search_for(grammar, key_phrases)
        missing = unknown_words(search, self._model.words)
        if missing:
            raise ValueError(
                f"not in the dictionary {self._model.dictionary.name}: {', '.join(missing)}; "
                "say how they are spoken with pronunciations={'word': 'phones'}"
            )
        return search


@dataclass
class _Utterance:
    request_id: str
    start: float
    """Seconds of audio before its first sample."""
    guess: str = ""
    """The last interim transcript."""


class SpeechStream(stt.SpeechStream):
    """A running recognition. Made by `STT.stream`.

    For each utterance: START_OF_SPEECH, guesses, a FINAL_TRANSCRIPT if there were words, and
    END_OF_SPEECH. `flush` finishes the utterance at once.
    """

    def __init__(
        self,
        *,
        stt: STT,
        options: _Options,
        pool: EnginePool,
        language: LanguageCode,
        conn_options: APIConnectOptions,
    ) -> None:
        super().__init__(stt=stt, conn_options=conn_options, sample_rate=SAMPLE_RATE)
        self._opts = options
        self._language = language
        self._thread = DecoderThread(pool)
        self._utterance: _Utterance | None = None
        self._batch = bytearray()  # of the utterance, not decoded yet
        self._unreported = 0.0  # seconds of audio
        self._stall_timer: asyncio.TimerHandle | None = None

    async def aclose(self) -> None:
        """As in the base class; the decoder's thread ends with it."""
        await super().aclose()
        await self._thread.wait_closed(_CLOSE_PATIENCE)

    async def _run(self) -> None:
        from pocketsphinx import Vad

        vad = Vad(self._opts.vad_mode, SAMPLE_RATE, FRAME_DURATION)
        endpointer = Endpointer(vad.is_speech, self._opts.endpointing)
        try:
            self._report_connection_acquired(*await self._thread.open())
            async for item in self._input_ch:
                self._stop_stall_timer()
                if isinstance(item, rtc.AudioFrame):
                    self._unreported += item.duration
                    events = endpointer.push(_mono(item))
                else:
                    events = endpointer.flush()
                for event in events:
                    await self._handle(event, endpointer)
                if endpointer.in_speech:
                    self._start_stall_timer()
            self._report_usage()
        finally:
            self._stop_stall_timer()
            self._thread.close()

    async def _handle(self, event: Event, endpointer: Endpointer) -> None:
        if isinstance(event, Started):
            self._utterance = _Utterance(utils.shortuuid(), event.at)
            if not event.continued:
                self._send(
                    stt.SpeechEventType.START_OF_SPEECH,
                    speech_start_time=_wall_clock(event.at, endpointer),
                )
            search = self._opts.search
            await self._thread.call(lambda decoder: decoder.begin(search))
        elif isinstance(event, Speech):
            self._batch += event.pcm
            if len(self._batch) >= _BATCH_BYTES:
                await self._decode_batch()
        else:
            await self._finish(event, _wall_clock(event.at, endpointer))

    async def _decode_batch(self) -> None:
        assert self._utterance is not None
        pcm = self._take_batch()
        guess = await self._thread.call(lambda decoder: decoder.push(pcm))
        if self._opts.interim_results and guess.text and guess.text != self._utterance.guess:
            self._utterance.guess = guess.text
            self._send(stt.SpeechEventType.INTERIM_TRANSCRIPT, guess)

    async def _finish(self, event: Ended, voice_ended: float) -> None:
        pcm = self._take_batch()

        def finish(decoder: UtteranceDecoder) -> Hypothesis:
            decoder.push(pcm)
            return decoder.finish()

        heard = await self._thread.call(finish)
        if heard.words:
            self._send(
                stt.SpeechEventType.FINAL_TRANSCRIPT,
                heard,
                speech_end_time=None if event.continued else voice_ended,
            )
        self._report_usage()
        if not event.continued:
            self._send(stt.SpeechEventType.END_OF_SPEECH, speech_end_time=voice_ended)
        self._utterance = None

    def _take_batch(self) -> bytes:
        pcm, self._batch = bytes(self._batch), bytearray()
        return pcm

    def _send(
        self,
        type: stt.SpeechEventType,
        heard: Hypothesis | None = None,
        *,
        speech_start_time: float | None = None,
        speech_end_time: float | None = None,
    ) -> None:
        assert self._utterance is not None
        alternatives = []
        if heard is not None:
            origin = self.start_time_offset + self._utterance.start
            alternatives = [_speech_data(heard, self._language, origin)]
        self._event_ch.send_nowait(
            stt.SpeechEvent(
                type=type,
                request_id=self._utterance.request_id,
                alternatives=alternatives,
                speech_start_time=speech_start_time,
                speech_end_time=speech_end_time,
            )
        )

    def _report_usage(self) -> None:
        if self._unreported <= 0.0:
            return
        self._event_ch.send_nowait(
            stt.SpeechEvent(
                type=stt.SpeechEventType.RECOGNITION_USAGE,
                request_id=self._utterance.request_id if self._utterance else "",
                recognition_usage=stt.RecognitionUsage(audio_duration=self._unreported),
            )
        )
        self._unreported = 0.0

    # An utterance during which the audio stops (a muted microphone) would never end otherwise: the
    # endpointer only knows the time that audio takes.

    def _start_stall_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._stall_timer = loop.call_later(_STALL_TIMEOUT, self._on_stall)

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _on_stall(self) -> None:
        if not self._input_ch.closed:
            self._input_ch.send_nowait(self._FlushSentinel())


def _speech_data(heard: Hypothesis, language: LanguageCode, origin: float) -> stt.SpeechData:
    """`origin`: where on the caller's time line the utterance begins, in seconds."""
    words = [
        TimedString(
            word.text,
            start_time=origin + word.start,
            end_time=origin + word.end,
            confidence=word.confidence,
        )
        for word in heard.words
    ]
    return stt.SpeechData(
        language=language,
        text=heard.text,
        start_time=origin + (heard.words[0].start if words else 0.0),
        end_time=origin + (heard.words[-1].end if words else 0.0),
        confidence=heard.confidence,
        words=words,
    )


def _wall_clock(position: float, endpointer: Endpointer) -> float:
    """When a position in the audio was now, in seconds since the epoch."""
    return time.time() - (endpointer.position - position)


def _mono(frame: rtc.AudioFrame) -> bytes:
    if frame.num_channels == 1:
        return bytes(frame.data)
    import numpy as np

    channels = np.frombuffer(frame.data, dtype=np.int16).reshape(-1, frame.num_channels)
    return bytes(channels.mean(axis=1).astype(np.int16).tobytes())


def _mono_16k(buffer: AudioBuffer) -> bytes:
    frame = utils.combine_frames(buffer)
    if frame.sample_rate == SAMPLE_RATE:
        return _mono(frame)
    resampler = rtc.AudioResampler(
        frame.sample_rate,
        SAMPLE_RATE,
        num_channels=frame.num_channels,
        quality=rtc.AudioResamplerQuality.HIGH,
    )
    return b"".join(_mono(part) for part in [*resampler.push(frame), *resampler.flush()])
