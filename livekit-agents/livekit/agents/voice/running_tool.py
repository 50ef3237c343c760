"""One tool call in progress: what it reports, and how the turn goes on without it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ..llm import FunctionCall, FunctionCallOutput
from ..llm.tool_context import ToolFlag
from ..log import logger
from .events import ToolCallUpdated
from .generation import ToolExecutionOutput, make_tool_output
from .run_context import RunContext, mark_non_blocking
from .tool_options import render

if TYPE_CHECKING:
    from .tool_executor import ToolExecutor
    from .tool_tracing import ToolTrace

STILL_RUNNING = "In progress: the result will follow by itself. Do not call the function again."
"""What the model reads of a tool that has not reported anything yet."""


class RunningTool:
    """One tool call in progress. `output_fut` gets the output that its turn goes on with."""

    def __init__(
        self,
        executor: ToolExecutor,
        call: FunctionCall,
        ctx: RunContext[Any],
        tool: Any,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.executor = executor
        self.tool = tool
        self.call = call
        self.ctx = ctx
        self.task: asyncio.Task[None] | None = None
        self.output_fut: asyncio.Future[ToolExecutionOutput] = loop.create_future()
        self.updates = 0
        self.started = False
        """Whether its body began; a duplicate that was refused never does."""
        self.ended = False
        self.trace: ToolTrace | None = None
        self.reply: asyncio.Future[None] | None = None
        """The deferred reply to its last report, if one is wanted."""

    def __str__(self) -> str:
        return f'tool "{self.call.name}" (call {self.call.call_id})'

    @property
    def cancellable(self) -> bool:
        """Whether it may be cancelled at any time."""
        return bool(self.tool.info.flags & ToolFlag.CANCELLABLE)

    @property
    def agent_id(self) -> str | None:
        """Whose reply made the call."""
        activity = self.ctx._activity
        return activity.agent.id if activity is not None else None

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
            self.ctx._record(message)
            return
        output = self._report(message, template, silent)
        self.updates += 1
        first = self.updates == 1
        suffix = f"update_{self.updates - 1}"
        self.executor.announce(
            ToolCallUpdated(
                id=self.call.call_id if first else f"{self.call.call_id}_{suffix}",
                call_id=self.call.call_id,
                message=str(message),
                silent=silent,
            )
        )
        if first:
            mark_non_blocking(self.call)
            output.reply_tool_choice = "none"
            self.output_fut.set_result(output)
        else:
            self.executor.deliver(self, output, suffix=suffix)

    def _report(self, message: Any, template: Any, silent: bool) -> ToolExecutionOutput:
        text = message
        if isinstance(message, str):
            if template is None:
                template = self.executor.template("update_template")
            text = render(
                template,
                function_name=self.call.name,
                call_id=self.call.call_id,
                message=message,
            )
        output = make_tool_output(fnc_call=self.call, output=text, exception=None)
        if silent and output.fnc_call_out is not None:
            output.fnc_call_out.reply_required = False
        return output

    def release(self) -> ToolExecutionOutput | None:
        """Let the turn go on as if the tool had reported that it still runs.

        Returns:
            The output of the turn; None if the turn does not wait for this tool.
        """
        if self.output_fut.done():
            return None
        self.updates += 1
        mark_non_blocking(self.call)
        output = make_tool_output(fnc_call=self.call, output=STILL_RUNNING, exception=None)
        if output.fnc_call_out is not None:
            output.fnc_call_out.reply_required = False
        logger.warning(
            'the tool "%s" still runs after its speech was interrupted; its result will be told '
            "later",
            self.call.name,
            extra={"call_id": self.call.call_id},
        )
        self.output_fut.set_result(output)
        return output

    async def wait_for_own_reply(self) -> None:
        """Wait for a deferred reply to an earlier report of this tool, if one is pending."""
        if self.reply is not None and not self.reply.done():
            await asyncio.wait((self.reply,))

    def placeholder(self) -> tuple[FunctionCall, FunctionCallOutput]:
        """A call and an output that tell a model that the tool runs. Never part of a history."""
        call = self.call
        return (
            call.model_copy(
                update={"id": f"{call.id}_running", "extra": {**call.extra, "lk_running": True}}
            ),
            FunctionCallOutput(
                id=f"{call.id}_running_output",
                name=call.name,
                call_id=call.call_id,
                output=STILL_RUNNING,
                is_error=False,
                reply_required=False,
            ),
        )
