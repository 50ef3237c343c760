"""The two tools with which a model lists and cancels the running calls of its session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..llm import Tool, ToolError, Toolset, function_tool
from ..llm.tool_context import ToolFlag
from ..utils.aio import wait_until
from .run_context import RunContext
from .tool_duplicates import describe

if TYPE_CHECKING:
    from .running_tool import RunningTool

_CANCEL_TIMEOUT = 5.0
"""Seconds that the model waits for a call it cancels to end."""


def has_cancellable_tool(tools: Sequence[Tool | Toolset]) -> bool:
    """Whether any tool, nested ones included, is flagged `CANCELLABLE`."""
    for tool in tools:
        if isinstance(tool, Toolset):
            if has_cancellable_tool(tool.tools):
                return True
        elif getattr(getattr(tool, "info", None), "flags", ToolFlag.NONE) & ToolFlag.CANCELLABLE:
            return True
    return False


@function_tool(name="lk_agents_cancel_task")
async def cancel_task(ctx: RunContext[Any], call_id: str) -> str:
    """Cancel a running function call. Only when the user asks for it.

    Args:
        call_id: The id of the call to cancel.
    """
    tool = next((t for t in _running(ctx) if t.call.call_id == call_id), None)
    if tool is None:
        raise ToolError(f"there is no running call {call_id}")
    if not tool.cancellable:
        raise ToolError(f"the call {call_id} of {tool.call.name} can't be cancelled")
    if not tool.ctx.speech_handle.allow_interruptions:
        raise ToolError(f"the call {call_id} belongs to speech that can't be interrupted")
    tool.cancel()
    if tool.task is not None:
        await wait_until(tool.task, _CANCEL_TIMEOUT)
    if not tool.ended:
        return f"{tool.call.name} ({call_id}) was asked to stop, and has not ended yet"
    return f"cancelled {tool.call.name} ({call_id})"


@function_tool(name="lk_agents_get_running_tasks")
async def get_running_tasks(ctx: RunContext[Any]) -> list[dict[str, Any]]:
    """List the function calls that are running and can be cancelled."""
    return [describe(tool) for tool in _running(ctx) if tool.cancellable]


def _running(ctx: RunContext[Any]) -> list[RunningTool]:
    executors = ctx.session._tool_executors()
    return [tool for executor in executors for tool in executor.running.values()]
