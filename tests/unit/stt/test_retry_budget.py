"""The retry budget of a stream: what it forgives, what it counts, when it ends."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from livekit.agents._exceptions import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
)
from livekit.agents.stt.retry_budget import Action, StreamRetryBudget, was_timeout
from livekit.agents.types import APIConnectOptions

DROPPED = APIConnectionError("dropped")
TIMED_OUT = APITimeoutError()
REFUSED = APIStatusError("refused", status_code=401)
IDLE = APIStatusError("idle", status_code=2007)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stream:
    """A budget with a clock, and a short way to say what happened."""

    def __init__(self, *, max_retry: int = 3, timeout: float = 10.0) -> None:
        self.clock = Clock()
        self.budget = StreamRetryBudget(
            APIConnectOptions(max_retry=max_retry, timeout=timeout),
            clock=self.clock,
            rng=lambda: 1.0,
        )

    def attempt(
        self,
        error: Exception = DROPPED,
        *,
        after: float = 0.0,
        connected: bool = False,
        speech_open: bool = False,
        input_ended: bool = False,
    ) -> Action:
        self.budget.attempt_started()
        if connected:
            self.budget.connection_proven()
        self.clock.now += after
        self.verdict = self.budget.attempt_failed(
            error, speech_open=speech_open, input_ended=input_ended
        )
        return self.verdict.action


def test_failures_in_a_row_run_out() -> None:
    stream = Stream()
    assert [stream.attempt() for _ in range(4)] == [Action.RETRY] * 3 + [Action.GIVE_UP]
    assert stream.verdict.exhausted


def test_the_pauses_grow() -> None:
    stream = Stream()
    delays = []
    for _ in range(3):
        stream.attempt()
        delays.append(stream.verdict.delay)
    assert delays == [0.1, 2.0, 4.0]


def test_a_transcript_restores_the_budget() -> None:
    stream = Stream(max_retry=1)
    for _ in range(10):
        assert stream.attempt() is Action.RETRY
        stream.budget.transcribed()
    assert stream.budget.failures == 0


def test_outliving_the_connect_timeout_after_connecting_restores_it() -> None:
    stream = Stream(max_retry=1)
    for _ in range(10):
        assert stream.attempt(after=11, connected=True, speech_open=True) is Action.RETRY
        assert stream.verdict.delay == 0.1


def test_connecting_alone_restores_nothing() -> None:
    stream = Stream()
    assert [stream.attempt(connected=True) for _ in range(4)][-1] is Action.GIVE_UP


@pytest.mark.parametrize("timeout_error", [TIMED_OUT, "caused", "in context"])
def test_outliving_the_timeout_with_a_timeout_restores_nothing(timeout_error: object) -> None:
    error: APIConnectionError = TIMED_OUT
    if timeout_error == "caused":
        error = APIConnectionError("cannot connect")
        error.__cause__ = asyncio.TimeoutError()
    elif timeout_error == "in context":
        error = APIConnectionError("cannot connect")
        error.__context__ = ValueError()
        error.__context__.__context__ = TimeoutError()
    stream = Stream()
    actions = [stream.attempt(error, after=10.1) for _ in range(4)]
    assert actions == [Action.RETRY] * 3 + [Action.GIVE_UP]


def test_a_timeout_of_an_attempt_that_must_have_connected_restores_it() -> None:
    stream = Stream(max_retry=1)
    for _ in range(5):
        assert stream.attempt(TIMED_OUT, after=61) is Action.RETRY


@pytest.mark.parametrize("connected", [True, False])
def test_a_recycled_quiet_connection_is_routine(connected: bool) -> None:
    stream = Stream(max_retry=1)
    for _ in range(20):
        assert stream.attempt(after=180, connected=connected) is Action.ROUTINE
        assert stream.verdict.delay == 0.1
        assert stream.budget.failures == 0


def test_a_timeout_after_a_while_is_routine_only_if_it_had_connected() -> None:
    assert Stream().attempt(TIMED_OUT, after=180, connected=True) is Action.ROUTINE
    assert Stream().attempt(TIMED_OUT, after=180) is Action.RETRY


def test_a_drop_in_open_speech_is_no_routine() -> None:
    assert Stream().attempt(after=180, speech_open=True) is Action.RETRY


def test_what_retrying_cannot_change_ends_the_stream() -> None:
    assert Stream().attempt(REFUSED, after=180, connected=True) is Action.GIVE_UP
    stream = Stream(max_retry=0)
    assert stream.attempt(after=180, connected=True) is Action.GIVE_UP
    assert not stream.verdict.exhausted


def test_an_idle_end_costs_nothing() -> None:
    for error in (IDLE, APIError("idle", body={"code": 2007}), APIError("", body={"code": "2007"})):
        stream = Stream(max_retry=0)
        assert stream.attempt(error, after=1800) is Action.PARK
        assert (stream.verdict.delay, stream.budget.failures) == (0.0, 0)


def test_an_idle_end_while_someone_speaks_is_a_failure() -> None:
    assert Stream().attempt(IDLE, after=5, speech_open=True) is Action.RETRY


def test_an_idle_end_after_the_input_is_the_end() -> None:
    assert Stream().attempt(IDLE, input_ended=True) is Action.STOP


def test_a_server_that_idles_at_once_is_dialled_more_and_more_rarely() -> None:
    stream = Stream()
    delays = []
    for _ in range(6):
        assert stream.attempt(IDLE, after=1) is Action.PARK
        delays.append(stream.verdict.delay)
    assert delays == sorted(delays) and delays[-1] == 10.0
    stream.budget.transcribed()
    stream.attempt(IDLE, after=1)
    assert stream.verdict.delay == 0.1


def test_a_closing_stream_stops_whatever_happened() -> None:
    for error in (DROPPED, REFUSED, IDLE):
        stream = Stream()
        stream.budget.close()
        assert stream.attempt(error, after=180, connected=True) is Action.STOP


def test_an_exception_that_causes_itself_is_followed_only_once() -> None:
    first, second = APIConnectionError("a"), APIConnectionError("b")
    first.__cause__, second.__cause__ = second, first
    assert not was_timeout(first)


class Life(RuleBasedStateMachine):
    """Any sequence of attempts, events and closes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.budget = StreamRetryBudget(
            APIConnectOptions(max_retry=3, timeout=10.0), clock=self.clock
        )
        self.closed = False
        self.over = False
        self.quiet_failures = 0  # in a row, without any sign of life
        self.budget.attempt_started()

    @precondition(lambda self: not self.over)
    @rule(seconds=st.floats(0, 300))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: not self.over)
    @rule(final=st.booleans())
    def event(self, final: bool) -> None:
        if final:
            self.budget.transcribed()
            assert self.budget.failures == 0
        else:
            self.budget.connection_proven()
        self.quiet_failures = 0

    @rule()
    def close(self) -> None:
        self.budget.close()
        self.closed = True

    @precondition(lambda self: not self.over)
    @rule(
        error=st.sampled_from([DROPPED, TIMED_OUT, REFUSED, IDLE]),
        speech_open=st.booleans(),
        input_ended=st.booleans(),
    )
    def failure(self, error: Exception, speech_open: bool, input_ended: bool) -> None:
        before = self.budget.failures
        age = self.clock.now - self.budget._started_at
        verdict = self.budget.attempt_failed(
            error, speech_open=speech_open, input_ended=input_ended
        )
        assert 0.0 <= verdict.delay <= 10.0
        if self.closed:
            assert verdict.action is Action.STOP
        if verdict.action in (Action.ROUTINE, Action.PARK, Action.STOP):
            assert self.budget.failures in (0, before), "costs nothing"
        if error is REFUSED and not self.closed:
            assert verdict.action is Action.GIVE_UP
        if age <= 10.0 and verdict.action is Action.RETRY:
            assert self.budget.failures == before + 1
            self.quiet_failures += 1
        elif verdict.action is not Action.PARK:
            self.quiet_failures = 0
        self.over = verdict.action in (Action.STOP, Action.GIVE_UP)
        self.budget.attempt_started()

    @invariant()
    def never_retried_more_often_than_allowed(self) -> None:
        assert self.quiet_failures <= 3
        assert self.over or self.budget.failures <= 3


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
