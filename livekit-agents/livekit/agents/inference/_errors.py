"""What the ends and errors of gateway connections mean: the one table, and errors made by it.

Close codes are read by `livekit.agents._close_codes`; here they meet the phase of the connection,
HTTP statuses, error messages of the gateway and exceptions of the HTTP library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any

from .._close_codes import IDLE_CODE, CloseKind, classify_close
from .._exceptions import APIError, APIStatusError
from ..utils.retry import set_retry_after
from ._protocol.wire import ServerError

MAX_BAD_FRAMES = 5
"""Malformed messages in a row after which a connection is given up."""

_ROUTINE_AGE = 30.0
_BUSY_DELAY = 2.0
_ROUTINE_CODES = frozenset({1000, 1001, 1005, 1006, 1012})
_QUOTA = "inference_quota_exceeded"
_QUOTA_FIELDS = ("type", "hint", "quota_type", "category", "remaining_limit", "message")
_RETRYABLE_STATUSES = frozenset({408, 425, 429, 499})


class Phase(Enum):
    """Where in its life a connection is."""

    DIAL = "dial"
    OPEN = "open"
    DRAINING = "draining"
    """The input has ended, results may follow."""
    CLOSING = "closing"


class Failure(Enum):
    """Classes of ends and failures. The value says how a client reacts."""

    CLOSED = "we closed it ourselves: nothing happens"
    ENDED = "a normal end: nothing happens"
    IDLE = "nobody was talking: connect again when somebody does"
    RECYCLED = "the server moved on: connect again, counted"
    TRANSIENT = "trouble that may pass: connect again, counted"
    PROTOCOL = "no common language: one more try"
    POLICY = "refused: one more try with a new token"
    AUTH = "wrong credentials: give up"
    CALLER = "the request is wrong: give up"
    QUOTA = "too many requests: wait as told, counted"
    EXHAUSTED = "the quota is used up: give up"

    @property
    def retryable(self) -> bool:
        """Whether another attempt makes sense."""
        return self not in (Failure.AUTH, Failure.CALLER, Failure.EXHAUSTED)

    @property
    def counted(self) -> bool:
        """Whether it is reported and uses up the retry budget."""
        return self not in (Failure.CLOSED, Failure.ENDED, Failure.IDLE)

    @property
    def one_retry(self) -> bool:
        """Whether a second one in a row is final."""
        return self in (Failure.PROTOCOL, Failure.POLICY)


_CLOSES = {
    CloseKind.IDLE: Failure.IDLE,
    CloseKind.RECYCLED: Failure.RECYCLED,
    CloseKind.TRANSIENT: Failure.TRANSIENT,
    CloseKind.PROTOCOL: Failure.PROTOCOL,
    CloseKind.POLICY: Failure.POLICY,
    CloseKind.UNKNOWN: Failure.TRANSIENT,
}


@dataclass(frozen=True)
class ConnectionState:
    """What decides between a routine end and a failure."""

    phase: Phase
    age: float = 0.0
    """Seconds since the connection was up."""
    speech_pending: bool = False
    """Somebody is speaking, or speech was sent that no transcript has covered."""


def classify_end(code: int | None, reason: str, state: ConnectionState) -> Failure:
    """What a closed or lost WebSocket means.

    Args:
        code: Its close code, None if there was none.
        reason: Text of the close frame.
        state: The connection when it ended.
    """
    if state.phase is Phase.CLOSING:
        return Failure.CLOSED
    kind = classify_close(code, reason)
    if state.phase is Phase.DRAINING:
        orderly = kind in (CloseKind.IDLE, CloseKind.RECYCLED) or code == 1005
        # A lost connection takes words with it; those are worth another connection.
        return Failure.ENDED if orderly or not state.speech_pending else _CLOSES[kind]
    if kind is CloseKind.IDLE:
        return Failure.TRANSIENT if state.speech_pending else Failure.IDLE
    quiet = not state.speech_pending and state.age > _ROUTINE_AGE
    if quiet and (code in _ROUTINE_CODES or code is None):
        return Failure.IDLE
    return _CLOSES[kind]


def classify_server_error(error: ServerError, state: ConnectionState) -> Failure:
    """What an ``error`` message of the gateway means."""
    if state.phase is Phase.CLOSING:
        return Failure.CLOSED
    code = _as_int(error.code)
    if code == IDLE_CODE:
        return classify_end(IDLE_CODE, "", state)
    body = error.body or {}
    if body.get("type") == _QUOTA or str(error.code).startswith("quota"):
        return _quota(body)
    if code is not None and 400 <= code < 600:
        return classify_status(code, body)
    if code is not None and code >= 1000:
        return _CLOSES[classify_close(code, error.message)]
    return Failure.TRANSIENT


def classify_status(status: int, body: object = None) -> Failure:
    """What an HTTP status means."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return _quota(body if isinstance(body, Mapping) else {})
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Failure.AUTH
    if 400 <= status < 500 and status not in _RETRYABLE_STATUSES:
        return Failure.CALLER
    return Failure.TRANSIENT


def _quota(body: Mapping[str, Any]) -> Failure:
    used_up = body.get("remaining_limit") == 0 or body.get("category") == "credits"
    return Failure.EXHAUSTED if used_up else Failure.QUOTA


# -- errors ----------------------------------------------------------------------------------------


def end_error(
    failure: Failure, code: int | None, text: str, cause: BaseException | None = None
) -> APIError:
    """The error for a connection that ended.

    Args:
        failure: Its class.
        code: Close code.
        text: The message.
        cause: What the HTTP library made of it, if anything.
    """
    error = APIStatusError(
        text, status_code=-1 if code is None else code, retryable=failure.retryable
    )
    error.__cause__ = cause
    if code == 1013:  # try again later
        set_retry_after(error, _BUSY_DELAY)
    return error


def server_error(error: ServerError, failure: Failure, text: str) -> APIError:
    """The error for an ``error`` message.

    Args:
        error: The message.
        failure: Its class.
        text: What to say. What the gateway said is in `body`.
    """
    body: dict[str, Any] = {"code": error.code}
    for key in _QUOTA_FIELDS:
        value = (error.body or {}).get(key)
        if value is not None:
            body[key] = value
    code = _as_int(error.code)
    if failure in (Failure.QUOTA, Failure.EXHAUSTED):
        code = HTTPStatus.TOO_MANY_REQUESTS
    if code is not None and 400 <= code < 600:
        return APIStatusError(
            text, status_code=code, body=body, retryable=failure.retryable and None
        )
    return APIError(text, body=body, retryable=failure.retryable)


def _as_int(code: int | str) -> int | None:
    try:
        return int(code)
    except ValueError:
        return None
