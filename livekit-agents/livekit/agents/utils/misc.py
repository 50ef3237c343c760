"""Helpers too small for a module of their own."""

from __future__ import annotations

import os
import platform
import re
import time
import uuid
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from typing_extensions import TypeGuard

from ..types import NotGiven, NotGivenOr

if TYPE_CHECKING:
    from .template import safe_render as safe_render

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
