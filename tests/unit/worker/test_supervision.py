"""When a process is left alone, and when it is killed: on a clock that the test moves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from livekit.agents.ipc.memory import MemoryAction, MemoryWatch
from livekit.agents.ipc.supervision import JobEndBudgets, Kill, KillReason, Supervision


def supervision(**changes: float) -> Supervision:
    timeouts = {"ping_interval": 2.5, "ping_timeout": 60.0, "ack_timeout": 10.0, **changes}
    watched = Supervision(**timeouts)
    watched.begin(0.0)
    return watched


def run_until(
    watched: Supervision, end: float, *, answers: bool = True
) -> tuple[float, Kill] | None:
    """Wake up whenever it wants to be, until a verdict. Returns when, and which."""
    while (now := watched.next_at()) <= end:
        ping, kill = watched.tick(now)
        if kill is not None:
            return now, kill
        if ping and answers:
            watched.pong(now)
    return None


def test_a_process_that_answers_lives_for_ever() -> None:
    assert run_until(supervision(), 100_000.0) is None


def test_a_process_that_answers_no_ping_is_killed_after_the_timeout() -> None:
    killed = run_until(supervision(), 100.0, answers=False)
    assert killed is not None
    assert killed[0] == 60.0 and killed[1].reason is KillReason.UNRESPONSIVE


def test_an_owner_that_slept_does_not_blame_the_process() -> None:
    watched = supervision()
    watched.next_at()
    watched.tick(0.0)
    watched.pong(0.0)
    watched.next_at()
    _, kill = watched.tick(300.0)  # the answers of five minutes wait unread
    assert kill is None
    killed = run_until(watched, 1000.0, answers=False)
    assert killed is not None and killed[0] == pytest.approx(300.0 - 2.5 + 60.0)


def test_a_request_to_end_must_be_confirmed() -> None:
    watched = supervision()
    watched.shutdown_requested(5.0, budget=100.0)
    killed = run_until(watched, 1000.0)
    assert killed is not None
    assert killed[0] == 15.0 and killed[1].reason is KillReason.NO_ACK


def test_the_end_has_a_deadline_and_the_verdict_names_the_step_that_hung() -> None:
    watched = supervision()
    watched.shutdown_requested(5.0, budget=100.0)
    watched.acked()
    watched.end_begun(6.0, 100.0, "closing the session")
    killed = run_until(watched, 1000.0)
    assert killed is not None
    assert killed[0] == 105.0
    assert killed[1] == Kill(KillReason.CLOSE, 100.0, "closing the session")


def test_an_end_that_the_process_began_by_itself_has_a_deadline_too() -> None:
    watched = supervision()
    watched.end_begun(6.0, 50.0, "entrypoint")
    watched.end_begun(20.0, 50.0, "shutdown callbacks")  # a later step starts no new clock
    killed = run_until(watched, 1000.0)
    assert killed is not None and killed[0] == 56.0
    assert killed[1].step == "shutdown callbacks"


def test_leaving_shortens_the_deadline_and_never_extends_it() -> None:
    watched = supervision()
    watched.end_begun(0.0, 100.0, "entrypoint")
    watched.leaving(10.0, 30.0)
    watched.leaving(20.0, 500.0)
    killed = run_until(watched, 1000.0)
    assert killed is not None and killed[0] == 40.0


def test_a_worker_that_asks_during_the_end_shortens_it() -> None:
    watched = supervision()
    watched.end_begun(0.0, 200.0, "shutdown callbacks")
    watched.shutdown_requested(1.0, 30.0)
    watched.acked()
    killed = run_until(watched, 1000.0)
    assert killed is not None and killed[0] == 31.0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pong", "ask", "ack", "begin", "leave"]),
            st.floats(0.0, 30.0),
        ),
        max_size=30,
    )
)
def test_whatever_is_said_an_end_is_over_by_its_first_deadline(
    said: list[tuple[str, float]],
) -> None:
    watched, now, first = supervision(ping_timeout=math.inf), 0.0, math.inf
    for what, pause in said:
        if (killed := run_until(watched, now + pause)) is not None:
            assert killed[0] <= first
            return
        now += pause
        if what == "pong":
            watched.pong(now)
        elif what == "ask":
            watched.shutdown_requested(now, 50.0)
        elif what == "ack":
            watched.acked()
        elif what == "begin":
            watched.end_begun(now, 50.0, "step")
        else:
            watched.leaving(now, 50.0)
        if watched.ending:
            first = min(first, now + 50.0)
    if watched.ending:
        killed = run_until(watched, first)
        assert killed is not None and killed[0] <= first


def test_budgets_add_up() -> None:
    budgets = JobEndBudgets(callbacks_asked=10.0)
    assert budgets.whole(asked=True) == budgets.whole(asked=False) - 50.0
    assert budgets.tail(asked=True) < budgets.whole(asked=True)
    hook = JobEndBudgets(session_end=300.0)
    assert hook.whole(asked=False) == JobEndBudgets().whole(asked=False) + 300.0


def test_memory_above_the_limit_kills_and_above_the_warning_warns_now_and_then() -> None:
    watch = MemoryWatch(warn_mb=100.0, limit_mb=500.0)
    assert watch.sample(0.0, 90.0) is MemoryAction.NOTHING
    assert watch.sample(5.0, 110.0) is MemoryAction.WARN
    assert watch.sample(10.0, 111.0) is MemoryAction.NOTHING
    assert watch.sample(15.0, 161.0) is MemoryAction.WARN  # it grew by 50 MB
    assert watch.sample(140.0, 161.0) is MemoryAction.WARN  # two minutes later
    assert watch.sample(145.0, 501.0) is MemoryAction.KILL
    assert not MemoryWatch(warn_mb=0.0, limit_mb=0.0).active
