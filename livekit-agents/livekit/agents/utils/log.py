"""A decorator that makes failures of background work visible."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def log_exceptions(
    msg: str = "",
    logger: logging.Logger = logging.getLogger(),  # noqa: B008 (part of the public signature)
) -> Callable[[F], F]:
    """Log whatever the decorated function raises, with traceback, and raise it again.

    Works for plain and for ``async def`` functions. A cancellation is not an error and is not
    logged.

    Args:
        msg: added after the function's name.
        logger: where to log; the root logger by default.
    """

    def decorate(fn: F) -> F:
        text = f"Error in {fn.__name__}" + (f" - {msg}" if msg else "")

        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def logged_async(*args: Any, **kwargs: Any) -> Any:
                try:
                    return await fn(*args, **kwargs)
                except asyncio.CancelledError:
                    raise
                except Exception:
                    logger.exception(text)
                    raise

            return cast(F, logged_async)

        @functools.wraps(fn)
        def logged(*args: Any, **kwargs: Any) -> Any:
            try:
                return fn(*args, **kwargs)
            except asyncio.CancelledError:
                raise
            except Exception:
                logger.exception(text)
                raise

        return cast(F, logged)

    return decorate
