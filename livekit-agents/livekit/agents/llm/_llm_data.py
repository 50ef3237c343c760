"""What language models answer with: chunks, tool calls, token counts, errors."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .chat_context import ChatRole


class CompletionUsage(BaseModel):
    """Tokens that a request took."""

    completion_tokens: int
    """Tokens of the answer."""
    prompt_tokens: int
    """Tokens of the request, cached ones included."""
    prompt_cached_tokens: int = 0
    cache_creation_tokens: int = 0
    cache_read_tokens: int = 0
    reasoning_tokens: int = 0
    """Already contained in `completion_tokens`."""
    total_tokens: int
    service_tier: str | None = None
    """Which priority the provider gave the request."""


class FunctionToolCall(BaseModel):
    """The model asks for a function to be called."""

    type: Literal["function"] = "function"
    name: str
    arguments: str
    """JSON text."""
    call_id: str
    extra: dict[str, Any] | None = None
    """Data of the provider, to be passed back with the call."""


class ChoiceDelta(BaseModel):
    """What a chunk adds to the answer."""

    role: ChatRole | None = None
    content: str | None = None
    tool_calls: list[FunctionToolCall] = Field(default_factory=list)
    extra: dict[str, Any] | None = None
    """Data of the provider. `RESTARTED` in it means that the answer begins anew."""


class ChatChunk(BaseModel):
    """A piece of a streamed answer."""

    id: str
    """The provider's id of the request."""
    delta: ChoiceDelta | None = None
    usage: CompletionUsage | None = None

    def has_response(self) -> bool:
        """Whether it carries text or tool calls, rather than only usage or keep-alives."""
        return self.delta is not None and bool(self.delta.content or self.delta.tool_calls)


class CollectedResponse(BaseModel):
    """A whole answer."""

    text: str = ""
    tool_calls: list[FunctionToolCall] = Field(default_factory=list)
    usage: CompletionUsage | None = None
    extra: dict[str, Any] = Field(default_factory=dict)


class LLMError(BaseModel):
    """A request failed; argument of the `"error"` event."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    type: Literal["llm_error"] = "llm_error"
    timestamp: float
    label: str
    """Which model."""
    error: Exception = Field(..., exclude=True)
    recoverable: bool
    """Whether it will be tried again."""


RESTARTED = "lk.restarted"
"""Key in `ChoiceDelta.extra`: what was streamed so far is void, another model starts over."""
