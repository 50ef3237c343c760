"""Schemas of tools: from signatures, in strict mode, and in the providers' shapes."""

from __future__ import annotations

import copy
import enum
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional, Union

import pydantic
import pytest
from hypothesis import given, settings, strategies as st
from pydantic import BaseModel, Field
from typing_extensions import NotRequired, TypedDict

from fakes.json_schema import accepts
from livekit.agents.llm._strict import to_strict_schema
from livekit.agents.llm.tool_context import (
    FunctionTool,
    ProviderTool,
    ToolContext,
    function_tool,
)
from livekit.agents.llm.utils import (
    build_legacy_openai_schema,
    build_strict_openai_schema,
    function_arguments_to_pydantic_model,
    prepare_function_arguments,
    to_openai_response_format,
    to_response_format_param,
)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: int
    y: int = 0


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str | None = None


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


@function_tool
async def paint(
    what: str,
    color: Color,
    coats: Annotated[int, Field(gt=0, description="How many layers.")] = 2,
    at: Optional[Point] = None,  # noqa: UP045
    finish: Literal["matt", "gloss"] = "matt",
    primer: Color = Color.RED,
) -> None:
    """Paints a thing.

    Args:
        what: The thing.
        coats: Overridden by the annotation.
    """


def legacy(tool: FunctionTool[..., Any]) -> dict[str, Any]:
    schema: dict[str, Any] = build_legacy_openai_schema(tool)["function"]["parameters"]
    return schema


def strict(tool: FunctionTool[..., Any]) -> dict[str, Any]:
    schema: dict[str, Any] = build_strict_openai_schema(tool)["function"]["parameters"]
    return schema


def test_the_model_of_arguments_follows_the_signature() -> None:
    model = function_arguments_to_pydantic_model(paint)
    assert model.__name__ == "PaintArgs"
    assert list(model.model_fields) == ["what", "color", "coats", "at", "finish", "primer"]
    assert model.model_fields["what"].description == "The thing."
    assert model.model_fields["coats"].description == "How many layers."
    assert model.model_fields["coats"].default == 2
    assert model.model_fields["color"].is_required()
    with pytest.raises(pydantic.ValidationError):
        model(what="x", color="red", coats=0)


def test_a_default_in_the_annotation_wins_over_the_signature() -> None:
    async def f(x: Annotated[int, Field(default=1)] = 2, y: int = Field(default=3, gt=2)) -> None:
        """Does it.

        Args:
            y: A number.
        """

    model = function_arguments_to_pydantic_model(f)
    assert model().model_dump() == {"x": 1, "y": 3}
    assert model.model_fields["y"].description == "A number."
    with pytest.raises(pydantic.ValidationError):
        model(y=2)


def test_names_that_pydantic_reserves_can_be_parameters() -> None:
    @function_tool
    async def f(
        schema: str, copy: int, model_name: str, _hidden: int = 1, json: bool = True
    ) -> None:
        """Does it."""

    assert list(legacy(f)["properties"]) == ["schema", "copy", "model_name", "_hidden", "json"]
    args, kwargs = prepare_function_arguments(
        fnc=f, json_arguments='{"schema": "s", "copy": 2, "model_name": "m", "json": false}'
    )
    assert (args, kwargs) == (("s", 2, "m", 1, False), {})


def test_a_plain_function_without_annotations_is_refused() -> None:
    def f(x) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(TypeError, match="'x'"):
        function_arguments_to_pydantic_model(f)


def test_the_plain_schema_is_what_pydantic_makes() -> None:
    assert legacy(paint) == function_arguments_to_pydantic_model(paint).model_json_schema()
    flat = build_legacy_openai_schema(paint, internally_tagged=True)
    assert flat == {
        "type": "function",
        "name": "paint",
        "description": "Paints a thing.\n",
        "parameters": legacy(paint),
    }
    legacy(paint).clear()
    assert legacy(paint) != {}  # everyone gets a copy


def test_the_strict_schema_requires_everything_and_takes_null_for_a_default() -> None:
    function = build_strict_openai_schema(paint)["function"]
    assert function["strict"] is True and function["name"] == "paint"
    parameters = function["parameters"]
    assert parameters["required"] == ["what", "color", "coats", "at", "finish", "primer"]
    assert parameters["additionalProperties"] is False
    properties = parameters["properties"]
    assert properties["what"] == {"type": "string", "description": "The thing."}
    assert properties["color"] == {"$ref": "#/$defs/Color"}
    assert properties["coats"] == {
        "type": ["integer", "null"],
        "exclusiveMinimum": 0,
        "description": "How many layers.",
    }
    assert properties["at"] == {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]}
    assert properties["primer"] == {"anyOf": [{"$ref": "#/$defs/Color"}, {"type": "null"}]}
    assert accepts(properties["finish"], None) and accepts(properties["finish"], "gloss")
    assert parameters["$defs"]["Color"] == {"enum": ["red", "blue"], "type": "string"}
    assert parameters["$defs"]["Point"]["required"] == ["x", "y"]
    json.dumps(parameters)


def rewrite(schema: Any, *, null_for_default: bool = True) -> dict[str, Any]:
    return to_strict_schema(schema, null_for_default=null_for_default)


def test_a_described_reference_with_a_default_keeps_its_description_on_the_wrapper() -> None:
    schema = {
        "$defs": {"E": {"enum": ["a"], "type": "string"}},
        "properties": {"e": {"$ref": "#/$defs/E", "default": "a", "description": "Which."}},
        "type": "object",
    }
    assert rewrite(schema)["properties"]["e"] == {
        "description": "Which.",
        "anyOf": [{"$ref": "#/$defs/E"}, {"type": "null"}],
    }
    assert rewrite(schema, null_for_default=False)["properties"]["e"] == {
        "description": "Which.",
        "enum": ["a"],
        "type": "string",
    }


def test_a_described_reference_is_inlined() -> None:
    schema = {
        "$defs": {"E": {"enum": ["a"], "type": "string", "description": "Of the type."}},
        "properties": {"e": {"$ref": "#/$defs/E", "description": "Of the field."}},
        "type": "object",
    }
    before = copy.deepcopy(schema)
    assert rewrite(schema)["properties"]["e"] == {
        "enum": ["a"],
        "type": "string",
        "description": "Of the field.",
    }
    assert schema == before


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"oneOf": [{"type": "string"}, {"type": "integer"}], "discriminator": {}},
         {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        ({"anyOf": [{}, {"type": "string", "title": "T"}], "description": "d"},
         {"type": "string", "description": "d"}),
        ({"anyOf": [{}], "description": "d"}, {"description": "d"}),
        ({"allOf": [{"type": "string"}], "title": "T"}, {"type": "string"}),
        ({"allOf": [{"type": "string"}, {"enum": ["a"]}]},
         {"allOf": [{"type": "string"}, {"enum": ["a"]}]}),
        ({"allOf": [{"type": "string"}, {"enum": ["a"]}], "default": "a"},
         {"anyOf": [{"allOf": [{"type": "string"}, {"enum": ["a"]}]}, {"type": "null"}]}),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}], "default": 1},
         {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
         {"type": ["string", "null"]}),
        ({"anyOf": [{"enum": ["a"], "type": "string"}, {"type": "null"}]},
         {"enum": ["a", None], "type": ["string", "null"]}),
        ({"anyOf": [{"const": "a", "type": "string"}, {"type": "null"}]},
         {"anyOf": [{"const": "a", "type": "string"}, {"type": "null"}]}),
        ({"const": "a", "type": "string", "default": "a"}, {"const": "a", "type": "string"}),
        ({"type": ["string", "integer"], "default": "a"},
         {"type": ["string", "integer", "null"]}),
        ({"type": "array", "items": {"type": "object"}},
         {"type": "array", "items": {"type": "object", "additionalProperties": False}}),
        ({"type": "object", "additionalProperties": {"type": "integer", "title": "T"}},
         {"type": "object", "additionalProperties": {"type": "integer"}}),
        ({"type": "object", "properties": {}}, {"type": "object", "properties": {},
                                               "additionalProperties": False}),
    ],
)  # fmt: skip
def test_single_rewritings(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert rewrite(schema) == expected


def test_flattening_leaves_the_shared_definition_alone() -> None:
    @function_tool
    async def f(
        a: Annotated[Optional[Color], Field(description="x")],  # noqa: UP045
        b: Color,
    ) -> None: ...

    assert strict(f)["$defs"]["Color"] == {"enum": ["red", "blue"], "type": "string"}


def test_recursive_types_end_somewhere() -> None:
    @function_tool
    async def f(tree: Tree, trees: list[Annotated[Tree, Field(description="One.")]]) -> None: ...

    schema = strict(f)
    assert accepts(
        schema,
        {
            "tree": {"value": 1, "children": [{"value": 2, "children": None}]},
            "trees": [{"value": 1, "children": []}],
        },
    )
    root = rewrite(Tree.model_json_schema())
    assert root["type"] == "object" and "Tree" in root["$defs"]


def test_what_is_no_schema_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a JSON Schema"):
        rewrite({"properties": {"x": 3}})
    with pytest.raises(TypeError):
        rewrite([])
    with pytest.raises(ValueError, match="start with '#/'"):
        rewrite({"$ref": "https://example.com/schema"})


# -- response formats


class Answer(BaseModel):
    text: str
    score: float = 0.5


class AnswerDict(TypedDict):
    text: str
    note: NotRequired[str]


@pydantic.dataclasses.dataclass
class AnswerDataclass:
    text: str


@dataclass
class PlainDataclass:
    text: str


def test_response_formats_require_fields_plainly() -> None:
    given_format = to_openai_response_format(Answer)
    assert given_format["type"] == "json_schema"
    described = given_format["json_schema"]
    assert described["name"] == "Answer" and described["strict"] is True
    assert described["schema"] == {
        "type": "object",
        "properties": {"text": {"type": "string"}, "score": {"type": "number"}},
        "required": ["text", "score"],
        "additionalProperties": False,
    }


def test_response_formats_may_be_of_several_kinds() -> None:
    assert to_response_format_param(Answer) == ("Answer", Answer)
    for kind in (AnswerDict, AnswerDataclass):
        name, parser = to_response_format_param(kind)
        assert name == kind.__name__ and isinstance(parser, pydantic.TypeAdapter)
        assert to_openai_response_format(kind)["json_schema"]["schema"]["required"][0] == "text"
    for other in (PlainDataclass, {"type": "object"}, int, "Answer"):
        with pytest.raises(TypeError, match="unsupported response format"):
            to_response_format_param(other)  # type: ignore[arg-type]


# -- shapes of the providers


class WebSearch(ProviderTool):
    def to_dict(self) -> dict[str, str]:
        return {"type": "web_search"}


RAW = {
    "name": "raw",
    "description": "Raw.",
    "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
    "meta": 1,
}


@function_tool(raw_schema=RAW)
async def raw(raw_arguments: dict[str, object]) -> None: ...


@function_tool(raw_schema={"name": "bare", "parameters": {}})
async def bare(raw_arguments: dict[str, object]) -> None: ...


@function_tool
async def ping() -> None: ...


TOOLS = ToolContext([paint, raw, bare, ping, WebSearch(id="search")])


def test_openai() -> None:
    schemas = TOOLS.parse_function_tools("openai")
    assert schemas[0] == build_strict_openai_schema(paint)
    assert schemas[1] == {"type": "function", "function": RAW}
    assert TOOLS.parse_function_tools("openai", strict=False)[0] == build_legacy_openai_schema(
        paint
    )


def test_openai_responses() -> None:
    schemas = TOOLS.parse_function_tools("openai.responses", provider_tool_type=WebSearch)
    assert schemas[0] == build_legacy_openai_schema(paint, internally_tagged=True)
    assert schemas[1] == {**RAW, "type": "function"}
    assert schemas[-1] == {"type": "web_search"}
    assert len(TOOLS.parse_function_tools("openai.responses", strict=True)) == 4


def test_anthropic() -> None:
    schemas = TOOLS.parse_function_tools("anthropic")
    assert schemas[0] == {
        "name": "paint",
        "description": "Paints a thing.\n",
        "input_schema": strict(paint),
        "strict": True,
    }
    assert schemas[1] == {
        "name": "raw",
        "description": "Raw.",
        "input_schema": RAW["parameters"],
    }
    assert schemas[2] == {"name": "bare", "description": "", "input_schema": {}}
    assert TOOLS.parse_function_tools("anthropic", strict=False)[0]["input_schema"] == legacy(paint)


def test_aws() -> None:
    schemas = TOOLS.parse_function_tools("aws")
    assert schemas[0] == {
        "toolSpec": {
            "name": "paint",
            "description": "Paints a thing.\n",
            "inputSchema": {"json": legacy(paint)},
        }
    }
    assert schemas[2] == {"toolSpec": {"name": "bare", "inputSchema": {"json": {}}}}


def test_google() -> None:
    schemas = TOOLS.parse_function_tools("google", tool_behavior="NON_BLOCKING")
    assert schemas[0]["parameters_json_schema"] == legacy(paint)
    assert schemas[1]["parameters_json_schema"] == RAW["parameters"]
    assert schemas[2]["parameters_json_schema"] is None
    assert schemas[3]["parameters_json_schema"] is None  # no parameters
    assert {schema["behavior"] for schema in schemas} == {"NON_BLOCKING"}
    assert "behavior" not in TOOLS.parse_function_tools("google")[0]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown tool format 'gpt'"):
        TOOLS.parse_function_tools("gpt")


# -- any signature


def _as_it_is(value: Any) -> Any:
    return value


@dataclass
class Kind:
    """A type, values of it as a model writes them, and what a function then gets."""

    type: Any
    values: st.SearchStrategy[Any]
    to_python: Callable[[Any], Any] = _as_it_is
    defaults: st.SearchStrategy[Any] | None = None


SIMPLE = [
    Kind(str, st.text(max_size=5)),
    Kind(int, st.integers(-5, 5)),
    Kind(float, st.floats(-5, 5)),
    Kind(bool, st.booleans()),
    Kind(Color, st.sampled_from(["red", "blue"]), Color, st.sampled_from(Color)),
    Kind(Literal["a", "b"], st.sampled_from(["a", "b"])),
    Kind(Annotated[int, Field(ge=0)], st.integers(0, 9)),
    Kind(
        Point,
        st.fixed_dictionaries({"x": st.integers(0, 9), "y": st.integers(0, 9)}),
        lambda value: Point(**value),
        st.just(Point(x=1)),
    ),
    Kind(
        Union[Cat, Dog],  # noqa: UP007
        st.sampled_from([{"kind": "cat", "lives": 3}, {"kind": "dog", "name": None}]),
        lambda value: Cat(**value) if value["kind"] == "cat" else Dog(**value),
        st.just(Dog(kind="dog")),
    ),
]


def _containers(kind: Kind) -> Iterator[Kind]:
    convert = kind.to_python
    yield Kind(
        list[kind.type],  # type: ignore[name-defined]
        st.lists(kind.values, max_size=2),
        lambda value: [convert(item) for item in value],
        st.just([]),
    )
    yield Kind(
        dict[str, kind.type],  # type: ignore[name-defined]
        st.dictionaries(st.text(max_size=3), kind.values, max_size=2),
        lambda value: {key: convert(item) for key, item in value.items()},
        st.just({}),
    )
    yield Kind(
        Optional[kind.type],  # noqa: UP045
        st.none() | kind.values,
        lambda value: None if value is None else convert(value),
        st.none(),
    )


KINDS = SIMPLE + [container for kind in SIMPLE for container in _containers(kind)]


@dataclass
class Call:
    tool: FunctionTool[..., Any]
    arguments: dict[str, Any]
    expected: dict[str, Any]
    defaults: dict[str, Any]
    nullable: set[str]


@st.composite
def calls(draw: st.DrawFn) -> Call:
    names = draw(st.lists(st.sampled_from("abcdefg"), unique=True, max_size=4))
    parameters, arguments, expected = [], {}, {}
    defaults: dict[str, Any] = {}
    nullable = set()
    for name in names:
        kind = draw(st.sampled_from(KINDS))
        value = draw(kind.values)
        arguments[name], expected[name] = value, kind.to_python(value)
        default: Any = inspect.Parameter.empty
        if draw(st.booleans()):
            defaults[name] = default = draw(kind.values if kind.defaults is None else kind.defaults)
        if type(None) in getattr(kind.type, "__args__", ()):
            nullable.add(name)
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind.type
            )
        )

    async def func() -> None: ...

    func.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    func.__annotations__ = {p.name: p.annotation for p in parameters}
    return Call(function_tool(func), arguments, expected, defaults, nullable)


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for key, value in schema.items():
            if key in ("properties", "$defs"):
                for item in value.values():
                    yield from _objects(item)
            else:
                yield from _objects(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _objects(item)


@settings(max_examples=150, deadline=None)
@given(calls())
def test_schemas_accept_what_the_function_accepts(call: Call) -> None:
    plain, tight = legacy(call.tool), strict(call.tool)
    assert accepts(plain, call.arguments)
    assert accepts(tight, call.arguments)
    text = json.dumps(call.arguments)
    _, kwargs = prepare_function_arguments(fnc=call.tool, json_arguments=text)
    assert kwargs == call.expected


@settings(max_examples=100, deadline=None)
@given(calls())
def test_null_and_silence_mean_the_default(call: Call) -> None:
    given_up = {name: None for name in call.defaults if name not in call.nullable}
    arguments = {**call.arguments, **given_up}
    assert accepts(strict(call.tool), arguments)
    _, kwargs = prepare_function_arguments(fnc=call.tool, json_arguments=json.dumps(arguments))
    assert kwargs == {**call.expected, **{name: call.defaults[name] for name in given_up}}

    silent = {name: v for name, v in call.arguments.items() if name not in call.defaults}
    _, kwargs = prepare_function_arguments(fnc=call.tool, json_arguments=json.dumps(silent))
    assert kwargs == {**call.expected, **call.defaults}


@settings(max_examples=100, deadline=None)
@given(calls())
def test_strict_schemas_keep_the_rules_of_strict_mode(call: Call) -> None:
    for schema in _objects(strict(call.tool)):
        assert not schema.keys() & {"title", "default", "oneOf", "discriminator"}
        if "$ref" in schema:
            assert schema.keys() == {"$ref"}
        if schema.get("properties"):
            assert schema["required"] == list(schema["properties"])
            assert schema["additionalProperties"] is False
