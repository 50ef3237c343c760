"""From the text a model wrote to the arguments a tool is called with."""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..log import logger
from ._schema import arguments_model, context_class, type_hints
from ._tools import RAW_ARGUMENTS, FunctionTool, RawFunctionTool, ToolError

if TYPE_CHECKING:
    from ..voice.run_context import RunContext
    from .chat_context import FunctionCall

# Tokens of chat templates that models let slip into their output, such as <|im_end|>, or halves of
# them, where repairing the JSON has cut one: "<|", "<|im_end", "|>", "im_end|>".
_TEMPLATE_TOKEN = re.compile(r"<\|[^<>|]*\|>|<\|\w*|(?:\w*_\w*)?\|>|</?(?:start|end)_of_turn>")


def parse_function_arguments(json_arguments: str) -> dict[str, Any]:
    """Read the arguments a model wrote, mending the JSON if it is broken.

    What had to be mended is also freed of tokens of the chat template, with a warning. Arguments
    that are JSON inside a JSON string are read as well; `null` counts as no arguments.

    Raises:
        ValueError: The text is empty, beyond repair, or not a JSON object.
    """
    if not json_arguments.strip():
        raise ValueError("the arguments are empty: expected a JSON object")
    value: Any = json_arguments
    while isinstance(value, str):
        inner = _parse_or_repair(value)
        if inner == value:
            break
        value = inner
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(
            f"the arguments are not a JSON object but {type(value).__name__}: {json_arguments!r}"
        )
    return value


def _parse_or_repair(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    import json_repair

    try:
        repaired = json_repair.loads(text, skip_json_loads=True)
    except Exception as e:
        raise ValueError(f"the arguments are not valid JSON and can't be mended: {text!r}") from e
    if repaired == "":  # how the library says that it found nothing
        raise ValueError(f"the arguments are not valid JSON and can't be mended: {text!r}")
    logger.warning("mended the arguments of a tool call, which were not valid JSON")
    return _without_template_tokens(repaired)


def _without_template_tokens(value: Any) -> Any:
    if isinstance(value, str):
        return _TEMPLATE_TOKEN.sub("", value)
    if isinstance(value, dict):
        return {
            _without_template_tokens(key): _without_template_tokens(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        cleaned = [(item, _without_template_tokens(item)) for item in value]
        return [after for before, after in cleaned if after != "" or before == ""]
    return value


def validated_arguments(
    fnc: FunctionTool[..., Any] | RawFunctionTool[..., Any], args_dict: dict[str, Any]
) -> dict[str, Any]:
    """Check arguments against a tool's signature and convert them to its types.

    A null for a parameter that has a default but doesn't take null means the default. Unknown
    arguments are ignored.

    Returns:
        A value for every parameter the model knows of; for a raw tool, the arguments as they are.

    Raises:
        pydantic.ValidationError: They don't fit.
    """
    if isinstance(fnc, RawFunctionTool):
        return args_dict
    expected = arguments_model(fnc)
    completed = _Defaults(expected.schema).apply(args_dict, expected.schema)
    validated = expected.model.model_validate(completed)
    return {
        parameter: getattr(validated, field)
        for parameter, field in zip(expected.parameters, type(validated).model_fields, strict=True)
    }


class _Defaults:
    """Puts defaults where a model, made to name every property, wrote null instead."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root

    def apply(self, value: Any, schema: Any) -> Any:
        """The value with the defaults of its schema in place of nulls. Nested values are changed in place."""
        schema = self._resolved(schema)
        if value is None and "default" in schema and not self._accepts_null(schema):
            return copy.deepcopy(schema["default"])
        for part in schema.get("allOf", ()):
            value = self.apply(value, part)
        variant = self._variant(value, schema)
        if variant is not None:
            value = self.apply(value, variant)
        if isinstance(value, dict):
            return self._apply_to_object(value, schema)
        if isinstance(value, list):
            return self._apply_to_array(value, schema)
        return value

    def _apply_to_object(self, value: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
        properties = schema.get("properties", {})
        rest = schema.get("additionalProperties")
        result: dict[str, Any] = {}
        for key, item in value.items():
            if key in properties:
                # Leaving it out makes pydantic use the real default, also one JSON can't express.
                if not (item is None and self._may_be_left_out(key, schema)):
                    result[key] = self.apply(item, properties[key])
            else:
                result[key] = self.apply(item, rest) if isinstance(rest, dict) else item
        return result

    def _may_be_left_out(self, key: str, schema: dict[str, Any]) -> bool:
        return key not in schema.get("required", ()) and not self._accepts_null(
            schema["properties"][key]
        )

    def _apply_to_array(self, value: list[Any], schema: dict[str, Any]) -> list[Any]:
        prefix = schema.get("prefixItems", ())
        rest = schema.get("items")
        result = [self.apply(item, part) for item, part in zip(value, prefix, strict=False)]
        for item in value[len(prefix) :]:
            result.append(self.apply(item, rest) if isinstance(rest, dict) else item)
        return result

    def _variant(self, value: Any, schema: dict[str, Any]) -> dict[str, Any] | None:
        """The first alternative the value fits."""
        for key in ("anyOf", "oneOf"):
            for variant in schema.get(key, ()):
                if self._fits(value, variant):
                    found: dict[str, Any] = variant
                    return found
        return None

    def _fits(self, value: Any, schema: Any) -> bool:
        schema = self._resolved(schema)
        if value is None and ("default" in schema or self._accepts_null(schema)):
            return True
        if "const" in schema and value != schema["const"]:
            return False
        if "enum" in schema and value not in schema["enum"]:
            return False
        types = schema.get("type")
        if types is not None and not any(
            _JSON_TYPES[name](value)
            for name in ([types] if isinstance(types, str) else types)
            if name in _JSON_TYPES
        ):
            return False
        if not all(self._fits(value, part) for part in schema.get("allOf", ())):
            return False
        for key in ("anyOf", "oneOf"):
            if key in schema and not any(self._fits(value, part) for part in schema[key]):
                return False
        if isinstance(value, dict):
            return self._object_fits(value, schema)
        if isinstance(value, list) and isinstance(schema.get("items"), dict):
            rest = value[len(schema.get("prefixItems", ())) :]
            return all(self._fits(item, schema["items"]) for item in rest)
        return True

    def _object_fits(self, value: dict[str, Any], schema: dict[str, Any]) -> bool:
        properties = schema.get("properties", {})
        if any(key not in value for key in schema.get("required", ())):
            return False
        for key, item in value.items():
            if key in properties:
                if item is None and self._may_be_left_out(key, schema):
                    continue
                if not self._fits(item, properties[key]):
                    return False
            elif schema.get("additionalProperties") is False:
                return False
        return True

    def _accepts_null(self, schema: Any) -> bool:
        schema = self._resolved(schema)
        types = schema.get("type")
        if types is not None:
            return types == "null" or (isinstance(types, list) and "null" in types)
        if "const" in schema or "enum" in schema:
            return schema.get("const", "") is None or None in schema.get("enum", ())
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return any(self._accepts_null(variant) for variant in schema[key])
        if "allOf" in schema:
            return all(self._accepts_null(part) for part in schema["allOf"])
        return True  # nothing said: anything goes

    def _resolved(self, schema: Any) -> dict[str, Any]:
        """The schema with its `$ref` followed; keywords beside the reference stay."""
        if not isinstance(schema, dict):
            return {}
        result: dict[str, Any] = schema
        while "$ref" in result:
            target: Any = self._root
            for part in result["$ref"].removeprefix("#/").split("/"):
                target = target[part.replace("~1", "/").replace("~0", "~")]
            result = {**target, **{key: item for key, item in result.items() if key != "$ref"}}
        return result


_JSON_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def prepare_function_arguments(
    *,
    fnc: FunctionTool[..., Any] | RawFunctionTool[..., Any],
    json_arguments: str | dict[str, Any],
    call_ctx: RunContext[Any] | None = None,
    fnc_call: FunctionCall | None = None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn what a model wrote into the arguments to call a tool with.

    Args:
        fnc: The tool.
        json_arguments: JSON text, mended where it is broken, or arguments already parsed.
        call_ctx: Passed to the parameters annotated with `RunContext`.
        fnc_call: Its `arguments` are rewritten as plain JSON when the text had to be mended.

    Returns:
        Positional and keyword arguments, defaults included.

    Raises:
        ToolError: The arguments don't fit. The text tells the model why, so that it can do better.
    """
    try:
        arguments = (
            parse_function_arguments(json_arguments)
            if isinstance(json_arguments, str)
            else json_arguments
        )
        if fnc_call is not None and isinstance(json_arguments, str):
            canonical = json.dumps(arguments, default=str)
            if fnc_call.arguments != canonical:
                fnc_call.arguments = canonical
        return _bind(fnc, validated_arguments(fnc, arguments), call_ctx)
    except (ValueError, TypeError) as e:
        raise ToolError(f"Error parsing arguments for `{fnc.id}`: {_detail(e)}") from e


def _detail(error: Exception) -> str:
    """What was wrong, without what is of no use to a model, such as links to documentation."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg']}"
        for each in error.errors(include_url=False)
    )


def _bind(
    fnc: FunctionTool[..., Any] | RawFunctionTool[..., Any],
    arguments: dict[str, Any],
    call_ctx: RunContext[Any] | None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(fnc, RawFunctionTool):
        arguments = {RAW_ARGUMENTS: arguments}
    signature = inspect.signature(fnc)
    hints = type_hints(fnc)
    bound = inspect.BoundArguments(signature, {})
    for parameter in signature.parameters.values():
        if parameter.name in arguments:
            bound.arguments[parameter.name] = arguments[parameter.name]
            continue
        expected = context_class(hints.get(parameter.name))
        if expected is not None and call_ctx is not None:
            if isinstance(call_ctx, expected):
                bound.arguments[parameter.name] = call_ctx
                continue
            logger.error(
                "the tool %r expects a %s, but is called with a %s",
                fnc.id,
                expected.__name__,
                type(call_ctx).__name__,
            )
        if parameter.default is not parameter.empty:
            bound.arguments[parameter.name] = parameter.default
        elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"missing a required argument: {parameter.name!r}")
    return bound.args, bound.kwargs
