"""`ToolContext`: the tools of one request, and the place to import everything about tools from."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias, overload

from typing_extensions import Self

from ._find_tools import _resolve_wrapped_tool, find_function_tools
from ._function_tool import function_tool
from ._tools import (
    CONFIRM_DUPLICATE_PARAM,
    DuplicateMode,
    DuplicateScope,
    Function,
    FunctionTool,
    FunctionToolInfo,
    NamedToolChoice,
    ProviderTool,
    RawFunctionDescription,
    RawFunctionTool,
    RawFunctionToolInfo,
    StopResponse,
    Tool,
    ToolChoice,
    ToolError,
    ToolFlag,
    ToolResult,
    get_function_info,
    get_raw_function_info,
    is_function_tool,
    is_raw_function_tool,
)
from ._toolset import Toolset

__all__ = [
    "CONFIRM_DUPLICATE_PARAM",
    "DuplicateMode",
    "DuplicateScope",
    "Function",
    "FunctionTool",
    "FunctionToolInfo",
    "NamedToolChoice",
    "ProviderTool",
    "RawFunctionDescription",
    "RawFunctionTool",
    "RawFunctionToolInfo",
    "StopResponse",
    "Tool",
    "ToolChoice",
    "ToolContext",
    "ToolError",
    "ToolFlag",
    "ToolResult",
    "Toolset",
    "_resolve_wrapped_tool",
    "find_function_tools",
    "function_tool",
    "get_fnc_tool_names",
    "get_function_info",
    "get_raw_function_info",
    "is_function_tool",
    "is_raw_function_tool",
]

_AnyFunctionTool: TypeAlias = FunctionTool[..., Any] | RawFunctionTool[..., Any]


class ToolContext:
    """The tools a model may use in one request, by name; toolsets are unfolded.

    Tools that are `@function_tool` methods of a subclass belong to it as well.
    """

    def __init__(self, tools: Sequence[Tool | Toolset]) -> None:
        """Collect the tools.

        Args:
            tools: Tools and toolsets.

        Raises:
            ValueError: Two tools have the same name, or something is not a tool.
        """
        self.update_tools(tools)

    @classmethod
    def empty(cls) -> Self:
        """A context without tools."""
        return cls([])

    @property
    def function_tools(self) -> dict[str, _AnyFunctionTool]:
        """A copy: name to tool, those of toolsets included."""
        return dict(self._functions)

    @property
    def provider_tools(self) -> list[ProviderTool]:
        """Tools that run at the provider."""
        return list(self._provider_tools)

    @property
    def toolsets(self) -> list[Toolset]:
        """All toolsets; those nested in another one stand before it."""
        return list(self._toolsets)

    def flatten(self) -> list[Tool]:
        """Function tools in the order they were added, then provider tools."""
        return [*self._functions.values(), *self._provider_tools]

    def get_function_tool(self, name: str) -> _AnyFunctionTool | None:
        """The function tool with that name, or None."""
        return self._functions.get(name)

    def update_tools(self, tools: Sequence[Tool | Toolset]) -> None:
        """Replace all tools.

        Raises:
            ValueError: Two tools have the same name, or something is not a tool. The context
                then stays as it was.
        """
        self._collect([*tools, *find_function_tools(self)], excluded=[])

    def copy(self) -> ToolContext:
        """A new context with the same tools."""
        new = copy.copy(self)
        new._collect(self._given, self._excluded)
        return new

    @overload
    def parse_function_tools(
        self, format: Literal["openai"], *, strict: bool = True
    ) -> list[dict[str, Any]]: ...

    @overload
    def parse_function_tools(
        self,
        format: Literal["openai.responses"],
        *,
        strict: bool = True,
        provider_tool_type: type[ProviderTool] | None = None,
    ) -> list[dict[str, Any]]: ...

    @overload
    def parse_function_tools(
        self,
        format: Literal["google"],
        *,
        tool_behavior: Literal["UNSPECIFIED", "BLOCKING", "NON_BLOCKING"] | None = None,
        use_parameters_json_schema: bool = True,
    ) -> list[dict[str, Any]]: ...

    @overload
    def parse_function_tools(self, format: Literal["aws"]) -> list[dict[str, Any]]: ...

    @overload
    def parse_function_tools(
        self, format: Literal["anthropic"], *, strict: bool = True
    ) -> list[dict[str, Any]]: ...

    @overload
    def parse_function_tools(self, format: str, **kwargs: Any) -> list[dict[str, Any]]: ...

    def parse_function_tools(self, format: str, **kwargs: Any) -> list[dict[str, Any]]:
        """Describe the function tools in the shape a provider's API takes.

        Args:
            format: `openai` (Chat Completions), `openai.responses`, `anthropic`, `google` or
                `aws` (Bedrock Converse).
            **kwargs: Options of the format.

        Raises:
            ValueError: There is no such format.
        """
        from ._tool_schemas import describe_tools

        return describe_tools(self, format, **kwargs)

    def _sync_flattened(self, tools: Sequence[Tool | Toolset]) -> None:
        """Take over changes made to the list that `flatten` returned.

        Tools missing from it can no longer be called, but stay in their toolset; new ones are
        added on their own.
        """
        listed = [_as_tool(tool) for tool in tools]
        present: list[Tool | Toolset] = [*self.flatten(), *self._toolsets]
        removed = [tool for tool in self.flatten() if not _contains(listed, tool)]
        added = [tool for tool in listed if not _contains(present, tool)]
        if not removed and not added:
            return
        returned = [tool for tool in added if _contains(self._excluded, tool)]
        self._collect(
            [
                *(tool for tool in self._given if not _contains(removed, tool)),
                *(tool for tool in added if not _contains(returned, tool)),
            ],
            [
                *(tool for tool in self._excluded if not _contains(returned, tool)),
                *(tool for tool in removed if not _contains(self._given, tool)),
            ],
        )

    def _exclude(self, tools: Iterable[Tool]) -> None:
        """Hide tools: they are neither offered nor callable, but stay in their toolset."""
        self._collect(self._given, [*self._excluded, *tools])

    def _collect(self, given: Sequence[Tool | Toolset], excluded: Sequence[Tool | Toolset]) -> None:
        collector = _Collector(excluded)
        for tool in given:
            collector.add(tool)
        self._given = list(given)
        self._excluded = list(excluded)
        self._functions = collector.functions
        self._provider_tools = collector.provider_tools
        self._toolsets = collector.toolsets

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ToolContext):
            return NotImplemented
        return (
            self._functions.keys() == other._functions.keys()
            and all(tool._same_as(other._functions[name]) for name, tool in self._functions.items())
            and _identities(self._provider_tools) == _identities(other._provider_tools)
            and _identities(self._toolsets) == _identities(other._toolsets)
        )

    def __repr__(self) -> str:
        return f"<ToolContext {[tool.id for tool in self.flatten()]}>"


class _Collector:
    """Unfolds toolsets and refuses what can't be called by an unambiguous name."""

    def __init__(self, excluded: Sequence[Tool | Toolset]) -> None:
        self.functions: dict[str, _AnyFunctionTool] = {}
        self.provider_tools: list[ProviderTool] = []
        self.toolsets: list[Toolset] = []
        self._excluded = excluded

    def add(self, value: Tool | Toolset) -> None:
        """Take a tool, or all tools of a toolset; the same one twice counts once.

        Raises:
            ValueError: Another function has its name, or it is no tool.
        """
        tool = _as_tool(value)
        if isinstance(tool, Toolset):
            if _contains(self.toolsets, tool):
                return
            for member in tool.tools:
                self.add(member)
            self.toolsets.append(tool)
        elif _contains(self._excluded, tool):
            return
        elif isinstance(tool, ProviderTool):
            if not _contains(self.provider_tools, tool):
                self.provider_tools.append(tool)
        elif isinstance(tool, FunctionTool | RawFunctionTool):
            if not self.functions.setdefault(tool.id, tool)._same_as(tool):
                raise ValueError(
                    f"duplicate function name: {tool.id!r}: two different tools have it, and the "
                    "model calls tools by name; rename one with function_tool(name=...)"
                )
        else:
            raise ValueError(
                f"unknown kind of tool: {tool!r}; expected a function tool, a ProviderTool or a "
                "Toolset"
            )


def _as_tool(value: object) -> Tool | Toolset:
    if isinstance(value, Tool | Toolset):
        return value
    tool = _resolve_wrapped_tool(value)
    if tool is not None:
        return tool
    if callable(value):
        raise ValueError(f"{value!r} is not a tool: decorate it with @function_tool")
    raise ValueError(f"{value!r} is not a tool: expected a Tool or a Toolset")


def _contains(tools: Iterable[Tool | Toolset], tool: Tool | Toolset) -> bool:
    return any(
        other is tool
        or (isinstance(other, FunctionTool | RawFunctionTool) and other._same_as(tool))
        for other in tools
    )


def _identities(objects: Iterable[object]) -> set[int]:
    return {id(each) for each in objects}


def get_fnc_tool_names(tools: Sequence[Tool | Toolset]) -> list[str]:
    """Names of the function tools, those of toolsets included."""
    names: list[str] = []
    for tool in tools:
        if isinstance(tool, Toolset):
            names.extend(get_fnc_tool_names(tool.tools))
        elif isinstance(tool, FunctionTool | RawFunctionTool):
            names.append(tool.id)
    return names
