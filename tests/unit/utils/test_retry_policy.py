"""The retry policy decides, without sleeping, how long to wait and when to give up."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from livekit.agents._exceptions import APIConnectionError, APIError, APIStatusError
from livekit.agents.types import APIConnectOptions
from livekit.agents.utils.retry import RetryPolicy, backoff_delay, is_retryable


def full_delays(policy: RetryPolicy, failures: int) -> list[float | None]:
    return [policy.next_delay(APIConnectionError()) for _ in range(failures)]


def test_waits_a_moment_then_the_interval_doubling_up_to_ten_seconds() -> None:
    policy = RetryPolicy(APIConnectOptions(max_retry=6), rng=lambda: 1.0)
    assert full_delays(policy, 7) == [0.1, 2.0, 4.0, 8.0, 10.0, 10.0, None]


def test_an_interval_above_ten_seconds_does_not_grow() -> None:
    options = APIConnectOptions(max_retry=3, retry_interval=30.0)
    policy = RetryPolicy(options, rng=lambda: 1.0)
    assert full_delays(policy, 3) == [0.1, 30.0, 30.0]


def test_jitter_never_halves_more_than_once() -> None:
    policy = RetryPolicy(APIConnectOptions(), rng=lambda: 0.0)
    assert full_delays(policy, 3) == [0.05, 1.0, 2.0]


def test_gives_up_at_once_on_an_error_that_cannot_heal() -> None:
    policy = RetryPolicy(APIConnectOptions())
    assert policy.next_delay(APIStatusError("no such voice", status_code=404)) is None
    assert RetryPolicy(APIConnectOptions()).next_delay(ValueError("a bug")) is None


def test_without_retries_the_first_failure_is_the_last() -> None:
    assert RetryPolicy(APIConnectOptions(max_retry=0)).next_delay(APIConnectionError()) is None


def test_success_starts_the_count_and_the_backoff_anew() -> None:
    policy = RetryPolicy(APIConnectOptions(max_retry=2), rng=lambda: 1.0)
    assert full_delays(policy, 2) == [0.1, 2.0]
    policy.reset()
    assert policy.failures == 0
    assert full_delays(policy, 3) == [0.1, 2.0, None]
    assert policy.failures == 3


def test_only_api_errors_that_allow_it_are_retried() -> None:
    assert is_retryable(APIError("busy"))
    assert not is_retryable(APIError("refused", retryable=False))
    assert not is_retryable(RuntimeError("refused"))


@given(
    interval=st.floats(0.0, 100.0),
    retry=st.integers(0, 10_000),
    jitter=st.floats(0.5, 1.0),
)
def test_every_delay_is_finite_and_bounded(interval: float, retry: int, jitter: float) -> None:
    delay = backoff_delay(APIConnectOptions(retry_interval=interval), retry, jitter=jitter)
    assert 0.0 <= delay <= max(interval, 10.0)


@pytest.mark.parametrize("max_retry", [0, 1, 3])
def test_allows_exactly_max_retry_further_attempts(max_retry: int) -> None:
    policy = RetryPolicy(APIConnectOptions(max_retry=max_retry))
    delays = full_delays(policy, max_retry + 1)
    assert [d is not None for d in delays] == [True] * max_retry + [False]
