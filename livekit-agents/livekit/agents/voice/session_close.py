"""How a session closes, from top to bottom on one page.

`SessionClose.run` is the whole story. A *graceful* close first lets everything that was begun end
by itself; a *forced* close gives all of it together `forced_drain_timeout` seconds. Then both do
the same: cut off what is left, tear down, emit `close`, leave the room. Nothing below waits for a
lock, and every wait has an end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ..log import logger
from ..utils.aio import Deadline, Survivor, TaskScope, wait_until
from ..utils.aio.task_scope import await_stack
from ._context import current_function_call, current_speech_handle, inline_owner, speech_task
from .closing import (
    COMMIT_MARGIN,
    KILL,
    STALL,
    ClosePlan,
    CloseReport,
    StallWatch,
    Step,
    a_few_turns,
)
from .events import CloseEvent, CloseReason

if TYPE_CHECKING:
    from .agent import Agent
    from .agent_activity import AgentActivity
    from .agent_session import AgentSession
    from .tool_executor import ToolExecutor


class SessionClose:
    """One close of one session: requested once, run once, joined by everyone else."""

    def __init__(
        self, session: AgentSession[Any], *, reason: CloseReason, drain: bool, error: Any
    ) -> None:
        self._session = session
        self._reason = reason
        self._error = error
        self._budgets = session.options.close_budgets
        self._report = CloseReport(forced=not drain)
        self._plan = ClosePlan(self._budgets, self._report)
        loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] = loop.create_future()
        self._no_patience: asyncio.Future[None] = loop.create_future()
        self._graceful = drain
        self._forced_at = None if drain else loop.time()
        self._joined_at: float | None = None
        self._spare: set[asyncio.Task[Any]] = set()
        self._hearing: asyncio.Task[None] | None = None
        self._activities: list[AgentActivity] = []

    # -- what others may ask while it runs -------------------------------------------------------

    @property
    def graceful(self) -> bool:
        """Whether it still waits for everything to end by itself."""
        return self._graceful

    @property
    def error(self) -> Any:
        """The error that made the session close, or None."""
        return self._error

    @property
    def report(self) -> CloseReport:
        """What it has done so far."""
        return self._report

    def escalate(self, by: str) -> None:
        """A forced request during a graceful close ends the patience. Idempotent."""
        if not self._graceful or self._forced_at is not None:
            return
        self._report.escalated, self._report.escalated_by = True, by
        self._turn_forced()

    def cut_short(self, by: str) -> None:
        """No allowance any more: cut off whatever has not settled. Idempotent."""
        self.escalate(by)
        self._budget_spent()
        if not self._no_patience.done():
            self._no_patience.set_result(None)

    def held_by(self) -> str:
        """What the close waits for, in words: tools, speech, and where the close itself stands."""
        held = self._unsettled("is still running")
        closing = self._session._closing_task
        if not held and closing is not None and not closing.done():
            held = [await_stack(closing)]
        return "; ".join(held)

    def join_draining(self) -> None:
        """Somebody waits in `aclose()`: a drain without progress is cut off after a while."""
        if self._graceful and self._joined_at is None:
            self._joined_at = asyncio.get_running_loop().time()
            self._signal()

    def excuse_caller(self) -> None:
        """Whoever asks from inside a tool or hook waits for the close, so it must not wait back."""
        chain = _caller_chain()
        if not chain:
            return
        logger.warning(
            "the session was asked to close from inside %s, which the close won't wait for",
            ", ".join(sorted(task.get_name() for task in chain)),
        )
        self._spare |= chain
        handle = current_speech_handle.get()
        for activity in self._session._handoffs.stacked_activities():
            activity.scheduler.block(chain, handle)
        for executor in self._session._tool_executors():
            for task in chain:
                executor.block(task)
        self._signal()

    def _turn_forced(self) -> None:
        self._forced_at = asyncio.get_running_loop().time()
        self._graceful = False
        self._report.forced = True
        self._signal()

    def _signal(self) -> None:
        if not self._wake.done():
            self._wake.set_result(None)

    # -- the plan ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Close the session. Runs once, in a task of its own that no caller can cancel."""
        with self._session._spans.closing(self._reason, drain=self._graceful):
            await self._run()

    async def _run(self) -> None:
        try:
            await self._plan.run(Step("start in progress", self._settle_start))
            try:
                await self._plan.guarded(self._settle(), "drain")
            finally:
                self._plan.attempt("cut off", self._cut_off)
                await self._plan.guarded(self._tear_down(), "teardown")
        finally:
            self._session._started = False
            self._emit_close()
            try:
                await self._plan.guarded(self._leave_room(), "room")
            finally:
                self._finish()

    async def _settle_start(self) -> None:
        """A start in progress may end by itself; when its time is over it is cancelled."""
        start = self._session._start_task
        if start is None or start.done():
            # a reply whose failure is the reason of the close ends by itself, with its error
            await asyncio.sleep(0)
            return
        grace = min(KILL, self._budgets.teardown / 2)
        if await wait_until(start, self._budgets.teardown - 2 * grace):
            start.cancel()
            await wait_until(start, grace)

    async def _settle(self) -> None:
        """Let what was begun end: for as long as it takes, or within the forced allowance."""
        self._activities = self._session._handoffs.stacked_activities()
        for activity in self._activities:
            self._plan.attempt("begin to close", activity.begin_close)
        early = [
            Step("answering machine detection", self._session._close_amd),
            Step("keyterm detection", self._session._keyterms.ending),
        ]
        self._plan.beside(self._plan.run(*early, deadline=self._close_by()), "detectors")
        if not self._graceful:
            self._force()
        loop = asyncio.get_running_loop()
        began = loop.time()
        unwinding = self._plan.beside(self._unwind(), "drain")
        await self._wait_gracefully(unwinding)
        if not unwinding.done():
            if self._hearing is None:
                self._force()
            await a_few_turns(unwinding)
            await asyncio.wait(
                (unwinding, self._no_patience),
                timeout=self._left(self._budgets.forced_drain),
                return_when=asyncio.FIRST_COMPLETED,
            )
        if unwinding.done():
            self._plan.note("drain", loop.time() - began, "ok")
            return
        culprits = self._unsettled("did not end in time")
        self._plan.culprits.extend(culprits)
        self._plan.note("drain", loop.time() - began, "timeout", "; ".join(culprits))
        self._cut_off()
        await wait_until(unwinding, KILL / 2)

    def _force(self) -> None:
        """Interrupt all speech, cancel what may be cancelled, and end listening beside it."""
        session = self._session
        session._handoffs.cancel_transition()
        for executor in session._shared_executors():
            executor.cancel_cancellable()
        for activity in self._activities:
            self._plan.attempt("interrupt", activity.force_end)
        self._hearing = self._plan.beside(self._end_hearing(), "hearing")

    async def _unwind(self) -> None:
        """From the current agent down to the first: farewell, last speech, give the floor back."""
        session = self._session
        if session._handoffs.transition is not None:
            await asyncio.wait((session._handoffs.transition,))
        if self._forced_at is not None:
            live = [h for a in self._activities for h in a.scheduler.settling_handles()]
            await wait_until([handle._done_fut for handle in live], min(KILL, self._left(KILL)))
        for activity in session._handoffs.stacked_activities():
            if activity not in self._activities:
                self._activities.append(activity)
                self._plan.attempt("begin to close", activity.begin_close)
            call = session._handoffs.call_of(activity)
            if call is not None and self._forced_at is None:
                await activity.drain()
                if not call.task._is_done:
                    call.parent.interrupt(force=True)
            if call is not None:
                call.task._cancel()
            await activity.drain()
            await self._drain_tools(activity.tool_executors)
            if call is not None:
                session._handoffs.hand_back(call)
        await self._drain_tools(session._shared_executors())

    async def _drain_tools(self, executors: list[ToolExecutor]) -> None:
        """Wait for tools. Those that may be cancelled are, when their activity's turn has come."""
        for executor in executors:
            executor.cancel_cancellable()
        for executor in executors:
            await executor.drain(None)

    async def _wait_gracefully(self, unwinding: asyncio.Task[None]) -> None:
        """Wait for the drain until it is over, capped, escalated, or without progress for long."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        watch = StallWatch(started)
        while self._graceful and not unwinding.done():
            progress = self._session._progress.last
            look_at = loop.time() + STALL  # progress comes without a signal
            next_at = min(look_at, watch.due_at(progress), self._cut_graceful_at(started, progress))
            await asyncio.wait(
                (unwinding, self._wake),
                timeout=max(0.0, next_at - loop.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if self._wake.done() and self._graceful:
                self._wake = loop.create_future()
            if unwinding.done():
                return
            if loop.time() >= self._cut_graceful_at(started, self._session._progress.last):
                joined = self._joined_at is not None
                self._turn_forced()
                if joined:  # the waiter's allowance is spent already
                    self._budget_spent()
            elif loop.time() >= watch.due_at(self._session._progress.last):
                watch.warned()
                logger.warning(
                    "the session waits to close and nothing moves: %s",
                    "; ".join(self._unsettled("is still running")) or "an unfinished drain",
                )

    def _cut_graceful_at(self, started: float, progress: float) -> float:
        cut_at = float("inf")
        if self._budgets.drain is not None:
            cut_at = started + self._budgets.drain
        if self._joined_at is not None:
            patience = max(self._joined_at, progress) + self._budgets.forced_drain
            cut_at = min(cut_at, patience)
        return cut_at

    def _budget_spent(self) -> None:
        assert self._forced_at is not None
        self._forced_at -= self._budgets.forced_drain

    # -- hearing ----------------------------------------------------------------------------------

    async def _end_hearing(self) -> None:
        """Save the user's last words, then end STT, VAD and detectors, side by side."""
        self._session._detach_inputs(self._plan)
        if self._reason is not CloseReason.ERROR:
            commit = [
                Step("last transcript", self._commit_of(a), budget=self._commit_budget())
                for a in self._activities
                if a.recognition is not None and a.recognition.turn_pending
            ]
            await self._plan.run(*commit, deadline=self._close_by(KILL))
        steps = [step for activity in self._activities for step in activity.hearing_steps()]
        steps += self._session._handoffs.carried_steps(self._budgets.teardown)
        await self._plan.run(*steps, deadline=self._close_by())

    def _commit_of(self, activity: AgentActivity) -> Any:
        recognition = activity.recognition
        assert recognition is not None
        return lambda: recognition.commit_for_close(self._budgets.transcript)

    def _commit_budget(self) -> float:
        return self._budgets.transcript + COMMIT_MARGIN + KILL

    # -- cutting off and tearing down ---------------------------------------------------------------

    def _cut_off(self) -> None:
        """End speech, hooks and tools that did not settle: no lock, no waiting. Idempotent."""
        if self._forced_at is None:
            self._forced_at = asyncio.get_running_loop().time()  # a drain that ended by itself
        spare = frozenset(self._spare)
        for activity in {*self._activities, *self._session._handoffs.stacked_activities()}:
            if activity not in self._activities:
                self._activities.append(activity)
            self._report.cut_off += [h.id for h in activity.cut_off(spare=spare)]
        for executor in self._session._shared_executors():
            executor.cut_off(spare=spare)
        for call in list(self._session._handoffs.stack):
            if not call.task._is_done:
                call.task._cancel()
            self._session._handoffs.hand_back(call)
        self._session._handoffs.cancel_transition()

    async def _tear_down(self) -> None:
        """End whatever connects to a provider or holds a resource. Independent parts side by side."""
        session, plan, by = self._session, self._plan, self._close_by()
        reaping = [step for a in self._activities for step in a.reap_steps(KILL / 2)]
        await plan.run(*reaping, deadline=by)
        if self._hearing is None:
            self._hearing = plan.beside(self._end_hearing(), "hearing")
        await wait_until(self._hearing, by)
        session._detach_outputs(plan)
        session._spans.end_speaking()
        steps = [
            Step("input forwarding", lambda: session._inputs.aclose(self._budgets.teardown - KILL))
        ]
        for activity in self._activities:
            steps += activity.model_steps() + activity.toolset_steps() + activity.end_steps()
        steps += session._component_steps()
        steps.append(Step("agents that left before", self._end_teardowns, keeps_budget=True))
        await plan.run(*steps, deadline=by)
        for activity in self._activities:
            plan.attempt("subscriptions", activity.release_subscriptions)
            activity._release_agent()
            _end_task(activity.agent)
        session._activity = None

    def _end_teardowns(self, seconds: float) -> Any:
        """What handoffs had begun to tear down is not cut short, but given its time to end."""
        teardowns = self._session._teardowns
        if not teardowns.tasks:
            return teardowns.ending(seconds)
        return self._outlast_teardowns(teardowns, seconds)

    async def _outlast_teardowns(self, teardowns: TaskScope, seconds: float) -> list[Survivor]:
        grace = min(KILL, seconds / 2)
        await teardowns.join(seconds - grace)
        return await teardowns.cancel(grace)

    def _emit_close(self) -> None:
        self._plan.warn_once()
        if self._session._had_activity:
            error = self._error if isinstance(self._error, BaseModel) else None
            self._session.emit(
                "close", CloseEvent(error=error, reason=self._reason, report=self._report)
            )

    async def _leave_room(self) -> None:
        """Host and room go last: a `close` handler may still use them."""
        plan, session = self._plan, self._session
        steps = plan.attempt("room", session._room_steps) or []
        left = self._left(self._budgets.whole)
        await plan.run(*steps, deadline=Deadline(max(0.0, left - KILL)))
        spare = frozenset(self._spare)
        plan.survived(await session._scope.cancel(KILL / 4, spare=spare))
        await plan.sweep(KILL / 4)
        plan.survived(await session._ledger.settle(KILL / 4, spare=spare))

    def _finish(self) -> None:
        self._session._end_life(frozenset(self._spare), self._error)
        self._plan.warn_once()
        self._report.finished_at = time.time()
        self._session._spans.ended(self._report)
        logger.debug(
            "session closed",
            extra={"reason": self._reason.value, "error": self._error and repr(self._error)},
        )

    # -- clocks and names ---------------------------------------------------------------------------

    def _left(self, budget: float) -> float:
        """Seconds left of `budget`, counted from the forced request; all of it while graceful."""
        if self._forced_at is None:
            return budget
        return max(0.0, self._forced_at + budget - asyncio.get_running_loop().time())

    def _close_by(self, margin: float = 0.0) -> Deadline | None:
        """The moment by which `close` must be out; None while the close is graceful."""
        if self._forced_at is None:
            return None
        return Deadline(max(0.0, self._left(self._budgets.close_by) - margin))

    def _unsettled(self, what: str) -> list[str]:
        """Phrases naming what a drain waits for: tools first, they are the usual culprits."""
        names: list[str] = []
        for executor in self._session._shared_executors():
            names += [f"{tool} {what}" for tool in executor.unfinished()]
        for activity in self._activities:
            names += activity.unsettled(what)
        return names


def _end_task(agent: Agent) -> None:
    """A task that had the floor as a plain agent, awaited by nobody's tool, ends with the session."""
    from .agent import AgentTask

    if isinstance(agent, AgentTask) and not agent.done():
        agent.cancel()


@contextmanager
def excused_caller(activity: AgentActivity) -> Iterator[None]:
    """Whoever drains an activity from inside one of its tools or hooks is not waited for."""
    chain = _caller_chain()
    undo: list[Callable[[], None]] = []
    if chain:
        undo.append(activity.scheduler.block(chain, current_speech_handle.get()))
        undo += [e.block(task) for e in activity.tool_executors for task in chain]
    try:
        yield
    finally:
        for take_back in undo:
            take_back()


def _caller_chain() -> set[asyncio.Task[Any]]:
    """The tasks of a tool or hook that the running code belongs to, if it does."""
    marks = (inline_owner.get(), speech_task.get())
    chain = {mark.task for mark in marks if mark is not None and mark.task is not None}
    handle = current_speech_handle.get()
    if handle is not None and current_function_call.get() is not None:
        chain.update(handle._tasks)
    chain = _unfinished(chain)
    current = asyncio.current_task()
    if chain and current is not None:
        chain.add(current)
    return chain


def _unfinished(tasks: Iterable[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    return {task for task in tasks if not task.done()}
