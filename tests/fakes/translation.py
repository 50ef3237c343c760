"""A translation model that says what a test tells it to, and misbehaves on request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from livekit import rtc

from livekit.agents.beta.translation import (
    OutputSpeechStopped,
    OutputTranscript,
    TranslatedAudioFrame,
    TranslationCapabilities,
    TranslationModel,
    TranslationModelSession,
)

RATE = 1000


def frame(seconds: float = 0.1) -> rtc.AudioFrame:
    samples = int(seconds * RATE)
    return rtc.AudioFrame(b"\x01\x00" * samples, RATE, 1, samples)


class FakeTranslationSession(TranslationModelSession[str]):
    """Translates nothing by itself."""

    def __init__(self, model: FakeTranslator) -> None:
        super().__init__(model)
        self.model = model
        self.heard: list[rtc.AudioFrame] = []
        self.cleared = 0
        self.languages = [model.target_language]
        self.closed = False
        self._frames: asyncio.Queue[Any] = asyncio.Queue()

    @property
    def audio_stream(self) -> AsyncIterator[TranslatedAudioFrame]:
        return self._read()

    async def _read(self) -> AsyncIterator[TranslatedAudioFrame]:
        while (item := await self._next()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield TranslatedAudioFrame(item)

    async def _next(self) -> Any:
        while True:
            try:
                return await self._frames.get()
            except asyncio.CancelledError:
                if not self.model.stream_ignores_cancellation:
                    raise

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        self.heard.append(frame)

    def clear_audio(self) -> None:
        self.cleared += 1

    def update_options(self, *, target_language: str) -> None:
        if not self.capabilities.retargetable:
            super().update_options(target_language=target_language)
        self.languages.append(target_language)

    async def aclose(self) -> None:
        if self.model.close_fails:
            raise OSError("the socket is gone")
        while self.model.close_hangs:
            try:
                await self.model.released.wait()
                break
            except asyncio.CancelledError:
                pass  # as stubborn as can be
        self.closed = True
        if not self.model.stream_never_ends:
            self._frames.put_nowait(None)

    # -- what a test lets it do ------------------------------------------------------------------

    def say(self, seconds: float = 1.0, text: str = "", *, ends: bool = False) -> None:
        """Say something, in frames of 100 ms."""
        if text:
            self.emit("output_transcript", OutputTranscript(text, is_final=False))
        for _ in range(round(seconds * 10)):
            self._frames.put_nowait(frame())
        if ends:
            self.emit("output_speech_stopped", OutputSpeechStopped())

    def break_off(self, error: BaseException | None = None) -> None:
        """The stream of audio fails, or ends by itself."""
        self._frames.put_nowait(error)


class FakeTranslator(TranslationModel):
    """Keeps the sessions it made."""

    def __init__(self, **capabilities: bool) -> None:
        super().__init__(capabilities=TranslationCapabilities(**capabilities), target_language="de")
        self.sessions: list[FakeTranslationSession] = []
        self.stream_never_ends = False
        self.stream_ignores_cancellation = False
        self.close_hangs = False
        self.close_fails = False
        self.released = asyncio.Event()

    @property
    def running(self) -> FakeTranslationSession:
        """The latest session."""
        return self.sessions[-1]

    def session(self) -> FakeTranslationSession:
        self.sessions.append(FakeTranslationSession(self))
        return self.sessions[-1]

    def release(self) -> None:
        """Let everything end that hangs."""
        self.stream_ignores_cancellation = self.close_hangs = False
        self.released.set()
        for session in self.sessions:
            session._frames.put_nowait(None)
