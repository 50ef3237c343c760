"""An event emitter whose handlers can't hurt the one who emits, nor each other."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, TypeVar

from livekit import rtc

from .log import logger

T_contra = TypeVar("T_contra", contravariant=True)


class IsolatedEmitter(rtc.EventEmitter[T_contra]):
    """`rtc.EventEmitter`, except that every failure of a handler ends with that handler.

    The base class lets a `TypeError` through to the emitter, where it would end whatever loop was
    emitting, and skips the handlers after it.
    """

    def emit(self, event: T_contra, *args: Any) -> None:
        """Call the handlers of ``event`` in the order they were registered.

        A handler that takes fewer positional arguments gets the first ones. What a handler raises
        is logged.
        """
        handlers = self._events.get(event)
        if not handlers:
            return
        for handler in list(handlers):
            try:
                handler(*args[: _positional_limit(handler)])
            except (Exception, asyncio.CancelledError):
                logger.exception("a handler of the event %r failed", event)


def _positional_limit(handler: Callable[..., Any]) -> int | None:
    """How many positional arguments a handler takes; None for any number."""
    function = handler.__func__ if isinstance(handler, MethodType) else handler
    if isinstance(function, FunctionType) and not function.__dict__:
        # nothing on it can stand for another signature: no need for a slow look at it
        code = function.__code__
        if code.co_flags & inspect.CO_VARARGS:
            return None
        return code.co_argcount - (function is not handler)
    count = 0
    for parameter in inspect.signature(handler).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return None
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            count += 1
    return count
