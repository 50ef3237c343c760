"""Chunks of a streamed chat completion, as OpenAI's API and everything like it sends them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .wire import Fields, ProtocolError, ServerError, clean, decode, encode, kind_of

DONE = "[DONE]"
"""Data of the event that ends a completion."""


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of a call: the first has a name, those after it only more arguments."""

    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Delta:
    """What a chunk adds to the answer."""

    content: str | None = None
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: str | None = None
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens of the whole request."""

    completion_tokens: int = 0
    prompt_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    service_tier: str | None = None


@dataclass(frozen=True)
class CompletionChunk:
    """One event of the stream."""

    id: str = ""
    deltas: tuple[Delta, ...] = ()
    usage: Usage | None = None


def decode_chunk(data: str) -> CompletionChunk | ServerError | None:
    """Read the data of an event.

    Returns:
        None for the end of the completion, a `ServerError` when the event reports one.

    Raises:
        ProtocolError: It is malformed.
    """
    if data.strip() == DONE:
        return None
    return read_chunk(decode(data))


def read_chunk(fields: Fields) -> CompletionChunk | ServerError:
    """Read a chunk that is decoded already.

    Raises:
        ProtocolError: It is malformed.
    """
    if fields.values.get("error") is not None:
        return read_error(fields.values["error"])
    choices = fields.objects("choices") or []
    usage = fields.mapping("usage")
    return CompletionChunk(
        id=fields.text("id"),
        deltas=tuple(delta for choice in choices if (delta := _read_choice(choice)) is not None),
        usage=None
        if usage is None
        else _read_usage(Fields(usage, "usage"), fields.optional_text("service_tier")),
    )


def read_error(error: object) -> ServerError:
    """Read the error object of an API. A numeric ``code`` or ``status`` is taken as HTTP status."""
    if not isinstance(error, dict):
        return ServerError(message=clean(error) if isinstance(error, str) else "")
    status = next(
        (
            number
            for key in ("code", "status", "status_code")
            if (number := _status(error.get(key))) is not None
        ),
        -1,
    )
    message = error.get("message")
    return ServerError(status, clean(message) if isinstance(message, str) else "", error)


def _status(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return None


def _read_choice(choice: Fields) -> Delta | None:
    values = choice.mapping("delta")
    if values is None:
        return None
    delta = Fields(values, "delta")
    return Delta(
        content=_content(delta),
        tool_calls=tuple(
            call
            for entry in delta.objects("tool_calls") or []
            if (call := _read_tool_call(entry)) is not None
        ),
        finish_reason=choice.optional_text("finish_reason"),
        extra=delta.mapping("extra_content"),
    )


def _content(delta: Fields) -> str | None:
    value = delta.values.get("content")
    if value is None or isinstance(value, str):
        return value if value is None else clean(value)
    if not isinstance(value, list):
        delta.refuse("content", "a string", value)
    parts = []
    for part in value:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            parts.append(clean(text))
        elif text is not None:
            raise ProtocolError(f'"content" holds {kind_of(text)} where text was expected')
    return "".join(parts)


def _read_tool_call(entry: Fields) -> ToolCallDelta | None:
    function = entry.mapping("function")
    if function is None:
        return None
    call = Fields(function, "tool_calls.function")
    return ToolCallDelta(
        index=entry.integer("index"),
        id=entry.optional_text("id"),
        name=call.optional_text("name"),
        arguments=call.text("arguments"),
        extra=entry.mapping("extra_content"),
    )


def _read_usage(usage: Fields, service_tier: str | None) -> Usage:
    prompt = Fields(usage.mapping("prompt_tokens_details") or {}, "prompt_tokens_details")
    completion = Fields(
        usage.mapping("completion_tokens_details") or {}, "completion_tokens_details"
    )
    return Usage(
        completion_tokens=usage.integer("completion_tokens"),
        prompt_tokens=usage.integer("prompt_tokens"),
        total_tokens=usage.integer("total_tokens"),
        cached_tokens=prompt.integer("cached_tokens"),
        cache_write_tokens=prompt.integer("cache_write_tokens"),
        reasoning_tokens=completion.integer("reasoning_tokens"),
        service_tier=service_tier,
    )


def encode_chunk(chunk: CompletionChunk | ServerError | None) -> str:
    """Write the data of an event; None ends the completion."""
    if chunk is None:
        return DONE
    if isinstance(chunk, ServerError):
        return encode({"error": {**(chunk.body or {}), **_error_fields(chunk)}})
    fields: dict[str, Any] = {
        "id": chunk.id,
        "object": "chat.completion.chunk",
        "choices": [_write_choice(delta) for delta in chunk.deltas],
    }
    if chunk.usage is not None:
        usage = chunk.usage
        fields["usage"] = {
            "completion_tokens": usage.completion_tokens,
            "prompt_tokens": usage.prompt_tokens,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {
                "cached_tokens": usage.cached_tokens,
                "cache_write_tokens": usage.cache_write_tokens,
            },
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        }
        if usage.service_tier is not None:
            fields["service_tier"] = usage.service_tier
    return encode(fields)


def _error_fields(error: ServerError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message}


def _write_choice(delta: Delta) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": "assistant"}
    if delta.content is not None:
        fields["content"] = delta.content
    if delta.tool_calls:
        fields["tool_calls"] = [_write_tool_call(call) for call in delta.tool_calls]
    if delta.extra is not None:
        fields["extra_content"] = delta.extra
    return {"index": 0, "delta": fields, "finish_reason": delta.finish_reason}


def _write_tool_call(call: ToolCallDelta) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    fields: dict[str, Any] = {
        "index": call.index,
        "type": "function",
        "function": {key: value for key, value in function.items() if value is not None},
    }
    if call.id is not None:
        fields["id"] = call.id
    if call.extra is not None:
        fields["extra_content"] = call.extra
    return fields
