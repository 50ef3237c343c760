"""Running tool calls outside of a session, and what the model gets to read of the outcome."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import threading
import time
from typing import Any

import pytest
from pydantic import BaseModel

from fakes.llm import call
from livekit.agents.llm import FunctionCall
from livekit.agents.llm.tool_context import (
    StopResponse,
    ToolContext,
    ToolError,
    ToolResult,
    function_tool,
)
from livekit.agents.llm.utils import (
    FunctionCallResult,
    execute_function_call,
    make_function_call_output,
    run_in_daemon_thread,
    run_tool,
)
from livekit.agents.utils.aio import TaskScope, abandoned

CALL = FunctionCall(call_id="call_1", name="f", arguments="{}")


def outcome(output: Any = None, exception: BaseException | None = None) -> FunctionCallResult:
    return make_function_call_output(fnc_call=CALL, output=output, exception=exception)


def shown(result: FunctionCallResult) -> tuple[str, bool, bool]:
    out = result.fnc_call_out
    assert out is not None and (out.name, out.call_id) == ("f", "call_1")
    return out.output, out.is_error, out.reply_required


class Point(BaseModel):
    x: int


@dataclasses.dataclass
class Pair:
    a: int
    b: Point


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("hi", "hi"),
        (3, "3"),
        (2.5, "2.5"),
        (True, "True"),
        (1 + 2j, "(1+2j)"),
        (["a", 1, None], '["a", 1, null]'),
        (("ü",), '["ü"]'),
        ({"a": [1]}, '{"a": [1]}'),
        ({1}, "[1]"),
        (frozenset({"x"}), '["x"]'),
        (Point(x=1), '{"x": 1}'),
        ([Point(x=1)], '[{"x": 1}]'),
        (Pair(1, Point(x=2)), '{"a": 1, "b": {"x": 2}}'),
        ([1j, {2j: 1}], '["1j", {"2j": 1}]'),
    ],
)
def test_values_become_text(value: Any, text: str) -> None:
    result = outcome(value)
    assert shown(result) == (text, False, True)
    assert result.raw_output == value and result.raw_exception is None
    assert result.fnc_call is CALL


def circular() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    "value",
    [b"bytes", object(), [object()], {(1, 2): 3}, Point, circular()],
    ids=["bytes", "an object", "a list of objects", "a tuple as key", "a class", "a circle"],
)
def test_what_cannot_be_shown_is_an_error(value: Any) -> None:
    assert shown(outcome(value)) == ("the tool returned an invalid output", True, True)


def test_a_tool_result_says_whether_to_reply() -> None:
    assert shown(outcome(ToolResult([1], reply_required=False))) == ("[1]", False, False)
    assert shown(outcome(ToolResult(b"", reply_required=False)))[1:] == (True, False)


def test_exceptions() -> None:
    stop, error, bug = StopResponse(), ToolError("no such city"), KeyError("secret")
    assert shown(outcome(exception=error)) == ("no such city", True, True)
    assert shown(outcome(exception=stop)) == ("", False, False)
    assert shown(outcome(exception=bug)) == ("An internal error occurred", True, True)
    assert shown(outcome(exception=asyncio.CancelledError()))[1] is True
    assert shown(outcome(error)) == ("no such city", True, True)  # returned, not raised
    assert outcome(exception=bug).raw_exception is bug


# -- executing


@function_tool
async def double(n: int) -> int:
    return n * 2


@function_tool
def triple(n: int) -> int:
    return n * 3


@function_tool
async def fails() -> None:
    raise KeyError("secret")


@function_tool
async def refuses() -> None:
    raise ToolError("not today")


@function_tool
async def stops() -> None:
    raise StopResponse


@function_tool(raw_schema={"name": "raw", "parameters": {}}, on_duplicate="confirm")
async def raw(raw_arguments: dict[str, object]) -> object:
    return raw_arguments


TOOLS = ToolContext([double, triple, fails, refuses, stops, raw])


async def test_a_call_is_run() -> None:
    result = await execute_function_call(call("double", '{"n": 2}', "c1"), TOOLS)
    assert result.fnc_call.arguments == '{"n": 2}' and result.fnc_call.call_id == "c1"
    assert result.fnc_call_out is not None and result.fnc_call_out.output == "4"
    assert result.raw_output == 4 and result.fnc_call_updates == []
    result = await execute_function_call(call("triple", '{"n": "2"}'), TOOLS)
    assert result.raw_output == 6


async def test_the_extra_of_a_call_is_kept_and_no_arguments_are_an_object() -> None:
    asked = call("stops", "")
    asked.extra = {"google": {"thought": "x"}}
    result = await execute_function_call(asked, TOOLS)
    assert result.fnc_call.arguments == "{}" and result.fnc_call.extra == asked.extra
    assert result.fnc_call.extra is not asked.extra


async def test_an_unknown_tool_is_answered_with_those_there_are() -> None:
    result = await execute_function_call(call("quadruple"), TOOLS)
    assert result.fnc_call_out is not None and result.fnc_call_out.is_error
    text = (
        "Unknown function: quadruple - available tools: double, triple, fails, refuses, stops, raw"
    )
    assert result.fnc_call_out.output == text
    assert isinstance(result.raw_exception, ValueError) and str(result.raw_exception) == text


async def test_only_bugs_are_logged_with_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("refuses", "stops"):
        await execute_function_call(call(name), TOOLS)
    result = await execute_function_call(call("double", "{}"), TOOLS)
    assert result.fnc_call_out is not None
    assert result.fnc_call_out.output.startswith("Error parsing arguments for `double`: ")
    assert [record for record in caplog.records if record.exc_info] == []
    result = await execute_function_call(call("fails"), TOOLS)
    assert isinstance(result.raw_exception, KeyError)
    assert [record for record in caplog.records if record.exc_info] != []


async def test_the_confirmation_of_a_duplicate_does_not_reach_a_raw_tool() -> None:
    text = '{"x": 1, "lk_agents_confirm_duplicate": true}'
    result = await execute_function_call(call("raw", text), TOOLS)
    assert result.raw_output == {"x": 1}


async def test_a_cancelled_call_is_no_result() -> None:
    @function_tool
    async def waits() -> None:
        await asyncio.sleep(60.0)

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(execute_function_call(call("waits"), ToolContext([waits])), 1.0)


# -- without blocking the loop

who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


async def test_a_blocking_tool_runs_in_a_daemon_thread_with_the_callers_context() -> None:
    @function_tool
    def blocking(n: int) -> tuple[int, str, bool]:
        thread = threading.current_thread()
        assert thread is not threading.main_thread()
        return n, who.get(), thread.daemon

    who.set("me")
    assert await run_tool(blocking, (3,), {}) == (3, "me", True)


async def test_an_async_tool_and_a_coroutine_from_a_plain_function_run_on_the_loop() -> None:
    @function_tool
    async def here() -> bool:
        return threading.current_thread() is threading.main_thread()

    assert await run_tool(here, (), {})
    assert await run_tool(lambda: here(), (), {})


async def test_failures_of_blocking_code_are_raised() -> None:
    with pytest.raises(ToolError, match="no"):
        await run_in_daemon_thread(lambda: _raise(ToolError("no")), name="t")
    with pytest.raises(RuntimeError, match="StopIteration"):
        await run_in_daemon_thread(lambda: _raise(StopIteration()), name="t")


def _raise(error: BaseException) -> None:
    raise error


async def test_blocking_code_that_does_not_end_is_a_survivor() -> None:
    go_on = threading.Event()
    scope = TaskScope("tools")
    scope.spawn(run_in_daemon_thread(go_on.wait, name="tool sleepy"), name="sleepy")
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    (survivor,) = await scope.cancel(0.5)
    assert asyncio.get_running_loop().time() - began <= 0.5
    assert survivor.name == "sleepy" and "run_in_daemon_thread" in survivor.stack
    go_on.set()
    await asyncio.wait(list(abandoned()))


async def test_cancelling_takes_effect_when_blocking_code_returns() -> None:
    task = asyncio.ensure_future(run_in_daemon_thread(lambda: time.sleep(0.05), name="t"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
