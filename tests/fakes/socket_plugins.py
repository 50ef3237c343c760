"""Clients of `SpeechServer`, written the way a provider's plugin is: on our base classes alone.

`Manners` says how badly their streams behave when they are closed.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
from livekit import rtc

from livekit.agents import APIConnectionError, APIStatusError, llm, stt, tts, utils
from livekit.agents.language import LanguageCode
from livekit.agents.types import (
    DEFAULT_API_CONNECT_OPTIONS,
    NOT_GIVEN,
    APIConnectOptions,
    NotGivenOr,
)
from livekit.agents.utils.aio import TaskScope

from .realtime import CAPABILITIES, FakeGeneration, FakeMessage
from .socket_server import SAMPLE_RATE

RECONNECT_DELAY = 60.0
"""Seconds after which the realtime session dials again."""


@dataclass
class Manners:
    """What goes wrong when a client is closed."""

    closing: Literal["well", "aclose hangs", "cleanup hangs", "ignores cancellation"] = "well"
    socket: Literal["closed", "forgotten", "kept", "shared"] = "closed"
    """What becomes of the socket of an STT stream that ends: it is left open and nobody knows it
    any more, kept for the model's next stream, or read by a task of the model for all streams."""
    free: asyncio.Event = field(default_factory=asyncio.Event)
    """Set it to let whatever hangs end, so that a test can end."""

    async def at_cleanup(self) -> None:
        """What `_run` does when it ends, while its socket is still open."""
        if self.closing == "cleanup hangs":
            await self.free.wait()
        while self.closing == "ignores cancellation" and not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                pass

    async def at_aclose(self) -> None:
        """What `aclose` does before it closes anything."""
        if self.closing == "aclose hangs":
            await self.free.wait()


class connected:
    """A websocket for the time of the block; a failure to connect becomes an API error."""

    def __init__(self, url: str, options: APIConnectOptions) -> None:
        self._url, self._options = url, options

    async def __aenter__(self) -> aiohttp.ClientWebSocketResponse:
        session = utils.http_context.http_session()
        try:
            self._socket = await asyncio.wait_for(
                session.ws_connect(self._url), self._options.timeout
            )
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise APIConnectionError("failed to connect") from error
        return self._socket

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()


def hung_up(
    socket: aiohttp.ClientWebSocketResponse, last: aiohttp.WSMessage | None = None
) -> APIStatusError:
    """The error for a connection that the server ended."""
    code = socket.close_code or -1
    if last is not None:
        # aiohttp takes a code that no standard assigns, such as 2007, for a broken frame
        assigned = re.search(r"close code: (\d+)", str(last.data))
        code = int(assigned.group(1)) if assigned else code
    return APIStatusError("the server closed the connection", status_code=code, retryable=True)


# -- STT --------------------------------------------------------------------------------------------


class SocketSTT(stt.STT[Any]):
    """Recognizes what the server says it heard."""

    def __init__(self, url: str, manners: Manners) -> None:
        super().__init__(capabilities=stt.STTCapabilities(streaming=True, interim_results=True))
        self.url, self.manners = f"{url}/stt", manners
        self.streams = 0
        self.socket: aiohttp.ClientWebSocketResponse | None = None
        self.listener: Callable[[aiohttp.WSMessage], None] = lambda message: None
        self._readers = TaskScope("socket stt")

    async def open_socket(self, options: APIConnectOptions) -> aiohttp.ClientWebSocketResponse:
        """A socket that no stream closes: a new one, or the one that is kept or shared."""
        if self.socket is not None and self.manners.socket != "forgotten":
            return self.socket
        self.socket = await connected(self.url, options).__aenter__()
        if self.manners.socket == "shared":
            self._readers.spawn(self._read(self.socket))
        return self.socket

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            self.listener(message)

    async def aclose(self) -> None:
        """End the shared connection."""
        if self.socket is not None:
            await self.socket.close()
        await self._readers.cancel(1.0)

    async def _recognize_impl(self, *_: Any, **__: Any) -> stt.SpeechEvent:
        raise NotImplementedError("this recognizer only streams")

    def stream(
        self,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> stt.RecognizeStream:
        self.streams += 1
        return SocketRecognizeStream(stt=self, conn_options=conn_options, sample_rate=16000)


class SocketRecognizeStream(stt.RecognizeStream):
    """One connection per attempt; ends when the server hangs up or the input ends."""

    _stt: SocketSTT

    async def _run(self) -> None:
        if self._stt.manners.socket != "closed":
            await self._talk(await self._stt.open_socket(self._conn_options))
            return
        async with connected(self._stt.url, self._conn_options) as socket:
            self._report_connection_acquired(0.01, False)
            try:
                await self._talk(socket)
            finally:
                await self._stt.manners.at_cleanup()

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        scope = TaskScope("socket stt")
        sending = scope.spawn(self._send(socket), log_errors=False)
        receiving = scope.spawn(self._receive(socket), log_errors=False)
        try:
            done, _ = await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await scope.cancel(1.0)

    async def _send(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for item in self._input_ch:
            if isinstance(item, rtc.AudioFrame):
                await socket.send_bytes(item.data.tobytes())
            else:
                await socket.send_json({"type": "finalize"})

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        if self._stt.manners.socket == "shared":
            self._stt.listener = self._take
            await asyncio.get_running_loop().create_future()
        async for message in socket:
            if message.type is aiohttp.WSMsgType.ERROR:
                raise hung_up(socket, message)
            self._take(message)
        raise hung_up(socket)

    def _take(self, message: aiohttp.WSMessage) -> None:
        said = json.loads(message.data)
        kind = stt.SpeechEventType
        self._event_ch.send_nowait(
            stt.SpeechEvent(
                type=kind.FINAL_TRANSCRIPT if said["final"] else kind.INTERIM_TRANSCRIPT,
                alternatives=[stt.SpeechData(language=LanguageCode("en"), text=said["text"])],
            )
        )

    async def aclose(self) -> None:
        await self._stt.manners.at_aclose()
        await super().aclose()


# -- TTS --------------------------------------------------------------------------------------------


class SocketTTS(tts.TTS[Any]):
    """Speaks silence. With `pooled`, connections are kept for the next utterance."""

    def __init__(self, url: str, manners: Manners, *, pooled: bool = False) -> None:
        super().__init__(
            capabilities=tts.TTSCapabilities(streaming=True),
            sample_rate=SAMPLE_RATE,
            num_channels=1,
        )
        self.url, self.manners = f"{url}/tts", manners
        self.pool: utils.ConnectionPool[aiohttp.ClientWebSocketResponse] | None = None
        if pooled:
            self.pool = utils.ConnectionPool(connect_cb=self._dial, close_cb=self._hang_up)

    async def _dial(self, timeout: float) -> aiohttp.ClientWebSocketResponse:
        session = utils.http_context.http_session()
        return await asyncio.wait_for(session.ws_connect(self.url), timeout)

    async def _hang_up(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        await socket.close()

    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> tts.ChunkedStream:
        raise NotImplementedError("this voice only streams")

    def stream(
        self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> tts.SynthesizeStream:
        return SocketSynthesizeStream(tts=self, conn_options=conn_options)

    async def aclose(self) -> None:
        if self.pool is not None:
            await self.pool.aclose()


class SocketSynthesizeStream(tts.SynthesizeStream):
    """One utterance on one connection."""

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        voice = self._tts
        assert isinstance(voice, SocketTTS)
        output_emitter.initialize(
            request_id=utils.shortuuid(),
            sample_rate=SAMPLE_RATE,
            num_channels=1,
            mime_type="audio/pcm",
            stream=True,
        )
        dialled = (
            connected(voice.url, self._conn_options)
            if voice.pool is None
            else voice.pool.connection(timeout=self._conn_options.timeout)
        )
        async with dialled as socket:
            try:
                await self._speak(socket, output_emitter)
            finally:
                await voice.manners.at_cleanup()

    async def _speak(
        self, socket: aiohttp.ClientWebSocketResponse, emitter: tts.AudioEmitter
    ) -> None:
        emitter.start_segment(segment_id=utils.shortuuid())
        scope = TaskScope("socket tts")
        scope.spawn(self._send(socket))
        try:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    emitter.push(message.data)
                else:
                    emitter.end_segment()
                    return
            raise hung_up(socket)
        finally:
            await scope.cancel(1.0)

    async def _send(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for item in self._input_ch:
            if isinstance(item, str):
                self._mark_started()
                await socket.send_json({"type": "speak", "text": item})
        await socket.send_json({"type": "end"})

    async def aclose(self) -> None:
        voice = self._tts
        assert isinstance(voice, SocketTTS)
        await voice.manners.at_aclose()
        await super().aclose()


# -- realtime -----------------------------------------------------------------------------------------


class SocketRealtime(llm.RealtimeModel):
    """Says what the server says."""

    def __init__(self, url: str, manners: Manners) -> None:
        super().__init__(capabilities=CAPABILITIES)
        self.url, self.manners = f"{url}/realtime", manners

    def session(self, *, turn_detection_disabled: bool = False) -> llm.RealtimeSession[Any]:
        return SocketRealtimeSession(self)

    async def aclose(self) -> None:
        """Nothing to release."""


class SocketRealtimeSession(llm.RealtimeSession[Any]):
    """One connection, dialled again whenever it breaks, until the session is closed."""

    def __init__(self, model: SocketRealtime) -> None:
        super().__init__(model)
        self._model = model
        self._chat_ctx = llm.ChatContext.empty()
        self._tools = llm.ToolContext.empty()
        self._outbox: utils.aio.Chan[bytes | dict[str, Any]] = utils.aio.Chan()
        self._asked: dict[str, asyncio.Future[llm.GenerationCreatedEvent]] = {}
        self._generation: FakeGeneration | None = None
        self._message: FakeMessage | None = None
        self._scope = TaskScope("socket realtime session")
        self._scope.spawn(self._main())

    async def _main(self) -> None:
        while not self._model.manners.free.is_set():
            try:
                async with connected(self._model.url, DEFAULT_API_CONNECT_OPTIONS) as socket:
                    try:
                        await self._talk(socket)
                    finally:
                        await self._model.manners.at_cleanup()
            except APIConnectionError:
                pass
            self._end_generation()
            await asyncio.sleep(RECONNECT_DELAY)

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        scope = TaskScope("socket realtime connection")
        scope.spawn(self._send(socket))
        try:
            async for message in socket:
                self._take(message)
        finally:
            await scope.cancel(1.0)

    async def _send(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for item in self._outbox:
            if isinstance(item, bytes):
                await socket.send_bytes(item)
            else:
                await socket.send_json(item)

    def _take(self, message: aiohttp.WSMessage) -> None:
        if message.type is aiohttp.WSMsgType.ERROR:
            raise APIConnectionError("the connection is broken")
        if message.type is aiohttp.WSMsgType.BINARY:
            assert self._message is not None
            self._message.audio.send_nowait(
                rtc.AudioFrame(message.data, SAMPLE_RATE, 1, len(message.data) // 2)
            )
            return
        said = json.loads(message.data)
        if said["type"] == "begin":
            self._begin(said["id"])
        elif said["type"] == "text":
            assert self._message is not None
            self._message.text.send_nowait(said["text"])
        else:
            self._end_generation()

    def _begin(self, request_id: str) -> None:
        asked = self._asked.pop(request_id)
        if asked.done():
            return
        self._generation = FakeGeneration(user_initiated=True)
        self._message = self._generation.open_message()
        self._message.modalities.set_result(["audio", "text"])
        self.emit("generation_created", self._generation.event)
        asked.set_result(self._generation.event)

    def _end_generation(self) -> None:
        if self._generation is not None:
            self._generation.end()
        self._generation = self._message = None

    @property
    def chat_ctx(self) -> llm.ChatContext:
        return self._chat_ctx.copy()

    @property
    def tools(self) -> llm.ToolContext:
        return self._tools.copy()

    async def update_instructions(self, instructions: str) -> None:
        """The server has no use for them."""

    async def update_chat_ctx(self, chat_ctx: llm.ChatContext) -> None:
        self._chat_ctx = chat_ctx.copy()

    async def update_tools(self, tools: list[llm.Tool]) -> None:
        self._tools = llm.ToolContext(tools)

    def update_options(self, **_: Any) -> None:
        """It has none."""

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        if not self._outbox.closed:
            self._outbox.send_nowait(frame.data.tobytes())

    def push_video(self, frame: rtc.VideoFrame) -> None:
        """It doesn't see."""

    def generate_reply(self, **_: Any) -> asyncio.Future[llm.GenerationCreatedEvent]:
        future: asyncio.Future[llm.GenerationCreatedEvent] = (
            asyncio.get_running_loop().create_future()
        )
        request_id = utils.shortuuid()
        self._asked[request_id] = future
        self._outbox.send_nowait({"type": "respond", "id": request_id})
        return future

    def commit_audio(self) -> None:
        """The server finds turns by itself."""

    def clear_audio(self) -> None:
        """As above."""

    def interrupt(self) -> None:
        self._end_generation()

    def truncate(self, **_: Any) -> None:
        """The server keeps no history."""

    async def aclose(self) -> None:
        await self._model.manners.at_aclose()
        self._outbox.close()
        self._end_generation()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(llm.RealtimeError("the session is closed"))
        await self._scope.cancel(1.0)
