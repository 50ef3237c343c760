"""Conversations and tools in the JSON form of OpenTelemetry's conventions for generative AI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from .trace_types import GenAIFinishReason

if TYPE_CHECKING:
    from ..llm import (
        AudioContent,
        ChatContext,
        ChatItem,
        ChatMessage,
        FunctionCall,
        FunctionToolCall,
        ImageContent,
        Tool,
        ToolContext,
    )

    AnyFunctionCall: TypeAlias = FunctionCall | FunctionToolCall
else:
    AnyFunctionCall = "FunctionCall | FunctionToolCall"

_Json = dict[str, Any]
_ENTRY_TYPES = frozenset({"message", "function_call", "function_call_output"})
_INSTRUCTION_ROLES = frozenset({"system", "developer"})


def to_system_instructions(chat_ctx: ChatContext) -> list[_Json]:
    """Return what the model was instructed, as parts of a message."""
    return [
        part
        for item in chat_ctx.items
        if item.type == "message" and is_instruction(item)
        for part in _parts(item)
    ]


def to_input_messages(chat_ctx: ChatContext) -> list[_Json]:
    """Return the conversation that a model was given, without its instructions."""
    messages = (_message(item) for item in chat_ctx.items)
    return [message for message in messages if message is not None]


def is_instruction(item: ChatItem) -> bool:
    """Whether an item is a part of what `to_system_instructions` returns."""
    return item.type == "message" and item.role in _INSTRUCTION_ROLES


def is_entry(item: ChatItem) -> bool:
    """Whether an item has a message in what `to_input_messages` returns."""
    return item.type in _ENTRY_TYPES and not is_instruction(item)


def to_output_messages(
    *,
    text: str | None = None,
    function_calls: Sequence[AnyFunctionCall] = (),
    finish_reason: str | None = None,
) -> list[_Json]:
    """Return the response of a model as one message; none if it was empty.

    Args:
        text: that it wrote or said.
        function_calls: that it made.
        finish_reason: of `GenAIFinishReason`; judged by the calls when None.
    """
    parts = [_text_part(text)] if text else []
    parts += [_call_part(call) for call in function_calls]
    if not parts:
        return []
    if finish_reason is None:
        finish_reason = GenAIFinishReason.TOOL_CALL if function_calls else GenAIFinishReason.STOP
    return [{"role": "assistant", "parts": parts, "finish_reason": finish_reason}]


def to_tool_definitions(tools: ToolContext | Sequence[Tool]) -> list[_Json]:
    """Return the tools that a model could use: functions with their schema, others by name."""
    from ..llm import ToolContext

    context = tools if isinstance(tools, ToolContext) else ToolContext(tools)
    functions: list[_Json] = [
        {"type": "function", **schema["function"]}
        for schema in context.parse_function_tools("openai", strict=False)
    ]
    return functions + [{"type": tool.id, "name": tool.id} for tool in context.provider_tools]


def _message(item: ChatItem) -> _Json | None:
    if item.type == "message" and item.role not in _INSTRUCTION_ROLES:
        return {"role": item.role, "parts": _parts(item)}
    if item.type == "function_call":
        return {"role": "assistant", "parts": [_call_part(item)]}
    if item.type == "function_call_output":
        part = {"type": "tool_call_response", "id": item.call_id, "response": item.output}
        return {"role": "tool", "parts": [part]}
    return None


def _parts(message: ChatMessage) -> list[_Json]:
    parts = []
    for content in message.content:
        if isinstance(content, str):
            parts.append(_text_part(content))
        elif content.type == "image_content":
            parts.append(_image_part(content))
        elif content.type == "audio_content":
            parts.append(_audio_part(content))
    return parts


def _text_part(text: str) -> _Json:
    return {"type": "text", "content": str(text)}


def _image_part(content: ImageContent) -> _Json:
    # Media themselves would make a trace unreadably large.
    if isinstance(content.image, str) and not content.image.startswith("data:"):
        return {"type": "uri", "modality": "image", "uri": content.image}
    return {"type": "blob", "modality": "image", "content": ""}


def _audio_part(content: AudioContent) -> _Json:
    if content.transcript:
        return _text_part(content.transcript)
    return {"type": "blob", "modality": "audio", "content": ""}


def _call_part(call: AnyFunctionCall) -> _Json:
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        arguments = call.arguments  # as the model wrote it: that it isn't JSON is worth seeing
    return {"type": "tool_call", "id": call.call_id, "name": call.name, "arguments": arguments}
