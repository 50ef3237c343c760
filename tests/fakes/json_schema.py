"""As much of a JSON Schema validator as the schemas of tools need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda v: v is None,
    "boolean": lambda v: isinstance(v, bool),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "string": lambda v: isinstance(v, str),
    "array": lambda v: isinstance(v, list),
    "object": lambda v: isinstance(v, dict),
}

_KNOWN = {
    "$ref", "$defs", "type", "enum", "const", "anyOf", "oneOf", "allOf", "properties", "required",
    "additionalProperties", "items", "prefixItems", "minItems", "maxItems", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "title", "description", "default", "discriminator",
}  # fmt: skip


def accepts(schema: dict[str, Any], value: Any, root: dict[str, Any] | None = None) -> bool:
    """Whether a value fits a schema.

    Raises:
        AssertionError: The schema uses a keyword that is not known here.
    """
    root = schema if root is None else root
    assert schema.keys() <= _KNOWN, schema.keys() - _KNOWN
    if "$ref" in schema and not accepts(resolve(root, schema["$ref"]), value, root):
        return False
    types = schema.get("type")
    if types is not None:
        names = [types] if isinstance(types, str) else types
        if not any(_TYPES[name](value) for name in names):
            return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if not all(accepts(part, value, root) for part in schema.get("allOf", ())):
        return False
    for key in ("anyOf", "oneOf"):
        if key in schema and not any(accepts(part, value, root) for part in schema[key]):
            return False
    if isinstance(value, dict) and not _object_fits(schema, value, root):
        return False
    if isinstance(value, list) and not _array_fits(schema, value, root):
        return False
    return not _TYPES["number"](value) or _number_fits(schema, value)


def resolve(root: dict[str, Any], reference: str) -> dict[str, Any]:
    """What a reference into the schema points to."""
    target: Any = root
    for part in reference.removeprefix("#/").split("/"):
        target = target[part]
    assert isinstance(target, dict)
    return target


def _object_fits(schema: dict[str, Any], value: dict[str, Any], root: dict[str, Any]) -> bool:
    properties = schema.get("properties", {})
    rest = schema.get("additionalProperties", True)
    if any(name not in value for name in schema.get("required", ())):
        return False
    for name, item in value.items():
        if name in properties:
            if not accepts(properties[name], item, root):
                return False
        elif rest is False or (isinstance(rest, dict) and not accepts(rest, item, root)):
            return False
    return True


def _array_fits(schema: dict[str, Any], value: list[Any], root: dict[str, Any]) -> bool:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return False
    prefix = schema.get("prefixItems", [])
    if not all(accepts(part, item, root) for part, item in zip(prefix, value, strict=False)):
        return False
    rest = schema.get("items", True)
    if rest is False:
        return len(value) <= len(prefix)
    return rest is True or all(accepts(rest, item, root) for item in value[len(prefix) :])


def _number_fits(schema: dict[str, Any], value: float) -> bool:
    return (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and schema.get("exclusiveMinimum", value - 1) < value
        and value < schema.get("exclusiveMaximum", value + 1)
    )
