"""Says something while a tool runs, if the conversation falls silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from ..log import logger
from ..utils.aio import TaskScope
from .speech_handle import SpeechHandle

if TYPE_CHECKING:
    from .run_context import RunContext


class Filler:
    """Plays fillers until the block ends or the speech it belongs to is interrupted."""

    def __init__(
        self,
        ctx: RunContext[Any],
        source: str | Callable[[int], Any],
        *,
        delay: float,
        interval: float | None,
        max_steps: int | None,
    ) -> None:
        if delay < 0 or (interval is not None and interval < 0):
            raise ValueError(
                f"delay and interval are seconds >= 0, got delay={delay}, interval={interval}"
            )
        self._ctx = ctx
        self._source = source
        self._delay = delay
        self._interval = interval
        self._max_steps = max_steps
        self._scope = TaskScope("filler")
        self._restart = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._ctx._fillers.append(self)
        self._scope.spawn(self._run(), name="filler")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._ctx._fillers.remove(self)
        await self._scope.cancel(0.25)

    def restart_dwell(self) -> None:
        """Progress was reported: the silence is measured anew."""
        self._restart.set()

    async def _run(self) -> None:
        from .agent_activity import ActivityClosedError

        step = 0
        handle = self._ctx.speech_handle
        try:
            while not handle.interrupted and (self._max_steps is None or step < self._max_steps):
                if not await self._silence() or handle.interrupted:
                    return
                if await self._play(step):
                    step += 1
                if self._interval is None:
                    return
                await asyncio.sleep(self._interval)
        except ActivityClosedError:
            return  # also while it waits: the close ends the silence, too
        except Exception:
            logger.exception("a filler failed, no more are played")

    async def _silence(self) -> bool:
        """Return after `delay` seconds in which nobody spoke and no progress was reported.

        Returns:
            False when there will be none: the speech was interrupted, or the session is closing.
        """
        interrupted = self._ctx.speech_handle._interrupt_fut
        closing = self._ctx.session._closing_fut
        while not (interrupted.done() or closing.done()):
            await self._ctx._wait_for_idle()
            self._restart.clear()
            broken = self._scope.spawn(self._noise(), name="filler: silence")
            await asyncio.wait(
                (broken, interrupted, closing),
                timeout=self._delay,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not broken.done():
                broken.cancel()
                return not (interrupted.done() or closing.done())
        return False

    async def _noise(self) -> None:
        """Return when somebody speaks or thinks, or progress is reported."""
        session = self._ctx.session

        def on_state(_: Any) -> None:
            if session.user_state == "speaking" or session.agent_state in ("speaking", "thinking"):
                self._restart.set()

        session.on("user_state_changed", on_state)
        session.on("agent_state_changed", on_state)
        try:
            await self._restart.wait()
        finally:
            session.off("user_state_changed", on_state)
            session.off("agent_state_changed", on_state)

    async def _play(self, step: int) -> bool:
        produced = self._source(step) if callable(self._source) else self._source
        if isinstance(produced, str):
            produced = self._ctx.session.say(produced)
        if isinstance(produced, SpeechHandle):
            await asyncio.wait((produced._done_fut,))
            return True
        return False
