"""Runs function tools: in parallel, each in a task of its own, to an output or a deferred reply."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import TypedDict

from ..llm import (
    FunctionCall,
    FunctionCallOutput,
    StopResponse,
    ToolContext,
    ToolError,
    Toolset,
    function_tool,
)
from ..llm.tool_context import ToolFlag
from ..log import logger
from ..types import NOT_GIVEN, NotGivenOr
from ..utils import is_given
from ..utils.aio import Survivor, TaskScope, wait_until
from ._context import (
    InlineOwner,
    bound,
    current_activity,
    current_function_call,
    current_speech_handle,
    inline_owner,
)
from .deferred_replies import PendingResults, deliver
from .events import ToolCallEnded, ToolCallStarted, ToolCallUpdated, ToolExecutionUpdatedEvent
from .generation import ToolExecutionOutput, make_tool_output
from .run_context import RunContext, mark_non_blocking

if TYPE_CHECKING:
    from .agent_activity import AgentActivity
    from .agent_session import AgentSession
    from .speech_handle import SpeechHandle


class UpdatePromptArgs(TypedDict):
    """What an update template may use."""

    function_name: str
    call_id: str
    message: str


class DuplicatePromptArgs(TypedDict):
    """What a duplicate template may use."""

    function_name: str
    fnc_calls_json: str
    fnc_calls_text: str


class ReplyPromptArgs(TypedDict):
    """What a reply template may use."""

    call_ids: str


class AsyncToolOptions(TypedDict, total=False):
    """The texts around tools that outlive their turn: `str.format` templates or callables."""

    update_template: str | Callable[[UpdatePromptArgs], str]
    duplicate_reject_template: str | Callable[[DuplicatePromptArgs], str]
    duplicate_confirm_template: str | Callable[[DuplicatePromptArgs], str]
    reply_at_tail_template: str | Callable[[ReplyPromptArgs], str]
    reply_maybe_covered_template: str | Callable[[ReplyPromptArgs], str]


class ToolHandlingOptions(TypedDict, total=False):
    """How tools are handled; the most specific level that sets it wins as a whole."""

    async_options: AsyncToolOptions


UPDATE_TEMPLATE = (
    "`{function_name}` (call {call_id}) is still running. Progress so far: {message}\n"
    "Its result will follow by itself. Tell the user only what this progress says, and do not "
    "call the function again for the same request."
)
DUPLICATE_REJECT = (
    "`{function_name}` is running already, so this call was not started:\n{fnc_calls_text}\n"
    "Wait for its result. If, and only if, the user asks for it, a running call can be cancelled "
    "with `lk_agents_cancel_task`."
)
DUPLICATE_CONFIRM = (
    "`{function_name}` is running already, so this call was not started:\n{fnc_calls_text}\n"
    "Ask the user whether they want it a second time. If they do, call it again with "
    "`lk_agents_confirm_duplicate` set to true; a running call can be cancelled with "
    "`lk_agents_cancel_task` when the user asks for that."
)
REPLY_INSTRUCTIONS_AT_TAIL = (
    "New results have arrived for the calls {call_ids}. Tell the user what is new in them, "
    "naturally and briefly, without repeating what was said before."
)
REPLY_INSTRUCTIONS_MAYBE_COVERED = (
    "Results for the calls {call_ids} arrived while the conversation went on. If what was said "
    "since does not cover them yet, tell the user what is new, naturally and briefly. If it does, "
    "answer with nothing at all."
)

_STILL_RUNNING = "In progress: the result will follow by itself. Do not call the function again."


class RunningTool:
    """One tool call in progress."""

    def __init__(
        self,
        executor: ToolExecutor,
        call: FunctionCall,
        ctx: RunContext[Any],
        tool: Any,
    ) -> None:
        self._executor = executor
        self._tool = tool
        self.call = call
        self.ctx = ctx
        self.task: asyncio.Task[None] | None = None
        self.output_fut: asyncio.Future[ToolExecutionOutput] = (
            asyncio.get_running_loop().create_future()
        )
        self.started_at = asyncio.get_running_loop().time()
        self.updates = 0
        self.ended = False
        self._reply: asyncio.Future[Any] | None = None

    @property
    def cancellable(self) -> bool:
        """Whether it may be cancelled at any time."""
        return bool(self._tool.info.flags & ToolFlag.CANCELLABLE)

    @property
    def released(self) -> bool:
        """Whether the turn has gone on without its final result."""
        return self.updates > 0

    def cancel(self) -> None:
        """Ask it to stop."""
        if self.task is not None:
            self.task.cancel()

    async def update(self, message: Any, *, template: Any, silent: bool) -> None:
        """Report progress; the first report releases the turn."""
        if self.ended:
            self.ctx._updates.append(message)
            return
        self.updates += 1
        text = message
        if isinstance(message, str):
            text = render(
                template if template is not None else self._executor.template("update_template"),
                function_name=self.call.name,
                call_id=self.call.call_id,
                message=message,
            )
        output = make_tool_output(fnc_call=self.call, output=text, exception=None)
        self._executor.announce(
            ToolCallUpdated(
                id=self.call.call_id
                if self.updates == 1
                else f"{self.call.call_id}_update_{self.updates - 1}",
                call_id=self.call.call_id,
                message=str(message),
                silent=silent,
            )
        )
        if silent and output.fnc_call_out is not None:
            output.fnc_call_out.reply_required = False
        if self.updates == 1 and not self.output_fut.done():
            mark_non_blocking(self.call)
            output.reply_tool_choice = "none"
            self.output_fut.set_result(output)
        else:
            self._executor.deliver(self, output, suffix=f"update_{self.updates - 1}")

    def release(self) -> None:
        """Let the turn go on as if the tool had reported that it still runs."""
        if self.output_fut.done():
            return
        self.updates += 1
        mark_non_blocking(self.call)
        output = make_tool_output(fnc_call=self.call, output=_STILL_RUNNING, exception=None)
        if output.fnc_call_out is not None:
            output.fnc_call_out.reply_required = False
        logger.warning(
            'the tool "%s" still runs after its speech was interrupted; its result will be told '
            "later",
            self.call.name,
        )
        self.output_fut.set_result(output)

    async def wait_for_own_reply(self) -> None:
        """Wait for a deferred reply to an earlier report of this tool, if one is pending."""
        if self._reply is not None and not self._reply.done():
            await asyncio.wait((self._reply,))


class ToolExecutor:
    """The running tools of one activity, or of an `AsyncToolset` that outlives activities."""

    def __init__(
        self,
        owner: Any,
        *,
        options: NotGivenOr[ToolHandlingOptions] = NOT_GIVEN,
        name: str | None = None,
    ) -> None:
        self._owner = owner
        self._options = options
        self._scope = TaskScope(name or "tools")
        self._excused: dict[asyncio.Task[Any], int] = {}
        self._excused_changed: asyncio.Future[None] | None = None
        self._closed = False
        self._cut = False
        self._spare: frozenset[asyncio.Task[Any]] = frozenset()
        self.running: dict[str, RunningTool] = {}
        self.pending = PendingResults()

    @property
    def session(self) -> AgentSession[Any]:
        """The session whose tools run here."""
        session: AgentSession[Any] = getattr(self._owner, "session", self._owner)
        return session

    @property
    def activity(self) -> AgentActivity | None:
        """Who tells late results: the owning activity, or whichever is on duty."""
        return self._owner if hasattr(self._owner, "scheduler") else self.session._activity

    def spawn(self, coro: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Start a task that ends with the tools."""
        return self._scope.spawn(coro, name=name)

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
        import time

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
        ):
            running.task = self._scope.spawn(
                self._run(running, owner), name=f'tool "{call.name}"', log_errors=False
            )
        running.task.add_done_callback(lambda task: self._task_ended(running, task))
        return running

    async def _run(self, running: RunningTool, owner: InlineOwner) -> None:
        owner.claim()
        self.announce(ToolCallStarted(function_call=running.call))
        output: Any = None
        error: BaseException | None = None
        try:
            output = await self._call(running)
        except asyncio.CancelledError as cancelled:
            # a tool may raise it by itself, or be cancelled as CANCELLABLE: either way it ended
            error = cancelled
            if not running.ended:
                self._finish(running, output, error)
            raise
        except Exception as raised:
            error = raised
            if not isinstance(raised, (ToolError, StopResponse)):
                logger.exception('the tool "%s" failed', running.call.name)
        self._finish(running, output, error)

    async def _call(self, running: RunningTool) -> Any:
        from ..llm.utils import prepare_function_arguments, run_tool
        from .run_result import find_mock

        mock = find_mock(running.ctx.session, running.call.name)
        args, kwargs = prepare_function_arguments(
            fnc=running._tool,
            json_arguments=running.call.arguments,
            call_ctx=running.ctx,
            fnc_call=running.call,
        )
        if mock is not None:
            return await mock(running._tool, args, kwargs)
        return await run_tool(running._tool, args, kwargs)

    def _task_ended(self, running: RunningTool, task: asyncio.Task[None]) -> None:
        if not running.ended:  # cancelled before it ran at all
            self._finish(running, None, asyncio.CancelledError())
        self._wake()

    def _finish(self, running: RunningTool, output: Any, error: BaseException | None) -> None:
        """The tool has ended: resolve its output, or deliver it later if the turn went on."""
        if running.ended:
            return
        running.ended = True
        self.running.pop(running.call.call_id, None)
        cancelled = isinstance(error, asyncio.CancelledError)
        result = make_tool_output(
            fnc_call=running.call, output=output, exception=None if cancelled else error
        )
        if cancelled and result.fnc_call_out is not None:
            result.fnc_call_out.reply_required = False
        self._announce_end(running, result, cancelled=cancelled)
        if not running.output_fut.done():
            running.output_fut.set_result(result)
        elif not cancelled:
            self.deliver(running, result, suffix="final")
        self._after_tool()

    def _announce_end(
        self, running: RunningTool, result: ToolExecutionOutput, *, cancelled: bool
    ) -> None:
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
            state.arm_away()

    def announce(self, update: Any) -> None:
        """Emit `tool_execution_updated`; nothing once the tools were cut off."""
        if not self._cut:
            self.session._progress.touch()
            self.session.emit("tool_execution_updated", ToolExecutionUpdatedEvent(update=update))

    def template(self, name: str) -> Any:
        """A text of the options, or its default."""
        defaults = {
            "update_template": UPDATE_TEMPLATE,
            "duplicate_reject_template": DUPLICATE_REJECT,
            "duplicate_confirm_template": DUPLICATE_CONFIRM,
            "reply_at_tail_template": REPLY_INSTRUCTIONS_AT_TAIL,
            "reply_maybe_covered_template": REPLY_INSTRUCTIONS_MAYBE_COVERED,
        }
        options = self._options if is_given(self._options) else ToolHandlingOptions()
        given = cast("dict[str, Any]", options.get("async_options", {}))
        return given.get(name, defaults[name])

    # -- results that come after their turn --------------------------------------------------------

    def deliver(self, running: RunningTool, output: ToolExecutionOutput, *, suffix: str) -> None:
        """Put a late result into the history, and have the agent tell it when there is room."""
        if self._cut or output.fnc_call_out is None:
            return
        deliver(self, running, output, suffix=suffix)

    def placeholders(self) -> list[tuple[FunctionCall, FunctionCallOutput]]:
        """For each running tool a call and an output that say so, for the next request only."""
        pairs: list[tuple[FunctionCall, FunctionCallOutput]] = []
        for tool in self.running.values():
            call = tool.call
            pairs.append(
                (
                    call.model_copy(
                        update={
                            "id": f"{call.id}_running",
                            "extra": {**call.extra, "lk_running": True},
                        }
                    ),
                    FunctionCallOutput(
                        id=f"{call.id}_running_output",
                        name=call.name,
                        call_id=call.call_id,
                        output=_STILL_RUNNING,
                        is_error=False,
                        reply_required=False,
                    ),
                )
            )
        return pairs

    # -- ending -----------------------------------------------------------------------------------

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
        """The output of a tool that a close cuts off: cancelled, as far as the history knows."""
        if tool.ended or tool.output_fut.done():
            return None
        tool.ended = True
        self.running.pop(tool.call.call_id, None)
        output = make_tool_output(
            fnc_call=tool.call,
            output=None,
            exception=ToolError("the call was cancelled, the session closed before it ended"),
        )
        if output.fnc_call_out is not None:
            output.fnc_call_out.reply_required = False
        self._announce_end(tool, output, cancelled=True)
        tool.output_fut.set_result(output)
        return output

    def cut_off(self, *, spare: frozenset[asyncio.Task[Any]] = frozenset()) -> None:
        """Cancel every tool now, without waiting; what they still do reaches nothing."""
        for tool in list(self.running.values()):
            self.cut_off_output(tool)
            if not tool.ended:  # it was released earlier; its final result will not come
                tool.ended = True
                self.announce(
                    ToolCallEnded(
                        id=f"{tool.call.call_id}_final",
                        call_id=tool.call.call_id,
                        status="cancelled",
                    )
                )
        self.running.clear()
        self._cut = self._closed = True
        self._spare |= spare
        self._scope.cancel_soon(spare=self._spare)
        self._wake()

    async def aclose(self, timeout: float) -> list[Survivor]:
        """Cancel what is left, wait at most `timeout` seconds, return what ignored it."""
        self._closed = True
        return await self._scope.cancel(timeout, spare=self._spare)


def render(template: Any, **values: str) -> str:
    """Fill a `str.format` template, or call a callable one."""
    return str(template(values)) if callable(template) else str(template).format(**values)


def has_cancellable_tool(tools: list[Any]) -> bool:
    """Whether any tool, nested ones included, is flagged `CANCELLABLE`."""
    for tool in tools:
        if isinstance(tool, Toolset):
            if has_cancellable_tool(list(tool.tools)):
                return True
        elif getattr(getattr(tool, "info", None), "flags", ToolFlag.NONE) & ToolFlag.CANCELLABLE:
            return True
    return False


def _executors(session: AgentSession[Any]) -> list[ToolExecutor]:
    activity = session._activity
    return [activity.tool_executor] if activity is not None else []


@function_tool(name="lk_agents_cancel_task")
async def cancel_task(ctx: RunContext[Any], call_id: str) -> str:
    """Cancel a running function call. Only when the user asks for it.

    Args:
        call_id: The id of the call to cancel.
    """
    for executor in _executors(ctx.session):
        tool = executor.running.get(call_id)
        if tool is None:
            continue
        if not tool.cancellable:
            raise ToolError(f"the call {call_id} of {tool.call.name} can't be cancelled")
        if not tool.ctx.speech_handle.allow_interruptions and not tool.ctx.speech_handle.done():
            raise ToolError(f"the call {call_id} belongs to speech that can't be interrupted")
        tool.cancel()
        if tool.task is not None:
            await wait_until(tool.task, 5.0)
        return f"cancelled {tool.call.name} ({call_id})"
    raise ToolError(f"there is no running call {call_id}")


@function_tool(name="lk_agents_get_running_tasks")
async def get_running_tasks(ctx: RunContext[Any]) -> list[dict[str, Any]]:
    """List the function calls that are running and can be cancelled."""
    return [
        {
            "call_id": tool.call.call_id,
            "function_name": tool.call.name,
            "arguments": json.loads(tool.call.arguments or "{}"),
        }
        for executor in _executors(ctx.session)
        for tool in executor.running.values()
        if tool.cancellable
    ]
