"""Parameters that take the `RunContext`: filled in by the framework, unknown to the model."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Annotated, Any, Optional

import pytest

from fakes.llm import call
from livekit.agents.llm import FunctionCall
from livekit.agents.llm.tool_context import ToolContext, ToolError, function_tool
from livekit.agents.llm.utils import (
    build_legacy_openai_schema,
    execute_function_call,
    is_context_type,
    prepare_function_arguments,
)
from livekit.agents.voice.run_context import RunContext


class MyContext(RunContext[int]):
    pass


def context(kind: type[RunContext[Any]] = RunContext) -> RunContext[Any]:
    speech: Any = SimpleNamespace(num_steps=1)
    session: Any = None
    asked = FunctionCall(call_id="1", name="f", arguments="{}")
    return kind(session=session, speech_handle=speech, function_call=asked)


@function_tool
async def greet(ctx: RunContext[int], name: str, other: Optional[RunContext] = None) -> Any:  # noqa: UP045
    return ctx, name, other


@function_tool(raw_schema={"name": "raw", "parameters": {}})
async def raw(raw_arguments: dict[str, object], ctx: RunContext) -> Any:
    return ctx, raw_arguments


@pytest.mark.parametrize(
    ("annotation", "exact", "with_subclasses"),
    [
        (RunContext, True, True),
        (RunContext[int], True, True),
        (MyContext, False, True),
        (int, False, False),
        (list[RunContext], False, False),
        ("RunContext", False, False),
    ],
)
def test_what_counts_as_a_context(annotation: Any, exact: bool, with_subclasses: bool) -> None:
    assert is_context_type(annotation) is exact
    assert is_context_type(annotation, allow_subclasses=True) is with_subclasses


def test_the_model_does_not_learn_of_it() -> None:
    @function_tool
    async def f(a: Annotated[RunContext, "x"], b: MyContext, c: RunContext | None, d: int) -> None:
        """Does it."""

    parameters = build_legacy_openai_schema(f)["function"]["parameters"]
    assert list(parameters["properties"]) == ["d"]


async def test_it_is_filled_in() -> None:
    ctx = context()
    result = await execute_function_call(
        call("greet", '{"name": "you"}'), ToolContext([greet]), call_ctx=ctx
    )
    assert result.raw_output == (ctx, "you", ctx)
    result = await execute_function_call(call("raw", '{"x": 1}'), ToolContext([raw]), call_ctx=ctx)
    assert result.raw_output == (ctx, {"x": 1})


def test_without_one_the_model_is_told_that_it_cannot_be_called() -> None:
    with pytest.raises(ToolError, match="missing a required argument: 'ctx'"):
        prepare_function_arguments(fnc=greet, json_arguments='{"name": "you"}')


def test_one_of_the_wrong_kind_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    @function_tool
    async def f(ctx: MyContext | None = None) -> None: ...

    with caplog.at_level(logging.ERROR):
        args = prepare_function_arguments(fnc=f, json_arguments="{}", call_ctx=context())
    assert args == ((None,), {}) and "expects a MyContext" in caplog.text
    mine = context(MyContext)
    assert prepare_function_arguments(fnc=f, json_arguments="{}", call_ctx=mine) == ((mine,), {})


async def test_progress_reports_are_handed_over() -> None:
    @function_tool
    async def f(ctx: RunContext) -> None:
        await ctx.update("half way")

    result = await execute_function_call(call("f"), ToolContext([f]), call_ctx=context())
    assert len(result.fnc_call_updates) == 1
