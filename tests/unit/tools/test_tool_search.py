"""Toolsets whose tools are looked for first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fakes.llm import FakeLLM
from fakes.session import running
from fakes.tools import calls, results
from livekit.agents.beta.toolsets import ToolProxyToolset, ToolSearchToolset
from livekit.agents.beta.toolsets.tool_search import (
    BM25SearchStrategy,
    KeywordSearchStrategy,
    SearchItem,
    SearchStrategy,
)
from livekit.agents.llm import ProviderTool, Tool, ToolError, Toolset, function_tool
from livekit.agents.voice import Agent, RunContext


@function_tool
async def book_flight(city: str) -> str:
    """Books a seat on a plane.

    Args:
        city: Where to fly to.
    """
    return f"flight to {city}"


@function_tool
async def cancel_flight(ctx: RunContext, reference: str) -> str:
    """Cancels what was booked.

    Args:
        reference: Of the booking.
    """
    return f"{ctx.function_call.name} of {reference}"


@function_tool(
    raw_schema={
        "name": "get_weather",
        "description": "Tells how the sky looks.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    }
)
async def get_weather(raw_arguments: dict[str, object]) -> str:
    return f"sun in {raw_arguments['place']}"


@function_tool
async def rent_car(days: int) -> str:
    """Rents a car."""
    return f"{days} days"


@function_tool
async def return_car() -> str:
    """Brings it back."""
    return "returned"


class Cars(Toolset):
    def __init__(self) -> None:
        super().__init__(id="cars", tools=[rent_car, return_car])
        self.setups = self.closes = 0

    async def setup(self) -> Any:
        self.setups += 1
        return await super().setup()

    async def aclose(self) -> None:
        self.closes += 1
        await super().aclose()


def everything() -> list[Tool | Toolset]:
    return [book_flight, cancel_flight, get_weather, Cars(), ProviderTool(id="web_search")]


def names(toolset: Toolset) -> list[str]:
    return [tool.id for tool in toolset.tools]


async def search(toolset: ToolSearchToolset, query: Any) -> str:
    found: str = await toolset._search_and_answer({"query": query})
    return found


@pytest.mark.parametrize("strategy", [BM25SearchStrategy(), KeywordSearchStrategy()])
async def test_a_hit_replaces_what_was_found_before(strategy: SearchStrategy) -> None:
    toolset = ToolSearchToolset(
        id="travel", tools=everything(), max_results=2, search_strategy=strategy
    )
    await toolset.setup()
    assert names(toolset) == ["tool_search", "web_search"]
    answer = await search(toolset, "book a flight")
    assert names(toolset)[2:] == ["book_flight", "cancel_flight"]
    assert answer == "These tools can be called now: book_flight, cancel_flight"
    await search(toolset, "weather")
    assert names(toolset)[2:] == ["get_weather"]
    await search(toolset, "rent")
    assert names(toolset)[2:] == ["cars"], "a whole toolset"
    await toolset.aclose()
    assert names(toolset) == ["tool_search", "web_search"]


async def test_what_finds_nothing_is_an_error_and_changes_nothing() -> None:
    toolset = ToolSearchToolset(id="travel", tools=everything())
    await toolset.setup()
    await search(toolset, "weather")
    for query, text in [
        ("", "empty"),
        ("  ", "empty"),
        (None, "empty"),
        ("submarine", "submarine"),
    ]:
        with pytest.raises(ToolError, match=text):
            await search(toolset, query)
    assert names(toolset)[2:] == ["get_weather"]
    with pytest.raises(ValueError, match="max_results"):
        ToolSearchToolset(id="x", max_results=0)


async def test_the_model_can_call_what_it_has_found_in_the_same_turn() -> None:
    cars = Cars()
    toolset = ToolSearchToolset(id="travel", tools=[book_flight, cars])
    llm = FakeLLM(
        [calls('tool_search#a {"query": "car"}'), calls('rent_car#b {"days": 3}'), "done"]
    )
    async with running(Agent(instructions="x", tools=[toolset]), llm) as (session, _):
        await session.generate_reply(user_input="I need a car")
        assert results(session) == [
            "a: These tools can be called now: rent_car, return_car",
            "b: 3 days",
        ]
        asked = [[tool.id for tool in request.tools] for request in llm.requests]
        assert asked[0] == ["tool_search"] and asked[1] == ["tool_search", "rent_car", "return_car"]
        assert cars.setups == 1
    assert cars.closes == 1


async def test_a_proxy_calls_tools_without_showing_them() -> None:
    toolset = ToolProxyToolset(id="travel", tools=everything())
    llm = FakeLLM(
        [
            calls('tool_search#a {"query": "cancel"}'),
            calls('call_tool#b {"name": "cancel_flight", "parameters": {"reference": "X1"}}'),
            calls('call_tool#c {"name": "get_weather", "parameters": {"place": "Rome"}}'),
            calls(
                'call_tool#d {"name": "rent_car", "parameters": {"days": "many"}}',
                'call_tool#e {"name": "fly", "parameters": {}}',
                'call_tool#f {"parameters": {}}',
                'call_tool#g {"name": "rent_car", "parameters": [3]}',
            ),
            "done",
        ]
    )
    agent = Agent(instructions="x", tools=[toolset])
    async with running(agent, llm, max_tool_steps=9) as (session, _):
        await session.generate_reply(user_input="cancel my flight")
        shown = {tuple(tool.id for tool in request.tools) for request in llm.requests}
        assert shown == {("tool_search", "call_tool", "web_search")}
        told = dict(line.split(": ", 1) for line in results(session))
        schema = json.loads(told["a"])
        assert schema["name"] == "cancel_flight"
        assert list(schema["parameters"]["properties"]) == ["reference"]
        assert told["b"] == "call_tool of X1" and told["c"] == "sun in Rome"
        assert "Error parsing arguments for `rent_car`" in told["d error"]
        assert "no tool 'fly'" in told["e error"]
        assert "name" in told["f error"] and "object" in told["g error"]


class Slow:
    """A strategy of somebody else, with coroutines, that never cleans up."""

    def __init__(self) -> None:
        self.builds = 0

    async def build_index(self, items: list[SearchItem]) -> None:
        self.builds += 1

    async def search(
        self, query: str, items: list[SearchItem], max_results: int
    ) -> list[SearchItem]:
        return items

    async def cleanup(self) -> None:
        await asyncio.sleep(1e6)


async def test_a_strategy_of_ones_own_is_awaited_and_its_cleanup_is_bounded() -> None:
    strategy = Slow()
    toolset = ToolSearchToolset(
        id="travel", tools=everything(), max_results=1, search_strategy=strategy
    )
    await toolset.setup()
    await toolset.setup()
    assert strategy.builds == 1
    await toolset.setup(reload=True)
    assert strategy.builds == 2
    await search(toolset, "anything")
    assert names(toolset)[2:] == ["book_flight"], "never more than max_results"
    began = asyncio.get_running_loop().time()
    await toolset.aclose()
    assert asyncio.get_running_loop().time() - began <= 1
    await toolset.setup()
    assert strategy.builds == 3


words = st.sampled_from(["book", "flight", "car", "weather", "cancel", "pay"])


@given(
    st.lists(st.lists(words, min_size=1, max_size=5), min_size=1, max_size=8),
    st.lists(words, min_size=1, max_size=3),
    st.integers(1, 5),
)
def test_what_is_found_has_a_word_of_the_query(
    texts: Sequence[Sequence[str]], query: Sequence[str], limit: int
) -> None:
    items = [
        SearchItem(source=book_flight, name=f"tool{i}", description=" ".join(text))
        for i, text in enumerate(texts)
    ]
    fitting = [item for item in items if set(item.description.split()) & set(query)]
    for strategy in (BM25SearchStrategy(), KeywordSearchStrategy()):
        strategy.build_index(items)
        found = strategy.search(" ".join(query), items, limit)
        assert len(found) == min(limit, len(fitting))
        assert all(item in fitting for item in found)
        strategy.cleanup()


def test_rare_words_and_names_count_more() -> None:
    items = [
        SearchItem(source=book_flight, name="a", description="book something"),
        SearchItem(source=book_flight, name="b", description="book a rare thing"),
        SearchItem(source=book_flight, name="bookRoom", description="a room"),
    ]
    strategy = BM25SearchStrategy()
    strategy.build_index(items)
    assert strategy.search("book rare", items, 1)[0].name == "b"
    assert strategy.search("book", items, 3)[0].name == "bookRoom"
