"""Finding tools: among the members of an object, and underneath other decorators."""

from __future__ import annotations

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
    members = _static_members(cls_or_obj)
    for name in sorted(name for name, member in members.items() if _may_be_tool(member)):
        tool = _resolve_wrapped_tool(getattr(cls_or_obj, name))
        if tool is not None:
            tools.append(tool)
    return tools


def _static_members(cls_or_obj: object) -> dict[str, Any]:
    """Attributes by name, as they are written down: looking them up might run code.

    All at once: this is done for every agent, toolset and reply, which `inspect.getattr_static`,
    name by name, makes felt.
    """
    owner = cls_or_obj if isinstance(cls_or_obj, type) else type(cls_or_obj)
    members: dict[str, Any] = {}
    for cls in reversed(owner.__mro__):
        members.update(cls.__dict__)
    if owner is not cls_or_obj:
        for name, member in getattr(cls_or_obj, "__dict__", {}).items():
            if not hasattr(
                type(members.get(name)), "__set__"
            ):  # a property of that name goes first
                members[name] = member
    return members


def _may_be_tool(member: Any) -> bool:
    if isinstance(member, staticmethod | classmethod):
        member = member.__func__
    if isinstance(member, _CallableTool):
        return True
    return callable(member) and (  # other than a property, for one
        hasattr(member, "__wrapped__")
        or hasattr(member, INFO_ATTRIBUTE)
        or hasattr(member, RAW_INFO_ATTRIBUTE)
    )
