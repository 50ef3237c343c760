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
    """Return what the model was instructed at the outset, as parts of a message.

    What it was told on the way has its place in the conversation: see `to_input_messages`.
    """
    found = instructions_of(chat_ctx.items)
    return [] if found is None else _parts(found)


def to_input_messages(chat_ctx: ChatContext) -> list[_Json]:
    """Return the conversation that a model was given, without its first instructions."""
    return entry_messages(entries_of(chat_ctx.items))


def entry_messages(entries: Sequence[Sequence[ChatItem]]) -> list[_Json]:
    """Return a message for each of `entries`."""
    return [_message(entry) for entry in entries]


def instructions_of(items: Sequence[ChatItem]) -> ChatMessage | None:
    """The message that instructs the model: the agent's own, else one that comes first."""
    from ..voice.generation import INSTRUCTIONS_MESSAGE_ID

    for item in items:
        if item.type == "message" and item.id == INSTRUCTIONS_MESSAGE_ID:
            return item
    first = items[0] if items else None
    if first is not None and first.type == "message" and first.role in _INSTRUCTION_ROLES:
        return first
    return None


def entries_of(items: Sequence[ChatItem]) -> list[list[ChatItem]]:
    """The conversation, in pieces that have a message each: calls go with what they follow."""
    instructions = instructions_of(items)
    entries: list[list[ChatItem]] = []
    for item in items:
        if item is instructions or item.type not in _ENTRY_TYPES:
            continue
        if item.type == "message" and not _parts(item):
            continue
        if item.type == "function_call" and entries and _is_of_model(entries[-1][-1]):
            entries[-1].append(item)
        else:
            entries.append([item])
    return entries


def _is_of_model(item: ChatItem) -> bool:
    if item.type == "message":
        return item.role == "assistant"
    return item.type == "function_call"


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
    """Return the tools that a model could use: names and descriptions.

    Schemas are left out: they would be most of a trace.
    """
    from ..llm import ToolContext

    context = tools if isinstance(tools, ToolContext) else ToolContext(tools)
    functions: list[_Json] = []
    for schema in context.parse_function_tools("openai", strict=False):
        function = {"type": "function", "name": schema["function"]["name"]}
        if description := schema["function"].get("description"):
            function["description"] = description
        functions.append(function)
    return functions + [{"type": tool.id, "name": tool.id} for tool in context.provider_tools]


def _message(entry: Sequence[ChatItem]) -> _Json:
    first = entry[0]
    if first.type == "function_call_output":
        part: _Json = {"type": "tool_call_response", "id": first.call_id}
        if first.name:
            part["name"] = first.name
        return {"role": "tool", "parts": [{**part, "response": _decoded(first.output)}]}
    if first.type == "message" and first.role in _INSTRUCTION_ROLES:
        return {"role": "system", "parts": _parts(first)}
    parts = [
        part
        for item in entry
        for part in (_parts(item) if item.type == "message" else [_call_part(_as_call(item))])
    ]
    return {"role": first.role if first.type == "message" else "assistant", "parts": parts}


def _as_call(item: ChatItem) -> FunctionCall:
    assert item.type == "function_call"
    return item


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
    arguments = _decoded(call.arguments)
    return {"type": "tool_call", "id": call.call_id, "name": call.name, "arguments": arguments}


def _decoded(text: str) -> Any:
    """What JSON says; other text as it is: that a model wrote no JSON is worth seeing."""
    try:
        return json.loads(text)
    except ValueError:
        return text
