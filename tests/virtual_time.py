"""An event loop whose clock jumps: a 40-minute silent call runs in milliseconds.

Nothing sleeps. When no callback is ready, the clock is set to the next timer. What happens outside
the loop (jobs in executors and threads, real sockets) takes real time, so before a jump the loop
waits a little for it, with its clock standing still.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Executor
from time import perf_counter  # the real one, also while a test has it patched
from typing import Any, TypeVar

T = TypeVar("T")

START = 1000.0
"""Clock of a new loop. Not 0: a moment must not look like "unset" to code under test."""

EXECUTOR_PATIENCE = 1.0
"""Real seconds to wait for running executor jobs before the clock jumps over them."""

THREAD_PATIENCE = 0.1
"""Real seconds to wait for other threads that started after the loop, and may call into it."""

SOCKET_PATIENCE = 0.02
"""Real seconds to wait for sockets before a jump, or 1 % of the jump if that is less."""

DEADLOCK_PATIENCE = 30.0
"""Real seconds to wait for jobs, threads or sockets when there is no timer to jump to.

Long: a first import of a media library from a cold disk may be what a thread is busy with.
"""


class DeadlockError(RuntimeError):
    """Nothing is ready, no timer is set, and nothing outside the loop can wake it."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual time. `time` starts at 1000.0 and moves only by jumps to timers.

    Only the loop's own clock is virtual: measure bounds with ``loop.time()``.
    """

    def __init__(self) -> None:
        self._now = START
        self._jobs: set[asyncio.Future[Any]] = set()
        self._old_threads = set(threading.enumerate())
        self._patience_spent = 0.0
        super().__init__(_VirtualSelector(self))

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """As in asyncio; the clock stands still while the job runs (for at most a second)."""
        future = super().run_in_executor(executor, func, *args)
        self._jobs.add(future)
        future.add_done_callback(self._jobs.discard)
        self._patience_spent = 0.0
        return future

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """As in asyncio."""
        self._patience_spent = 0.0  # somebody outside is alive: wait for the next call as well
        return super().call_soon_threadsafe(callback, *args, context=context)

    def _wait(
        self, select: Callable[[float | None], list[Any]], sockets: int, timeout: float | None
    ) -> list[Any]:
        """What the selector does when no callback is ready. ``timeout``: seconds to next timer."""
        events = select(0)
        if events:
            return events
        patience = self._patience(sockets, timeout)
        if patience > 0:
            began = perf_counter()
            events = select(patience)
            if events:
                return events
            self._patience_spent += perf_counter() - began
        if timeout is None:
            raise DeadlockError(self._describe_deadlock())
        self._jump(timeout)
        return []

    def _patience(self, sockets: int, timeout: float | None) -> float:
        """Real seconds to wait for the world outside before the clock moves."""
        jobs = any(not job.done() for job in self._jobs)
        threads = any(
            thread not in self._old_threads and not thread.name.startswith("asyncio_")
            for thread in threading.enumerate()
        )
        if timeout is None:
            total = DEADLOCK_PATIENCE if jobs or threads or sockets else 0.0
        elif jobs:
            total = EXECUTOR_PATIENCE
        elif threads:
            total = THREAD_PATIENCE
        else:
            return min(SOCKET_PATIENCE, timeout * 0.01) if sockets else 0.0
        return total - self._patience_spent

    def _jump(self, timeout: float) -> None:
        limit = self._now + timeout
        due = self._scheduled[0].when()  # type: ignore[attr-defined]
        # exactly the timer's moment, not a rounding error beside it; asyncio asks for no more than
        # a day at once, however far away the timer is
        self._now = due if due < limit + 1 else limit

    def _keep_up(self) -> None:
        """Move to a timer that asyncio takes for due: it rounds by the clock's resolution.

        Else tasks that keep each other busy, waiting for what is left of a nanosecond, never get
        through it.
        """
        timers = self._scheduled  # type: ignore[attr-defined]
        if timers and self._now < timers[0].when() <= self._now + self._clock_resolution:  # type: ignore[attr-defined]
            self._now = timers[0].when()

    def _describe_deadlock(self) -> str:
        from livekit.agents.utils.aio.task_scope import await_stack

        tasks = "\n".join(
            f"- {task.get_name()}\n{await_stack(task)}" for task in asyncio.all_tasks(self)
        )
        return f"deadlock: nothing is ready and no timer is set. Pending tasks:\n{tasks}"


class _VirtualSelector(selectors.BaseSelector):
    """The real selector, except that waiting for a timer moves the loop's clock instead."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            self._loop._keep_up()
            return self._real.select(0)
        sockets = len(self._real.get_map()) - 1  # one is the loop's own wake-up pipe
        return self._loop._wait(self._real.select, sockets, timeout)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class LeftoverTasksError(AssertionError):
    """A test ended and left tasks running."""


def run_test(main: Coroutine[Any, Any, T], *, real_time: bool = False) -> T:
    """Run a coroutine on a fresh loop, on virtual time by default.

    Raises:
        LeftoverTasksError: it returned, but left tasks running.
    """
    loop: asyncio.AbstractEventLoop = (
        asyncio.SelectorEventLoop() if real_time else VirtualTimeLoop()
    )
    clocks = contextlib.nullcontext() if real_time else _clocks_of(loop)
    try:
        asyncio.set_event_loop(loop)
        with clocks:
            result = loop.run_until_complete(main)
            loop.run_until_complete(_settle())
        leftovers = asyncio.all_tasks(loop)
        if leftovers:
            names = ", ".join(sorted(task.get_name() for task in leftovers))
            raise LeftoverTasksError(f"the test left {len(leftovers)} task(s) running: {names}")
        return result
    finally:
        try:
            _end(loop)
        finally:
            asyncio.set_event_loop(None)
            loop.close()


@contextlib.contextmanager
def _clocks_of(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let `time.time`, `perf_counter` and `monotonic` follow the loop's clock.

    Code that measures the conversation looks them up in the module when it needs them.
    """
    names = ("time", "perf_counter", "monotonic")
    real = {name: getattr(time, name) for name in names}
    began = loop.time()

    def follow(start: float) -> Callable[[], float]:
        return lambda: start + loop.time() - began

    try:
        for name, clock in real.items():
            setattr(time, name, follow(clock()))
        yield
    finally:
        for name, clock in real.items():
            setattr(time, name, clock)


async def _settle() -> None:
    """Let tasks finish whose end is only a matter of turns of the loop."""
    for _ in range(10):
        await asyncio.sleep(0)


def _end(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
    try:
        loop.run_until_complete(_settle())
        loop.run_until_complete(loop.shutdown_asyncgens())
    except DeadlockError:
        pass  # a generator that can't be closed: reported by what failed before
