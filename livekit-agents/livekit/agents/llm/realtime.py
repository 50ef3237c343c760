"""Realtime models: they hear and speak by themselves. Base classes for the plugins that run them."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from livekit import rtc
from pydantic import BaseModel, ConfigDict, Field

from .._emitter import IsolatedEmitter
from .._model import MeteredModel
from .._streams import ClosesOnExit, qualified_name
from ..log import logger
from ..types import NOT_GIVEN, NotGivenOr
from ..utils import is_given

if TYPE_CHECKING:
    from ..metrics import RealtimeModelMetrics
    from .chat_context import ChatContext, ChatItem, FunctionCall
    from .tool_context import Tool, ToolChoice, ToolContext

__all__ = [
    "EventTypes",
    "GenerationCreatedEvent",
    "InputSpeechStartedEvent",
    "InputSpeechStoppedEvent",
    "InputTranscriptionCompleted",
    "MessageGeneration",
    "RealtimeCapabilities",
    "RealtimeError",
    "RealtimeModel",
    "RealtimeModelError",
    "RealtimeSession",
    "RealtimeSessionReconnectedEvent",
    "RemoteItemAddedEvent",
    "TEvent",
]


@dataclass
class InputSpeechStartedEvent:
    """The server heard the user begin to speak."""


@dataclass
class InputSpeechStoppedEvent:
    """The server heard the user stop."""

    user_transcription_enabled: bool
    """Whether a transcript of it will follow."""


@dataclass
class MessageGeneration:
    """One message of a response, while it is generated.

    Both streams end and `modalities` resolves whatever happens: on interruption, reconnect, error
    and close as well.
    """

    message_id: str
    text_stream: AsyncIterable[str]
    """Text, or the transcript of the audio; pieces may be `TimedString`."""
    audio_stream: AsyncIterable[rtc.AudioFrame]
    """Ends at once for a message of text alone."""
    modalities: Awaitable[list[Literal["text", "audio"]]]


@dataclass
class GenerationCreatedEvent:
    """A response has begun. Its streams end whatever happens."""

    message_stream: AsyncIterable[MessageGeneration]
    function_stream: AsyncIterable[FunctionCall]
    user_initiated: bool
    """True if `RealtimeSession.generate_reply` asked for it."""
    response_id: str | None = None


@dataclass
class InputTranscriptionCompleted:
    """What the user said."""

    item_id: str
    transcript: str
    is_final: bool
    confidence: float | None = None
    """0 to 1."""
    turn_started_at: float | None = None
    """Unix timestamp, in seconds."""


@dataclass
class RealtimeSessionReconnectedEvent:
    """The session runs on a new connection. Server ids of items have changed."""


@dataclass
class RemoteItemAddedEvent:
    """The server added an item to its conversation."""

    previous_item_id: str | None
    item: ChatItem


EventTypes = Literal[
    "input_speech_started",
    "input_speech_stopped",
    "input_audio_transcription_completed",
    "generation_created",
    "session_reconnected",
    "metrics_collected",
    "remote_item_added",
    "error",
]
"""Events of a `RealtimeSession`."""

TEvent = TypeVar("TEvent")


@dataclass
class RealtimeCapabilities:
    """What a model can do, and what it does by itself."""

    message_truncation: bool
    """`RealtimeSession.truncate` tells the server what of a message was heard."""
    turn_detection: bool
    """The server decides when the user's turn is over."""
    user_transcription: bool
    """It transcribes the user."""
    auto_tool_reply_generation: bool
    """It replies to outputs of tools without being asked."""
    audio_output: bool
    """It speaks. Otherwise it writes, and a TTS speaks."""
    manual_function_calls: bool
    """The chat context may contain calls the model didn't make."""
    can_disable_turn_detection: bool = False
    """`RealtimeModel.session(turn_detection_disabled=True)` works."""
    supports_overlapping_speech: bool = False
    """It goes on listening while it speaks, and deals with the overlap by itself."""
    mutable_chat_context: bool = False
    """The chat context can be changed during the session."""
    mutable_instructions: bool = False
    """The instructions can be changed during the session."""
    mutable_tools: bool = False
    """The tools can be changed during the session."""
    per_response_tool_choice: bool = False
    """`tools` and `tool_choice` of `generate_reply` apply to that reply alone."""
    supports_say: bool = False
    """`RealtimeSession.say` works."""


class RealtimeModelError(BaseModel):
    """A session has failed; argument of the `"error"` event."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    type: Literal["realtime_model_error"] = "realtime_model_error"
    timestamp: float
    label: str
    """Which model."""
    error: Exception = Field(..., exclude=True)
    recoverable: bool
    """True if the session tries again by itself, False if it can't go on."""


class RealtimeError(Exception):
    """A realtime model refused a request, or did not answer in time."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        """Create the error.

        Args:
            message: What went wrong.
            code: The provider's code of the error.
        """
        super().__init__(message)
        self.code = code


class RealtimeModel(MeteredModel, ClosesOnExit):
    """Base of realtime models. Makes sessions, each of which is one conversation."""

    def __init__(self, *, capabilities: RealtimeCapabilities) -> None:
        """Set up the model.

        Args:
            capabilities: What it can do.
        """
        self._capabilities = capabilities
        self._label = qualified_name(self)

    @property
    def capabilities(self) -> RealtimeCapabilities:
        """What it can do."""
        return self._capabilities

    @abstractmethod
    def session(self, *, turn_detection_disabled: bool = False) -> RealtimeSession[Any]:
        """Start a conversation.

        Args:
            turn_detection_disabled: The caller decides when the user's turn is over. Only for
                models that `can_disable_turn_detection`.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Release what the model holds. Sessions are closed by whoever made them."""


class RealtimeSession(ABC, IsolatedEmitter[EventTypes | TEvent], Generic[TEvent]):
    """One conversation with a realtime model. Emits the events named in `EventTypes`.

    After a reconnect the chat context has been replayed under new server ids, open generations
    have ended, pending replies have failed with `RealtimeError`, and `"session_reconnected"` is
    emitted. Metrics may still be emitted by `aclose`.
    """

    def __init__(self, realtime_model: RealtimeModel) -> None:
        """Start the conversation.

        Args:
            realtime_model: The model that made the session.
        """
        super().__init__()
        self._realtime_model = realtime_model

    @property
    def realtime_model(self) -> RealtimeModel:
        """The model that made the session."""
        return self._realtime_model

    @property
    def capabilities(self) -> RealtimeCapabilities:
        """What can be done in this session."""
        return self._realtime_model.capabilities

    @property
    @abstractmethod
    def chat_ctx(self) -> ChatContext:
        """The conversation as the server knows it."""

    @property
    @abstractmethod
    def tools(self) -> ToolContext:
        """Tools the model may call."""

    @abstractmethod
    async def update_instructions(self, instructions: str) -> None:
        """Replace the instructions.

        Raises:
            RealtimeError: The server refused, or did not answer in time.
        """

    @abstractmethod
    async def update_chat_ctx(self, chat_ctx: ChatContext) -> None:
        """Make the server's conversation equal to this one.

        Raises:
            RealtimeError: The server refused, or did not answer in time.
        """

    @abstractmethod
    async def update_tools(self, tools: list[Tool]) -> None:
        """Replace the tools.

        Raises:
            RealtimeError: The server refused, or did not answer in time.
        """

    @abstractmethod
    def update_options(self, *, tool_choice: NotGivenOr[ToolChoice | None] = NOT_GIVEN) -> None:
        """Change how the model answers.

        Args:
            tool_choice: Whether it has to call tools, or must not; None for its default.
        """

    @abstractmethod
    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """Let the model hear a frame, at any sample rate. Never blocks."""

    @abstractmethod
    def push_video(self, frame: rtc.VideoFrame) -> None:
        """Let the model see a frame. Never blocks."""

    @abstractmethod
    def generate_reply(
        self,
        *,
        instructions: NotGivenOr[str] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        tools: NotGivenOr[list[Tool]] = NOT_GIVEN,
    ) -> asyncio.Future[GenerationCreatedEvent]:
        """Ask for a response.

        Args:
            instructions: For this response alone.
            tool_choice: Whether it has to call tools, or must not.
            tools: Tools for this response alone.

        Returns:
            Resolves to the event that is also emitted as `"generation_created"`; fails with
            `RealtimeError`. Cancelling it asks for the response to be dropped.
        """

    @abstractmethod
    def commit_audio(self) -> None:
        """The user's turn is over: what was heard is to be answered."""

    @abstractmethod
    def clear_audio(self) -> None:
        """Forget what was heard since the last turn."""

    @abstractmethod
    def interrupt(self) -> None:
        """Stop the response under way."""

    @abstractmethod
    def truncate(
        self,
        *,
        message_id: str,
        modalities: list[Literal["text", "audio"]],
        audio_end_ms: int,
        audio_transcript: NotGivenOr[str] = NOT_GIVEN,
    ) -> None:
        """Tell the server how much of a message was heard.

        Args:
            message_id: The message.
            modalities: What it consists of.
            audio_end_ms: Milliseconds that were heard.
            audio_transcript: The words that were heard.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """End the conversation: generations end, pending replies fail."""

    def start_user_activity(self) -> None:
        """The user is active in another way than speaking."""

    def say(self, text: str | AsyncIterable[str]) -> asyncio.Future[GenerationCreatedEvent]:
        """Speak a text verbatim. Only for models that `supports_say`.

        Raises:
            NotImplementedError: The model can't.
        """
        raise NotImplementedError(
            f"{self._realtime_model.label} can't speak a given text: give the session a TTS, or "
            "use generate_reply"
        )

    async def _update_session(
        self,
        *,
        instructions: NotGivenOr[str] = NOT_GIVEN,
        chat_ctx: NotGivenOr[ChatContext] = NOT_GIVEN,
        tools: NotGivenOr[list[Tool]] = NOT_GIVEN,
    ) -> None:
        """Apply what is given, at the start and at a handoff. One that fails is logged."""
        updates: list[tuple[str, Any, Callable[[Any], Awaitable[None]]]] = [
            ("instructions", instructions, self.update_instructions),
            ("chat context", chat_ctx, self.update_chat_ctx),
            ("tools", tools, self.update_tools),
        ]
        for what, value, update in updates:
            if not is_given(value):
                continue
            try:
                await update(value)
            except RealtimeError:
                logger.exception("%s: failed to update the %s", self._realtime_model.label, what)

    def _report_connection_acquired(self, acquire_time: float) -> None:
        """Emit, as a metric, how many seconds it took to get connected."""
        self.emit("metrics_collected", connection_metrics(self._realtime_model, acquire_time))


def connection_metrics(model: Any, acquire_time: float) -> RealtimeModelMetrics:
    """Metrics without usage, which only tell how many seconds it took to get connected.

    Args:
        model: What was connected to; has `label` and `metrics_metadata`.
        acquire_time: Seconds.
    """
    from ..metrics.base import Metadata, RealtimeModelMetrics

    return RealtimeModelMetrics(
        timestamp=time.time(),
        request_id="",
        label=model.label,
        acquire_time=acquire_time,
        connection_reused=False,
        input_token_details=RealtimeModelMetrics.InputTokenDetails(),
        output_token_details=RealtimeModelMetrics.OutputTokenDetails(),
        metadata=Metadata(**model.metrics_metadata),
    )
