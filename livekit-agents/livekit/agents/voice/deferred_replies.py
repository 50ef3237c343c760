"""Tells the user about results of tools that outlived their turn, when there is room for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..llm import ChatContext, FunctionCall, FunctionCallOutput
from ..log import logger
from ..types import NOT_GIVEN
from ._context import bound, neutral
from .events import ToolReplyUpdated
from .idle import floor_holder
from .tool_options import render

if TYPE_CHECKING:
    from ..llm import ToolChoice
    from .agent_activity import AgentActivity
    from .generation import ToolExecutionOutput
    from .running_tool import RunningTool
    from .speech_handle import SpeechHandle
    from .tool_executor import ToolExecutor


@dataclass
class _Result:
    """A late result, as it is in the history."""

    call: FunctionCall
    output: FunctionCallOutput
    tool_choice: ToolChoice | None


class DeferredReplies:
    """The late results of one executor: recorded at once, told when the conversation is idle.

    Those of an activity's tools are told by its agent. Those of tools that outlive activities are
    told by whichever agent is on duty then.
    """

    def __init__(self, executor: ToolExecutor) -> None:
        self._executor = executor
        self._pending: list[_Result] = []
        self._last_item_id: str | None = None
        self._told: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What waits for room, and tells; None when there is nothing to tell."""
        return self._task if self._task is not None and not self._task.done() else None

    # -- recording ------------------------------------------------------------------------------

    def deliver(self, running: RunningTool, output: ToolExecutionOutput, *, suffix: str) -> None:
        """Put a late result into the histories as a call of its own, and have it told if it wants.

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
        self._record(call, out)
        if out.reply_required:
            self._tell_soon(running, _Result(call, out, output.reply_tool_choice))

    def _record(self, call: FunctionCall, out: FunctionCallOutput) -> None:
        activity = self._executor.activity
        session = self._executor.session
        if activity is not None and activity.closed and self._executor.outlives_activities:
            activity = session._next_activity  # in the middle of a handoff
        if activity is not None:
            activity.commit(call, out)
        else:
            session._add_to_history(call)
            session._add_to_history(out)
        self._last_item_id = out.id

    # -- telling --------------------------------------------------------------------------------

    def _tell_soon(self, running: RunningTool, result: _Result) -> None:
        self._pending.append(result)
        if self._told is None:
            self._told = asyncio.get_running_loop().create_future()
        running.reply = self._told
        if self.task is not None:
            return
        # It belongs to no tool: not to the one that reported, nor to the floor that it may hold.
        with neutral(), bound(floor_holder, None):
            self._task = self._executor.spawn(self._run(), name="deferred tool reply")
        activity = self._executor.activity
        run = self._executor.session._global_run_state
        if run is not None and activity is not None and not activity.scheduler.paused:
            run._watch_task(self._task)

    async def _run(self) -> None:
        from .agent_activity import ActivityClosedError

        try:
            while self._pending:
                activity = await self._room()
                results, self._pending = self._pending, []
                told, self._told = self._told, None
                try:
                    await self._tell(activity, results)
                finally:
                    _resolve(told)
        except (ActivityClosedError, RuntimeError) as reason:
            logger.debug("late results of tools are not told: %s", reason)
        finally:
            self._pending.clear()
            _resolve(self._told)
            self._told = None

    async def _room(self) -> AgentActivity:
        """Wait until nobody speaks, and return who is to tell."""
        activity = self._executor.activity
        if activity is None or self._executor.outlives_activities:
            return await self._executor.session.wait_for_idle()
        await activity.wait_for_idle()
        return activity

    async def _tell(self, activity: AgentActivity, results: list[_Result]) -> None:
        await self._bring_up_to_date(activity, results)
        handle = self._reply(activity, results)
        ids = [result.call.call_id for result in results]
        self._announce(ids, "scheduled", handle)
        await handle
        produced = any(item.type == "message" for item in handle.chat_items)
        status = "interrupted" if handle.interrupted else "completed" if produced else "skipped"
        self._announce(ids, status, handle)

    async def _bring_up_to_date(self, activity: AgentActivity, results: list[_Result]) -> None:
        """Let the agent that tells know the results, whoever had the floor when they came."""
        chat_ctx = activity.agent._chat_ctx
        missing = [result for result in results if chat_ctx.get_by_id(result.output.id) is None]
        for result in missing:
            chat_ctx.insert([result.call, result.output])
        if missing:
            logger.warning(
                "the agent has changed since a tool reported: %s tells its results",
                activity.agent.id,
                extra={"call_ids": [result.call.call_id for result in missing]},
            )
        if (link := activity.realtime) is not None:  # answers from its own copy
            pushing = link.in_background(
                link.change_context(lambda known: _insert_new(known, results)), "late tool results"
            )
            await asyncio.wait((pushing,))

    def _reply(self, activity: AgentActivity, results: list[_Result]) -> SpeechHandle:
        at_tail = _is_tail(activity.agent._chat_ctx, self._last_item_id)
        template = "reply_at_tail_template" if at_tail else "reply_maybe_covered_template"
        choice = results[0].tool_choice
        agreed = choice is not None and all(result.tool_choice == choice for result in results)
        handle = activity.replies.generate_reply(
            instructions=render(
                self._executor.template(template),
                call_ids=", ".join(result.call.call_id for result in results),
            ),
            tool_choice=choice if agreed and choice is not None else NOT_GIVEN,
        )
        self._executor.session._watch(handle)
        return handle

    def _announce(self, ids: list[str], status: Any, handle: SpeechHandle) -> None:
        self._executor.announce(
            ToolReplyUpdated(update_ids=ids, status=status, speech_id=handle.id)
        )


def _insert_new(chat_ctx: ChatContext, results: list[_Result]) -> None:
    for result in results:
        if chat_ctx.get_by_id(result.output.id) is None:
            chat_ctx.insert([result.call, result.output])


def _is_tail(chat_ctx: ChatContext, item_id: str | None) -> bool:
    return bool(chat_ctx.items) and chat_ctx.items[-1].id == item_id


def _resolve(fut: asyncio.Future[None] | None) -> None:
    if fut is not None and not fut.done():
        fut.set_result(None)
