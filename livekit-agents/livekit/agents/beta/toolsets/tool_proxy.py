"""A toolset whose tools the model looks for, and calls through one tool."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from typing_extensions import Self

from ...llm import ProviderTool, Tool, ToolError, Toolset, function_tool
from ...llm.utils import prepare_function_arguments, run_tool
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given
from ...voice.run_context import RunContext
from .search_strategies import SearchStrategy
from .tool_search import ToolSearchToolset, _functions, schema_of

DEFAULT_PROXY_SEARCH_DESCRIPTION = (
    "Look for tools by what they do. The answer has one line of JSON for each tool, with its name, "
    "its description and the schema of its parameters; call it with `call_tool`."
)
DEFAULT_CALL_DESCRIPTION = (
    "Call a tool that `tool_search` has found, with parameters that fit its schema."
)


class ToolProxyToolset(ToolSearchToolset):
    """Shows the model two tools, `tool_search` and `call_tool`, whatever is found.

    The list of tools never changes, so that the prompt stays in the provider's cache.
    """

    def __init__(
        self,
        *,
        id: str,
        tools: Sequence[Tool | Toolset] | None = None,
        max_results: int = 5,
        search_strategy: NotGivenOr[SearchStrategy] = NOT_GIVEN,
        search_description: NotGivenOr[str] = NOT_GIVEN,
        query_description: NotGivenOr[str] = NOT_GIVEN,
        call_description: NotGivenOr[str] = NOT_GIVEN,
    ) -> None:
        """Create the set. See `ToolSearchToolset`.

        Args:
            call_description: What the model reads about `call_tool`.
        """
        super().__init__(
            id=id,
            tools=tools,
            max_results=max_results,
            search_strategy=search_strategy,
            search_description=search_description
            if is_given(search_description)
            else DEFAULT_PROXY_SEARCH_DESCRIPTION,
            query_description=query_description,
        )
        self._call_tool = function_tool(
            self._call,
            raw_schema={
                "name": "call_tool",
                "description": call_description
                if is_given(call_description)
                else DEFAULT_CALL_DESCRIPTION,
                "parameters": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "description": "Name of the tool."},
                        "parameters": {
                            "type": "object",
                            "description": "Its parameters, as its schema says.",
                        },
                    },
                    "required": ["name", "parameters"],
                },
            },
        )

    @property
    def tools(self) -> Sequence[Tool | Toolset]:
        """`tool_search`, `call_tool`, and the provider's tools."""
        provided = [tool for tool in self._catalogue.tools if isinstance(tool, ProviderTool)]
        return [self._search_tool, self._call_tool, *provided]

    async def setup(self, *, reload: bool = False) -> Self:
        """See `ToolSearchToolset.setup`."""
        return await super().setup(reload=reload)

    async def _search_and_answer(self, raw_arguments: dict[str, object]) -> str:
        found = await self._find(raw_arguments)
        by_name = {tool.id: tool for tool in _functions(self._catalogue.tools)}
        known = [by_name[item.name] for item in found if item.name in by_name]
        return "\n".join(json.dumps(schema_of(tool), ensure_ascii=False) for tool in known)

    async def _call(self, ctx: RunContext[Any], raw_arguments: dict[str, object]) -> Any:
        name, parameters = raw_arguments.get("name"), raw_arguments.get("parameters")
        if not isinstance(name, str) or not name:
            raise ToolError("`name` is missing: give the name of a tool that tool_search found")
        if parameters is not None and not isinstance(parameters, str | dict):
            raise ToolError("`parameters` has to be an object, as the schema of the tool says")
        tools = {tool.id: tool for tool in _functions(self._catalogue.tools)}
        tool = tools.get(name)
        if tool is None:
            raise ToolError(f"there is no tool {name!r}: look for it with tool_search")
        args, kwargs = prepare_function_arguments(
            fnc=tool, json_arguments=parameters or {}, call_ctx=ctx
        )
        return await run_tool(tool, args, kwargs)
