"""Several tasks in a row, with the way back to those that are done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from ...llm import LLM, ChatContext, ToolError, function_tool
from ...llm.tool_context import RawFunctionTool, ToolFlag
from ...log import logger
from ...types import NOT_GIVEN, NotGivenOr
from ...utils.aio import TaskScope
from ...voice.agent import AgentTask

SUMMARY_TIMEOUT = 8.0
"""Seconds to wait for the summary, while the user hears nothing; then the words stay as they are."""


@dataclass
class TaskCompletedEvent:
    """A task of a group has a result."""

    agent_task: AgentTask[Any]
    task_id: str
    result: Any


@dataclass
class TaskGroupResult:
    """What the tasks of a group gave."""

    task_results: dict[str, Any]
    """Id of the task -> its result; its exception with `return_exceptions`."""


@dataclass
class _Entry:
    factory: Callable[[], AgentTask[Any]]
    description: str


class _GoBack(Exception):
    """The user wants to change what earlier tasks have found out."""

    def __init__(self, task_ids: list[str]) -> None:
        super().__init__(", ".join(task_ids))
        self.task_ids = task_ids


class TaskGroup(AgentTask[TaskGroupResult]):
    """Does tasks one after the other; each knows what was said before.

    ::

        group = TaskGroup(chat_ctx=self.chat_ctx)
        group.add(GetNameTask, id="name", description="the caller's name")
        group.add(GetEmailTask, id="email", description="the caller's email address")
        results = (await group).task_results

    While a task runs, the user may return to one that is done: the model calls `out_of_scope`, that
    task is done anew, and then the one that was interrupted.
    """

    def __init__(
        self,
        *,
        summarize_chat_ctx: bool = True,
        return_exceptions: bool = False,
        chat_ctx: NotGivenOr[ChatContext] = NOT_GIVEN,
        on_task_completed: Callable[[TaskCompletedEvent], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Make an empty group; `add` its tasks before it is awaited.

        Args:
            summarize_chat_ctx: At the end, replace what was said in the group by a summary in the
                context of the agent that awaited it. The session's history keeps every word.
            return_exceptions: Let a task that fails leave its exception in the results and go on,
                instead of failing as a whole.
            chat_ctx: The conversation so far.
            on_task_completed: Awaited after each task that has a result; what it raises makes the
                group fail.
        """
        super().__init__(
            instructions="Several things are being found out, one after the other. If you are to "
            "speak now, ask the user for a moment's patience.",
            chat_ctx=chat_ctx,
        )
        self._summarize_chat_ctx = summarize_chat_ctx
        self._return_exceptions = return_exceptions
        self._on_task_completed = on_task_completed
        self._entries: dict[str, _Entry] = {}
        self._begun: list[str] = []
        self._results: dict[str, Any] = {}

    def add(
        self, task_factory: Callable[[], AgentTask[Any]], *, id: str, description: str
    ) -> TaskGroup:
        """Append a task.

        Args:
            task_factory: Makes it when its turn comes, and again if the user returns to it.
            id: Under which its result is found.
            description: What it finds out, for the model to know what it can return to.

        Returns:
            The group itself.

        Raises:
            ValueError: There is a task of this id.
            RuntimeError: The group runs already.
        """
        if self._awaited:
            raise RuntimeError(f"task {id!r} comes too late: add all tasks before the group runs")
        if id in self._entries:
            raise ValueError(f"the group has a task {id!r} already: give each an id of its own")
        self._entries[id] = _Entry(task_factory, description)
        return self

    # -- running ------------------------------------------------------------------------------------

    async def on_enter(self) -> None:
        """Do the tasks."""
        known = {item.id for item in self._chat_ctx.items}
        try:
            await self._run_all()
            if self._summarize_chat_ctx and not self._is_over:
                await self._summarize(known)
        except Exception as error:
            if not self._is_over:
                self.complete(error)
            return
        if not self._is_over:
            self.complete(TaskGroupResult(self._in_order()))

    @property
    def _is_over(self) -> bool:
        """Whether nobody waits for results any more."""
        return self.done() or self.session._is_closing

    def _in_order(self) -> dict[str, Any]:
        return {id: self._results[id] for id in self._entries if id in self._results}

    async def _run_all(self) -> None:
        ahead = deque(self._entries)
        while ahead and not self._is_over:
            id = ahead.popleft()
            try:
                await self._run_one(id)
            except _GoBack as request:
                ahead.extendleft(reversed([*request.task_ids, id]))

    async def _run_one(self, id: str) -> None:
        task = self._entries[id].factory()
        if id not in self._begun:
            self._begun.append(id)
        await self._prepare(task, id)
        try:
            result = await task
        except _GoBack:
            raise
        except Exception as error:
            if self._return_exceptions and not self._is_over:
                self._results[id] = error
                return
            raise
        self._results[id] = result
        if self._on_task_completed is not None:
            await self._on_task_completed(TaskCompletedEvent(task, id, result))

    async def _prepare(self, task: AgentTask[Any], id: str) -> None:
        """Tell the task what was said, and give it the way back."""
        so_far = task.chat_ctx.copy()
        so_far.merge(
            self._chat_ctx,
            exclude_instructions=True,
            exclude_function_call=True,
            exclude_config_update=True,
        )
        await task.update_chat_ctx(so_far)
        earlier = [other for other in self._begun if other != id]
        if earlier:
            await task.update_tools([*task.tools, self._way_back(task, earlier)])

    def _way_back(self, task: AgentTask[Any], earlier: list[str]) -> RawFunctionTool[..., Any]:
        done = "\n".join(f"- {other}: {self._entries[other].description}" for other in earlier)

        async def out_of_scope(raw_arguments: dict[str, object]) -> None:
            chosen = raw_arguments.get("task_ids")
            wanted = [chosen] if isinstance(chosen, str) else chosen
            if not isinstance(wanted, list) or not wanted or not set(wanted) <= set(earlier):
                raise ToolError(f"task_ids has to be a list of some of these: {earlier}")
            if task.done():
                raise ToolError("too late: this task is complete")
            back = _GoBack([other for other in earlier if other in wanted])
            task._complete(back, is_outcome_of_run=False)

        return function_tool(
            out_of_scope,
            raw_schema={
                "name": "out_of_scope",
                "description": "Return to something that was dealt with before, because the user "
                "wants to change it or give it after all. What you are at now is continued "
                "afterwards. Not for anything else, and not for what this task itself is about. "
                f"What there is to return to:\n{done}",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "task_ids": {
                            "type": "array",
                            "description": "What to return to.",
                            "items": {"type": "string", "enum": earlier},
                        }
                    },
                    "required": ["task_ids"],
                    "additionalProperties": False,
                },
            },
            flags=ToolFlag.IGNORE_ON_ENTER,
        )

    # -- the summary --------------------------------------------------------------------------------

    async def _summarize(self, known: set[str]) -> None:
        """Replace what was said in the group, within `SUMMARY_TIMEOUT` seconds or not at all."""
        model = self._get_activity_or_raise().llm
        if not isinstance(model, LLM):
            logger.debug("the conversation of the task group is not summarized: no LLM to ask")
            return
        said = ChatContext([item for item in self._chat_ctx.items if item.id not in known])
        before = list(said.items)
        scope = TaskScope("task group")
        summary = scope.spawn(
            said._summarize(model, keep_last_turns=0), name="summarize", log_errors=False
        )
        summary.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await asyncio.wait(
                (summary, self._fut, self.session._closing_fut),
                timeout=SUMMARY_TIMEOUT,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            scope.cancel_soon()
        if self._is_over:
            return
        if not summary.done() or summary.cancelled() or summary.exception() is not None:
            reason = repr(summary.exception()) if summary.done() else "it takes too long"
            logger.warning("the conversation of the task group is not summarized: %s", reason)
        elif said.items != before:
            kept = [item for item in self._chat_ctx.items if item.id in known]
            await self.update_chat_ctx(ChatContext([*kept, *said.items]))


__all__ = ["TaskCompletedEvent", "TaskGroup", "TaskGroupResult"]
