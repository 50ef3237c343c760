"""How often a recognition stream may reconnect, decided without I/O.

The budget belongs to the stream, not to one connection: it counts failures in a row, however long
the calls between them, and tells apart a provider that can't be reached from one that routinely
drops a quiet connection. The stream reports what happens and carries out the verdicts.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from .._close_codes import is_idle_end
from .._exceptions import APITimeoutError
from ..utils.retry import RetryPolicy, backoff_delay, is_retryable

if TYPE_CHECKING:
    from ..types import APIConnectOptions

# A connection that stood this long and then dropped while nobody spoke was recycled, not broken.
_ROUTINE_AGE = 30.0
_ROUTINE_DELAY = 0.1
# However it ended, a connection attempt cannot have lasted this many connect timeouts.
_SURELY_CONNECTED_TIMEOUTS = 3
_SURELY_CONNECTED_AGE = 60.0

# Distinct classes before Python 3.11.
_TIMEOUTS = (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError, APITimeoutError)


class Action(Enum):
    """What the stream does after an attempt failed."""

    RETRY = "retry"
    """Report a recoverable error, wait, run again."""
    ROUTINE = "routine"
    """Nothing went wrong worth reporting: wait a moment, run again."""
    PARK = "park"
    """The gateway ended an idle connection: run again when audio next arrives."""
    GIVE_UP = "give_up"
    """Report an unrecoverable error and end the stream with it."""
    STOP = "stop"
    """The stream is closing or over: end quietly."""


@dataclass(frozen=True)
class Verdict:
    """The answer to a failed attempt. `delay` is in seconds."""

    action: Action
    delay: float = 0.0
    exhausted: bool = False
    """With `GIVE_UP`: retries were tried and ran out, rather than being ruled out."""


class StreamRetryBudget:
    """Counts the consecutive failures of one stream.

    Args:
        options: `max_retry`, `retry_interval` and the connect `timeout` of the stream.
        clock: Monotonic time in seconds.
        rng: Source of backoff jitter, in [0, 1).
    """

    def __init__(
        self,
        options: APIConnectOptions,
        *,
        clock: Callable[[], float],
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._options = options
        self._clock = clock
        self._policy = RetryPolicy(options, rng=rng)
        self._started_at = clock()
        self._proven = False
        self._quick_idle_ends = 0
        self._closing = False

    @property
    def failures(self) -> int:
        """Consecutive failures so far."""
        return self._policy.failures

    @property
    def closing(self) -> bool:
        """Whether `close` was called. A closing stream never reconnects."""
        return self._closing

    def close(self) -> None:
        """No attempt after this one, whatever happens."""
        self._closing = True

    def attempt_started(self) -> None:
        """A connection attempt begins now."""
        self._started_at = self._clock()
        self._proven = False

    def connection_proven(self) -> None:
        """This attempt reached the provider: it said so, or an event came from it."""
        self._proven = True
        self._quick_idle_ends = 0

    def transcribed(self) -> None:
        """A final transcript came: the provider works, earlier failures are forgotten."""
        self.connection_proven()
        self._policy.reset()

    def attempt_failed(
        self, error: Exception, *, speech_open: bool = False, input_ended: bool = False
    ) -> Verdict:
        """Judge the end of the current attempt.

        Args:
            error: The API error it ended with.
            speech_open: Somebody is speaking, as far as the transcripts say.
            input_ended: No more audio will come.
        """
        if self._closing:
            return Verdict(Action.STOP)
        age = self._clock() - self._started_at
        if is_idle_end(error) and not speech_open:
            return Verdict(Action.STOP) if input_ended else self._park(age)
        if not is_retryable(error) or self._options.max_retry == 0:
            return Verdict(Action.GIVE_UP)

        reached = self._proven or not was_timeout(error)
        if (reached or self._surely_connected(age)) and age > self._options.timeout:
            self._policy.reset()
        if reached and age > _ROUTINE_AGE and not speech_open:
            return Verdict(Action.ROUTINE, _ROUTINE_DELAY)
        delay = self._policy.next_delay(error)
        if delay is None:
            return Verdict(Action.GIVE_UP, exhausted=True)
        return Verdict(Action.RETRY, delay)

    def _park(self, age: float) -> Verdict:
        # A gateway that ends every connection at once must not be dialled in a tight loop.
        delay = 0.0
        if age < _ROUTINE_AGE:
            delay = backoff_delay(self._options, self._quick_idle_ends)
            self._quick_idle_ends += 1
        return Verdict(Action.PARK, delay)

    def _surely_connected(self, age: float) -> bool:
        return age > max(_SURELY_CONNECTED_TIMEOUTS * self._options.timeout, _SURELY_CONNECTED_AGE)


def was_timeout(error: BaseException) -> bool:
    """Whether a timeout is at the bottom of this error, so that it may never have connected."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        link = pending.pop()
        if link is None or id(link) in seen:
            continue
        if isinstance(link, _TIMEOUTS):
            return True
        seen.add(id(link))
        pending += [link.__cause__, link.__context__]
    return False
