"""A tool with which the model ends the call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ...job import get_job_context
from ...llm import RealtimeModel, Toolset, function_tool
from ...llm.tool_context import ToolFlag
from ...log import logger
from ...utils.aio import TaskScope, wait_until
from ...voice.run_context import RunContext

if TYPE_CHECKING:
    from ...job import JobContext
    from ...voice import AgentSession, CloseEvent, SpeechCreatedEvent, SpeechHandle

END_CALL_DESCRIPTION = """\
Ends the call at once, for good.

Use it when the user clearly wants to go: they say goodbye, thank you and nothing else, or ask to
hang up; or when the task is done and they have confirmed that they need nothing more.

Don't use it while the user pauses, thinks, asks to hold, or may have another question; and not
because a task failed or a question was unclear: ask instead. Say nothing about using it.
"""

REPLY_BEGINS_WITHIN = 5.0
"""Seconds in which a realtime model that answers tools by itself has to begin its goodbye."""

REPLY_ENDS_WITHIN = 60.0
"""Seconds a goodbye may take; then the session closes whatever is being said."""


class EndCallTool(Toolset):
    """One tool, `end_call`: the agent says goodbye, then the session, and with it the job, ends."""

    def __init__(
        self,
        *,
        extra_description: str = "",
        delete_room: bool = True,
        end_instructions: str | None = "say goodbye to the user",
        ignore_on_enter: bool = False,
        on_tool_called: Callable[[Toolset.ToolCalledEvent], Awaitable[None]] | None = None,
        on_tool_completed: Callable[[Toolset.ToolCompletedEvent], Awaitable[None]] | None = None,
    ) -> None:
        """Create the tool.

        Args:
            extra_description: Added to what the model reads about when to end a call.
            delete_room: Delete the room when the job ends, so that the caller is hung up on.
            end_instructions: What the model is to do last; None to end without another word.
            ignore_on_enter: Don't offer it while the agent's `on_enter` generates its reply.
            on_tool_called: Awaited before anything else.
            on_tool_completed: Awaited at the end; may replace `output`, which the tool returns.
        """
        tool = function_tool(
            self._end_call,
            name="end_call",
            description=f"{END_CALL_DESCRIPTION}\n{extra_description}".strip(),
            flags=ToolFlag.IGNORE_ON_ENTER if ignore_on_enter else ToolFlag.NONE,
        )
        super().__init__(id="end_call", tools=[tool])
        self._delete_room = delete_room
        self._end_instructions = end_instructions
        self._on_tool_called = on_tool_called
        self._on_tool_completed = on_tool_completed
        self._scope: TaskScope | None = None

    async def _end_call(self, ctx: RunContext[Any]) -> Any:
        if self._on_tool_called is not None:
            await self._on_tool_called(Toolset.ToolCalledEvent(ctx=ctx, arguments={}))
        completed = Toolset.ToolCompletedEvent(ctx=ctx, output=self._end_instructions)
        if self._on_tool_completed is not None:
            await self._on_tool_completed(completed)
        if self._scope is None:  # once per session, however often the model calls it
            self._scope = TaskScope("end call")
            self._begin_to_end(ctx, goodbye=completed.output is not None)
        return completed.output

    def _begin_to_end(self, ctx: RunContext[Any], *, goodbye: bool) -> None:
        session = ctx.session
        job = get_job_context(required=False)
        session.once("close", partial(self._on_close, job))
        activity = ctx._activity
        model = activity.llm if activity is not None else None
        by_itself = (
            isinstance(model, RealtimeModel)
            and model.capabilities.auto_tool_reply_generation
            and goodbye
        )
        speech = ctx.speech_handle
        assert self._scope is not None
        if by_itself:
            self._scope.spawn(self._after_goodbye(session, speech), name="goodbye")
        else:
            speech.add_done_callback(lambda _: session.shutdown())

    async def _after_goodbye(self, session: AgentSession[Any], speech: SpeechHandle) -> None:
        """Wait for the speech that the model makes of the tool's result, then close."""
        reply: asyncio.Future[SpeechHandle] = asyncio.get_running_loop().create_future()

        def on_speech(event: SpeechCreatedEvent) -> None:
            if event.speech_handle is not speech and not reply.done():
                reply.set_result(event.speech_handle)

        session.on("speech_created", on_speech)
        try:
            await wait_until(speech._done_fut, REPLY_ENDS_WITHIN)
            await wait_until(reply, REPLY_BEGINS_WITHIN)
            if reply.done() and await wait_until(reply.result()._done_fut, REPLY_ENDS_WITHIN):
                logger.warning("the goodbye does not end, the session is closed nevertheless")
                session.shutdown(drain=False)
                return
        finally:
            session.off("speech_created", on_speech)
        session.shutdown()

    def _on_close(self, job: JobContext | None, event: CloseEvent) -> None:
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.cancel_soon()
        if job is None:
            return
        if self._delete_room:

            async def delete_room() -> None:
                await job.delete_room()

            job.add_shutdown_callback(delete_room)
        job.shutdown(reason=event.reason.value)
