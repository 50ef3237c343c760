"""`ToolContext`: which tools a model may call, and under which names."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

from livekit.agents.llm.tool_context import (
    FunctionTool,
    ProviderTool,
    Tool,
    ToolContext,
    Toolset,
    function_tool,
    get_fnc_tool_names,
)


def tool(name: str) -> FunctionTool[..., Any]:
    async def run() -> None: ...

    return function_tool(run, name=name)


class Search(ProviderTool):
    def to_dict(self) -> dict[str, str]:
        return {"type": self.id}


A, B, C, D = (tool(name) for name in "abcd")


def test_toolsets_are_unfolded_and_those_inside_come_first() -> None:
    inner = Toolset(id="inner", tools=[B])
    outer = Toolset(id="outer", tools=[inner, C])
    search = Search(id="search")
    context = ToolContext([A, outer, search])
    assert context.function_tools == {"a": A, "b": B, "c": C}
    assert context.provider_tools == [search]
    assert context.toolsets == [inner, outer]
    assert context.flatten() == [A, B, C, search]
    assert context.get_function_tool("b") is B and context.get_function_tool("x") is None
    assert get_fnc_tool_names([A, outer, search]) == ["a", "b", "c"]


def test_what_is_returned_can_be_changed_without_harm() -> None:
    context = ToolContext([A])
    context.function_tools.clear()
    context.provider_tools.append(Search(id="x"))
    context.flatten().clear()
    assert context.flatten() == [A]


def test_a_tool_may_be_given_twice_but_a_name_may_not() -> None:
    assert ToolContext([A, A, Toolset(id="s", tools=[A])]).flatten() == [A]
    with pytest.raises(ValueError, match="duplicate function name: 'a'"):
        ToolContext([A, tool("a")])


def test_two_bindings_of_a_method_are_one_tool() -> None:
    class Desk:
        @function_tool
        async def open(self) -> None: ...

    desk = Desk()
    assert len(ToolContext([desk.open, desk.open]).flatten()) == 1
    assert ToolContext([desk.open]) == ToolContext([desk.open])
    with pytest.raises(ValueError, match="duplicate function name"):
        ToolContext([desk.open, Desk().open])


def test_only_tools_are_taken() -> None:
    def plain() -> None: ...

    class Strange(Tool):
        @property
        def id(self) -> str:
            return "strange"

    for value, text in [(plain, "@function_tool"), (3, "expected a Tool"), (Strange(), "unknown")]:
        with pytest.raises(ValueError, match=text):
            ToolContext([value])  # type: ignore[list-item]


def test_a_failed_update_changes_nothing() -> None:
    context = ToolContext([A])
    with pytest.raises(ValueError):
        context.update_tools([B, tool("b")])
    assert context.flatten() == [A]
    context.update_tools([B])
    assert context.flatten() == [B]


def test_decorated_tools_are_taken() -> None:
    @functools.wraps(A)
    async def wrapper() -> None:
        await A()

    (converted,) = ToolContext([wrapper]).flatten()  # type: ignore[list-item]
    assert converted.id == "a" and converted is not A


def test_a_subclass_brings_its_methods() -> None:
    class Desk(ToolContext):
        @function_tool
        async def own(self) -> None: ...

    assert [t.id for t in Desk([A]).flatten()] == ["a", "own"]
    assert [t.id for t in Desk.empty().copy().flatten()] == ["own"]


def test_equal_means_the_same_tools() -> None:
    toolset = Toolset(id="s", tools=[B])
    assert ToolContext([A, toolset]) == ToolContext([toolset, A])
    assert ToolContext([A]) != ToolContext([tool("a")])
    assert ToolContext([A]) != ToolContext([A, Search(id="x")])
    assert ToolContext([B]) != ToolContext([toolset])
    assert ToolContext([A]) != [A]
    with pytest.raises(TypeError):
        hash(ToolContext([A]))


def test_an_edited_list_is_taken_over() -> None:
    toolset = Toolset(id="s", tools=[B, C])
    search = Search(id="search")
    context = ToolContext([A, toolset, search])
    edited = context.flatten()
    edited.remove(A)
    edited.remove(B)
    edited.append(D)
    context._sync_flattened(edited)
    assert set(context.function_tools) == {"c", "d"}
    assert context.toolsets == [toolset] and list(toolset.tools) == [B, C]
    assert context.provider_tools == [search]

    edited.append(B)  # changed their mind
    context._sync_flattened(edited)
    assert set(context.function_tools) == {"b", "c", "d"}
    context._sync_flattened([])
    assert context.flatten() == [] and context.toolsets == [toolset]


def test_an_unchanged_list_changes_nothing() -> None:
    toolset = Toolset(id="s", tools=[B])
    context = ToolContext([toolset, A])
    context._sync_flattened([A, B])
    assert context.flatten() == [B, A] and context == ToolContext([toolset, A])


def test_hidden_tools_stay_hidden_in_a_copy() -> None:
    toolset = Toolset(id="s", tools=[B, C])
    context = ToolContext([A, toolset])
    context._exclude([A, B])
    assert context.flatten() == [C]
    copied = context.copy()
    assert copied == context and copied.flatten() == [C]
    copied.update_tools([A, B])
    assert copied.flatten() == [A, B] and context.flatten() == [C]


class Recorder(Toolset):
    def __init__(
        self, id: str, log: list[str], *, error: Exception | None = None, hangs: bool = False
    ) -> None:
        super().__init__(id=id)
        self.log = log
        self.error = error
        self.hangs = hangs

    async def setup(self) -> Recorder:
        await super().setup()
        await self._act("setup")
        return self

    async def aclose(self) -> None:
        await super().aclose()
        await self._act("close")

    async def _act(self, what: str) -> None:
        while self.hangs:
            try:
                await asyncio.sleep(60.0)
                self.hangs = False
            except asyncio.CancelledError:
                pass
        await asyncio.sleep(1.0)
        self.log.append(f"{what} {self.id}")
        if self.error is not None:
            raise self.error


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_nested_toolsets_are_set_up_and_closed_side_by_side() -> None:
    log: list[str] = []
    outer = Toolset(id="outer", tools=[Recorder("1", log), A, Recorder("2", log)])
    began = now()
    assert await outer.setup() is outer
    assert now() - began == 1.0
    await outer.aclose()
    assert log == ["setup 1", "setup 2", "close 1", "close 2"]


async def test_a_failing_setup_is_raised_when_all_have_ended() -> None:
    log: list[str] = []
    broken = Recorder("1", log, error=RuntimeError("no server"))
    with pytest.raises(RuntimeError, match="no server"):
        await Toolset(id="outer", tools=[broken, Recorder("2", log)]).setup()
    assert log == ["setup 1", "setup 2"]


async def test_a_failing_close_keeps_nothing_open(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    broken = Recorder("1", log, error=RuntimeError("no server"))
    await Toolset(id="outer", tools=[broken, Recorder("2", log)]).aclose()
    assert log == ["close 1", "close 2"]
    assert "closing failed" in caplog.text


async def test_a_close_that_hangs_ends_within_five_seconds() -> None:
    log: list[str] = []
    began = now()
    await Toolset(id="outer", tools=[Recorder("1", log, hangs=True), Recorder("2", log)]).aclose()
    assert now() - began <= 5.0
    assert log == ["close 2"]
    await asyncio.sleep(120.0)  # it ends after all; nobody waits for it


async def test_a_cancelled_setup_stops_the_nested_ones() -> None:
    log: list[str] = []
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(Toolset(id="outer", tools=[Recorder("1", log)]).setup(), 0.5)
    await asyncio.sleep(5.0)
    assert log == []
