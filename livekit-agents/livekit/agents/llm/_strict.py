"""JSON Schemas for OpenAI's strict mode, in which a model can't leave the schema.

Strict mode wants every property to be required, closed objects, and a subset of the keywords. A
property that had a default becomes nullable in a tool's schema: the model says null for "use the
default".
"""

from __future__ import annotations

import copy
from typing import Any

Schema = dict[str, Any]

_NULL: Schema = {"type": "null"}
_VARIANTS = ("anyOf", "oneOf")
_DEFINITIONS = ("$defs", "definitions")
_ANNOTATIONS = ("description", "examples", "deprecated", "readOnly", "writeOnly")
_DROPPED = ("$ref", "title", "discriminator", "default")


def to_strict_schema(schema: Any, *, null_for_default: bool) -> Schema:
    """Rewrite a JSON Schema for strict mode. The given one is not changed.

    Args:
        schema: As pydantic makes it.
        null_for_default: Let properties with a default also take null. Without it such a property
            is plainly required.

    Raises:
        TypeError: `schema`, or a schema inside it, is not a dict.
        ValueError: A `$ref` points outside of the schema.
    """
    root = copy.deepcopy(schema)
    return _Strict(root, null_for_default).rewrite(root)


class _Strict:
    def __init__(self, root: Any, null_for_default: bool) -> None:
        self._root = root
        self._null_for_default = null_for_default
        self._inlining: list[str] = []

    def rewrite(self, schema: Any) -> Schema:
        """The schema in the strict form; it and all inside it may be changed in place."""
        if not isinstance(schema, dict):
            raise TypeError(f"expected a JSON Schema as a dict, got {schema!r}")
        if "$ref" in schema:
            return self._rewrite_reference(schema, schema["$ref"])
        for key in _DEFINITIONS:
            if isinstance(schema.get(key), dict):
                schema[key] = self._rewrite_each(schema[key])
        schema.pop("title", None)
        schema.pop("discriminator", None)
        self._close_object(schema)
        if isinstance(schema.get("items"), dict):
            schema["items"] = self.rewrite(schema["items"])
        self._unite_variants(schema)
        self._merge_all_of(schema)
        if "default" in schema:
            del schema["default"]
            if self._null_for_default:
                schema = _nullable(schema)
        return self._flatten_optional(schema)

    def _rewrite_each(self, schemas: Schema) -> Schema:
        return {name: self.rewrite(schema) for name, schema in schemas.items()}

    def _rewrite_reference(self, schema: Schema, reference: Any) -> Schema:
        """A `$ref` must stand alone: with siblings it gives way to what it refers to.

        Siblings that only annotate may also go to the wrapper that makes it nullable.
        """
        target = self._resolve(reference)
        nullable = self._null_for_default and "default" in schema
        siblings = {key: value for key, value in schema.items() if key not in _DROPPED}
        annotations = {key: siblings[key] for key in _ANNOTATIONS if key in siblings}
        alone = siblings.keys() == annotations.keys() if nullable else not siblings
        if not alone and reference not in self._inlining:  # a recursive type ends here
            self._inlining.append(reference)
            default = {"default": schema["default"]} if nullable else {}
            inlined = self.rewrite({**copy.deepcopy(target), **siblings, **default})
            self._inlining.pop()
            return inlined
        if nullable:
            return {**annotations, "anyOf": [{"$ref": reference}, _NULL]}
        return {"$ref": reference}

    def _resolve(self, reference: Any) -> Schema:
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise ValueError(
                f"can't resolve the reference {reference!r}: only references into the schema "
                "itself, which start with '#/', are supported"
            )
        target: Any = self._root
        for part in reference[2:].split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")]
        if not isinstance(target, dict):
            raise TypeError(f"expected a JSON Schema at {reference!r}, got {target!r}")
        return target

    def _close_object(self, schema: Schema) -> None:
        if schema.get("type") == "object":
            schema.setdefault("additionalProperties", False)
        if isinstance(schema.get("additionalProperties"), dict):
            schema["additionalProperties"] = self.rewrite(schema["additionalProperties"])
        properties = schema.get("properties")
        if isinstance(properties, dict) and properties:
            schema["required"] = list(properties)
            schema["properties"] = self._rewrite_each(properties)

    def _unite_variants(self, schema: Schema) -> None:
        variants = [
            self.rewrite(variant)
            for key in _VARIANTS
            for variant in schema.pop(key, None) or ()
            if variant != {}
        ]
        if len(variants) == 1:
            _merge_into(schema, variants[0])
        elif variants:
            schema["anyOf"] = variants

    def _merge_all_of(self, schema: Schema) -> None:
        parts = schema.get("allOf")
        if not isinstance(parts, list):
            return
        parts = [self.rewrite(part) for part in parts]
        if len(parts) == 1:
            del schema["allOf"]
            _merge_into(schema, parts[0])
        else:
            schema["allOf"] = parts

    def _flatten_optional(self, schema: Schema) -> Schema:
        """`anyOf` of one plain type and null reads better as `type: [it, "null"]`."""
        variants = schema.get("anyOf")
        if not isinstance(variants, list) or len(variants) != 2 or _NULL not in variants:
            return schema
        other = variants[0] if variants[1] == _NULL else variants[1]
        if "type" not in other or "const" in other:
            return schema
        flat = {**other, **{key: value for key, value in schema.items() if key != "anyOf"}}
        types = other["type"] if isinstance(other["type"], list) else [other["type"]]
        flat["type"] = types if "null" in types else [*types, "null"]
        if "enum" in other and None not in other["enum"]:
            flat["enum"] = [*other["enum"], None]
        return flat


def _merge_into(schema: Schema, part: Schema) -> None:
    """Let `schema` say what its only part says; its own keywords win."""
    for key, value in part.items():
        schema.setdefault(key, value)


def _nullable(schema: Schema) -> Schema:
    """Let null pass as well. A constant has nothing else to say."""
    if "const" in schema or _accepts_null(schema):
        return schema
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], _NULL]}
    if "enum" in schema or "allOf" in schema:
        wrapper = {key: value for key, value in schema.items() if key in _ANNOTATIONS}
        inner = {key: value for key, value in schema.items() if key not in _ANNOTATIONS}
        return {**wrapper, "anyOf": [inner, _NULL]}
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return {**schema, "type": [*types, "null"]}
    return schema


def _accepts_null(schema: Schema) -> bool:
    types = schema.get("type")
    if types == "null" or (isinstance(types, list) and "null" in types):
        return True
    return any(variant == _NULL for variant in schema.get("anyOf", ()))
