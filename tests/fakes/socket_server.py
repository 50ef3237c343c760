"""A provider of speech on loopback: one aiohttp server with an STT, a TTS and a realtime model.

It counts connections where they can't be hidden: at its own side of the wire. It can refuse, not
answer a handshake, not answer a goodbye, fall silent in the middle of an answer, and hang up.

The protocol is small. STT: audio comes as binary messages, transcripts go as JSON. TTS: text comes
as JSON, audio goes as binary messages and `{"type": "done"}`. Realtime: audio comes as binary
messages and `{"type": "respond"}` as JSON; a response is `begin`, text and audio, `end`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

SAMPLE_RATE = 24000
CHUNK = bytes(2 * SAMPLE_RATE // 10)
"""100 ms of silence."""


@dataclass(eq=False)
class Call:
    """One connection that a client asked for."""

    kind: str
    transport: asyncio.Transport
    socket: web.WebSocketResponse | None = None
    close_code: int | None = None
    heard: list[dict[str, Any]] = field(default_factory=list)
    """JSON messages of the client."""
    audio_bytes: int = 0

    @property
    def open(self) -> bool:
        """Whether the TCP connection stands, whatever the two ends have said to each other."""
        return not self.transport.is_closing()


class SpeechServer:
    """See the module. Its attributes may be changed at any moment.

    Attributes:
        refuses: Status to answer handshakes with.
        holds_handshakes: The TCP connection is accepted and nothing else happens.
        ignores_goodbyes: It stops reading once connected, so close frames are never answered.
        falls_silent: Answers begin and never go on.
        reply: Text of the realtime model's answers.
    """

    def __init__(self) -> None:
        self.refuses: int | None = None
        self.holds_handshakes = False
        self.ignores_goodbyes = False
        self.falls_silent = False
        self.reply = "at your service"
        self.calls: list[Call] = []
        self.url = ""
        self._closing = asyncio.Event()

    def of(self, kind: str) -> list[Call]:
        """All connections to "stt", "tts" or "realtime", in order."""
        return [call for call in self.calls if call.kind == kind]

    @property
    def open(self) -> list[str]:
        """The kinds of the connections that stand now."""
        return [call.kind for call in self.calls if call.open]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[SpeechServer]:
        """Serve on a free port for the time of the block."""
        app = web.Application()
        app.router.add_get("/{kind}", self._serve)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            self._closing.set()
            await runner.cleanup()

    # -- what a test makes it do ------------------------------------------------------------------

    async def hear(self, text: str, *, final: bool = True) -> None:
        """Send a transcript to whoever listens."""
        for call in self.of("stt"):
            if call.open and call.socket is not None:
                await call.socket.send_json({"type": "transcript", "text": text, "final": final})

    async def hang_up(self, kind: str, *, code: int, reason: str = "") -> None:
        """End the open connections of a kind with a close code."""
        for call in self.of(kind):
            if call.open and call.socket is not None:
                await call.socket.close(code=code, message=reason.encode())

    # -- serving ----------------------------------------------------------------------------------

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        call = Call(request.match_info["kind"], request.transport)
        self.calls.append(call)
        if self.refuses is not None:
            refusal = web.Response(status=self.refuses)
            refusal.force_close()
            return refusal
        if self.holds_handshakes:
            await self._closing.wait()
            return web.Response(status=503)
        call.socket = socket = web.WebSocketResponse(timeout=0.5)
        await socket.prepare(request)
        if self.ignores_goodbyes:
            await self._closing.wait()
            return socket
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                call.audio_bytes += len(message.data)
                continue
            said = json.loads(message.data)
            call.heard.append(said)
            await self._answer(call.kind, socket, said)
        call.close_code = socket.close_code
        return socket

    async def _answer(self, kind: str, socket: web.WebSocketResponse, said: dict[str, Any]) -> None:
        if kind == "tts" and said["type"] == "speak":
            await socket.send_bytes(CHUNK)
        elif kind == "tts" and not self.falls_silent:
            await socket.send_json({"type": "done"})
        elif kind == "realtime":
            await socket.send_json({"type": "begin", "id": said["id"]})
            await socket.send_json({"type": "text", "text": self.reply})
            await socket.send_bytes(CHUNK)
            if not self.falls_silent:
                await socket.send_json({"type": "end"})
