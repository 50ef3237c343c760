"""OpenAI's realtime protocol over a WebSocket."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
import uuid
import weakref
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import aiohttp
from livekit import rtc

from ..._exceptions import APIConnectionError, APIError
from ..._websocket import Closed, SessionSource, WebSocket, upgrade
from ...log import logger
from ...metrics.base import Metadata, RealtimeModelMetrics
from ...types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, APIConnectOptions, NotGivenOr
from ...utils import is_given
from ...utils.aio import Chan, ChanClosed
from ...utils.aio.task_scope import TaskScope
from ...utils.audio import AudioByteStream
from ...utils.retry import RetryPolicy
from ..chat_context import ChatContext, ChatMessage
from ..realtime import (
    GenerationCreatedEvent,
    InputSpeechStartedEvent,
    InputSpeechStoppedEvent,
    InputTranscriptionCompleted,
    RealtimeCapabilities,
    RealtimeError,
    RealtimeModel as _BaseModel,
    RealtimeModelError,
    RealtimeSession as _BaseSession,
    RealtimeSessionReconnectedEvent,
    RemoteItemAddedEvent,
)
from ..remote_chat_context import RemoteChatContext
from ..tool_context import Tool, ToolChoice, ToolContext
from ..utils import compute_chat_ctx_diff
from ._openai_generation import NUM_CHANNELS, SAMPLE_RATE, Generation, _MessageGeneration
from .openai_utils import (
    DEFAULT_MAX_SESSION_DURATION,
    Event,
    calculate_confidence_from_logprobs,
    livekit_item_to_openai_item,
    openai_item_to_livekit_item,
    to_audio_transcription,
    to_noise_reduction,
    to_oai_tool_choice,
    to_turn_detection,
)

__all__ = [
    "DEFAULT_VOICE",
    "NUM_CHANNELS",
    "OPENAI_BASE_URL",
    "SAMPLE_RATE",
    "RealtimeModel",
    "RealtimeSession",
    "_DiscardedGeneration",
    "_MessageGeneration",
    "_is_fatal_error",
    "lk_oai_debug",
    "process_base_url",
]

DEFAULT_VOICE = "marin"
OPENAI_BASE_URL = "https://api.openai.com/v1"
lk_oai_debug = int(os.getenv("LK_OPENAI_DEBUG", "0"))

_REPLY_TIMEOUT = 10.0
_ACK_TIMEOUT = 5.0
_CLOSE_TIMEOUT = 2.0
_MIN_COMMIT = 0.1
_RENEWAL_GRACE = 30.0
"""Seconds that an open response may delay the renewal of a connection."""
_FATAL = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "invalid_api_key",
        "account_deactivated",
        "billing_hard_limit_reached",
    }
)


class _DiscardedGeneration:
    """Stands for a response that nobody waits for any more."""


def _is_fatal_error(error: Any) -> bool:
    """Whether the provider will refuse everything from now on."""
    for name in ("code", "type"):
        value = error.get(name) if isinstance(error, dict) else getattr(error, name, None)
        if value in _FATAL:
            return True
    return False


def process_base_url(
    url: str,
    model: str,
    is_azure: bool = False,
    azure_deployment: str | None = None,
    api_version: str | None = None,
) -> str:
    """The WebSocket URL that belongs to the base URL of an API."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    path = parts.path.rstrip("/")
    query = dict(parse_qsl(parts.query))
    if is_azure:
        if path in ("", "/openai"):
            path = "/openai/realtime" if api_version else "/openai/v1/realtime"
        if api_version:
            query.setdefault("api-version", api_version)
            query.setdefault("deployment", azure_deployment or model)
        else:
            query.setdefault("model", azure_deployment or model)
    else:
        if path in ("", "/v1", "/openai", "/openai/v1"):
            path += "/realtime"
        query.setdefault("model", model)
    return urlunsplit((scheme, parts.netloc, path, urlencode(query), ""))


@dataclass
class _Options:
    model: str
    voice: str
    modalities: list[Literal["text", "audio"]]
    tool_choice: ToolChoice | None
    transcription: Event | None
    noise_reduction: Event | None
    turn_detection: Event | None
    speed: float | None
    tracing: Any
    truncation: Any
    reasoning: Any
    api_key: str | None
    base_url: str
    is_azure: bool
    azure_deployment: str | None
    entra_token: str | None
    api_version: str | None
    max_session_duration: float | None
    conn_options: APIConnectOptions


class RealtimeModel(_BaseModel):
    """A speech-to-speech model of OpenAI, or of Azure."""

    def __init__(
        self,
        *,
        model: str = "gpt-realtime",
        voice: str = DEFAULT_VOICE,
        modalities: NotGivenOr[list[Literal["text", "audio"]]] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice | None] = NOT_GIVEN,
        base_url: NotGivenOr[str] = NOT_GIVEN,
        input_audio_transcription: NotGivenOr[Any] = NOT_GIVEN,
        input_audio_noise_reduction: NotGivenOr[Any] = NOT_GIVEN,
        turn_detection: NotGivenOr[Any] = NOT_GIVEN,
        speed: NotGivenOr[float] = NOT_GIVEN,
        tracing: NotGivenOr[Any] = NOT_GIVEN,
        truncation: NotGivenOr[Any] = NOT_GIVEN,
        reasoning: NotGivenOr[Any] = NOT_GIVEN,
        api_key: str | None = None,
        http_session: aiohttp.ClientSession | None = None,
        azure_deployment: str | None = None,
        entra_token: str | None = None,
        max_session_duration: NotGivenOr[float | None] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        temperature: NotGivenOr[float] = NOT_GIVEN,
        **kwargs: Any,
    ) -> None:
        """Configure the model; options have the provider's names and meanings.

        Raises:
            ValueError: There is no API key.
        """
        detection = to_turn_detection(turn_detection)
        transcription = to_audio_transcription(input_audio_transcription)
        spoken: list[Literal["text", "audio"]] = ["text", "audio"]
        if is_given(modalities):
            spoken = modalities
        super().__init__(
            capabilities=RealtimeCapabilities(
                message_truncation=True,
                turn_detection=detection is not None
                and detection.get("create_response") is not False,
                user_transcription=transcription is not None,
                auto_tool_reply_generation=False,
                audio_output="audio" in spoken,
                manual_function_calls=True,
                can_disable_turn_detection=not is_given(turn_detection),
                mutable_chat_context=True,
                mutable_instructions=True,
                mutable_tools=True,
                per_response_tool_choice=True,
            )
        )
        is_azure = azure_deployment is not None or entra_token is not None
        key = api_key or (None if is_azure else os.getenv("OPENAI_API_KEY"))
        if not key and not entra_token:
            raise ValueError("an OpenAI API key is needed: pass api_key or set OPENAI_API_KEY")
        self._opts = _Options(
            model=model,
            voice=voice,
            modalities=spoken,
            tool_choice=tool_choice if is_given(tool_choice) else None,
            transcription=transcription,
            noise_reduction=to_noise_reduction(input_audio_noise_reduction),
            turn_detection=detection,
            speed=speed if is_given(speed) else None,
            tracing=tracing if is_given(tracing) else None,
            truncation=truncation if is_given(truncation) else None,
            reasoning=reasoning if is_given(reasoning) else None,
            api_key=key,
            base_url=base_url
            if is_given(base_url)
            else os.getenv("OPENAI_BASE_URL", OPENAI_BASE_URL),
            is_azure=is_azure,
            azure_deployment=azure_deployment,
            entra_token=entra_token,
            api_version=kwargs.get("api_version"),
            max_session_duration=max_session_duration
            if is_given(max_session_duration)
            else DEFAULT_MAX_SESSION_DURATION,
            conn_options=conn_options,
        )
        self._provider_label = "azure" if is_azure else "openai"
        self._sessions: weakref.WeakSet[RealtimeSession] = weakref.WeakSet()
        self._own_session: aiohttp.ClientSession | None = None
        self._source = SessionSource(http_session, self._make_session)

    @classmethod
    def with_azure(
        cls,
        *,
        azure_deployment: str,
        azure_endpoint: str | None = None,
        api_key: str | None = None,
        entra_token: str | None = None,
        base_url: str | None = None,
        **options: Any,
    ) -> RealtimeModel:
        """A deployment on Azure; `options` are those of the constructor.

        Raises:
            ValueError: Endpoint or credentials are missing, or endpoint and base URL both given.
        """
        endpoint = azure_endpoint or (None if base_url else os.getenv("AZURE_OPENAI_ENDPOINT"))
        api_key = api_key or os.getenv("AZURE_OPENAI_API_KEY")
        if azure_endpoint and base_url:
            raise ValueError("azure_endpoint and base_url exclude each other: pass one of them")
        if not endpoint and not base_url:
            raise ValueError("pass azure_endpoint, or set AZURE_OPENAI_ENDPOINT")
        if not api_key and not entra_token:
            raise ValueError("pass api_key or entra_token, or set AZURE_OPENAI_API_KEY")
        url = base_url or f"{(endpoint or '').rstrip('/')}/openai"
        return cls(
            azure_deployment=azure_deployment,
            api_key=api_key,
            entra_token=entra_token,
            base_url=url,
            **options,
        )

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._opts.model

    @property
    def provider(self) -> str:
        """Who serves it."""
        return self._provider_label

    def session(self, *, turn_detection_disabled: bool = False) -> RealtimeSession:
        """Start a conversation; connects in the background."""
        session = RealtimeSession(self, turn_detection_disabled=turn_detection_disabled)
        self._sessions.add(session)
        return session

    def update_options(
        self,
        *,
        voice: NotGivenOr[str] = NOT_GIVEN,
        speed: NotGivenOr[float] = NOT_GIVEN,
        turn_detection: NotGivenOr[Any] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice | None] = NOT_GIVEN,
    ) -> None:
        """Change options, of the sessions that are running as well."""
        opts = self._opts
        output: Event = {}
        if is_given(voice) and voice != opts.voice:
            opts.voice = output["voice"] = voice
        if is_given(speed) and speed != opts.speed:
            opts.speed = output["speed"] = speed
        audio: Event = {"output": output} if output else {}
        if is_given(turn_detection):
            opts.turn_detection = to_turn_detection(turn_detection)
            audio["input"] = {"turn_detection": opts.turn_detection}
        if is_given(tool_choice):
            opts.tool_choice = tool_choice
        for session in list(self._sessions):
            if is_given(turn_detection):
                session._detection = opts.turn_detection
            if audio:
                session._send_update({"audio": audio})
            session.update_options(tool_choice=tool_choice)

    async def aclose(self) -> None:
        """Close the HTTP session, if it was made here."""
        own, self._own_session = self._own_session, None
        if own is not None:
            await own.close()

    def _ensure_http_session(self) -> aiohttp.ClientSession:
        return self._source.get()

    def _make_session(self) -> aiohttp.ClientSession:
        self._own_session = aiohttp.ClientSession()
        return self._own_session


class RealtimeSession(
    _BaseSession[Literal["openai_server_event_received", "openai_client_event_queued"]]
):
    """One conversation. Create it in a running event loop."""

    def __init__(
        self, realtime_model: RealtimeModel, *, turn_detection_disabled: bool = False
    ) -> None:
        """Start the conversation."""
        super().__init__(realtime_model)
        self._opts = realtime_model._opts
        self._model = realtime_model
        self._detection = None if turn_detection_disabled else self._opts.turn_detection
        self._tool_choice = self._opts.tool_choice
        self._instructions: str | None = None
        self._tools = ToolContext.empty()
        self._remote_chat_ctx = RemoteChatContext()
        self._current_generation: Generation | None = None
        self._replies: dict[str, asyncio.Future[GenerationCreatedEvent]] = {}
        self._dropped: set[str] = set()
        self._acks: dict[str, asyncio.Future[None]] = {}
        self._updating = asyncio.Lock()
        self._partials: dict[str, str] = {}
        self._speech_started: dict[str, float] = {}
        self._resampler: rtc.AudioResampler | None = None
        self._chunks = AudioByteStream(SAMPLE_RATE, NUM_CHANNELS, SAMPLE_RATE // 10)
        self._pushed = 0.0
        self._closing = False
        self._retry = RetryPolicy(self._opts.conn_options)
        self._outgoing: Chan[Event] = Chan()
        self._socket: WebSocket | None = None
        self._scope = TaskScope("OpenAI realtime session")
        self.send_event(self._session_update())
        self._scope.spawn(self._run())

    # -- what the framework asks for

    @property
    def chat_ctx(self) -> ChatContext:
        """The conversation as the server knows it."""
        return self._remote_chat_ctx.to_chat_ctx()

    @property
    def tools(self) -> ToolContext:
        """Tools the model may call."""
        return self._tools.copy()

    def send_event(self, event: Event) -> None:
        """Queue an event for the server; dropped once the session is closing."""
        if self._closing:
            return
        self.emit("openai_client_event_queued", event)
        self._outgoing.send_nowait(event)

    async def update_instructions(self, instructions: str) -> None:
        """Replace the instructions."""
        self._instructions = instructions
        self._send_update({"instructions": instructions})

    async def update_tools(self, tools: list[Tool]) -> None:
        """Replace the tools."""
        self._tools = ToolContext(tools)
        self._send_update({"tools": self._tool_schemas(self._tools)})

    def update_options(self, *, tool_choice: NotGivenOr[ToolChoice | None] = NOT_GIVEN) -> None:
        """Change how the model answers."""
        if is_given(tool_choice) and tool_choice != self._tool_choice:
            self._tool_choice = tool_choice
            self._send_update({"tool_choice": to_oai_tool_choice(self._tool_choice)})

    async def update_chat_ctx(self, chat_ctx: ChatContext) -> None:
        """Make the server's conversation equal to this one.

        Raises:
            RealtimeError: The server did not confirm in 5 s.
        """
        async with self._updating:
            waiting = self._send_changes(chat_ctx)
            if not waiting:
                return
            done, pending = await asyncio.wait(waiting.values(), timeout=_ACK_TIMEOUT)
            for key in waiting:
                self._acks.pop(key, None)
            for future in done:
                future.result()
            if pending:
                raise RealtimeError("the server did not confirm the chat context in time")

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """Let the model hear a frame, at any sample rate."""
        for resampled in self._resample(frame):
            for chunk in self._chunks.write(resampled.data.tobytes()):
                self._send_audio(chunk)

    def push_video(self, frame: rtc.VideoFrame) -> None:
        """Ignored: this protocol takes images as items of the chat context."""

    def commit_audio(self) -> None:
        """The user's turn is over."""
        for chunk in self._chunks.flush():
            self._send_audio(chunk)
        if self._pushed > _MIN_COMMIT:
            self.send_event({"type": "input_audio_buffer.commit"})
            self._pushed = 0.0

    def clear_audio(self) -> None:
        """Forget what was heard since the last turn."""
        self._chunks.flush()
        self._pushed = 0.0
        self.send_event({"type": "input_audio_buffer.clear"})

    def generate_reply(
        self,
        *,
        instructions: NotGivenOr[str] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        tools: NotGivenOr[list[Tool]] = NOT_GIVEN,
    ) -> asyncio.Future[GenerationCreatedEvent]:
        """Ask for a response; see the base class. Fails after 10 s without one."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[GenerationCreatedEvent] = loop.create_future()
        if self._closing:
            future.set_exception(RealtimeError("the realtime session is closed"))
            return future
        event_id = f"response_create_{uuid.uuid4().hex[:12]}"
        response: Event = {"metadata": {"client_event_id": event_id}}
        if is_given(instructions):
            own = f"{self._instructions}\n" if self._instructions else ""
            response["instructions"] = own + instructions
        if is_given(tool_choice):
            choice: Any = tool_choice
            response["tool_choice"] = to_oai_tool_choice(choice)
        if is_given(tools):
            response["tools"] = self._tool_schemas(ToolContext(tools))
        self._replies[event_id] = future
        timer = loop.call_later(_REPLY_TIMEOUT, self._reply_timed_out, event_id)
        future.add_done_callback(lambda done: self._reply_over(event_id, done, timer))
        self.send_event({"type": "response.create", "event_id": event_id, "response": response})
        return future

    def interrupt(self) -> None:
        """Stop the response under way."""
        if self._current_generation is not None or self._replies:
            self.send_event({"type": "response.cancel"})

    def truncate(
        self,
        *,
        message_id: str,
        modalities: list[Literal["text", "audio"]],
        audio_end_ms: int,
        audio_transcript: NotGivenOr[str] = NOT_GIVEN,
    ) -> None:
        """Tell the server how much of a message was heard."""
        if "audio" not in modalities:
            if is_given(audio_transcript):
                self._replace_text(message_id, audio_transcript)
        elif audio_end_ms > 0:
            self.send_event(
                {
                    "type": "conversation.item.truncate",
                    "item_id": message_id,
                    "content_index": 0,
                    "audio_end_ms": audio_end_ms,
                }
            )
        else:
            self.send_event({"type": "conversation.item.delete", "item_id": message_id})

    async def aclose(self) -> None:
        """End the conversation, in two seconds at most. Does nothing when called again."""
        self._closing = True
        self._close_current_generation()
        self._fail_pending("the realtime session was closed")
        self._outgoing.close()
        await self._scope.cancel(_CLOSE_TIMEOUT)
        self._fail_pending("the realtime session was closed")

    # -- connection

    def _create_ws_url_and_headers(self) -> tuple[str, dict[str, str]]:
        opts = self._opts
        headers = {"User-Agent": "LiveKit Agents"}
        if opts.is_azure and not opts.entra_token:
            headers["api-key"] = opts.api_key or ""
        else:
            headers["Authorization"] = f"Bearer {opts.entra_token or opts.api_key}"
        url = process_base_url(
            opts.base_url, opts.model, opts.is_azure, opts.azure_deployment, opts.api_version
        )
        return url, headers

    async def _run(self) -> None:
        first, timeout = True, self._opts.conn_options.timeout
        loop = asyncio.get_running_loop()
        while not self._closing:
            connected_at: float | None = None
            try:
                socket = await self._connect()
                connected_at = loop.time()
                if not first:
                    self._replay()
                first = False
                await self._converse(socket)
            except APIError as error:
                if connected_at is not None and loop.time() - connected_at > timeout:
                    self._retry.reset()
                delay = self._retry.next_delay(error)
                self._emit_error(error, recoverable=delay is not None)
                self._close_current_generation()
                self._fail_pending(f"the connection was lost: {error}")
                if delay is None:
                    return
                await asyncio.sleep(delay)
            except Exception as error:
                self._emit_error(error, recoverable=False)
                self._close_current_generation()
                self._fail_pending(f"the realtime session failed: {error}")
                raise
            else:
                self._retry.reset()
                self._close_current_generation()
                self._fail_pending("the session was renewed")

    async def _connect(self) -> WebSocket:
        url, headers = self._create_ws_url_and_headers()
        started = time.perf_counter()
        http = self._model._ensure_http_session()
        timeout = self._opts.conn_options.timeout
        ws = await upgrade(http, url, headers, "OpenAI realtime", timeout)
        self._report_connection_acquired(time.perf_counter() - started)
        return WebSocket(ws, "OpenAI realtime")

    async def _converse(self, socket: WebSocket) -> None:
        """Send and receive until the connection is lost or has served its time."""
        scope = TaskScope("OpenAI realtime connection")
        sending = scope.spawn(self._send_all(socket), log_errors=False)
        hearing = scope.spawn(self._receive_all(socket), log_errors=False)
        try:
            done: set[asyncio.Task[Any]]
            done, _ = await asyncio.wait(
                (sending, hearing),
                timeout=self._opts.max_session_duration,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done and (response := self._current_generation):
                ended = scope.spawn(response.ended.wait())
                done, _ = await asyncio.wait(
                    (sending, hearing, ended),
                    timeout=_RENEWAL_GRACE,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            for task in done:
                task.result()
        finally:
            scope.cancel_soon()
            socket.abort()

    async def _send_all(self, socket: WebSocket) -> None:
        try:
            while True:
                await socket.send(json.dumps(await self._outgoing.recv()))
        except ChanClosed:
            return

    async def _receive_all(self, socket: WebSocket) -> None:
        while True:
            message = await socket.receive()
            if isinstance(message, Closed):
                raise APIConnectionError("OpenAI realtime closed the connection")
            event = json.loads(message)
            self.emit("openai_server_event_received", event)
            if event.get("type") == "error" and _is_fatal_error(event.get("error") or {}):
                raise APIError(str(event["error"].get("message")), body=event, retryable=False)
            try:
                self._handle(event)
            except Exception:
                logger.exception("failed to handle a realtime event: %s", event.get("type"))

    def _replay(self) -> None:
        """Tell a new connection what the old one knew."""
        while not self._outgoing.empty():
            self._outgoing.recv_nowait()
        known = self.chat_ctx
        self._remote_chat_ctx = RemoteChatContext()
        self._partials.clear()
        self._speech_started.clear()
        self.send_event(self._session_update())
        previous = "root"
        for item in known.items:
            self._send_create(previous, livekit_item_to_openai_item(item))
            previous = item.id
        self.emit("session_reconnected", RealtimeSessionReconnectedEvent())

    # -- events out

    def _session_update(self) -> Event:
        opts = self._opts
        audio_in: Event = {
            "format": {"type": "audio/pcm", "rate": SAMPLE_RATE},
            "turn_detection": self._detection,
            "transcription": opts.transcription,
            "noise_reduction": opts.noise_reduction,
        }
        audio_out: Event = {
            "format": {"type": "audio/pcm", "rate": SAMPLE_RATE},
            "voice": opts.voice,
        }
        if opts.speed is not None:
            audio_out["speed"] = opts.speed
        session: Event = {
            "type": "realtime",
            "model": opts.model,
            "output_modalities": ["audio"] if "audio" in opts.modalities else ["text"],
            "audio": {"input": audio_in, "output": audio_out},
            "max_output_tokens": "inf",
            "tool_choice": to_oai_tool_choice(self._tool_choice),
        }
        extras = {k: getattr(opts, k) for k in ("tracing", "truncation", "reasoning")}
        session.update({name: value for name, value in extras.items() if value is not None})
        if self._instructions is not None:
            session["instructions"] = self._instructions
        if self._tools.function_tools:
            session["tools"] = self._tool_schemas(self._tools)
        return self._wrap_session_update(session)

    def _wrap_session_update(self, session: Event) -> Event:
        return {"type": "session.update", "session": session}

    def _send_update(self, changes: Event) -> None:
        self.send_event(self._wrap_session_update({"type": "realtime", **changes}))

    def _tool_schemas(self, tools: ToolContext) -> list[Event]:
        schemas: list[Event] = tools.parse_function_tools("openai.responses", strict=False)
        return schemas

    def _send_changes(self, chat_ctx: ChatContext) -> dict[str, asyncio.Future[None]]:
        from ...voice.generation import remove_instructions

        wanted = chat_ctx.copy(exclude_handoff=True, exclude_config_update=True)
        remove_instructions(wanted)
        wanted.items[:] = [
            item
            for item in wanted.items
            if not isinstance(item, ChatMessage)
            or item.content
            or self._remote_chat_ctx.get(item.id)
        ]
        diff = compute_chat_ctx_diff(self.chat_ctx, wanted)
        items = {item.id: item for item in wanted.items}
        changed = [
            (previous, item_id)
            for previous, item_id in diff.to_update
            if (node := self._remote_chat_ctx.get(item_id)) and getattr(node.item, "content", None)
        ]
        waiting = {}
        for item_id in [*diff.to_remove, *(item_id for _, item_id in changed)]:
            waiting[f"-{item_id}"] = self._expect(f"-{item_id}")
            self.send_event(
                {
                    "type": "conversation.item.delete",
                    "event_id": f"-{item_id}",
                    "item_id": item_id,
                }
            )
        for previous, item_id in [*diff.to_create, *changed]:
            waiting[f"+{item_id}"] = self._expect(f"+{item_id}")
            self._send_create(previous or "root", livekit_item_to_openai_item(items[item_id]))
        return waiting

    def _send_create(self, previous: str, item: Event) -> None:
        self.send_event(
            {
                "type": "conversation.item.create",
                "event_id": f"+{item['id']}",
                "previous_item_id": previous,
                "item": item,
            }
        )

    def _replace_text(self, item_id: str, text: str) -> None:
        items = self.chat_ctx.items
        for index, item in enumerate(items):
            if item.id == item_id and isinstance(item, ChatMessage):
                changed = ChatMessage(id=item.id, role=item.role, content=[text])
                self.send_event({"type": "conversation.item.delete", "item_id": item_id})
                previous = items[index - 1].id if index else "root"
                self._send_create(previous, livekit_item_to_openai_item(changed))

    def _expect(self, key: str) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        self._acks[key] = future
        return future

    def _send_audio(self, frame: rtc.AudioFrame) -> None:
        self._pushed += frame.duration
        audio = base64.b64encode(frame.data.tobytes()).decode()
        self.send_event({"type": "input_audio_buffer.append", "audio": audio})

    def _resample(self, frame: rtc.AudioFrame) -> list[rtc.AudioFrame]:
        if frame.sample_rate == SAMPLE_RATE and frame.num_channels == NUM_CHANNELS:
            return [frame]
        if self._resampler is None:
            self._resampler = rtc.AudioResampler(
                frame.sample_rate, SAMPLE_RATE, num_channels=NUM_CHANNELS
            )
        return list(self._resampler.push(frame))

    # -- events in

    def _handle(self, event: Event) -> None:
        kind = event["type"]
        generation = self._current_generation
        if kind == "response.created":
            self._handle_response_created(event)
        elif kind == "response.done":
            self._handle_response_done(event)
        elif kind.startswith("response.") and generation is not None:
            self._handle_response_part(kind, event, generation)
        elif kind == "input_audio_buffer.speech_started":
            self._speech_started[event["item_id"]] = time.time()
            self.emit("input_speech_started", InputSpeechStartedEvent())
        elif kind == "input_audio_buffer.speech_stopped":
            self.emit(
                "input_speech_stopped",
                InputSpeechStoppedEvent(self._opts.transcription is not None),
            )
        elif kind in ("conversation.item.added", "conversation.item.created"):
            self._handle_conversion_item_added(event)
        elif kind == "conversation.item.deleted":
            if self._remote_chat_ctx.get(event["item_id"]):
                self._remote_chat_ctx.delete(event["item_id"])
            self._confirm(f"-{event['item_id']}")
        elif kind.startswith("conversation.item.input_audio_transcription."):
            self._handle_transcription(kind.rpartition(".")[2], event)
        elif kind == "error":
            self._handle_error(event.get("error") or {})

    def _handle_response_created(self, event: Event) -> None:
        response = event["response"]
        client_id = (response.get("metadata") or {}).get("client_event_id")
        if client_id in self._dropped:
            self._dropped.discard(client_id)
            self.send_event({"type": "response.cancel", "response_id": response["id"]})
            return
        self._close_current_generation()
        reply = self._replies.pop(client_id, None) if client_id else None
        generation = Generation(response["id"], user_initiated=reply is not None)
        self._current_generation = generation
        self.emit("generation_created", generation.event)
        if reply is not None and not reply.done():
            reply.set_result(generation.event)

    def _handle_response_part(self, kind: str, event: Event, generation: Generation) -> None:
        if event.get("response_id", generation.response_id) != generation.response_id:
            return
        if kind == "response.output_item.added":
            if event["item"]["type"] == "message":
                generation.open_message(event["item"]["id"])
        elif kind == "response.content_part.added":
            message = generation.messages[event["item_id"]]
            text_only = event["part"]["type"] in ("text", "output_text")
            message.resolve(["text"] if text_only else ["audio", "text"])
        elif kind in ("response.output_text.delta", "response.text.delta"):
            generation.add_text(event, spoken=False)
        elif kind in ("response.output_audio_transcript.delta", "response.audio_transcript.delta"):
            generation.add_text(event, spoken=True)
        elif kind in ("response.output_audio.delta", "response.audio.delta"):
            generation.add_audio(event)
        elif kind == "response.output_item.done":
            generation.finish_item(event["item"])

    def _handle_response_done(self, event: Event) -> None:
        generation, response = self._current_generation, event["response"]
        if generation is None or generation.response_id != response["id"]:
            return
        for message in generation.messages.values():
            node = self._remote_chat_ctx.get(message.message_id)
            if node and isinstance(node.item, ChatMessage) and message.audio_transcript:
                node.item.content = [message.audio_transcript]
        self._close_current_generation()
        self._emit_usage(generation, response)
        if response.get("status") == "completed":
            self._retry.reset()
        if response.get("status") == "failed":
            error = (response.get("status_details") or {}).get("error") or {}
            self._handle_error(error)

    def _handle_conversion_item_added(self, event: Event) -> None:
        item = openai_item_to_livekit_item(event["item"])
        previous = event.get("previous_item_id")
        if previous is None or not self._remote_chat_ctx.get(previous):
            previous = None if previous == "root" else self._remote_chat_ctx.tail_id
        if not self._remote_chat_ctx.get(item.id):
            self._remote_chat_ctx.insert(previous, item)
            self.emit("remote_item_added", RemoteItemAddedEvent(previous, item))
        self._confirm(f"+{item.id}")

    def _handle_transcription(self, step: str, event: Event) -> None:
        item_id = event["item_id"]
        heard = self._partials.get(item_id, "")
        confidence = None
        if step == "delta":
            heard = self._partials[item_id] = heard + (event.get("delta") or "")
        else:
            self._partials.pop(item_id, None)
            if step == "completed":
                heard = event["transcript"]
                confidence = calculate_confidence_from_logprobs(event.get("logprobs"))
                node = self._remote_chat_ctx.get(item_id)
                if node and isinstance(node.item, ChatMessage):
                    node.item.content = [heard]
        if heard or step == "completed":
            self.emit(
                "input_audio_transcription_completed",
                InputTranscriptionCompleted(
                    item_id=item_id,
                    transcript=heard,
                    is_final=step != "delta",
                    confidence=confidence,
                    turn_started_at=self._speech_started.get(item_id),
                ),
            )

    def _handle_error(self, error: Event) -> None:
        message, event_id = str(error.get("message") or "unknown error"), error.get("event_id")
        if message.startswith("Cancellation failed"):
            return
        if event_id and event_id in self._replies:
            failed = RealtimeError(message, code=error.get("code"))
            self._replies.pop(event_id).set_exception(failed)
            return
        if event_id and event_id in self._acks:
            logger.warning("the server rejected an item of the chat context: %s", message)
            self._confirm(event_id)
            return
        self._emit_error(APIError(message, body=error), recoverable=True)

    # -- state

    def _confirm(self, key: str) -> None:
        future = self._acks.get(key)
        if future is not None and not future.done():
            future.set_result(None)

    def _close_current_generation(self) -> None:
        generation, self._current_generation = self._current_generation, None
        if generation is not None:
            generation.end()

    def _fail_pending(self, reason: str) -> None:
        waiting: list[asyncio.Future[Any]] = [*self._replies.values(), *self._acks.values()]
        self._replies.clear()
        self._acks.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(RealtimeError(reason))
                future.exception()  # whoever waits still gets it; nobody has to

    def _reply_timed_out(self, event_id: str) -> None:
        future = self._replies.pop(event_id, None)
        if future is not None and not future.done():
            self._dropped.add(event_id)
            future.set_exception(RealtimeError("the server did not answer generate_reply in time"))

    def _reply_over(
        self,
        event_id: str,
        future: asyncio.Future[GenerationCreatedEvent],
        timer: asyncio.TimerHandle,
    ) -> None:
        timer.cancel()
        self._replies.pop(event_id, None)
        if future.cancelled():
            self._dropped.add(event_id)
            self.send_event({"type": "response.cancel"})

    def _emit_error(self, error: Exception, *, recoverable: bool) -> None:
        if self._closing:
            return
        self.emit(
            "error",
            RealtimeModelError(
                timestamp=time.time(),
                label=self._model.label,
                error=error,
                recoverable=recoverable,
            ),
        )

    def _emit_usage(self, generation: Generation, response: Event) -> None:
        usage = response.get("usage") or {}
        given, made = usage.get("input_token_details") or {}, usage.get("output_token_details")
        duration = time.time() - generation.created_at
        first = generation.first_token_at
        self.emit(
            "metrics_collected",
            RealtimeModelMetrics(
                timestamp=generation.created_at,
                request_id=generation.response_id,
                label=self._model.label,
                ttft=-1 if first is None else first - generation.created_at,
                duration=duration,
                cancelled=response.get("status") == "cancelled",
                input_tokens=usage.get("input_tokens") or 0,
                output_tokens=usage.get("output_tokens") or 0,
                total_tokens=usage.get("total_tokens") or 0,
                tokens_per_second=(usage.get("output_tokens") or 0) / duration if duration else 0,
                input_token_details=RealtimeModelMetrics.InputTokenDetails.model_validate(given),
                output_token_details=RealtimeModelMetrics.OutputTokenDetails.model_validate(
                    made or {}
                ),
                metadata=Metadata(**self._model.metrics_metadata),
            ),
        )
