"""The wire between an activity and its session with a realtime model.

Everything that the voice side asks of the session goes through here, so that a plugin that raises,
never answers or never closes can't break a speech, a handoff or a close.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ..llm import ChatContext, GenerationCreatedEvent, RealtimeError
from ..llm._realtime_guard import RealtimeSessionGuard
from ..log import logger
from ..utils.aio import Survivor, TaskScope
from .generation import remove_instructions

if TYPE_CHECKING:
    from livekit import rtc

    from .._connections import Connections
    from ..llm import RealtimeCapabilities, RealtimeSession
    from .agent_session import AgentSession

__all__ = ["RealtimeLink"]


class RealtimeLink:
    """One open session with a realtime model. Outlives a handoff that can go on with it."""

    def __init__(
        self,
        session: RealtimeSession[Any],
        agent_session: AgentSession[Any],
        connections: Connections | None = None,
    ) -> None:
        """Hold an open session. Its owner closes it with `aclose` of the link.

        Args:
            session: What `RealtimeModel.session` returned.
            agent_session: Whom a session that changes models interrupts meanwhile.
            connections: Those that the session opens; what is left of them after the close is cut.
        """
        self.session = session
        self._connections = connections
        self.guard = RealtimeSessionGuard(session)
        self._scope = TaskScope(f"{session.realtime_model.label} (link)")
        self._context_lock = asyncio.Lock()
        self._handlers: dict[str, Callable[..., None]] = {}
        self._missed: list[tuple[str, tuple[Any, ...]]] = []
        self._deaf = False
        self._changes_models = hasattr(session, "_agent_session")
        if self._changes_models:
            self._tell_agent_session(agent_session)

    def _tell_agent_session(self, agent_session: AgentSession[Any] | None) -> None:
        session: Any = self.session
        session._agent_session = agent_session

    @property
    def capabilities(self) -> RealtimeCapabilities:
        """What can be done in this session."""
        return self.session.capabilities

    # -- listening ------------------------------------------------------------------------------

    def listen(self, handlers: dict[str, Callable[..., None]]) -> None:
        """Call the handlers for the events they are named after, instead of the ones so far."""
        self.mute()
        self._handlers = dict(handlers)
        for event, handler in self._handlers.items():
            self.session.on(event, handler)
        missed, self._missed = self._missed, []
        for event, args in missed:
            self._call(lambda handler=handlers[event], args=args: handler(*args))  # type: ignore[misc]

    def hold(self) -> None:
        """Who listened is going: keep what happens for who listens next. Responses are nobody's."""
        events = [event for event in self._handlers if event != "generation_created"]
        self.mute()
        for event in events:
            self._handlers[event] = lambda *args, event=event: self._missed.append((event, args))
            self.session.on(event, self._handlers[event])

    def mute(self, *, keep: str = "") -> None:
        """Listen no more, except to one event."""
        for event, handler in list(self._handlers.items()):
            if event != keep:
                self.session.off(event, handler)
                del self._handlers[event]

    # -- what the user is heard and seen doing ---------------------------------------------------

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """Let the model hear a frame. A failure is logged once, until it works again."""
        self._push(lambda: self.session.push_audio(frame))

    def push_video(self, frame: rtc.VideoFrame) -> None:
        """Let the model see a frame, as `push_audio`."""
        self._push(lambda: self.session.push_video(frame))

    def _push(self, push: Callable[[], None]) -> None:
        try:
            push()
            self._deaf = False
        except Exception:
            if not self._deaf:
                logger.exception("%s takes no frames", self.session.realtime_model.label)
            self._deaf = True

    def commit_audio(self) -> None:
        """The user's turn is over: what was heard is to be answered. Raises what the plugin does."""
        self.session.commit_audio()

    # -- requests without an answer -------------------------------------------------------------

    def interrupt(self) -> None:
        """Stop the response under way."""
        self._call(self.session.interrupt)

    def clear_audio(self) -> None:
        """Forget what was heard since the last turn."""
        self._call(self.session.clear_audio)

    def start_user_activity(self) -> None:
        """The user does something that may turn out to be a turn."""
        self._call(self.session.start_user_activity)

    def truncate(self, **heard: Any) -> None:
        """Tell the server how much of a message was heard. See `RealtimeSession.truncate`."""
        self._call(lambda: self.session.truncate(**heard))

    def set_tool_choice(self, tool_choice: Any) -> None:
        """Whether the model has to call tools, or must not; None for its default."""
        self._call(lambda: self.session.update_options(tool_choice=tool_choice))

    def _call(self, request: Callable[[], None]) -> None:
        try:
            request()
        except Exception:
            logger.exception("%s: a request failed", self.session.realtime_model.label)

    def drop_response(self, event: GenerationCreatedEvent) -> None:
        """Nobody wants the rest of a response: stop it on the server, and end its streams here.

        Args:
            event: A generation that went through the guard.
        """
        if not self.guard.ended(event):
            self.interrupt()
        self.guard.end(event)

    # -- requests with an answer ----------------------------------------------------------------

    async def change_context(self, edit: Callable[[ChatContext], None]) -> None:
        """Edit the conversation that the server knows. Changes are made one after another.

        Args:
            edit: Changes a copy in place.

        Raises:
            RealtimeError: It was not acknowledged in time. It may have been done nevertheless.
        """
        async with self._context_lock:
            chat_ctx = self.session.chat_ctx.copy()
            edit(chat_ctx)
            await self.guard.update(self.session.update_chat_ctx(chat_ctx))

    async def replace_context(self, chat_ctx: ChatContext) -> None:
        """Make the server's conversation equal to this one, the agent's instructions aside.

        Raises:
            RealtimeError: As `change_context`.
        """
        pushed = chat_ctx.copy()
        remove_instructions(pushed)
        async with self._context_lock:
            await self.guard.update(self.session.update_chat_ctx(pushed))

    def in_background(self, change: Coroutine[Any, Any, Any], what: str) -> asyncio.Task[None]:
        """Make a change that nothing depends on. A missing acknowledgement is only logged.

        Args:
            change: A coroutine of this class, or of the session.
            what: What is changed, for the log.

        Returns:
            A task that may be waited for. It fails if the change does for another reason.
        """
        return self._scope.spawn(self._tolerant(change, what), name=f"push {what}")

    async def _tolerant(self, change: Coroutine[Any, Any, Any], what: str) -> None:
        try:
            await change
        except RealtimeError as error:
            log = logger.debug if self.guard.closing else logger.warning
            log("the realtime model did not confirm %s: %s", what, error)

    # -- closing --------------------------------------------------------------------------------

    async def aclose(self, timeout: float) -> list[Survivor]:
        """Close the session within `timeout` seconds, whatever its code does. Never raises.

        Metrics that the session reports while it closes still reach the listener.

        Returns:
            What ignored its cancellation.
        """
        self.mute(keep="metrics_collected")
        self._scope.cancel_soon()
        try:
            return await self.guard.aclose(timeout)
        finally:
            if self._connections is not None:
                self._connections.cut()
            self.mute()
            if self._changes_models:
                self._tell_agent_session(None)
