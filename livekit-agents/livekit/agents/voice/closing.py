"""How a close stays bounded: budgets, the plan that runs its steps, and the report.

Nothing here knows what a session is. A *plan* runs named *steps*, each with a budget, against
deadlines. A step that fails or overruns is recorded and the next one runs; a step that ignores its
cancellation is abandoned and described. What the steps of a session are: `session_close.py`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from ..log import logger
from ..utils.aio import Deadline, Survivor, TaskScope
from ..utils.aio.task_scope import abandon

T = TypeVar("T")

KILL = 0.5
"""Seconds between cancelling something and giving it up: half to react, half slack for a busy loop."""

STALL = 15.0
"""Seconds without progress after which a graceful drain says what it waits for."""

COMMIT_MARGIN = 0.5
"""Seconds that the end-of-turn decision may take beyond the wait for the last transcript."""


TURNS = 20
"""Turns of the event loop that something gets whose allowance is 0 seconds."""


@dataclass(frozen=True)
class CloseBudgets:
    """How long each part of a close may take, in seconds."""

    forced_drain: float = 5.0
    """One allowance for all that must settle: interrupted speech, hooks and tools. 0 = none."""

    teardown: float = 2.0
    """One teardown of a provider or transport; independent ones run side by side."""

    drain: float | None = None
    """Cap of a graceful drain, after which it becomes a forced one. None = no cap."""

    transcript: float = 2.0
    """How long a pending user turn may wait for its last transcript."""

    def __post_init__(self) -> None:
        check_timeout("forced_drain_timeout", self.forced_drain)
        check_timeout("teardown_timeout", self.teardown)
        if self.drain is not None:
            check_timeout("drain_timeout", self.drain)

    @property
    def close_by(self) -> float:
        """From the forced request to the latest moment of `CloseEvent`."""
        return self.forced_drain + KILL + self.teardown

    @property
    def whole(self) -> float:
        """From the forced request to the latest moment at which waiters return."""
        return self.close_by + self.teardown


def check_timeout(name: str, value: float) -> None:
    """Raise ValueError, naming the option, unless `value` is a finite number of seconds >= 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number of seconds, got {value!r}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be finite and at least 0 seconds, got {value!r}")


class CloseStep(BaseModel):
    """One step of a close, as it went."""

    model_config = ConfigDict(defer_build=True)

    name: str
    seconds: float
    outcome: Literal["ok", "timeout", "error"]
    detail: str | None = None


class CloseSurvivor(BaseModel):
    """A task that ignored its cancellation and was left behind, unable to reach the session."""

    model_config = ConfigDict(from_attributes=True, defer_build=True)

    name: str
    owner: str
    age: float
    stack: str


class CloseReport(BaseModel):
    """What a close did. Rides on `CloseEvent`; completed in place until `aclose()` returns.

    Times are seconds since the epoch; `seconds` and `age` are durations.
    """

    model_config = ConfigDict(defer_build=True)

    requested_at: float = Field(default_factory=lambda: time.time())
    finished_at: float | None = None
    forced: bool = False
    escalated: bool = False
    escalated_by: str | None = None
    steps: list[CloseStep] = Field(default_factory=list)
    cut_off: list[str] = Field(default_factory=list)
    survivors: list[CloseSurvivor] = Field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was cut off, timed out, failed or left behind."""
        return not (self.cut_off or self.survivors) and all(s.outcome == "ok" for s in self.steps)

    def add_survivor(self, survivor: Survivor) -> None:
        """Record an abandoned task."""
        self.survivors.append(CloseSurvivor.model_validate(survivor))


StepAction = Callable[..., "Awaitable[Any] | None"]

OWN_SHARE = 0.95
"""Part of its budget within which a step ends that keeps it by itself."""


@dataclass
class Step:
    """Something a close has to do: a name for the report, and the action.

    The action may be a plain function; an awaitable that it returns is awaited. A list of
    `Survivor` that comes of that is added to the report.
    """

    name: str
    action: StepAction
    budget: float | None = None
    """Seconds; None means the plan's teardown budget."""
    if_not: Callable[[], None] | None = None
    """Called when it failed or did not end in time: what can be done without its cooperation."""
    keeps_budget: bool = False
    """The action takes the seconds that it has, and itself cancels and abandons what takes longer:
    it is not cancelled before its time is over."""


@dataclass
class _Running:
    step: Step
    started: float
    cancel_at: float
    abandon_at: float
    cancelled: bool = False


@dataclass
class ClosePlan:
    """Runs the steps of one close, writes its report, and never raises for a step."""

    budgets: CloseBudgets
    report: CloseReport = field(default_factory=CloseReport)
    culprits: list[str] = field(default_factory=list)
    """What the closing WARNING names: one phrase for each thing cut off or given up."""

    scope: TaskScope = field(default_factory=lambda: TaskScope("session close"))
    """Owns the steps. Those of a plan whose runner is cancelled go on in it."""

    def __post_init__(self) -> None:
        self._survivors: list[Survivor] = []

    def attempt(self, name: str, action: Callable[[], T]) -> T | None:
        """Do something at once that takes no time. Its failure is logged and recorded.

        Also a `CancelledError`: nobody cancels code that does not wait, so it is the code's own, as
        of a future that was cancelled.
        """
        try:
            return action()
        except (Exception, asyncio.CancelledError) as error:
            self._failed(name, error, 0.0)
            return None

    def beside(self, coro: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a part of the plan beside the rest. Its failure is logged and recorded."""
        task = self.scope.spawn(self.guarded(coro, name), name=f"close: {name}")
        task.add_done_callback(lambda _: coro.close())  # it may have been cancelled unstarted
        return task

    async def guarded(self, coro: Coroutine[Any, Any, None], name: str) -> None:
        """Run a part of the plan. Its failure is logged and recorded."""
        try:
            await coro
        except Exception as error:
            self._failed(name, error, 0.0)

    async def run(self, *steps: Step, deadline: Deadline | None = None) -> None:
        """Run steps side by side, each within its budget and all within `deadline`.

        A step is cancelled `KILL` before its time is over and abandoned at its end; the grace lies
        inside the budget, and is at most half of it.
        """
        loop = asyncio.get_running_loop()
        running: dict[asyncio.Task[Any], _Running] = {}
        for step in steps:
            budget = self.budgets.teardown if step.budget is None else step.budget
            left = deadline.remaining() if deadline is not None else None
            if left is not None:
                budget = min(budget, left)
            now = loop.time()
            awaitable = self._begin(step, budget)
            if awaitable is None:
                continue
            grace = 0.0 if step.keeps_budget else min(KILL, budget / 2)
            task = self.scope.spawn(
                _finish(awaitable), name=f"close: {step.name}", log_errors=False
            )
            running[task] = _Running(step, now, now + budget - grace, now + budget)
            if budget <= 0:
                await a_few_turns(task)
        while running:
            now = loop.time()
            next_event = min(r.abandon_at if r.cancelled else r.cancel_at for r in running.values())
            done, _ = await asyncio.wait(
                running, timeout=max(0.0, next_event - now), return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                self._record(task, running.pop(task))
            now = loop.time()
            for task, entry in list(running.items()):
                if entry.cancelled and now >= entry.abandon_at:
                    self._give_up(task, running.pop(task))
                elif not entry.cancelled and now >= entry.cancel_at:
                    entry.cancelled = True
                    task.cancel()

    def _begin(self, step: Step, budget: float) -> Awaitable[Any] | None:
        """Call the action. None if that was all: a task for each would be most of a clean close."""
        try:
            result = step.action(budget * OWN_SHARE) if step.keeps_budget else step.action()
        except asyncio.CancelledError:
            self.note(step.name, 0.0, "ok", "ended by cancelling itself")
            return None
        except Exception as error:
            self._failed(step.name, error, 0.0)
            self._otherwise(step)
            return None
        if result is not None and hasattr(result, "__await__"):
            return result
        self.note(step.name, 0.0, "ok")
        return None

    def _record(self, task: asyncio.Task[Any], entry: _Running) -> None:
        seconds = asyncio.get_running_loop().time() - entry.started
        if entry.cancelled:
            self._timed_out(entry.step, seconds, "cancelled when its time was over")
        elif task.cancelled():
            # a component may cancel itself while closing; it has ended, which is all that counts
            self.note(entry.step.name, seconds, "ok", "ended by cancelling itself")
        elif (error := task.exception()) is not None:
            self._failed(entry.step.name, error, seconds)
            self._otherwise(entry.step)
        else:
            self.note(entry.step.name, seconds, "ok")
        if task.cancelled() or task.exception() is not None:
            return
        result = task.result()
        if isinstance(result, list) and result and isinstance(result[0], Survivor):
            self.survived(result)

    def _give_up(self, task: asyncio.Task[Any], entry: _Running) -> None:
        seconds = asyncio.get_running_loop().time() - entry.started
        self._timed_out(entry.step, seconds, "ignored its cancellation and was left behind")
        self.survived([abandon(task, "session close", started=entry.started)])

    def _timed_out(self, step: Step, seconds: float, detail: str) -> None:
        self.note(step.name, seconds, "timeout", detail)
        self.culprits.append(f"{step.name} did not end within {seconds:.1f} s")
        self._otherwise(step)

    def _otherwise(self, step: Step) -> None:
        if step.if_not is not None:
            try:
                step.if_not()
            except (Exception, asyncio.CancelledError):
                logger.exception("closing %s by force failed", step.name)

    def _failed(self, name: str, error: BaseException, seconds: float) -> None:
        self.note(name, seconds, "error", f"{type(error).__name__}: {error}")
        logger.error("closing %s failed after %.3f s", name, seconds, exc_info=error)

    def note(
        self,
        name: str,
        seconds: float,
        outcome: Literal["ok", "timeout", "error"],
        detail: str | None = None,
    ) -> None:
        """Record how a part of the close went."""
        self.report.steps.append(
            CloseStep(name=name, seconds=seconds, outcome=outcome, detail=detail)
        )
        logger.debug("close step %s: %s in %.3f s", name, outcome, seconds)

    def survived(self, survivors: Iterable[Survivor]) -> None:
        """Record tasks that were abandoned, each once, and name them in the closing warning."""
        for survivor in survivors:
            if any(survivor is known for known in self._survivors):
                continue
            self._survivors.append(survivor)
            self.report.add_survivor(survivor)
            self.culprits.append(
                f'task "{survivor.name}" ({survivor.owner}) ignored cancellation, '
                f"running for {survivor.age:.1f} s"
            )
            logger.debug("left behind: %s (%s)\n%s", survivor.name, survivor.owner, survivor.stack)

    def warn_once(self) -> None:
        """One WARNING for the whole close, if anything was cut off or given up."""
        if self.culprits:
            logger.warning(
                "the close cut off what did not end in time: %s",
                "; ".join(dict.fromkeys(self.culprits)),
                extra={"speeches_cut_off": self.report.cut_off},
            )
            self.culprits.clear()

    async def sweep(self, timeout: float = KILL / 2) -> None:
        """End whatever of the plan itself still runs."""
        self.survived(await self.scope.cancel(timeout))


async def a_few_turns(*tasks: asyncio.Task[Any]) -> None:
    """Let tasks end that need no time: without an allowance, only what takes time is cut off."""
    for _ in range(TURNS):
        if all(task.done() for task in tasks):
            return
        await asyncio.sleep(0)


async def _finish(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class Progress:
    """When something last moved, in loop time. Touched on hot paths, so it is one number."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = 0.0

    def touch(self, ahead: float = 0.0) -> None:
        """Something moved; audio for `ahead` more seconds is still due to play."""
        self.last = max(self.last, asyncio.get_running_loop().time() + ahead)


class StallWatch:
    """Decides when a drain that makes no progress says so. No I/O: fed with times.

    The first warning is due `STALL` seconds after the last progress, the next ones at doubling
    intervals; progress starts over.
    """

    def __init__(self, started: float, interval: float = STALL) -> None:
        self._interval = interval
        self._since = started
        self._factor = 1

    def due_at(self, last_progress: float) -> float:
        """When the next warning is due, given the time of the last progress."""
        if last_progress > self._since:
            self._since, self._factor = last_progress, 1
        return self._since + self._interval * self._factor

    def warned(self) -> None:
        """A warning was given; the next one comes after twice the interval."""
        self._factor = self._factor * 2 + 1
