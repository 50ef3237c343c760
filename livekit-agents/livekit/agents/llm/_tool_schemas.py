"""Tools as the providers' APIs want them described."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from ._schema import (
    build_legacy_openai_schema,
    build_strict_openai_schema,
    legacy_parameters,
    strict_parameters,
)
from ._tools import FunctionTool, ProviderTool, RawFunctionTool

if TYPE_CHECKING:
    from .tool_context import ToolContext

ToolSchema = dict[str, Any]


def describe_tools(tools: ToolContext, format: str, **options: Any) -> list[ToolSchema]:
    """See `ToolContext.parse_function_tools`."""
    describe = _FORMATS.get(format)
    if describe is None:
        raise ValueError(
            f"unknown tool format {format!r}: expected one of {', '.join(map(repr, _FORMATS))}"
        )
    return describe(tools, **options)


def _openai(tools: ToolContext, *, strict: bool = True) -> list[ToolSchema]:
    build = build_strict_openai_schema if strict else build_legacy_openai_schema
    return [
        build(tool)
        if isinstance(tool, FunctionTool)
        else {"type": "function", "function": tool.info.raw_schema}
        for tool in tools.function_tools.values()
    ]


def _openai_responses(
    tools: ToolContext,
    *,
    strict: bool = True,  # accepted for symmetry: this API gets plain schemas
    provider_tool_type: type[ProviderTool] | None = None,
) -> list[ToolSchema]:
    schemas = [
        build_legacy_openai_schema(tool, internally_tagged=True)
        if isinstance(tool, FunctionTool)
        else {**tool.info.raw_schema, "type": "function"}
        for tool in tools.function_tools.values()
    ]
    if provider_tool_type is not None:
        for provider_tool in tools.provider_tools:
            to_dict = getattr(provider_tool, "to_dict", None)
            if isinstance(provider_tool, provider_tool_type) and to_dict is not None:
                schemas.append(to_dict())
    return schemas


def _anthropic(tools: ToolContext, *, strict: bool = True) -> list[ToolSchema]:
    schemas: list[ToolSchema] = []
    for tool in tools.function_tools.values():
        if isinstance(tool, RawFunctionTool):
            schemas.append(
                {
                    "name": tool.id,
                    "description": tool.info.raw_schema.get("description", ""),
                    "input_schema": tool.info.raw_schema.get("parameters", {}),
                }
            )
            continue
        schema: ToolSchema = {
            "name": tool.id,
            "description": tool.info.description or "",
            "input_schema": strict_parameters(tool) if strict else legacy_parameters(tool),
        }
        if strict:
            schema["strict"] = True
        schemas.append(schema)
    return schemas


def _aws(tools: ToolContext) -> list[ToolSchema]:
    schemas: list[ToolSchema] = []
    for tool in tools.function_tools.values():
        if isinstance(tool, RawFunctionTool):
            description = tool.info.raw_schema.get("description")
            parameters = tool.info.raw_schema.get("parameters", {})
        else:
            description = tool.info.description
            parameters = legacy_parameters(tool)
        spec: ToolSchema = {"name": tool.id, "inputSchema": {"json": parameters}}
        if description:
            spec["description"] = description
        schemas.append({"toolSpec": spec})
    return schemas


def _google(
    tools: ToolContext,
    *,
    tool_behavior: Literal["UNSPECIFIED", "BLOCKING", "NON_BLOCKING"] | None = None,
    use_parameters_json_schema: bool = True,
) -> list[ToolSchema]:
    schemas: list[ToolSchema] = []
    for tool in tools.function_tools.values():
        if isinstance(tool, RawFunctionTool):
            # Written by hand, so left as it is, whichever key is used.
            description = tool.info.raw_schema.get("description", "")
            parameters = tool.info.raw_schema.get("parameters") or None
        else:
            description = tool.info.description or ""
            parameters = _google_parameters(tool, simplify=not use_parameters_json_schema)
        key = "parameters_json_schema" if use_parameters_json_schema else "parameters"
        schema: ToolSchema = {"name": tool.id, "description": description, key: parameters}
        if tool_behavior is not None:
            schema["behavior"] = tool_behavior
        schemas.append(schema)
    return schemas


def _google_parameters(tool: FunctionTool[..., Any], *, simplify: bool) -> ToolSchema | None:
    parameters = legacy_parameters(tool)
    if not parameters.get("properties"):
        return None
    if not simplify:
        return parameters
    # The plugin knows which part of JSON Schema the API understands.
    from livekit.plugins.google.utils import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
        _GeminiJsonSchema,
    )

    simplified: ToolSchema | None = _GeminiJsonSchema(parameters).simplify() or None
    return simplified


_FORMATS: dict[str, Callable[..., list[ToolSchema]]] = {
    "openai": _openai,
    "openai.responses": _openai_responses,
    "anthropic": _anthropic,
    "google": _google,
    "aws": _aws,
}
