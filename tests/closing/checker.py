"""One check for every close: whatever was stuck in the session, and whoever closed it.

::

    checker = CloseChecker(session, models=[llm, stt], sink=speaker)
    await session.start(agent)
    ...
    checker.requested()
    session.shutdown(drain=False)
    await checker.check(hangs=True)
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from livekit.agents.llm import ChatContext, FunctionCall, FunctionCallOutput
from livekit.agents.utils.aio.task_scope import is_abandoned
from livekit.agents.voice import Agent, AgentSession, CloseEvent, SpeechHandle
from livekit.agents.voice.closing import KILL, CloseReport

MILLISECONDS = 0.05
"""What a close may take when nothing hangs, in (virtual) seconds."""


class Sink(Protocol):
    """An audio output that remembers what the user heard of each segment."""

    @property
    def audible(self) -> list[str]: ...


class CloseChecker:
    """Watches a session from before its start, and judges its close.

    Args:
        session: Not started yet.
        models: Fakes whose streams must be closed afterwards.
        sink: Remembers what was audible; nothing may reach it after the close.
    """

    def __init__(
        self, session: AgentSession[Any], *, models: Iterable[Any] = (), sink: Sink | None = None
    ) -> None:
        self.session = session
        self.closes: list[CloseEvent] = []
        self.speeches: list[SpeechHandle] = []
        self.user_words: list[str] = []
        """What the user said for certain: it must be in the history."""
        self._models = list(models)
        self._sink = sink
        self._ours = asyncio.all_tasks()
        self._waiters: dict[str, asyncio.Future[Any]] = {}
        self._activities: dict[int, Any] = {}
        self._events = 0
        self._requested_at: float | None = None
        self._joins = False
        self._emitted_at = 0.0
        session.on("close", self._on_close)
        session.on("speech_created", lambda ev: self.speeches.append(ev.speech_handle))
        for name in ("speech_created", "conversation_item_added", "agent_state_changed"):
            session.on(name, self._look)  # type: ignore[arg-type]
        for name in ("user_state_changed", "tool_execution_updated", "function_tools_executed"):
            session.on(name, self._look)  # type: ignore[arg-type]

    def _on_close(self, event: CloseEvent) -> None:
        self.closes.append(event)
        self._emitted_at = _now()
        assert event.report is not None, "a CloseEvent carries its report"
        json.loads(event.report.model_dump_json())
        self._history_at_close = len(self.session.history.items)

    def _look(self, _: Any = None) -> None:
        self._events += 1
        handoffs = self.session._handoffs
        for activity in (*handoffs.stacked_activities(), self.session._next_activity):
            if activity is not None:
                self._activities[id(activity)] = activity

    # -- what a test tells it -----------------------------------------------------------------------

    def waiter(self, name: str, waiting: Awaitable[Any]) -> asyncio.Future[Any]:
        """Somebody waits for this. After the close they must be back, with whatever result."""

        async def wait() -> Any:
            return await waiting

        task = asyncio.ensure_future(wait())
        self._waiters[f"{name} ({len(self._waiters)})"] = task
        self._ours.add(task)
        return task

    def ours(self, task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        """A task of the test or of user code, which the session doesn't own."""
        self._ours.add(task)
        return task

    def requested(self, *, joins: bool = False) -> None:
        """The close is requested now, or a graceful one becomes a forced one now.

        Args:
            joins: It joins a graceful one, which is given time as long as it progresses.
        """
        self._look()
        self._requested_at = _now()
        self._joins = joins

    # -- the judgement ------------------------------------------------------------------------------

    async def check(
        self,
        *,
        hangs: bool = True,
        within: float | None = None,
        let_go: Callable[[], None] = lambda: None,
        restart: Callable[[], Awaitable[Any]] | None = None,
    ) -> float:
        """Wait for the close and assert all that must hold. Returns the seconds it took.

        Args:
            hangs: False: nothing is stuck, so the close takes milliseconds.
            within: A tighter bound than the general one, in seconds.
            let_go: Lets survivors go on, after the session was started again.
            restart: Starts the session again and says something; a plain agent by default.
        """
        took = await self._bounded(hangs, within)
        self._closed_once()
        self._waiters_are_back()
        self._nothing_is_open()
        self._locks_are_free()
        self._history_is_whole()
        self._only_reported_survivors()
        await self._starts_again(let_go, restart or self._greet_again)
        return took

    async def _bounded(self, hangs: bool, within: float | None) -> float:
        assert self._requested_at is not None, "call requested() when the close is requested"
        budgets = self.session.options.close_budgets
        bound = budgets.whole if hangs else MILLISECONDS
        bound = bound if within is None else min(bound, within)
        closing = self.session._closing_task
        assert closing is not None, "nobody began to close"
        while not closing.done() and (left := self._counts_from() + bound - _now()) > -0.001:
            await asyncio.wait([closing], timeout=max(0.0, left) + 0.001)
        took = _now() - self._counts_from()
        assert closing.done(), f"not closed after {took:.2f} s:\n{_stack(closing)}"
        failed = not closing.cancelled() and closing.exception() is not None
        assert not failed, "the close itself must not fail"
        await _turns(20)  # waiters come back in a few turns of the loop
        close_by = min(bound, budgets.close_by)
        emitted = self._emitted_at - self._counts_from()
        assert not self.closes or emitted <= close_by + 0.001, f"CloseEvent after {emitted:.2f} s"
        return took

    def _counts_from(self) -> float:
        """When the allowance of the close began."""
        assert self._requested_at is not None
        progress = self.session._progress.last if self._joins else 0.0
        return max(self._requested_at, progress)

    def _closed_once(self) -> None:
        expected = 1 if self.session._had_activity or self.closes else 0
        assert len(self.closes) == expected, f"{len(self.closes)} CloseEvents"
        for event in self.closes:
            report = event.report
            assert report is not None
            again = CloseReport.model_validate_json(report.model_dump_json())
            assert again.finished_at is not None and again.finished_at >= again.requested_at
            assert len({(s.name, s.owner, s.stack) for s in again.survivors}) == len(
                again.survivors
            ), "each survivor is reported once"
        assert self.session._closing_task is not None and not self.session._is_closing

    def _waiters_are_back(self) -> None:
        waiting = [name for name, waiter in self._waiters.items() if not waiter.done()]
        assert not waiting, f"still waiting: {waiting}"
        for waiter in self._waiters.values():
            if not waiter.cancelled():
                waiter.exception()
        live = [handle for handle in self.speeches if not handle.done()]
        assert not live, f"speeches that never end: {live}"

    @property
    def report(self) -> CloseReport | None:
        """The report of the last close."""
        return self.closes[-1].report if self.closes else None

    @property
    def survivors(self) -> list[str]:
        """Names of the tasks that the close reported as left behind."""
        return [survivor.name for survivor in self.report.survivors] if self.report else []

    def _nothing_is_open(self) -> None:
        for model in self._models:
            still_open = [name for name, task in _open_parts(model) if not is_abandoned(task)]
            assert not still_open, f"still open: {still_open}"

    def _locks_are_free(self) -> None:
        assert not self.session._activity_lock.locked(), "the session's activity lock is held"
        for activity in self._activities.values():
            held = activity._lock.locked() and not self.survivors  # else one of them holds it
            assert not held, f"the lock of {activity} is held"
            assert activity.agent._activity is None, f"{activity.agent.id} is bound to {activity}"
        assert self.session._activity is None and self.session._next_activity is None

    def _history_is_whole(self) -> None:
        contexts = [self.session.history, *(a.agent._chat_ctx for a in self._activities.values())]
        for context in contexts:
            check_replayable(context)
        messages = self.session.history.messages()
        said = [m.text_content or "" for m in messages if m.role == "user"]
        for words in self.user_words:
            assert any(words in text for text in said), f"{words!r} is lost, history has {said}"
        spoken = [m.text_content or "" for m in messages if m.role == "assistant"]
        for words in self._sink.audible if self._sink is not None else ():
            assert any(_heard_in(words, text) for text in spoken), (
                f"the user heard {words!r}, history has {spoken}"
            )
        if self.closes:
            late = self.session.history.items[self._history_at_close :]
            assert not late, f"came into the history after CloseEvent: {late}"

    def _only_reported_survivors(self) -> None:
        left = asyncio.all_tasks() - self._ours - {asyncio.current_task()}
        reported = Counter(self.survivors)
        for task in left:
            name = task.get_name()
            assert is_abandoned(task), f"left running: {name}\n{_stack(task)}"
            if self.closes:
                assert reported[name], f"not reported: {name}, only {list(reported)}"
                reported[name] -= 1

    # -- the second life ----------------------------------------------------------------------------

    async def _greet_again(self) -> None:
        await self.session.start(Agent(instructions="second life"))

    async def _starts_again(
        self, let_go: Callable[[], None], restart: Callable[[], Awaitable[Any]]
    ) -> None:
        closes = len(self.closes)
        await restart()
        if self.session.llm is not None or self.session.tts is not None:
            said = len(self.session.history.messages())
            handle = self.session.generate_reply(user_input="are you there?")
            await asyncio.wait([asyncio.ensure_future(_done(handle))], timeout=10)
            assert handle.done() and handle.exception() is None, "no answer in the second life"
            assert len(self.session.history.messages()) == said + 2
        await self._survivors_do_nothing(let_go)
        began = _now()
        await self.session.aclose()
        assert _now() - began <= MILLISECONDS, "the second close has nothing to wait for"
        assert len(self.closes) == closes + 1, "the second life ends with one CloseEvent"
        assert self.report is not None and self.report.clean, self.report
        await _turns(20)
        left = asyncio.all_tasks() - self._ours - {asyncio.current_task()}
        assert not left, f"left in the end: {[task.get_name() for task in left]}"
        self._nothing_is_open()

    async def _survivors_do_nothing(self, let_go: Callable[[], None]) -> None:
        """What had been given up goes on, while the session is in use again."""
        items, events = self._fingerprint(), self._events
        let_go()
        await _turns(50)
        await asyncio.sleep(1.0)
        now = self._fingerprint()
        changed = [(old, new) for old, new in zip(items, now, strict=False) if old != new]
        assert not changed, f"a survivor reached history, sink or model: {changed}"
        assert len(now) == len(items)
        assert self._events == events, "a survivor caused events"

    def _fingerprint(self) -> list[Any]:
        marks: list[Any] = [item.id for item in self.session.history.items]
        marks.append(len(self.session._recorded_events))
        if self._sink is not None:
            marks.append(self._sink.audible)
        marks += [len(getattr(model, "requests", ())) for model in self._models]
        return marks


def check_replayable(context: ChatContext) -> None:
    """A model accepts this history: each call has one output, which comes after it."""
    calls: dict[str, int] = {}
    for item in context.items:
        if isinstance(item, FunctionCall):
            assert item.call_id not in calls, f"the call {item.call_id} is there twice"
            calls[item.call_id] = 0
        elif isinstance(item, FunctionCallOutput):
            assert item.call_id in calls, f"an output without its call: {item}"
            calls[item.call_id] += 1
    assert all(count == 1 for count in calls.values()), f"calls and their outputs: {calls}"
    ids = [item.id for item in context.items]
    assert len(ids) == len(set(ids)), "an item is there twice"
    context.to_provider_format("openai")


def _heard_in(heard: str, text: str) -> bool:
    """Whether the part of a text that was audible is kept. The last character may be cut."""
    return heard in text or text.startswith(heard[:-1])


def _open_parts(model: Any) -> list[tuple[str, asyncio.Future[Any] | None]]:
    """The streams of a fake that still run, with the task in which they do."""
    label = type(model).__name__
    parts: list[tuple[str, asyncio.Future[Any] | None]] = []
    for stream in getattr(model, "streams", ()):
        task = getattr(stream, "_task", None)
        closed = task.done() if task is not None else stream.closed
        if not closed:
            parts.append((f"stream of {label}", task))
    for session in getattr(model, "sessions", ()):
        if not session.closed:
            parts.append((f"session of {label}", None))
    return parts


async def _done(handle: SpeechHandle) -> None:
    await handle


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _stack(task: asyncio.Task[Any]) -> str:
    from livekit.agents.utils.aio.task_scope import await_stack

    return await_stack(task)


def _now() -> float:
    return asyncio.get_running_loop().time()


__all__ = ["KILL", "MILLISECONDS", "CloseChecker", "check_replayable"]
