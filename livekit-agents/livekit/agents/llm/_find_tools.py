"""Finding tools: among the members of an object, and underneath other decorators."""

from __future__ import annotations

import inspect
from typing import Any

from ..log import logger
from ._tools import (
    INFO_ATTRIBUTE,
    RAW_INFO_ATTRIBUTE,
    FunctionTool,
    FunctionToolInfo,
    RawFunctionTool,
    RawFunctionToolInfo,
    _CallableTool,
)


def _resolve_wrapped_tool(
    value: object,
) -> FunctionTool[..., Any] | RawFunctionTool[..., Any] | None:
    """The function tool that `value` is, or wraps as a decorator on top of `@function_tool` does.

    None if it is neither. A wrapper becomes a tool of the same kind, with a warning, because
    `@function_tool` belongs on top.
    """
    if isinstance(value, FunctionTool | RawFunctionTool):
        return value
    if not callable(value) or isinstance(value, type):
        return None
    wrapped = getattr(value, "__wrapped__", None)
    info = (
        wrapped.info
        if isinstance(wrapped, FunctionTool | RawFunctionTool)
        else getattr(value, INFO_ATTRIBUTE, None) or getattr(value, RAW_INFO_ATTRIBUTE, None)
    )
    if not isinstance(info, FunctionToolInfo | RawFunctionToolInfo):
        return None
    logger.warning(
        "the tool %r is wrapped by another decorator: put @function_tool above it", info.name
    )
    if isinstance(info, FunctionToolInfo):
        return FunctionTool(value, info)
    return RawFunctionTool(value, info)


def find_function_tools(
    cls_or_obj: object,
) -> list[FunctionTool[..., Any] | RawFunctionTool[..., Any]]:
    """The tools among the attributes of a class or an object, in alphabetical order.

    Tools of an object are bound to it. Properties are not evaluated.
    """
    tools: list[FunctionTool[..., Any] | RawFunctionTool[..., Any]] = []
    for name in sorted(dir(cls_or_obj)):
        static = inspect.getattr_static(cls_or_obj, name, None)
        if isinstance(static, staticmethod | classmethod):
            static = static.__func__
        if not callable(static):  # a property, for one: looking it up would run code
            continue
        if isinstance(static, _CallableTool) or (
            hasattr(static, "__wrapped__")
            or hasattr(static, INFO_ATTRIBUTE)
            or hasattr(static, RAW_INFO_ATTRIBUTE)
        ):
            tool = _resolve_wrapped_tool(getattr(cls_or_obj, name))
            if tool is not None:
                tools.append(tool)
    return tools
