"""A duplex model that says what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from livekit import rtc

from livekit.agents.llm import (
    ChatItem,
    DuplexAudioFrame,
    DuplexCapabilities,
    DuplexModel,
    DuplexOutputTranscriptDelta,
    DuplexSession,
    RealtimeSessionReconnectedEvent,
    Tool,
    ToolChoice,
    ToolContext,
)
from livekit.agents.types import NOT_GIVEN, NotGivenOr
from livekit.agents.utils.aio import Chan

SAMPLE_RATE = 24000


def tone(level: float, duration: float = 0.1, sample_rate: int = SAMPLE_RATE) -> rtc.AudioFrame:
    """A frame whose loudness (RMS, 1.0 is full scale) is `level`."""
    count = round(sample_rate * duration)
    sample = round(level * 32768).to_bytes(2, "little", signed=True)
    return rtc.AudioFrame(sample * count, sample_rate, 1, count)


class FakeDuplexModel(DuplexModel):
    def __init__(self, **capabilities: bool) -> None:
        super().__init__(
            capabilities=DuplexCapabilities(
                **{"user_transcription": True, "auto_tool_reply_generation": True, **capabilities}
            )
        )
        self.sessions: list[FakeDuplexSession] = []
        self.configure_error: Exception | None = None
        self.reply_error: Exception | None = None
        self.close_error: Exception | None = None
        self.close_hangs = False
        self.closed = False

    @property
    def model(self) -> str:
        return "fake-duplex"

    def session(self) -> FakeDuplexSession:
        session = FakeDuplexSession(self)
        self.sessions.append(session)
        return session

    async def aclose(self) -> None:
        self.closed = True


class FakeDuplexSession(DuplexSession[str]):
    def __init__(self, model: FakeDuplexModel) -> None:
        super().__init__(model)
        self._fake = model
        self._frames: Chan[DuplexAudioFrame | Exception] = Chan()
        self.instructions: str | None = None
        self.items: list[ChatItem] = []
        self.tool_list: list[Tool] = []
        self.tool_choice: Any = None
        self.heard: list[rtc.AudioFrame] = []
        self.seen: list[rtc.VideoFrame] = []
        self.requests: list[NotGivenOr[str]] = []
        self.closed = False
        self.ignores_cancellation = False
        self._release = asyncio.Event()

    # -- what a test does to it

    async def speak(self, *levels: float, start_ms: int | None = None) -> None:
        """Put out frames of 100 ms of these loudnesses, all at once."""
        for index, level in enumerate(levels):
            at = None if start_ms is None else start_ms + 100 * index
            self._frames.send_nowait(DuplexAudioFrame(tone(level), at))
        await settle()

    def say(self, text: str, start_ms: int | None = None, end_ms: int | None = None) -> None:
        """Put out words."""
        self.emit("transcript_delta", DuplexOutputTranscriptDelta(text, start_ms, end_ms))

    async def fail(self, error: Exception) -> None:
        """Let the audio stream fail."""
        self._frames.send_nowait(error)
        await settle()

    def reconnect(self) -> None:
        """Be on another connection."""
        self.emit("session_reconnected", RealtimeSessionReconnectedEvent())

    def release(self) -> None:
        """Let what hangs end."""
        self._release.set()

    # -- what the adapter does to it

    @property
    def audio_stream(self) -> AsyncIterator[DuplexAudioFrame]:
        return self._read()

    async def _read(self) -> AsyncIterator[DuplexAudioFrame]:
        while True:
            try:
                async for item in self._frames:
                    if isinstance(item, Exception):
                        raise item
                    yield item
                return
            except asyncio.CancelledError:
                if not self.ignores_cancellation:
                    raise

    @property
    def tools(self) -> ToolContext:
        return ToolContext(self.tool_list)

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        self.heard.append(frame)

    def push_video(self, frame: rtc.VideoFrame) -> None:
        self.seen.append(frame)

    async def _update_instructions(self, instructions: str) -> None:
        if self._fake.configure_error is not None:
            raise self._fake.configure_error
        self.instructions = instructions

    async def _append_items(self, items: list[ChatItem]) -> None:
        self.items.extend(items)

    async def _update_tools(self, tools: list[Tool]) -> None:
        self.tool_list = tools

    def _update_options(self, *, tool_choice: NotGivenOr[ToolChoice | None] = NOT_GIVEN) -> None:
        self.tool_choice = tool_choice

    def _generate_reply(
        self,
        *,
        instructions: NotGivenOr[str] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        tools: NotGivenOr[list[Tool]] = NOT_GIVEN,
    ) -> None:
        if self._fake.reply_error is not None:
            raise self._fake.reply_error
        self.requests.append(instructions)

    async def aclose(self) -> None:
        await super().aclose()
        self.closed = True
        while self._fake.close_hangs and not self._release.is_set():
            try:
                await self._release.wait()
            except asyncio.CancelledError:
                pass
        self._frames.close()
        if self._fake.close_error is not None:
            raise self._fake.close_error


async def settle() -> None:
    """Let what is ready happen, without any time passing."""
    for _ in range(10):
        await asyncio.sleep(0)
