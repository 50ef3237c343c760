"""A speech synthesizer whose speech can be read back, and which misbehaves on request."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from livekit import rtc

from livekit.agents.tts import (
    TTS,
    AudioEmitter,
    ChunkedStream,
    SynthesizedAudio,
    SynthesizeStream,
    TTSCapabilities,
)
from livekit.agents.types import (
    DEFAULT_API_CONNECT_OPTIONS,
    USERDATA_TIMED_TRANSCRIPT,
    APIConnectOptions,
    TimedString,
)

SECONDS_PER_CHAR = 0.05


def spoken(
    text: str,
    *,
    seconds_per_char: float = SECONDS_PER_CHAR,
    sample_rate: int = 24000,
    num_channels: int = 1,
) -> bytes:
    """The sound of a text: each character is a stretch of samples whose value is its code."""
    samples_per_char = round(seconds_per_char * sample_rate) * num_channels
    samples = array("h")
    for char in text:
        samples.extend(array("h", [ord(char) % 32768]) * samples_per_char)
    return samples.tobytes()


def heard(
    audio: Iterable[SynthesizedAudio | rtc.AudioFrame],
    *,
    seconds_per_char: float = SECONDS_PER_CHAR,
) -> str:
    """The text of a sound made by `spoken`, at any sample rate. Silence is no text.

    A character that is cut off counts from half its length on.
    """
    text = []
    current, length = 0, 0.0
    for item in audio:
        frame = item.frame if isinstance(item, SynthesizedAudio) else item
        for value, samples in groupby(frame.data[:: frame.num_channels].tolist()):
            if value != current:
                text.append(chr(current) * round(length / seconds_per_char) if current else "")
                current, length = value, 0.0
            length += sum(1 for _ in samples) / frame.sample_rate
    text.append(chr(current) * round(length / seconds_per_char) if current else "")
    return "".join(text)


class FakeTTS(TTS[Any]):
    """Speaks `spoken` audio, in virtual time, at once unless told otherwise.

    Every knob is an attribute too, and is looked at when it matters: a test may turn it between two
    requests. An attempt is one run of a stream; they are counted over the life of the object.

    Args:
        streaming: Whether `stream` works (and not only `synthesize`).
        aligned: Whether frames carry timed words.
        seconds_per_char: Length of the speech.
        first_audio_delay: Seconds from a request to its first audio.
        chunk_duration: Seconds of audio per push.
        chunk_delay: Seconds between pushes.
        failures: Attempt number (from 0) -> error it ends with. A list is counted from 0; None in
            it is a success.
        fail_after: Seconds of audio that a failing attempt pushes first.
        silent_after: Seconds of audio after which an attempt goes silent, without ending.
        ignores_cancellation: Seconds for which a cancelled attempt goes on pushing audio;
            `math.inf` until `let_go` is called.
        hangs_in_close: Seconds that the cleanup of an attempt takes, cancelled or not; `math.inf`
            until `let_go` is called.
        aclose_delay: Seconds that `aclose` of this object takes.
        markup_key: Name of its markup dialect.
    """

    class Markup(TTS.Markup):
        def _provider_key(self) -> str:
            return self._tts.markup_key if isinstance(self._tts, FakeTTS) else ""

    def __init__(
        self,
        *,
        streaming: bool = True,
        aligned: bool = False,
        sample_rate: int = 24000,
        num_channels: int = 1,
        seconds_per_char: float = SECONDS_PER_CHAR,
        first_audio_delay: float = 0.0,
        chunk_duration: float = 0.1,
        chunk_delay: float = 0.0,
        failures: Mapping[int, Exception] | Iterable[Exception | None] = (),
        fail_after: float = 0.0,
        silent_after: float = math.inf,
        ignores_cancellation: float = 0.0,
        hangs_in_close: float = 0.0,
        aclose_delay: float = 0.0,
        markup_key: str = "",
        label: str = "",
    ) -> None:
        super().__init__(
            capabilities=TTSCapabilities(streaming=streaming, aligned_transcript=aligned),
            sample_rate=sample_rate,
            num_channels=num_channels,
        )
        if label:
            self._label = label
        self.seconds_per_char = seconds_per_char
        self.first_audio_delay = first_audio_delay
        self.chunk_duration = chunk_duration
        self.chunk_delay = chunk_delay
        self.fail_after = fail_after
        self.silent_after = silent_after
        self.ignores_cancellation = ignores_cancellation
        self.hangs_in_close = hangs_in_close
        self.aclose_delay = aclose_delay
        self.markup_key = markup_key
        self.failures: dict[int, Exception] = (
            dict(failures)
            if isinstance(failures, Mapping)
            else {n: error for n, error in enumerate(failures) if error is not None}
        )

        self.streams: list[FakeChunkedStream | FakeSynthesizeStream] = []
        """All streams, in order of creation."""
        self.attempts: list[str] = []
        """Text that each attempt was given, as far as it read it."""
        self.running = 0
        """Attempts that have begun and not ended."""
        self.prewarmed = 0
        self.closed = False
        self._let_go = asyncio.Event()

    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> ChunkedStream:
        stream = FakeChunkedStream(tts=self, input_text=text, conn_options=conn_options)
        self.streams.append(stream)
        return stream

    def stream(
        self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> SynthesizeStream:
        if not self.capabilities.streaming:
            return super().stream(conn_options=conn_options)
        stream = FakeSynthesizeStream(tts=self, conn_options=conn_options)
        self.streams.append(stream)
        return stream

    def prewarm(self) -> None:
        self.prewarmed += 1

    async def aclose(self) -> None:
        await self.linger(self.aclose_delay)
        self.closed = True

    def let_go(self) -> None:
        """End whatever ignores its cancellation, so that the test can end."""
        self._let_go.set()

    async def linger(self, seconds: float) -> None:
        """Wait, whatever cancellation comes, until the time is over or `let_go` is called."""
        if seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not self._let_go.is_set() and loop.time() < until:
            left = None if seconds == math.inf else until - loop.time()
            try:
                await asyncio.wait_for(self._let_go.wait(), left)
            except (asyncio.CancelledError, asyncio.TimeoutError):
                pass


class _Attempt:
    """One run of a fake stream: what it has pushed, and how it ends."""

    def __init__(self, tts: FakeTTS, emitter: AudioEmitter) -> None:
        self._tts = tts
        self._emitter = emitter
        self._number = len(tts.attempts)
        self._error = tts.failures.get(self._number)
        self._spoken_seconds = 0.0
        tts.attempts.append("")

    def open(self, *, stream: bool) -> None:
        self._emitter.initialize(
            request_id=f"request-{self._number}",
            sample_rate=self._tts.sample_rate,
            num_channels=self._tts.num_channels,
            mime_type="audio/pcm",
            stream=stream,
        )
        if stream:
            self._emitter.start_segment(segment_id=f"segment-{self._number}")
        self.fail_if_due()

    def note(self, text: str) -> None:
        self._tts.attempts[self._number] += text

    async def speak(self, text: str) -> None:
        tts = self._tts
        if not self._spoken_seconds:
            await asyncio.sleep(tts.first_audio_delay)
        if tts.capabilities.aligned_transcript:
            end = self._spoken_seconds + len(text) * tts.seconds_per_char
            self._emitter.push_timed_transcript(TimedString(text, self._spoken_seconds, end))
        sound = spoken(
            text,
            seconds_per_char=tts.seconds_per_char,
            sample_rate=tts.sample_rate,
            num_channels=tts.num_channels,
        )
        frame_bytes = 2 * tts.num_channels
        chunk_bytes = max(1, round(tts.chunk_duration * tts.sample_rate)) * frame_bytes
        for start in range(0, len(sound), chunk_bytes):
            chunk = sound[start : start + chunk_bytes]
            self._emitter.push(chunk)
            self._spoken_seconds += len(chunk) / frame_bytes / tts.sample_rate
            self.fail_if_due()
            if self._spoken_seconds >= tts.silent_after:
                await asyncio.Event().wait()
            if tts.chunk_delay:
                await asyncio.sleep(tts.chunk_delay)

    def fail_if_due(self) -> None:
        if self._error is not None and self._spoken_seconds >= self._tts.fail_after:
            raise self._error

    async def misbehave(self) -> None:
        """Go on although cancelled: audio keeps being pushed every 10 ms."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._tts.ignores_cancellation
        while loop.time() < until and not self._tts._let_go.is_set():
            self._emitter.push(spoken("!", sample_rate=self._tts.sample_rate))
            await self._tts.linger(min(0.01, self._tts.ignores_cancellation))


class FakeChunkedStream(ChunkedStream):
    """Stream of `FakeTTS.synthesize`."""

    async def _run(self, output_emitter: AudioEmitter) -> None:
        tts = self._tts
        assert isinstance(tts, FakeTTS)
        attempt = _Attempt(tts, output_emitter)
        tts.running += 1
        try:
            attempt.note(self._input_text)
            attempt.open(stream=False)
            await attempt.speak(self._input_text)
        except asyncio.CancelledError:
            if not tts.ignores_cancellation:
                raise
            await attempt.misbehave()
        finally:
            await tts.linger(tts.hangs_in_close)
            tts.running -= 1


class FakeSynthesizeStream(SynthesizeStream):
    """Stream of `FakeTTS.stream`: speaks each piece of text as it comes."""

    async def _run(self, output_emitter: AudioEmitter) -> None:
        tts = self._tts
        assert isinstance(tts, FakeTTS)
        attempt = _Attempt(tts, output_emitter)
        tts.running += 1
        try:
            attempt.open(stream=True)
            async for item in self._input_ch:
                if isinstance(item, str):
                    attempt.note(item)
                    self._mark_started()
                    await attempt.speak(item)
                else:
                    output_emitter.flush()
            output_emitter.end_segment()
        except asyncio.CancelledError:
            if not tts.ignores_cancellation:
                raise
            await attempt.misbehave()
        finally:
            await tts.linger(tts.hangs_in_close)
            tts.running -= 1


def timed_words(audio: Iterable[SynthesizedAudio | rtc.AudioFrame]) -> list[TimedString]:
    """The words that came with the audio, in order."""
    frames = (item.frame if isinstance(item, SynthesizedAudio) else item for item in audio)
    return [word for frame in frames for word in frame.userdata.get(USERDATA_TIMED_TRANSCRIPT, [])]
