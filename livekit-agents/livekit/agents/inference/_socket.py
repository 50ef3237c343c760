"""A WebSocket to the gateway."""

from __future__ import annotations

import asyncio

import aiohttp

from .._exceptions import APIConnectionError, APIError, APIStatusError
from .._websocket import CLOSE_TIMEOUT, HEARTBEAT, Closed, SessionSource, WebSocket, upgrade
from ..utils.aio import Deadline
from ._errors import classify_status
from ._utils import HEADER_SESSION_ID, Gateway

__all__ = [
    "CLOSE_TIMEOUT",
    "HEARTBEAT",
    "Closed",
    "GatewaySocket",
    "SessionSource",
    "dial",
    "upgrade",
]


class GatewaySocket(WebSocket):
    """An open connection to the gateway. One task may receive, any may send."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, session_id: str | None) -> None:
        super().__init__(ws, "the gateway")
        self.session_id = session_id
        """`X-LiveKit-Session-ID` of the dial; None outside of a job."""


async def dial(
    session: aiohttp.ClientSession,
    url: str,
    gateway: Gateway,
    *,
    service: str,
    timeout: float,
    greeting: str | None = None,
    inference_class: str | None = None,
) -> GatewaySocket:
    """Connect, with a new token.

    Args:
        session: What to connect with.
        url: Where to.
        gateway: Whose credentials to use.
        service: Name for error messages.
        timeout: Seconds, for the handshake and the greeting.
        greeting: First message, sent without waiting for anything.
        inference_class: How urgent the work is.

    Raises:
        APIError: It failed; says itself whether to try again.
    """
    headers = gateway.headers(inference_class=inference_class)
    deadline = Deadline(timeout)
    try:
        ws = await upgrade(session, url, headers, service, timeout)
    except APIStatusError as error:
        # only we know what the body of a refusal means
        if not classify_status(error.status_code, error.body).retryable:
            error.retryable = False
        raise
    socket = GatewaySocket(ws, headers.get(HEADER_SESSION_ID))
    if greeting is None:
        return socket
    try:
        await asyncio.wait_for(socket.send(greeting), deadline.remaining())
    except (asyncio.TimeoutError, APIError) as error:
        socket.abort()
        raise _greeting_error(error, service) from error
    except BaseException:
        socket.abort()
        raise
    return socket


def _greeting_error(error: Exception, service: str) -> APIError:
    return APIConnectionError(f"failed to connect to {service}: it took no message")
