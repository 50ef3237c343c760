"""JSON messages and their fields, read with suspicion."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

MAX_MESSAGE = 4 * 1024 * 1024
"""Characters of a message, as WebSocket libraries limit them."""

_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}

_compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class ProtocolError(Exception):
    """A message that can't be understood. Its text says what was wrong, not what was in it."""


@dataclass(frozen=True)
class UnknownMessage:
    """A message of a type this side does not know. To be ignored: protocols grow."""

    type: str


def encode(message: Mapping[str, Any]) -> str:
    """Write a message as compact JSON.

    Raises:
        ValueError: It contains something that JSON has no form for.
    """
    try:
        return _compact.encode(message)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the options can't be sent as JSON: {error}") from None


def decode(text: str | bytes) -> Fields:
    """Read a message.

    Raises:
        ProtocolError: It is no JSON object with a string as ``type``, or too large.
    """
    if not isinstance(text, (str, bytes)):
        raise ProtocolError(f"expected text, got {type(text).__name__}")
    if len(text) > MAX_MESSAGE:
        raise ProtocolError(f"the message has {len(text)} characters, at most {MAX_MESSAGE} go")
    try:
        value = _decoder.decode(text if isinstance(text, str) else text.decode())
    except ProtocolError:
        raise
    except UnicodeDecodeError:
        raise ProtocolError("the message is not UTF-8") from None
    except RecursionError:
        raise ProtocolError("the message is nested too deeply") from None
    except ValueError as error:
        # its text names the position; the document itself may hold what somebody said
        where = getattr(error, "pos", None)
        raise ProtocolError(
            "the message is not JSON" + (f" (at character {where})" if where is not None else "")
        ) from None
    if not isinstance(value, dict):
        raise ProtocolError(f"expected a JSON object, got {kind_of(value)}")
    return Fields(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ProtocolError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    return _KINDS.get(type(value), "a number")


class Fields:
    """The fields of a JSON object. A null counts as absent.

    Every getter raises `ProtocolError` when the value has another type.
    """

    __slots__ = ("_name", "values")

    def __init__(self, values: dict[str, Any], name: str = "") -> None:
        self.values = values
        self._name = name

    @property
    def type(self) -> str:
        """The message's type."""
        value = self.values.get("type")
        if not isinstance(value, str):
            raise ProtocolError(f'"type" should be a string, got {kind_of(value)}')
        self._name = value[:40]
        return value

    def text(self, key: str, default: str = "") -> str:
        """A string; fit to be sent on as UTF-8."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.refuse(key, "a string", value)
        return clean(value)

    def optional_text(self, key: str) -> str | None:
        """A string, or None."""
        return None if self.values.get(key) is None else self.text(key)

    def number(self, key: str, default: float = 0.0) -> float:
        """A finite number."""
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.refuse(key, "a number", value)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ProtocolError(f'"{key}" of {self._name} is not finite')
        return number

    def optional_number(self, key: str) -> float | None:
        """A finite number, or None."""
        return None if self.values.get(key) is None else self.number(key)

    def integer(self, key: str, default: int = 0) -> int:
        """A whole number."""
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(key, "an integer", value)
        return value

    def mapping(self, key: str) -> dict[str, Any] | None:
        """A JSON object, or None."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            self.refuse(key, "an object", value)
        return value

    def objects(self, key: str) -> list[Fields] | None:
        """A list of JSON objects, or None."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list):
            self.refuse(key, "a list", value)
        for item in value:
            if not isinstance(item, dict):
                self.refuse(key, "a list of objects", item)
        return [Fields(item, f"{self._name}.{key}") for item in value]

    def numbers(self, key: str) -> list[float]:
        """A list of finite numbers; empty if absent."""
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.refuse(key, "a list", value)
        return [Fields({key: item}, self._name).number(key) for item in value]

    def audio(self, key: str) -> bytes:
        """Bytes that travel as base64."""
        value = self.values.get(key)
        if value is None:
            return b""
        if not isinstance(value, str):
            self.refuse(key, "a string", value)
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise ProtocolError(f'"{key}" of {self._name} is not base64') from None

    def refuse(self, key: str, expected: str, value: object) -> NoReturn:
        """Say that a field has the wrong type."""
        raise ProtocolError(
            f'"{key}" of {self._name or "the message"} should be {expected}, got {kind_of(value)}'
        )


def clean(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can express and UTF-8 can't."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class ServerError:
    """The gateway says that something failed."""

    code: int | str = -1
    message: str = ""
    body: Mapping[str, Any] | None = None
    """The whole message."""

    @classmethod
    def read(cls, fields: Fields) -> ServerError:
        """Read an ``error`` message. Nothing in it is required."""
        code = fields.values.get("code")
        if isinstance(code, str):
            code = clean(code)
        elif isinstance(code, bool) or not isinstance(code, int):
            code = -1
        message = fields.values.get("message")
        return cls(
            code=code,
            message=clean(message) if isinstance(message, str) else "",
            body=fields.values,
        )

    def write(self) -> dict[str, Any]:
        """As a message."""
        return {"type": "error", **(self.body or {}), "code": self.code, "message": self.message}
