"""Instant models, sinks and sources, on public base classes. Each can be told to misbehave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from livekit import rtc

from livekit.agents import APIConnectOptions, llm, stt, tts
from livekit.agents.voice import io

Behave = Callable[[], Awaitable[Any]]

RATE = 24000


async def forever() -> None:
    """Never return; end when cancelled."""
    await asyncio.Event().wait()


class Stubbornness:
    """Whether what is stubborn still is. Given up when all has been seen."""

    given_up = False


async def stubborn() -> None:
    """Not return for a minute, cancelled or not."""
    over = time.monotonic() + 60
    while (left := over - time.monotonic()) > 0 and not Stubbornness.given_up:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            pass


async def nothing() -> None:
    """Return at once."""


class _Reply(llm.LLMStream):
    async def _run(self) -> None:
        model = self._llm
        assert isinstance(model, ScriptedLLM)
        await model.before()
        last = self._chat_ctx.items[-1]
        said = (last.text_content or "") if last.type == "message" else ""
        calls = [
            llm.FunctionToolCall(name=word[5:], arguments="{}", call_id=f"call_{number}")
            for number, word in enumerate(said.split())
            if word.startswith("call:")
        ]
        delta = llm.ChoiceDelta(role="assistant", content="Certainly.")
        if calls and self._tools:
            delta = llm.ChoiceDelta(role="assistant", tool_calls=calls)
        self._event_ch.send_nowait(llm.ChatChunk(id="reply", delta=delta))


class ScriptedLLM(llm.LLM):
    """Calls the tools that the user asks for by `call:NAME`, else says one word."""

    def __init__(self, before: Behave = nothing) -> None:
        super().__init__()
        self.before = before

    def chat(self, *, chat_ctx: Any, tools: Any = None, conn_options: Any = None, **_: Any) -> Any:
        options = conn_options or APIConnectOptions()
        return _Reply(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=options)


class _Speech(tts.SynthesizeStream):
    async def _run(self, output_emitter: Any) -> None:
        voice = self._tts
        assert isinstance(voice, Voice)
        output_emitter.initialize(
            request_id="speech",
            sample_rate=RATE,
            num_channels=1,
            mime_type="audio/pcm",
            stream=True,
        )
        output_emitter.start_segment(segment_id="segment")
        async for item in self._input_ch:
            if isinstance(item, str):
                await voice.before()
                output_emitter.push(bytes(2 * int(RATE * voice.seconds)))
        output_emitter.end_segment()


class Voice(tts.TTS):
    """Silence, a tenth of a second for each piece of text."""

    def __init__(self, before: Behave = nothing, seconds: float = 0.1) -> None:
        super().__init__(
            capabilities=tts.TTSCapabilities(streaming=True), sample_rate=RATE, num_channels=1
        )
        self.before = before
        self.seconds = seconds

    def synthesize(self, text: str, **_: Any) -> Any:
        raise ValueError("this voice only streams")

    def stream(self, *, conn_options: Any = None) -> Any:
        return _Speech(tts=self, conn_options=conn_options or APIConnectOptions())


class _Hearing(stt.RecognizeStream):
    async def _run(self) -> None:
        ears = self._stt
        assert isinstance(ears, Ears)
        ears.on_connected()
        ears.open.add(self)
        try:
            await asyncio.wait(
                (asyncio.ensure_future(self._listen()), ears.failure),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if ears.failure.done():
                error, ears.failure = ears.failure.result(), ears.new_failure()
                raise error
        finally:
            try:
                await ears.at_end()
            finally:
                ears.open.discard(self)

    async def _listen(self) -> None:
        async for _ in self._input_ch:
            pass

    def hear(self, text: str) -> None:
        """Recognize something."""
        said = [stt.SpeechData(language="en", text=text)]
        for kind in ("START_OF_SPEECH", "FINAL_TRANSCRIPT", "END_OF_SPEECH"):
            event = stt.SpeechEvent(type=stt.SpeechEventType[kind])
            if kind == "FINAL_TRANSCRIPT":
                event.alternatives = said
            self._event_ch.send_nowait(event)


class Ears(stt.STT):
    """Hears what it is told to; `open` are the streams that hold a connection."""

    def __init__(self, at_end: Behave = nothing) -> None:
        super().__init__(capabilities=stt.STTCapabilities(streaming=True, interim_results=False))
        self.open: set[_Hearing] = set()
        self.connected = 0
        self.at_end = at_end
        self.failure = self.new_failure()

    def on_connected(self) -> None:
        """A connection is there."""
        self.connected += 1

    def new_failure(self) -> asyncio.Future[Exception]:
        """Where the next failure of the connection is put."""
        return asyncio.get_running_loop().create_future()

    async def _recognize_impl(self, *_: Any, **__: Any) -> Any:
        raise ValueError("these ears only stream")

    def stream(self, *, conn_options: Any = None, **_: Any) -> Any:
        return _Hearing(stt=self, conn_options=conn_options or APIConnectOptions())

    def hear(self, text: str) -> None:
        """The user says something."""
        for stream in self.open:
            stream.hear(text)


class Microphone(io.AudioInput):
    """Silence, in frames of 20 ms."""

    def __init__(self, behave: Behave = nothing) -> None:
        super().__init__(label="microphone")
        self._behave = behave

    async def __anext__(self) -> rtc.AudioFrame:
        await self._behave()
        await asyncio.sleep(0.02)
        return rtc.AudioFrame(bytes(2 * RATE // 50), RATE, 1, RATE // 50)


class Speaker(io.AudioOutput):
    """Plays at once, or, if it is `mute`, never says that it has played."""

    def __init__(self, *, mute: bool = False, at_frame: Behave = nothing, pace: float = 0) -> None:
        super().__init__(
            label="speaker",
            capabilities=io.AudioOutputCapabilities(pause=True),
            sample_rate=RATE,
        )
        self._mute = mute
        self._at_frame = at_frame
        self._pace = pace
        self._begun = False
        self.played = 0.0

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        await self._at_frame()
        if not self._begun:
            self._begun = True
            self.on_playback_started(created_at=time.time())
        if self._pace:
            await asyncio.sleep(frame.duration * self._pace)
        self.played += frame.duration

    def flush(self) -> None:
        super().flush()
        self._finish(interrupted=False)

    def clear_buffer(self) -> None:
        self._finish(interrupted=True)

    def _finish(self, *, interrupted: bool) -> None:
        if self._begun and not self._mute:
            self._begun = False
            asyncio.get_running_loop().call_soon(self._finished, interrupted)

    def _finished(self, interrupted: bool) -> None:
        self.on_playback_finished(playback_position=self.played, interrupted=interrupted)


class BrokenToolset(llm.Toolset):
    """A toolset whose close misbehaves."""

    def __init__(self, at_close: Behave) -> None:
        super().__init__(id="broken")
        self._at_close = at_close

    @property
    def tools(self) -> list[Any]:
        return []

    async def aclose(self) -> None:
        await self._at_close()
        await super().aclose()


async def stream_of(chunks: AsyncIterator[Any], then: Behave) -> AsyncIterator[Any]:
    """What a node passes on, and what it does after."""
    async for chunk in chunks:
        yield chunk
    await then()
