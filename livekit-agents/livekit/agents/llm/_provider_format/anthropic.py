"""Anthropic's Messages API."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..utils import SerializedImage
from .utils import Part, PartTypes, Turns, arguments_object, image_base64, split_instructions

if TYPE_CHECKING:
    from ..chat_context import ChatContext

# Content blocks a tool result may have, and the key that each must have.
_RESULT_BLOCKS = {
    "text": "text",
    "image": "source",
    "document": "source",
    "search_result": "source",
    "tool_reference": "tool_name",
}


@dataclass
class AnthropicFormatData:
    """What the API takes beside the messages.

    Attributes:
        system_messages: Texts of the system prompt.
    """

    system_messages: list[str]


def to_chat_ctx(
    chat_ctx: ChatContext,
    *,
    inject_dummy_user_message: bool = True,
    inject_trailing_user_message: bool = False,
) -> tuple[list[dict[str, Any]], AnthropicFormatData]:
    """Messages of the API, which alternate between user and assistant.

    Args:
        chat_ctx: The conversation.
        inject_dummy_user_message: Begin with a placeholder of the user if nothing of theirs comes
            first: the API rejects the request otherwise.
        inject_trailing_user_message: End with a placeholder of the user if the assistant had the
            last word; models without prefill reject the request otherwise.
    """
    system, items = split_instructions(chat_ctx.items)
    turns = Turns(items, _PARTS)
    if inject_dummy_user_message:
        turns.start_with("user", _PARTS.text("(empty)"))
    if inject_trailing_user_message and turns.last_role == "assistant":
        turns.add("user", _PARTS.text("."))
    return turns.to_list(), AnthropicFormatData(system_messages=[system] if system else [])


def _image_source(image: SerializedImage) -> dict[str, Any]:
    if image.external_url:
        return {"type": "url", "url": image.external_url}
    return {"type": "base64", "data": image_base64(image), "media_type": image.mime_type}


def _result_content(output: str) -> str | list[Part]:
    """The output; as blocks if it is the JSON text of a list of them."""
    if not output.startswith("["):
        return output
    try:
        blocks = json.loads(output)
    except ValueError:
        return output
    return blocks if blocks and all(map(_is_block, blocks)) else output


def _is_block(value: Any) -> bool:
    # Any other list is data that the tool returned: the API would reject it as content.
    return isinstance(value, dict) and _RESULT_BLOCKS.get(str(value.get("type"))) in value


_PARTS = PartTypes(
    text=lambda text: {"text": text, "type": "text"},
    image=lambda image: {"type": "image", "source": _image_source(image)},
    call=lambda call: {
        "id": call.call_id,
        "type": "tool_use",
        "name": call.name,
        "input": arguments_object(call),
    },
    output=lambda output: {
        "tool_use_id": output.call_id,
        "type": "tool_result",
        "content": _result_content(output.output),
        "is_error": output.is_error,
    },
)
