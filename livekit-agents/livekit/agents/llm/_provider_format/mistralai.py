"""Mistral's Conversations API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..chat_context import ChatMessage, FunctionCall
from .utils import ModelItem, group_items, image_url, split_instructions, text_or_parts

if TYPE_CHECKING:
    from ..chat_context import ChatContext


@dataclass
class MistralFormatData:
    """What the API takes beside the entries.

    Attributes:
        instructions: The system prompt, None if there is none.
    """

    instructions: str | None


def to_chat_ctx(
    chat_ctx: ChatContext, *, inject_dummy_user_message: bool = True
) -> tuple[list[dict[str, Any]], MistralFormatData]:
    """Entries of the API: inputs, outputs, function calls and their results.

    Args:
        chat_ctx: The conversation.
        inject_dummy_user_message: End with a placeholder of the user if the assistant had the
            last word, or nobody.
    """
    instructions, items = split_instructions(chat_ctx.items)
    entries = [_entry(item) for group in group_items(items) for item in group.flatten()]
    if inject_dummy_user_message and (not entries or entries[-1].get("role") == "assistant"):
        entries.append({"type": "message.input", "role": "user", "content": "(empty)"})
    return entries, MistralFormatData(instructions=instructions)


def _entry(item: ModelItem) -> dict[str, Any]:
    if isinstance(item, ChatMessage):
        from_user = item.role == "user"
        return {
            "type": "message.input" if from_user else "message.output",
            "role": item.role,
            "content": _content(item),
        }
    if isinstance(item, FunctionCall):
        return {
            "type": "function.call",
            "tool_call_id": item.call_id,
            "name": item.name,
            "arguments": item.arguments,
        }
    return {"type": "function.result", "tool_call_id": item.call_id, "result": item.output}


def _content(message: ChatMessage) -> str | list[dict[str, Any]]:
    return text_or_parts(
        message,
        text=lambda text: {"type": "text", "text": text},
        image=lambda image: {"type": "image_url", "image_url": image_url(image)},
    )
