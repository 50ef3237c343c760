"""`RunContext`: what a function tool may know of, and ask from, the conversation it runs in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._context import _NON_BLOCKING

if TYPE_CHECKING:
    from ..llm import FunctionCall, FunctionCallOutput
    from .agent_activity import AgentActivity
    from .agent_session import AgentSession
    from .fillers import Filler
    from .run_result import RunResult
    from .running_tool import RunningTool
    from .speech_handle import SpeechHandle
    from .tool_options import UpdatePromptArgs

Userdata_T = TypeVar("Userdata_T")


class RunContext(Generic[Userdata_T]):
    """Given to a function tool that has a parameter annotated with it.

    Kept after its tool has ended it only records.
    """

    def __init__(
        self,
        *,
        session: AgentSession[Userdata_T],
        speech_handle: SpeechHandle,
        function_call: FunctionCall,
        activity: AgentActivity | None = None,
    ) -> None:
        """Made by the framework for each call; tests of a tool may make their own.

        Args:
            session: The session the tool runs in.
            speech_handle: The speech whose reply called it.
            function_call: The call, as the model made it.
            activity: The activity of the agent that it belongs to.
        """
        self._session = session
        self._speech_handle = speech_handle
        self._function_call = function_call
        self._activity = activity
        self._initial_step_idx = speech_handle.num_steps - 1
        self._running: RunningTool | None = None
        self._run: RunResult[Any] | None = getattr(session, "_global_run_state", None)
        self._updates: list[tuple[FunctionCall, FunctionCallOutput]] = []
        self._fillers: list[Filler] = []

    @property
    def session(self) -> AgentSession[Userdata_T]:
        """The session the tool runs in."""
        return self._session

    @property
    def speech_handle(self) -> SpeechHandle:
        """The speech whose reply called the tool."""
        return self._speech_handle

    @property
    def function_call(self) -> FunctionCall:
        """The call, as the model made it."""
        return self._function_call

    @property
    def userdata(self) -> Userdata_T:
        """The session's userdata. Raises ValueError when unset."""
        return self._session.userdata

    def disallow_interruptions(self) -> None:
        """From here on the speech can't be interrupted: for tools that change the world.

        Raises:
            RuntimeError: If the speech is interrupted already.
        """
        self._speech_handle.allow_interruptions = False
        if self._activity is not None:
            self._activity.barge_in.release(self._speech_handle)

    async def wait_for_playout(self) -> None:
        """Wait until what was said before this tool was called has been played."""
        await self._speech_handle._wait_for_generation(self._initial_step_idx)

    async def update(
        self,
        message: Any,
        *,
        template: str | Callable[[UpdatePromptArgs], str] | None = None,
        silent: bool = False,
    ) -> None:
        """Report progress. The first report lets the conversation go on while the tool runs.

        Args:
            message: What to tell; a str is rendered through the template.
            template: `str.format` template or callable; the executor's default otherwise.
            silent: Tell the model, but don't make it speak.

        Outside of a session, and once the tool has ended, the report is only recorded.
        """
        if self._running is None:
            self._record(message, template)
            return
        for filler in self._fillers:
            filler.restart_dwell()
        await self._running.update(message, template=template, silent=silent)

    def _record(
        self, message: Any, template: str | Callable[[UpdatePromptArgs], str] | None = None
    ) -> None:
        """Keep a report that nobody waits for, as the pair it would be in a history."""
        from .generation import make_tool_output
        from .tool_options import UPDATE_TEMPLATE, render

        call = self._function_call
        call_id = f"{call.call_id}_update_{len(self._updates) + 1}"
        call = call.model_copy(update={"call_id": call_id, "id": f"{call.id}/{call_id}"})
        if isinstance(message, str):
            message = render(
                template if template is not None else UPDATE_TEMPLATE,
                function_name=call.name,
                call_id=self._function_call.call_id,
                message=message,
            )
        output = make_tool_output(fnc_call=call, output=message, exception=None).fnc_call_out
        if output is not None:
            self._updates.append((call, output))

    @asynccontextmanager
    async def with_filler(
        self,
        source: str | Callable[[int], Any],
        *,
        delay: float = 0,
        interval: float | None = None,
        max_steps: int | None = None,
    ) -> AsyncIterator[None]:
        """Say something while the block runs, if the conversation falls silent.

        Args:
            source: What to say; a callable gets the number of fillers so far and may return a
                `SpeechHandle`, a str, or None for nothing this time.
            delay: Seconds of silence before a filler.
            interval: Seconds from one filler to the next; None for at most one.
            max_steps: How many fillers at most.

        Raises:
            ValueError: If `delay` or `interval` is negative.
        """
        from .fillers import Filler

        filler = Filler(self, source, delay=delay, interval=interval, max_steps=max_steps)
        async with filler:
            yield

    @asynccontextmanager
    async def foreground(self) -> AsyncIterator[AgentActivity]:
        """Have the floor: waits until the conversation is idle, and keeps it so for the block.

        Meant for what needs the user's attention: an inline `AgentTask`, `say`, `generate_reply`.
        Deferred replies, fillers and other tools that want the floor wait until the block ends.

        Raises:
            ActivityClosedError: When the session is closing, also while it waits.
        """
        run = self._run
        current = run is not None and run is self._session._global_run_state
        guard = run._guard() if run is not None and current and not run.done() else None
        try:
            if self._running is not None:
                await self._running.wait_for_own_reply()
            activity = await self._wait_for_idle()
            async with self._session._idle.hold(activity):
                yield activity
        finally:
            if guard is not None and not guard.done():
                guard.set_result(None)

    async def _wait_for_idle(self) -> AgentActivity:
        """Wait for the tool's own agent; for whichever is on duty if the tool outlives it."""
        running, activity = self._running, self._activity
        if running is None or activity is None or running.executor.outlives_activities:
            return await self._session.wait_for_idle()
        await activity.wait_for_idle()
        return activity


def mark_non_blocking(call: FunctionCall) -> None:
    """The turn no longer waits for this call."""
    call.extra = {**call.extra, _NON_BLOCKING: True}
