"""Runs function tools: in parallel, each in a task of its own, to an output or a deferred reply."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ..llm import FunctionCall, FunctionCallOutput, StopResponse, ToolContext, ToolError
from ..log import logger
from ..telemetry.traces import tracer
from ..types import NOT_GIVEN, NotGivenOr
from ..utils.aio import Survivor, TaskScope
from ..utils.aio.task_scope import current_ledger, log_failure
from ._context import (
    InlineOwner,
    bound,
    current_activity,
    current_function_call,
    current_speech_handle,
    inline_owner,
)
from .deferred_replies import DeferredReplies
from .events import ToolCallEnded, ToolCallStarted, ToolExecutionUpdatedEvent
from .generation import ToolExecutionOutput, make_tool_output
from .run_context import RunContext
from .running_tool import RunningTool
from .tool_duplicates import refusal
from .tool_options import (
    DUPLICATE_CONFIRM,
    DUPLICATE_REJECT,
    REPLY_INSTRUCTIONS_AT_TAIL,
    REPLY_INSTRUCTIONS_MAYBE_COVERED,
    UPDATE_TEMPLATE,
    AsyncToolOptions,
    DuplicatePromptArgs,
    ReplyPromptArgs,
    ToolHandlingOptions,
    UpdatePromptArgs,
    render,
    template_of,
)
from .tool_tasks import cancel_task, get_running_tasks, has_cancellable_tool
from .tool_tracing import ToolTrace

if TYPE_CHECKING:
    from .agent_activity import AgentActivity
    from .agent_session import AgentSession
    from .speech_handle import SpeechHandle

_CANCELLED = "the call was cancelled"


class ToolExecutor:
    """The running tools of one activity, or of an `AsyncToolset` that outlives activities."""

    def __init__(
        self,
        owner: AgentActivity | AgentSession[Any],
        *,
        options: NotGivenOr[ToolHandlingOptions] = NOT_GIVEN,
        name: str | None = None,
    ) -> None:
        self._owner: Any = owner
        self._options = options
        self._scope = TaskScope(name or "tools")
        self._excused: dict[asyncio.Task[Any], int] = {}
        self._excused_changed: asyncio.Future[None] | None = None
        self._closed = False
        self._cut = False
        self._spare: frozenset[asyncio.Task[Any]] = frozenset()
        self.running: dict[str, RunningTool] = {}
        self.replies = DeferredReplies(self)

    @property
    def outlives_activities(self) -> bool:
        """Whether the tools belong to the session, and go on through a handoff."""
        return not hasattr(self._owner, "scheduler")

    @property
    def session(self) -> AgentSession[Any]:
        """The session whose tools run here."""
        session: AgentSession[Any] = getattr(self._owner, "session", self._owner)
        return session

    @property
    def activity(self) -> AgentActivity | None:
        """Who tells late results: the owning activity, or whichever is on duty."""
        return self.session._activity if self.outlives_activities else self._owner

    def spawn(self, coro: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Start a task that ends with the tools."""
        return self._scope.spawn(coro, name=name)

    def template(self, name: str) -> Any:
        """A text of the options, or its default."""
        return template_of(self._options, name)

    # -- starting ---------------------------------------------------------------------------------

    def start(
        self,
        call: FunctionCall,
        *,
        tool_ctx: ToolContext,
        speech_handle: SpeechHandle,
        session: AgentSession[Any],
        activity: AgentActivity,
    ) -> RunningTool:
        """Run a call whose name and arguments were checked. Returns at once.

        The output, in whatever way the tool ends, resolves `RunningTool.output_fut`.
        """
        call.created_at = time.time()
        tool = tool_ctx.get_function_tool(call.name)
        ctx: RunContext[Any] = RunContext(
            session=session, speech_handle=speech_handle, function_call=call, activity=activity
        )
        running = RunningTool(self, call, ctx, tool)
        ctx._running = running
        if call.call_id in self.running or self._closed:
            running.ended = True
            reason = "is running already" if not self._closed else "came after the close"
            logger.error("the tool call %s (%s) %s", call.call_id, call.name, reason)
            running.output_fut.set_result(
                make_tool_output(
                    fnc_call=call, output=None, exception=RuntimeError("duplicate call id")
                )
            )
            return running
        self.running[call.call_id] = running
        owner = InlineOwner()
        with (
            bound(current_activity, activity),
            bound(current_speech_handle, speech_handle),
            bound(current_function_call, call),
            bound(inline_owner, owner),
            bound(current_ledger, session._ledger),
        ):
            running.task = self._scope.spawn(
                self._run(running, owner), name=f'tool "{call.name}"', log_errors=False
            )
        running.task.add_done_callback(lambda task: self._task_ended(running))
        return running

    async def _run(self, running: RunningTool, owner: InlineOwner) -> None:
        owner.claim()
        output: Any = None
        error: BaseException | None = None
        try:
            output = await refusal(self, running)
            if output is None:
                running.started = True
                running.trace = ToolTrace(running)
                self.announce(ToolCallStarted(function_call=running.call))
                with tracer.use_span(
                    running.trace.span, record_exception=False, set_status_on_exception=False
                ):
                    output = await self._call(running)
        except asyncio.CancelledError as cancelled:
            # a tool may raise it by itself, or be cancelled as CANCELLABLE: either way it ended
            self._finish(running, None, cancelled)
            raise
        except Exception as raised:
            error = raised
            if not _is_expected(raised):
                log_failure('the tool "%s" failed', running.call.name)
        self._finish(running, output, error)

    async def _call(self, running: RunningTool) -> Any:
        from ..llm.utils import prepare_function_arguments, run_tool
        from .run_result import find_mock

        mock = find_mock(running.ctx.session, running.call.name)
        args, kwargs = prepare_function_arguments(
            fnc=running.tool,
            json_arguments=running.call.arguments,
            call_ctx=running.ctx,
            fnc_call=running.call,
        )
        if mock is not None:
            return await mock(running.tool, args, kwargs, running.ctx)
        return await run_tool(running.tool, args, kwargs)

    # -- ending of one tool -----------------------------------------------------------------------

    def _task_ended(self, running: RunningTool) -> None:
        self._finish(running, None, asyncio.CancelledError())  # cancelled before it ran at all
        self._wake()

    def _finish(self, running: RunningTool, output: Any, error: BaseException | None) -> None:
        """The tool has ended: resolve its output, or deliver it later if the turn went on. Once."""
        if running.ended:
            return
        running.ended = True
        self.running.pop(running.call.call_id, None)
        cancelled = isinstance(error, asyncio.CancelledError)
        if cancelled and running.released:
            result = self._cancelled_output(running, _CANCELLED)
        else:
            result = make_tool_output(
                fnc_call=running.call, output=output, exception=None if cancelled else error
            )
        self._announce_end(running, result, cancelled=cancelled)
        if not running.output_fut.done():
            running.output_fut.set_result(result)
        else:
            self.deliver(running, result, suffix="final")
        self._after_tool()

    def _announce_end(
        self, running: RunningTool, result: ToolExecutionOutput, *, cancelled: bool
    ) -> None:
        if not running.started:
            return
        if running.trace is not None:
            running.trace.end(result.fnc_call_out)
        out = result.fnc_call_out
        silent = cancelled or isinstance(result.raw_exception, StopResponse)
        message = None if silent or out is None or not out.output else out.output
        failed = out is not None and out.is_error
        call_id = running.call.call_id
        self.announce(
            ToolCallEnded(
                id=f"{call_id}_final" if running.released else call_id,
                call_id=call_id,
                message=message,
                status="cancelled" if cancelled else "error" if failed else "done",
            )
        )

    def _after_tool(self) -> None:
        state = self.session._state
        if not self.running and not self.session._is_closing and not state.away_armed:
            state.arm_away()  # looks at the other executors, too

    def announce(self, update: Any) -> None:
        """Emit `tool_execution_updated`; nothing once the tools were cut off."""
        if not self._cut:
            self.session._progress.touch()
            self.session.emit("tool_execution_updated", ToolExecutionUpdatedEvent(update=update))

    def deliver(self, running: RunningTool, output: ToolExecutionOutput, *, suffix: str) -> None:
        """Put a late result into the history, and have the agent tell it when there is room."""
        if not self._cut:
            self.replies.deliver(running, output, suffix=suffix)

    def placeholders(self) -> list[tuple[FunctionCall, FunctionCallOutput]]:
        """For each running tool a call and an output that say so, for the next request only."""
        return [tool.placeholder() for tool in self.running.values()]

    # -- ending of all ----------------------------------------------------------------------------

    def unfinished(self) -> list[RunningTool]:
        """The tools a drain still waits for."""
        return [
            tool
            for tool in self.running.values()
            if tool.task is not None and tool.task not in self._excused and not tool.task.done()
        ]

    def block(self, task: asyncio.Task[Any]) -> Callable[[], None]:
        """Don't wait for the tool that runs in `task`: it waits for us. Returns the way back."""
        self._excused[task] = self._excused.get(task, 0) + 1
        self._wake()

        def unblock() -> None:
            self._excused[task] -= 1
            if not self._excused[task]:
                del self._excused[task]

        return unblock

    def _wake(self) -> None:
        if self._excused_changed is not None and not self._excused_changed.done():
            self._excused_changed.set_result(None)
        self._excused_changed = None

    def cancel_cancellable(self) -> None:
        """Cancel the tools that may be cancelled at any time."""
        for tool in list(self.running.values()):
            if tool.cancellable:
                tool.cancel()

    async def drain(self, timeout: float | None) -> list[RunningTool]:
        """Wait for the tools, at most `timeout` seconds; returns those still running."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while not self._cut and (tools := self.unfinished()):
            if deadline is not None and loop.time() >= deadline:
                return tools
            if self._excused_changed is None:
                self._excused_changed = loop.create_future()
            waits: set[asyncio.Future[Any]] = {self._excused_changed}
            waits.update(tool.task for tool in tools if tool.task is not None)
            await asyncio.wait(
                waits,
                timeout=None if deadline is None else max(0.0, deadline - loop.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
        return []

    def cut_off_output(self, tool: RunningTool) -> ToolExecutionOutput | None:
        """The output of a tool that a close cuts off: cancelled, as far as the history knows.

        Returns:
            None if the turn does not wait for this tool.
        """
        if tool.ended or tool.output_fut.done():
            return None
        output = self._cut_off(tool)
        tool.output_fut.set_result(output)
        return output

    def _cut_off(self, tool: RunningTool) -> ToolExecutionOutput:
        tool.ended = True
        self.running.pop(tool.call.call_id, None)
        output = self._cancelled_output(tool, f"{_CANCELLED}, its session or agent ended before it")
        self._announce_end(tool, output, cancelled=True)
        return output

    def _cancelled_output(self, tool: RunningTool, text: str) -> ToolExecutionOutput:
        output = make_tool_output(fnc_call=tool.call, output=None, exception=ToolError(text))
        if output.fnc_call_out is not None:
            output.fnc_call_out.reply_required = False
        return output

    def cut_off(self, *, spare: frozenset[asyncio.Task[Any]] = frozenset()) -> None:
        """Cancel every tool now, without waiting; what they still do reaches nothing."""
        for tool in list(self.running.values()):
            if self.cut_off_output(tool) is None and not tool.ended:
                # it was released earlier, and the history still says that its result will follow
                self.deliver(tool, self._cut_off(tool), suffix="final")
        self.running.clear()
        self._cut = self._closed = True
        self._spare |= spare
        self._scope.cancel_soon(spare=self._spare)
        self._wake()

    async def aclose(self, timeout: float) -> list[Survivor]:
        """Cancel what is left, wait at most `timeout` seconds, return what ignored it."""
        ending = self.ending(timeout)
        return [] if ending is None else await ending

    def ending(self, timeout: float) -> Coroutine[Any, Any, list[Survivor]] | None:
        """As `aclose`, begun at once; None when nothing is left to wait for."""
        self._closed = True
        return self._scope.ending(timeout, spare=self._spare)


def _is_expected(error: Exception) -> bool:
    """Whether a tool says something with it; also that its agent left while it waited."""
    from .agent_activity import ActivityClosedError

    return isinstance(error, (ToolError, StopResponse, ActivityClosedError))


__all__ = [
    "DUPLICATE_CONFIRM",
    "DUPLICATE_REJECT",
    "REPLY_INSTRUCTIONS_AT_TAIL",
    "REPLY_INSTRUCTIONS_MAYBE_COVERED",
    "UPDATE_TEMPLATE",
    "AsyncToolOptions",
    "DuplicatePromptArgs",
    "ReplyPromptArgs",
    "RunningTool",
    "ToolExecutor",
    "ToolHandlingOptions",
    "UpdatePromptArgs",
    "cancel_task",
    "get_running_tasks",
    "has_cancellable_tool",
    "render",
]
