"""Every task has an owner: `TaskScope` starts tasks, reports their failures, and ends them.

Ending is bounded. A task that ignores its cancellation is *abandoned*: described as a `Survivor`,
kept in a registry so that it is neither garbage collected nor forgotten, and never awaited again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import traceback
import types
from collections.abc import Callable, Collection, Coroutine, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from ...log import logger

__all__ = [
    "Deadline",
    "Ledger",
    "Survivor",
    "TaskScope",
    "abandon",
    "abandoned",
    "await_stack",
    "current_ledger",
    "is_abandoned",
    "log_failure",
    "run_bounded",
    "running_task",
    "wait_until",
]

T = TypeVar("T")

_GRACE = 0.25
"""Seconds that a cancelled coroutine gets to clean up."""


@dataclass(frozen=True)
class Survivor:
    """A task that was still running after its cancellation and its grace."""

    name: str
    """Name of the task."""

    owner: str
    """Who had started it."""

    age: float
    """Seconds since it was started; since it was abandoned where the start is unknown."""

    stack: str
    """Where it was suspended, outermost call first."""


class Deadline:
    """A moment by which something has to be over, on the clock of the running event loop.

    Several waits that share one deadline share its time: what the first used up, the next lacks.
    """

    __slots__ = ("_at", "_loop")

    def __init__(self, seconds: float | None) -> None:
        """Set a deadline.

        Args:
            seconds: from now; ``None``: never.

        Raises:
            RuntimeError: no event loop is running.
        """
        self._loop = asyncio.get_running_loop()
        self._at = None if seconds is None else self._loop.time() + seconds

    @property
    def at(self) -> float | None:
        """The moment as ``loop.time()``, or None for never."""
        return self._at

    def remaining(self) -> float | None:
        """Seconds left, at least 0; None when there is no limit."""
        return None if self._at is None else max(0.0, self._at - self._loop.time())

    @property
    def expired(self) -> bool:
        """Whether the moment has come."""
        return self._at is not None and self._loop.time() >= self._at

    def within(self, seconds: float | None) -> Deadline:
        """The earlier of this deadline and ``seconds`` from now: a step's share of the whole."""
        left = self.remaining()
        if seconds is None or (left is not None and left < seconds):
            seconds = left
        return Deadline(seconds)

    def __repr__(self) -> str:
        left = self.remaining()
        return "Deadline(never)" if left is None else f"Deadline(in {left:.3f} s)"


async def wait_until(
    futures: asyncio.Future[Any] | Iterable[asyncio.Future[Any]],
    deadline: Deadline | float | None,
) -> list[asyncio.Future[Any]]:
    """Wait for futures or tasks until they are done or abandoned, or until the deadline.

    Nothing is cancelled and no result or error is looked at: the caller reads those. The task that
    calls is never waited for.

    Args:
        futures: one or several. Start a coroutine in a `TaskScope` first, so that it has an owner.
        deadline: a `Deadline`, seconds, or None for no limit.

    Returns:
        Those that are not done.

    Raises:
        TypeError: something is not a future.
    """
    waiting = [futures] if asyncio.isfuture(futures) else list(futures)
    for future in waiting:
        if not asyncio.isfuture(future):
            raise TypeError(
                f"expected futures or tasks, got {type(future).__name__}: start a coroutine with "
                "TaskScope.spawn() and pass the task"
            )
    pending = _others(waiting)
    if pending:
        timeout = deadline.remaining() if isinstance(deadline, Deadline) else deadline
        await _wait(pending, timeout)
    return [future for future in pending if not future.done()]


async def _wait(futures: Collection[asyncio.Future[Any]], timeout: float | None) -> None:
    """As `asyncio.wait`, except that nobody goes on waiting for what is abandoned."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    left = {future for future in futures if future not in _abandoned}

    def end(*_: Any) -> None:
        if not over.done():
            over.set_result(None)

    def one_less(future: asyncio.Future[Any]) -> None:
        left.discard(future)
        if not left:
            end()

    if not left:
        return
    timer = None if timeout is None else loop.call_later(timeout, end)
    watched = list(left)
    for future in watched:
        future.add_done_callback(one_less)
        _watchers.setdefault(future, []).append(one_less)
    try:
        await over
    finally:
        if timer is not None:
            timer.cancel()
        for future in watched:
            future.remove_done_callback(one_less)
            _forget_watcher(future, one_less)


class TaskScope:
    """Owns the tasks that one component starts.

    ::

        scope = TaskScope("stt stream")
        scope.spawn(self._run())
        ...
        for survivor in await scope.cancel(2.0):
            report(survivor)

    A scope belongs to one event loop. It costs one dict entry per running task.
    """

    __slots__ = ("_closed", "_ledger", "_owner", "_requests", "_tasks")

    def __init__(self, owner: str) -> None:
        """Open a scope. No event loop needs to be running yet.

        Args:
            owner: who answers for the tasks; appears in logs and reports.
        """
        self._owner = owner
        self._ledger = current_ledger.get()
        self._closed = False
        self._tasks: dict[asyncio.Task[Any], float] = {}  # -> loop time of the start
        self._requests: dict[asyncio.Task[Any], int] = {}  # -> cancellations requested

    @property
    def owner(self) -> str:
        """Who answers for the tasks."""
        return self._owner

    @property
    def closed(self) -> bool:
        """Whether the scope was cancelled and starts no more tasks."""
        return self._closed

    @property
    def tasks(self) -> frozenset[asyncio.Task[Any]]:
        """The tasks that have not finished. Abandoned ones are no longer among them."""
        return frozenset(task for task in self._tasks if not task.done() and task not in _abandoned)

    def spawn(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        log_errors: bool = True,
        cancellable: bool = True,
    ) -> asyncio.Task[T]:
        """Start a task.

        Args:
            coro: what to run.
            name: name of the task; the coroutine's qualified name by default.
            log_errors: log a failure, once, at ERROR with owner and name. Pass False where the
                task is awaited and its failure dealt with; asyncio complains if it then is not.
            cancellable: False for a cleanup that is bounded by itself: nobody can cancel it, not
                even `asyncio.run` on a keyboard interrupt, which waits for it instead.

        Raises:
            RuntimeError: the scope is closed, or no event loop is running. ``coro`` is closed.
        """
        try:
            if self._closed:
                raise RuntimeError(
                    f"cannot start {name or _name_of(coro)!r}: {self._owner} is closed"
                )
            loop = asyncio.get_running_loop()
        except RuntimeError:
            coro.close()
            raise
        name = name or _name_of(coro)
        if cancellable:
            task = loop.create_task(coro, name=name)
        else:
            task = _UncancellableTask(coro, loop=loop, name=name)
        self._tasks[task] = loop.time()
        task.add_done_callback(self._finished if log_errors else self._finished_quietly)
        return task

    def cancel_soon(self, *, spare: Collection[asyncio.Task[Any]] = ()) -> None:
        """Close the scope and request cancellation of its tasks, without waiting.

        The task that calls is spared: it could not go on otherwise.

        Args:
            spare: further tasks to leave alone, such as those that wait for the caller.
        """
        self._closed = True
        for task in _others(self._tasks):
            if task not in spare and not self._requests.get(task):
                self._request(task)

    async def cancel(
        self, timeout: float, *, spare: Collection[asyncio.Task[Any]] = ()
    ) -> list[Survivor]:
        """Close the scope, cancel its tasks, and wait for them, at most ``timeout`` seconds.

        Half-way, tasks that are still running are cancelled once more: a first cancellation is
        easily spent inside a cleanup that awaits. At the end what still runs is abandoned: see
        `abandoned`. Safe to call repeatedly and from several tasks at once; a task is asked to end
        at most twice in all.

        The task that calls is neither cancelled nor waited for.

        Args:
            timeout: seconds.
            spare: further tasks to leave alone, such as those that wait for the caller.

        Returns:
            The tasks that ignored their cancellation, out of those unfinished at the call.

        Raises:
            asyncio.CancelledError: the caller was cancelled. The tasks have been asked to end.
        """
        self.cancel_soon(spare=spare)
        running = [task for task in _others(self._tasks) if task not in spare]
        if not running:
            return []
        deadline = Deadline(timeout)
        if await wait_until(running, timeout / 2):
            for task in running:
                if not task.done() and self._requests.get(task, 0) < 2:
                    self._request(task)
            await wait_until(running, deadline)
        return [self._abandon(task) for task in running if not task.done()]

    def ending(
        self, timeout: float, *, spare: Collection[asyncio.Task[Any]] = ()
    ) -> Coroutine[Any, Any, list[Survivor]] | None:
        """As `cancel`, begun at once: what is left to await, or None when nothing runs any more."""
        self.cancel_soon(spare=spare)
        if all(task in spare for task in _others(self._tasks)):
            return None
        return self.cancel(timeout, spare=spare)

    async def join(self, timeout: float | None = None) -> list[asyncio.Task[Any]]:
        """Wait until the tasks, including those started meanwhile, have ended by themselves.

        Args:
            timeout: seconds; None waits without limit.

        Returns:
            The tasks that are still running. The calling task is not counted.
        """
        deadline = Deadline(timeout)
        while True:
            running = _others(self.tasks)
            if not running or deadline.expired:
                return running
            await wait_until(running, deadline)

    def _request(self, task: asyncio.Task[Any]) -> None:
        self._requests[task] = self._requests.get(task, 0) + 1
        task.cancel()
        if (ledger := self._ledger or current_ledger.get()) is not None:
            ledger.enter(task, self._owner, started=self._tasks.get(task))

    def _abandon(self, task: asyncio.Task[Any]) -> Survivor:
        started = self._tasks.pop(task, None)
        self._requests.pop(task, None)
        return abandon(task, self._owner, started=started)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        if not self._forget(task):
            return
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s: task %s failed", self._owner, task.get_name(), exc_info=error)

    def _finished_quietly(self, task: asyncio.Task[Any]) -> None:
        self._forget(task)

    def _forget(self, task: asyncio.Task[Any]) -> bool:
        """Drop a finished task. False when it had been abandoned and is none of ours any more."""
        self._requests.pop(task, None)
        return self._tasks.pop(task, None) is not None

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<TaskScope {self._owner!r} {state}, {len(self.tasks)} running>"


class _UncancellableTask(asyncio.Task[T]):
    """A task that goes on to its end."""

    def cancel(self, msg: Any = None) -> bool:
        return False


async def run_bounded(
    coro: Coroutine[Any, Any, T], timeout: float, *, owner: str, name: str | None = None
) -> T:
    """Run somebody else's coroutine to its end, or for ``timeout`` seconds at most.

    It is cancelled shortly before the time is over (0.25 s, or half of a short time), so that it
    can clean up within the bound, and abandoned when it ignores that. Unlike `asyncio.wait_for`
    this returns in time whatever the coroutine does.

    Args:
        coro: what to run, in a task of its own.
        timeout: seconds.
        owner: who answers for it; appears in reports.
        name: name of the task; the coroutine's qualified name by default.

    Raises:
        asyncio.TimeoutError: it did not end in time. Its own errors are raised as they are.
        asyncio.CancelledError: the caller was cancelled; ``coro`` is cancelled and not waited for.
    """
    scope = TaskScope(owner)
    deadline = Deadline(timeout)
    task = scope.spawn(coro, name=name, log_errors=False)
    try:
        if await wait_until(task, max(timeout / 2, timeout - _GRACE)):
            await scope.cancel(deadline.remaining() or 0.0)
    except asyncio.CancelledError:
        task.add_done_callback(_retrieve)
        scope.cancel_soon()
        raise
    if not task.done() or task.cancelled():
        raise asyncio.TimeoutError(f"{owner}: {task.get_name()} did not end within {timeout:g} s")
    return task.result()


_abandoned: dict[asyncio.Future[Any], Survivor] = {}

_watchers: dict[asyncio.Future[Any], list[Callable[[asyncio.Future[Any]], None]]] = {}
"""Who waits for a task, to be told when it is abandoned."""


def _forget_watcher(
    future: asyncio.Future[Any], watcher: Callable[[asyncio.Future[Any]], None]
) -> None:
    watchers = _watchers[future]
    watchers.remove(watcher)
    if not watchers:
        del _watchers[future]


def abandoned() -> dict[asyncio.Future[Any], Survivor]:
    """The tasks of this process that ignored their cancellation and still run, with a description.

    A copy. The owner of the process may cancel them again and report them before it exits. Tasks
    of an event loop that is closed are left out: they will never run again.
    """
    for task in [task for task in _abandoned if task.get_loop().is_closed()]:
        del _abandoned[task]
    return dict(_abandoned)


def is_abandoned(task: asyncio.Future[Any] | None) -> bool:
    """Whether a task was given up. It may still run, but belongs to nobody any more."""
    return task in _abandoned


def log_failure(message: str, *args: object, **extra: object) -> None:
    """Log the exception that is being handled, at ERROR; at DEBUG in a task that was given up.

    Args:
        message: as for `logging`.
        args: as for `logging`.
        extra: further attributes of the record.
    """
    level = logging.DEBUG if is_abandoned(running_task()) else logging.ERROR
    logger.log(level, message, *args, exc_info=True, extra=extra)


def abandon(task: asyncio.Future[Any], owner: str, *, started: float | None = None) -> Survivor:
    """Give up waiting for a task that does not end, and describe it.

    The task is kept alive and its late result or failure is taken and dropped with a DEBUG line.
    Abandoning a task again returns the same description.

    Args:
        task: the task or future.
        owner: who had started it.
        started: ``loop.time()`` of its start, when known.
    """
    known = _abandoned.get(task)
    if known is not None:
        return known
    loop = task.get_loop()
    survivor = Survivor(
        name=task.get_name() if isinstance(task, asyncio.Task) else repr(task),
        owner=owner,
        age=0.0 if started is None else loop.time() - started,
        stack=await_stack(task),
    )
    _abandoned[task] = survivor
    task.add_done_callback(_ended_late)
    for watcher in list(_watchers.get(task, ())):
        watcher(task)
    if (ledger := current_ledger.get()) is not None:
        ledger.enter(task, owner, started=started)
    return survivor


def _ended_late(task: asyncio.Future[Any]) -> None:
    survivor = _abandoned.pop(task)
    error = None if task.cancelled() else task.exception()  # retrieved: asyncio stays silent
    logger.debug(
        "%s: abandoned task %s ended after all: %s",
        survivor.owner,
        survivor.name,
        "cancelled" if task.cancelled() else repr(error) if error else "normally",
    )


def _retrieve(task: asyncio.Future[Any]) -> None:
    """Take the failure of a task that nobody is interested in, so that asyncio stays silent."""
    if not task.cancelled():
        task.exception()


def await_stack(task: asyncio.Future[Any]) -> str:
    """Where a task is suspended: its frames, outermost first, and what it finally awaits.

    `asyncio.Task.get_stack` stops at the outermost coroutine; this follows the chain of awaits,
    through async generators too.
    """
    if not isinstance(task, asyncio.Task):
        return repr(task)
    frames: list[types.FrameType] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        awaited = _within(awaited)
        for kind in ("cr", "gi", "ag"):
            frame = getattr(awaited, f"{kind}_frame", None)
            if frame is not None:
                frames.append(frame)
                awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
                break
        else:
            break
    lines = traceback.format_list(
        traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames)
    )
    if awaited is not None:
        lines.append(f"  awaiting {awaited!r}\n")
    return "".join(lines)


class Ledger:
    """Tasks that were asked to end and have not, of everything that one owner had started.

    A scope can't always see its tasks to their end: whoever waits for them may be cancelled, or may
    have no time to wait. Scopes made while a ledger is bound to `current_ledger` enter such tasks
    there, and the owner of the ledger settles it when all else has ended.
    """

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Future[Any], tuple[str, float | None]] = {}

    def enter(self, task: asyncio.Future[Any], owner: str, *, started: float | None) -> None:
        """Remember a task until it ends. Idempotent."""
        if task not in self._tasks and not task.done():
            self._tasks[task] = (owner, started)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._tasks.pop(task, None)

    async def settle(
        self, timeout: float, *, spare: Collection[asyncio.Task[Any]] = ()
    ) -> list[Survivor]:
        """Cancel what is left once more, wait at most ``timeout`` seconds, and abandon the rest.

        Args:
            timeout: seconds.
            spare: tasks to leave alone.

        Returns:
            All tasks of the ledger that still run, those abandoned earlier included.
        """
        left = [task for task in _others(self._tasks) if task not in spare]
        asked = [task for task in left if not is_abandoned(task)]
        for task in asked:
            task.cancel()
        await wait_until(asked, timeout)
        return [
            abandon(task, owner, started=started)
            for task in left
            if not task.done()
            for owner, started in [self._tasks[task]]
        ]


current_ledger: ContextVar[Ledger | None] = ContextVar("lk_ledger", default=None)
"""Where scopes enter the tasks that they asked to end; None where nobody keeps a ledger."""


def _within(awaited: Any) -> Any:
    """What a wrapper that Python makes (for `async for`, for `__await__`) wraps; else itself."""
    if type(awaited).__name__ in _WRAPPERS:
        for inner in gc.get_referents(awaited):
            if isinstance(inner, (types.AsyncGeneratorType, types.CoroutineType)):
                return inner
    return awaited


_WRAPPERS = {
    "async_generator_asend",
    "async_generator_athrow",
    "coroutine_wrapper",
    "anext_awaitable",
}

F = TypeVar("F", bound="asyncio.Future[Any]")


def _others(futures: Iterable[F]) -> list[F]:
    """The unfinished among ``futures``, without the task that asks."""
    current = running_task()
    return [future for future in futures if future is not current and not future.done()]


def running_task() -> asyncio.Task[Any] | None:
    """The task that runs; None in plain code and in other threads."""
    try:
        return asyncio.current_task()
    except RuntimeError:  # no running loop
        return None


def _name_of(coro: Coroutine[Any, Any, Any]) -> str:
    return getattr(coro, "__qualname__", None) or type(coro).__qualname__
