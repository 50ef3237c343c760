"""`TTS` and its streams: Piper as a synthesizer of `livekit.agents`."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from livekit.agents import APIError, tokenize, tts, utils
from livekit.agents.types import (
    DEFAULT_API_CONNECT_OPTIONS,
    NOT_GIVEN,
    APIConnectOptions,
    NotGivenOr,
)
from livekit.agents.utils import aio, is_given

from ._files import VoiceFiles, find_voice
from ._timing import time_words
from ._voice import Job, Speaking, shared_voice
from .log import logger

_CLOSE_PATIENCE = 0.5
"""Seconds that closing a stream waits for its thread, which needs milliseconds."""

_NOTHING_TO_SAY = 0.02
"""Seconds of silence for a text in which nothing can be spoken, such as an emoji."""


class TTS(tts.TTS[Any]):
    """Speech synthesis in the process, with a Piper voice.

    No network, no key. Speech is mono at the voice's own rate (22050 Hz for most). Text is spoken
    sentence by sentence: the first can be heard while later ones are synthesized or still being
    written. Frames carry the words that are spoken in them, with estimated times.
    """

    def __init__(
        self,
        *,
        voice: str | Path | None = None,
        speaker: int | str | None = None,
        speed: float = 1.0,
        volume: float = 1.0,
        noise_scale: float | None = None,
        noise_w: float | None = None,
        sentence_silence: float = 0.15,
        sentence_tokenizer: NotGivenOr[tokenize.SentenceTokenizer] = NOT_GIVEN,
    ) -> None:
        """Choose a voice. It is loaded by the first request, or by `prewarm`.

        Args:
            voice: Path of an ``.onnx`` file with its ``.onnx.json`` beside it, or the name of an
                installed voice package. Default: what the environment variable ``PIPER_VOICE``
                names, else the first voice package that is installed.
            speaker: Number or name of the speaker, in a voice with several.
            speed: 1.0 is the voice's own; 0.25 to 4.
            volume: Factor on the samples.
            noise_scale: Variation of the sound. Default: the voice's own.
            noise_w: Variation of the lengths of sounds. Default: the voice's own.
            sentence_silence: Seconds of silence between sentences.
            sentence_tokenizer: Cuts text into sentences. BlingFire, keeping white space, by default.

        Raises:
            ValueError: There is no such voice or speaker, or an option is out of range.
        """
        files = find_voice(voice)
        super().__init__(
            capabilities=tts.TTSCapabilities(streaming=True, aligned_transcript=True),
            sample_rate=files.sample_rate,
            num_channels=1,
        )
        self._voice = shared_voice(files)
        self._speaking = Speaking(
            speed=speed,
            volume=volume,
            speaker=_speaker_number(files, speaker),
            noise_scale=noise_scale,
            noise_w=noise_w,
            sentence_silence=sentence_silence,
        )
        self._tokenizer: tokenize.SentenceTokenizer = (
            sentence_tokenizer
            if is_given(sentence_tokenizer)
            else tokenize.blingfire.SentenceTokenizer(min_sentence_len=1, retain_format=True)
        )

    @property
    def model(self) -> str:
        """Name of the voice, such as ``en_US-joe-medium``."""
        return self._voice.files.name

    @property
    def provider(self) -> str:
        """``Piper``."""
        return "Piper"

    def update_options(
        self,
        *,
        speaker: NotGivenOr[int | str | None] = NOT_GIVEN,
        speed: NotGivenOr[float] = NOT_GIVEN,
        volume: NotGivenOr[float] = NOT_GIVEN,
        sentence_silence: NotGivenOr[float] = NOT_GIVEN,
    ) -> None:
        """Speak differently, from the next request on. Arguments as for the constructor.

        Raises:
            ValueError: There is no such speaker, or an option is out of range. Nothing changes.
        """
        changes: dict[str, Any] = {
            "speed": speed,
            "volume": volume,
            "sentence_silence": sentence_silence,
        }
        if is_given(speaker):
            changes["speaker"] = _speaker_number(self._voice.files, speaker)
        given = {name: value for name, value in changes.items() if is_given(value)}
        self._speaking = dataclasses.replace(self._speaking, **given)

    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> ChunkedStream:
        """Speak a text that is known as a whole.

        Args:
            text: What to say.
            conn_options: Of no use here: there is no connection that could fail.
        """
        return ChunkedStream(tts=self, input_text=text, conn_options=conn_options)

    def stream(
        self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> SynthesizeStream:
        """Speak a text that is still being written. Arguments as for `synthesize`."""
        return SynthesizeStream(tts=self, conn_options=conn_options)

    def prewarm(self) -> None:
        """Load the voice in the background, so that the first words come at once."""
        threading.Thread(target=self._load_ahead, name="piper-prewarm", daemon=True).start()

    def _load_ahead(self) -> None:
        try:
            self._voice.prepare()
        except Exception as error:
            # whoever wants something said gets the error then
            logger.warning("could not load the Piper voice ahead of its use: %s", error)


class ChunkedStream(tts.ChunkedStream):
    """Speech for one text. Made by `TTS.synthesize`."""

    def __init__(self, *, tts: TTS, input_text: str, conn_options: APIConnectOptions) -> None:
        super().__init__(tts=tts, input_text=input_text, conn_options=conn_options)
        self._sentences = tts._tokenizer
        self._speech = _Speech(tts)

    async def aclose(self) -> None:
        """As in the base class; the thread ends with it."""
        await super().aclose()
        await self._speech.wait_closed(_CLOSE_PATIENCE)

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        speech = self._speech.begin(output_emitter, stream=False)
        try:
            for sentence in self._sentences.tokenize(self._input_text):
                await speech.say(sentence)
            speech.end()
        finally:
            speech.close()


class SynthesizeStream(tts.SynthesizeStream):
    """Speech for a text that is still being written. Made by `TTS.stream`."""

    def __init__(self, *, tts: TTS, conn_options: APIConnectOptions) -> None:
        super().__init__(tts=tts, conn_options=conn_options)
        self._tokenizer = tts._tokenizer
        self._speech = _Speech(tts)

    async def aclose(self) -> None:
        """As in the base class; the thread ends with it."""
        await super().aclose()
        await self._speech.wait_closed(_CLOSE_PATIENCE)

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        speech = self._speech.begin(output_emitter, stream=True)
        sentences = self._tokenizer.stream()
        scope = aio.TaskScope(self._tts.label)
        reader = scope.spawn(self._read(sentences), name="piper.read", log_errors=False)
        try:
            async for sentence in sentences:
                self._mark_started()
                await speech.say(sentence.token)
            await reader  # a tokenizer that failed must not pass for the end of the text
            speech.end()
        finally:
            speech.close()
            scope.cancel_soon()
            await sentences.aclose()

    async def _read(self, sentences: tokenize.SentenceStream) -> None:
        """Hand the text to the tokenizer as it is written."""
        try:
            async for item in self._input_ch:
                if isinstance(item, str):
                    sentences.push_text(item)
                else:
                    sentences.flush()
            sentences.end_input()
        except Exception:
            await sentences.aclose()
            raise


class _Speech:
    """Says sentences one after the other into an emitter, in a thread of its own per attempt."""

    def __init__(self, tts: TTS) -> None:
        self._voice = tts._voice
        self._speaking = tts._speaking
        self._ended: Future[None] | None = None

    def begin(self, emitter: tts.AudioEmitter, *, stream: bool) -> _Speech:
        """Begin an attempt."""
        emitter.initialize(
            request_id=utils.shortuuid(),
            sample_rate=self._voice.sample_rate,
            num_channels=1,
            mime_type="audio/pcm",
            stream=stream,
        )
        if stream:
            emitter.start_segment(segment_id=utils.shortuuid())
        self._emitter = emitter
        self._job = Job()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="piper")
        self._ended = None
        self._position = 0.0  # seconds of audio so far
        self._speechless = False  # something was to be said that can't be
        return self

    async def say(self, sentence: str) -> None:
        """Synthesize a sentence and hand its audio to the emitter."""
        if not sentence.strip():
            return
        try:
            pcm = await asyncio.get_running_loop().run_in_executor(
                self._executor, self._voice.speak, sentence.strip(), self._speaking, self._job
            )
        except Exception as error:
            # saying it again would fail again
            raise APIError(f"Piper can't speak {sentence!r}: {error}", retryable=False) from error
        if not pcm:
            self._speechless = True
            return
        if self._position:
            self._push(self._voice.silence(self._speaking.sentence_silence))
        words = time_words(sentence, start=self._position, duration=self._voice.duration(pcm))
        self._emitter.push_timed_transcript(words)
        self._push(pcm)
        # the listener need not wait for the next sentence to hear the last 10 ms of this one
        self._emitter.flush()

    def end(self) -> None:
        """All was said. A text of nothing but signs and symbols is a moment of silence, no error."""
        if self._speechless and not self._position:
            self._push(self._voice.silence(_NOTHING_TO_SAY))
            self._emitter.flush()

    def close(self) -> None:
        """Stop, in the middle of a sentence if need be, and end the thread. Does not wait."""
        self._job.cancel()
        self._ended = self._executor.submit(lambda: None)
        self._executor.shutdown(wait=False)

    async def wait_closed(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for the thread to end after `close`."""
        if self._ended is None:
            return
        _, busy = await asyncio.wait([asyncio.wrap_future(self._ended)], timeout=timeout)
        if not busy:
            self._executor.shutdown(wait=True)  # it has nothing left to do: microseconds

    def _push(self, pcm: bytes) -> None:
        self._emitter.push(pcm)
        self._position += self._voice.duration(pcm)


def _speaker_number(files: VoiceFiles, speaker: int | str | None) -> int | None:
    if speaker is None:
        return None
    number = files.speakers.get(speaker) if isinstance(speaker, str) else speaker
    if number is None or not 0 <= number < files.num_speakers:
        known = ", ".join(sorted(files.speakers)) or "no names"
        raise ValueError(
            f"voice {files.name} has no speaker {speaker!r}: it has {files.num_speakers}, "
            f"numbered from 0 ({known})"
        )
    return number
