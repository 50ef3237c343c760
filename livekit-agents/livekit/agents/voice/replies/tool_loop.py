"""Runs the tool calls of one reply step: in parallel, while the agent speaks, to their outputs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, Callable
from typing import TYPE_CHECKING

from ...llm import FunctionCall, RealtimeModel, ToolContext, ToolError, Toolset
from ...log import logger
from ..events import FunctionToolsExecutedEvent
from ..generation import ToolExecutionOutput, make_tool_output

if TYPE_CHECKING:
    from ...llm import Tool, ToolChoice
    from ...types import NotGivenOr
    from ..agent import Agent
    from ..agent_activity import AgentActivity
    from ..running_tool import RunningTool
    from ..speech_handle import SpeechHandle
    from ..tool_executor import ToolExecutor


class ToolLoop:
    """The tools of one step. Their outputs are kept in the order of completion."""

    def __init__(
        self,
        activity: AgentActivity,
        handle: SpeechHandle,
        tool_ctx: ToolContext,
        tool_choice: NotGivenOr[ToolChoice],
        *,
        edited_tools: list[Tool] | None = None,
        on_start: Callable[[FunctionCall], None] = lambda _: None,
        on_output: Callable[[ToolExecutionOutput], None] = lambda _: None,
    ) -> None:
        """Get ready to run tools.

        Args:
            edited_tools: The flat list that `llm_node` got, and may change while it runs.
            on_start: Called with each call that is made; not with one that is refused.
            on_output: Called with each output as it comes.
        """
        self._activity = activity
        self._handle = handle
        self._tool_ctx = tool_ctx
        self._tool_choice = tool_choice
        self._edited_tools = edited_tools
        self._on_start = on_start
        self._notify = on_output
        self._running: dict[asyncio.Future[ToolExecutionOutput], RunningTool] = {}
        self._committed = False
        self.outputs: list[ToolExecutionOutput] = []

    @property
    def running(self) -> list[RunningTool]:
        """Tools of this step whose output is still missing."""
        return list(self._running.values())

    async def run(self, calls: AsyncIterable[FunctionCall]) -> None:
        """Start each call as it comes, then wait for all outputs. An interruption starts no more."""
        async for call in calls:
            if not self._handle.interrupted:
                self._dispatch(call)
            elif self._must_answer:
                self._refuse(call, "the tool was not called, the user interrupted", reply=False)
        while self._running:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            # the done callbacks of the outputs have moved them over
            await asyncio.sleep(0)

    def _dispatch(self, call: FunctionCall) -> None:
        if self._tool_choice == "none":
            logger.error(
                "the model called the tool %r although this reply may use no tools; ignored",
                call.name,
            )
            if self._must_answer:
                self._refuse(call, "this call was ignored: no tools may be used now", reply=False)
            return
        refusal = self._refusal(call)
        if refusal is not None:
            self._refuse(call, refusal)
            return
        tool = self._executor_for(call.name).start(
            call,
            tool_ctx=self._tool_ctx,
            speech_handle=self._handle,
            session=self._activity.session,
            activity=self._activity,
        )
        self._handle._item_added([call])
        self._on_start(call)
        self._running[tool.output_fut] = tool
        self._activity.scheduler.between_steps.discard(self._handle)
        tool.output_fut.add_done_callback(self._on_output)

    @property
    def _must_answer(self) -> bool:
        """Whether the model waits for an answer to every call, also to those not made."""
        return isinstance(self._activity.llm, RealtimeModel)

    def _refuse(self, call: FunctionCall, reason: str, *, reply: bool = True) -> None:
        output = make_tool_output(fnc_call=call, output=None, exception=ToolError(reason))
        if output.fnc_call_out is not None and not reply:
            output.fnc_call_out.reply_required = False
        self._add(output)

    def _executor_for(self, name: str) -> ToolExecutor:
        """Tools of an `AsyncToolset` run in it, also when a reply names them one by one."""
        from ...llm.async_toolset import executor_of

        all_tools = [tool for tool in self._activity.tools if isinstance(tool, Toolset)]
        toolsets = [*self._tool_ctx.toolsets, *all_tools]
        return executor_of(name, toolsets) or self._activity.tool_executor

    def _refusal(self, call: FunctionCall) -> str | None:
        """Why a call can't be started, in the words the model reads; None if it can."""
        from ...llm.utils import parse_function_arguments

        self.take_over_edits()
        if self._tool_ctx.get_function_tool(call.name) is None:
            available = ", ".join(self._tool_ctx.function_tools)
            return f"Unknown function: {call.name} - available tools: {available}"
        try:
            arguments = parse_function_arguments(call.arguments or "{}")
        except Exception as error:
            call.extra = {**call.extra, "raw_arguments": call.arguments}
            call.arguments = "{}"  # several providers refuse a history with invalid JSON in it
            return f"Error parsing arguments for `{call.name}`: {error}"
        call.arguments = json.dumps(arguments, default=str)
        return None

    def take_over_edits(self) -> None:
        """Let the list of tools count as `llm_node` has changed it."""
        if self._edited_tools is None:
            return
        try:
            self._tool_ctx._sync_flattened(self._edited_tools)
        except ValueError as error:
            logger.error("the tools as llm_node has changed them can't be used: %s", error)

    def _on_output(self, fut: asyncio.Future[ToolExecutionOutput]) -> None:
        tool = self._running.pop(fut, None)
        if tool is None or fut.cancelled() or fut.exception() is not None:
            return
        self._add(fut.result())

    def _add(self, output: ToolExecutionOutput) -> None:
        self.outputs.append(output)
        if output.fnc_call_out is not None:
            self._handle._item_added([output.fnc_call_out])
        if not self._running:
            self._activity.scheduler.between_steps.add(self._handle)
        self._activity.session._progress.touch()
        self._notify(output)

    def release(self) -> None:
        """The turn goes on without the tools that still run; their results are told later."""
        for tool in self.running:
            self._leave(tool, tool.release())

    def cut_off(self) -> None:
        """The tools that still run are cut off, and the history is to say so."""
        for tool in self.running:
            self._leave(tool, tool.executor.cut_off_output(tool))

    def _leave(self, tool: RunningTool, output: ToolExecutionOutput | None) -> None:
        self._running.pop(tool.output_fut, None)
        if output is None and tool.output_fut.done():  # it ended in this very moment
            output = tool.output_fut.result()
        if output is not None:
            self._add(output)

    # -- after the step ---------------------------------------------------------------------------

    def commit(self, *, reply_allowed: bool = True) -> FunctionToolsExecutedEvent | None:
        """Announce the outputs and put calls and outputs into the histories. Once.

        Returns:
            The event as the handlers left it, or None if there was no output.
        """
        if self._committed:
            return None
        self._committed = True
        outputs = [o for o in self.outputs if o.fnc_call_out is not None]
        if not outputs:
            return None
        handovers = sum(output.agent_task is not None for output in outputs)
        if handovers > 1:
            logger.error("%d tools of one turn handed over to an agent, nobody does", handovers)
        if not reply_allowed:
            self._withhold_replies(outputs)
        event = FunctionToolsExecutedEvent(
            function_calls=[o.fnc_call for o in outputs],
            function_call_outputs=[o.fnc_call_out for o in outputs if o.fnc_call_out is not None],
        )
        event._handoff_required = reply_allowed and self.new_agent is not None
        self._activity.session.emit("function_tools_executed", event)
        for output in outputs:
            assert output.fnc_call_out is not None
            self._activity.commit(output.fnc_call, output.fnc_call_out)
        return event

    def _withhold_replies(self, outputs: list[ToolExecutionOutput]) -> None:
        """The speech was interrupted: results are kept, but nothing more is said or switched."""
        for output in outputs:
            assert output.fnc_call_out is not None
            output.fnc_call_out.reply_required = False
            if output.agent_task is not None:
                output.fnc_call_out.output = "the agent handoff was interrupted and did not happen"
                output.fnc_call_out.is_error = True

    @property
    def new_agent(self) -> Agent | None:
        """The agent that a tool handed over to, if exactly one did."""
        agents = [o.agent_task for o in self.outputs if o.agent_task is not None]
        return agents[0] if len(agents) == 1 else None

    def reply_tool_choice(self) -> ToolChoice | None:
        """What the outputs that want a reply agree on, or None."""
        choices = [
            o.reply_tool_choice
            for o in self.outputs
            if o.fnc_call_out is not None and o.fnc_call_out.reply_required
        ]
        first = choices[0] if choices else None
        return first if all(choice == first for choice in choices) else None
