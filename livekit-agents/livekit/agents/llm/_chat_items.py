"""The items a conversation is made of, and the content a message can carry.

Import these names from `livekit.agents.llm` or `livekit.agents.llm.chat_context`.
"""

from __future__ import annotations

import json
import time
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from livekit import rtc
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from typing_extensions import TypedDict

from ..utils.misc import shortuuid

if TYPE_CHECKING:
    from .tool_context import Tool

ChatRole: TypeAlias = Literal["developer", "system", "user", "assistant"]
"""Who a message is from. Tool calls and their outputs are items of their own, not roles."""


def _item_id() -> str:
    return shortuuid("item_")


def _image_id() -> str:
    return shortuuid("img_")


class ImageContent(BaseModel):
    """An image in a message.

    Attributes:
        id: Unique id of the image.
        image: An external URL, a `data:` URL, or a video frame (encoded when it is first sent).
        inference_width: Width in pixels to scale a frame into; needs `inference_height` too.
        inference_height: Height in pixels to scale a frame into.
        inference_detail: How closely the model should look (a provider may ignore it).
        mime_type: Media type; needed when it can't be told from the URL.
    """

    id: str = Field(default_factory=_image_id)
    type: Literal["image_content"] = Field(default="image_content")
    image: str | rtc.VideoFrame
    inference_width: int | None = None
    inference_height: int | None = None
    inference_detail: Literal["auto", "high", "low"] = "auto"
    mime_type: str | None = None
    _cache: dict[Any, Any] = PrivateAttr(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Compare what the image is; whether it was already encoded makes no difference."""
        if self is other:
            return True
        if not isinstance(other, ImageContent):
            return NotImplemented
        mine, theirs = dict(self), dict(other)
        return _same_picture(mine.pop("image"), theirs.pop("image")) and mine == theirs

    def _identity(self) -> list[Any]:
        image = self.image if isinstance(self.image, str) else id(self.image)
        size = [self.inference_width, self.inference_height]
        return [self.type, self.id, image, *size, self.inference_detail, self.mime_type]


class AudioContent(BaseModel):
    """Audio in a message.

    Attributes:
        frame: Consecutive frames of int16 PCM.
        transcript: What is said in it, if known.
    """

    type: Literal["audio_content"] = Field(default="audio_content")
    frame: list[rtc.AudioFrame]
    transcript: str | None = None

    def _identity(self) -> list[Any]:
        return [self.type, self.transcript]


class CacheBreakpoint(BaseModel):
    """Marks the end of a prefix worth caching, for providers with explicit prompt caching."""

    # Without this a dict that lacks its "type" would pass for a cache marker.
    model_config = ConfigDict(extra="forbid", defer_build=True)

    type: Literal["cache_breakpoint"] = Field(default="cache_breakpoint")

    def _identity(self) -> list[Any]:
        return [self.type]


ChatContent: TypeAlias = ImageContent | AudioContent | CacheBreakpoint | str


def _same_picture(a: str | rtc.VideoFrame, b: str | rtc.VideoFrame) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    same_shape = (a.type, a.width, a.height) == (b.type, b.width, b.height)
    return a is b or (same_shape and a.data == b.data)


class MetricsMetadata(TypedDict, total=False):
    """Which model did the work."""

    model_name: str
    model_provider: str


class MetricsReport(TypedDict, total=False):
    """Timings of one turn, in seconds; the two `*_speaking_at` are Unix timestamps.

    A user message carries the first five, an assistant message the rest.
    """

    started_speaking_at: float
    stopped_speaking_at: float

    transcription_delay: float
    """From the end of speech to the final transcript."""
    end_of_turn_delay: float
    """From the end of speech to the decision that the user's turn is over."""
    on_user_turn_completed_delay: float
    """Time spent in `Agent.on_user_turn_completed`."""

    llm_node_ttft: float
    """To the first token of the LLM node."""
    llm_node_tps: float
    """Tokens per second of the LLM node."""
    llm_node_ttfs: float
    """To the first sentence of the LLM node."""
    tts_node_ttfb: float
    """To the first audio of the TTS node, from the first text it got."""
    playback_latency: float
    """From the first audio handed to the output to its start of playback."""
    e2e_latency: float
    """From the end of the user's speech to the start of the agent's."""

    provider_request_ids: list[str]
    llm_metadata: MetricsMetadata
    tts_metadata: MetricsMetadata
    stt_metadata: MetricsMetadata


class _ChatItemBase(BaseModel):
    """What all items of a `ChatContext` share."""

    # built when first used: importing this module stays cheap
    model_config = ConfigDict(defer_build=True)

    def _essential_fields(self) -> tuple[Any, ...]:
        """What makes two items with the same id say the same; timestamps and metrics don't."""
        return ()

    def _fingerprint(self) -> bytes:
        """An 8-byte digest of the essential fields. Never reads media bytes."""
        payload = [type(self).__name__, *self._essential_fields()]
        text = json.dumps(payload, default=lambda content: content._identity())
        return blake2b(text.encode(), digest_size=8).digest()


class ChatMessage(_ChatItemBase):
    """Something said or written by one side.

    Attributes:
        id: Unique id. Calls whose id is `<this id>/…` belong to the same reply.
        role: Who said it.
        content: Its parts, in order.
        interrupted: True if the agent was cut off; `content` is then what was heard.
        transcript_confidence: Confidence of the transcript, 0 to 1.
        extra: Data of providers or of the application, passed along.
        metrics: Timings of the turn.
        created_at: Unix timestamp, in seconds.
    """

    id: str = Field(default_factory=_item_id)
    type: Literal["message"] = "message"
    role: ChatRole
    content: list[ChatContent]
    interrupted: bool = False
    transcript_confidence: float | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    metrics: MetricsReport = Field(default_factory=lambda: MetricsReport())
    created_at: float = Field(default_factory=lambda: time.time())
    hash: bytes | None = Field(default=None, deprecated="hash is deprecated")

    @property
    def raw_text_content(self) -> str | None:
        """The text parts joined by newlines, as they are; None if there is none."""
        parts = [part for part in self.content if isinstance(part, str)]
        return "\n".join(parts) if parts else None

    @property
    def text_content(self) -> str | None:
        """Like `raw_text_content`, without the expressive markup of an assistant's message."""
        text = self.raw_text_content
        return text if text is None or self.role != "assistant" else strip_markup(text)

    def _essential_fields(self) -> tuple[Any, ...]:
        return (self.role, self.interrupted, self.content)


class FunctionCall(_ChatItemBase):
    """A call of a tool, as the model asked for it.

    Attributes:
        id: Unique id. The part before the first `/` names the reply it belongs to.
        call_id: The provider's id of the call; its output has the same.
        arguments: The arguments as JSON text.
        name: Name of the tool.
        created_at: Unix timestamp, in seconds.
        extra: Data of the provider, passed along.
        group_id: Overrides which reply the call belongs to.
    """

    id: str = Field(default_factory=_item_id)
    type: Literal["function_call"] = "function_call"
    call_id: str
    arguments: str
    name: str
    created_at: float = Field(default_factory=lambda: time.time())
    extra: dict[str, Any] = Field(default_factory=dict)
    group_id: str | None = None

    def _essential_fields(self) -> tuple[Any, ...]:
        return (self.name, self.call_id, self.arguments)


class FunctionCallOutput(_ChatItemBase):
    """The outcome of a `FunctionCall`.

    Attributes:
        id: Unique id.
        name: Name of the tool.
        call_id: `call_id` of the call it answers.
        output: What the model gets to read.
        is_error: Whether the call failed.
        created_at: Unix timestamp, in seconds.
        reply_required: Whether the model should say something about it.
    """

    id: str = Field(default_factory=_item_id)
    type: Literal["function_call_output"] = Field(default="function_call_output")
    name: str = Field(default="")
    call_id: str
    output: str
    is_error: bool
    created_at: float = Field(default_factory=lambda: time.time())
    reply_required: bool = Field(default=True)

    def _essential_fields(self) -> tuple[Any, ...]:
        return (self.name, self.call_id, self.output, self.is_error)


class AgentHandoff(_ChatItemBase):
    """Another agent took over. Never sent to a model.

    Attributes:
        id: Unique id.
        old_agent_id: Id of the agent that left, None at the start of the session.
        new_agent_id: Id of the agent that took over.
        created_at: Unix timestamp, in seconds.
    """

    id: str = Field(default_factory=_item_id)
    type: Literal["agent_handoff"] = Field(default="agent_handoff")
    old_agent_id: str | None = None
    new_agent_id: str
    created_at: float = Field(default_factory=lambda: time.time())


class AgentConfigUpdate(_ChatItemBase):
    """The instructions or the tools of an agent changed. Never sent to a model.

    Attributes:
        id: Unique id.
        instructions: The new instructions, None if they stayed.
        tools_added: Names of tools that were added.
        tools_removed: Names of tools that were removed.
        created_at: Unix timestamp, in seconds.
    """

    id: str = Field(default_factory=_item_id)
    type: Literal["agent_config_update"] = Field(default="agent_config_update")
    instructions: str | None = None
    tools_added: list[str] | None = None
    tools_removed: list[str] | None = None
    created_at: float = Field(default_factory=lambda: time.time())
    # The tools in full, for whoever records the session; they don't survive a dump.
    _tools: list[Tool] = PrivateAttr(default_factory=list)


ChatItem = Annotated[
    ChatMessage | FunctionCall | FunctionCallOutput | AgentHandoff | AgentConfigUpdate,
    Field(discriminator="type"),
]
"""Any item of a `ChatContext`, told apart by `type`."""


def strip_markup(text: str) -> str:
    """Remove the expressive `<expr …>` markup the TTS understands; spoken words stay."""
    if "<" not in text:
        return text
    from ..tts._provider_format import strip_expr_markup

    return strip_expr_markup(text)
