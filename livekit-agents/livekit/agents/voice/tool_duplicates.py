"""Calls of a tool that is running already: refused, confirmed, or put in the place of the first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..llm import ToolError
from ..llm.tool_context import CONFIRM_DUPLICATE_PARAM
from ..utils.aio import wait_until
from .tool_options import render

if TYPE_CHECKING:
    from .running_tool import RunningTool
    from .tool_executor import ToolExecutor

REPLACE_TIMEOUT = 5.0
"""Seconds a running call gets to end when another one takes its place."""


async def refusal(executor: ToolExecutor, new: RunningTool) -> str | None:
    """Apply the tool's `on_duplicate` to a new call, before it runs.

    Returns:
        What the model reads instead of a result; None if the call may run.

    Raises:
        ToolError: A running call can't be replaced.
    """
    mode = new.tool.info.on_duplicate
    if mode == "allow":
        return None
    running = _duplicates(executor, new)
    if not running or (mode == "confirm" and _confirmed(new)):
        return None
    if mode == "replace":
        await _cancel(running)
        return None
    return render(
        executor.template(f"duplicate_{mode}_template"),
        function_name=new.call.name,
        fnc_calls_json=json.dumps([describe(tool) for tool in running], ensure_ascii=False),
        fnc_calls_text="\n".join(
            f"- call {tool.call.call_id}: {tool.call.name}({tool.call.arguments})"
            for tool in running
        ),
    )


def describe(tool: RunningTool) -> dict[str, Any]:
    """A running call, as data for a model."""
    return {
        "call_id": tool.call.call_id,
        "function_name": tool.call.name,
        "arguments": arguments_of(tool),
    }


def arguments_of(tool: RunningTool) -> dict[str, Any]:
    """The arguments as the model wrote them."""
    arguments: dict[str, Any] = json.loads(tool.call.arguments or "{}")
    return arguments


def _duplicates(executor: ToolExecutor, new: RunningTool) -> list[RunningTool]:
    """The calls that were there before: a later one never refuses an earlier one."""
    earlier: list[RunningTool] = []
    for tool in executor.running.values():
        if tool is new:
            break
        if tool.call.name == new.call.name and not tool.ended:
            earlier.append(tool)
    if new.tool.info.duplicate_scope == "name" or not earlier:
        return earlier
    key = _key(new)
    return [tool for tool in earlier if _key(tool) == key]


def _key(tool: RunningTool) -> str:
    """Equal for equal arguments, however they are written."""
    from pydantic_core import to_jsonable_python

    from ..llm.utils import validated_arguments

    arguments = arguments_of(tool)
    try:
        arguments = to_jsonable_python(validated_arguments(tool.tool, arguments))
    except Exception:  # anything user types may raise: compare what the model wrote
        arguments = dict(arguments)
    arguments.pop(CONFIRM_DUPLICATE_PARAM, None)
    return json.dumps(arguments, sort_keys=True, default=str)


def _confirmed(tool: RunningTool) -> bool:
    return arguments_of(tool).get(CONFIRM_DUPLICATE_PARAM) in (True, "true", "True")


async def _cancel(running: Sequence[RunningTool]) -> None:
    for tool in running:
        if not tool.cancellable:
            raise ToolError(
                f"the running call {tool.call.call_id} of {tool.call.name} can't be cancelled, so "
                "it can't be replaced; wait for its result"
            )
    for tool in running:
        tool.cancel()
    await wait_until([tool.task for tool in running if tool.task is not None], REPLACE_TIMEOUT)
    stuck = [tool.call.call_id for tool in running if not tool.ended]
    if stuck:
        raise ToolError(f"the running calls {', '.join(stuck)} did not end, so they stay")
