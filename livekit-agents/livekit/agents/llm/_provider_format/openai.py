"""OpenAI's two APIs: Chat Completions and Responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..chat_context import (
    CacheBreakpoint,
    ChatContent,
    ChatMessage,
    FunctionCall,
    FunctionCallOutput,
    ImageContent,
)
from ..utils import SerializedImage, serialize_image
from .utils import (
    ChatGroup,
    ModelItem,
    Part,
    group_items,
    image_url,
    merge_dynamic_instructions,
    model_items,
    text_or_parts,
)

if TYPE_CHECKING:
    from ..chat_context import ChatContext

# Keys of `extra` that a provider behind this API wants to see again.
_REPLAYED_EXTRA = ("google", "livekit", "xai")


def to_chat_ctx(
    chat_ctx: ChatContext,
    *,
    inject_dummy_user_message: bool = True,
    prompt_cache_breakpoints: bool = False,
) -> tuple[list[dict[str, Any]], Literal[None]]:
    """Messages of the Chat Completions API.

    Args:
        chat_ctx: The conversation.
        inject_dummy_user_message: Without effect: this API needs no user message.
        prompt_cache_breakpoints: Pass `CacheBreakpoint` markers on, instead of skipping them.
    """
    return [
        entry
        for group in _groups(chat_ctx, prompt_cache_breakpoints)
        for entry in _completions_entries(group, prompt_cache_breakpoints)
    ], None


def to_responses_chat_ctx(
    chat_ctx: ChatContext,
    *,
    inject_dummy_user_message: bool = True,
    prompt_cache_breakpoints: bool = False,
) -> tuple[list[dict[str, Any]], Literal[None]]:
    """Input items of the Responses API. Arguments as for `to_chat_ctx`."""
    return [
        _responses_entry(item, prompt_cache_breakpoints)
        for group in _groups(chat_ctx, prompt_cache_breakpoints)
        for item in group.flatten()
    ], None


def _groups(chat_ctx: ChatContext, prompt_cache_breakpoints: bool) -> list[ChatGroup]:
    items = model_items(chat_ctx.items)
    # Merged, static and dynamic instructions could not be cached apart.
    return group_items(items if prompt_cache_breakpoints else merge_dynamic_instructions(items))


def _completions_entries(group: ChatGroup, breakpoints: bool) -> list[dict[str, Any]]:
    entry: dict[str, Any] = {"role": "assistant"}
    if group.message:
        entry["role"] = group.message.role
        entry["content"] = _COMPLETIONS.content(group.message, breakpoints)
        entry |= _extra_content(group.message)
    if group.calls:
        entry["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
                **_extra_content(call),
            }
            for call in group.calls
        ]
    outputs = [
        {"role": "tool", "tool_call_id": output.call_id, "content": output.output}
        for output in group.outputs
    ]
    return [entry, *outputs]


def _extra_content(item: ChatMessage | FunctionCall) -> dict[str, Any]:
    replayed = {key: item.extra[key] for key in _REPLAYED_EXTRA if item.extra.get(key)}
    return {"extra_content": replayed} if replayed else {}


def _responses_entry(item: ModelItem, breakpoints: bool) -> dict[str, Any]:
    if isinstance(item, FunctionCall):
        return {
            "call_id": item.call_id,
            "type": "function_call",
            "name": item.name,
            "arguments": item.arguments,
        }
    if isinstance(item, FunctionCallOutput):
        return {"type": "function_call_output", "call_id": item.call_id, "output": item.output}
    if item.role != "assistant":
        return {"role": item.role, "content": _RESPONSES.content(item, breakpoints)}
    entry = {"role": item.role, "content": _RESPONSES.content(item, breakpoints=False)}
    extra = item.extra.get("openai")
    if isinstance(extra, dict) and extra.get("phase"):
        entry["phase"] = extra["phase"]
    return entry


@dataclass(frozen=True)
class _PartTypes:
    """How one of the APIs writes the parts of a message."""

    text: Callable[[str], Part]
    image: Callable[[SerializedImage], Part]

    def content(self, message: ChatMessage, breakpoints: bool) -> str | list[Part]:
        """The content of a message; with its cache markers, if asked for and there are any."""
        marked = self._marked_parts(message.content) if breakpoints else None
        return marked or text_or_parts(message, text=self.text, image=self.image)

    def _marked_parts(self, content: Sequence[ChatContent]) -> list[Part] | None:
        """Parts in order, the ones before a marker tagged; None if there is nothing to tag.

        The texts, put together, are the same as without markers: a change of even one character
        would miss the cache of a request that was sent without them.
        """
        parts: list[Part] = []
        joint, extendable, tagged = "", False, False
        for each in content:
            if isinstance(each, str):
                text, joint = joint + each, "\n"
                if extendable:
                    parts[-1]["text"] += text
                elif text:
                    parts.append(self.text(text))
                    extendable = True
            elif isinstance(each, ImageContent):
                parts.append(self.image(serialize_image(each)))
                extendable = False
            elif isinstance(each, CacheBreakpoint) and parts:
                parts[-1]["prompt_cache_breakpoint"] = {"mode": "explicit"}
                extendable, tagged = False, True
        return parts if tagged else None


_COMPLETIONS = _PartTypes(
    text=lambda text: {"type": "text", "text": text},
    image=lambda image: {
        "type": "image_url",
        "image_url": {"url": image_url(image), "detail": image.inference_detail},
    },
)
_RESPONSES = _PartTypes(
    text=lambda text: {"type": "input_text", "text": text},
    image=lambda image: {
        "type": "input_image",
        "image_url": image_url(image),
        "detail": image.inference_detail,
    },
)
