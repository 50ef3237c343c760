"""Plain requests to the gateway: JSON there, JSON back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from .._dial_errors import retry_after
from .._exceptions import APIConnectionError, APIError, APITimeoutError, create_api_error_from_http
from ..utils.retry import set_retry_after
from ._errors import classify_status
from ._protocol.wire import ProtocolError, decode
from ._utils import HEADER_REQUEST_ID, Gateway

_MAX_BODY = 4 * 1024 * 1024


@dataclass(frozen=True)
class Reply:
    """What came back."""

    body: dict[str, Any]
    request_id: str


async def post_json(
    session: aiohttp.ClientSession,
    gateway: Gateway,
    path: str,
    body: Mapping[str, Any],
    *,
    service: str,
    timeout: aiohttp.ClientTimeout,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send a request, with a new token.

    Args:
        session: What to send it with.
        gateway: Where to, and whose credentials to use.
        path: Of the request, such as ``"/decisions"``.
        body: Sent as JSON.
        service: Name for error messages.
        timeout: Bounds of the request.
        headers: In addition to those of every request.

    Raises:
        APIError: It failed; says itself whether to try again.
    """
    try:
        async with session.post(
            gateway.http_url(path),
            json=dict(body),
            headers={**gateway.headers(), **(headers or {})},
            timeout=timeout,
        ) as response:
            text = (await response.content.read(_MAX_BODY)).decode("utf-8", "replace")
            request_id = response.headers.get(HEADER_REQUEST_ID, "")
            status, reply_headers = response.status, response.headers
    except (asyncio.TimeoutError, TimeoutError) as error:
        raise APITimeoutError(f"{service} did not answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise APIConnectionError(f"{service}: the request failed") from error
    if not 200 <= status < 300:
        raise _status_error(service, status, reply_headers, text, request_id)
    try:
        return Reply(decode(text).values, request_id)
    except ProtocolError as error:
        raise APIConnectionError(f"{service} sent something unreadable: {error}") from error


def _status_error(
    service: str, status: int, headers: Mapping[str, str], text: str, request_id: str
) -> APIError:
    try:
        body: Any = json.loads(text)
    except (ValueError, RecursionError):
        body = text or None
    said = body.get("error") if isinstance(body, dict) else None
    message = f"{service}: {said}" if isinstance(said, str) else service
    error = create_api_error_from_http(
        message, status=status, request_id=request_id or None, body=body
    )
    if not classify_status(status, body).retryable:
        error.retryable = False
    set_retry_after(error, retry_after(headers))
    return error
