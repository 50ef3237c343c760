"""What the change puts into functions of the tree, as code that is linted and typed here.

The body of each function below is one expression or a few statements. `codemod.py` puts it at its
place, with the function's parameters replaced by what stood there: `awaited` by the expression
after `await`, `name` by a string.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from forced_close import SessionCloser, cut_off, had_connected, is_ending

__all__ = ["InActivity", "InSession", "in_job", "in_stream"]

if TYPE_CHECKING:  # these names are in the modules that the edits go into
    from livekit.agents import CloseEvent, CloseReason

    def _get_activity_task_info(task: asyncio.Task[Any]) -> Any: ...


class _Session(Protocol):
    _closer: SessionCloser


class _Activity(Protocol):
    _session: _Session
    _lock: asyncio.Lock
    _speech_tasks: list[asyncio.Task[Any]]

    def _live_speeches(self) -> list[Any]: ...


class InSession:
    """Put into methods of `AgentSession`."""

    _closer: SessionCloser
    _lock: asyncio.Lock

    def init(self, forced_drain_timeout: float) -> None:
        self._closer = SessionCloser(
            self, close_event=CloseEvent, forced_drain_timeout=forced_drain_timeout
        )

    def close_soon(self, reason: Any, drain: bool, error: Any) -> None:
        self._closer.request(reason=reason, drain=drain, error=error)

    def is_forced(self) -> bool:
        return self._closer.forced

    def close_for_error(self, error: Any) -> None:
        self._close_soon(reason=CloseReason.ERROR, error=error)

    def _close_soon(self, *, reason: Any, error: Any) -> None:
        """Stands for the method of this name in the tree."""
        self.close_soon(reason, False, error)

    async def run(self, body: Any, reason: Any, drain: bool, error: Any) -> None:
        await self._closer.run(body, reason=reason, drain=drain, error=error)

    async def hold(self) -> AsyncIterator[None]:
        async with self._closer.hold(self._lock, "the session"):
            yield

    async def tear_down(self, awaited: Awaitable[None]) -> None:
        await self._closer.tear_down(awaited)

    def emit(self, event: Any) -> None:
        self._closer.emit_close(event)

    def detach(self, side: Any, name: str) -> None:
        self._closer.detach(side, name)

    def commits(self, recognition: Any) -> bool:
        return self._closer.commits(recognition)

    async def attempt(self, name: str, awaited: Awaitable[None]) -> None:
        await self._closer.attempt(name, awaited)

    async def settle(self, awaited: Awaitable[Any]) -> None:
        await self._closer.settle(awaited)

    async def step(self, name: str, awaited: Awaitable[Any]) -> None:
        await self._closer.step(name, awaited)

    async def patient_step(self, name: str, awaited: Awaitable[Any]) -> None:
        await self._closer.step(
            name,
            awaited,
            patient=True,
        )

    async def long_step(self, name: str, awaited: Awaitable[Any]) -> None:
        await self._closer.step(
            name,
            awaited,
        )


class InActivity:
    """Put into methods of `AgentActivity`."""

    _session: _Session
    _lock: asyncio.Lock

    async def hold(self) -> AsyncIterator[None]:
        async with self._session._closer.hold(self._lock, "the activity"):
            yield

    async def attempt(self, name: str, awaited: Awaitable[None]) -> None:
        await self._session._closer.attempt(name, awaited)

    async def settle(self, awaited: Awaitable[Any]) -> None:
        await self._session._closer.settle(awaited)

    async def step(self, name: str, awaited: Awaitable[Any]) -> None:
        await self._session._closer.step(name, awaited)

    async def patient_step(self, name: str, awaited: Awaitable[Any]) -> None:
        await self._session._closer.step(
            name,
            awaited,
            patient=True,
        )

    async def long_step(self, name: str, awaited: Awaitable[Any]) -> None:
        await self._session._closer.step(
            name,
            awaited,
        )

    async def long_settle(self, awaited: Awaitable[Any]) -> None:
        await self._session._closer.settle(
            awaited,
        )

    async def drain_tools(self) -> None:
        await self._session._closer.drain_tools(self)

    async def sweep_tools(self) -> None:
        await self._session._closer.sweep_tools(self)

    async def end_hearing(self, recognition: Any) -> None:
        await self._session._closer.end_hearing(recognition)


class NewInActivity:
    """New methods of `AgentActivity`, put before its `aclose`."""

    def _live_speeches(self: _Activity) -> list[Any]:
        """The handles of all speech tasks."""
        infos = [_get_activity_task_info(task) for task in self._speech_tasks]
        return [info.speech_handle for info in infos if info is not None and info.speech_handle]

    def _cut_off(self: _Activity, spare: set[asyncio.Future[Any]]) -> None:
        """End scheduling, speech tasks and running tools, without the lock. Idempotent."""
        cut_off(self, self._live_speeches(), spare)


async def in_stream(
    self: Any, e: BaseException, last_start_time: float, reset: Callable[[], None]
) -> None:
    """Put into `RecognizeStream._main_task`, where it caught an error."""
    if is_ending(self, e):
        return

    if had_connected(
        e,
        lasted=time.time() - last_start_time,
        timeout=self._conn_options.timeout,
    ):
        reset()


async def in_job(session: _Session) -> None:
    """Put where the job gives up waiting for the session's close."""
    await session._closer.force()
