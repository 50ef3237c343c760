"""`DuplexRealtimeAdapter`: a duplex model in the place of a realtime model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from livekit import rtc

from .._streams import report_survivors
from ..log import logger
from ..types import NOT_GIVEN, NotGivenOr
from ..utils import is_given
from ..utils.aio import TaskScope
from ._audio_gates import AdaptiveNoiseGate, AudioGate, FixedGate
from ._duplex_bursts import BurstSegmenter
from .chat_context import ChatContext, ChatItem, ChatMessage, FunctionCall
from .duplex import DuplexAudioFrame, DuplexModel, DuplexSession
from .realtime import (
    GenerationCreatedEvent,
    RealtimeCapabilities,
    RealtimeError,
    RealtimeModel,
    RealtimeModelError,
    RealtimeSession,
    RealtimeSessionReconnectedEvent,
)

if TYPE_CHECKING:
    from .tool_context import Tool, ToolChoice, ToolContext

__all__ = ["AdaptiveNoiseGate", "AudioGate", "DuplexRealtimeAdapter", "FixedGate"]

_AUDIO_TIMEOUT = 0.8
_REPLY_TIMEOUT = 10.0
_CLOSE_TIMEOUT = 5.0

_PASSED_ON: tuple[
    Literal[
        "input_speech_started",
        "input_speech_stopped",
        "input_audio_transcription_completed",
        "metrics_collected",
        "error",
    ],
    ...,
] = (
    "input_speech_started",
    "input_speech_stopped",
    "input_audio_transcription_completed",
    "metrics_collected",
    "error",
)


class DuplexRealtimeAdapter(RealtimeModel):
    """Makes a duplex model usable as a realtime model that detects turns by itself.

    Each stretch of speech in its output becomes a generation.
    """

    def __init__(
        self,
        duplex_model: DuplexModel,
        *,
        gate: Callable[[], AudioGate] | None = None,
        audio_timeout: float = _AUDIO_TIMEOUT,
    ) -> None:
        """Wrap a model.

        Args:
            duplex_model: The model.
            gate: Makes the gate of a session, which tells the model's speech from its silence.
                By default the model's own, or one that adapts to the noise.
            audio_timeout: Seconds without a frame after which a stretch of speech is over.
        """
        can = duplex_model.capabilities
        super().__init__(
            capabilities=RealtimeCapabilities(
                message_truncation=False,
                turn_detection=True,
                user_transcription=can.user_transcription,
                auto_tool_reply_generation=can.auto_tool_reply_generation,
                audio_output=True,
                manual_function_calls=False,
                supports_overlapping_speech=True,
                mutable_chat_context=can.mutable_chat_context,
                mutable_instructions=can.mutable_instructions,
                mutable_tools=can.mutable_tools,
            )
        )
        self._duplex_model = duplex_model
        self._gate = gate
        self._audio_timeout = audio_timeout

    @property
    def duplex_model(self) -> DuplexModel:
        """The wrapped model."""
        return self._duplex_model

    @property
    def model(self) -> str:
        """Name of the wrapped model."""
        return self._duplex_model.model

    @property
    def provider(self) -> str:
        """Who runs the wrapped model."""
        return self._duplex_model.provider

    def session(self, *, turn_detection_disabled: bool = False) -> DuplexRealtimeSession:
        """Start a conversation.

        Args:
            turn_detection_disabled: Not possible: the model takes its turns as it sees fit.
        """
        return DuplexRealtimeSession(self)

    async def aclose(self) -> None:
        """Close the wrapped model."""
        await self._duplex_model.aclose()

    def _new_gate(self) -> AudioGate:
        if self._gate is not None:
            return self._gate()
        return self._duplex_model.audio_gate() or AdaptiveNoiseGate()


class DuplexRealtimeSession(RealtimeSession[str]):
    """A conversation with a duplex model, cut into generations.

    The model listens and speaks as it likes, so that it can neither be interrupted nor told when
    a turn is over.
    """

    def __init__(self, adapter: DuplexRealtimeAdapter) -> None:
        super().__init__(adapter)
        self._audio_timeout = adapter._audio_timeout
        self._duplex_session: DuplexSession[Any] = adapter.duplex_model.session()
        self._chat_ctx = ChatContext.empty()
        self._call_ids: set[str] = set()
        self._configured = False
        self._reply: asyncio.Future[GenerationCreatedEvent] | None = None
        self._reply_timer: asyncio.TimerHandle | None = None
        self._pause_timer: asyncio.TimerHandle | None = None
        self._bursts = BurstSegmenter(
            adapter._new_gate(), emit=self._on_generation, take_reply=self._is_reply_wanted
        )
        self._listen()
        self._scope = TaskScope(adapter.label)
        self._closing: asyncio.Task[None] | None = None
        self._close_scope = TaskScope(f"{adapter.label} (closing)")
        self._scope.spawn(self._segment(), name="duplex audio")

    @property
    def duplex_session(self) -> DuplexSession[Any]:
        """The wrapped session."""
        return self._duplex_session

    @property
    def chat_ctx(self) -> ChatContext:
        """What the model was told of the conversation. What it says itself is not part of it."""
        return self._chat_ctx.copy()

    @property
    def tools(self) -> ToolContext:
        """Tools the model may call."""
        return self._duplex_session.tools

    # -- configuring

    async def update_instructions(self, instructions: str) -> None:
        """Replace the instructions."""
        await self._duplex_session._update_instructions(instructions)

    async def update_tools(self, tools: list[Tool]) -> None:
        """Replace the tools."""
        await self._duplex_session._update_tools(tools)

    async def update_chat_ctx(self, chat_ctx: ChatContext) -> None:
        """Tell the model what is new in the conversation. Nothing can be taken back."""
        items = self._new_items(chat_ctx)
        if items:
            await self._duplex_session._append_items(items)
            self._chat_ctx.items.extend(items)

    def update_options(self, *, tool_choice: NotGivenOr[ToolChoice | None] = NOT_GIVEN) -> None:
        """Change how the model answers."""
        self._duplex_session._update_options(tool_choice=tool_choice)

    async def _update_session(
        self,
        *,
        instructions: NotGivenOr[str] = NOT_GIVEN,
        chat_ctx: NotGivenOr[ChatContext] = NOT_GIVEN,
        tools: NotGivenOr[list[Tool]] = NOT_GIVEN,
    ) -> None:
        if self._configured:
            await super()._update_session(instructions=instructions, chat_ctx=chat_ctx, tools=tools)
            return
        items = self._new_items(chat_ctx) if is_given(chat_ctx) else NOT_GIVEN
        try:
            await self._duplex_session._update_session(
                instructions=instructions, items=items, tools=tools
            )
        except Exception:
            await self.aclose()  # it would never connect
            raise
        self._configured = True
        if is_given(items):
            self._chat_ctx.items.extend(items)

    def _new_items(self, chat_ctx: ChatContext) -> list[ChatItem]:
        """What the model doesn't know yet. Says so where it would have to forget something."""
        wanted = chat_ctx.copy(
            exclude_instructions=True, exclude_handoff=True, exclude_config_update=True
        )
        known = {item.id: item for item in self._chat_ctx.items}
        kept = {item.id for item in wanted.items}
        for item in wanted.items:
            before = known.get(item.id)
            if before is not None and before._essential_fields() != item._essential_fields():
                self._warn_if_impossible(item, "change")
        for item in known.values():
            if item.id not in kept:
                self._warn_if_impossible(item, "remove")
        return [
            item for item in wanted.items if item.id not in known and not self._is_its_own(item)
        ]

    def _is_its_own(self, item: ChatItem) -> bool:
        if isinstance(item, FunctionCall):
            return item.call_id in self._call_ids
        return item.id in self._bursts.message_ids

    def _warn_if_impossible(self, item: ChatItem, what: str) -> None:
        # How much of an answer was heard differs all the time: that is no use telling.
        if not (isinstance(item, ChatMessage) and item.role == "assistant"):
            logger.warning(
                "%s can't %s what it was told: item %s", self._realtime_model.label, what, item.id
            )

    # -- speaking and listening

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """Let the model hear a frame."""
        self._duplex_session.push_audio(frame)

    def push_video(self, frame: rtc.VideoFrame) -> None:
        """Let the model see a frame."""
        self._duplex_session.push_video(frame)

    def generate_reply(
        self,
        *,
        instructions: NotGivenOr[str] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        tools: NotGivenOr[list[Tool]] = NOT_GIVEN,
    ) -> asyncio.Future[GenerationCreatedEvent]:
        """Ask the model to speak; what it says next is the reply.

        Args:
            instructions: For this reply alone.
            tool_choice: Whether it has to call tools, or must not.
            tools: Tools for this reply alone.

        Returns:
            Fails with `RealtimeError` if the model refuses or says nothing for 10 s, when another
            reply is asked for, on a reconnect and on close.
        """
        self._fail_reply("another reply was asked for")
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[GenerationCreatedEvent] = loop.create_future()
        self._reply = reply
        if self._closing is not None:
            self._fail_reply("the session is closed")
            return reply
        self._reply_timer = loop.call_later(
            _REPLY_TIMEOUT, self._fail_reply, f"nothing was said for {_REPLY_TIMEOUT:g} s"
        )
        try:
            self._duplex_session._generate_reply(
                instructions=instructions, tool_choice=tool_choice, tools=tools
            )
        except RealtimeError as error:
            self._fail_reply(str(error), code=error.code)
        return reply

    def interrupt(self) -> None:
        """Nothing: the model hears by itself that it is interrupted."""

    def commit_audio(self) -> None:
        """Nothing: the model decides when the user's turn is over."""

    def clear_audio(self) -> None:
        """Nothing: the model has heard what it has heard."""

    def truncate(
        self,
        *,
        message_id: str,
        modalities: list[Literal["text", "audio"]],
        audio_end_ms: int,
        audio_transcript: NotGivenOr[str] = NOT_GIVEN,
    ) -> None:
        """Nothing: the model can't be told how much was heard."""

    def _is_reply_wanted(self) -> bool:
        return self._reply is not None and not self._reply.done()

    def _fail_reply(self, why: str, code: str | None = None) -> None:
        reply, self._reply = self._reply, None
        if self._reply_timer is not None:
            self._reply_timer.cancel()
            self._reply_timer = None
        if reply is not None and not reply.done():
            reply.set_exception(RealtimeError(f"the model did not reply: {why}", code=code))
            reply.exception()  # for asyncio it counts as seen, also if nobody waits any more

    def _on_generation(self, event: GenerationCreatedEvent) -> None:
        self.emit("generation_created", event)
        if event.user_initiated and self._reply is not None:
            reply, self._reply = self._reply, None
            if self._reply_timer is not None:
                self._reply_timer.cancel()
                self._reply_timer = None
            if not reply.done():
                reply.set_result(event)

    # -- the wrapped session

    def _listen(self) -> None:
        session = self._duplex_session
        for name in _PASSED_ON:
            session.on(name, self._passing_on(name))
        session.on("transcript_delta", self._bursts.words)
        session.on("function_call", self._on_call)
        session.on("session_reconnected", self._on_reconnected)

    def _passing_on(self, event: Any) -> Callable[..., None]:
        return lambda *args: self.emit(event, *args)

    def _on_call(self, function_call: FunctionCall) -> None:
        self._call_ids.add(function_call.call_id)
        self._bursts.call(function_call)

    def _on_reconnected(self, event: RealtimeSessionReconnectedEvent) -> None:
        self._stop_pause_timer()
        self._bursts.restart()
        self._fail_reply("the connection was lost")
        self.emit("session_reconnected", event)

    async def _segment(self) -> None:
        """Cut the model's output, until it ends."""
        try:
            async for audio in self._duplex_session.audio_stream:
                self._on_frame(audio)
        except Exception as error:
            if self._closing is None:
                logger.exception("%s: the audio stream failed", self._realtime_model.label)
                self.emit(
                    "error",
                    RealtimeModelError(
                        timestamp=time.time(),
                        label=self._realtime_model.label,
                        error=error,
                        recoverable=False,
                    ),
                )
        finally:
            self._stop_pause_timer()
            self._bursts.close()

    def _on_frame(self, audio: DuplexAudioFrame) -> None:
        self._stop_pause_timer()
        if self._closing is not None:
            return
        self._bursts.frame(audio)
        if self._bursts.speaking:
            loop = asyncio.get_running_loop()
            self._pause_timer = loop.call_later(
                self._audio_timeout + audio.frame.duration, self._bursts.pause
            )

    def _stop_pause_timer(self) -> None:
        if self._pause_timer is not None:
            self._pause_timer.cancel()
            self._pause_timer = None

    async def aclose(self) -> None:
        """End the conversation, within 5 s. Failures are logged. Idempotent."""
        if self._closing is None:
            self._closing = self._close_scope.spawn(self._close(), name="closing the session")
        # Cancelling who waits must not cut the close short.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        kill = _CLOSE_TIMEOUT * 0.05
        self._fail_reply("the session is closed")
        self._bursts.close()
        self._scope.cancel_soon()
        closing = TaskScope(f"{self._realtime_model.label} (closing)")
        closing.spawn(
            self._duplex_session.aclose(), name=f"{type(self._duplex_session).__name__}.aclose"
        )
        try:
            await closing.join(_CLOSE_TIMEOUT - 2 * kill)
        finally:
            report_survivors([*await closing.cancel(kill), *await self._scope.cancel(kill)])
