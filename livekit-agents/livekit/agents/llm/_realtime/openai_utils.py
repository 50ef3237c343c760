"""Between our items and options and those of OpenAI's realtime protocol. No I/O.

Events are plain dicts here: the `openai` library is not needed. Options may be given as its
pydantic objects or as dicts of the same shape.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from livekit import rtc

from ...log import logger
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given
from ..chat_context import (
    AudioContent,
    ChatItem,
    ChatMessage,
    FunctionCall,
    FunctionCallOutput,
    ImageContent,
)
from ..tool_context import ToolChoice
from ..utils import serialize_image

Event = dict[str, Any]

DEFAULT_TURN_DETECTION: Event = {
    "type": "semantic_vad",
    "create_response": True,
    "interrupt_response": True,
    "eagerness": "medium",
}
DEFAULT_INPUT_AUDIO_TRANSCRIPTION: Event = {"model": "gpt-4o-mini-transcribe"}
AS_PROVIDED: Event = {}
"""A transcription that takes place without being asked for, the way the provider does it."""
DEFAULT_TOOL_CHOICE: ToolChoice = "auto"
DEFAULT_MAX_RESPONSE_OUTPUT_TOKENS = "inf"
DEFAULT_MAX_SESSION_DURATION = 20 * 60.0
"""Seconds."""
AZURE_DEFAULT_TURN_DETECTION: Event = dict(DEFAULT_TURN_DETECTION)
AZURE_DEFAULT_INPUT_AUDIO_TRANSCRIPTION: Event = dict(DEFAULT_INPUT_AUDIO_TRANSCRIPTION)

_MAX_CALL_ID = 32


def _plain(value: Any) -> Event:
    """The dict of an option that was given as a dict or as a pydantic object."""
    if isinstance(value, Mapping):
        return dict(value)
    return dict(value.model_dump(by_alias=True, exclude_unset=True))


def to_turn_detection(turn_detection: NotGivenOr[Any]) -> Event | None:
    """The turn detection to ask for; the default when not given, None for none."""
    if not is_given(turn_detection):
        return dict(DEFAULT_TURN_DETECTION)
    return None if turn_detection is None else _plain(turn_detection)


def to_audio_transcription(transcription: NotGivenOr[Any]) -> Event | None:
    """The transcription to ask for; the default when not given, None for none."""
    if not is_given(transcription):
        return dict(DEFAULT_INPUT_AUDIO_TRANSCRIPTION)
    return None if transcription is None else _plain(transcription)


def to_noise_reduction(noise_reduction: NotGivenOr[Any]) -> Event | None:
    """The noise reduction to ask for; its name will do. None for none."""
    if not is_given(noise_reduction) or noise_reduction is None:
        return None
    if isinstance(noise_reduction, str):
        return {"type": noise_reduction}
    return _plain(noise_reduction)


def to_oai_tool_choice(tool_choice: ToolChoice | None) -> str | Event:
    """The tool choice in the flat form of this protocol; None is the default."""
    if tool_choice is None:
        return DEFAULT_TOOL_CHOICE if isinstance(DEFAULT_TOOL_CHOICE, str) else "auto"
    if isinstance(tool_choice, str):
        return tool_choice
    return {"type": "function", "name": tool_choice["function"]["name"]}


def calculate_confidence_from_logprobs(logprobs: Sequence[Any] | None) -> float | None:
    """Geometric mean of the tokens' probabilities, 0 to 1; None without tokens."""
    values = [
        float(entry["logprob"] if isinstance(entry, Mapping) else entry.logprob)
        for entry in logprobs or ()
    ]
    if not values:
        return None
    return math.exp(min(0.0, sum(values) / len(values)))


def _shorten_call_id(call_id: str) -> str:
    if len(call_id) <= _MAX_CALL_ID:
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:_MAX_CALL_ID]


def livekit_item_to_openai_item(item: ChatItem, *, legacy: bool = False) -> Event:
    """The server's form of a message, a call or an output.

    Args:
        item: The item.
        legacy: For the first version of the protocol, which Azure still has.

    Raises:
        ValueError: For another kind of item.
    """
    if isinstance(item, FunctionCall):
        return {
            "type": "function_call",
            "id": item.id,
            "call_id": _shorten_call_id(item.call_id),
            "name": item.name,
            "arguments": item.arguments,
        }
    if isinstance(item, FunctionCallOutput):
        return {
            "type": "function_call_output",
            "id": item.id,
            "call_id": _shorten_call_id(item.call_id),
            "output": item.output,
        }
    if isinstance(item, ChatMessage):
        role = "system" if item.role == "developer" else item.role
        parts = [part for content in item.content for part in _parts(role, content, legacy)]
        return {"type": "message", "id": item.id, "role": role, "content": parts}
    raise ValueError(f"an item of type {item.type!r} has no form in the realtime protocol")


def _parts(role: str, content: Any, legacy: bool) -> list[Event]:
    if isinstance(content, str):
        spoken = "text" if legacy else "output_text"
        return [{"type": spoken if role == "assistant" else "input_text", "text": content}]
    if role != "user":
        return []
    if isinstance(content, ImageContent):
        image = serialize_image(content)
        if image.external_url or image.data_bytes is None:
            logger.warning("a realtime model can't fetch images by URL; the image is left out")
            return []
        data = base64.b64encode(image.data_bytes).decode()
        return [{"type": "input_image", "image_url": f"data:{image.mime_type};base64,{data}"}]
    if isinstance(content, AudioContent):
        audio = rtc.combine_audio_frames(content.frame).data.tobytes()
        part: Event = {"type": "input_audio", "audio": base64.b64encode(audio).decode()}
        if content.transcript:
            part["transcript"] = content.transcript
        return [part]
    return []


def openai_item_to_livekit_item(item: Any) -> ChatItem:
    """Our form of an item of the server, given as a dict or a pydantic object.

    Raises:
        ValueError: For an unknown kind of item.
    """
    raw = _plain(item)
    kind = raw.get("type")
    if kind == "function_call":
        return FunctionCall(
            id=raw["id"],
            call_id=raw["call_id"],
            name=raw["name"],
            arguments=raw.get("arguments") or "{}",
        )
    if kind == "function_call_output":
        return FunctionCallOutput(
            id=raw["id"], call_id=raw["call_id"], output=raw.get("output") or "", is_error=False
        )
    if kind != "message":
        raise ValueError(f"the server sent an item of an unknown type: {kind!r}")
    content: list[Any] = []
    for part in raw.get("content") or ():
        if not isinstance(part, Mapping):
            continue
        if part.get("type") == "input_image" and part.get("image_url"):
            content.append(ImageContent(image=part["image_url"]))
        elif text := part.get("text") or part.get("transcript"):
            content.append(text)
    return ChatMessage(id=raw["id"], role=raw["role"], content=content)


__all__ = [
    "AS_PROVIDED",
    "AZURE_DEFAULT_INPUT_AUDIO_TRANSCRIPTION",
    "AZURE_DEFAULT_TURN_DETECTION",
    "DEFAULT_INPUT_AUDIO_TRANSCRIPTION",
    "DEFAULT_MAX_RESPONSE_OUTPUT_TOKENS",
    "DEFAULT_MAX_SESSION_DURATION",
    "DEFAULT_TOOL_CHOICE",
    "DEFAULT_TURN_DETECTION",
    "NOT_GIVEN",
    "calculate_confidence_from_logprobs",
    "livekit_item_to_openai_item",
    "openai_item_to_livekit_item",
    "to_audio_transcription",
    "to_noise_reduction",
    "to_oai_tool_choice",
    "to_turn_detection",
]
