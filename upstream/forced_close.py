"""How a session closes within a bound, whatever runs in it.

Every closer asks one `SessionCloser`: there is one closing task, everybody else waits for it.

A *graceful* close lets everything end by itself. A *forced* close gives speech, hooks and tools one
shared allowance, then `AgentActivity._cut_off` ends them without taking a lock. Whatever is torn
down after that has a time limit of its own. A part that ignores its cancellation is left behind,
with a warning that names it; the close goes on.

Outside a close the waits below have no limit and hand on results, errors and cancellation, as a
plain `await` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import math
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from typing import Any

from livekit import rtc

__all__ = ["SessionCloser", "cut_off", "had_connected", "is_ending"]

logger = logging.getLogger("livekit.agents")

KILL = 0.2
"""Seconds that something cancelled gets to react before it is left behind."""

STEP = 2.5
"""Seconds for one teardown in a forced close."""

TEARDOWN = 1.4
"""Seconds for all teardowns together once the allowance of a forced close is used up."""

LEAVE = 10.0
"""Seconds for the session host and for the room, which may still have to be deleted on the server.
The event is out by then."""

GIVE_WAY = 1.0
"""Seconds that a forced close waits for its drain before it ends listening beside it."""

LAST_CHANCE = 0.02
"""Seconds that a teardown gets in any case, so that each one is at least begun."""

_PROGRESS = (
    "agent_state_changed",
    "conversation_item_added",
    "function_tools_executed",
    "speech_created",
)

_closing: contextvars.ContextVar[_Close | None] = contextvars.ContextVar(
    "livekit_agents_closing", default=None
)
_closers: weakref.WeakSet[SessionCloser] = weakref.WeakSet()
_left_behind: set[asyncio.Future[Any]] = set()


class SessionCloser:
    """Closes one `AgentSession`, as often as it is started.

    Args:
        session: The session.
        close_event: Makes the event that is emitted, from `reason` and `error`.
        forced_drain_timeout: Seconds that speech, hooks and tools share in a forced close.

    Raises:
        ValueError: `forced_drain_timeout` is not a finite number of seconds, 0 or more.
    """

    def __init__(
        self,
        session: Any,
        *,
        close_event: Callable[..., Any],
        forced_drain_timeout: float,
    ) -> None:
        if not (math.isfinite(forced_drain_timeout) and forced_drain_timeout >= 0):
            raise ValueError(
                "forced_drain_timeout must be a finite number of seconds, at least 0, "
                f"got {forced_drain_timeout!r}"
            )
        self._session = session
        self._close_event = close_event
        self._allowance = float(forced_drain_timeout)
        self._close: _Close | None = None
        self._change: asyncio.Future[None] | None = None
        _closers.add(self)

    # -- asking for a close ------------------------------------------------------------------------

    @property
    def forced(self) -> bool:
        """Whether a close is running that no longer waits for everything to end by itself."""
        return self._close is not None and self._close.forced_at is not None

    def request(self, *, reason: Any, drain: bool, error: Any = None) -> None:
        """Start a close, or, with `drain=False`, end the patience of a graceful one."""
        if self._close is None:
            self._begin(reason, drain, error)
        elif not drain:
            self._force(self._close)

    async def run(
        self,
        body: Callable[..., Awaitable[None]],
        *,
        reason: Any,
        drain: bool,
        error: Any,
    ) -> None:
        """Run `body` if this is the closing task; otherwise wait for the one close there is.

        Whoever waits for a graceful close starts a clock: a drain that makes no progress for
        `forced_drain_timeout` is cut off. Cancelling the waiter does not cancel the close.
        """
        close = self._close
        if close is not None and asyncio.current_task() is close.task:
            await body(reason=reason, drain=drain, error=error)
            return
        if close is not None and _closing.get() is close:
            logger.warning("a part of the session's close asked to wait for it: it can't")
            return
        if close is None:
            if not self._session._started and not self._session._lock.locked():
                return
            close = self._begin(reason, drain, error)
        elif close.forced_at is None and close.joined_at is None:
            close.joined_at = asyncio.get_running_loop().time()
            self._changed()
        self._excuse_caller(close)
        assert close.task is not None
        await asyncio.wait({close.task})

    async def force(self) -> None:
        """End the patience of a close that is running, and wait for its end."""
        close = self._close
        if close is not None and close.task is not None:
            self._force(close, spent=True)
            await asyncio.wait({close.task})

    def _begin(self, reason: Any, drain: bool, error: Any) -> _Close:
        close = _Close(self._allowance, drain, reason)
        self._close = close
        close.task = asyncio.create_task(
            self._carry_out(close, reason, drain, error), name="session close"
        )
        self._session._closing_task = close.task
        self._changed()
        return close

    def _force(self, close: _Close, *, spent: bool = False) -> None:
        if close.forced_at is None:
            close.escalated = True
            close.forced_at = asyncio.get_running_loop().time()
        if spent:
            close.forced_at = min(
                close.forced_at, asyncio.get_running_loop().time() - self._allowance
            )
        self._changed()

    def _excuse_caller(self, close: _Close) -> None:
        """A tool or hook that waits for the close must not be waited for by it."""
        task = asyncio.current_task()
        for activity in self._activities(close):
            if task is None or task not in {*activity._speech_tasks, *_tools(activity)}:
                continue
            logger.warning(
                "aclose() was awaited in %s, which the close won't wait for", task.get_name()
            )
            close.excused.add(task)
            if task in _tools(activity):  # its speech waits for it, and must not go on after it
                _settle_speeches(activity, activity._speech_tasks)
                task.add_done_callback(functools.partial(_end_speech_of, activity))
                for other in _tools(activity) - close.excused:
                    other.add_done_callback(lambda _: self._changed())
            else:
                _block(activity, [task])
        self._changed()

    # -- the close ---------------------------------------------------------------------------------

    async def _carry_out(self, close: _Close, reason: Any, drain: bool, error: Any) -> None:
        _closing.set(close)
        session = self._session
        was_started = session._started
        progress = _Progress(session) if drain else None
        clock = asyncio.create_task(self._watch(close, progress), name="session close: clock")
        try:
            await session._aclose_impl(reason=reason, drain=drain, error=error)
        except Exception:
            pass  # logged where it was raised
        finally:
            clock.cancel()
            if progress is not None:
                progress.stop()
            if was_started and not close.emitted:
                self.emit_close(self._close_event(error=error, reason=reason))
            session._closing_task = None
            self._close = None
            self._changed()

    async def _watch(self, close: _Close, progress: _Progress | None) -> None:
        """The clock of a close: when patience ends, and when the allowance is used up."""
        loop = asyncio.get_running_loop()
        while close.forced_at is None:
            patience: float | None = None
            if close.joined_at is not None:
                moved = progress.last if progress is not None else 0.0
                patience = max(close.joined_at, moved) + self._allowance
                if patience <= loop.time():
                    self._force(close, spent=True)
                    break
            await self._wait_for_change(patience)
        if close.escalated:
            self._interrupt(close)
        listening = asyncio.create_task(self._end_listening(close), name="session close: hearing")
        try:
            while (left := close.cut_at - loop.time()) > 0:
                await self._wait_for_change(loop.time() + left)
            await self._cut(close)
        finally:
            listening.cancel()

    def _interrupt(self, close: _Close) -> None:
        for activity in self._activities(close):
            try:
                activity.interrupt(force=True)
            except Exception:
                logger.exception("a speech could not be interrupted")

    async def _cut(self, close: _Close) -> None:
        """Tools first, so that speech which only waits for one can still end by itself."""
        culprits = [
            name for activity in self._activities(close) for name in _unfinished(activity, close)
        ]
        if culprits:
            logger.warning(
                "the session's close cut off what did not end within %.1f s: %s",
                self._allowance,
                ", ".join(culprits),
            )
        for activity in self._activities(close):
            for task in _tools(activity) - close.excused:
                task.cancel()
        await asyncio.sleep(KILL)
        for activity in self._activities(close):
            activity._cut_off(close.excused)
        self._changed()

    async def _end_listening(self, close: _Close) -> None:
        """A drain that takes long must not keep the line to a speech provider open."""
        await asyncio.sleep(GIVE_WAY)
        session = self._session
        for activity in self._activities(close):
            recognition = activity._audio_recognition
            if recognition is None or recognition in close.hearing:
                continue
            self.detach(session.input, "audio")
            self.detach(session.input, "video")
            if getattr(close.reason, "value", None) != "error" and self.commits(recognition):
                with _logged("committing the user's last turn"):
                    recognition._commit_user_turn(
                        audio_detached=True,
                        transcript_timeout=session._opts.session_close_transcript_timeout,
                    )
            self._hearing_of(recognition)

    def _activities(self, close: _Close) -> list[Any]:
        """The current activity, those that wait below it for an inline task, and the next one."""
        session = self._session
        for activity in (session._activity, getattr(session, "_next_activity", None)):
            while activity is not None and activity not in close.activities:
                close.activities.append(activity)
                below = getattr(activity.agent, "_old_agent", None)
                activity = below._activity if below is not None else None
        return list(close.activities)

    # -- waiting -----------------------------------------------------------------------------------

    async def settle(self, awaited: Awaitable[Any]) -> None:
        """Wait for what has to end by itself; in a forced close until it is cut off."""
        await self._wait_for(awaited, self._settle_limit)

    async def step(self, name: str, awaited: Awaitable[Any], *, patient: bool = False) -> None:
        """Tear something down. In a close it is limited, and its failure is logged.

        A `patient` step may wait for tools of its own, or save something: it shares the allowance
        of the drain.
        """
        await self._step(name, awaited, STEP, patient)

    async def attempt(self, name: str, awaited: Awaitable[None]) -> None:
        """Go on whatever happens in a part of the close whose waits are limited already."""
        if self._close is None:
            await awaited
            return
        with _logged(name):
            await awaited

    async def tear_down(self, body: Awaitable[None]) -> None:
        """Run the teardown of the session, then close every activity that it did not reach."""
        await self.attempt("tearing down the activity", body)
        if self._close is not None:
            for activity in self._activities(self._close):
                if not activity._closed:
                    await self.attempt("closing an activity", activity.aclose())

    async def drain_tools(self, activity: Any) -> None:
        """Wait for running tools, except one that itself waits for the close."""

        def only_waiters() -> bool:
            close = self._close
            return close is not None and bool(close.excused) and _tools(activity) <= close.excused

        await self._wait_for(activity._tool_executor.drain(), self._settle_limit, only_waiters)

    async def sweep_tools(self, activity: Any) -> None:
        """End tools that survived their drain, except one that itself waits for the close."""
        excused = self._close.excused if self._close is not None else set()
        if not _tools(activity) & excused:
            await self.settle(activity._tool_executor.aclose())
            return
        for task in _tools(activity) - excused:
            task.cancel()

    async def end_hearing(self, recognition: Any) -> None:
        """Close speech recognition, or wait for the close of it that has begun already."""
        budget = STEP
        if self._close is not None and self._close.committing:
            budget += self._session._opts.session_close_transcript_timeout
        await self._step("speech recognition", self._hearing_of(recognition), budget, False)

    def _hearing_of(self, recognition: Any) -> Awaitable[None]:
        closing: Awaitable[None]
        if self._close is None:
            closing = recognition._aclose()
        else:
            hearing = self._close.hearing
            if recognition not in hearing:
                hearing[recognition] = _keep(asyncio.ensure_future(recognition._aclose()))
            closing = hearing[recognition]
        return closing

    @contextlib.asynccontextmanager
    async def hold(self, lock: asyncio.Lock, name: str) -> AsyncIterator[None]:
        """`async with lock`, except that a forced close goes on without it when its time is over."""
        held = True
        if not lock.locked():
            await lock.acquire()
        else:
            acquiring = asyncio.ensure_future(lock.acquire())
            try:
                held = await self._wait_until(acquiring, self._settle_limit)
            except asyncio.CancelledError:
                _let_go(acquiring, lock)
                raise
            if not held:
                _let_go(acquiring, lock)
                logger.warning("the lock of %s is held; the session's close goes on", name)
        try:
            yield
        finally:
            if held:
                lock.release()

    def _settle_limit(self, entered: float) -> float | None:
        close = self._close
        if close is None or close.forced_at is None:
            return None
        return min(max(close.cut_at + 2 * KILL, entered + KILL), close.over_at)

    async def _step(self, name: str, awaited: Awaitable[Any], budget: float, patient: bool) -> None:
        def limit(entered: float) -> float | None:
            close = self._close
            if close is None:
                return None
            start = max(entered, close.begun_at)
            if close.emitted:
                return entered + LEAVE
            if close.forced_at is None:
                return None if patient else start + max(budget, self._allowance)
            by = max(close.cut_at + 2 * KILL if patient else 0.0, start + budget)
            return max(min(by, close.over_at) - KILL, entered + LAST_CHANCE)

        await self._wait_for(awaited, limit, name=name)

    async def _wait_for(
        self,
        awaited: Awaitable[Any],
        limit: Callable[[float], float | None],
        enough: Callable[[], bool] = lambda: False,
        *,
        name: str = "",
    ) -> None:
        """Wait within a limit that may appear while waiting. `name`: warn and log under it."""
        future = asyncio.ensure_future(awaited)
        try:
            ended = await self._wait_until(future, limit, enough)
        except asyncio.CancelledError:
            future.cancel()  # as `await` hands it on
            await self._wait_until(future, limit, enough)
            raise
        if ended:
            self._result_of(future, name, others=isinstance(awaited, asyncio.Task))
            return
        if self._close is not None and future in self._close.excused:
            return
        future.cancel()
        _keep(future)
        if name:
            await asyncio.wait({future}, timeout=KILL)
            how = "was cancelled" if future.done() else "ignored its cancellation: left behind"
            logger.warning("closing %s did not end in time and %s", name, how)

    def _result_of(self, future: asyncio.Future[Any], name: str, *, others: bool) -> None:
        if self._close is None:
            future.result()
        elif not future.cancelled() and (error := future.exception()) is not None and not others:
            logger.error("closing %s failed", name or "the session", exc_info=error)

    async def _wait_until(
        self,
        future: asyncio.Future[Any],
        limit: Callable[[float], float | None],
        enough: Callable[[], bool] = lambda: False,
    ) -> bool:
        entered = asyncio.get_running_loop().time()
        while not future.done():
            close = self._close
            if enough() or (close is not None and future in close.excused):
                return False
            until = limit(entered)
            if until is not None and until <= asyncio.get_running_loop().time():
                return False
            await self._wait_for_change(until, future)
        return True

    async def _wait_for_change(
        self, until: float | None, future: asyncio.Future[Any] | None = None
    ) -> None:
        loop = asyncio.get_running_loop()
        if self._change is None or self._change.done():
            self._change = loop.create_future()
        await asyncio.wait(
            {self._change} if future is None else {self._change, future},
            timeout=None if until is None else max(0.0, until - loop.time()),
            return_when=asyncio.FIRST_COMPLETED,
        )

    def _changed(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    def _listens_through(self, stt: Any) -> bool:
        activity = self._session._activity
        return activity is not None and activity.stt is stt

    # -- small parts of the close ------------------------------------------------------------------

    def detach(self, side: Any, name: str) -> None:
        """Detach an input or output; a callback of it that raises does not stop the close."""
        with _logged(f"detaching {name}"):
            setattr(side, name, None)

    def commits(self, recognition: Any) -> bool:
        """Whether a user turn is pending, so that its last transcript is worth waiting for."""
        if self._close is not None and recognition in self._close.hearing:
            return False
        pending = getattr(recognition, "_user_turn_span", True) is not None or any(
            getattr(recognition, name, None)
            for name in (
                "_speaking",
                "_audio_transcript",
                "_audio_interim_transcript",
                "_audio_preflight_transcript",
                "_transcript_buffer",
            )
        )
        if self._close is not None and pending:
            self._close.committing = True
        return pending

    def emit_close(self, event: Any) -> None:
        """Emit `close`, once; a handler that raises keeps it from nobody else."""
        if self._close is not None:
            if self._close.emitted:
                return
            self._close.emitted = True
        contextvars.copy_context().run(self._deliver, event)

    def _deliver(self, event: Any) -> None:
        _closing.set(None)  # a task that a handler starts is not a part of this close
        registered = self._session._events
        handlers = registered.pop("close", {})
        with _logged("emitting `close`"):
            self._session.emit("close", event)
        registered["close"] = handlers
        for handler in list(handlers):
            alone: rtc.EventEmitter[str] = rtc.EventEmitter()
            alone.on("close", handler)
            with _logged("a handler of `close`"):
                alone.emit("close", event)


class _Close:
    """What is known about one close of one session."""

    def __init__(self, allowance: float, drain: bool, reason: Any) -> None:
        now = asyncio.get_running_loop().time()
        self.task: asyncio.Task[None] | None = None
        self.begun_at = now
        self.forced_at: float | None = None if drain else now
        self.joined_at: float | None = None
        self.escalated = False
        self.emitted = False
        self.committing = False
        self.reason = reason
        self.excused: set[asyncio.Future[Any]] = set()
        self.activities: list[Any] = []
        self.hearing: dict[Any, asyncio.Future[None]] = {}
        self._allowance = allowance

    @property
    def cut_at(self) -> float:
        """When what has not ended is cut off. Only of a forced close."""
        assert self.forced_at is not None
        return self.forced_at + self._allowance

    @property
    def over_at(self) -> float:
        """The latest moment for the event. Only of a forced close."""
        return self.cut_at + 2 * KILL + TEARDOWN


class _Progress:
    """When something last moved while a session drains, from its events and its audio output."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._output = session.output.audio
        self.last = asyncio.get_running_loop().time()
        self._playing_until = 0.0
        for event in _PROGRESS:
            session.on(event, self._moved)
        if self._output is not None:
            self._replaced = vars(self._output).get("capture_frame")
            self._capture_frame = self._output.capture_frame
            self._output.capture_frame = self._captured

    def stop(self) -> None:
        """Stop watching."""
        for event in _PROGRESS:
            self._session.off(event, self._moved)
        if self._output is None:
            return
        if self._replaced is not None:
            self._output.capture_frame = self._replaced
        else:
            del self._output.capture_frame

    def _moved(self, _: Any = None) -> None:
        self.last = max(self.last, asyncio.get_running_loop().time())

    def _captured(self, frame: Any) -> Awaitable[None]:
        now = asyncio.get_running_loop().time()
        self._playing_until = max(self._playing_until, now) + frame.duration
        self.last = max(self.last, self._playing_until)
        capturing: Awaitable[None] = self._capture_frame(frame)
        return capturing


# -- an activity, cut off -----------------------------------------------------------------------------


def cut_off(
    activity: Any, speeches: Collection[Any], spare: Collection[asyncio.Future[Any]]
) -> None:
    """End scheduling, speech tasks and running tools. Takes no lock, waits for nothing, idempotent.

    The scheduling loop ends by itself: it is told not to wait for what is left.

    Args:
        activity: The `AgentActivity`.
        speeches: The handles of its live speech tasks.
        spare: Tasks that wait for the close themselves, and so are not cancelled.
    """
    activity._scheduling_paused = True
    tasks = list(activity._speech_tasks)
    _block(activity, tasks)
    for speech in speeches:
        with _logged("ending a speech"):
            speech._mark_done()
    for task in [*tasks, *_tools(activity)]:
        if task not in spare:
            task.cancel()
    activity._wake_up_scheduling_task()


def _end_speech_of(activity: Any, tool: asyncio.Future[Any]) -> None:
    """A tool that waited for the close is over: nobody wants a reply to it any more."""
    activity._cut_off(set())
    tool.get_loop().call_later(KILL, activity._cut_off, set())  # what its speech began meanwhile


def _settle_speeches(activity: Any, tasks: Collection[asyncio.Task[Any]]) -> None:
    _block(activity, tasks)
    for speech in activity._live_speeches():
        with _logged("ending a speech"):
            speech._mark_done()


def _block(activity: Any, tasks: Collection[asyncio.Task[Any]]) -> None:
    known = activity._drain_blocked_tasks
    activity._add_drain_blocked_tasks([task for task in tasks if task not in known])
    activity._wake_up_scheduling_task()


def _tools(activity: Any) -> set[asyncio.Task[Any]]:
    running = list(activity._tool_executor._running_tasks.values())
    return {tool.exe_task for tool in running if not tool.exe_task.done()}


def _unfinished(activity: Any, close: _Close) -> list[str]:
    running = dict(activity._tool_executor._running_tasks)
    names = {tool.exe_task: f"tool call {call}" for call, tool in running.items()}
    names |= {task: task.get_name() for task in activity._speech_tasks}
    return [n for task, n in names.items() if not task.done() and task not in close.excused]


# -- streams --------------------------------------------------------------------------------------------


def had_connected(error: BaseException, *, lasted: float, timeout: float) -> bool:
    """Whether an attempt that failed had really connected, so that its failure is not consecutive.

    A handshake that is bounded by `timeout` fails a moment after it, so having outlived `timeout`
    proves nothing when the failure is a timeout itself.

    Args:
        error: How the attempt failed.
        lasted: Seconds from its begin to its failure.
        timeout: The connect timeout, in seconds.
    """
    if lasted <= timeout:
        return False
    return lasted > max(3 * timeout, 60.0) or not _is_timeout(error)


def _is_timeout(error: BaseException | None) -> bool:
    seen: set[int] = set()
    pending = [error]
    while pending:
        link = pending.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        if isinstance(link, (TimeoutError, asyncio.TimeoutError)):
            return True
        if any(kind.__name__ == "APITimeoutError" for kind in type(link).__mro__):
            return True
        pending += [link.__cause__, link.__context__]
    return False


def is_ending(stream: Any, error: Any) -> bool:
    """Whether a speech stream that lost its connection is to end quietly, not to connect again.

    So it is when the stream is being closed, and, for an error that it would retry, when all
    sessions that listen through its STT are.
    """
    cancelling = getattr(asyncio.current_task(), "cancelling", None)  # from Python 3.11 on
    if cancelling is not None and cancelling() > 0:
        return True
    if not error.retryable:
        return False
    listening = [closer for closer in _closers if closer._listens_through(stream._stt)]
    return bool(listening) and all(closer._close is not None for closer in listening)


# -- helpers --------------------------------------------------------------------------------------------


def _keep(future: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """Hold on to something that nobody may ever wait for, and take note of its end."""

    def ended(future: asyncio.Future[Any]) -> None:
        _left_behind.discard(future)
        if not future.cancelled():
            future.exception()

    _left_behind.add(future)
    future.add_done_callback(ended)
    return future


def _let_go(acquiring: asyncio.Future[Any], lock: asyncio.Lock) -> None:
    """Stop waiting for a lock, and give it back if it came at the same moment."""

    def give_back(future: asyncio.Future[Any]) -> None:
        if not future.cancelled() and future.exception() is None:
            lock.release()

    acquiring.cancel()
    acquiring.add_done_callback(give_back)


@contextlib.contextmanager
def _logged(name: str) -> Iterator[None]:
    try:
        yield
    except Exception:
        logger.exception("%s failed while the session closes", name)
