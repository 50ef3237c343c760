"""When a session is idle: nobody speaks, is about to speak, or decides whether to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ._context import current_activity

if TYPE_CHECKING:
    from .agent_activity import AgentActivity
    from .agent_session import AgentSession

floor_holder: ContextVar[object | None] = ContextVar("lk_idle_holder", default=None)
"""The hold on the floor that the running code is under."""


class IdleWatch:
    """Waiters for idleness, and those who hold the floor meanwhile (`RunContext.foreground`)."""

    def __init__(self, session: AgentSession[Any]) -> None:
        self._session = session
        self._holds: list[tuple[object, AgentActivity | None]] = []
        self._change: asyncio.Future[None] | None = None

    def changed(self) -> None:
        """Something that waiters look at has changed: let them look again."""
        if self._change is not None and not self._change.done():
            self._change.set_result(None)
        self._change = None

    def reset(self) -> None:
        """A new life: holds don't survive."""
        self._holds.clear()
        self.changed()

    @asynccontextmanager
    async def hold(self, activity: AgentActivity) -> AsyncIterator[None]:
        """Keep everybody else's `wait_for_idle` waiting; the holder itself passes.

        So do the tools of an inline task that the holder gives the floor of `activity` to.
        """
        key = object()
        self._holds.append((key, activity))
        token = floor_holder.set(key)
        try:
            yield
        finally:
            floor_holder.reset(token)
            if (key, activity) in self._holds:
                self._holds.remove((key, activity))
            self.changed()

    def _foreign_hold(self) -> bool:
        if not self._holds:
            return False
        key, activity = self._holds[-1]
        if key is floor_holder.get():
            return False
        mine = current_activity.get()
        below = activity is not None and activity.paused_for_inline
        return not (below and mine is not None and mine is not activity)

    async def wait_for_session(self) -> AgentActivity:
        """Return the current activity once it is idle; follows a handoff.

        Raises:
            ActivityClosedError: When the session is closing.
            RuntimeError: When no agent runs.
        """
        from .agent_activity import ActivityClosedError

        self._session._refuse_former_life()
        while True:
            activity = self._session._activity
            if activity is None:
                if self._session._is_closing:
                    raise ActivityClosedError("the session is closing")
                raise RuntimeError("AgentSession has no active AgentActivity")
            try:
                await self.wait(activity, True, True)
            except ActivityClosedError:
                if self._session._is_closing or current_activity.get() is activity:
                    raise  # the tools of an agent that leaves don't wait for the next one
                await self._next_change(self._session._closing_fut)
                continue
            if activity is self._session._activity:
                return activity

    async def wait(
        self, activity: AgentActivity, wait_for_agent: bool, wait_for_user: bool
    ) -> None:
        """Return once `activity` is idle.

        Raises:
            ActivityClosedError: When it, or the session, is closing.
        """
        from .agent_activity import ActivityClosedError

        while True:
            leaving = activity.draining and activity.scheduler.paused
            if activity.closed or leaving or self._session._is_closing:
                raise ActivityClosedError(f"the activity of {activity.agent.id} is closing")
            blocker = self._blocker(activity, wait_for_agent, wait_for_user)
            if blocker is None:
                return
            await self._next_change(self._session._closing_fut, *blocker)

    async def _next_change(self, *others: asyncio.Future[Any]) -> None:
        if self._change is None:
            self._change = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._change, *others}, return_when=asyncio.FIRST_COMPLETED)

    def _blocker(
        self, activity: AgentActivity, wait_for_agent: bool, wait_for_user: bool
    ) -> tuple[asyncio.Future[Any], ...] | None:
        """None when idle; else further futures whose end is worth another look."""
        if self._foreign_hold() or activity.scheduler.paused:
            return ()
        if wait_for_agent and activity.scheduler.between_steps:
            return ()
        if wait_for_agent and not activity.scheduler.idle:
            current = activity.scheduler.current_speech
            generation = current._generations[-1:] if current is not None else []
            return tuple(generation)
        if not wait_for_user:
            return None
        if self._session._state.turn_claimed:
            return ()
        if not activity.scheduler.user_silent.is_open:
            return (activity.scheduler.user_silent.opened(),)
        decision = activity.user_turns.pending_decision()
        return tuple(decision) if decision else None
