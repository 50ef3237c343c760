"""Errors that models and providers raise. `APIError` and its kin tell whether to try again."""

from __future__ import annotations

from http import HTTPStatus

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AssignmentTimeoutError",
    "CLIError",
    "UnexpectedModelBehavior",
    "create_api_error_from_http",
]

_RETRYABLE_CLIENT_ERRORS = frozenset({408, 429, 499})
"""4xx codes that do not blame the request: timeout, rate limit, client closed request."""

_MAX_CAUSES = 10


class AssignmentTimeoutError(Exception):
    """The server did not assign an accepted job in time; it may have given it to another worker."""


class UnexpectedModelBehavior(RuntimeError):
    """A model did something that its instructions rule out, such as ending without an output."""


class CLIError(Exception):
    """A command line request that cannot be fulfilled. Its text is shown without a traceback."""


class APIError(Exception):
    """A request to a provider failed.

    Attributes:
        message: what went wrong.
        body: decoded response, its raw text, or None when there was no answer.
        retryable: whether the same request may succeed later.
    """

    message: str
    body: object | None
    retryable: bool = False

    def __init__(self, message: str, *, body: object | None = None, retryable: bool = True) -> None:
        """Create the error. For the arguments see the attributes."""
        super().__init__(message)
        self.message = message
        self.body = body
        self.retryable = retryable

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.message!r}, body={self.body!r}, "
            f"retryable={self.retryable!r})"
        )


class APIStatusError(APIError):
    """A provider answered with an error status.

    ``retryable`` is decided by the status where it speaks for itself: a 4xx other than 408, 429 and
    499 blames the request, so repeating it is pointless whatever the caller passed.

    Attributes:
        status_code: HTTP status or WebSocket close code, -1 when unknown.
        request_id: the provider's id of the request, for its support.
    """

    status_code: int
    request_id: str | None

    def __init__(
        self,
        message: str,
        *,
        status_code: int = -1,
        request_id: str | None = None,
        body: object | None = None,
        retryable: bool | None = None,
    ) -> None:
        """Create the error. For the arguments see the attributes.

        Args:
            retryable: Whether the same request may succeed later; decided by the status if left out.
        """
        if retryable is None:
            retryable = True
        if 400 <= status_code < 500 and status_code not in _RETRYABLE_CLIENT_ERRORS:
            retryable = False
        super().__init__(message, body=body, retryable=retryable)
        self.status_code = status_code
        self.request_id = request_id

    def __str__(self) -> str:
        parts = [
            f"message={self.message!r}",
            f"status_code={self.status_code}",
            f"retryable={self.retryable}",
        ]
        if self.request_id:
            parts.append(f"request_id={self.request_id}")
        if self.body:
            parts.append(f"body={self.body}")
        return ", ".join(parts)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.message!r}, status_code={self.status_code!r}, "
            f"request_id={self.request_id!r}, body={self.body!r}, retryable={self.retryable!r})"
        )


class APIConnectionError(APIError):
    """A provider could not be reached, or the connection broke."""

    def __init__(self, message: str = "Connection error.", *, retryable: bool = True) -> None:
        """Create the error.

        Args:
            message: What went wrong.
            retryable: Whether the same request may succeed later.
        """
        super().__init__(message, body=None, retryable=retryable)

    def __str__(self) -> str:
        root = _root_cause(self)
        if root is None:
            return self.message
        if isinstance(root, APIConnectionError):
            text = root.message  # its __str__ would walk the chain again
        else:
            try:
                text = str(root)
            except Exception:
                text = ""
        detail = f": {text}" if text else ""
        return f"{self.message} (caused by {type(root).__name__}{detail})"


class APITimeoutError(APIConnectionError):
    """A provider did not answer in time."""

    def __init__(self, message: str = "Request timed out.", *, retryable: bool = True) -> None:
        """Create the error.

        Args:
            message: What took too long.
            retryable: Whether the same request may succeed later.
        """
        super().__init__(message, retryable=retryable)


def _root_cause(error: BaseException) -> BaseException | None:
    """The deepest ``__cause__``; the walk ends after ten errors or where the chain bites itself."""
    chain = [error]
    while len(chain) < _MAX_CAUSES:
        cause = chain[-1].__cause__
        if cause is None or any(cause is seen for seen in chain):
            break
        chain.append(cause)
    return chain[-1] if len(chain) > 1 else None


def create_api_error_from_http(
    message: str = "", *, status: int, request_id: str | None = None, body: object | None = None
) -> APIStatusError:
    """Build the error for an HTTP answer.

    Args:
        message: what the provider said; may be empty.
        status: HTTP status code.
        request_id: the provider's id of the request.
        body: the answer, decoded or raw.
    """
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = f"HTTP {status}"
    text = (
        f"{message} ({status} {reason})"
        if message and message != reason
        else f"{reason} ({status})"
    )
    return APIStatusError(text, status_code=status, request_id=request_id, body=body)


class _ClosedDuringStart(RuntimeError):
    """Somebody closed the session while it started: whoever started it gets no session.

    To a job it is no failure: the caller hung up before they were answered.
    """
