"""Types of the nodes that an agent may override."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from livekit import rtc

from ...types import FlushSentinel

if TYPE_CHECKING:
    from ...llm import ChatChunk, ChatContext, Tool
    from ...stt import SpeechEvent
    from ..agent import ModelSettings

T = TypeVar("T")

_Maybe: TypeAlias = T | Coroutine[Any, Any, T] | Coroutine[Any, Any, None]
STTNode = Callable[
    [AsyncIterable[rtc.AudioFrame], "ModelSettings"], "_Maybe[AsyncIterable[SpeechEvent | str]]"
]
LLMNode = Callable[
    ["ChatContext", "list[Tool]", "ModelSettings"],
    "_Maybe[AsyncIterable[ChatChunk | str | FlushSentinel]] | Coroutine[Any, Any, str]",
]
TTSNode = Callable[[AsyncIterable[str], "ModelSettings"], "_Maybe[AsyncIterable[rtc.AudioFrame]]"]
