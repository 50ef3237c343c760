"""Reading the arguments a model wrote, and checking them."""

from __future__ import annotations

import datetime
import enum
import json
import logging
from typing import Annotated, Any, Literal, Optional

import pydantic
import pytest
from hypothesis import given, settings, strategies as st
from pydantic import BaseModel, Field

from livekit.agents.llm import FunctionCall
from livekit.agents.llm.tool_context import ToolError, function_tool
from livekit.agents.llm.utils import (
    parse_function_arguments,
    prepare_function_arguments,
    validated_arguments,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)


@given(OBJECTS)
def test_valid_json_is_read_as_it_is(value: dict[str, Any]) -> None:
    assert parse_function_arguments(json.dumps(value)) == value


@given(OBJECTS, st.integers(1, 3))
def test_json_in_a_json_string_is_unpacked(value: dict[str, Any], depth: int) -> None:
    text = json.dumps(value)
    for _ in range(depth):
        text = json.dumps(text)
    assert parse_function_arguments(text) == value


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_gives_an_object_or_a_value_error(text: str) -> None:
    try:
        assert isinstance(parse_function_arguments(text), dict)
    except ValueError:
        pass


@settings(deadline=None)
@given(OBJECTS, st.data())
def test_a_truncated_answer_never_crashes(value: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(value)
    cut = text[: data.draw(st.integers(0, len(text)))]
    try:
        assert isinstance(parse_function_arguments(cut), dict)
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("null", {}),
        ('{"city": "Paris",}', {"city": "Paris"}),
        ("{'city': 'Paris', 'sunny': True}", {"city": "Paris", "sunny": True}),
        ('{"city": "Paris"', {"city": "Paris"}),
        ('{"city": "Paris<|im_end|>"', {"city": "Paris"}),
        ('{city:<|"|>Paris<|"|>}', {"city": "Paris"}),
        ('{"city": "Paris<|im_end', {"city": "Paris"}),
        ('{"city": "im_start|>Paris"', {"city": "Paris"}),
        ('{"city": "Paris<end_of_turn>"', {"city": "Paris"}),
        ('{"cities": ["Paris", "<|im_end|>", ""],', {"cities": ["Paris", ""]}),
        ('{"a": {"b": "x<|eot_id|>"},}', {"a": {"b": "x"}}),
    ],
)
def test_broken_json_is_mended_and_freed_of_template_tokens(
    text: str, expected: dict[str, Any]
) -> None:
    assert parse_function_arguments(text) == expected


def test_mending_warns_and_valid_json_keeps_what_looks_like_a_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert parse_function_arguments('{"a": "<|im_end|>"}') == {"a": "<|im_end|>"}
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        parse_function_arguments('{"a": 1,}')
    assert "mended" in caplog.text


@pytest.mark.parametrize("text", ["", "  ", "hello", "[1, 2]", "3", '"hello"', "true"])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="arguments"):
        parse_function_arguments(text)


# -- checking


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Topping(BaseModel):
    name: str
    grams: int = 10
    note: str | None = "none"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    model_config = {"extra": "forbid"}
    kind: Literal["dog"]
    tricks: list[str] = ["sit"]


class Closed(BaseModel):
    model_config = {"extra": "forbid"}
    a: int = 1


class Open(BaseModel):
    a: int = 2


EPOCH = object()


@function_tool
async def order(
    dish: str,
    count: int = 1,
    size: Size = Size.SMALL,
    toppings: Annotated[list[Topping], Field(max_length=2)] = [],  # noqa: B006
    pet: Optional[Cat | Dog] = None,  # noqa: UP045
    since: datetime.datetime = datetime.datetime(2024, 1, 1),
    by_name: dict[str, Topping] = {},  # noqa: B006
    pair: tuple[Topping, int] = (Topping(name="x"), 1),
) -> None: ...


@function_tool(raw_schema={"name": "raw", "parameters": {}})
async def raw(raw_arguments: dict[str, object]) -> None: ...


def check(**arguments: Any) -> dict[str, Any]:
    return validated_arguments(order, {"dish": "soup", **arguments})


def test_every_parameter_gets_a_value_of_its_type() -> None:
    assert check(count="5", size="l", unknown=3) == {
        "dish": "soup",
        "count": 5,
        "size": Size.LARGE,
        "toppings": [],
        "pet": None,
        "since": datetime.datetime(2024, 1, 1),
        "by_name": {},
        "pair": (Topping(name="x"), 1),
    }
    assert check(toppings=[{"name": "salt"}])["toppings"] == [Topping(name="salt")]


@pytest.mark.parametrize(
    "arguments", [{"dish": 1}, {"count": "many"}, {"size": "xl"}, {"dish": None}]
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        check(**arguments)


def test_null_means_the_default_at_any_depth() -> None:
    nothing = dict.fromkeys(("count", "size", "toppings", "since", "by_name", "pair"))
    assert check(**nothing) == check()
    salt = {"name": "salt", "grams": None, "note": None}
    expected = Topping(name="salt", grams=10, note=None)
    assert check(toppings=[salt])["toppings"] == [expected]
    assert check(by_name={"a": salt})["by_name"] == {"a": expected}
    assert check(pair=[salt, 2])["pair"] == (expected, 2)


def test_null_means_the_default_of_the_alternative_that_fits() -> None:
    assert check(pet={"kind": "cat", "lives": None})["pet"] == Cat(kind="cat")
    assert check(pet={"kind": "dog", "tricks": None})["pet"] == Dog(kind="dog")
    assert check(pet=None)["pet"] is None


def test_an_unknown_key_rules_out_a_closed_alternative() -> None:
    @function_tool
    async def f(x: Closed | Open) -> None: ...

    assert validated_arguments(f, {"x": {"a": None}})["x"] == Closed(a=1)
    assert validated_arguments(f, {"x": {"a": None, "b": 1}})["x"] == Open(a=2)


def test_a_default_that_json_cannot_express_is_kept() -> None:
    @function_tool
    async def f(n: int = EPOCH, m: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    assert validated_arguments(f, {"n": None, "m": None}) == {"n": EPOCH, "m": None}


def test_defaults_are_not_shared_between_calls() -> None:
    check(toppings=None)["toppings"].append("x")
    assert check(toppings=None)["toppings"] == []


def test_a_default_that_only_the_schema_knows_is_copied() -> None:
    @function_tool
    async def f(
        n: Annotated[list[int], Field(json_schema_extra={"default": [7]})],
        ns: list[Annotated[int, Field(json_schema_extra={"default": 3})]],
    ) -> None: ...

    assert validated_arguments(f, {"n": None, "ns": [None, 1]}) == {"n": [7], "ns": [3, 1]}


def test_raw_tools_take_anything() -> None:
    arguments = {"x": object()}
    assert validated_arguments(raw, arguments) is arguments
    assert prepare_function_arguments(fnc=raw, json_arguments='{"x": null}') == (
        ({"x": None},),
        {},
    )


def test_arguments_are_bound_to_the_signature() -> None:
    @function_tool
    async def f(a: int, /, b: int = 2, *, c: int = 3) -> None: ...

    assert prepare_function_arguments(fnc=f, json_arguments={"a": "1"}) == ((1, 2), {"c": 3})
    assert prepare_function_arguments(fnc=f, json_arguments='{"a": 1, "c": 5}') == (
        (1, 2),
        {"c": 5},
    )


@pytest.mark.parametrize("text", ["", "hello", '{"count": 1}', '{"dish": 1}', "[]"])
def test_the_model_is_told_what_was_wrong(text: str) -> None:
    with pytest.raises(ToolError) as raised:
        prepare_function_arguments(fnc=order, json_arguments=text)
    assert raised.value.message.startswith("Error parsing arguments for `order`: ")


def test_each_mistake_is_named_briefly() -> None:
    with pytest.raises(ToolError) as raised:
        prepare_function_arguments(
            fnc=order, json_arguments={"count": "many", "toppings": [{"name": 1}]}
        )
    assert raised.value.message == (
        "Error parsing arguments for `order`: dish: Field required; "
        "count: Input should be a valid integer, unable to parse string as an integer; "
        "toppings.0.name: Input should be a valid string"
    )


def test_mended_arguments_are_written_back_before_they_are_checked() -> None:
    fnc_call = FunctionCall(call_id="1", name="order", arguments="{'dish': 1}")
    with pytest.raises(ToolError):
        prepare_function_arguments(fnc=order, json_arguments=fnc_call.arguments, fnc_call=fnc_call)
    assert fnc_call.arguments == '{"dish": 1}'
    unreadable = FunctionCall(call_id="1", name="order", arguments="hello")
    with pytest.raises(ToolError):
        prepare_function_arguments(fnc=order, json_arguments="hello", fnc_call=unreadable)
    assert unreadable.arguments == "hello"
