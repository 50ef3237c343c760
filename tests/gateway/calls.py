"""A caller with a microphone, and what a test wants to know about the stream that hears him."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from livekit import rtc

from livekit.agents import inference
from livekit.agents.metrics import STTMetrics
from livekit.agents.stt import SpeechEvent, SpeechEventType, STTError
from livekit.agents.types import APIConnectOptions

from .memory_network import MemoryNetwork
from .recognizers import speak_tones
from .server import GatewayEmulator

RATE = 16000
FRAME = 0.02
QUICK = APIConnectOptions(max_retry=3, retry_interval=1.0, timeout=5.0)


@dataclass
class Heard:
    """Everything a stream and its STT reported."""

    events: list[SpeechEvent] = field(default_factory=list)
    errors: list[STTError] = field(default_factory=list)
    metrics: list[STTMetrics] = field(default_factory=list)
    failure: BaseException | None = None
    ended: bool = False

    def kinds(self) -> list[SpeechEventType]:
        """Types of the events, usage left out."""
        usage = SpeechEventType.RECOGNITION_USAGE
        return [event.type for event in self.events if event.type is not usage]

    @property
    def finals(self) -> list[str]:
        """Final transcripts that are not empty."""
        return [
            event.alternatives[0].text
            for event in self.events
            if event.type is SpeechEventType.FINAL_TRANSCRIPT and event.alternatives[0].text
        ]

    @property
    def words(self) -> list[str]:
        """All words of the final transcripts."""
        return " ".join(self.finals).split()

    @property
    def times(self) -> list[tuple[float, float]]:
        """Start and end of each final transcript that is not empty."""
        return [
            (event.alternatives[0].start_time, event.alternatives[0].end_time)
            for event in self.events
            if event.type is SpeechEventType.FINAL_TRANSCRIPT and event.alternatives[0].text
        ]

    @property
    def billed(self) -> float:
        """Seconds of audio that were reported as used."""
        return sum(metrics.audio_duration for metrics in self.metrics)


class Caller:
    """Speaks into a stream at the pace of life, 20 ms at a time."""

    def __init__(self, stream: Any, *, frame: float = FRAME) -> None:
        self.stream = stream
        self._samples = int(frame * RATE)
        self._clock = asyncio.get_running_loop().time
        self._due = self._clock()
        self.spoken = 0.0
        """Seconds of audio so far."""

    async def play(self, pcm: bytes) -> None:
        """Push audio, as fast as it is spoken. A stream that is over hears nothing."""
        size = self._samples * 2
        for start in range(0, len(pcm), size):
            data = pcm[start : start + size]
            with contextlib.suppress(RuntimeError):
                self.stream.push_frame(rtc.AudioFrame(data, RATE, 1, len(data) // 2))
            seconds = len(data) / 2 / RATE
            self.spoken += seconds
            self._due += seconds
            delay = self._due - self._clock()
            if delay > 0:
                await asyncio.sleep(delay)

    async def say(self, *words: str) -> None:
        """Speak a sentence."""
        await self.play(speak_tones(words, RATE))

    async def be_quiet(self, seconds: float) -> None:
        """Push silence."""
        await self.play(bytes(int(seconds * RATE) * 2))

    async def mute(self, seconds: float) -> None:
        """Push nothing for a while."""
        self._due += seconds
        await asyncio.sleep(max(0.0, self._due - self._clock()))


@dataclass
class Call:
    """A stream of the gateway's STT with its caller."""

    gateway: GatewayEmulator
    stt: inference.STT
    stream: Any
    caller: Caller
    heard: Heard
    reading: asyncio.Task[None]

    async def finish(self) -> Heard:
        """End the input and wait for the end of the stream."""
        with contextlib.suppress(RuntimeError):
            self.stream.end_input()
        await self.reading
        return self.heard


async def _read(stream: Any, heard: Heard) -> None:
    try:
        async for event in stream:
            heard.events.append(event)
    except Exception as error:
        heard.failure = error
    heard.ended = True


@contextlib.asynccontextmanager
async def emulated(
    *, real_sockets: bool = False, **options: Any
) -> AsyncIterator[tuple[GatewayEmulator, aiohttp.ClientSession]]:
    """An emulator and an HTTP session that reaches it."""
    network = None if real_sockets else MemoryNetwork()
    async with GatewayEmulator(network=network, **options) as gateway:
        async with gateway.client_session() as session:
            yield gateway, session


@contextlib.asynccontextmanager
async def calling(
    gateway: GatewayEmulator,
    session: aiohttp.ClientSession,
    *,
    model: str = "deepgram/nova-3",
    conn_options: APIConnectOptions = QUICK,
    frame: float = FRAME,
    **options: Any,
) -> AsyncIterator[Call]:
    """A call whose stream is closed at the end."""
    stt = inference.STT(model, http_session=session, **gateway.arguments(), **options)
    heard = Heard()
    stt.on("error", heard.errors.append)
    stt.on("metrics_collected", heard.metrics.append)
    stream = stt.stream(conn_options=conn_options)
    reading = asyncio.ensure_future(_read(stream, heard))
    try:
        yield Call(gateway, stt, stream, Caller(stream, frame=frame), heard, reading)
    finally:
        await stream.aclose()
        await reading


def sentence(start: int, count: int = 5) -> Sequence[str]:
    """Words from the vocabulary of tones, another set for each `start`."""
    from .recognizers import TONE_WORDS

    return [TONE_WORDS[(start + n) % len(TONE_WORDS)] for n in range(count)]
