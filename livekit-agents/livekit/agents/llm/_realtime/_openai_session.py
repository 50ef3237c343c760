"""One conversation with OpenAI's realtime models: what the framework asks of it, and its life."""

from __future__ import annotations

import asyncio
import os
import uuid
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
from livekit import rtc

from ..._exceptions import APIError
from ...log import logger
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given
from ...utils.aio import TaskScope
from ..chat_context import ChatContext
from ..realtime import GenerationCreatedEvent, RealtimeError, RealtimeSessionReconnectedEvent
from ..tool_context import Tool, ToolChoice, ToolContext
from . import openai_codec as codec
from ._input_audio import InputAudio
from ._line import Line
from ._openai_events import ServerEvents
from ._openai_options import (
    connection_headers,
    plain,
    process_base_url,
    session_config,
    to_legacy,
    tool_schemas,
)
from ._outbox import Outbox
from .openai_utils import Event, to_oai_tool_choice

if TYPE_CHECKING:
    from .openai import RealtimeModel

lk_oai_debug = int(os.getenv("LK_OPENAI_DEBUG") or 0)

_ACK_TIMEOUT = 5.0
"""Seconds for the server to acknowledge a change of the conversation."""

_MIN_COMMIT = 0.1
"""Seconds of audio below which a server refuses a turn."""

_KEPT_FOR_LATER = ("input_audio_buffer.", "response.create")
"""What still makes sense on a later connection; all else is told it anew anyway."""


class RealtimeSession(ServerEvents):
    """One conversation. Create it in a running event loop; it connects in the background.

    A connection that is lost, or has become old, is replaced, and the conversation is told the new
    one. What is said meanwhile waits, half a minute of audio at most.
    """

    def __init__(
        self, realtime_model: RealtimeModel, *, turn_detection_disabled: bool = False
    ) -> None:
        """Start the conversation.

        Args:
            realtime_model: Whose options apply.
            turn_detection_disabled: The caller decides when the user's turn is over.
        """
        opts = realtime_model._opts
        super().__init__(realtime_model, None if turn_detection_disabled else opts.turn_detection)
        self._turn_detection_disabled = turn_detection_disabled
        self._unanswered.speaking = self._detection is None
        self._tool_choice = opts.tool_choice
        self._instructions: str | None = None
        self._tools = ToolContext.empty()
        self._updating = asyncio.Lock()
        self._input = InputAudio()
        peer = f"the realtime API of {realtime_model.provider}"
        self._outbox = Outbox(peer, lambda event: event["type"] == "input_audio_buffer.append")
        self._line = Line(
            self,
            self._outbox,
            peer=peer,
            conn_options=opts.conn_options,
            max_duration=opts.max_session_duration,
        )
        self._close_scope = TaskScope(f"{peer} (closing)")
        self._closed: asyncio.Task[None] | None = None
        self.send_event(self._session_update())
        self._line.start()

    # -- what the framework asks for --------------------------------------------------------------

    @property
    def chat_ctx(self) -> ChatContext:
        """The conversation as the server knows it."""
        return self._context.chat_ctx

    @property
    def tools(self) -> ToolContext:
        """Tools the model may call."""
        return self._tools.copy()

    def send_event(self, event: Any) -> None:
        """Queue an event for the server. Dropped once the session is closing or has failed.

        Args:
            event: A dict, or an object of the `openai` library.
        """
        if self._closing or self._line.given_up:
            return
        event = plain(event)
        if lk_oai_debug and "audio" not in event:
            logger.debug("realtime event queued: %s", event)
        self.emit("openai_client_event_queued", event)
        self._outbox.put(event)

    async def update_instructions(self, instructions: str) -> None:
        """Replace the instructions."""
        self._instructions = instructions
        self._send_update({"instructions": instructions})

    async def update_tools(self, tools: list[Tool]) -> None:
        """Replace the tools."""
        self._tools = ToolContext(tools)
        self._send_update({"tools": tool_schemas(self._tools)})

    def update_options(
        self,
        *,
        tool_choice: NotGivenOr[ToolChoice | None] = NOT_GIVEN,
        **changes: Any,
    ) -> None:
        """Change how the model answers.

        Args:
            tool_choice: Whether it has to call tools, or must not; None for its default.
            **changes: Session options in the form of the protocol.
        """
        if is_given(tool_choice) and tool_choice != self._tool_choice:
            self._tool_choice = tool_choice
            changes["tool_choice"] = to_oai_tool_choice(tool_choice)
        if changes:
            self._send_update(changes)

    async def update_chat_ctx(self, chat_ctx: ChatContext) -> None:
        """Make the server's conversation equal to this one. Items it refuses are only logged.

        Raises:
            RealtimeError: The server did not confirm in 5 s, or the session is over.
        """
        async with self._updating:
            self._check_alive()
            events = [plain(event) for event in self._create_update_chat_ctx_events(chat_ctx)]
            if not events:
                return
            waiting = self._context.expect(events)
            try:
                for event in events:
                    self.send_event(event)
                if not waiting:
                    return
                done, pending = await asyncio.wait(waiting.values(), timeout=_ACK_TIMEOUT)
            finally:
                self._context.forget(waiting)
            for future in done:
                future.result()
            if pending:
                raise RealtimeError(
                    f"the server did not confirm the chat context within {_ACK_TIMEOUT:g} s"
                )

    def _create_update_chat_ctx_events(self, chat_ctx: ChatContext) -> list[Event]:
        return self._context.plan(chat_ctx)

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """Let the model hear a frame, at any sample rate."""
        for pcm in self._input.push(frame):
            self._send_audio(pcm)

    def push_video(self, frame: rtc.VideoFrame) -> None:
        """Ignored: this protocol takes images as items of the chat context."""

    def commit_audio(self) -> None:
        """The user's turn is over. Does nothing if less than 0.1 s was heard."""
        for pcm in self._input.flush():
            self._send_audio(pcm)
        if self._input.pending > _MIN_COMMIT:
            self.send_event({"type": "input_audio_buffer.commit"})
            self._input.clear()

    def clear_audio(self) -> None:
        """Forget what was heard since the last turn."""
        self._input.clear()
        self._unanswered.taken()
        self.send_event({"type": "input_audio_buffer.clear"})

    def _send_audio(self, pcm: bytes) -> None:
        self._unanswered.sent(pcm)
        self.send_event(codec.append_audio(pcm))

    def generate_reply(
        self,
        *,
        instructions: NotGivenOr[str] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        tools: NotGivenOr[list[Tool]] = NOT_GIVEN,
    ) -> asyncio.Future[GenerationCreatedEvent]:
        """Ask for a response; see the base class. Fails after 10 s without one."""
        event_id = f"response_create_{uuid.uuid4().hex[:12]}"
        response: Event = {"metadata": {"client_event_id": event_id}}
        if is_given(instructions):
            own = f"{self._instructions}\n" if self._instructions else ""
            response["instructions"] = own + instructions
        if is_given(tool_choice):
            choice: Any = tool_choice
            response["tool_choice"] = to_oai_tool_choice(choice)
        if is_given(tools):
            response["tools"] = tool_schemas(ToolContext(tools))
        reply = self._replies.open(event_id)
        if self._closing or self._line.given_up:
            self._replies.fail("the realtime session is over")
        self.send_event({"type": "response.create", "event_id": event_id, "response": response})
        return reply

    def _on_reply_dropped(self, event_id: str) -> None:
        if self._outbox.remove(event_id):
            self._replies.forget_dropped(event_id)
        elif self._current_generation is None:
            self.send_event(codec.cancel_response())

    def interrupt(self) -> None:
        """Stop the response under way."""
        if self._current_generation is not None or self._replies:
            self.send_event(codec.cancel_response())

    def truncate(
        self,
        *,
        message_id: str,
        modalities: list[Literal["text", "audio"]],
        audio_end_ms: int,
        audio_transcript: NotGivenOr[str] = NOT_GIVEN,
    ) -> None:
        """Tell the server how much of a message was heard."""
        if "audio" in modalities and self._context.has_audio(message_id):
            if audio_end_ms > 0:
                self.send_event(codec.truncate_item(message_id, audio_end_ms))
                if is_given(audio_transcript) and audio_transcript:
                    self._context.cut_text(message_id, audio_transcript)
            else:
                self.send_event(codec.delete_item(message_id))
        elif is_given(audio_transcript):
            for event in self._context.replace_text(message_id, audio_transcript):
                self.send_event(event)

    async def aclose(self) -> None:
        """End the conversation, in a second and a half at most. Idempotent, and never raises."""
        if self._closed is None:
            self._closing = True
            self._close_current_generation()
            self._fail_waiting("the realtime session was closed")
            self._closed = self._close_scope.spawn(self._line.aclose(), name="close")
        # Cancelling who waits must not cut the close short.
        await asyncio.shield(self._closed)

    # -- options ----------------------------------------------------------------------------------

    def _session_update(self) -> Event:
        session = session_config(
            self._opts,
            turn_detection=self._detection,
            tool_choice=self._tool_choice,
            instructions=self._instructions,
            tools=self._tools,
        )
        return self._make_update(session)

    def _make_update(self, session: Event) -> Event:
        event_id = f"session_update_{uuid.uuid4().hex[:12]}"
        if type(self)._wrap_session_update.__module__.startswith("livekit.agents."):
            return self._wrap_session_update(event_id, session)
        # Clients in packages of their own are written against the objects of the library.
        from openai.types.realtime import RealtimeSessionCreateRequest

        request: Any = RealtimeSessionCreateRequest.construct(**session)
        event = plain(self._wrap_session_update(event_id, request))
        return {name: plain(value) for name, value in event.items()}

    def _wrap_session_update(self, event_id: str, session: Event) -> Event:
        """The event that changes these options. Clients of compatible protocols add what is theirs."""
        if self._opts.legacy:
            session = to_legacy(session)
        return {"type": "session.update", "event_id": event_id, "session": session}

    def _send_update(self, changes: Event) -> None:
        self.send_event(self._make_update({"type": "realtime", **plain(changes)}))

    def _change_turn_detection(self, detection: Event | None) -> bool:
        """Take over the model's new option. False if this session has none by itself."""
        if self._turn_detection_disabled:
            return False
        self._detection = detection
        self._unanswered.speaking = detection is None or self._user_speaking
        return True

    # -- connection -------------------------------------------------------------------------------

    def _create_ws_url_and_headers(self) -> tuple[str, dict[str, str]]:
        opts = self._opts
        url = process_base_url(
            opts.base_url, opts.model, opts.is_azure, opts.azure_deployment, opts.api_version
        )
        return url, connection_headers(opts)

    def _ensure_http_session(self) -> aiohttp.ClientSession:
        return self._model._ensure_http_session()

    def _on_success(self) -> None:
        self._line.succeeded()

    def _check_alive(self) -> None:
        if self._closing or self._line.given_up:
            raise RealtimeError("the realtime session is over")

    def _line_opened(self, acquire_time: float, *, again: bool) -> None:
        self._report_connection_acquired(acquire_time)
        if again:
            self._reset_input_turn_state()
            unheard = self._unanswered.lost(self._outbox.audio_events)
            first = [
                self._session_update(),
                *self._context.replay(),
                *map(codec.append_audio, unheard),
            ]
            for event in first:
                self.emit("openai_client_event_queued", event)
            self._outbox.restart(
                first, keep=lambda event: event["type"].startswith(_KEPT_FOR_LATER)
            )
            self.emit("session_reconnected", RealtimeSessionReconnectedEvent())

    def _line_lost(self, error: APIError | None, *, recoverable: bool) -> None:
        if self._closing:
            return
        self._close_current_generation()
        reason = "was renewed" if error is None else f"was lost: {error.message}"
        if recoverable:
            self._replies.fail(f"the connection {reason}", spare=self._outbox.event_ids())
        else:
            self._fail_waiting(f"the connection {reason}")
        if error is not None:
            self._emit_error(error, recoverable=recoverable)

    def _fail_waiting(self, reason: str) -> None:
        self._replies.fail(reason)
        self._context.fail(reason)

    async def _line_idle(self) -> None:
        while self._current_generation is not None or self._replies or self._user_speaking:
            self._stirred.clear()
            await self._stirred.wait()
