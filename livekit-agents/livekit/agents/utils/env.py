"""Options that may come from the environment."""

from __future__ import annotations

import os

from ..log import logger
from ..types import NotGivenOr
from .misc import is_given


def resolve_env_var(val: NotGivenOr[str | None], *env_vars: str, default: str = "") -> str:
    """``val`` if it was given, else the first of the variables that is not empty, else ``default``.

    Args:
        val: an argument of the caller; ``None`` counts as not given.
        env_vars: names of environment variables, in order of preference.
        default: when nothing else is set.
    """
    if is_given(val) and val is not None:
        return val
    for name in env_vars:
        if value := os.environ.get(name):
            return value
    return default


def resolve_env_int(name: str, default: int = 0) -> int:
    """The environment variable as an integer.

    Unset, empty, or (with a warning) not an integer: ``default``.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    try:
        return int(value)
    except ValueError:
        logger.warning("%s=%r is not an integer, using %d", name, value, default)
        return default
