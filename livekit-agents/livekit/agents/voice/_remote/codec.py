"""Session events and chat items as protocol messages. No I/O."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from livekit.protocol.agent_pb import agent_session as pb

if TYPE_CHECKING:
    from ...metrics import AgentSessionUsage

_AGENT_STATES = {
    "initializing": pb.AgentState.AS_INITIALIZING,
    "idle": pb.AgentState.AS_IDLE,
    "listening": pb.AgentState.AS_LISTENING,
    "thinking": pb.AgentState.AS_THINKING,
    "speaking": pb.AgentState.AS_SPEAKING,
}
_USER_STATES = {
    "speaking": pb.UserState.US_SPEAKING,
    "listening": pb.UserState.US_LISTENING,
    "away": pb.UserState.US_AWAY,
}
_ROLES = {
    "developer": pb.ChatRole.DEVELOPER,
    "system": pb.ChatRole.SYSTEM,
    "user": pb.ChatRole.USER,
    "assistant": pb.ChatRole.ASSISTANT,
}
_CALL_ENDS = {
    "done": pb.ToolCallStatus.TC_DONE,
    "error": pb.ToolCallStatus.TC_ERROR,
    "cancelled": pb.ToolCallStatus.TC_CANCELLED,
}
_REPLY_STATES = {
    "scheduled": pb.ToolReplyStatus.TR_SCHEDULED,
    "completed": pb.ToolReplyStatus.TR_COMPLETED,
    "interrupted": pb.ToolReplyStatus.TR_INTERRUPTED,
    "skipped": pb.ToolReplyStatus.TR_SKIPPED,
}
_AMD_CATEGORIES = {
    "human": pb.AmdCategory.AMD_HUMAN,
    "machine-ivr": pb.AmdCategory.AMD_MACHINE_IVR,
    "machine-vm": pb.AmdCategory.AMD_MACHINE_VM,
    "machine-unavailable": pb.AmdCategory.AMD_MACHINE_UNAVAILABLE,
    "uncertain": pb.AmdCategory.AMD_UNCERTAIN,
}


def set_time(stamp: Any, seconds: float) -> None:
    """Set a protobuf `Timestamp` or `Duration` to seconds (since the epoch, or long)."""
    whole = math.floor(seconds)
    stamp.seconds, stamp.nanos = whole, int((seconds - whole) * 1e9)


def agent_state(state: str) -> Any:
    """The protocol's name of an agent state."""
    return _AGENT_STATES[state]


def user_state(state: str) -> Any:
    """The protocol's name of a user state."""
    return _USER_STATES[state]


# -- chat items -----------------------------------------------------------------------------------


def chat_item(item: Any) -> pb.ChatContext.ChatItem | None:
    """An item of a history; None for a kind that the protocol does not have."""
    message = pb.ChatContext.ChatItem()
    fill = _ITEMS.get(item.type)
    if fill is None:
        return None
    fill(getattr(message, "message" if item.type == "message" else item.type), item)
    return message


def chat_items(items: Iterable[Any]) -> list[pb.ChatContext.ChatItem]:
    """Those of some items that the protocol has."""
    converted = (chat_item(item) for item in items)
    return [item for item in converted if item is not None]


def _common(target: Any, item: Any) -> None:
    target.id = item.id
    set_time(target.created_at, item.created_at)


def _extra(target: Any, extra: dict[str, Any]) -> None:
    for key, value in extra.items():
        target.extra[key] = value if isinstance(value, str) else json.dumps(value, default=str)


def _message(target: Any, item: Any) -> None:
    _common(target, item)
    target.role = _ROLES[item.role]
    for part in item.content:
        if isinstance(part, str):
            target.content.add(text=part)
    target.interrupted = item.interrupted
    if item.transcript_confidence is not None:
        target.transcript_confidence = item.transcript_confidence
    _extra(target, item.extra)
    fields = target.metrics.DESCRIPTOR.fields_by_name
    for name, value in (item.metrics or {}).items():
        if name in fields and isinstance(value, (int, float)):
            if fields[name].message_type is not None:
                set_time(getattr(target.metrics, name), value)
            else:
                setattr(target.metrics, name, value)


def _call(target: Any, item: Any) -> None:
    _common(target, item)
    target.call_id, target.name, target.arguments = item.call_id, item.name, item.arguments
    _extra(target, item.extra)


def _output(target: Any, item: Any) -> None:
    _common(target, item)
    target.call_id, target.name, target.output = item.call_id, item.name, item.output
    target.is_error = item.is_error


def _handoff(target: Any, item: Any) -> None:
    _common(target, item)
    target.new_agent_id = item.new_agent_id
    if item.old_agent_id is not None:
        target.old_agent_id = item.old_agent_id


def _config(target: Any, item: Any) -> None:
    _common(target, item)
    if item.instructions is not None:
        target.instructions = str(item.instructions)
    target.tools_added.extend(item.tools_added or ())
    target.tools_removed.extend(item.tools_removed or ())


_ITEMS: dict[str, Callable[[Any, Any], None]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _output,
    "agent_handoff": _handoff,
    "agent_config_update": _config,
}


def usage(session_usage: AgentSessionUsage) -> pb.AgentSessionUsage:
    """What the models have used."""
    message = pb.AgentSessionUsage()
    for model in session_usage.model_usage:
        kind = model.type.removesuffix("_usage")
        target = getattr(message.model_usage.add(), kind)
        target.SetInParent()
        for name in target.DESCRIPTOR.fields_by_name:
            value = getattr(model, name, None)
            if value is not None:
                setattr(target, name, value)
    return message


# -- events ---------------------------------------------------------------------------------------


def event_message(event: Any) -> pb.AgentSessionEvent | None:
    """A session event; None for one that is not passed on."""
    fill = _EVENTS.get(event.type)
    if fill is None:
        return None
    message = pb.AgentSessionEvent()
    keeps_time = event.type in _WITH_OWN_TIME
    set_time(message.created_at, event.created_at if keeps_time else time.time())
    fill(message, event)
    return message


_WITH_OWN_TIME = frozenset(
    {"user_state_changed", "tool_execution_updated", "agent_false_interruption"}
)


def _on_agent_state(message: Any, event: Any) -> None:
    changed = message.agent_state_changed
    changed.old_state, changed.new_state = (
        agent_state(event.old_state),
        agent_state(event.new_state),
    )


def _on_user_state(message: Any, event: Any) -> None:
    changed = message.user_state_changed
    changed.old_state, changed.new_state = user_state(event.old_state), user_state(event.new_state)


def _on_item(message: Any, event: Any) -> None:
    message.conversation_item_added.SetInParent()
    item = chat_item(event.item)
    if item is not None:
        message.conversation_item_added.item.CopyFrom(item)


def _on_transcript(message: Any, event: Any) -> None:
    target = message.user_input_transcribed
    target.transcript, target.is_final = event.transcript, event.is_final
    if event.language:
        target.language = str(event.language)


def _on_tools(message: Any, event: Any) -> None:
    target = message.function_tools_executed
    target.SetInParent()
    for call in event.function_calls:
        target.function_calls.add(name=call.name, arguments=call.arguments, call_id=call.call_id)
    for output in event.function_call_outputs:
        if output is not None:
            target.function_call_outputs.add(
                call_id=output.call_id,
                name=output.name,
                output=output.output,
                is_error=output.is_error,
            )


def _on_tool_update(message: Any, event: Any) -> None:
    update, target = event.update, message.tool_execution_updated
    if update.type == "tool_call_started":
        _call(target.started.function_call, update.function_call)
    elif update.type == "tool_call_updated":
        changed = target.call_updated
        changed.id, changed.call_id, changed.message = update.id, update.call_id, update.message
    elif update.type == "tool_call_ended":
        ended = target.ended
        ended.id, ended.call_id, ended.status = update.id, update.call_id, _CALL_ENDS[update.status]
        if update.message is not None:
            ended.message = update.message
    else:
        reply = target.reply_updated
        reply.update_ids.extend(update.update_ids)
        reply.status, reply.speech_id = _REPLY_STATES[update.status], update.speech_id


def _on_usage(message: Any, event: Any) -> None:
    message.session_usage_updated.usage.CopyFrom(usage(event.usage))


def _on_overlap(message: Any, event: Any) -> None:
    target = message.overlapping_speech
    target.is_interruption = event.is_interruption
    target.detection_delay = event.detection_delay
    if event.overlap_started_at is not None:
        set_time(target.overlap_started_at, event.overlap_started_at)
    set_time(target.detected_at, event.detected_at)


def _on_false_interruption(message: Any, event: Any) -> None:
    message.agent_false_interruption.resumed = event.resumed


def _on_error(message: Any, event: Any) -> None:
    message.error.message = str(event.error) or "Unknown error"


_EVENTS: dict[str, Callable[[Any, Any], None]] = {
    "agent_state_changed": _on_agent_state,
    "user_state_changed": _on_user_state,
    "conversation_item_added": _on_item,
    "user_input_transcribed": _on_transcript,
    "function_tools_executed": _on_tools,
    "tool_execution_updated": _on_tool_update,
    "session_usage_updated": _on_usage,
    "overlapping_speech": _on_overlap,
    "agent_false_interruption": _on_false_interruption,
    "error": _on_error,
}

MIRRORED_EVENTS = tuple(_EVENTS)
"""The session events that are passed on."""


def eot_prediction(event: Any) -> pb.AgentSessionEvent:
    """How likely the user's turn is over."""
    message = pb.AgentSessionEvent()
    set_time(message.created_at, time.time())
    target = message.eot_prediction
    target.probability, target.threshold = event.probability, event.threshold
    set_time(target.inference_duration, event.inference_duration)
    set_time(target.delay, event.delay)
    return message


def amd_prediction(event: Any) -> pb.AgentSessionEvent:
    """Who has picked up the phone."""
    message = pb.AgentSessionEvent()
    set_time(message.created_at, time.time())
    target = message.amd_prediction
    set_time(target.speech_duration, event.speech_duration)
    set_time(target.delay, event.delay)
    category = str(getattr(event.category, "value", event.category))
    target.category = _AMD_CATEGORIES.get(category, pb.AmdCategory.AMD_UNKNOWN)
    target.reason, target.transcript = event.reason, event.transcript
    return message


__all__ = [
    "MIRRORED_EVENTS",
    "agent_state",
    "amd_prediction",
    "chat_item",
    "chat_items",
    "eot_prediction",
    "event_message",
    "set_time",
    "usage",
    "user_state",
]
