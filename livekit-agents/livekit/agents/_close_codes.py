"""What it means that the inference gateway closed a connection or sent an error code.

The one place that reads such codes. Codes of 1000 and up are WebSocket close codes (RFC 6455);
2007 is the gateway's own: it ends connections that carried nothing worth processing for a while.
"""

from __future__ import annotations

from enum import Enum

from ._exceptions import APIError, APIStatusError

IDLE_CODE = 2007
"""Sent as "session closed due to agent inactivity"."""

_IDLE_WORDS = ("inactivity", "idle timeout")


class CloseKind(Enum):
    """How a client should take a close."""

    IDLE = "idle"
    """Nobody was talking: a clean end. Dial again when there is something to say."""
    RECYCLED = "recycled"
    """The server or something on the way ended an ordinary connection. Dial again."""
    TRANSIENT = "transient"
    """Trouble that may pass: overload, a crash, a lost network. Dial again, with backoff."""
    PROTOCOL = "protocol"
    """One side did not understand the other. One more attempt at most."""
    POLICY = "policy"
    """The server refused. One more attempt with fresh credentials at most."""
    UNKNOWN = "unknown"
    """A code nobody has told us about. Taken as transient."""


_KINDS = {
    IDLE_CODE: CloseKind.IDLE,
    1000: CloseKind.RECYCLED,  # normal closure
    1001: CloseKind.RECYCLED,  # going away
    1012: CloseKind.RECYCLED,  # service restart
    1005: CloseKind.TRANSIENT,  # no code given
    1006: CloseKind.TRANSIENT,  # closed without a close frame
    1011: CloseKind.TRANSIENT,  # internal error
    1013: CloseKind.TRANSIENT,  # try again later
    1014: CloseKind.TRANSIENT,  # bad gateway
    1002: CloseKind.PROTOCOL,  # protocol error
    1003: CloseKind.PROTOCOL,  # unsupported data
    1007: CloseKind.PROTOCOL,  # invalid payload
    1009: CloseKind.PROTOCOL,  # message too big
    1008: CloseKind.POLICY,  # policy violation
}


def classify_close(code: int | str | None, reason: str = "") -> CloseKind:
    """Classify a close code or the code of an error message.

    Args:
        code: As an int or a numeric string; None or -1 when the connection just broke.
        reason: Text that came with it. Some servers give idleness an ordinary code and say it here.
    """
    if any(words in reason.lower() for words in _IDLE_WORDS):
        return CloseKind.IDLE
    number = _as_int(code)
    if number is None or number == -1:
        return CloseKind.TRANSIENT
    return _KINDS.get(number, CloseKind.UNKNOWN)


def is_idle_end(error: BaseException) -> bool:
    """Whether this error only says that the gateway ended an idle connection."""
    if not isinstance(error, APIError):
        return False
    if isinstance(error, APIStatusError) and error.status_code == IDLE_CODE:
        return True
    body = error.body
    return isinstance(body, dict) and _as_int(body.get("code")) == IDLE_CODE


def _as_int(code: object) -> int | None:
    if isinstance(code, bool) or not isinstance(code, (int, str)):
        return None
    try:
        return int(code)
    except ValueError:
        return None
