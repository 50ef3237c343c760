"""A close plan: every step runs, none takes longer than it may, and the report says so."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given, strategies as st

from livekit.agents.utils.aio import Deadline
from livekit.agents.voice.closing import (
    CloseBudgets,
    ClosePlan,
    CloseReport,
    StallWatch,
    Step,
)


def now() -> float:
    return asyncio.get_running_loop().time()


async def hangs() -> None:
    await asyncio.sleep(3600)


def ignoring_cancellation(free: asyncio.Event) -> Step:
    async def run() -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                pass

    return Step("stubborn", run)


async def test_steps_run_side_by_side_and_a_failure_stops_none() -> None:
    plan = ClosePlan(CloseBudgets())
    ran: list[str] = []

    async def slow(name: str) -> None:
        await asyncio.sleep(1)
        ran.append(name)

    def broken() -> None:
        raise TypeError("no such socket")

    began = now()
    await plan.run(
        Step("a", lambda: slow("a")), Step("broken", broken), Step("b", lambda: slow("b"))
    )
    assert now() - began == 1.0
    assert ran == ["a", "b"]
    outcomes = {step.name: step.outcome for step in plan.report.steps}
    assert outcomes == {"a": "ok", "broken": "error", "b": "ok"}
    assert not plan.report.clean


async def test_a_hanging_step_is_cancelled_within_its_budget() -> None:
    plan = ClosePlan(CloseBudgets(teardown=2.0))
    began = now()
    await plan.run(Step("hangs", hangs))
    assert now() - began == 1.5, "cancelled a kill grace before its end, and it obeyed"
    assert plan.report.steps[0].outcome == "timeout"
    assert plan.report.survivors == []


async def test_a_step_that_ignores_its_cancellation_is_left_behind_in_time() -> None:
    plan = ClosePlan(CloseBudgets(teardown=2.0))
    free = asyncio.Event()
    began = now()
    await plan.run(ignoring_cancellation(free))
    assert now() - began == 2.0
    survivor = plan.report.survivors[0]
    assert survivor.name == "close: stubborn" and "free.wait()" in survivor.stack
    free.set()
    await asyncio.sleep(0)


async def test_steps_share_the_deadline_and_not_only_their_budgets() -> None:
    plan = ClosePlan(CloseBudgets(teardown=2.0))
    deadline = Deadline(3.0)
    began = now()
    for _ in range(5):
        await plan.run(Step("hangs", hangs), deadline=deadline)
    assert now() - began <= 3.0
    assert len(plan.report.steps) == 5


async def test_a_step_that_cancels_itself_has_ended() -> None:
    async def cancels_itself() -> None:
        raise asyncio.CancelledError

    plan = ClosePlan(CloseBudgets())
    await plan.run(Step("hook", cancels_itself), Step("next", lambda: None))
    assert [step.outcome for step in plan.report.steps] == ["ok", "ok"]


async def test_one_warning_names_every_culprit(caplog: pytest.LogCaptureFixture) -> None:
    plan = ClosePlan(CloseBudgets(teardown=1.0))
    await plan.run(Step("stt", hangs), Step("recorder", hangs))
    with caplog.at_level(logging.WARNING):
        plan.warn_once()
        plan.warn_once()
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "stt" in warnings[0].getMessage() and "recorder" in warnings[0].getMessage()


async def test_the_report_survives_json() -> None:
    plan = ClosePlan(CloseBudgets(teardown=1.0))
    await plan.run(Step("stt", hangs))
    assert CloseReport.model_validate_json(plan.report.model_dump_json()) == plan.report


async def test_what_runs_beside_is_ended_by_the_sweep() -> None:
    plan = ClosePlan(CloseBudgets())
    plan.beside(hangs(), "beside")
    await asyncio.sleep(0)
    await plan.sweep()
    assert plan.report.survivors == []


@given(
    st.lists(st.tuples(st.floats(0, 10), st.booleans()), min_size=1, max_size=6),
    st.floats(0, 5),
    st.floats(0, 8),
)
async def test_no_set_of_steps_outlasts_the_deadline(
    steps: list[tuple[float, bool]], budget: float, deadline: float
) -> None:
    plan = ClosePlan(CloseBudgets(teardown=budget))

    def step(seconds: float, obeys: bool) -> Step:
        async def run() -> None:
            ends = now() + seconds
            while now() < ends:
                try:
                    await asyncio.sleep(ends - now())
                except asyncio.CancelledError:
                    if obeys:
                        raise

        return Step("step", run)

    began = now()
    await plan.run(*(step(*args) for args in steps), deadline=Deadline(deadline))
    assert now() - began <= min(budget, deadline) + 1e-6
    assert len(plan.report.steps) == len(steps)
    await asyncio.sleep(20)  # whatever was left behind ends, and says nothing


@pytest.mark.parametrize("name", ["forced_drain", "teardown", "drain"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "5", True])
def test_wrong_timeouts_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}_timeout"):
        CloseBudgets(**{name: value})  # type: ignore[arg-type]


def test_the_bounds_add_up() -> None:
    budgets = CloseBudgets()
    assert (budgets.close_by, budgets.whole) == (7.5, 9.5)


@given(st.lists(st.floats(0, 100), max_size=20))
def test_a_stall_is_reported_at_doubling_intervals(progress: list[float]) -> None:
    watch = StallWatch(started=0.0, interval=15.0)
    last = 0.0
    for step in progress:
        last += step
        assert watch.due_at(last) >= last + 15.0 or step == 0
    first = watch.due_at(last)
    watch.warned()
    second = watch.due_at(last)
    watch.warned()
    third = watch.due_at(last)
    assert (second - first, third - second) == (pytest.approx(30.0), pytest.approx(60.0))
