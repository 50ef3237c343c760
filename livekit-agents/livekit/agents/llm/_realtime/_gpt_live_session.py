"""One conversation with GPT-Live."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
from livekit import rtc

from ..._exceptions import APIError, APITimeoutError
from ...log import logger
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given, shortuuid
from ...utils.aio import Chan, TaskScope
from ..chat_context import ChatItem, ChatMessage, FunctionCallOutput
from ..duplex import DuplexAudioFrame, DuplexOutputTranscriptDelta, DuplexSession
from ..realtime import (
    InputSpeechStartedEvent,
    InputSpeechStoppedEvent,
    InputTranscriptionCompleted,
    RealtimeError,
    RealtimeModelError,
    RealtimeSessionReconnectedEvent,
)
from ..tool_context import Tool, ToolChoice, ToolContext
from . import gpt_live_codec as codec
from ._gpt_live_metrics import backend_metrics, session_time
from ._gpt_live_options import GPTLiveDelegation, session_config, url_and_headers
from ._gpt_live_state import Backend, History, UserTurn
from ._input_audio import CHUNK, NUM_CHANNELS, SAMPLE_RATE, InputAudio
from ._line import Line, Renewal
from ._openai_events import _is_fatal_error
from ._openai_options import tool_schemas
from ._outbox import Outbox
from .openai_codec import BadEvent, ErrorReported, parse
from .openai_utils import Event, to_oai_tool_choice

if TYPE_CHECKING:
    from .gpt_live import GPTLiveModel

_GOODBYE_TIMEOUT = 1.0
"""Seconds for the server to say that the session is closed, and what it has cost."""

_CLOSE_TIMEOUT = 0.25
"""Seconds for the connection to be closed after that."""

_MAX_BAD_MESSAGES = 5
_KEPT_FOR_LATER = (
    "session.input_audio.append",
    "session.instructions.",
    "session.thinking.",
    "session.commentary.",
)
"""What still makes sense in another session; the rest is part of its start."""


class GPTLiveSession(
    DuplexSession[
        Literal["openai_server_event_received", "openai_client_event_queued", "delegation_created"]
    ]
):
    """One conversation. Create it in a running event loop; it connects in the background.

    The session begins once it is configured. A connection that is lost, or has become old, is
    replaced by a new session that is told what was said.
    """

    def __init__(self, duplex_model: GPTLiveModel) -> None:
        """Start the conversation."""
        super().__init__(duplex_model)
        self._model = duplex_model
        self._opts = opts = duplex_model._opts
        self._instructions = ""
        self._tools = ToolContext.empty()
        self._tool_choice: ToolChoice | None = None
        self._audio: Chan[DuplexAudioFrame] = Chan()
        self._input = InputAudio()
        self._turn = UserTurn()
        self._turn_id = ""
        self._turn_started_at = 0.0
        self._backend = Backend()
        self._history = History()
        self._muted = False
        self._session_id: str | None = None
        self._sessions = 0
        self._seconds_reported = 0.0
        self._bad_messages = 0
        self._stirred = asyncio.Event()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._start_timer: asyncio.TimerHandle | None = None
        peer = f"the GPT-Live API of {duplex_model.provider}"
        self._held = Outbox(peer, _is_audio)
        self._outbox = Outbox(peer, _is_audio)
        self._line = Line(
            self,
            self._outbox,
            peer=peer,
            conn_options=opts.conn_options,
            max_duration=opts.max_session_duration,
        )
        self._scope = TaskScope(f"{peer} session")
        self._close_scope = TaskScope(f"{peer} (closing)")
        self._closed: asyncio.Task[None] | None = None
        self._line.start()

    # -- what everybody may ask for ---------------------------------------------------------------

    @property
    def session_id(self) -> str | None:
        """The server's id of the session; None while there is none."""
        return self._session_id

    @property
    def audio_stream(self) -> Chan[DuplexAudioFrame]:
        """The model's output, for one listener: 24 kHz, mono. Ends with the session."""
        return self._audio

    @property
    def tools(self) -> ToolContext:
        """Tools the model that thinks may call."""
        return self._tools.copy()

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """Let the model hear a frame, at any sample rate."""
        for pcm in self._input.push(frame):
            self._send(codec.append_audio(pcm))
            if self._turn.audio(CHUNK):
                self._end_turn()

    def mute_input(self) -> None:
        """Let the model hear nothing from now on, also on later connections."""
        if not self._muted:
            self._muted = True
            self._send({"type": "session.input_audio.mute"})

    def unmute_input(self) -> None:
        """Let the model hear again."""
        if self._muted:
            self._muted = False
            self._send({"type": "session.input_audio.unmute"})

    def append_instructions(self, text: str, *, delegation_id: str | None = None) -> None:
        """Tell the model what to do. Returns at once.

        Args:
            text: The instructions.
            delegation_id: Of the delegation that they are about, if any.
        """
        self._send(codec.append_text("instructions", text, delegation_id))

    def append_thinking(self, text: str, *, delegation_id: str | None = None) -> None:
        """Tell the model what you are thinking of. Returns at once. See `append_instructions`."""
        self._send(codec.append_text("thinking", text, delegation_id))

    def append_commentary(self, text: str, *, delegation_id: str | None = None) -> None:
        """Tell the model what it may say meanwhile. Returns at once. See `append_instructions`."""
        self._send(codec.append_text("commentary", text, delegation_id))

    async def aclose(self) -> None:
        """End the conversation, in two seconds at most. Idempotent, and never raises.

        What the session has cost is still reported.
        """
        if self._closed is None:
            await super().aclose()
            self._closed = self._close_scope.spawn(self._close(), name="close")
        # Cancelling who waits must not cut the close short.
        await asyncio.shield(self._closed)

    async def _close(self) -> None:
        self._audio.close()
        self._stop_start_timer()
        self._line.say_goodbye()
        self._scope.cancel_soon()
        try:
            if self._session_id is not None and not self._line.given_up:
                self._outbox.restart([{"type": "session.close"}], keep=lambda event: False)
                await asyncio.wait([self._over], timeout=_GOODBYE_TIMEOUT)
        finally:
            await self._line.aclose(_CLOSE_TIMEOUT)

    # -- what the framework asks for --------------------------------------------------------------

    async def _update_instructions(self, instructions: str) -> None:
        if instructions == self._instructions:
            return
        if self._configured.is_set():
            raise RealtimeError(
                "GPT-Live can't replace its instructions in a session: use append_instructions, or "
                "start another session"
            )
        self._instructions = instructions

    async def _update_tools(self, tools: list[Tool]) -> None:
        if tools and self._opts.delegation == "client":
            raise RealtimeError("with delegation='client' GPT-Live has no tools: the client thinks")
        self._tools = ToolContext(tools)
        self._update_delegation(tools=tool_schemas(self._tools))

    def _update_options(self, *, tool_choice: NotGivenOr[ToolChoice | None] = NOT_GIVEN) -> None:
        if is_given(tool_choice) and tool_choice != self._tool_choice:
            self._tool_choice = tool_choice
            self._update_delegation(tool_choice=to_oai_tool_choice(tool_choice))

    def _update_delegation(self, **changes: Any) -> None:
        if self._configured.is_set() and self._opts.delegation == "responses":
            delegation = {"target": "responses", "responses": changes}
            self._send({"type": "session.update", "session": {"delegation": delegation}})

    async def _append_items(self, items: list[ChatItem]) -> None:
        for item in items:
            self._history.add(item)
            if self._configured.is_set():
                self._tell(item)
        self._go_on()

    def _tell(self, item: ChatItem) -> None:
        """An item that the running session has to know."""
        if isinstance(item, FunctionCallOutput):
            if self._backend.answered(item.call_id):
                output = {
                    "type": "function_call_output",
                    "call_id": item.call_id,
                    "output": item.output,
                }
                self._send(codec.create_item(output))
            elif self._backend.take_orphan(item.call_id):
                told = codec.message("system", f"{item.name} returned: {item.output}")
                self._send(codec.create_item(dict(told)))
        elif self._begun and isinstance(item, ChatMessage) and (text := item.text_content):
            if item.role == "system" or item.role == "developer":
                self.append_instructions(text)
            elif self._opts.delegation == "responses":
                self._send(codec.create_item(dict(codec.message(item.role, text))))
            else:
                self.append_thinking(f"{item.role}: {text}")

    def _generate_reply(
        self,
        *,
        instructions: NotGivenOr[str] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        tools: NotGivenOr[list[Tool]] = NOT_GIVEN,
    ) -> None:
        if self._closing or self._line.given_up:
            raise RealtimeError("the session is over")
        if is_given(instructions):
            self.append_instructions(instructions)
        elif self._opts.delegation == "responses":
            self._backend.want()
            self._go_on()
        else:
            super()._generate_reply()

    def _go_on(self) -> None:
        if self._backend.take_turn():
            self._send({"type": "response.create"})

    def _send(self, event: Event) -> None:
        """Queue an event; before the session has begun it waits for that."""
        if self._closing or self._line.given_up:
            return
        self.emit("openai_client_event_queued", event)
        (self._held if self._session_id is None else self._outbox).put(event)

    # -- connection -------------------------------------------------------------------------------

    def _ensure_http_session(self) -> aiohttp.ClientSession:
        return self._model._ensure_http_session()

    def _create_ws_url_and_headers(self) -> tuple[str, dict[str, str]]:
        return url_and_headers(self._opts)

    def _line_opened(self, acquire_time: float, *, again: bool) -> None:
        self._report_connection_acquired(acquire_time)
        self._scope.spawn(self._start_session(), name="start the session")

    async def _start_session(self) -> None:
        await self._configured.wait()
        if self._begun or self._closing or not self._line.connected:
            return
        session = session_config(
            self._opts,
            instructions=self._instructions,
            history=self._history.seeds(),
            tools=self._tools,
            tool_choice=self._tool_choice,
        )
        event: Event = {"type": "session.start", "session": session}
        self.emit("openai_client_event_queued", event)
        self._outbox.restart([event], keep=lambda event: False)
        self._stop_start_timer()
        late = APITimeoutError("GPT-Live did not begin the session in time")
        self._start_timer = asyncio.get_running_loop().call_later(
            self._opts.conn_options.timeout, self._line.break_off, late
        )

    @property
    def _begun(self) -> bool:
        """Whether a session was started on this connection: what is added later it has to be told."""
        return self._session_id is not None or self._start_timer is not None

    def _line_lost(self, error: APIError | None, *, recoverable: bool) -> None:
        self._stop_start_timer()
        waiting = [*self._outbox.drain(), *self._held.drain()]
        for event in waiting:
            if event["type"].startswith(_KEPT_FOR_LATER):
                self._held.put(event)
        if self._turn.open:
            self._end_turn()
        self._session_id = None
        self._seconds_reported = 0.0
        self._backend.restart()
        if self._closing:
            if not self._over.done():
                self._over.set_result(None)
            return
        if error is not None:
            self._emit_error(error, recoverable=recoverable)
        if not recoverable:
            self._audio.close()

    async def _line_idle(self) -> None:
        while self._turn.open or self._backend.busy:
            self._stirred.clear()
            await self._stirred.wait()

    def _stop_start_timer(self) -> None:
        if self._start_timer is not None:
            self._start_timer.cancel()
            self._start_timer = None

    # -- what the server says ---------------------------------------------------------------------

    def _line_received(self, message: str | bytes) -> None:
        try:
            event = parse(message)
            self._bad_messages = 0
            self.emit("openai_server_event_received", event)
            typed = codec.decode(event)
            if typed is not None and (not self._closing or isinstance(typed, _TO_THE_END)):
                _HANDLERS[type(typed)](self, typed)
        except (APIError, Renewal):
            raise
        except BadEvent as error:
            self._bad_messages += 1
            logger.warning("a message of GPT-Live is left out: %s", error)
            if self._bad_messages >= _MAX_BAD_MESSAGES:
                raise APIError("GPT-Live sends nothing that can be understood") from error
        except Exception:
            logger.exception("failed to handle a message of GPT-Live")
        self._stirred.set()

    def _on_started(self, event: codec.SessionStarted) -> None:
        self._stop_start_timer()
        self._session_id = event.session_id
        self._sessions += 1
        self._line.succeeded()
        if self._muted:
            self._outbox.put({"type": "session.input_audio.mute"})
        for held in self._held.drain():
            if not held["type"].endswith("mute"):  # that is said already, or not any more
                self._outbox.put(held)
        if self._sessions > 1:
            self.emit("session_reconnected", RealtimeSessionReconnectedEvent())

    def _on_audio(self, event: codec.OutputAudio) -> None:
        if event.pcm and not self._audio.closed:
            samples = len(event.pcm) // 2
            frame = rtc.AudioFrame(event.pcm, SAMPLE_RATE, NUM_CHANNELS, samples)
            self._audio.send_nowait(DuplexAudioFrame(frame, event.start_ms))

    def _on_output_transcript(self, event: codec.OutputTranscript) -> None:
        self._history.said(event.text)
        self.emit(
            "transcript_delta",
            DuplexOutputTranscriptDelta(event.text, event.start_ms, event.end_ms),
        )

    def _on_input_transcript(self, event: codec.InputTranscript) -> None:
        if self._turn.fragment(event.text):
            self._turn_id = shortuuid("item_")
            self._turn_started_at = time.time()
            self.emit("input_speech_started", InputSpeechStartedEvent())
        self._emit_transcript(self._turn.text.strip(), is_final=False)

    def _end_turn(self) -> None:
        text = self._turn.end()
        if text:
            self._history.heard(text)
        self._emit_transcript(text, is_final=True)
        self.emit("input_speech_stopped", InputSpeechStoppedEvent(user_transcription_enabled=True))
        self._stirred.set()

    def _emit_transcript(self, text: str, *, is_final: bool) -> None:
        self.emit(
            "input_audio_transcription_completed",
            InputTranscriptionCompleted(
                item_id=self._turn_id,
                transcript=text,
                is_final=is_final,
                turn_started_at=self._turn_started_at,
            ),
        )

    def _on_delegation(self, event: codec.DelegationCreated) -> None:
        delegation = GPTLiveDelegation(event.delegation_id, event.pending_transcript)
        self.emit("delegation_created", delegation)

    def _on_backend_started(self, event: codec.BackendStarted) -> None:
        self._backend.started(event.response_id)

    def _on_backend_call(self, event: codec.BackendCall) -> None:
        self._backend.called(event.call)
        self.emit("function_call", event.call)

    def _on_backend_done(self, event: codec.BackendDone) -> None:
        self._backend.ended(event.response_id)
        if event.usage is not None:
            metrics = backend_metrics(self._model, event, event.usage)
            self.emit("metrics_collected", metrics)
        if event.error is not None:
            self._emit_error(APIError(event.error.message, body=event.error.body), recoverable=True)
        self._go_on()

    def _on_usage(self, event: codec.UsageUpdated) -> None:
        self._report_seconds(event.seconds)

    def _on_closed(self, event: codec.SessionClosed) -> None:
        if event.seconds is not None:
            self._report_seconds(event.seconds)
        if not self._closing:
            raise Renewal("the server closed the session")
        if not self._over.done():
            self._over.set_result(None)

    def _report_seconds(self, seconds: float) -> None:
        """What is said is how long the session has lasted; what is reported is how much longer."""
        more = seconds - self._seconds_reported
        if more > 0:
            self._seconds_reported = seconds
            self.emit("metrics_collected", session_time(self._model, more, self._session_id))

    def _is_fatal_error(self, error: Any) -> bool:
        """Whether the provider will refuse everything from now on."""
        return _is_fatal_error(error)

    def _on_error(self, event: ErrorReported) -> None:
        error = event.error
        fatal = self._is_fatal_error(error.body or error)
        if fatal or self._session_id is None:  # a session that can't begin needs a new connection
            raise APIError(error.message, body=error.body, retryable=not fatal)
        self._emit_error(APIError(error.message, body=error.body), recoverable=True)

    def _emit_error(self, error: Exception, *, recoverable: bool) -> None:
        self.emit(
            "error",
            RealtimeModelError(
                timestamp=time.time(),
                label=self._model.label,
                error=error,
                recoverable=recoverable,
            ),
        )


def _is_audio(event: Event) -> bool:
    return bool(event["type"] == "session.input_audio.append")


_TO_THE_END = (codec.UsageUpdated, codec.SessionClosed)
_HANDLERS: dict[type, Any] = {
    codec.SessionStarted: GPTLiveSession._on_started,
    codec.OutputAudio: GPTLiveSession._on_audio,
    codec.OutputTranscript: GPTLiveSession._on_output_transcript,
    codec.InputTranscript: GPTLiveSession._on_input_transcript,
    codec.DelegationCreated: GPTLiveSession._on_delegation,
    codec.BackendStarted: GPTLiveSession._on_backend_started,
    codec.BackendCall: GPTLiveSession._on_backend_call,
    codec.BackendDone: GPTLiveSession._on_backend_done,
    codec.UsageUpdated: GPTLiveSession._on_usage,
    codec.SessionClosed: GPTLiveSession._on_closed,
    ErrorReported: GPTLiveSession._on_error,
}
