"""From the chunks of a streamed completion to those of `llm.LLMStream`. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..llm._llm_data import ChatChunk, ChoiceDelta, CompletionUsage, FunctionToolCall
from ..llm._thinking import ThinkingTokenFilter, strip_thinking_tokens
from ._protocol.chat import CompletionChunk, Delta, ToolCallDelta, Usage

_THOUGHT_TAGS = {"google/gemma-4-31b-it": ("<|channel>thought", "<channel|>")}
"""Models whose thoughts have tags of their own."""


@dataclass
class _PendingCall:
    index: int
    id: str
    name: str
    arguments: str
    extra: dict[str, Any] | None

    def complete(self) -> FunctionToolCall:
        return FunctionToolCall(
            name=self.name, arguments=self.arguments, call_id=self.id, extra=self.extra
        )


class CompletionReader:
    """Puts tool calls together and takes thoughts out of the text, for one attempt."""

    def __init__(self, model: str) -> None:
        tags = _THOUGHT_TAGS.get(model)
        self._thoughts = ThinkingTokenFilter(*tags) if tags else ThinkingTokenFilter()
        self._pending: _PendingCall | None = None

    @property
    def call_pending(self) -> bool:
        """Whether a tool call has begun that is not complete."""
        return self._pending is not None

    def feed(self, chunk: CompletionChunk) -> list[ChatChunk]:
        """Take a chunk; returns what it adds to the answer."""
        chunks = []
        for delta in chunk.deltas:
            read = self._read(delta)
            if read is not None:
                chunks.append(ChatChunk(id=chunk.id, delta=read))
        if chunk.usage is not None:
            chunks.append(ChatChunk(id=chunk.id, usage=_usage(chunk.usage)))
        return chunks

    def _read(self, delta: Delta) -> ChoiceDelta | None:
        content = strip_thinking_tokens(
            delta.content, self._thoughts, final=delta.finish_reason is not None
        )
        calls = [call for entry in delta.tool_calls if (call := self._add(entry)) is not None]
        if delta.finish_reason in ("tool_calls", "stop") and self._pending is not None:
            calls.append(self._complete())
        extra = dict(delta.extra) if delta.extra else None
        if not calls and not content and extra is None:
            return None
        return ChoiceDelta(role="assistant", content=content, tool_calls=calls, extra=extra)

    def _add(self, entry: ToolCallDelta) -> FunctionToolCall | None:
        """Take a piece of a call; returns the call before it, if this begins another one."""
        pending = self._pending
        finished = None
        if pending is not None and entry.id and entry.index != pending.index:
            finished = self._complete()
        if entry.name:
            if self._pending is not None and finished is None:
                finished = self._complete()
            self._pending = _PendingCall(
                index=entry.index,
                id=entry.id or "",
                name=entry.name,
                arguments=entry.arguments,
                extra=dict(entry.extra) if entry.extra else None,
            )
        elif self._pending is not None:
            self._pending.arguments += entry.arguments
        return finished

    def _complete(self) -> FunctionToolCall:
        assert self._pending is not None
        call, self._pending = self._pending.complete(), None
        return call


def _usage(usage: Usage) -> CompletionUsage:
    return CompletionUsage(
        completion_tokens=usage.completion_tokens,
        prompt_tokens=usage.prompt_tokens,
        prompt_cached_tokens=usage.cached_tokens,
        cache_creation_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        total_tokens=usage.total_tokens,
        service_tier=usage.service_tier,
    )
