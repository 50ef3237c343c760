"""The error for a connection that could not be made. No I/O."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from ._exceptions import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    create_api_error_from_http,
)
from .utils.retry import set_retry_after

_ADVICE = {
    401: "check the API key and the secret",
    403: "check the API key and what it is allowed to do",
    404: "check the base URL and the name of the model",
    429: "there are too many requests or connections at once",
}
_REQUEST_ID_HEADERS = ("x-request-id", "X-LiveKit-Request-Id")
_LONGEST_QUOTE = 300


def dial_error(error: Exception, service: str, refusal: bytes = b"") -> APIError:
    """The error for a connection that could not be made.

    The error of a refused handshake contains the request with its token: don't chain it.

    Args:
        error: What the HTTP library raised.
        service: Name of the service for the message.
        refusal: Body of the answer, if the server refused.
    """
    import aiohttp

    text = f"failed to connect to {service}"
    if isinstance(error, aiohttp.ClientResponseError):
        return _refused(text, error.status, error.headers or {}, refusal)
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return APITimeoutError(f"{text}: no answer in time")
    return APIConnectionError(text)


def _refused(text: str, status: int, headers: Mapping[str, str], refusal: bytes) -> APIError:
    body = _decoded(refusal)
    wait = retry_after(headers)
    said, hint = _said(body)
    advice = hint or _ADVICE.get(status)
    if wait is not None:
        advice = "; ".join(filter(None, (advice, f"the server asks to wait for {wait:g} s")))
    reasons = "; ".join(filter(None, (said, advice)))
    error = create_api_error_from_http(
        f"{text}: {reasons}" if reasons else text,
        status=status,
        request_id=next((headers[name] for name in _REQUEST_ID_HEADERS if name in headers), None),
        body=body,
    )
    set_retry_after(error, wait)
    return error


def _decoded(refusal: bytes) -> object:
    """JSON, or else the text; None if there is none."""
    text = refusal.decode("utf-8", "replace").strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text or None


def _said(body: object) -> tuple[str | None, str | None]:
    """What was wrong and what to do about it, in the words of the server."""
    if isinstance(body, str):
        return (None if body.startswith("<") else _quote(body)), None
    if not isinstance(body, Mapping):
        return None, None
    error = body.get("error", body.get("message"))
    if isinstance(error, Mapping):
        return _quote(error.get("message")), _quote(error.get("hint", body.get("hint")))
    return _quote(error), _quote(body.get("hint"))


def _quote(value: object) -> str | None:
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return text[:_LONGEST_QUOTE].rstrip(".") or None


def retry_after(headers: Mapping[str, str] | None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for; None without one that is a number."""
    value = headers.get("Retry-After") if headers is not None else None
    try:
        seconds = float(value) if value is not None else -1.0
    except ValueError:
        return None  # a date; our own backoff will do
    return seconds if 0 <= seconds < float("inf") else None
