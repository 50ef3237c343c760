"""Who has the floor: handing over from agent to agent, and inline tasks that give it back.

A *transition* replaces the current agent. An *inline task* (`await SomeTask()`) interrupts it: the
parent's activity is paused, the task's activity runs, and the parent resumes. Inline tasks form a
stack; its top is the current activity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..llm import AgentHandoff, RealtimeModel, ToolError
from ..log import logger
from ..utils.aio import TaskScope
from ..utils.aio.task_scope import current_ledger
from ._context import (
    bound,
    current_activity,
    current_function_call,
    current_speech_handle,
    may_await_inline_task,
    neutral,
)
from .activity_spans import handoff_span

if TYPE_CHECKING:
    from .activity_wiring import Reusable
    from .agent import Agent, AgentTask
    from .agent_activity import AgentActivity
    from .agent_session import AgentSession
    from .closing import Step
    from .speech_handle import SpeechHandle

T = TypeVar("T")


@dataclass(eq=False)
class InlineCall:
    """One `await SomeTask()` in progress."""

    task: AgentTask[Any]
    parent: AgentActivity
    owner: asyncio.Task[Any]
    handle: SpeechHandle | None
    released: asyncio.Future[None]
    """Resolved once the floor is the parent's again; what the awaiting code waits for at a close."""
    activity: AgentActivity | None = None
    handed_back: bool = False


class Handoffs:
    """The transitions and the inline stack of one life of a session."""

    def __init__(self, session: AgentSession[Any], scope: TaskScope) -> None:
        self._session = session
        self._scope = scope
        self._lock = session._activity_lock
        self._transition: asyncio.Task[None] | None = None
        self._requested = 0
        self._slots: dict[AgentActivity, asyncio.Lock] = {}
        self._carried: list[Reusable] = []
        self.stack: list[InlineCall] = []
        self._displaced: list[AgentActivity] = []
        """Parents whose floor another agent took: they end once the code that awaited has."""

    # -- transitions ----------------------------------------------------------------------------

    @property
    def in_progress(self) -> bool:
        """Whether a transition was requested and is not over."""
        return self._requested > 0

    @property
    def transition(self) -> asyncio.Task[None] | None:
        """The last requested transition, while it is not over."""
        running = self._transition
        return running if running is not None and not running.done() else None

    def request(self, agent: Agent) -> asyncio.Task[None]:
        """Queue a transition to `agent` behind those already requested."""
        self._requested += 1
        previous = self._transition
        with neutral(), bound(current_ledger, self._session._ledger):
            self._transition = self._scope.spawn(
                self._run_transition(agent, previous),
                name=f"handoff to {agent.id}",
                log_errors=False,
            )
        return self._transition

    async def _run_transition(self, agent: Agent, previous: asyncio.Task[None] | None) -> None:
        try:
            if previous is not None and not previous.done():
                await asyncio.wait((previous,))  # its failure is its own
            with handoff_span(self._session, agent):
                await self.switch(agent)
        except Exception as error:
            if self._session._handoffs is self:  # else a survivor of a former run has ended
                logger.exception("the handoff to agent %r failed", agent.id)
                self._session._on_handoff_failed(agent, error)
        finally:
            self._requested -= 1

    async def switch(self, agent: Agent, *, trace_context: Any = None) -> None:
        """Give the floor to `agent`: end the current activity, start a new one.

        Args:
            agent: That takes the floor.
            trace_context: Where its start is traced; as where this is called when None.

        Raises:
            RuntimeError: If the agent is active elsewhere.
        """
        session = self._session
        async with self._lock:
            old = session._activity
            if session._is_closing:
                logger.warning("session is closing, skipping start activity of %s", agent.id)
                return
            if agent._activity is not None and agent._activity is not old:
                raise RuntimeError("cannot start agent: an activity is already running")
            new = _new_activity(agent, session)
            session._next_activity = new
            try:
                reuse = None
                if old is not None:
                    reuse = await self._end(old, new)
                if session._is_closing:
                    logger.warning("session is closing, skipping start activity of %s", agent.id)
                    await new.discard(reuse)
                    return
                self._take_floor(new, old.agent if old is not None else None)
                await new.start(reuse_resources=reuse, trace_context=trace_context)
            finally:
                if session._next_activity is new:
                    session._next_activity = None

    async def _end(self, old: AgentActivity, new: AgentActivity) -> Any:
        """Drain and close the old activity; inline tasks below it end with an error."""
        with self._capped(old):
            reuse = await old.drain(new_activity=new)
            await old.aclose()
        for call in reversed(self.stack):
            if not call.task._is_done:
                call.task._complete(
                    ToolError(f"AgentTask {call.task.id} was ended by an agent transition")
                )
        return reuse

    @contextmanager
    def _capped(self, leaving: AgentActivity) -> Iterator[None]:
        """Cut an agent off that has not left within the session's `drain_timeout`."""
        cap = self._session.options.drain_timeout
        if cap is None:
            yield
            return
        timer = asyncio.get_running_loop().call_later(cap, _cut_short, leaving, cap)
        try:
            yield
        finally:
            timer.cancel()

    def _take_floor(self, new: AgentActivity, old_agent: Agent | None) -> None:
        session = self._session
        session._activity = new
        session._had_activity = True
        session._current_agent = new.agent
        session._commit_handoff(
            AgentHandoff(
                old_agent_id=old_agent.id if old_agent is not None else None,
                new_agent_id=new.agent.id,
            ),
            old_agent=old_agent,
            new_agent=new.agent,
        )
        session._state.arm_away()

    def carry(self, reuse: Reusable) -> None:
        """Remember what is between two activities: a handoff may be cut short before it arrives."""
        self._carried = [each for each in self._carried if not each.empty] + [reuse]

    def carried_steps(self, budget: float) -> list[Step]:
        """Steps that close what never arrived, within `budget` seconds."""
        return [step for reuse in self._carried for step in reuse.close_steps(budget)]

    # -- inline tasks ---------------------------------------------------------------------------

    def stacked_activities(self) -> list[AgentActivity]:
        """The current activity, then the paused and displaced parents, innermost first."""
        activities: list[AgentActivity] = []
        if self._session._activity is not None:
            activities.append(self._session._activity)
        inline = [a for call in reversed(self.stack) for a in (call.activity, call.parent)]
        for activity in (*inline, *self._displaced):
            if activity is not None and activity not in activities and not activity.closed:
                activities.append(activity)
        return activities

    def call_of(self, activity: AgentActivity) -> InlineCall | None:
        """The inline call that `activity` serves, or None for an ordinary agent."""
        return next((call for call in self.stack if call.activity is activity), None)

    async def inline(self, task: AgentTask[T], parent: AgentActivity) -> T:
        """Run `task` in place of `parent` and return its result."""
        handle = current_speech_handle.get()
        owner = asyncio.current_task()
        assert owner is not None
        _warn_if_calls_get_lost(task, parent)
        with self._holding(handle), self._blocking(parent, owner, handle):
            slot = self._slots.setdefault(parent, asyncio.Lock())
            await self._acquire(slot)
            try:
                self._refuse_unless_free(task, parent)
                return await self._run(task, parent, owner, handle)
            finally:
                slot.release()

    @contextmanager
    def _holding(self, handle: SpeechHandle | None) -> Iterator[None]:
        """Nobody may interrupt a speech whose tool waits for the user in another agent."""
        if handle is None:
            yield
            return
        if self._session._is_closing:
            raise ToolError("the inline task was not started, the session is closing")
        if handle.interrupted:
            raise RuntimeError("the speech that awaited the inline task is interrupted")
        handle._hold_interruptions()
        try:
            yield
        finally:
            handle._release_interruptions()

    @contextmanager
    def _blocking(
        self, parent: AgentActivity, owner: asyncio.Task[Any], handle: SpeechHandle | None
    ) -> Iterator[None]:
        """Neither the parent's pause nor a close waits for the code that waits for them."""
        tasks = {owner}
        if parent.on_enter_task is not None and not parent.on_enter_task.done():
            tasks.add(parent.on_enter_task)
        undo: list[Callable[[], None]] = [
            parent.scheduler.block(tasks, handle),
            *(executor.block(owner) for executor in self._session._tool_executors()),
        ]
        try:
            yield
        finally:
            for take_back in undo:
                take_back()

    async def _acquire(self, slot: asyncio.Lock) -> None:
        """Wait for the parent's slot; a close is never waited for here."""
        if not slot.locked():
            await slot.acquire()
            return
        waiting = self._scope.spawn(slot.acquire(), name="inline slot", log_errors=False)
        try:
            await asyncio.wait(
                (waiting, self._session._closing_fut), return_when=asyncio.FIRST_COMPLETED
            )
        except asyncio.CancelledError:
            _give_up(waiting, slot)
            raise
        if not waiting.done():
            _give_up(waiting, slot)
            raise ToolError("the session is closing")

    def _refuse_unless_free(self, task: AgentTask[Any], parent: AgentActivity) -> None:
        if self._session._is_closing or parent.closed:
            raise ToolError(f"AgentTask {task.id} was not started, the session is closing")
        if self.in_progress or parent.draining:
            raise ToolError(
                f"An agent transition is in progress, AgentTask {task.id} was not started"
            )

    async def _run(
        self,
        task: AgentTask[T],
        parent: AgentActivity,
        owner: asyncio.Task[Any],
        handle: SpeechHandle | None,
    ) -> T:
        call = InlineCall(task, parent, owner, handle, asyncio.get_running_loop().create_future())
        self.stack.append(call)
        suspended: Any = None
        guards: list[asyncio.Future[None]] = []

        def keep_run_open(_: object) -> None:
            run = self._session._global_run_state
            if run is not None and not run.done():
                guards.append(run._guard())

        try:
            if not await self._enter(call) and not task._is_done:
                task._complete(
                    ToolError(
                        f"activity doesn't start for {task.id}, likely due to session closing"
                    )
                )
            run = self._session._global_run_state
            if run is not None and not task._is_done:
                suspended = run._suspend(call)  # it may end while the task waits for the user
            if task._is_done:
                keep_run_open(task)
            else:  # called before the end of the hook that completes the task can end the run
                task._fut.add_done_callback(keep_run_open)
                await asyncio.wait((task._fut,))
        except BaseException as error:
            task._fut.remove_done_callback(keep_run_open)
            if not task._is_done:
                logger.error(
                    "The asyncio.Task finished before %s was completed.", type(task).__name__
                )
                task._complete(
                    RuntimeError(
                        f"the code that awaited {type(task).__name__} ended before it completed: "
                        f"{error!r}"
                    )
                )
            raise
        finally:
            try:
                await self._leave(call)
            finally:
                if call in self.stack:
                    self.stack.remove(call)
                run = self._session._global_run_state
                if run is not None and suspended is not None:
                    run._resume(suspended)
                for guard in guards:
                    if not guard.done():
                        guard.set_result(None)
        return task._fut.result()

    async def _enter(self, call: InlineCall) -> bool:
        session = self._session
        async with self._lock:
            if session._is_closing:
                return False
            child = _new_activity(call.task, session)
            reuse = await call.parent.pause(blocked_tasks=[call.owner], new_activity=child)
            if session._is_closing:
                await child.discard(reuse)
                return False
            call.activity = child
            self._take_floor(child, call.parent.agent)
            await child.start(reuse_resources=reuse)
            child.on_enter_failed(lambda error: _complete_with(call.task, error))
        return True

    async def _leave(self, call: InlineCall) -> None:
        session = self._session
        child = call.activity
        if child is None:
            if not session._is_closing and call.parent.paused_for_inline:
                async with self._lock:
                    await call.parent.resume()
            return
        if session._is_closing:
            # the close drains the task's activity first, and then gives the floor back
            await asyncio.wait((call.released,))
            return
        if self._was_displaced(call):
            return
        if child.on_enter_task is not None and not child.on_enter_task.done():
            with self._capped(child):
                await asyncio.wait(
                    (child.on_enter_task, session._closing_fut),
                    return_when=asyncio.FIRST_COMPLETED,
                )
        async with self._lock:
            if self._was_displaced(call):  # while this waited for its turn
                return
            with self._capped(child):
                reuse = await child.drain(new_activity=call.parent)
                if not session._is_closing:
                    await child.aclose()
            self.hand_back(call)
            if session._is_closing:
                await call.parent.discard(reuse)
            else:
                await call.parent.resume(reuse_resources=reuse)

    def _was_displaced(self, call: InlineCall) -> bool:
        """Whether another agent has the floor; then the parent ends, too, when its code has."""
        session = self._session
        if session._current_agent is call.task and session._activity is call.activity:
            return False
        logger.warning(
            "%s completed, but the agent has changed in the meantime: %s keeps the floor, "
            "and the agent that awaited it is closed",
            type(call.task).__name__,
            session._current_agent.id if session._current_agent else "nobody",
        )
        call.parent.displaced = True
        self._displaced.append(call.parent)
        self._scope.spawn(self._close_parent(call), name=f"close {call.parent.agent.id}")
        return True

    def hand_back(self, call: InlineCall) -> None:
        """Give the floor back to the parent: history, handoff item, current agent. Idempotent.

        Wires nothing: during a close the parent only speaks its farewell.
        """
        if call.handed_back:
            return
        call.handed_back = True
        child, parent = call.activity, call.parent
        if child is not None and self._session._activity is child:
            parent.agent._chat_ctx.merge(
                call.task._chat_ctx,
                exclude_instructions=True,
                exclude_function_call=not call.task._preserve_function_call_history,
            )
            self._take_floor(parent, call.task)
            if self._session._is_closing:
                parent.scheduler.open()
        if not call.released.done():
            call.released.set_result(None)

    async def _close_parent(self, call: InlineCall) -> None:
        """End a parent that lost the floor for good, once the code that awaited has finished."""
        if not call.owner.done():
            await asyncio.wait(
                (call.owner, self._session._closing_fut), return_when=asyncio.FIRST_COMPLETED
            )
        if not self._session._is_closing:
            await call.parent.drain()
            await call.parent.aclose()
            self._displaced.remove(call.parent)

    # -- closing --------------------------------------------------------------------------------

    def cancel_transition(self) -> None:
        """A forced close does not wait for a handoff in flight."""
        if self.transition is not None:
            self.transition.cancel()


def _new_activity(agent: Agent, session: AgentSession[Any]) -> AgentActivity:
    # hearing, replies and tools are loaded with the first session, not with every agent file
    from .agent_activity import AgentActivity

    return AgentActivity(agent, session)


def _warn_if_calls_get_lost(task: AgentTask[Any], parent: AgentActivity) -> None:
    model = parent.llm
    if (
        current_function_call.get() is not None
        and isinstance(model, RealtimeModel)
        and not model.capabilities.manual_function_calls
    ):
        logger.error(
            "%s is awaited inside a function tool, but %s can't be told of a call that it did not "
            "make itself: it may lose the tool's result. Hand over with session.update_agent() "
            "instead",
            task.id,
            model.label,
        )


def _cut_short(leaving: AgentActivity, cap: float) -> None:
    logger.warning(
        "%s has not handed over within drain_timeout (%g s) and is cut off: %s",
        leaving.agent.id,
        cap,
        "; ".join(leaving.unsettled("did not end in time")) or "its teardown",
    )
    leaving.cut_off()


def _complete_with(task: AgentTask[Any], error: BaseException) -> None:
    if not task._is_done:
        task._complete(error if isinstance(error, Exception) else RuntimeError(repr(error)))


def _give_up(waiting: asyncio.Task[Any], slot: asyncio.Lock) -> None:
    """Stop waiting for a lock; if it was granted in this very moment, pass it on."""
    waiting.cancel()
    waiting.add_done_callback(
        lambda task: None if task.cancelled() or task.exception() else slot.release()
    )


async def run_inline(task: AgentTask[T]) -> T:
    """What `await task` does. See `AgentTask`.

    Raises:
        RuntimeError: If awaited elsewhere than in a tool, `on_enter` or `on_exit`, or twice.
        ToolError: If the session is closing or a handoff is in progress.
    """
    name = type(task).__name__
    parent = current_activity.get()
    if parent is None or not may_await_inline_task():
        raise RuntimeError(
            f"{name} should only be awaited inside tool_functions or the on_enter/on_exit "
            "methods of an Agent"
        )
    if task._awaited:
        raise RuntimeError(f"{name} is not re-entrant, await only once")
    task._awaited = True
    return await parent.session._handoffs.inline(task, parent)
