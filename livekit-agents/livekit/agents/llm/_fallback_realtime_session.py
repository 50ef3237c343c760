"""One conversation that moves from one realtime model to another when the first one fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

from livekit import rtc

from .._streams import report_survivors
from ..log import logger
from ..types import NOT_GIVEN, NotGivenOr
from ..utils import is_given
from ..utils.aio import TaskScope, wait_until
from ._realtime_guard import RealtimeSessionGuard
from .realtime import (
    EventTypes,
    GenerationCreatedEvent,
    RealtimeCapabilities,
    RealtimeModelError,
    RealtimeSession,
    RealtimeSessionReconnectedEvent,
)

if TYPE_CHECKING:
    from ..voice.agent_session import AgentSession
    from .chat_context import ChatContext
    from .realtime_fallback_adapter import RealtimeModelFallbackAdapter
    from .tool_context import Tool, ToolChoice, ToolContext

_INTERRUPT_TIMEOUT = 2.0
"""Seconds for the speech that the failure cut off to settle."""

_START_TIMEOUT = 10.0
"""Seconds for a model to take over the conversation."""

_CLOSE_TIMEOUT = 5.0
"""Seconds for a session to close when nobody asks for less."""

_KILL = 0.25
"""Seconds for a cancelled task to react."""

_HANDLED_HERE = ("error", "generation_created")
_PASSED_ON = tuple(name for name in get_args(EventTypes) if name not in _HANDLED_HERE)


class _Child:
    """A session of one of the models, wired to the conversation."""

    def __init__(
        self,
        index: int,
        session: RealtimeSession[Any],
        emit: Callable[..., None],
        on_error: Callable[[_Child, RealtimeModelError], None],
    ) -> None:
        self.index = index
        self.session = session
        self.guard = RealtimeSessionGuard(session)
        self.failed: asyncio.Future[RealtimeModelError] = asyncio.get_running_loop().create_future()
        self._emit = emit
        self._handlers: dict[str, Callable[..., None]] = {}
        for name in _PASSED_ON:
            self.pass_on(name)
        self._bind("error", lambda error: on_error(self, error))
        self._bind("generation_created", self._on_generation)

    def pass_on(self, event: str) -> None:
        """Emit an event of the session as one of the conversation."""
        if event not in self._handlers:
            self._bind(event, lambda *args: self._emit(event, *args))

    def unbind(self, *, keep: str = "") -> None:
        """Listen no more, except to one event."""
        for event, handler in list(self._handlers.items()):
            if event != keep:
                self.session.off(event, handler)
                del self._handlers[event]

    def _bind(self, event: str, handler: Callable[..., None]) -> None:
        self._handlers[event] = handler
        self.session.on(event, handler)

    def _on_generation(self, ev: GenerationCreatedEvent) -> None:
        self._emit("generation_created", self.guard.generation(ev))


class _FallbackRealtimeSession(RealtimeSession[str]):
    """Looks like one session, whichever model serves.

    While it changes models, frames are dropped and changes of the chat context ignored: the new
    model gets the agent's chat context anyway.
    """

    def __init__(
        self, adapter: RealtimeModelFallbackAdapter, *, turn_detection_disabled: bool
    ) -> None:
        super().__init__(adapter)
        self._adapter = adapter
        self._agent_session: AgentSession[Any] | None = None
        """The session that speaks with it; set by the session itself."""
        self._turn_detection_disabled = turn_detection_disabled
        self._instructions: NotGivenOr[str] = NOT_GIVEN
        self._tool_list: NotGivenOr[list[Tool]] = NOT_GIVEN
        self._tool_choice: NotGivenOr[ToolChoice | None] = NOT_GIVEN
        self._extra_events: set[str] = set()
        self._swap: asyncio.Task[None] | None = None
        self._scope = TaskScope(f"{adapter.label} (changing models)")
        self._retiring = TaskScope(f"{adapter.label} (closing sessions)")
        self._closing: asyncio.Task[None] | None = None
        self._close_scope = TaskScope(f"{adapter.label} (session)")
        self._child = self._start_first()

    # -- the model that serves

    @property
    def capabilities(self) -> RealtimeCapabilities:
        """What the model that serves can do."""
        return self._child.session.capabilities

    @property
    def chat_ctx(self) -> ChatContext:
        """The conversation as the serving model's server knows it."""
        return self._child.session.chat_ctx

    @property
    def tools(self) -> ToolContext:
        """Tools the model may call."""
        return self._child.session.tools

    async def update_instructions(self, instructions: str) -> None:
        """Replace the instructions."""
        self._instructions = instructions
        await self._child.session.update_instructions(instructions)

    async def update_chat_ctx(self, chat_ctx: ChatContext) -> None:
        """Make the server's conversation equal to this one. Ignored while changing models."""
        if not self._swapping:
            await self._child.session.update_chat_ctx(chat_ctx)

    async def update_tools(self, tools: list[Tool]) -> None:
        """Replace the tools."""
        self._tool_list = list(tools)
        await self._child.session.update_tools(tools)

    def update_options(self, *, tool_choice: NotGivenOr[ToolChoice | None] = NOT_GIVEN) -> None:
        """Change how the model answers."""
        if is_given(tool_choice):
            self._tool_choice = tool_choice
        self._child.session.update_options(tool_choice=tool_choice)

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """Let the model hear a frame. Dropped while changing models."""
        if not self._swapping:
            self._child.session.push_audio(frame)

    def push_video(self, frame: rtc.VideoFrame) -> None:
        """Let the model see a frame. Dropped while changing models."""
        if not self._swapping:
            self._child.session.push_video(frame)

    def generate_reply(
        self,
        *,
        instructions: NotGivenOr[str] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        tools: NotGivenOr[list[Tool]] = NOT_GIVEN,
    ) -> asyncio.Future[GenerationCreatedEvent]:
        """Ask for a response."""
        return self._child.guard.generate_reply(
            instructions=instructions, tool_choice=tool_choice, tools=tools
        )

    def say(self, text: str | AsyncIterable[str]) -> asyncio.Future[GenerationCreatedEvent]:
        """Speak a text verbatim, if the serving model can."""
        return self._child.guard.reply(self._child.session.say(text))

    def commit_audio(self) -> None:
        """The user's turn is over."""
        self._child.session.commit_audio()

    def clear_audio(self) -> None:
        """Forget what was heard since the last turn."""
        self._child.session.clear_audio()

    def interrupt(self) -> None:
        """Stop the response under way."""
        self._child.session.interrupt()

    def truncate(
        self,
        *,
        message_id: str,
        modalities: list[Literal["text", "audio"]],
        audio_end_ms: int,
        audio_transcript: NotGivenOr[str] = NOT_GIVEN,
    ) -> None:
        """Tell the server how much of a message was heard."""
        self._child.session.truncate(
            message_id=message_id,
            modalities=modalities,
            audio_end_ms=audio_end_ms,
            audio_transcript=audio_transcript,
        )

    def start_user_activity(self) -> None:
        """The user is active in another way than speaking."""
        self._child.session.start_user_activity()

    def on(self, event: str, callback: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """Listen to an event, also one that only some of the models emit."""
        if event not in get_args(EventTypes) and event not in self._extra_events:
            self._extra_events.add(event)
            self._child.pass_on(event)
        return super().on(event, callback)

    async def aclose(self) -> None:
        """End the conversation, within 5 s, also in the middle of a change. Idempotent."""
        if self._closing is None:
            self._adapter._forget(self)
            self._closing = self._close_scope.spawn(self._close(), name="closing the session")
        # Cancelling who waits must not cut the close short.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._scope.cancel_soon()
        self._retire(self._child)
        try:
            await self._retiring.join(_CLOSE_TIMEOUT)
        finally:
            report_survivors(
                [*await self._scope.cancel(_KILL), *await self._retiring.cancel(_KILL)]
            )
            self._child.unbind()

    # -- changing models

    @property
    def _swapping(self) -> bool:
        return self._swap is not None and not self._swap.done()

    def _start_first(self) -> _Child:
        """A session of the first model that can start one."""
        last = len(self._adapter._models) - 1
        for index in range(last):
            try:
                return self._start(index)
            except Exception:
                logger.exception("%s: no session", self._adapter._models[index].label)
                self._adapter._failed(index)
        return self._start(last)

    def _start(self, index: int) -> _Child:
        session = self._adapter._models[index].session(
            turn_detection_disabled=self._turn_detection_disabled
        )
        child = _Child(index, session, self.emit, self._on_child_error)
        for event in self._extra_events:
            child.pass_on(event)
        self._adapter._serving = self._adapter._models[index]
        return child

    def _on_child_error(self, child: _Child, error: RealtimeModelError) -> None:
        if self._closing is not None or child is not self._child:
            return
        if error.recoverable:
            self.emit("error", error)
            return
        self._adapter._failed(child.index)
        if self._swapping:
            if not child.failed.done():
                child.failed.set_result(error)  # it failed while it was taking over
            return
        target = self._adapter._next_available(child.index)
        self.emit("error", error.model_copy(update={"recoverable": target is not None}))
        if target is not None and self._closing is None:
            self._begin_swap(target, error)

    async def _restart(self, *, switch_model: bool) -> None:
        """Go on in a new session, of the same model or of the next one."""
        while self._swapping and self._swap is not None:
            await wait_until(self._swap, None)
        if self._closing is not None:
            return
        index = self._child.index
        if switch_model:
            other = self._adapter._next_available(index)
            index = index if other is None else other
        await wait_until(self._begin_swap(index, None), None)

    def _begin_swap(self, target: int, error: RealtimeModelError | None) -> asyncio.Task[None]:
        replying = self._is_replying()
        swap = self._swap = self._scope.spawn(
            self._change_model(target, error, replying=replying), name="changing the realtime model"
        )
        return swap

    def _is_replying(self) -> bool:
        return self._agent_session is not None and self._agent_session.current_speech is not None

    async def _change_model(
        self, target: int | None, error: RealtimeModelError | None, *, replying: bool
    ) -> None:
        await self._interrupt()
        chat_ctx = self._current_chat_ctx()
        tried: set[int] = set()
        while target is not None and target not in tried:
            tried.add(target)
            logger.info("going on with %s", self._adapter._models[target].label)
            self._retire(self._child)
            failure = await self._take_over(target, chat_ctx)
            if failure is None:
                self._swap = None
                self.emit("session_reconnected", RealtimeSessionReconnectedEvent())
                self._regenerate(replying=replying)
                return
            logger.warning(
                "%s could not take over: %s", self._adapter._models[target].label, failure
            )
            error = RealtimeModelError(
                timestamp=time.time(),
                label=self._adapter._models[target].label,
                error=failure,
                recoverable=False,
            )
            self._adapter._failed(target)
            target = self._adapter._next_available(target)
        self._swap = None
        if error is not None:
            self.emit("error", error.model_copy(update={"recoverable": False}))

    async def _take_over(self, index: int, chat_ctx: ChatContext) -> Exception | None:
        """Start a session of a model and tell it the conversation. Returns why that failed."""
        try:
            self._child = child = self._start(index)
            update = self._scope.spawn(
                child.session._update_session(
                    instructions=self._instructions, chat_ctx=chat_ctx, tools=self._tool_list
                ),
                log_errors=False,
            )
            waiting: list[asyncio.Future[Any]] = [update, child.failed]
            await asyncio.wait(waiting, timeout=_START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            if child.failed.done():
                update.cancel()
                return child.failed.result().error
            if not update.done():
                update.cancel()
                return TimeoutError(f"not ready within {_START_TIMEOUT:g} s")
            if update.cancelled():
                return RuntimeError("it cancelled its own start")
            update.result()
            if is_given(self._tool_choice):
                child.session.update_options(tool_choice=self._tool_choice)
        except Exception as error:
            return error
        return None

    async def _interrupt(self) -> None:
        """End the speech that was cut off, so that what was heard of it is kept."""
        if self._agent_session is None:
            return
        try:
            settled = self._agent_session.interrupt(force=True)
            await wait_until(settled, _INTERRUPT_TIMEOUT)
        except Exception:
            logger.exception("failed to interrupt the speech that the failure cut off")

    def _current_chat_ctx(self) -> ChatContext:
        if self._agent_session is not None:
            try:
                return self._agent_session.current_agent.chat_ctx.copy(
                    exclude_instructions=True, exclude_handoff=True, exclude_config_update=True
                )
            except RuntimeError:  # no agent is running
                pass
        return self._child.session.chat_ctx.copy()

    def _retire(self, child: _Child) -> None:
        """Close a session in the background; its last metrics are still passed on."""
        child.unbind(keep="metrics_collected")
        self._retiring.spawn(child.guard.aclose(_CLOSE_TIMEOUT), name="closing a session")

    def _regenerate(self, *, replying: bool) -> None:
        if not replying or not self._adapter._regenerate_on_swap or self._agent_session is None:
            return
        try:
            self._agent_session.generate_reply()
        except Exception:
            logger.exception("failed to ask for the reply that the failure cut off")
