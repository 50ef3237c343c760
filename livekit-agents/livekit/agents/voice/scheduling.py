"""Which speech plays next: a queue without I/O, and a driver without a task of its own.

The driver reacts to what happens (a speech is scheduled, a step ended, a task ended, the delay
between speeches ran out); there is no loop that could crash, hang or hold a lock.
"""

from __future__ import annotations

import asyncio
import heapq
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..log import logger
from ..utils.aio import TaskScope
from ..utils.aio.task_scope import current_ledger
from ._context import (
    TaskMark,
    bound,
    current_activity,
    current_function_call,
    current_speech_handle,
    speech_task,
)
from .speech_handle import InterruptionSource, SpeechHandle

if TYPE_CHECKING:
    from ..utils.aio import Survivor
    from .agent_activity import AgentActivity

T = TypeVar("T")


class SpeechQueue:
    """Speeches waiting to play: higher priority first, then the order in which they came."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, SpeechHandle]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, handle: SpeechHandle, priority: int) -> None:
        """Queue `handle` behind all of the same or a higher priority."""
        heapq.heappush(self._heap, (-priority, self._count, handle))
        self._count += 1

    def pop(self) -> SpeechHandle:
        """Take the next speech. Raises IndexError when empty."""
        return heapq.heappop(self._heap)[2]

    def in_play_order(self) -> list[SpeechHandle]:
        """All queued speeches, the next one first."""
        return [handle for _, _, handle in sorted(self._heap, key=lambda entry: entry[:2])]

    def clear(self) -> list[SpeechHandle]:
        """Empty the queue; returns what was in it."""
        handles = self.in_play_order()
        self._heap.clear()
        return handles


class Gate:
    """Something to wait for that opens and closes; once latched it stays open for good."""

    def __init__(self, *, is_open: bool = True) -> None:
        self._open = is_open
        self._latched = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether waiters pass."""
        return self._open

    def open(self) -> None:
        """Let waiters pass."""
        self._open = True
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
            self._waiter = None

    def close(self) -> None:
        """Make waiters wait. Ignored once latched."""
        self._open = self._latched

    def latch_open(self) -> None:
        """Open, and ignore every later `close()`: what a closing session does with its gates."""
        self._latched = True
        self.open()

    def opened(self) -> asyncio.Future[None]:
        """A future, shared by all waiters, that resolves when the gate next opens. Not to cancel."""
        if self._waiter is None:
            self._waiter = asyncio.get_running_loop().create_future()
            if self._open:
                self._waiter.set_result(None)
        return self._waiter

    async def wait(self) -> None:
        """Return once the gate is open."""
        while not self._open:
            await asyncio.wait((self.opened(),))


class ReplyLock:
    """Holds the replies of a whole session back, whichever agent has the floor."""

    def __init__(self) -> None:
        self._gates: weakref.WeakSet[Gate] = weakref.WeakSet()
        self._held = False

    def watch(self, gate: Gate) -> None:
        """The authorization gate of a new activity: it obeys from now on."""
        self._gates.add(gate)
        if self._held:
            gate.close()

    def hold(self) -> None:
        """No reply plays until `release`."""
        self._held = True
        for gate in self._gates:
            gate.close()

    def release(self) -> None:
        """Replies play, of former agents too. Idempotent."""
        self._held = False
        for gate in self._gates:
            gate.open()


class SchedulerHost(Protocol):
    """What the scheduler needs to know of the activity it works for."""

    @property
    def min_consecutive_speech_delay(self) -> float:
        """Seconds of pause between two speeches."""
        ...

    def on_speech_started(self, handle: SpeechHandle) -> None:
        """A speech became the current one."""
        ...

    def on_generation_ended(self, handle: SpeechHandle) -> None:
        """The playout of a step is over."""
        ...


class SpeechScheduler:
    """Plays the speeches of one activity one after another, and owns the tasks that make them."""

    def __init__(self, host: SchedulerHost, *, owner: str) -> None:
        self._host = host
        self._scope = TaskScope(owner)
        self._queue = SpeechQueue()
        self._current: SpeechHandle | None = None
        self._task_handles: dict[asyncio.Task[Any], SpeechHandle | None] = {}
        self._blocked: Counter[asyncio.Task[Any]] = Counter()
        self._blocked_handles: Counter[SpeechHandle] = Counter()
        self._paused = True
        self._suspended = False
        self._cut_off = False
        self._spare: frozenset[asyncio.Task[Any]] = frozenset()
        self._last_ended_at = float("-inf")
        self._delay_timer: asyncio.TimerHandle | None = None
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self.background: set[SpeechHandle] = set()
        self.between_steps: set[SpeechHandle] = set()
        """Speeches whose tools are over, and whose next step is not queued yet."""
        self.user_silent = Gate()
        self.authorization_gate = Gate()

    # -- state ----------------------------------------------------------------------------------

    @property
    def current_speech(self) -> SpeechHandle | None:
        """The speech that plays, or is about to, or None."""
        return self._current

    @property
    def queued(self) -> list[SpeechHandle]:
        """Speeches that wait to play, the next one first."""
        return self._queue.in_play_order()

    @property
    def paused(self) -> bool:
        """Whether new speech is refused."""
        return self._paused

    @property
    def was_cut_off(self) -> bool:
        """Whether a forced close has ended this scheduler for good."""
        return self._cut_off

    @property
    def tasks(self) -> frozenset[asyncio.Task[Any]]:
        """The unfinished speech tasks."""
        return frozenset(self._task_handles)

    @property
    def idle(self) -> bool:
        """Nothing plays and nothing waits to play (speeches with only tools left are idle)."""
        return self._current is None and not self._queue

    # -- speech tasks ---------------------------------------------------------------------------

    def create_task(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        speech_handle: SpeechHandle | None = None,
        name: str | None = None,
        activity: AgentActivity | None = None,
    ) -> asyncio.Task[T]:
        """Start a task that may create speech: a reply, a hook, a completed user turn.

        A drain waits for these tasks, and `speech_handle` is done when all of its tasks are.

        Raises:
            RuntimeError: After a forced close.
        """
        if activity is None:
            task = self._scope.spawn(coro, name=name)
        else:
            mark = TaskMark()
            with (
                bound(current_activity, activity),
                bound(current_speech_handle, speech_handle),
                bound(current_function_call, None),
                bound(speech_task, mark),
                bound(current_ledger, activity.session._ledger),
            ):
                task = mark.task = self._scope.spawn(coro, name=name)
        self._task_handles[task] = speech_handle
        if speech_handle is not None:
            speech_handle._link(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._task_handles.pop(task, None)
        self._blocked.pop(task, None)
        self._changed()

    # -- scheduling -----------------------------------------------------------------------------

    def schedule(
        self,
        handle: SpeechHandle,
        priority: int = SpeechHandle.SPEECH_PRIORITY_NORMAL,
        *,
        force: bool = False,
    ) -> None:
        """Queue a speech for playing.

        Args:
            force: Queue it even while draining: replies to tools that still run.

        Raises:
            RuntimeError: If scheduling is paused; the speech is interrupted then.
        """
        if self._cut_off:
            logger.warning("speech scheduled after the activity ended, dropping it: %s", handle.id)
            handle.interrupt(force=True)
            return
        if self._paused and not force:
            handle.interrupt(force=True)
            raise RuntimeError(
                "cannot schedule new speech, the speech scheduling is draining/pausing, "
                "the speech will be cancelled"
            )
        self._queue.push(handle, priority)
        handle._mark_scheduled()
        self._advance()

    def _advance(self) -> None:
        """Make the next live speech current and authorize it, if nothing plays."""
        while self._current is None and self._queue and not self._suspended:
            handle = self._queue.pop()
            if not handle.done():
                self._current = handle
                self._host.on_speech_started(handle)
                self._authorize_after_delay(handle)
        self._changed()

    def _authorize_after_delay(self, handle: SpeechHandle) -> None:
        loop = asyncio.get_running_loop()
        delay = self._last_ended_at + self._host.min_consecutive_speech_delay - loop.time()
        if delay <= 0 or handle.interrupted:
            self._authorize(handle)
            return
        self._delay_timer = loop.call_later(delay, self._authorize, handle)
        # an interruption must not have to sit out the delay
        handle._interrupt_fut.add_done_callback(lambda _: self._authorize(handle))

    def _authorize(self, handle: SpeechHandle) -> None:
        if self._delay_timer is not None:
            self._delay_timer.cancel()
            self._delay_timer = None
        if self._current is not handle or handle._authorized_fut.done():
            return
        if handle.done():
            self._generation_ended(handle)
            return
        handle._authorize_generation()
        handle._generations[-1].add_done_callback(lambda _: self._generation_ended(handle))

    def _generation_ended(self, handle: SpeechHandle) -> None:
        if self._current is not handle:
            return
        self._last_ended_at = asyncio.get_running_loop().time()
        self._host.on_generation_ended(handle)
        self._current = None
        self._advance()

    async def wait_for_authorization(
        self, handle: SpeechHandle, *, over_user: bool = False
    ) -> None:
        """Return when this step may play, or when the speech is interrupted.

        It may play when its turn has come, the authorization gate is open and, if it can be
        interrupted, the user is silent. A closing session opens both gates for good.

        Args:
            over_user: Whoever speaks listens meanwhile, and need not wait for the user's silence.
        """
        while not handle.interrupted:
            waits = [handle._interrupt_fut]
            if not handle._authorized_fut.done():
                waits.append(handle._authorized_fut)
            elif not self.authorization_gate.is_open:
                waits.append(self.authorization_gate.opened())
            elif handle.allow_interruptions and not (over_user or self.user_silent.is_open):
                waits.append(self.user_silent.opened())
            else:
                return
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)

    # -- interrupting ---------------------------------------------------------------------------

    def interrupt(
        self, *, force: bool = False, source: InterruptionSource = "programmatic"
    ) -> list[SpeechHandle]:
        """Interrupt background, current and queued speeches; returns those that were.

        Queued speeches are interrupted in play order up to the first that disallows it.

        Raises:
            RuntimeError: If the current speech disallows it and `force` is False. Nothing has
                been interrupted then.
        """
        current = self._current
        if current is not None and not force and not current.allow_interruptions:
            current.interrupt(source=source)  # raises, unless it is interrupted or done already
        interrupted: list[SpeechHandle] = []

        def stop(handle: SpeechHandle) -> None:
            if not handle.done():
                interrupted.append(handle.interrupt(force=force, source=source))

        for handle in list(self.background):
            if force or handle.allow_interruptions:
                stop(handle)
        if current is not None:
            stop(current)
        for handle in self.queued:
            if not (force or handle.allow_interruptions or handle.interrupted):
                logger.warning(
                    "a queued speech does not allow interruptions, it will still be played",
                    extra={"speech_id": handle.id},
                )
                break
            stop(handle)
        return interrupted

    def live_handles(self) -> set[SpeechHandle]:
        """Every speech that is not done: playing, queued, waiting for tools, being prepared."""
        handles = {handle for handle in self._task_handles.values() if handle is not None}
        handles.update(self.background, self.queued)
        if self._current is not None:
            handles.add(self._current)
        return {handle for handle in handles if not handle.done()}

    def settling_handles(self) -> list[SpeechHandle]:
        """The live speeches that nobody has blocked."""
        return [h for h in self.live_handles() if h not in self._blocked_handles]

    # -- pausing and ending ---------------------------------------------------------------------

    def open(self) -> None:
        """Accept speech (start, or resume after an inline task)."""
        if not self._cut_off:
            self._paused = self._suspended = False
            self._advance()

    def pause(self) -> None:
        """Refuse new speech; what is queued still plays."""
        self._paused = True
        self._changed()

    def suspend(self) -> None:
        """Another agent has the floor: replies to tools that still run wait for `open`, too."""
        self._suspended = True

    def block(
        self, tasks: Iterable[asyncio.Task[Any]], handle: SpeechHandle | None = None
    ) -> Callable[[], None]:
        """Don't wait for `tasks`, nor for any task of `handle`, when settling.

        They themselves wait for what follows the pause: an inline task, or the close.

        Returns:
            A function that takes it back.
        """
        blocked = list(tasks)
        handles = [handle] if handle is not None else []
        self._blocked.update(blocked)
        self._blocked_handles.update(handles)
        self._changed()

        def unblock() -> None:
            self._blocked -= Counter(blocked)
            self._blocked_handles -= Counter(handles)

        return unblock

    def unsettled(self) -> list[asyncio.Task[Any]]:
        """The speech tasks that a drain still waits for."""
        return [
            task
            for task, handle in self._task_handles.items()
            if task not in self._blocked and (handle is None or handle not in self._blocked_handles)
        ]

    def _is_settled(self) -> bool:
        # the playout of a step that called a blocked tool is still waited for
        return self._cut_off or (self._paused and self.idle and not self.unsettled())

    async def wait_settled(self) -> None:
        """Return once scheduling is paused and nothing but blocked tasks is left, or cut off."""
        await self._until(self._is_settled)

    async def wait_for_task(self, task: asyncio.Task[Any]) -> None:
        """Return once a speech task has ended, is blocked, or everything was cut off."""
        await self._until(lambda: task.done() or task in self._blocked or self._cut_off)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (condition, waiter)
            self._waiters.append(entry)
            try:
                await waiter
            finally:
                if entry in self._waiters:
                    self._waiters.remove(entry)

    def _changed(self) -> None:
        """Something ended, was blocked or paused: wake those whose condition now holds."""
        for condition, waiter in self._waiters:
            if not waiter.done() and condition():
                waiter.set_result(None)

    def prepare_close(self) -> None:
        """Open both gates for good: nobody is left to fall silent or to decide."""
        self.user_silent.latch_open()
        self.authorization_gate.latch_open()

    def cut_off(self, *, spare: frozenset[asyncio.Task[Any]] = frozenset()) -> list[SpeechHandle]:
        """End every speech and every speech task now, taking no lock and waiting for nobody.

        Args:
            spare: Tasks not to cancel: the caller's own chain, when the close was awaited
                from inside a tool or a hook.

        Returns:
            The speeches that were not done.
        """
        self._spare |= spare
        handles = sorted(self.live_handles(), key=lambda handle: handle.id)
        self._paused = self._cut_off = True
        self.prepare_close()
        self._queue.clear()
        self._current = None
        if self._delay_timer is not None:
            self._delay_timer.cancel()
        for handle in handles:
            handle._cut_off(spare=spare)
        self.background.clear()
        self.between_steps.clear()
        for task in list(self._task_handles):
            if task not in spare:
                task.cancel()
        self._changed()
        return handles

    async def aclose(self, timeout: float) -> list[Survivor]:
        """Cancel what is left, wait at most `timeout` seconds, return what ignored it."""
        ending = self.ending(timeout)
        return [] if ending is None else await ending

    def ending(self, timeout: float) -> Coroutine[Any, Any, list[Survivor]] | None:
        """As `aclose`, begun at once; None when nothing is left to wait for."""
        if not self._cut_off:
            self.cut_off()
        return self._scope.ending(timeout, spare=self._spare)
