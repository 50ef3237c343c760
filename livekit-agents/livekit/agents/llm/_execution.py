"""Running a tool call, and turning its outcome into what the model gets to read."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import inspect
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from ..log import logger
from ._arguments import prepare_function_arguments
from ._tools import FunctionTool, RawFunctionTool, StopResponse, ToolError, ToolResult
from .chat_context import FunctionCall, FunctionCallOutput

if TYPE_CHECKING:
    from ..voice.run_context import RunContext
    from .llm import FunctionToolCall
    from .tool_context import ToolContext

_T = TypeVar("_T")

_INTERNAL_ERROR = "An internal error occurred"
_INVALID_OUTPUT = "the tool returned an invalid output"


@dataclass
class FunctionCallResult:
    """A tool call and its outcome."""

    fnc_call: FunctionCall
    fnc_call_out: FunctionCallOutput | None
    """What goes into the chat context."""
    raw_output: Any
    """What the tool returned."""
    raw_exception: BaseException | None
    """What the tool raised."""
    fnc_call_updates: list[Any] = field(default_factory=list)
    """Calls and outputs of the progress reports the tool made."""


def make_function_call_output(
    *, fnc_call: FunctionCall, output: Any, exception: BaseException | None
) -> FunctionCallResult:
    """Turn what a tool returned or raised into a `FunctionCallOutput`.

    Text and numbers are passed on as `str`, everything else that JSON can express as JSON: lists,
    dicts, pydantic models, dataclasses. The model learns the text of a `ToolError`, but not that of
    other exceptions.

    Args:
        fnc_call: The call.
        output: What the tool returned. An exception counts as raised.
        exception: What the tool raised, if anything.
    """
    if isinstance(output, BaseException):
        exception = output

    def result(text: str, *, is_error: bool, reply_required: bool) -> FunctionCallResult:
        return FunctionCallResult(
            fnc_call=fnc_call,
            fnc_call_out=FunctionCallOutput(
                name=fnc_call.name,
                call_id=fnc_call.call_id,
                output=text,
                is_error=is_error,
                reply_required=reply_required,
            ),
            raw_output=output,
            raw_exception=exception,
        )

    if isinstance(exception, ToolError):
        return result(exception.message, is_error=True, reply_required=True)
    if isinstance(exception, StopResponse):
        return result("", is_error=False, reply_required=False)
    if exception is not None:
        return result(_INTERNAL_ERROR, is_error=True, reply_required=True)
    value, reply_required = output, True
    if isinstance(output, ToolResult):
        value, reply_required = output.output, output.reply_required
    try:
        text = output_text(value)
    except (TypeError, ValueError, RecursionError) as e:
        logger.error(
            "the tool %r returned a value of type %s, which can't be shown to a model: %s",
            fnc_call.name,
            type(value).__name__,
            e,
            extra={"call_id": fnc_call.call_id},
        )
        return result(_INVALID_OUTPUT, is_error=True, reply_required=reply_required)
    return result(text, is_error=False, reply_required=reply_required)


def output_text(value: Any) -> str:
    """What a model gets to read of a value that a tool returned.

    Raises:
        TypeError: The value, or one inside it, is neither text, number, None, container, pydantic
            model nor dataclass.
        ValueError: A container contains itself.
    """
    if value is None:
        return ""
    if isinstance(value, str | int | float | complex):
        return str(value)
    return json.dumps(_jsonable(value), ensure_ascii=False)


def _jsonable(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, complex):
        return str(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item) for item in value]
    if isinstance(value, dict):
        return {_key(key): _jsonable(item) for key, item in value.items()}
    model_dump = getattr(value, "model_dump", None)
    if callable(model_dump) and not isinstance(value, type):
        return model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            each.name: _jsonable(getattr(value, each.name)) for each in dataclasses.fields(value)
        }
    raise TypeError(
        f"{type(value).__name__} is not text, a number, None, a list, tuple, set, dict, pydantic "
        "model or dataclass"
    )


def _key(key: Any) -> Any:
    if key is None or isinstance(key, str | int | float):
        return key
    if isinstance(key, complex):
        return str(key)
    raise TypeError(f"{type(key).__name__} can't be a key of a dict that is shown to a model")


async def execute_function_call(
    tool_call: FunctionToolCall,
    tool_ctx: ToolContext,
    *,
    call_ctx: RunContext[Any] | None = None,
) -> FunctionCallResult:
    """Run a tool call outside of a voice session.

    A tool that fails gives an output that says so; nothing is raised for it. A function that isn't
    `async` runs on the event loop.

    Args:
        tool_call: What the model asked for.
        tool_ctx: The tools it may call.
        call_ctx: Passed to the parameters annotated with `RunContext`.
    """
    fnc_call = FunctionCall(
        call_id=tool_call.call_id,
        name=tool_call.name,
        arguments=tool_call.arguments or "{}",
        extra=dict(tool_call.extra or {}),
    )
    tool = tool_ctx.get_function_tool(tool_call.name)
    if tool is None:
        return unknown_function(fnc_call, tool_ctx)
    output: Any = None
    exception: Exception | None = None
    try:
        args, kwargs = prepare_function_arguments(
            fnc=tool, json_arguments=fnc_call.arguments, call_ctx=call_ctx, fnc_call=fnc_call
        )
        output = tool(*args, **kwargs)
        if inspect.isawaitable(output):
            output = await output
    except Exception as e:
        exception = e
        if not isinstance(e, ToolError | StopResponse):
            logger.exception(
                "the tool %r failed", tool_call.name, extra={"call_id": tool_call.call_id}
            )
    result = make_function_call_output(fnc_call=fnc_call, output=output, exception=exception)
    if call_ctx is not None:
        result.fnc_call_updates = list(getattr(call_ctx, "_updates", ()))
    return result


def unknown_function(fnc_call: FunctionCall, tool_ctx: ToolContext) -> FunctionCallResult:
    """The outcome of a call of a tool that isn't there; the model learns which ones are."""
    text = (
        f"Unknown function: {fnc_call.name} - available tools: {', '.join(tool_ctx.function_tools)}"
    )
    logger.warning("the model called an unknown tool: %s", text)
    result = make_function_call_output(fnc_call=fnc_call, output=None, exception=ToolError(text))
    result.raw_exception = ValueError(text)
    return result


async def run_tool(
    tool: FunctionTool[..., Any] | RawFunctionTool[..., Any] | Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Call a tool without ever blocking the event loop.

    A function that isn't `async` runs in a thread, see `run_in_daemon_thread`.
    """
    if _is_async(tool):
        return await tool(*args, **kwargs)
    output = await run_in_daemon_thread(
        lambda: tool(*args, **kwargs), name=f"tool {getattr(tool, '__name__', tool)}"
    )
    # A plain function may have returned a coroutine, as a lambda does: that is for the loop.
    return await output if inspect.isawaitable(output) else output


def _is_async(function: Any) -> bool:
    function = inspect.unwrap(function)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        type(function).__call__
    )


async def run_in_daemon_thread(function: Callable[[], _T], *, name: str) -> _T:
    """Run blocking code in a new daemon thread, which unlike an executor's can't hold up an exit.

    The code sees the caller's context variables. It can't be interrupted, so a cancellation takes
    effect when it returns: until then the calling task counts as one that ignores it.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    context = contextvars.copy_context()
    results: list[_T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(context.run(function))
        except BaseException as e:
            errors.append(e)
        try:
            loop.call_soon_threadsafe(ended.set)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    threading.Thread(target=work, name=name, daemon=True).start()
    cancelled = False
    while not ended.is_set():
        try:
            await ended.wait()
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    if errors:
        raise errors[0]
    return results[0]
