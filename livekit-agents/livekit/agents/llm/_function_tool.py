"""`@function_tool`: makes a function callable by a model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast, overload

from typing_extensions import ParamSpec

from ._tools import (
    CONFIRM_DUPLICATE_DESCRIPTION,
    CONFIRM_DUPLICATE_PARAM,
    RAW_ARGUMENTS,
    DuplicateMode,
    DuplicateScope,
    FunctionTool,
    FunctionToolInfo,
    RawFunctionDescription,
    RawFunctionTool,
    RawFunctionToolInfo,
    ToolFlag,
    _DocumentedToolInfo,
)

_P = ParamSpec("_P")
_R = TypeVar("_R")


@overload
def function_tool(
    f: Callable[_P, _R],
    *,
    raw_schema: RawFunctionDescription | dict[str, Any],
    flags: ToolFlag = ToolFlag.NONE,
    on_duplicate: DuplicateMode = "allow",
    duplicate_scope: DuplicateScope = "name",
) -> RawFunctionTool[_P, _R]: ...


@overload
def function_tool(
    f: None = None,
    *,
    raw_schema: RawFunctionDescription | dict[str, Any],
    flags: ToolFlag = ToolFlag.NONE,
    on_duplicate: DuplicateMode = "allow",
    duplicate_scope: DuplicateScope = "name",
) -> Callable[[Callable[_P, _R]], RawFunctionTool[_P, _R]]: ...


@overload
def function_tool(
    f: Callable[_P, _R],
    *,
    name: str | None = None,
    description: str | None = None,
    flags: ToolFlag = ToolFlag.NONE,
    on_duplicate: DuplicateMode = "allow",
    duplicate_scope: DuplicateScope = "name",
) -> FunctionTool[_P, _R]: ...


@overload
def function_tool(
    f: None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    flags: ToolFlag = ToolFlag.NONE,
    on_duplicate: DuplicateMode = "allow",
    duplicate_scope: DuplicateScope = "name",
) -> Callable[[Callable[_P, _R]], FunctionTool[_P, _R]]: ...


def function_tool(
    f: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    raw_schema: RawFunctionDescription | dict[str, Any] | None = None,
    flags: ToolFlag = ToolFlag.NONE,
    on_duplicate: DuplicateMode = "allow",
    duplicate_scope: DuplicateScope = "name",
) -> Any:
    """Make a function callable by a model.

    Use it as a decorator, bare or with arguments, on functions and methods, or call it on a
    function or bound method. Parameters annotated with `RunContext` are filled in by the framework
    and unknown to the model.

    Args:
        f: The function. In a voice session a blocking (not `async`) one runs in a thread.
        name: What the model calls it; the function's name by default.
        description: Tells the model when to use it; the docstring's text by default.
        raw_schema: Name, description and JSON Schema of the parameters, for a function that takes
            its arguments as one dict, `raw_arguments`. `name` and `description` are then ignored.
        flags: How a session treats the tool.
        on_duplicate: What to do with a call while another one runs.
        duplicate_scope: Which calls count as the same.

    Returns:
        A `FunctionTool`, or a `RawFunctionTool` with `raw_schema`; a decorator without `f`.

    Raises:
        TypeError: A model could not call the function: a parameter has no annotation, there are
            `*args` or `**kwargs`, or `raw_arguments` is missing with `raw_schema`.
        ValueError: `raw_schema` has no `name` or no `parameters`.
    """
    options: dict[str, Any] = {
        "flags": flags,
        "on_duplicate": on_duplicate,
        "duplicate_scope": duplicate_scope,
    }

    def decorate(func: Callable[..., Any]) -> Any:
        if raw_schema is not None:
            return _raw_tool(func, raw_schema, options)
        return _described_tool(func, name, description, options)

    return decorate if f is None else decorate(f)


def _described_tool(
    func: Callable[..., Any], name: str | None, description: str | None, options: dict[str, Any]
) -> FunctionTool[..., Any]:
    name = name or getattr(func, "__name__", None)
    if name is None:
        raise TypeError(f"{func!r} has no name of its own: pass name=... to function_tool")
    _check_parameters(func, name)
    docstring = getattr(func, "__doc__", None)
    # A partial's docstring is that of functools.partial.
    if not description and docstring and not isinstance(func, functools.partial):
        return FunctionTool(func, _DocumentedToolInfo.of(docstring, name=name, **options))
    return FunctionTool(
        func, FunctionToolInfo(name=name, description=description or None, **options)
    )


def _raw_tool(
    func: Callable[..., Any],
    raw_schema: RawFunctionDescription | dict[str, Any],
    options: dict[str, Any],
) -> RawFunctionTool[..., Any]:
    schema = cast("dict[str, Any]", _copy_json(raw_schema))
    name = schema.get("name")
    if not name:
        raise ValueError("raw_schema has no name: add the name by which the model calls the tool")
    if "parameters" not in schema:
        raise ValueError(
            f"raw_schema of {name!r} has no parameters: add the JSON Schema of its arguments, "
            "or an empty dict if it takes none"
        )
    if RAW_ARGUMENTS not in inspect.signature(func).parameters:
        raise TypeError(
            f"the raw tool {name!r} must take its arguments in a parameter named "
            f"{RAW_ARGUMENTS}: async def {getattr(func, '__name__', name)}"
            f"({RAW_ARGUMENTS}: dict[str, object])"
        )
    if options["on_duplicate"] == "confirm":
        _add_confirm_property(schema["parameters"])
    return RawFunctionTool(func, RawFunctionToolInfo(name=name, raw_schema=schema, **options))


def _add_confirm_property(parameters: dict[str, Any]) -> None:
    if not parameters:
        parameters["type"] = "object"
    parameters.setdefault("properties", {})[CONFIRM_DUPLICATE_PARAM] = {
        "type": ["boolean", "null"],
        "description": CONFIRM_DUPLICATE_DESCRIPTION,
    }
    required = parameters.setdefault("required", [])
    if CONFIRM_DUPLICATE_PARAM not in required:
        required.append(CONFIRM_DUPLICATE_PARAM)


def _copy_json(value: Any) -> Any:
    """Copy dicts and lists; whatever else a schema holds is shared."""
    if isinstance(value, Mapping):
        return {key: _copy_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy_json(item) for item in value]
    return value


def _check_parameters(func: Callable[..., Any], name: str) -> None:
    """Fail now, with a clear text, rather than when the schema is built in the first turn."""
    parameters = list(inspect.signature(func).parameters.values())
    if parameters and _takes_instance(func):
        parameters = parameters[1:]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(
                f"the tool {name!r} takes {parameter}, which can't be described to a model: "
                "name the arguments, or use raw_schema"
            )
        if parameter.annotation is parameter.empty:
            raise TypeError(
                f"parameter {parameter.name!r} of the tool {name!r} has no type annotation: "
                "add one, so that the model knows what to pass"
            )


def _takes_instance(func: Callable[..., Any]) -> bool:
    """Whether `func` looks like a method in the body of a class, going by its qualified name."""
    if inspect.ismethod(func) or isinstance(func, staticmethod):
        return False
    parents = getattr(func, "__qualname__", "").split(".")[:-1]
    return bool(parents) and parents[-1] != "<locals>"
