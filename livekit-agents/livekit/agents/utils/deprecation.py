"""Telling callers about arguments that will go away."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from ..log import logger
from .misc import is_given

_F = TypeVar("_F", bound=Callable[..., Any])


def deprecate_params(
    mapping: Mapping[str, str], *, target_version: str | None = None
) -> Callable[[_F], _F]:
    """Decorator: warn when a deprecated argument is given. The call then goes on as usual.

    Arguments with the same hint share one warning.

    Args:
        mapping: parameter name -> what to use instead, as a sentence.
        target_version: release that will remove them.
    """
    when = f" and will be removed in {target_version}" if target_version else ""

    def decorate(fn: _F) -> _F:
        signature = inspect.signature(fn)

        @functools.wraps(fn)
        def checked(*args: Any, **kwargs: Any) -> Any:
            for text in _warnings(_given(signature, args, kwargs)):
                logger.warning(text, stacklevel=2)
            return fn(*args, **kwargs)

        return cast(_F, checked)

    def _given(
        signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[str]:
        # nearly every call passes keywords: bind only when there is more than `self`
        arguments = kwargs if len(args) <= 1 else signature.bind_partial(*args, **kwargs).arguments
        return [name for name in mapping if name in arguments and is_given(arguments[name])]

    def _warnings(given: list[str]) -> list[str]:
        by_hint: dict[str, list[str]] = {}
        for name in given:
            by_hint.setdefault(mapping[name], []).append(name)
        return [
            f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} deprecated{when}. {hint}"
            for hint, names in by_hint.items()
        ]

    return decorate
