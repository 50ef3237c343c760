"""Chat items as JSON-ready dicts (both ways) and as `livekit.agent` protobuf messages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from ._chat_items import (
    AgentConfigUpdate,
    AgentHandoff,
    AudioContent,
    ChatContent,
    ChatItem,
    ChatMessage,
    FunctionCall,
    FunctionCallOutput,
    ImageContent,
    MetricsReport,
    strip_markup,
)

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp
    from livekit.protocol.agent_pb import agent_session


def dump_item(
    item: ChatItem,
    *,
    exclude_image: bool,
    exclude_audio: bool,
    exclude_timestamp: bool,
    exclude_metrics: bool,
    strip_markup: bool,
) -> dict[str, Any]:
    """One item as `ChatContext.to_dict` shows it. The item isn't changed."""
    left_out = {"hash"}  # deprecated, and never used
    if exclude_timestamp:
        left_out.add("created_at")
    if exclude_metrics:
        left_out.add("metrics")
    if isinstance(item, ChatMessage):
        dropped = (ImageContent,) * exclude_image + (AudioContent,) * exclude_audio
        content = [part for part in item.content if not isinstance(part, dropped)]
        if strip_markup and item.role == "assistant":
            content = [_stripped(part) for part in content]
        item = item.model_copy(update={"content": content})
    return item.model_dump(mode="json", exclude_none=True, exclude=left_out)


def _stripped(part: ChatContent) -> ChatContent:
    return strip_markup(part) if isinstance(part, str) else part


@cache
def _items_adapter() -> TypeAdapter[list[ChatItem]]:
    return TypeAdapter(list[ChatItem])


def load_items(items: Any) -> list[ChatItem]:
    """Validate what `dump_item` wrote.

    Raises:
        pydantic.ValidationError: If an item lacks a field or has a wrong type.
    """
    return _items_adapter().validate_python(items)


def to_proto(items: Iterable[ChatItem]) -> agent_session.ChatContext:
    """The items as a protobuf message."""
    from livekit.protocol.agent_pb import agent_session

    return agent_session.ChatContext(items=[_wrap(item) for item in items])


def _wrap(item: ChatItem) -> agent_session.ChatContext.ChatItem:
    from livekit.protocol.agent_pb import agent_session as pb

    if isinstance(item, ChatMessage):
        return pb.ChatContext.ChatItem(message=_message(item))
    common: dict[str, Any] = {"id": item.id, "created_at": _timestamp(item.created_at)}
    if isinstance(item, FunctionCall):
        call = pb.FunctionCall(
            call_id=item.call_id,
            arguments=item.arguments,
            name=item.name,
            extra=_text_values(item.extra),
            **common,
        )
        return pb.ChatContext.ChatItem(function_call=call)
    if isinstance(item, FunctionCallOutput):
        output = pb.FunctionCallOutput(
            name=item.name,
            call_id=item.call_id,
            output=item.output,
            is_error=item.is_error,
            **common,
        )
        return pb.ChatContext.ChatItem(function_call_output=output)
    if isinstance(item, AgentHandoff):
        handoff = pb.AgentHandoff(
            old_agent_id=item.old_agent_id, new_agent_id=item.new_agent_id, **common
        )
        return pb.ChatContext.ChatItem(agent_handoff=handoff)
    return pb.ChatContext.ChatItem(agent_config_update=_config_update(item, common))


def _message(item: ChatMessage) -> agent_session.ChatMessage:
    from livekit.protocol.agent_pb import agent_session as pb

    texts = [part for part in item.content if isinstance(part, str)]
    return pb.ChatMessage(
        id=item.id,
        role=item.role.upper(),
        content=[pb.ChatMessage.ChatContent(text=text) for text in texts],
        interrupted=item.interrupted,
        transcript_confidence=item.transcript_confidence,
        extra=_text_values(item.extra),
        metrics=_metrics(item.metrics),
        created_at=_timestamp(item.created_at),
    )


def _config_update(
    item: AgentConfigUpdate, common: dict[str, Any]
) -> agent_session.AgentConfigUpdate:
    from livekit.protocol.agent_pb import agent_session as pb

    return pb.AgentConfigUpdate(
        instructions=item.instructions,
        tools_added=item.tools_added,
        tools_removed=item.tools_removed,
        **common,
    )


def _metrics(report: MetricsReport) -> agent_session.MetricsReport:
    from livekit.protocol.agent_pb import agent_session as pb

    values: dict[str, Any] = {
        name: value
        for name, value in report.items()
        if name in pb.MetricsReport.DESCRIPTOR.fields_by_name
    }
    for name in ("started_speaking_at", "stopped_speaking_at"):
        if name in values:
            values[name] = _timestamp(values[name])
    return pb.MetricsReport(**values)


def _text_values(extra: dict[str, Any]) -> dict[str, str]:
    """The message maps text to text: other values travel as JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, default=str)
        for key, value in extra.items()
    }


def _timestamp(seconds: float) -> Timestamp:
    from google.protobuf.timestamp_pb2 import Timestamp

    timestamp = Timestamp()
    timestamp.FromNanoseconds(int(seconds * 1e9))
    return timestamp
