"""Helpers too small for a module of their own."""

from __future__ import annotations

import os
import platform
import re
import string
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar
from urllib.parse import urlsplit

from ..log import logger
from ..types import NotGiven, NotGivenOr

_T = TypeVar("_T")

_CLOUD_SUFFIXES = (".livekit.cloud", ".livekit.run")


def is_given(obj: NotGivenOr[_T]) -> TypeGuard[_T]:
    """Whether an argument was passed, that is, is not `NOT_GIVEN`. Narrows the type."""
    return not isinstance(obj, NotGiven)


def time_ms() -> int:
    """Wall clock time in milliseconds since the epoch."""
    return int(time.time() * 1000)


def shortuuid(prefix: str = "") -> str:
    """``prefix`` followed by 12 random hexadecimal digits."""
    return prefix + uuid.uuid4().hex[:12]


def nodename() -> str:
    """Network name of this machine."""
    return platform.node()


def camel_to_snake_case(name: str) -> str:
    """``"MyHTTPServer"`` -> ``"my_http_server"``."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()


def is_cloud(url: str) -> bool:
    """Whether ``url`` points to LiveKit Cloud (``*.livekit.cloud`` or ``*.livekit.run``)."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return host is not None and host.endswith(_CLOUD_SUFFIXES)


def is_dev_mode() -> bool:
    """Whether this process belongs to a worker in development mode."""
    return os.environ.get("LIVEKIT_DEV_MODE") == "1"


def is_hosted() -> bool:
    """Whether the agent is hosted by LiveKit Cloud, which sets ``LIVEKIT_REMOTE_EOT_URL``."""
    return bool(os.environ.get("LIVEKIT_REMOTE_EOT_URL"))


def safe_render(template: str, data: Mapping[str, Any]) -> str:
    """Fill in a template in the style of `str.format`, without ever failing for want of a value.

    ``{user.name}`` looks into nested mappings, ``{items.0}`` into sequences. Attributes of objects
    are out of reach, so a template can't pry into them. A name that leads nowhere is logged as an
    error with the names there are, and becomes empty text; so does None, whatever its format says.

    Args:
        template: text with replacement fields.
        data: what the fields refer to.

    Raises:
        ValueError: the braces of the template don't match.
    """
    return _SafeFormatter(data).vformat(template, (), data)


class _Blank:
    """Stands for a missing value; a format or conversion leaves it alone."""

    def __format__(self, format_spec: str) -> str:
        return ""


class _SafeFormatter(string.Formatter):
    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, str]:
        value = self._look_up(field_name)
        return (_Blank() if value is None else value), field_name

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return value if isinstance(value, _Blank) else super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        try:
            return super().format_field(value, format_spec)
        except (TypeError, ValueError) as error:
            logger.error("template: cannot format a value as %r: %s", format_spec, error)
            return str(value)

    def _look_up(self, path: str) -> Any:
        if path in self._data:  # a key may contain dots itself
            return self._data[path]
        value: Any = self._data
        for part in path.replace("[", ".").replace("]", "").split("."):
            try:
                value = value[part] if isinstance(value, Mapping) else _item(value, part)
            except (LookupError, ValueError):
                logger.error(
                    "template: nothing is called %r; available: %s",
                    path,
                    ", ".join(_paths(self._data)) or "nothing",
                )
                return None
        return value


def _item(value: Any, index: str) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise LookupError(index)
    return value[int(index)]


def _paths(data: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
