"""How the emulator hears. A recognizer takes PCM (16-bit mono) and says what was said.

Times are seconds of audio on the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from livekit.agents.inference._protocol.stt import (
    ServerMessage,
    StartOfSpeech,
    Transcript,
    TranscriptKind,
    Word,
)

Emit = Callable[[ServerMessage], None]


class Recognizer(Protocol):
    """Hears one connection."""

    def feed(self, pcm: bytes) -> None:
        """Take audio."""

    def finalize(self) -> bool:
        """Finish the transcript at hand; False if it comes later and ends with its own answer."""

    async def aclose(self) -> None:
        """Release what it holds."""


@dataclass
class Line:
    """A line of a script: `message` goes out `after` seconds of audio, or on a finalize."""

    message: ServerMessage
    after: float | None = None
    on_finalize: bool = False


class ScriptedRecognizer:
    """Says what it is told."""

    def __init__(self, emit: Emit, sample_rate: int, script: Sequence[Line]) -> None:
        self._emit = emit
        self._byte_rate = sample_rate * 2
        self._script = list(script)
        self._received = 0

    def feed(self, pcm: bytes) -> None:
        self._received += len(pcm)
        seconds = self._received / self._byte_rate
        while self._script and (after := self._script[0].after) is not None and after <= seconds:
            self._emit(self._script.pop(0).message)

    def finalize(self) -> bool:
        while self._script and self._script[0].on_finalize:
            self._emit(self._script.pop(0).message)
        return True

    async def aclose(self) -> None:
        pass


# -- words as tones --------------------------------------------------------------------------------

_VOCABULARY = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar "
    "papa quebec romeo sierra tango uniform victor whiskey xray yankee zulu one two three four "
    "five six seven eight nine ten eleven twelve"
)
TONE_WORDS = _VOCABULARY.split()
"""Words that have a tone each."""

_LOWEST, _STEP = 400.0, 50.0
_TONE, _GAP = 0.20, 0.06
_WINDOW = 0.01
_THRESHOLD = 500.0
_SHORTEST_WORD = 0.15
_END_OF_SPEECH = 0.5
_INTERIM_EVERY = 0.3


def speak_tones(words: Sequence[str], sample_rate: int = 16000) -> bytes:
    """A sentence of `TONE_WORDS` as audio: what a `ToneRecognizer` understands."""
    time = np.arange(int(_TONE * sample_rate)) / sample_rate
    gap = np.zeros(int(_GAP * sample_rate), np.int16)
    parts: list[Any] = []
    for word in words:
        frequency = _LOWEST + _STEP * TONE_WORDS.index(word)
        parts += [(8000 * np.sin(2 * np.pi * frequency * time)).astype(np.int16), gap]
    return b"".join(part.tobytes() for part in parts)


class ToneRecognizer:
    """Understands sentences of tones, exactly: a word that is missing or double was lost or sent
    twice. Half a word is none.

    Args:
        emit: Takes the messages.
        sample_rate: Of the audio, in Hz.
        endpointing: End utterances after half a second of silence; otherwise only on a finalize.
    """

    def __init__(self, emit: Emit, sample_rate: int, *, endpointing: bool = True) -> None:
        self._emit = emit
        self._rate = sample_rate
        self._endpointing = endpointing
        self._window = int(_WINDOW * sample_rate)
        self._pending = bytearray()
        self._position = 0  # samples judged
        self._tone = bytearray()
        self._words: list[Word] = []
        self._started: float | None = None
        self._quiet = 0.0
        self._interim_at = 0.0

    def feed(self, pcm: bytes) -> None:
        self._pending += pcm
        size = self._window * 2
        count = len(self._pending) // size
        if not count:
            return
        block = bytes(self._pending[: count * size])
        del self._pending[: count * size]
        samples = np.frombuffer(block, np.int16).reshape(count, self._window).astype(np.float32)
        levels = np.sqrt((samples * samples).mean(axis=1))
        if self._started is None and not self._tone and float(levels.max()) < _THRESHOLD:
            self._position += count * self._window  # silence: nothing to do
            return
        for index in range(count):
            self._judge(block[index * size : (index + 1) * size], float(levels[index]))

    def _judge(self, window: bytes, level: float) -> None:
        self._position += self._window
        now = self._position / self._rate
        if level >= _THRESHOLD:
            self._quiet = 0.0
            self._tone += window
            if self._started is None:
                self._started = now - _WINDOW
                self._interim_at = now + _INTERIM_EVERY
                self._emit(StartOfSpeech())
            return
        if self._tone:
            self._end_tone(now - _WINDOW)
        if self._started is None:
            return
        self._quiet += _WINDOW
        if self._quiet >= _END_OF_SPEECH and self._endpointing:
            self._final(now - self._quiet)
        elif now >= self._interim_at and self._words:
            self._interim_at = now + _INTERIM_EVERY
            self._emit(self._transcript(TranscriptKind.INTERIM, now))

    def _end_tone(self, end: float) -> None:
        samples = np.frombuffer(bytes(self._tone), np.int16).astype(np.float32)
        self._tone.clear()
        duration = samples.size / self._rate
        if duration < _SHORTEST_WORD:
            return
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size), n=8192))
        frequency = float(spectrum.argmax()) * self._rate / 8192
        number = round((frequency - _LOWEST) / _STEP)
        if 0 <= number < len(TONE_WORDS):
            self._words.append(Word(TONE_WORDS[number], end - duration, end, 0.9))

    def _transcript(self, kind: TranscriptKind, end: float) -> Transcript:
        assert self._started is not None
        return Transcript(
            kind,
            text=" ".join(word.text for word in self._words),
            start=self._started,
            duration=end - self._started,
            confidence=0.9,
            words=tuple(self._words),
        )

    def _final(self, end: float) -> None:
        if self._words:
            self._emit(self._transcript(TranscriptKind.FINAL, end))
        self._words = []
        self._started = None
        self._quiet = 0.0

    def finalize(self) -> bool:
        if self._tone:
            self._end_tone(self._position / self._rate)
        if self._started is not None:
            self._final(self._position / self._rate)
        return True

    async def aclose(self) -> None:
        pass


# -- a real recognizer -----------------------------------------------------------------------------


class PocketSphinxRecognizer:
    """Hears speech, by the plugin of the same name."""

    def __init__(self, emit: Emit, sample_rate: int, stt: Any) -> None:
        from livekit.agents.utils.aio import TaskScope

        self._emit = emit
        self._rate = sample_rate
        self._stream = stt.stream()
        self._scope = TaskScope("pocketsphinx recognizer")
        self._scope.spawn(self._relay())

    def feed(self, pcm: bytes) -> None:
        from livekit import rtc

        self._stream.push_frame(rtc.AudioFrame(pcm, self._rate, 1, len(pcm) // 2))

    def finalize(self) -> bool:
        self._stream.flush()
        return True

    async def _relay(self) -> None:
        from livekit.agents.stt import SpeechEventType

        kinds = {
            SpeechEventType.INTERIM_TRANSCRIPT: TranscriptKind.INTERIM,
            SpeechEventType.FINAL_TRANSCRIPT: TranscriptKind.FINAL,
        }
        async for event in self._stream:
            if event.type is SpeechEventType.START_OF_SPEECH:
                self._emit(StartOfSpeech())
            elif event.type in kinds and event.alternatives:
                said = event.alternatives[0]
                self._emit(
                    Transcript(
                        kinds[event.type],
                        text=said.text,
                        language=str(said.language),
                        start=said.start_time,
                        duration=max(0.0, said.end_time - said.start_time),
                        confidence=said.confidence,
                    )
                )

    async def aclose(self) -> None:
        await self._stream.aclose()
        await self._scope.cancel(1.0)
