"""The one retry policy of speech recognition, speech synthesis and language model requests.

Nothing here sleeps, reads a clock or starts a task: the policy is told about a failure and answers
how long to wait, or that it is time to give up. The caller does the waiting, so that closing can
end the wait at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from .._exceptions import APIError

if TYPE_CHECKING:
    from ..types import APIConnectOptions

_FIRST_DELAY = 0.1
_MAX_DELAY = 10.0
_MAX_RETRY_AFTER = 30.0


def is_retryable(error: BaseException) -> bool:
    """Whether a further attempt could succeed: only an `APIError` that says so itself."""
    return isinstance(error, APIError) and error.retryable


def set_retry_after(error: APIError, seconds: float | None) -> None:
    """Note on an error how long the server asked us to wait. None: it did not say."""
    if seconds is not None:
        error._retry_after = seconds  # type: ignore[attr-defined]


def _asked_delay(error: BaseException) -> float:
    return min(getattr(error, "_retry_after", 0.0), _MAX_RETRY_AFTER)


def backoff_delay(options: APIConnectOptions, retry: int, *, jitter: float = 1.0) -> float:
    """Seconds to wait before a retry.

    0.1 s before the first, then `retry_interval`, doubled each time up to the greater of
    `retry_interval` and 10 s. The factor spreads clients that lost the same server.

    Args:
        options: Gives `retry_interval`, in seconds.
        retry: How many retries came before this one; 0 for the first.
        jitter: Factor in [0.5, 1.0] that scales the delay.
    """
    if retry <= 0:
        return _FIRST_DELAY * jitter
    interval = options.retry_interval
    # The exponent is capped only to keep the power finite: 2**32 is past every ceiling.
    grown = interval * 2.0 ** min(retry - 1, 32)
    return min(grown, max(interval, _MAX_DELAY)) * jitter


class RetryPolicy:
    """Counts consecutive failures against `APIConnectOptions.max_retry`.

    One instance serves one request, or one long-lived stream that calls `reset` whenever it has
    evidence of success.

    Args:
        options: Limits of the request.
        rng: Source of jitter, returning values in [0, 1).
    """

    __slots__ = ("_failures", "_options", "_rng")

    def __init__(
        self, options: APIConnectOptions, *, rng: Callable[[], float] = random.random
    ) -> None:
        self._options = options
        self._rng = rng
        self._failures = 0

    @property
    def failures(self) -> int:
        """Failures since the start or the last `reset`, the given-up one included."""
        return self._failures

    def next_delay(self, error: BaseException) -> float | None:
        """Record a failed attempt.

        Returns:
            Seconds to wait before the next attempt, or None when there must be none: the error is
            not retryable, or this was the last of `max_retry + 1` attempts. A server that asked for
            more patience gets it, up to 30 s.
        """
        retry = self._failures
        self._failures += 1
        if not is_retryable(error) or retry >= self._options.max_retry:
            return None
        delay = backoff_delay(self._options, retry, jitter=0.5 + 0.5 * self._rng())
        return max(delay, _asked_delay(error))

    def reset(self) -> None:
        """Forget past failures: the next one counts as the first."""
        self._failures = 0
