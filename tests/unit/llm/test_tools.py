"""`@function_tool`: tools that still behave like the functions they wrap."""

from __future__ import annotations

import functools
import inspect
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated, Any, get_origin, get_type_hints

import pytest
from pydantic import Field

from livekit.agents.llm import utils
from livekit.agents.llm.tool_context import (
    CONFIRM_DUPLICATE_PARAM,
    FunctionTool,
    RawFunctionTool,
    ToolFlag,
    Toolset,
    _resolve_wrapped_tool,
    find_function_tools,
    function_tool,
    get_function_info,
    get_raw_function_info,
    is_function_tool,
    is_raw_function_tool,
)

SCHEMA = {"name": "lookup", "description": "Looks up.", "parameters": {}, "meta": {"x": [1]}}


@function_tool
async def get_weather(city: str, days: Annotated[int, Field(gt=0)] = 1) -> str:
    """Tells the weather.

    For any place on earth.

    Args:
        city: Where.
    """
    return f"{city}: {days}"


class Desk:
    def __init__(self, name: str) -> None:
        self.name = name
        self.looked = False

    @function_tool(name="open_ticket", description="Opens one.", flags=ToolFlag.CANCELLABLE)
    async def open(self, title: str) -> str:
        """Not this."""
        return f"{self.name}: {title}"

    @function_tool(raw_schema=SCHEMA)
    async def lookup(self, raw_arguments: dict[str, object]) -> object:
        return raw_arguments

    @function_tool
    @staticmethod
    async def ping(text: str) -> str:
        return text

    @property
    def costly(self) -> str:
        self.looked = True
        return "x"


def test_a_tool_looks_like_its_function() -> None:
    assert isinstance(get_weather, FunctionTool)
    assert get_weather.__name__ == "get_weather" and get_weather.id == "get_weather"
    assert get_weather.__doc__ and get_weather.__doc__.startswith("Tells")
    assert list(inspect.signature(get_weather).parameters) == ["city", "days"]
    hints = get_type_hints(get_weather, include_extras=True)
    assert hints["city"] is str and get_origin(hints["days"]) is Annotated
    assert inspect.iscoroutinefunction(get_weather.__wrapped__)


async def test_a_tool_is_called_like_its_function() -> None:
    assert await get_weather("Paris", days=2) == "Paris: 2"


def test_name_and_description_come_from_the_function() -> None:
    info = get_function_info(get_weather)
    assert info is get_weather.info
    assert info.name == "get_weather"
    assert info.description == "Tells the weather.\n\nFor any place on earth."
    assert (info.flags, info.on_duplicate, info.duplicate_scope) == (
        ToolFlag.NONE,
        "allow",
        "name",
    )


def test_a_description_can_be_changed_later() -> None:
    @function_tool
    async def f() -> None:
        """First."""

    f.info.description = "Second."
    assert f.info.description == "Second."


def test_no_docstring_is_no_description() -> None:
    @function_tool
    async def f() -> None: ...

    assert f.info.description is None


def test_decorating_does_not_import_the_docstring_parser() -> None:
    code = (
        "import sys; from livekit.agents.llm import function_tool\n"
        "@function_tool\n"
        "async def f(x: int) -> None:\n"
        "    'Does it.'\n"
        "assert 'docstring_parser' not in sys.modules\n"
        "assert f.info.description == 'Does it.'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_given_name_and_description_win() -> None:
    assert Desk.open.id == "open_ticket"
    assert Desk.open.info.description == "Opens one."
    assert Desk.open.info.flags is ToolFlag.CANCELLABLE


async def test_a_tool_of_an_instance_is_bound_to_it() -> None:
    desk = Desk("front")
    bound = desk.open
    assert isinstance(bound, FunctionTool) and bound is not Desk.open
    assert list(inspect.signature(bound).parameters) == ["title"]
    assert await bound("leak") == "front: leak"
    assert bound.info is Desk.open.info
    assert desk.open is not bound  # each look-up binds anew
    assert await Desk("back").open(title="fire") == "back: fire"


async def test_a_static_method_is_not_bound() -> None:
    assert await Desk("front").ping("hi") == "hi"
    assert list(inspect.signature(Desk("front").ping).parameters) == ["text"]


async def test_a_bound_method_can_be_made_a_tool() -> None:
    class Plain:
        async def greet(self, who: str) -> str:
            return f"hi {who}"

    tool = function_tool(Plain().greet, name="hello")
    assert tool.id == "hello" and await tool("you") == "hi you"
    assert list(inspect.signature(tool).parameters) == ["who"]
    assert get_type_hints(tool)["who"] is str


def test_raw_tools_carry_a_copy_of_their_schema() -> None:
    tool = Desk("front").lookup
    assert isinstance(tool, RawFunctionTool) and tool.id == "lookup"
    info = get_raw_function_info(tool)
    assert info.raw_schema == SCHEMA and info.raw_schema is not SCHEMA
    info.raw_schema["meta"]["x"].append(2)
    assert SCHEMA["meta"] == {"x": [1]}


def test_kinds_are_told_apart() -> None:
    raw = Desk("front").lookup
    assert is_function_tool(get_weather) and not is_function_tool(raw)
    assert is_raw_function_tool(raw) and not is_raw_function_tool(get_weather)
    assert not is_function_tool(len)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"parameters": {}}, "no name"),
        ({"name": "", "parameters": {}}, "no name"),
        ({"name": "f"}, "no parameters"),
    ],
)
def test_a_raw_schema_must_be_complete(schema: dict[str, Any], text: str) -> None:
    async def f(raw_arguments: dict[str, object]) -> None: ...

    with pytest.raises(ValueError, match=text):
        function_tool(f, raw_schema=schema)


def test_what_a_model_cannot_call_is_refused_at_once() -> None:
    async def unannotated(city) -> None: ...  # type: ignore[no-untyped-def]

    async def variadic(*cities: str) -> None: ...

    async def open_ended(**cities: str) -> None: ...

    async def raw(arguments: dict[str, object]) -> None: ...

    with pytest.raises(TypeError, match="parameter 'city' of the tool 'unannotated'"):
        function_tool(unannotated)
    with pytest.raises(TypeError, match=r"\*cities"):
        function_tool(variadic)
    with pytest.raises(TypeError, match=r"\*\*cities"):
        function_tool(open_ended)
    with pytest.raises(TypeError, match="raw_arguments"):
        function_tool(raw, raw_schema=SCHEMA)
    with pytest.raises(TypeError, match="name="):
        function_tool(functools.partial(unannotated, "Paris"))


async def test_confirming_a_duplicate_is_asked_for_but_not_passed_on() -> None:
    class Till:
        @function_tool(on_duplicate="confirm")
        async def pay(self, amount: int) -> int:
            return amount

    for tool in (Till.pay, Till().pay):
        parameter = inspect.signature(tool).parameters[CONFIRM_DUPLICATE_PARAM]
        assert parameter.kind is parameter.KEYWORD_ONLY and parameter.default is False
        assert CONFIRM_DUPLICATE_PARAM in get_type_hints(tool, include_extras=True)
        properties = utils.build_legacy_openai_schema(Till().pay)["function"]["parameters"]
        described = properties["properties"][CONFIRM_DUPLICATE_PARAM]
        assert "confirmed" in described["description"]
        assert CONFIRM_DUPLICATE_PARAM not in properties["required"]
    assert await Till().pay(3, **{CONFIRM_DUPLICATE_PARAM: True}) == 3


async def test_a_raw_tool_does_not_see_the_confirmation_either() -> None:
    schema = {
        "name": "pay",
        "parameters": {
            "type": "object",
            "properties": {"amount": {"type": "integer"}},
            "required": ["amount"],
        },
    }

    @function_tool(raw_schema=schema, on_duplicate="confirm")
    async def pay(raw_arguments: dict[str, object]) -> object:
        return raw_arguments

    parameters = pay.info.raw_schema["parameters"]
    assert parameters["properties"][CONFIRM_DUPLICATE_PARAM]["type"] == ["boolean", "null"]
    assert parameters["required"] == ["amount", CONFIRM_DUPLICATE_PARAM]
    assert "amount" in schema["parameters"]["properties"]  # type: ignore[index]
    assert CONFIRM_DUPLICATE_PARAM not in schema["parameters"]["properties"]  # type: ignore[index]
    arguments = {"amount": 1, CONFIRM_DUPLICATE_PARAM: True}
    assert await pay(arguments) == {"amount": 1}
    assert await pay(raw_arguments=arguments) == {"amount": 1}


def logged(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await func(*args, **kwargs)

    return wrapper


async def test_a_decorator_on_top_of_a_tool_is_seen_through(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrapper = logged(logged(get_weather))
    with caplog.at_level(logging.WARNING):
        tool = _resolve_wrapped_tool(wrapper)
    assert isinstance(tool, FunctionTool) and tool.info is get_weather.info
    assert "put @function_tool above" in caplog.text
    assert await tool("Rome") == "Rome: 1"
    assert list(inspect.signature(tool).parameters) == ["city", "days"]
    assert _resolve_wrapped_tool(get_weather) is get_weather
    assert _resolve_wrapped_tool(len) is None and _resolve_wrapped_tool(3) is None
    assert _resolve_wrapped_tool(FunctionTool) is None


async def test_methods_with_a_decorator_on_top_are_found() -> None:
    class Wrapped:
        @logged
        @function_tool
        async def greet(self, who: str) -> str:
            """Greets."""
            return f"hi {who}"

        @logged
        @function_tool(raw_schema=SCHEMA)
        async def lookup(self, raw_arguments: dict[str, object]) -> object:
            return raw_arguments

    greet, lookup = find_function_tools(Wrapped())
    assert isinstance(greet, FunctionTool) and isinstance(lookup, RawFunctionTool)
    assert await greet("you") == "hi you"
    assert await lookup({"a": 1}) == {"a": 1}
    assert list(inspect.signature(greet).parameters) == ["who"]


def test_tools_are_found_in_alphabetical_order_without_looking_at_properties() -> None:
    desk = Desk("front")
    assert [tool.id for tool in find_function_tools(desk)] == ["lookup", "open_ticket", "ping"]
    assert not desk.looked
    assert find_function_tools(Desk)[1] is Desk.open


async def test_the_tools_of_a_subclass_replace_those_of_its_base() -> None:
    class Quiet(Desk):
        @function_tool
        async def open(self, title: str) -> str:
            """Quietly."""
            return (await super().open(title)).lower()

    desk = Quiet("FRONT")
    assert [tool.id for tool in find_function_tools(desk)] == ["lookup", "open", "ping"]
    assert await desk.open("LEAK") == "front: leak"


def test_a_toolset_finds_its_methods_once() -> None:
    class Both(Toolset):
        @function_tool
        async def own(self) -> None: ...

    both = Both(id="both", tools=[get_weather])
    assert [tool.id for tool in both.tools] == ["get_weather", "own"]
    assert both.tools[1] is both.tools[1]
