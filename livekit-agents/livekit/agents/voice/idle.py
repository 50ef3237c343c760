"""When a session is idle: nobody speaks, is about to speak, or decides whether to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agent_activity import AgentActivity
    from .agent_session import AgentSession

_holder: ContextVar[object | None] = ContextVar("lk_idle_holder", default=None)


class IdleWatch:
    """Waiters for idleness, and those who hold the floor meanwhile (`RunContext.foreground`)."""

    def __init__(self, session: AgentSession[Any]) -> None:
        self._session = session
        self._holds: list[object] = []
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
    async def hold(self) -> AsyncIterator[None]:
        """Keep everybody else's `wait_for_idle` waiting; the holder itself passes."""
        key = object()
        self._holds.append(key)
        token = _holder.set(key)
        try:
            yield
        finally:
            _holder.reset(token)
            if key in self._holds:
                self._holds.remove(key)
            self.changed()

    def _foreign_hold(self) -> bool:
        return bool(self._holds) and self._holds[-1] is not _holder.get()

    async def wait_for_session(self) -> AgentActivity:
        """Return the current activity once it is idle; follows a handoff.

        Raises:
            ActivityClosedError: When the session is closing.
            RuntimeError: When no agent runs.
        """
        from .agent_activity import ActivityClosedError

        while True:
            activity = self._session._activity
            if activity is None:
                if self._session._is_closing:
                    raise ActivityClosedError("the session is closing")
                raise RuntimeError("AgentSession has no active AgentActivity")
            try:
                await self.wait(activity, True, True)
            except ActivityClosedError:
                if self._session._is_closing or self._session._activity is activity:
                    raise
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
            if activity.closed or self._session._is_closing:
                raise ActivityClosedError(f"the activity of {activity.agent.id} is closing")
            blocker = self._blocker(activity, wait_for_agent, wait_for_user)
            if blocker is None:
                return
            if self._change is None:
                self._change = asyncio.get_running_loop().create_future()
            waits = {self._change, self._session._closing_fut, *blocker}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)

    def _blocker(
        self, activity: AgentActivity, wait_for_agent: bool, wait_for_user: bool
    ) -> tuple[asyncio.Future[Any], ...] | None:
        """None when idle; else further futures whose end is worth another look."""
        if self._foreign_hold() or activity.scheduler.paused:
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
