"""From signatures and types to JSON Schema: the arguments of tools, and response formats."""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeGuard, Union, get_args, get_origin

from typing_extensions import TypeVar, get_type_hints, is_typeddict

from ._strict import to_strict_schema
from ._tools import FunctionTool

if TYPE_CHECKING:
    from pydantic import BaseModel, TypeAdapter

ResponseFormatT = TypeVar("ResponseFormatT", default=None)
"""The type a structured response is parsed into."""


@dataclass(frozen=True)
class ArgumentsModel:
    """What a function accepts from a model."""

    model: type[BaseModel]
    parameters: tuple[str, ...]
    """Names of the parameters, in the order of the model's fields, whose names may differ."""
    schema: dict[str, Any]
    """The model's JSON Schema."""


def function_arguments_to_pydantic_model(func: Callable[..., Any]) -> type[BaseModel]:
    """A pydantic model with a field for each parameter of a function.

    Types, constraints, descriptions and defaults come from the annotations and, where these are
    silent, from the signature and the docstring. Parameters that take a `RunContext` are left out.

    Raises:
        TypeError: A parameter has no annotation, or is `*args` or `**kwargs`.
    """
    return _build_model(func)[0]


def arguments_model(tool: Callable[..., Any]) -> ArgumentsModel:
    """`function_arguments_to_pydantic_model` with what else is needed to check arguments.

    Built once per function tool; bindings of a method share it.
    """
    if isinstance(tool, FunctionTool):
        cached: ArgumentsModel | None = getattr(tool.info, _CACHE, None)
        if cached is None:
            cached = _arguments_model(tool)
            setattr(tool.info, _CACHE, cached)
        return cached
    return _arguments_model(tool)


_CACHE = "_arguments_model"


def _arguments_model(func: Callable[..., Any]) -> ArgumentsModel:
    from pydantic.json_schema import GenerateJsonSchema

    class _Quiet(GenerateJsonSchema):
        # A default that JSON can't express is used all the same, see `validated_arguments`.
        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    model, parameters = _build_model(func)
    schema = model.model_json_schema(schema_generator=_Quiet)
    return ArgumentsModel(model, parameters, schema)


def _build_model(func: Callable[..., Any]) -> tuple[type[BaseModel], tuple[str, ...]]:
    from pydantic import ConfigDict, create_model

    name = getattr(func, "__name__", "tool")
    hints = type_hints(func)
    descriptions = _parameter_descriptions(func)
    fields: dict[str, Any] = {}
    names: list[str] = []
    for parameter in inspect.signature(func).parameters.values():
        if parameter.name not in hints:
            raise TypeError(
                f"parameter {parameter.name!r} of {name!r} has no type annotation: add one, so "
                "that the model knows what to pass"
            )
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{parameter} of {name!r} can't be described to a model")
        hint = hints[parameter.name]
        if context_class(hint) is not None:
            continue
        field_name = _field_name(parameter.name, fields)
        fields[field_name] = _field(
            parameter, hint, descriptions.get(parameter.name), renamed=field_name != parameter.name
        )
        names.append(parameter.name)
    model: type[BaseModel] = create_model(
        "".join(part.capitalize() for part in name.split("_")) + "Args",
        __config__=ConfigDict(protected_namespaces=()),
        **fields,
    )
    return model, tuple(names)


def _field(
    parameter: inspect.Parameter, hint: Any, description: str | None, *, renamed: bool
) -> tuple[Any, Any]:
    """The definition of a field; what the annotation says goes before everything else."""
    from pydantic import Field
    from pydantic.fields import FieldInfo

    annotated = FieldInfo.from_annotation(hint)
    options: dict[str, Any] = {}
    if renamed and annotated.alias is None:
        options["alias"] = parameter.name
    if isinstance(parameter.default, FieldInfo):  # def f(x: int = Field(gt=0))
        if description and not (parameter.default.description or annotated.description):
            options["description"] = description
        return (Annotated[hint, Field(**options)] if options else hint), parameter.default
    if description and not annotated.description:
        options["description"] = description
    if parameter.default is not parameter.empty and annotated.is_required():
        options["default"] = parameter.default
    return hint, Field(**options)


def _field_name(parameter: str, taken: dict[str, Any]) -> str:
    """A name pydantic accepts: no leading underscore, nothing that a model has already."""
    from pydantic import BaseModel

    name = parameter.lstrip("_") or "field"
    while name in taken or hasattr(BaseModel, name):
        name += "_"
    return name


def _parameter_descriptions(func: Callable[..., Any]) -> dict[str, str]:
    docstring = getattr(func, "__doc__", None)
    if not docstring or isinstance(func, functools.partial):
        return {}
    import docstring_parser

    return {
        param.arg_name: param.description
        for param in docstring_parser.parse(docstring).params
        if param.description
    }


def type_hints(func: Callable[..., Any]) -> dict[str, Any]:
    """The resolved annotations of a function or tool, `Annotated` kept."""
    while isinstance(func, functools.partial):
        func = func.func
    # A default of None makes no annotation optional: the function says what it accepts.
    return get_type_hints(func, include_extras=True)


def is_context_type(ty: Any, *, allow_subclasses: bool = False) -> bool:
    """Whether an annotation asks for the `RunContext`: the class or a subscription of it.

    Args:
        ty: The annotation.
        allow_subclasses: Let subclasses pass as well.
    """
    candidate = get_origin(ty) or ty
    # Nothing is imported for the sake of other annotations.
    if not isinstance(candidate, type) or all(
        base.__name__ != "RunContext" for base in candidate.__mro__
    ):
        return False
    from ..voice.run_context import RunContext

    return issubclass(candidate, RunContext) if allow_subclasses else candidate is RunContext


def context_class(ty: Any) -> type[Any] | None:
    """The class that an annotation for the run context names, or None for any other annotation.

    `Annotated` and `Optional` around it are seen through.
    """
    origin = get_origin(ty)
    if origin is Annotated:
        return context_class(get_args(ty)[0])
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(ty) if member is not type(None)]
        return context_class(members[0]) if len(members) == 1 else None
    if not is_context_type(ty, allow_subclasses=True):
        return None
    context: type[Any] = origin or ty
    return context


def legacy_parameters(tool: FunctionTool[..., Any]) -> dict[str, Any]:
    """The JSON Schema of a tool's arguments as pydantic makes it."""
    return copy.deepcopy(arguments_model(tool).schema)


def strict_parameters(tool: FunctionTool[..., Any]) -> dict[str, Any]:
    """The JSON Schema of a tool's arguments for OpenAI's strict mode."""
    return to_strict_schema(arguments_model(tool).schema, null_for_default=True)


def build_legacy_openai_schema(
    function_tool: FunctionTool[..., Any], *, internally_tagged: bool = False
) -> dict[str, Any]:
    """Describe a tool to OpenAI, non-strict.

    Args:
        function_tool: The tool.
        internally_tagged: Put `type` beside the other keys, as the Responses and Realtime APIs
            want it, and not around them.
    """
    function = {
        "name": function_tool.info.name,
        "description": function_tool.info.description or "",
        "parameters": legacy_parameters(function_tool),
    }
    if internally_tagged:
        return {**function, "type": "function"}
    return {"type": "function", "function": function}


def build_strict_openai_schema(function_tool: FunctionTool[..., Any]) -> dict[str, Any]:
    """Describe a tool to OpenAI's Chat Completions API, in strict mode."""
    return {
        "type": "function",
        "function": {
            "name": function_tool.info.name,
            "strict": True,
            "description": function_tool.info.description or "",
            "parameters": strict_parameters(function_tool),
        },
    }


def is_typed_dict(cls: object) -> TypeGuard[type[Any]]:
    """Whether `cls` is a `TypedDict` class."""
    return is_typeddict(cls)


def to_response_format_param(
    response_format: type[Any] | dict[str, Any],
) -> tuple[str, type[BaseModel] | TypeAdapter[Any]]:
    """Name and parser of a structured response.

    Args:
        response_format: A pydantic model, a pydantic dataclass or a `TypedDict`.

    Returns:
        Its name, and the model itself or a `pydantic.TypeAdapter`.

    Raises:
        TypeError: It is something else.
    """
    from pydantic import BaseModel, TypeAdapter
    from pydantic.dataclasses import is_pydantic_dataclass

    if isinstance(response_format, type):
        if issubclass(response_format, BaseModel):
            return response_format.__name__, response_format
        if is_typed_dict(response_format) or is_pydantic_dataclass(response_format):
            return response_format.__name__, TypeAdapter(response_format)
    raise TypeError(
        f"unsupported response format {response_format!r}: expected a pydantic model, a pydantic "
        "dataclass or a TypedDict class"
    )


def to_openai_response_format(response_format: type[Any] | dict[str, Any]) -> dict[str, Any]:
    """A structured response as OpenAI's `response_format`, in strict mode.

    Raises:
        TypeError: As `to_response_format_param`.
    """
    name, parser = to_response_format_param(response_format)
    schema = parser.model_json_schema() if isinstance(parser, type) else parser.json_schema()
    return {
        "type": "json_schema",
        "json_schema": {
            "schema": to_strict_schema(schema, null_for_default=False),
            "name": name,
            "strict": True,
        },
    }
