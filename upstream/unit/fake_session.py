"""A session and an activity with just what the closer touches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

from forced_close import SessionCloser, cut_off
from livekit import rtc

Behave = Callable[[], Awaitable[Any]]


async def nothing() -> None:
    """Return at once."""


async def forever() -> None:
    """Never return; end when cancelled."""
    await asyncio.Event().wait()


async def stubborn() -> None:
    """Not return for ten minutes, cancelled or not."""
    loop = asyncio.get_running_loop()
    over = loop.time() + 600
    while loop.time() < over:
        try:
            await asyncio.sleep(over - loop.time())
        except asyncio.CancelledError:
            pass


class Speech:
    """A speech handle."""

    def __init__(self) -> None:
        self.done = False

    def _mark_done(self) -> None:
        self.done = True


class Tools:
    """A tool executor."""

    def __init__(self) -> None:
        self._running_tasks: dict[str, Any] = {}

    def run(self, behave: Behave, call_id: str = "call_1") -> asyncio.Task[Any]:
        """Start a tool."""
        task: asyncio.Task[Any] = asyncio.ensure_future(_until_done(behave))
        self._running_tasks[call_id] = SimpleNamespace(exe_task=task)
        task.add_done_callback(lambda _: self._running_tasks.pop(call_id))
        return task

    async def drain(self) -> None:
        """Wait for the tools."""
        while self._running_tasks:
            await asyncio.wait([t.exe_task for t in self._running_tasks.values()])

    async def aclose(self) -> None:
        """Cancel the tools, and wait for them."""
        for tool in list(self._running_tasks.values()):
            tool.exe_task.cancel()
        await self.drain()


async def _until_done(behave: Behave) -> None:
    await behave()


class Activity:
    """An agent on duty. `settling` is what its drain waits for."""

    def __init__(self, session: FakeSession, stt: object = None) -> None:
        self._session = session
        self._lock = asyncio.Lock()
        self._speech_tasks: list[asyncio.Task[Any]] = []
        self._drain_blocked_tasks: list[asyncio.Task[Any]] = []
        self._tool_executor = Tools()
        self._audio_recognition: Any = None
        self._scheduling_paused = False
        self._closed = False
        self.agent = SimpleNamespace()
        self.stt = stt
        self.speech = Speech()
        self.interrupted = 0
        self.at_close: Behave = nothing

    def speak(self, behave: Behave) -> asyncio.Task[Any]:
        """Start a speech task."""
        task: asyncio.Task[Any] = asyncio.ensure_future(_until_done(behave))
        self._speech_tasks.append(task)
        task.add_done_callback(self._speech_tasks.remove)
        return task

    def interrupt(self, *, force: bool) -> None:
        """Note it."""
        self.interrupted += 1

    async def drain(self) -> None:
        """Wait for speech and tools, under the lock."""
        closer = self._session._closer
        async with closer.hold(self._lock, "the activity"):
            for task in list(self._speech_tasks):
                if task not in self._drain_blocked_tasks:
                    await closer.settle(task)
            await closer.drain_tools(self)

    async def aclose(self) -> None:
        """End everything, under the lock."""
        closer = self._session._closer
        async with closer.hold(self._lock, "the activity"):
            self._closed = True
            if self._audio_recognition is not None:
                await closer.end_hearing(self._audio_recognition)
            await closer.step("the provider", self.at_close())
            await closer.sweep_tools(self)

    def _live_speeches(self) -> list[Any]:
        return [self.speech]

    def _cut_off(self, spare: set[asyncio.Future[Any]]) -> None:
        cut_off(self, self._live_speeches(), spare)

    def _add_drain_blocked_tasks(self, tasks: list[asyncio.Task[Any]]) -> None:
        self._drain_blocked_tasks += tasks

    def _wake_up_scheduling_task(self) -> None:
        """Nothing sleeps."""


class FakeSession(rtc.EventEmitter[str]):
    """A session that is closed the way a patched one is."""

    def __init__(self, allowance: float = 5.0) -> None:
        super().__init__()
        self._started = True
        self._lock = asyncio.Lock()
        self._closing_task: asyncio.Task[None] | None = None
        self._activity: Any = None
        self._opts = SimpleNamespace(session_close_transcript_timeout=2.0)
        self.input = SimpleNamespace(audio=object(), video=None)
        self.output = SimpleNamespace(audio=None)
        self.closes: list[Any] = []
        self.on("close", self.closes.append)
        self._closer = SessionCloser(
            self, close_event=SimpleNamespace, forced_drain_timeout=allowance
        )
        self.activity = self._activity = Activity(self)
        self.after: list[Behave] = []

    async def aclose(self) -> None:
        """Close it, as users do."""
        await self._aclose_impl(reason="asked")

    def shutdown(self, *, drain: bool = True) -> None:
        """Close it in the background, as users do."""
        self._closer.request(reason="asked", drain=drain)

    async def _aclose_impl(self, *, reason: Any, drain: bool = False, error: Any = None) -> None:
        await self._closer.run(self._body, reason=reason, drain=drain, error=error)

    async def _body(self, *, reason: Any, drain: bool, error: Any) -> None:
        async with self._closer.hold(self._lock, "the session"):
            if not self._started:
                return
            await self._closer.tear_down(self._tear_down())
            self._started = False
            self._closer.emit_close(SimpleNamespace(reason=reason, error=error))
            for number, behave in enumerate(self.after):
                await self._closer.step(f"part {number}", behave())

    async def _tear_down(self) -> None:
        await self._closer.attempt("draining", self.activity.drain())
        await self._closer.attempt("closing", self.activity.aclose())
        self._activity = None


async def took(waiting: Coroutine[Any, Any, Any] | asyncio.Future[Any]) -> float:
    """Seconds that it takes."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await waiting
    return loop.time() - began
