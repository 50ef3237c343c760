"""Tells the user about results of tools that outlived their turn, when there is room for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..llm import ChatContext, FunctionCall
from ..log import logger
from .events import ToolReplyUpdated

if TYPE_CHECKING:
    from .agent_activity import AgentActivity
    from .agent_session import AgentSession
    from .generation import ToolExecutionOutput
    from .speech_handle import SpeechHandle
    from .tool_executor import RunningTool, ToolExecutor


@dataclass
class PendingResults:
    """Late results of one executor that nobody has told yet."""

    updates: list[tuple[str, ToolExecutionOutput]] = field(default_factory=list)
    last_item_id: str | None = None
    task: asyncio.Task[None] | None = None

    def take(self) -> list[tuple[str, ToolExecutionOutput]]:
        """All results so far; further ones are for the next reply."""
        updates, self.updates = self.updates, []
        return updates


def deliver(
    executor: ToolExecutor, running: RunningTool, output: ToolExecutionOutput, *, suffix: str
) -> None:
    """Put a late result into the history as a call of its own, and have it told if it wants that.

    An agent that a late result hands over to is refused: its turn is over.
    """
    out = output.fnc_call_out
    if out is None:
        return
    if output.agent_task is not None:
        logger.error(
            'the tool "%s" returned an agent after its turn had gone on; no handoff happens',
            running.call.name,
        )
        out.output, out.is_error = "the agent handoff did not happen", True
        out.reply_required = True
    call_id = f"{running.call.call_id}_{suffix}"
    call = FunctionCall(
        call_id=call_id,
        name=running.call.name,
        arguments=running.call.arguments,
        extra=dict(running.call.extra),
    )
    out.call_id = call_id
    activity = executor.activity
    if activity is None:
        return
    activity.commit(call, out)
    executor.pending.last_item_id = out.id
    if not out.reply_required:
        return
    executor.pending.updates.append((call_id, output))
    task = executor.pending.task
    if task is None or task.done():
        executor.pending.task = executor.spawn(_tell(executor), name="deferred tool reply")
        running._reply = executor.pending.task
        run = activity.session._global_run_state
        if run is not None and not activity.scheduler.paused:
            run._watch_task(executor.pending.task)


async def _tell(executor: ToolExecutor) -> None:
    """Wait until there is room, then have the agent tell all pending results at once."""
    from .agent_activity import ActivityClosedError

    session: AgentSession[Any] = executor.session
    try:
        activity = await session.wait_for_idle()
    except (ActivityClosedError, RuntimeError):
        return
    updates = executor.pending.take()
    if not updates:
        return
    handle = _reply(executor, activity, updates)
    ids = [call_id for call_id, _ in updates]
    _announce(executor, ids, "scheduled", handle)
    await handle
    produced = any(item.type == "message" for item in handle.chat_items)
    status = "interrupted" if handle.interrupted else "completed" if produced else "skipped"
    _announce(executor, ids, status, handle)


def _reply(
    executor: ToolExecutor,
    activity: AgentActivity,
    updates: list[tuple[str, ToolExecutionOutput]],
) -> SpeechHandle:
    from ..types import NOT_GIVEN
    from .tool_executor import render

    ids = ", ".join(call_id for call_id, _ in updates)
    at_tail = _is_tail(activity.agent._chat_ctx, executor.pending.last_item_id)
    template = "reply_at_tail_template" if at_tail else "reply_maybe_covered_template"
    choices = {
        output.reply_tool_choice
        for _, output in updates
        if not isinstance(output.reply_tool_choice, dict)
    }
    agreed = choices.pop() if len(choices) == 1 else None
    return activity.session.generate_reply(
        instructions=render(executor.template(template), call_ids=ids),
        tool_choice=agreed if agreed is not None else NOT_GIVEN,
    )


def _is_tail(chat_ctx: ChatContext, item_id: str | None) -> bool:
    return bool(chat_ctx.items) and chat_ctx.items[-1].id == item_id


def _announce(executor: ToolExecutor, ids: list[str], status: Any, handle: SpeechHandle) -> None:
    executor.announce(ToolReplyUpdated(update_ids=ids, status=status, speech_id=handle.id))
