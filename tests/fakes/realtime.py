"""A realtime model that answers what a test tells it to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from livekit import rtc

from livekit.agents.llm import (
    ChatContext,
    ChatMessage,
    FunctionCall,
    GenerationCreatedEvent,
    InputSpeechStartedEvent,
    InputSpeechStoppedEvent,
    InputTranscriptionCompleted,
    MessageGeneration,
    RealtimeCapabilities,
    RealtimeError,
    RealtimeModel,
    RealtimeModelError,
    RealtimeSession,
    RealtimeSessionReconnectedEvent,
    RemoteItemAddedEvent,
    Tool,
    ToolChoice,
    ToolContext,
)
from livekit.agents.types import NOT_GIVEN, NotGivenOr
from livekit.agents.utils import shortuuid
from livekit.agents.utils.aio import Chan, TaskScope

SAMPLE_RATE = 24000
FRAME_DURATION = 0.02

CAPABILITIES = RealtimeCapabilities(
    message_truncation=True,
    turn_detection=True,
    user_transcription=True,
    auto_tool_reply_generation=False,
    audio_output=True,
    manual_function_calls=True,
    can_disable_turn_detection=True,
    mutable_chat_context=True,
    mutable_instructions=True,
    mutable_tools=True,
)


def silence(duration: float = FRAME_DURATION) -> rtc.AudioFrame:
    """A silent frame, `duration` seconds, 24 kHz mono."""
    return rtc.AudioFrame.create(SAMPLE_RATE, 1, round(SAMPLE_RATE * duration))


@dataclass
class RealtimeReply:
    """One response of the model."""

    text: str | Sequence[str] = ""
    """Transcript of the message; one piece, or one piece per item. No message without it."""
    audio: float = 0.0
    """Seconds of silence in frames of 20 ms, all at once. 0: a message of text alone."""
    tool_calls: Sequence[FunctionCall] = ()
    delay: float = 0.0
    """Seconds until the response begins."""
    chunk_delay: float = 0.0
    """Seconds before each further piece of text."""
    error: Exception | None = None
    """The request fails with it instead."""
    never_begins: bool = False
    """The future stays pending, even through an interruption and the close."""
    never_ends: bool = False
    """Streams stay open and modalities pending, even through an interruption and the close."""


class FakeGeneration:
    """A response under way."""

    def __init__(self, *, user_initiated: bool) -> None:
        self._messages: Chan[MessageGeneration] = Chan()
        self._functions: Chan[FunctionCall] = Chan()
        self._channels: list[Chan[Any]] = [self._messages, self._functions]
        self._modalities: list[asyncio.Future[list[Literal["text", "audio"]]]] = []
        self.event = GenerationCreatedEvent(
            message_stream=self._messages,
            function_stream=self._functions,
            user_initiated=user_initiated,
            response_id=shortuuid("response_"),
        )

    def open_message(self, message_id: str | None = None) -> FakeMessage:
        """Begin a message; its modalities stay unknown until it gets its first piece."""
        message = FakeMessage(message_id or shortuuid("item_"))
        self._channels += [message.text, message.audio]
        self._modalities.append(message.modalities)
        self._messages.send_nowait(message.event)
        return message

    def call(self, function_call: FunctionCall) -> None:
        """Ask for a function to be called."""
        self._functions.send_nowait(function_call)

    def end(self) -> None:
        """End everything that is still open."""
        for channel in self._channels:
            channel.close()
        for modalities in self._modalities:
            if not modalities.done():
                modalities.set_result(["text"])

    @property
    def ended(self) -> bool:
        return self._messages.closed


class FakeMessage:
    def __init__(self, message_id: str) -> None:
        self.text: Chan[str] = Chan()
        self.audio: Chan[rtc.AudioFrame] = Chan()
        self.modalities: asyncio.Future[list[Literal["text", "audio"]]] = (
            asyncio.get_running_loop().create_future()
        )
        self.event = MessageGeneration(
            message_id=message_id,
            text_stream=self.text,
            audio_stream=self.audio,
            modalities=self.modalities,
        )


@dataclass
class ReplyRequest:
    """What `generate_reply` was called with."""

    instructions: NotGivenOr[str]
    tool_choice: NotGivenOr[ToolChoice]
    tools: NotGivenOr[list[Tool]]


class FakeRealtimeModel(RealtimeModel):
    """Makes `FakeRealtimeSession`s. `generate_reply` takes the next of `replies`.

    Args:
        replies: A string stands for `RealtimeReply(text, audio=1.0)`.
        capabilities: Changes to `CAPABILITIES`.
        close_hangs: Closing a session never ends.
        close_error: Closing a session raises this.
        start_error: `session()` raises this.
    """

    def __init__(
        self,
        replies: Iterable[RealtimeReply | str] = (),
        *,
        close_hangs: bool = False,
        close_error: Exception | None = None,
        start_error: Exception | None = None,
        model: str = "fake-realtime",
        **capabilities: bool,
    ) -> None:
        super().__init__(capabilities=replace(CAPABILITIES, **capabilities))
        self.replies = list(replies)
        self.sessions: list[FakeRealtimeSession] = []
        self.close_hangs = close_hangs
        self.close_error = close_error
        self.start_error = start_error
        self.closed = False
        self._model = model

    @property
    def model(self) -> str:
        return self._model

    @property
    def provider(self) -> str:
        return "fake"

    def session(self, *, turn_detection_disabled: bool = False) -> FakeRealtimeSession:
        if self.start_error is not None:
            raise self.start_error
        session = FakeRealtimeSession(self, turn_detection_disabled=turn_detection_disabled)
        self.sessions.append(session)
        return session

    async def aclose(self) -> None:
        self.closed = True


class FakeRealtimeSession(RealtimeSession[str]):
    def __init__(self, model: FakeRealtimeModel, *, turn_detection_disabled: bool) -> None:
        super().__init__(model)
        self._fake = model
        self._scope = TaskScope("fake realtime session")
        self._chat_ctx = ChatContext.empty()
        self._tools = ToolContext.empty()
        self.turn_detection_disabled = turn_detection_disabled
        self.instructions: str | None = None
        self.tool_choice: ToolChoice | None = None
        self.audio: list[rtc.AudioFrame] = []
        self.video: list[rtc.VideoFrame] = []
        self.requests: list[ReplyRequest] = []
        self.generations: list[FakeGeneration] = []
        self.truncations: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.commits = 0
        self.clears = 0
        self.interruptions = 0
        self.closed = False
        self.update_error: Exception | None = None
        """Raised by every update."""
        self.updates_hang = False
        """No update is ever acknowledged."""
        self.broken = False
        """Requests without an answer raise."""
        self._pending: set[asyncio.Future[GenerationCreatedEvent]] = set()
        self._release = asyncio.Event()

    # -- what a test does to it

    def begin(self, *, user_initiated: bool = False) -> FakeGeneration:
        """Begin a response, as a server that detects turns does."""
        generation = FakeGeneration(user_initiated=user_initiated)
        self.generations.append(generation)
        self.emit("generation_created", generation.event)
        return generation

    def answer(self, reply: RealtimeReply | str) -> FakeGeneration:
        """Answer without being asked, as a server that detects turns does."""
        script = RealtimeReply(reply, audio=1.0) if isinstance(reply, str) else reply
        generation = self.begin()
        self._scope.spawn(self._fill_to_the_end(generation, script))
        return generation

    def hear_start(self) -> None:
        """The server hears the user begin to speak."""
        self.emit("input_speech_started", InputSpeechStartedEvent())

    def hear_stop(self) -> None:
        """The server hears the user stop."""
        self.emit("input_speech_stopped", InputSpeechStoppedEvent(user_transcription_enabled=True))

    def transcribe(self, text: str, item_id: str, *, final: bool = True) -> None:
        """The server has understood the user."""
        self.emit(
            "input_audio_transcription_completed",
            InputTranscriptionCompleted(item_id=item_id, transcript=text, is_final=final),
        )

    def add_item(self, message: ChatMessage) -> None:
        """The server adds a message to the end of its conversation."""
        tail = self._chat_ctx.items[-1].id if self._chat_ctx.items else None
        self._chat_ctx.items.append(message)
        self.emit("remote_item_added", RemoteItemAddedEvent(previous_item_id=tail, item=message))

    def reconnect(self) -> None:
        """The connection was lost and is there again."""
        self._end_generations()
        self.emit("session_reconnected", RealtimeSessionReconnectedEvent())

    def fail(self, error: Exception, *, recoverable: bool) -> None:
        """Emit an error."""
        self.emit(
            "error",
            RealtimeModelError(
                timestamp=time.time(),
                label=self._fake.label,
                error=error,
                recoverable=recoverable,
            ),
        )

    def release(self) -> None:
        """Let a hanging close end."""
        self._release.set()

    # -- what a session does to it

    @property
    def chat_ctx(self) -> ChatContext:
        return self._chat_ctx.copy()

    @property
    def tools(self) -> ToolContext:
        return self._tools.copy()

    async def update_instructions(self, instructions: str) -> None:
        await self._acknowledge()
        self.instructions = instructions

    async def update_chat_ctx(self, chat_ctx: ChatContext) -> None:
        await self._acknowledge()
        known = {item.id for item in self._chat_ctx.items}
        self._chat_ctx = chat_ctx.copy()
        new = [item for item in chat_ctx.items if item.id not in known]
        asked = any(i.type == "function_call_output" and i.reply_required for i in new)
        if asked and self.capabilities.auto_tool_reply_generation and self._fake.replies:
            self.answer(self._fake.replies.pop(0))

    async def update_tools(self, tools: list[Tool]) -> None:
        await self._acknowledge()
        self._tools = ToolContext(tools)

    async def _acknowledge(self) -> None:
        if self.updates_hang:
            await asyncio.Event().wait()
        if self.update_error is not None:
            raise self.update_error

    def _check(self) -> None:
        if self.broken:
            raise ConnectionError("the socket is gone")

    def update_options(self, *, tool_choice: NotGivenOr[ToolChoice | None] = NOT_GIVEN) -> None:
        if tool_choice is None or isinstance(tool_choice, str | dict):
            self.tool_choice = tool_choice

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        self._check()
        self.audio.append(frame)

    def push_video(self, frame: rtc.VideoFrame) -> None:
        self.video.append(frame)

    def generate_reply(
        self,
        *,
        instructions: NotGivenOr[str] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        tools: NotGivenOr[list[Tool]] = NOT_GIVEN,
    ) -> asyncio.Future[GenerationCreatedEvent]:
        self.requests.append(ReplyRequest(instructions, tool_choice, tools))
        script = self._fake.replies.pop(0) if self._fake.replies else ""
        return self._answer(RealtimeReply(script, audio=1.0) if isinstance(script, str) else script)

    def say(self, text: str | AsyncIterable[str]) -> asyncio.Future[GenerationCreatedEvent]:
        if not self.capabilities.supports_say:
            return super().say(text)
        assert isinstance(text, str)
        self.said.append(text)
        return self._answer(RealtimeReply(text, audio=1.0))

    def _answer(self, reply: RealtimeReply) -> asyncio.Future[GenerationCreatedEvent]:
        future: asyncio.Future[GenerationCreatedEvent] = asyncio.get_running_loop().create_future()
        if reply.never_begins:
            return future
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        self._scope.spawn(self._play(reply, future))
        return future

    async def _play(
        self, reply: RealtimeReply, future: asyncio.Future[GenerationCreatedEvent]
    ) -> None:
        await asyncio.sleep(reply.delay)
        if future.done():
            return
        if reply.error is not None:
            future.set_exception(reply.error)
            return
        generation = FakeGeneration(user_initiated=True)
        if not reply.never_ends:
            self.generations.append(generation)
        self.emit("generation_created", generation.event)
        future.set_result(generation.event)
        await self._fill_to_the_end(generation, reply)

    async def _fill_to_the_end(self, generation: FakeGeneration, reply: RealtimeReply) -> None:
        await self._fill(generation, reply)
        if not reply.never_ends:
            generation.end()

    async def _fill(self, generation: FakeGeneration, reply: RealtimeReply) -> None:
        texts = [reply.text] if isinstance(reply.text, str) else list(reply.text)
        if any(texts):
            message = generation.open_message()
            self.add_item(ChatMessage(id=message.event.message_id, role="assistant", content=[]))
            if not reply.never_ends:
                message.modalities.set_result(["audio", "text"] if reply.audio else ["text"])
            for _ in range(round(reply.audio / FRAME_DURATION)):
                message.audio.send_nowait(silence())
            if not reply.audio and not reply.never_ends:
                message.audio.close()
            for index, text in enumerate(texts):
                if index:
                    await asyncio.sleep(reply.chunk_delay)
                if message.text.closed:
                    return
                message.text.send_nowait(text)
        for function_call in reply.tool_calls:
            if not generation.ended:
                generation.call(function_call)

    def commit_audio(self) -> None:
        self._check()
        self.commits += 1

    def clear_audio(self) -> None:
        self._check()
        self.clears += 1

    def interrupt(self) -> None:
        self._check()
        self.interruptions += 1
        self._end_generations()

    def truncate(
        self,
        *,
        message_id: str,
        modalities: list[Literal["text", "audio"]],
        audio_end_ms: int,
        audio_transcript: NotGivenOr[str] = NOT_GIVEN,
    ) -> None:
        self._check()
        self.truncations.append(
            {
                "message_id": message_id,
                "modalities": modalities,
                "audio_end_ms": audio_end_ms,
                "audio_transcript": audio_transcript,
            }
        )

    async def aclose(self) -> None:
        self.closed = True
        while self._fake.close_hangs and not self._release.is_set():
            try:
                await self._release.wait()
            except asyncio.CancelledError:
                pass
        for future in list(self._pending):
            if not future.done():
                future.set_exception(RealtimeError("session closed"))
        self._end_generations()
        await self._scope.cancel(1.0)
        if self._fake.close_error is not None:
            raise self._fake.close_error

    def _end_generations(self) -> None:
        for generation in self.generations:
            if not generation.ended:
                generation.end()
