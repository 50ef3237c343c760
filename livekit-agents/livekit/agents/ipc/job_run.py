"""One job: its context, the user's entrypoint, and the wait for a reason to end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Token
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._exceptions import _ClosedDuringStart
from ..log import logger
from ..utils.aio import TaskScope
from .job_end import EndCause, JobEnd
from .supervision import JobEndBudgets

if TYPE_CHECKING:
    from ..job import JobContext, JobProcess, RunningJobInfo

__all__ = ["JobFunctions", "JobRun"]

_CONNECT_WARNING = 10.0
"""Seconds after which a job that has not joined its room is worth a warning."""

_IDLE_GRACE = 60.0
"""Seconds that a job may go on whose entrypoint returned and left nothing behind."""


@dataclass(frozen=True)
class JobFunctions:
    """The user's functions. They cross to the process by name, so they must be importable."""

    initialize_process: Callable[[JobProcess], Any] | None
    job_entrypoint: Callable[[JobContext], Awaitable[Any]]
    session_end: Callable[[JobContext], Awaitable[Any]] | None = None
    simulation_end: Callable[..., Any] | None = None


class JobRun:
    """Runs one job from its start to its last callback."""

    def __init__(
        self,
        info: RunningJobInfo,
        *,
        proc: JobProcess,
        functions: JobFunctions,
        budgets: JobEndBudgets,
        inference_executor: Any,
        announce: Callable[[str], None],
        failed: Callable[[str], None],
        tell: Callable[[], Awaitable[None]],
    ) -> None:
        """Prepare; `run` does it. See `JobEnd` for `announce` and `tell`.

        Args:
            failed: Called with the error when the entrypoint raises.
        """
        self._info = info
        self._proc = proc
        self._functions = functions
        self._budgets = budgets
        self._inference = inference_executor
        self._announce = announce
        self._failed = failed
        self._tell = tell
        self._cause: asyncio.Future[EndCause] = asyncio.get_running_loop().create_future()
        self._scope = TaskScope(f"job {info.job.id}")
        self._end: JobEnd | None = None

    def end(self, cause: EndCause) -> None:
        """Give a reason to end. The first counts; the worker can make the end hurry."""
        if not self._cause.done():
            self._cause.set_result(cause)
        elif cause.by_worker and self._end is not None:
            self._end.hurry()

    @property
    def ending(self) -> bool:
        """Whether there is a reason to end."""
        return self._cause.done()

    async def run(self) -> None:
        """Run the job. Returns when it is over, and everything bounded."""
        from .. import job as job_module
        from ..utils import http_context

        http_context._new_session_ctx()
        ctx = self._make_context()
        if not self._info.fake_job and ctx._observability_url is not None:
            from ..telemetry import cloud

            ctx._telemetry_state = cloud.begin_job(ctx)
        token: Token[Any] = job_module._JobContextVar.set(ctx)
        log_filter = _JobLogFilter(ctx, per_context=self._shares_process())
        handlers = list(logging.getLogger().handlers)
        for handler in handlers:
            handler.addFilter(log_filter)
        try:
            await self._run_in_context(ctx)
        finally:
            for handler in handlers:
                handler.removeFilter(log_filter)
            await http_context._close_http_ctx()
            await self._scope.cancel(0.5)
            job_module._JobContextVar.reset(token)

    async def _run_in_context(self, ctx: JobContext) -> None:
        from .job_span import job_span

        with job_span(self._info) as span:
            entrypoint = self._scope.spawn(
                self._run_entrypoint(ctx), name="job_user_entrypoint", log_errors=False
            )
            entrypoint.add_done_callback(lambda task: self._entrypoint_ended(task, span))
            watch = self._scope.spawn(self._watch_idle(ctx, entrypoint), name="watch idle job")
            cause = await asyncio.shield(self._cause)
            watch.cancel()
            self._announce("entrypoint")
            logger.debug("shutting down job", extra={"reason": cause.reason})
            self._end = JobEnd(
                ctx,
                cause,
                entrypoint=entrypoint,
                budgets=self._budgets,
                on_session_end=self._functions.session_end,
                announce=self._announce,
                tell=self._tell,
            )
            await self._end.run()
        await self._end.finish()

    async def _run_entrypoint(self, ctx: JobContext) -> None:
        await self._functions.job_entrypoint(ctx)

    def _make_context(self) -> JobContext:
        from ..job import JobContext
        from .mock_room import create_mock_room

        if self._info.fake_job:
            room = create_mock_room()
        else:
            from livekit import rtc

            room = rtc.Room()
            room._info.name = self._info.job.room.name  # known before the room is joined
        room.on("disconnected", self._room_disconnected)
        ctx = JobContext(
            proc=self._proc,
            info=self._info,
            room=room,
            on_connect=lambda: None,
            on_shutdown=self._shutdown_by_user,
            inference_executor=self._inference,
        )
        ctx._simulation_end_fnc = self._functions.simulation_end
        return ctx

    def _shares_process(self) -> bool:
        from ..job import JobExecutorType

        return self._proc.executor_type is JobExecutorType.THREAD

    # -- reasons to end -------------------------------------------------------------------------------

    def _shutdown_by_user(self, reason: str) -> None:
        self.end(EndCause(reason or "user requested", user_initiated=True))

    def _room_disconnected(self, *_: Any) -> None:
        self.end(EndCause("room disconnected"))

    def _entrypoint_ended(self, task: asyncio.Task[None], span: Any) -> None:
        if task.cancelled():
            span.add_event("entrypoint_cancelled")
            if not self.ending:  # it cancelled itself: as good as returning
                logger.warning("the entrypoint was cancelled from inside")
            return
        error = task.exception()
        if error is None:
            span.add_event("entrypoint_returned")
            return
        if isinstance(error, _ClosedDuringStart):
            span.add_event(
                "entrypoint_ended", {"reason": "the session was closed during its start"}
            )
            logger.info("the session was closed while it started: the job ends")
            self.end(EndCause("session closed"))
            return
        logger.error("unhandled exception while running the job task", exc_info=error)
        self._failed(f"{type(error).__name__}: {error}")
        self.end(EndCause("job crashed", error=error))

    async def _watch_idle(self, ctx: JobContext, entrypoint: asyncio.Task[None]) -> None:
        """Say so when the job does not join its room; end it when it can't do anything any more."""
        if self._info.fake_job:
            return
        await asyncio.sleep(_CONNECT_WARNING)
        if not ctx._connected and not ctx._session_shutdown_registered:
            logger.warning(
                "The room connection was not established within 10 seconds after calling "
                "job_entry. Call ctx.connect(), start an AgentSession with room=ctx.room, or end "
                "the job with ctx.shutdown()"
            )
        while True:
            await asyncio.wait((entrypoint,))
            await asyncio.sleep(_IDLE_GRACE)
            if not ctx._connected and not ctx._connecting and not ctx._session_shutdown_registered:
                logger.warning(
                    "the entrypoint returned without joining the room, starting a session or "
                    "calling ctx.shutdown(): the job ends"
                )
                self.end(EndCause("the entrypoint left nothing to do"))
                return


class _JobLogFilter(logging.Filter):
    """Adds the job's fields to records; in a shared process only to those of the job itself."""

    def __init__(self, ctx: JobContext, *, per_context: bool) -> None:
        super().__init__()
        self._ctx = ctx
        self._per_context = per_context

    def filter(self, record: logging.LogRecord) -> bool:
        if self._per_context:
            from ..job import get_job_context

            if get_job_context(required=False) is not self._ctx:
                return True
        for key, value in self._ctx._log_fields.items():
            record.__dict__.setdefault(key, value)
        return True
