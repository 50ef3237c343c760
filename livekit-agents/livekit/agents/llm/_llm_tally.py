"""What is remembered of an answer for metrics and traces."""

from __future__ import annotations

from ._llm_data import ChatChunk, CompletionUsage, FunctionToolCall


class RequestTally:
    """Sees every chunk of a request as it is sent."""

    __slots__ = (
        "attempt_ids",
        "attempt_responded",
        "first_response_at",
        "keeps_content",
        "request_id",
        "texts",
        "tool_calls",
        "usage",
    )

    def __init__(self) -> None:
        self.first_response_at: float | None = None
        """`loop.time()` of the first chunk that carried text or a tool call."""
        self.request_id: str | None = None
        """Id of the last chunk; None if nothing arrived."""
        self.usage: CompletionUsage | None = None
        self.keeps_content = False
        """Whether the fields below are filled in, for a trace that records them."""
        self.start_attempt()

    def start_attempt(self) -> None:
        """Another attempt begins: forget what the one before said."""
        self.attempt_ids: dict[str, None] = {}
        self.attempt_responded = False
        self.texts: list[str] = []
        self.tool_calls: list[FunctionToolCall] = []

    def add(self, chunk: ChatChunk, now: float) -> None:
        """Count a chunk, sent at `now`."""
        self.request_id = chunk.id
        self.attempt_ids[chunk.id] = None
        if chunk.usage is not None:
            self.usage = chunk.usage
        if chunk.has_response():
            self.attempt_responded = True
            if self.first_response_at is None:
                self.first_response_at = now
        if self.keeps_content and chunk.delta is not None:
            self.tool_calls.extend(chunk.delta.tool_calls)
            if chunk.delta.content:
                self.texts.append(chunk.delta.content)
