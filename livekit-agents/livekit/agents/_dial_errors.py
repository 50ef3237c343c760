"""The error for a connection that could not be made. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ._exceptions import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    create_api_error_from_http,
)
from .utils.retry import set_retry_after


def dial_error(error: Exception, service: str) -> APIError:
    """The error for a connection that could not be made.

    The error of a refused handshake contains the request with its token: don't chain it.

    Args:
        error: What the HTTP library raised.
        service: Name of the service for the message.
    """
    import aiohttp

    text = f"failed to connect to {service}"
    if isinstance(error, aiohttp.ClientResponseError):
        failed: APIError = create_api_error_from_http(text, status=error.status)
        set_retry_after(failed, retry_after(error.headers))
        return failed
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return APITimeoutError(f"{text}: no answer in time")
    return APIConnectionError(text)


def retry_after(headers: Mapping[str, str] | None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for; None without one that is a number."""
    value = headers.get("Retry-After") if headers is not None else None
    try:
        seconds = float(value) if value is not None else -1.0
    except ValueError:
        return None  # a date; our own backoff will do
    return seconds if 0 <= seconds < float("inf") else None
