"""What a reply step works on: its instructions in the context, and the outcome of its tools."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .._lazy import attach
from ..llm import CacheBreakpoint, ChatContext, ChatMessage, FunctionCall, FunctionCallOutput
from ..llm.chat_context import DYNAMIC_INSTRUCTIONS_MESSAGE_ID, Instructions
from ..log import logger

if TYPE_CHECKING:
    from ..llm import ToolChoice
    from .agent import Agent
    from .replies.perform import (
        forward_generation,
        perform_audio_forwarding,
        perform_llm_inference,
        perform_text_forwarding,
        perform_tool_executions,
        perform_tts_inference,
    )

__all__ = [
    "EXPRESSIVE_INSTRUCTIONS_MESSAGE_ID",
    "INSTRUCTIONS_MESSAGE_ID",
    "ToolExecutionOutput",
    "forward_generation",
    "make_tool_output",
    "mark_instructions_cache_boundary",
    "perform_audio_forwarding",
    "perform_llm_inference",
    "perform_text_forwarding",
    "perform_tool_executions",
    "perform_tts_inference",
    "remove_expressive_instructions",
    "remove_instructions",
    "update_expressive_instructions",
    "update_instructions",
]

INSTRUCTIONS_MESSAGE_ID = "lk.agent_task.instructions"
"""Id of the message that holds an agent's instructions. Stored histories use it: never change."""

EXPRESSIVE_INSTRUCTIONS_MESSAGE_ID = "lk.expressive.instructions"
"""Id of the message that explains the markup of an expressive voice. Never change."""


def update_instructions(
    chat_ctx: ChatContext,
    *,
    instructions: str | Instructions,
    add_if_missing: bool,
    modality: Literal["audio", "text"] = "audio",
) -> None:
    """Put the instructions at the head of `chat_ctx`, replacing the present ones in place.

    Args:
        chat_ctx: Changed in place.
        instructions: The dynamic part of `Instructions` gets a message of its own.
        add_if_missing: Add them if there are none yet.
        modality: Which wording of `Instructions` to use.

    Raises:
        ValueError: If an item that is not a message has the id of the instructions.
    """
    if isinstance(instructions, str):
        static, dynamic = instructions, None
    else:
        static, dynamic = instructions.render_static(modality=modality), instructions.dynamic
    index = _put_system_message(chat_ctx, INSTRUCTIONS_MESSAGE_ID, static, 0, add_if_missing)
    if index is None:
        return
    if dynamic:
        _put_system_message(chat_ctx, DYNAMIC_INSTRUCTIONS_MESSAGE_ID, dynamic, index + 1, True)
    else:
        _remove_by_id(chat_ctx, [DYNAMIC_INSTRUCTIONS_MESSAGE_ID])


def remove_instructions(chat_ctx: ChatContext) -> None:
    """Take the agent's instructions out of `chat_ctx`, in place."""
    _remove_by_id(chat_ctx, [INSTRUCTIONS_MESSAGE_ID, DYNAMIC_INSTRUCTIONS_MESSAGE_ID])


def mark_instructions_cache_boundary(chat_ctx: ChatContext) -> None:
    """Mark the end of the static instructions as the end of a cacheable prefix.

    For a working copy only: the message is replaced by a marked one, stored histories stay clean.
    """
    index = chat_ctx.index_by_id(INSTRUCTIONS_MESSAGE_ID)
    if index is None:
        return
    message = chat_ctx.items[index]
    if isinstance(message, ChatMessage) and not any(
        isinstance(part, CacheBreakpoint) for part in message.content
    ):
        chat_ctx.items[index] = message.model_copy(
            update={"content": [*message.content, CacheBreakpoint()]}
        )


def update_expressive_instructions(chat_ctx: ChatContext, *, text: str) -> None:
    """Explain the markup of an expressive voice, right after the instructions."""
    after = [INSTRUCTIONS_MESSAGE_ID, DYNAMIC_INSTRUCTIONS_MESSAGE_ID]
    known = [i for i in map(chat_ctx.index_by_id, after) if i is not None]
    position = max(known, default=-1) + 1
    _put_system_message(chat_ctx, EXPRESSIVE_INSTRUCTIONS_MESSAGE_ID, text, position, True)


def remove_expressive_instructions(chat_ctx: ChatContext) -> None:
    """Take the explanation of the markup out of `chat_ctx`, in place."""
    _remove_by_id(chat_ctx, [EXPRESSIVE_INSTRUCTIONS_MESSAGE_ID])


def _put_system_message(
    chat_ctx: ChatContext, id: str, text: str, position: int, add: bool
) -> int | None:
    index = chat_ctx.index_by_id(id)
    if index is None:
        if not add:
            return None
        message = ChatMessage(id=id, role="system", content=[text])
        if position < len(chat_ctx.items):  # keep the order by time that insertions rely on
            message.created_at = min(message.created_at, chat_ctx.items[position].created_at)
        chat_ctx.items.insert(position, message)
        return position
    present = chat_ctx.items[index]
    if not isinstance(present, ChatMessage):
        raise ValueError(f"the id {id!r} is reserved for instructions, but a {present.type} has it")
    chat_ctx.items[index] = present.model_copy(update={"content": [text]})
    return index


def _remove_by_id(chat_ctx: ChatContext, ids: Iterable[str]) -> None:
    for id in ids:
        index = chat_ctx.index_by_id(id)
        if index is not None:
            chat_ctx.items.pop(index)


@dataclass
class ToolExecutionOutput:
    """What came out of one tool call."""

    fnc_call: FunctionCall
    fnc_call_out: FunctionCallOutput | None
    """What goes to the model; None if nothing does."""
    agent_task: Agent | None
    """The agent that the tool handed over to, if it did."""
    raw_output: Any
    """What the tool returned."""
    raw_exception: BaseException | None
    """What the tool raised."""
    reply_tool_choice: ToolChoice | None = None
    """The tool choice this output asks for in the reply to it."""


def make_tool_output(
    *, fnc_call: FunctionCall, output: Any, exception: BaseException | None
) -> ToolExecutionOutput:
    """Turn what a tool returned or raised into what the model reads, and find the new agent.

    A tool hands over by returning an `Agent`, alone or in a list, tuple or set with other values.
    """
    from ..llm.utils import make_function_call_output
    from .agent import Agent

    if isinstance(output, BaseException):
        output, exception = None, output
    agents: list[Agent] = []
    value = output
    if isinstance(output, Agent):
        agents, value = [output], None
    elif isinstance(output, (list, tuple, set, frozenset)):
        agents = [item for item in output if isinstance(item, Agent)]
        if agents:
            rest = [item for item in output if not isinstance(item, Agent)]
            value = rest[0] if len(rest) == 1 else rest or None
    if len(agents) > 1:
        logger.error(
            "the tool %r returned %d agents, only one can take over", fnc_call.name, len(agents)
        )
        result = make_function_call_output(fnc_call=fnc_call, output=None, exception=None)
        assert result.fnc_call_out is not None
        result.fnc_call_out.output = "the tool returned more than one agent"
        result.fnc_call_out.is_error = result.fnc_call_out.reply_required = True
        return ToolExecutionOutput(fnc_call, result.fnc_call_out, None, output, exception)
    result = make_function_call_output(fnc_call=fnc_call, output=value, exception=exception)
    out = result.fnc_call_out
    if out is not None and exception is None and value is None:
        out.reply_required = False
    return ToolExecutionOutput(fnc_call, out, agents[0] if agents else None, output, exception)


if not TYPE_CHECKING:  # the parts of a reply need what is here
    __getattr__, __dir__ = attach(
        __name__,
        {
            name: "..replies.perform"
            for name in __all__
            if name.startswith(("perform_", "forward_"))
        },
    )
