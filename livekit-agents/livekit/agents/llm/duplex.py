"""Duplex models: they listen and speak at the same time and take turns as they see fit.

`DuplexRealtimeAdapter` makes one usable as a realtime model.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from livekit import rtc

from .._emitter import IsolatedEmitter
from .._model import MeteredModel
from .._streams import ClosesOnExit, qualified_name
from ..types import NOT_GIVEN, NotGivenOr
from ..utils import is_given
from .realtime import RealtimeError, connection_metrics

if TYPE_CHECKING:
    from ._audio_gates import AudioGate
    from .chat_context import ChatItem
    from .tool_context import Tool, ToolChoice, ToolContext

__all__ = [
    "DuplexAudioFrame",
    "DuplexCapabilities",
    "DuplexEventTypes",
    "DuplexModel",
    "DuplexOutputTranscriptDelta",
    "DuplexSession",
    "TEvent",
]


@dataclass
class DuplexCapabilities:
    """What a model can do, and what it does by itself."""

    user_transcription: bool
    """It transcribes the user."""
    auto_tool_reply_generation: bool
    """It reacts to outputs of tools without being asked."""
    mutable_chat_context: bool = False
    """The chat context can be changed during the session."""
    mutable_instructions: bool = False
    """The instructions can be changed during the session."""
    mutable_tools: bool = False
    """The tools can be changed during the session."""


@dataclass
class DuplexAudioFrame:
    """A frame of the model's uninterrupted output, silence included."""

    frame: rtc.AudioFrame
    start_ms: int | None = None
    """Where it lies in the output, in milliseconds; None to follow the frame before."""


@dataclass
class DuplexOutputTranscriptDelta:
    """Some words that the model speaks. They may come before or after their audio."""

    text: str
    start_ms: int | None = None
    """Where they begin in the output, in milliseconds; None if the provider doesn't tell."""
    end_ms: int | None = None
    """Where they end."""


DuplexEventTypes = Literal[
    "transcript_delta",
    "function_call",
    "input_speech_started",
    "input_speech_stopped",
    "input_audio_transcription_completed",
    "session_reconnected",
    "metrics_collected",
    "error",
]
"""Events of a `DuplexSession`."""

TEvent = TypeVar("TEvent")


class DuplexModel(ABC, MeteredModel, ClosesOnExit):
    """Base of duplex models. Makes sessions, each of which is one conversation."""

    def __init__(self, *, capabilities: DuplexCapabilities) -> None:
        """Set up the model.

        Args:
            capabilities: What it can do.
        """
        self._capabilities = capabilities
        self._label = qualified_name(self)

    @property
    def capabilities(self) -> DuplexCapabilities:
        """What it can do."""
        return self._capabilities

    def audio_gate(self) -> AudioGate | None:
        """A new gate that tells the model's speech from its silence; None for the default one."""
        return None

    @abstractmethod
    def session(self) -> DuplexSession[Any]:
        """Start a conversation."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release what the model holds. Sessions are closed by whoever made them."""


class DuplexSession(ABC, IsolatedEmitter[DuplexEventTypes | TEvent], Generic[TEvent]):
    """One conversation with a duplex model. Emits the events named in `DuplexEventTypes`.

    `"transcript_delta"` carries a `DuplexOutputTranscriptDelta`, `"function_call"` a
    `FunctionCall`, the others what they carry in a `RealtimeSession`.
    """

    def __init__(self, duplex_model: DuplexModel) -> None:
        """Start the conversation.

        Args:
            duplex_model: The model that made the session.
        """
        super().__init__()
        self._duplex_model = duplex_model
        self._closing = False
        self._configured = asyncio.Event()
        """Set when the first configuration is complete. A model that can't change it later
        connects after that."""

    @property
    def duplex_model(self) -> DuplexModel:
        """The model that made the session."""
        return self._duplex_model

    @property
    def capabilities(self) -> DuplexCapabilities:
        """What can be done in this session."""
        return self._duplex_model.capabilities

    @property
    @abstractmethod
    def audio_stream(self) -> AsyncIterable[DuplexAudioFrame]:
        """The model's output, for one listener. Ends with the session."""

    @property
    @abstractmethod
    def tools(self) -> ToolContext:
        """Tools the model may call."""

    @abstractmethod
    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """Let the model hear a frame, at any sample rate. Never blocks."""

    def push_video(self, frame: rtc.VideoFrame) -> None:
        """Let the model see a frame. Never blocks."""

    async def aclose(self) -> None:
        """End the conversation. Overrides call this first: it releases who waits to connect."""
        self._closing = True
        self._configured.set()

    # -- what the framework does to it; plugins override what their model can

    async def _update_instructions(self, instructions: str) -> None:
        """Replace the instructions."""

    async def _append_items(self, items: list[ChatItem]) -> None:
        """Add items to the end of the conversation."""

    async def _update_tools(self, tools: list[Tool]) -> None:
        """Replace the tools."""

    def _update_options(self, *, tool_choice: NotGivenOr[ToolChoice | None] = NOT_GIVEN) -> None:
        """Change how the model answers."""

    def _generate_reply(
        self,
        *,
        instructions: NotGivenOr[str] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        tools: NotGivenOr[list[Tool]] = NOT_GIVEN,
    ) -> None:
        """Make the model speak.

        Raises:
            RealtimeError: It can't be made to.
        """
        raise RealtimeError(f"{self._duplex_model.label} decides by itself when to speak")

    async def _update_session(
        self,
        *,
        instructions: NotGivenOr[str] = NOT_GIVEN,
        items: NotGivenOr[list[ChatItem]] = NOT_GIVEN,
        tools: NotGivenOr[list[Tool]] = NOT_GIVEN,
    ) -> None:
        """Configure what is given, in this order, then let the session connect."""
        if is_given(instructions):
            await self._update_instructions(instructions)
        if is_given(items):
            await self._append_items(items)
        if is_given(tools):
            await self._update_tools(tools)
        self._configured.set()

    def _report_connection_acquired(self, acquire_time: float) -> None:
        """Emit, as a metric, how many seconds it took to get connected."""
        self.emit("metrics_collected", connection_metrics(self._duplex_model, acquire_time))
