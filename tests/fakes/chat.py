"""Chat items for tests: short builders, and hypothesis strategies for whole conversations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from livekit import rtc

from livekit.agents.llm.chat_context import (
    AgentConfigUpdate,
    AgentHandoff,
    AudioContent,
    CacheBreakpoint,
    ChatContext,
    ChatItem,
    ChatMessage,
    ChatRole,
    FunctionCall,
    FunctionCallOutput,
    ImageContent,
)

PIXEL = "data:image/png;base64,iVBORw0KGgo="
"""A data URL that says PNG; no one decodes the picture."""


def message(role: ChatRole, *content: Any, **fields: Any) -> ChatMessage:
    """A message with these parts."""
    return ChatMessage(role=role, content=list(content), **fields)


def call(call_id: str, *, name: str = "look_up", arguments: str = "{}", **f: Any) -> FunctionCall:
    """A tool call."""
    return FunctionCall(call_id=call_id, name=name, arguments=arguments, **f)


def output(
    call_id: str, text: str = "found", *, name: str = "look_up", is_error: bool = False, **f: Any
) -> FunctionCallOutput:
    """The output of a tool call."""
    return FunctionCallOutput(call_id=call_id, name=name, output=text, is_error=is_error, **f)


def context(*items: ChatItem) -> ChatContext:
    """A context with these items, in this order."""
    return ChatContext(list(items))


def ids(chat_ctx: ChatContext) -> list[str]:
    """The ids of the items, in order."""
    return [item.id for item in chat_ctx.items]


times = st.integers(0, 20).map(float)
"""Few distinct values, so that ties are common."""

_texts = st.text(max_size=12)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | _texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_texts, inner, max_size=2),
    max_leaves=4,
)
_extra = st.dictionaries(_texts, _json, max_size=2)


def _frame(data: bytes) -> rtc.AudioFrame:
    return rtc.AudioFrame(data, 16000, 1, len(data) // 2)


def _picture(width: int) -> rtc.VideoFrame:
    return rtc.VideoFrame(width, 1, rtc.VideoBufferType.RGBA, bytes(4 * width))


images = st.builds(
    ImageContent,
    image=st.just(PIXEL)
    | st.just("https://example.com/cat.jpg")
    | st.builds(_picture, st.integers(1, 3)),
    inference_detail=st.sampled_from(["auto", "high", "low"]),
    inference_width=st.none() | st.integers(1, 100),
)
audio = st.builds(
    AudioContent,
    frame=st.lists(st.binary(min_size=2, max_size=2).map(_frame), max_size=2),
    transcript=st.none() | _texts,
)
contents = st.lists(_texts | images | audio | st.builds(CacheBreakpoint), max_size=4)

messages = st.builds(
    ChatMessage,
    role=st.sampled_from(["developer", "system", "user", "assistant"]),
    content=contents,
    interrupted=st.booleans(),
    transcript_confidence=st.none() | st.floats(0, 1),
    extra=_extra,
    metrics=st.fixed_dictionaries(
        {},
        optional={
            "e2e_latency": st.floats(0, 10),
            "provider_request_ids": st.lists(_texts, max_size=2),
            "llm_metadata": st.fixed_dictionaries({}, optional={"model_name": _texts}),
        },
    ),
    created_at=times,
)
call_ids = st.sampled_from(["c1", "c2", "c3"])
"""Few, so that calls and outputs match, miss each other, and come twice."""
calls = st.builds(
    FunctionCall,
    call_id=call_ids,
    name=st.sampled_from(["look_up", "book", "pay"]),
    arguments=st.sampled_from(["{}", '{"day": "monday"}', "", "{oops", "[1]"]),
    extra=_extra,
    group_id=st.sampled_from([None, None, "g1"]),
    created_at=times,
)
outputs = st.builds(
    FunctionCallOutput,
    call_id=call_ids,
    name=st.sampled_from(["look_up", "book", "pay", ""]),
    output=_texts | st.sampled_from(["[]", "[1]", '[{"type": "text", "text": "x"}]']),
    is_error=st.booleans(),
    reply_required=st.booleans(),
    created_at=times,
)
handoffs = st.builds(
    AgentHandoff, old_agent_id=st.none() | _texts, new_agent_id=_texts, created_at=times
)
config_updates = st.builds(
    AgentConfigUpdate,
    instructions=st.none() | _texts,
    tools_added=st.none() | st.lists(_texts, max_size=2),
    created_at=times,
)
items = messages | calls | outputs | handoffs | config_updates
conversations = st.lists(items, max_size=12)
"""Items of all kinds in any order, with any timestamps."""


def timeless(chat_item: ChatItem) -> ChatItem:
    """The item as if created at 0."""
    return chat_item.model_copy(update={"created_at": 0.0})


Predicate = Callable[[ChatItem], bool]
