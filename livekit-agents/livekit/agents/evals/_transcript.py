"""A conversation as a judge reads it."""

from __future__ import annotations

from collections.abc import Iterator

from ..llm import ChatContext
from ..llm.chat_context import (
    AgentConfigUpdate,
    AgentHandoff,
    ChatItem,
    ChatMessage,
    FunctionCall,
    FunctionCallOutput,
)


def render(chat_ctx: ChatContext) -> str:
    """One paragraph per item, each with a label that says what it is."""
    return "\n".join(line for item in chat_ctx.items for line in _lines(item))


def _lines(item: ChatItem) -> Iterator[str]:
    if isinstance(item, ChatMessage):
        text = (item.text_content or "").strip()
        if text:
            yield f"{item.role}: {text}{' [interrupted]' if item.interrupted else ''}"
    elif isinstance(item, FunctionCall):
        yield f"tool call: {item.name}({item.arguments})"
    elif isinstance(item, FunctionCallOutput):
        kind = "tool error" if item.is_error else "tool output"
        yield f"{kind}: {item.name}: {item.output}"
    elif isinstance(item, AgentHandoff):
        if item.old_agent_id is None:
            yield f"agent: {item.new_agent_id} begins"
        else:
            yield f"agent handoff: {item.old_agent_id} -> {item.new_agent_id}"
    elif isinstance(item, AgentConfigUpdate):
        yield from _config_lines(item)


def _config_lines(item: AgentConfigUpdate) -> Iterator[str]:
    if item.instructions is not None:
        yield f"agent instructions: {item.instructions}"
    if item.tools_added:
        yield f"tools added: {', '.join(item.tools_added)}"
    if item.tools_removed:
        yield f"tools removed: {', '.join(item.tools_removed)}"


def latest_instructions(chat_ctx: ChatContext) -> str | None:
    """What the agent was told to do, as it was worded last."""
    for item in reversed(chat_ctx.items):
        if isinstance(item, AgentConfigUpdate) and item.instructions is not None:
            return item.instructions
    for item in reversed(chat_ctx.items):
        if isinstance(item, ChatMessage) and item.role in ("system", "developer"):
            return item.text_content
    return None


def handed_over(chat_ctx: ChatContext) -> bool:
    """Whether one agent gave the conversation to another; the first to begin does not count."""
    return any(
        isinstance(item, AgentHandoff)
        and item.old_agent_id is not None
        and item.old_agent_id != item.new_agent_id
        for item in chat_ctx.items
    )


__all__ = ["handed_over", "latest_instructions", "render"]
