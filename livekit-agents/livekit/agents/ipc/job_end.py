"""How a job ends, from top to bottom on one page.

`JobEnd.run` is the whole story: sessions close, the end is reported, the room is left, callbacks
run. Every step runs whatever became of the ones before; every step has a limit; a step that ignores
its limit is named in the log and left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..log import logger
from ..telemetry import trace_types
from ..telemetry.traces import tracer
from ..utils.aio import TaskScope, abandoned, wait_until
from ..utils.aio.task_scope import abandon
from .end_steps import EndSteps, describe_survivors
from .supervision import JobEndBudgets

if TYPE_CHECKING:
    from ..job import JobContext

__all__ = ["WORKER_LOST", "EndCause", "JobEnd", "SessionInJob"]

WORKER_LOST = JobEndBudgets(
    entrypoint=0.5, session=15.0, session_end=5.0, report=0.0, callbacks=5.0, telemetry=2.0
)
"""When the worker is gone nobody waits for the job, and nobody would end it either."""


class SessionInJob(Protocol):
    """A session that ends with its job at the latest."""

    async def _close_with_job(self) -> None:
        """Close, and return when it is closed."""

    def _cut_close_short(self) -> None:
        """The close takes too long: cut off whatever has not settled."""

    def _close_held_by(self) -> str | None:
        """What the close still waits for, in words; None when it waits for nothing."""

    def _models(self) -> list[Any]:
        """The models it has used and does not close itself."""


@dataclass(frozen=True)
class EndCause:
    """Why a job ends. The first cause counts."""

    reason: str
    user_initiated: bool = False
    by_worker: bool = False
    """The worker asked for it, and waits."""
    worker_lost: bool = False
    """The worker is gone."""
    error: BaseException | None = None
    """What the entrypoint raised."""


class JobEnd:
    """The end of one job. Runs inside the job's context."""

    def __init__(
        self,
        ctx: JobContext,
        cause: EndCause,
        *,
        entrypoint: asyncio.Task[Any],
        budgets: JobEndBudgets,
        on_session_end: Callable[[JobContext], Awaitable[Any]] | None,
        announce: Callable[[str], None],
        tell: Callable[[], Awaitable[None]],
    ) -> None:
        """Prepare; `run` does it.

        Args:
            ctx: The job.
            cause: Why it ends.
            entrypoint: The task that runs the user's entrypoint.
            budgets: Limits of the steps.
            on_session_end: The user's hook.
            announce: Called with the name of each step as it begins.
            tell: Reports the end to the worker, and returns when the server knows.
        """
        if cause.worker_lost:
            budgets = WORKER_LOST
        self._ctx = ctx
        self._cause = cause
        self._entrypoint = entrypoint
        self._budgets = budgets
        self._on_session_end = on_session_end
        self._tell = tell
        self._steps = EndSteps(announce, grace=budgets.grace)
        self._scope = TaskScope("end of the job")
        self._hurry = asyncio.Event()
        if cause.by_worker:
            self._hurry.set()

    def hurry(self) -> None:
        """The worker waits for the end now: callbacks get the time they have in that case."""
        self._hurry.set()

    async def run(self) -> None:
        """End the job. Never raises because of a step."""
        run, budgets = self._steps.run, self._budgets
        with tracer.start_as_current_span(
            "job_shutdown",
            attributes={
                trace_types.ATTR_SHUTDOWN_REASON: self._cause.reason,
                trace_types.ATTR_SHUTDOWN_USER_INITIATED: self._cause.user_initiated,
            },
        ):
            await self._finish_entrypoint()
            await self._close_sessions()
            if self._on_session_end is not None:
                await run("on_session_end", self._call_session_end, budgets.session_end)
            if not self._cause.worker_lost:
                await run("session report", self._report, budgets.report)
            await run("telling the server", self._tell_worker, budgets.cleanup)
            await run("requests about the room", self._settle_requests, budgets.cleanup)
            await run("leaving the room", self._leave_room, budgets.disconnect)
            await self._run_callbacks()
        await run("closing models", self._close_models, budgets.models)

    async def finish(self) -> None:
        """After the job's last span has ended: send what waits to be sent, and clean up."""
        await self._steps.run("clean-up", self._clean_up, self._budgets.telemetry)
        for survivor in abandoned().values():
            logger.error(
                "task %s of %s ignored its cancellation and ends with the job, at:\n%s",
                survivor.name,
                survivor.owner,
                survivor.stack,
            )

    # -- before the server is told ------------------------------------------------------------------

    async def _finish_entrypoint(self) -> None:
        """The entrypoint, and those of participants, get a while to return by themselves."""
        self._steps.announce("entrypoint")
        grace = self._budgets.grace
        if await wait_until(self._entrypoint, self._budgets.entrypoint):
            logger.warning("entrypoint did not exit in time, cancelling")
            self._entrypoint.cancel()
            if await wait_until(self._entrypoint, grace):
                describe_survivors("entrypoint", [abandon(self._entrypoint, "job")])
        describe_survivors("participant entrypoints", await self._ctx._participants.cancel(grace))

    async def _close_sessions(self) -> None:
        """Close all sessions side by side. When their time is over the close is forced."""
        self._steps.announce("closing the session")
        sessions: list[SessionInJob] = list(self._ctx._session_shutdown_registered)
        scope = TaskScope("end of the job: closing the session")
        closing = [
            scope.spawn(self._close_session(session), name="close session") for session in sessions
        ]
        late = await wait_until(closing, self._budgets.session)
        if not late:
            return
        logger.warning(
            "the session did not close within %g s, its close is forced", self._budgets.session
        )
        for session in sessions:
            session._cut_close_short()
        if not await wait_until(late, self._budgets.session_forced):
            return
        for session in sessions:
            if holder := session._close_held_by():
                logger.error(
                    "the session can't be closed and is left behind; it is held by: %s", holder
                )
        await scope.cancel(0.0)

    async def _close_session(self, session: SessionInJob) -> None:
        primary = self._ctx._primary_agent_session
        await (primary.aclose() if session is primary else session._close_with_job())

    async def _call_session_end(self) -> None:
        assert self._on_session_end is not None
        with tracer.start_as_current_span("on_session_end"):
            await self._on_session_end(self._ctx)

    async def _report(self) -> None:
        session = self._ctx._primary_agent_session
        if session is not None:
            from .session_end import end_session_work

            with tracer.start_as_current_span("session_end_upload"):
                await end_session_work(self._ctx, session)

    async def _tell_worker(self) -> None:
        await self._tell()

    # -- leaving ------------------------------------------------------------------------------------

    async def _settle_requests(self) -> None:
        """What the framework does about the room before it is left: requests end, avatars go."""
        needing = [c for c in self._ctx._shutdown_callbacks if hasattr(c, "_needs_room")]
        scope = TaskScope("end of the job: what needs the room")
        tasks = [scope.spawn(self._call(callback), name=name_of(callback)) for callback in needing]
        try:
            await self._ctx._requests.settle(self._budgets.cleanup)
            await wait_until(tasks, self._budgets.cleanup)
        finally:
            scope.cancel_soon()

    async def _leave_room(self) -> None:
        """Disconnect; a connection that is still being made is left as soon as it stands."""
        with tracer.start_as_current_span("room_disconnect"):
            connecting = self._ctx._connecting
            if connecting is not None:
                await asyncio.wait((connecting,))
            await self._ctx.room.disconnect()

    async def _run_callbacks(self) -> None:
        """All callbacks start, side by side, and each has the whole time."""
        own = ("_of_framework", "_needs_room")
        callbacks = [
            c for c in self._ctx._shutdown_callbacks if not any(hasattr(c, mark) for mark in own)
        ]
        if not callbacks:
            return
        self._steps.announce("shutdown callbacks")
        scope = TaskScope("end of the job: shutdown callbacks")
        tasks = [
            scope.spawn(self._call(callback), name=name_of(callback)) for callback in callbacks
        ]
        limit = self._budgets.callbacks_asked if self._hurry.is_set() else self._budgets.callbacks
        hurry = self._scope.spawn(self._hurry.wait(), name="the worker waits")
        over = self._scope.spawn(scope.join(), name="callbacks have ended")
        first = (over,) if self._hurry.is_set() else (over, hurry)
        await asyncio.wait(first, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if not over.done() and limit > self._budgets.callbacks_asked and hurry.done():
            limit = self._budgets.callbacks_asked
            await wait_until(over, limit)
        hurry.cancel()
        over.cancel()
        for task in tasks:
            if not task.done():
                logger.warning(
                    "shutdown callback %s did not end within %g s, cancelling it",
                    task.get_name(),
                    limit,
                )
        describe_survivors("shutdown callback", await scope.cancel(self._budgets.grace))

    async def _call(self, callback: Callable[..., Any]) -> None:
        from ..job import callback_takes_reason

        arguments = (self._cause.reason,) if callback_takes_reason(callback) else ()
        with tracer.start_as_current_span(
            "shutdown_callback", attributes={trace_types.ATTR_CALLBACK_NAME: name_of(callback)}
        ):
            await callback(*arguments)

    # -- after it -----------------------------------------------------------------------------------

    async def _close_models(self) -> None:
        """The models that sessions used, side by side: nobody else will close them.

        Jobs in threads may share their models with other jobs.
        """
        from ..job import JobExecutorType

        if self._ctx.proc.executor_type is JobExecutorType.THREAD and not self._ctx.is_fake_job():
            return
        models: dict[int, Any] = {}
        for session in list(self._ctx._session_shutdown_registered):
            for model in session._models():
                models[id(model)] = model
        scope = TaskScope("end of the job: closing models")
        tasks = [
            scope.spawn(model.aclose(), name=f"close {name_of(model)}") for model in models.values()
        ]
        for task in await wait_until(tasks, self._budgets.models * 0.8):
            logger.warning("%s did not end in time", task)
        await scope.cancel(0.1)

    async def _clean_up(self) -> None:
        from .session_end import flush_telemetry

        requests = self._ctx._requests
        await requests.settle(min(1.0, self._budgets.cleanup))
        await requests.cancel(0.5)
        await flush_telemetry(self._ctx, self._budgets.telemetry * 0.8)
        self._ctx._clean_up()


def name_of(thing: Any) -> str:
    """What to call a callback or a model in the log."""
    for attribute in ("__qualname__", "__name__", "label"):
        name = getattr(thing, attribute, None)
        if isinstance(name, str):
            return name
    inner = getattr(thing, "func", None)  # of a partial
    return name_of(inner) if inner is not None else type(thing).__name__
