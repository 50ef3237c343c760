"""A toolset whose tools the model looks for before it can call them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from typing_extensions import Self

from ...llm import (
    FunctionTool,
    ProviderTool,
    RawFunctionTool,
    Tool,
    ToolError,
    Toolset,
    function_tool,
)
from ...llm.utils import build_legacy_openai_schema
from ...log import logger
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given
from ...utils.aio import run_bounded
from .search_strategies import (
    BM25SearchStrategy,
    KeywordSearchStrategy,
    SearchItem,
    SearchStrategy,
)

DEFAULT_SEARCH_DESCRIPTION = (
    "Look for tools by what they do. The tools that are found replace those found before, and can "
    "be called from then on. Use it whenever no tool at hand does what is needed."
)
DEFAULT_QUERY_DESCRIPTION = "A few words for what the tool has to do, such as `book a flight`."

_CLEANUP_TIMEOUT = 1.0
"""Seconds a strategy gets to release its index."""


class ToolSearchToolset(Toolset):
    """Shows the model one tool, `tool_search`, and then the tools that it has found with it.

    For agents with more tools than a model can choose from at once. A hit in a nested toolset loads
    that whole toolset. Tools of the model's provider are always there.
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
    ) -> None:
        """Create the set.

        Args:
            id: Unique name.
            tools: What can be found; `@function_tool` methods of a subclass can, too.
            max_results: How many tools one search loads at most.
            search_strategy: `BM25SearchStrategy` by default.
            search_description: What the model reads about `tool_search`.
            query_description: What it reads about the query.

        Raises:
            ValueError: `max_results` is less than 1.
        """
        if max_results < 1:
            raise ValueError(f"max_results is how many tools to load, got {max_results}")
        super().__init__(id=id, tools=tools)
        self._catalogue = Toolset(id=f"{id} (all)", tools=self._tools)
        self._max_results = max_results
        self._strategy: SearchStrategy = (
            search_strategy if is_given(search_strategy) else BM25SearchStrategy()
        )
        self._items: list[SearchItem] | None = None
        self._loaded: list[Tool | Toolset] = []
        self._search_tool = function_tool(
            self._search_and_answer,
            raw_schema={
                "name": "tool_search",
                "description": search_description
                if is_given(search_description)
                else DEFAULT_SEARCH_DESCRIPTION,
                "parameters": {
                    "type": "object",
                    "properties": {
                        "query": {
                            "type": "string",
                            "description": query_description
                            if is_given(query_description)
                            else DEFAULT_QUERY_DESCRIPTION,
                        }
                    },
                    "required": ["query"],
                    "additionalProperties": False,
                },
            },
        )

    @property
    def tools(self) -> Sequence[Tool | Toolset]:
        """`tool_search`, the provider's tools, and what the last search has found."""
        provided = [tool for tool in self._catalogue.tools if isinstance(tool, ProviderTool)]
        return [self._search_tool, *provided, *self._loaded]

    async def setup(self, *, reload: bool = False) -> Self:
        """Set up nested toolsets and index all tools.

        Does nothing if they are indexed already, unless `reload` asks for it.
        """
        if self._items is not None and not reload:
            return self
        await self._catalogue.setup()
        items = list(_items_of(self._catalogue.tools))
        await _resolved(self._strategy.build_index(items))
        self._items = items
        return self

    async def aclose(self) -> None:
        """Close nested toolsets and drop the index, within 6 s. Idempotent."""
        try:
            await self._catalogue.aclose()
        finally:
            had_index, self._items, self._loaded = self._items is not None, None, []
            if had_index:
                await self._clean_up()

    async def _clean_up(self) -> None:
        try:
            await run_bounded(
                _resolved(self._strategy.cleanup()), _CLEANUP_TIMEOUT, owner=f"toolset {self.id!r}"
            )
        except Exception:
            logger.exception("toolset %r: the search strategy could not clean up", self.id)

    async def _search_and_answer(self, raw_arguments: dict[str, object]) -> str:
        found = await self._find(raw_arguments)
        sources = {id(item.source): item.source for item in found}
        self._loaded = list(sources.values())
        names = [name for source in self._loaded for name in _names(source)]
        return f"These tools can be called now: {', '.join(names)}"

    async def _find(self, raw_arguments: dict[str, object]) -> list[SearchItem]:
        """The items for a query of the model. Raises ToolError when there are none."""
        query = str(raw_arguments.get("query") or "").strip()
        if not query:
            raise ToolError("the query is empty: say in a few words what the tool has to do")
        if self._items is None:
            await self.setup()
        found: list[SearchItem] = await _resolved(
            self._strategy.search(query, self._items or [], self._max_results)
        )
        if not found:
            raise ToolError(f"no tool was found for {query!r}: try other words")
        return found[: self._max_results]


def _items_of(tools: Sequence[Tool | Toolset]) -> Iterator[SearchItem]:
    for tool in tools:
        if isinstance(tool, Toolset):
            for member in _functions(tool.tools):
                yield _item(member, source=tool)
        elif isinstance(tool, FunctionTool | RawFunctionTool):
            yield _item(tool, source=tool)


def _functions(
    tools: Sequence[Tool | Toolset],
) -> Iterator[FunctionTool[..., Any] | RawFunctionTool[..., Any]]:
    for tool in tools:
        if isinstance(tool, Toolset):
            yield from _functions(tool.tools)
        elif isinstance(tool, FunctionTool | RawFunctionTool):
            yield tool


def _item(
    tool: FunctionTool[..., Any] | RawFunctionTool[..., Any], *, source: Tool | Toolset
) -> SearchItem:
    schema = schema_of(tool)
    properties = schema["parameters"].get("properties") or {}
    return SearchItem(
        source=source,
        name=tool.id,
        description=schema["description"],
        parameters={name: str(p.get("description") or "") for name, p in properties.items()},
    )


def schema_of(tool: FunctionTool[..., Any] | RawFunctionTool[..., Any]) -> dict[str, Any]:
    """Name, description and parameters (JSON Schema) of a tool."""
    if isinstance(tool, FunctionTool):
        function: dict[str, Any] = build_legacy_openai_schema(tool)["function"]
        return function
    schema = tool.info.raw_schema
    return {
        "name": tool.id,
        "description": schema.get("description") or "",
        "parameters": schema.get("parameters") or {},
    }


def _names(source: Tool | Toolset) -> list[str]:
    return [tool.id for tool in _functions([source])]


async def _resolved(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


__all__ = [
    "BM25SearchStrategy",
    "KeywordSearchStrategy",
    "SearchItem",
    "SearchStrategy",
    "ToolSearchToolset",
]
