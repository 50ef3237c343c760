"""The server's end of a WebSocket, with the faults of its connection at work."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

from livekit.agents.utils.aio import TaskScope

from .faults import Fault
from .records import ConnectionRecord

_CHATTER_INTERVAL = 0.1
_KINDS_WITH_A_STRIKE = frozenset(
    {
        "drop",
        "half_open",
        "stall_reads",
        "stall_writes",
        "malformed",
        "unknown_messages",
        "huge_frame",
        "error",
        "closed_early",
    }
)


class HungUp(Exception):
    """The connection is over for the route that serves it."""


class _BlackHole(asyncio.Protocol):
    """Swallows what comes, and lets the server know when the connection is gone."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def connection_lost(self, exc: Exception | None) -> None:
        self._original.connection_lost(exc)


class JsonDialect:
    """How a route says what has no place in its conversation."""

    def error(self, code: int | str, text: str, session_id: str, body: Any) -> str | bytes:
        """Something failed."""
        fields = {"type": "error", "message": text, "session_id": session_id}
        return json.dumps({**fields, **(body or {}), "code": code})

    def closed(self) -> str | bytes:
        """The session is over."""
        return '{"type":"session.closed"}'

    def unknown(self, number: int) -> str | bytes:
        """A message of a type that nobody has heard of."""
        return json.dumps({"type": f"future.{number}", "transcript": "no"})


def swallow(transport: asyncio.Transport | None) -> None:
    """Let nothing that comes over a connection reach the server any more."""
    if transport is not None:
        transport.set_protocol(_BlackHole(transport.get_protocol()))


class Wire:
    """Receives and sends text for one route, and breaks things when their time has come."""

    def __init__(
        self, request: web.Request, ws: web.WebSocketResponse, record: ConnectionRecord
    ) -> None:
        self._request = request
        self._ws = ws
        self.record = record
        self.fault: Fault | None = None
        self._struck = False
        self._mute = False
        self._deaf = False
        self._dead = asyncio.get_running_loop().create_future()
        self._received = 0
        self._scope = TaskScope("wire")
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_at = 0.0
        self._held_final: str | None = None
        self._finals_seen = 0
        self.dialect = JsonDialect()
        self.session_id = "session_1"
        self.segments = 0
        """Utterances that were spoken to their end."""

    def has(self, kind: str) -> bool:
        """Whether this fault is on."""
        return self.fault is not None and self.fault.kind == kind

    def meet(self, fault: Fault) -> None:
        """Have this fault from now on."""
        self.fault = fault
        self._struck = False

    def break_now(self, fault: Fault) -> None:
        """Have this fault at once, without waiting for a message of the client."""
        self.fault, self._struck = fault, True

        async def strike() -> None:
            with contextlib.suppress(HungUp, asyncio.CancelledError):
                await self._strike(fault)

        if not self._scope.closed:
            self._scope.spawn(strike())

    # -- receiving --------------------------------------------------------------------------------

    async def receive(self) -> str | bytes:
        """The client's next message.

        Raises:
            HungUp: There is none: the client has closed, or the connection is broken.
        """
        if self._deaf:
            await self._dead
        self._watch_idleness()
        message = await self._ws.receive()
        while message.type in (WSMsgType.PING, WSMsgType.PONG):
            if message.type is WSMsgType.PING and not self._deaf:
                await self._ws.pong(message.data)
            message = await self._ws.receive()
        if self._deaf:
            await self._dead
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            self._received += 1
            self.record.bytes_in += len(message.data)
            return message.data  # type: ignore[no-any-return]
        if message.type is WSMsgType.CLOSE:
            self._note_close(message.data, "client")
            if self.has("no_close_reply"):
                self.fall_silent(quit_reading=True)
                await self._dead
            await self._ws.close()
        else:
            self._note_close(self._ws.close_code, "lost")
        raise HungUp

    def _note_close(self, code: int | None, by: str) -> None:
        if self.record.closed_by is None:
            self.record.close_code, self.record.closed_by = code, by

    async def progress(self) -> None:
        """Called by the route after each message of the client: is it time to break something?

        Raises:
            HungUp: The connection is over.
        """
        fault = self.fault
        if (
            fault is None
            or self._struck
            or fault.kind not in _KINDS_WITH_A_STRIKE
            or self._received < fault.after_messages
            or self.record.audio_seconds < fault.after_audio
            or self.segments < fault.after_segments
        ):
            return
        self._struck = True
        await self._strike(fault)

    async def _strike(self, fault: Fault) -> None:
        options = fault.options
        if fault.kind == "drop":
            await self.hang_up(options["how"], options.get("reason") or "")
        elif fault.kind == "half_open":
            self.fall_silent(quit_reading=True)
            await self._dead
        elif fault.kind == "stall_reads":
            self._deaf = self._mute = True
            transport = self._request.transport
            if transport is not None:
                transport.pause_reading()
                self._scope.spawn(self._resume_when_forgotten(transport))
            await self._dead
        elif fault.kind == "stall_writes":
            self._mute = True
        elif fault.kind == "malformed":
            for _ in range(options["times"]):
                await self.send_raw(options["payload"])
        elif fault.kind == "unknown_messages":
            for n in range(3):
                await self.send_raw(self.dialect.unknown(n))
        elif fault.kind == "huge_frame":
            await self.send_raw('{"type":"x","pad":"' + "x" * (5 * 1024 * 1024) + '"}')
        elif fault.kind == "error":
            await self._send_error(fault)
        elif fault.kind == "closed_early":
            await self.send_raw(self.dialect.closed())
            await self.hang_up(1000)

    async def _resume_when_forgotten(self, transport: Any) -> None:
        """A server that does not read can't see the end; look for it now and then."""
        while not transport.is_closing():
            await asyncio.sleep(1.0)
            transport.resume_reading()
            await asyncio.sleep(0.1)
            if not transport.is_closing():
                transport.pause_reading()

    async def _send_error(self, fault: Fault) -> None:
        code, then = fault.options["code"], fault.options["then"]
        await self.send_error(code, fault.options.get("body"))
        if then == "close":
            await self.hang_up(1000)
        self._mute = True
        if then == "chatter":
            self._scope.spawn(self._chatter())

    async def send_error(self, code: int | str, body: Any = None) -> None:
        """Send an error message."""
        text = "session closed due to agent inactivity" if str(code) == "2007" else "failed"
        await self.send_raw(self.dialect.error(code, text, self.session_id, body))

    async def _chatter(self) -> None:
        while True:
            await asyncio.sleep(_CHATTER_INTERVAL)
            try:
                await self._ws.send_str('{"type":"keepalive"}')
            except (ConnectionError, RuntimeError):
                return

    # -- the end ----------------------------------------------------------------------------------

    def fall_silent(self, *, quit_reading: bool) -> None:
        """Be as a peer that is not there any more: no answer to anything, not even to a ping."""
        self._mute = True
        if quit_reading:
            swallow(self._request.transport)

    async def hang_up(self, how: str | int, reason: str = "") -> None:
        """End the connection: ``"abort"``, ``"fin"`` or a close code.

        Raises:
            HungUp: Always.
        """
        transport = self._request.transport
        self._mute = True
        if isinstance(how, int):
            self._note_close(how, "server")
            await self._ws.close(code=how, message=reason.encode())
        else:
            self._note_close(None, "server")
            if transport is not None and how == "abort":
                transport.abort()
            elif transport is not None:
                transport.close()
        raise HungUp

    def release(self) -> None:
        """The connection is over."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._scope.cancel_soon()
        if not self._dead.done():
            self._dead.cancel()

    def kill(self) -> None:
        """Cut the connection, now."""
        transport = self._request.transport
        if transport is not None:
            transport.abort()

    # -- idleness ---------------------------------------------------------------------------------

    def _watch_idleness(self) -> None:
        if self.fault is None or self.fault.kind != "idle_recycle":
            return
        loop = asyncio.get_running_loop()
        self._idle_at = loop.time() + self.fault.options["after"]
        if self._idle_timer is None:
            self._idle_timer = loop.call_at(self._idle_at, self._on_idle_timer)

    def _on_idle_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._idle_timer = None
        if loop.time() < self._idle_at:
            self._idle_timer = loop.call_at(self._idle_at, self._on_idle_timer)
        elif not self._scope.closed:
            self._scope.spawn(self._recycle())

    async def _recycle(self) -> None:
        assert self.fault is not None
        variant = self.fault.options["variant"]
        try:
            if variant != "close_only":
                await self.send_error(self.fault.options["code"])
            self._mute = True
            if variant != "error_only":
                self._note_close(1000, "server")
                reason = b"session closed due to agent inactivity"
                await self._ws.close(message=reason if variant == "close_only" else b"")
        except (ConnectionError, RuntimeError):
            pass

    # -- sending ----------------------------------------------------------------------------------

    async def send(self, text: str) -> None:
        """Send a message, as the fault lets it through."""
        fault = self.fault
        if fault is None:
            await self.send_raw(text)
        else:
            for message in self._disturb(fault, text):
                await self.send_raw(message)

    def _disturb(self, fault: Fault, text: str) -> list[str]:
        fields = json.loads(text)
        final = fields["type"] == "final_transcript"
        if fault.kind == "null_fields":
            keep = ("type", "audio")
            if final or fields["type"].endswith("_transcript"):
                keep = ("type", "transcript", "start", "duration")
            return [json.dumps({k: v if k in keep else None for k, v in fields.items()})]
        if fault.kind == "duplicate_finals" and final:
            return [text, text]
        if fault.kind == "no_session_id":
            fields.pop("session_id", None)
            return [json.dumps(fields)]
        if fault.kind == "wrong_order" and fields["type"] == "start_of_speech":
            return []
        if fault.kind == "swapped_finals" and final:
            return self._swap(text)
        return [text]

    def _swap(self, final: str) -> list[str]:
        if self._held_final is None:
            self._held_final = final
            return []
        held, self._held_final = self._held_final, None
        return [final, held]

    async def flush_held(self) -> None:
        """Send what a fault holds back."""
        if self._held_final is not None:
            held, self._held_final = self._held_final, None
            await self.send_raw(held)

    async def send_raw(self, data: str | bytes) -> None:
        """Send this, whatever it is."""
        if self._mute or self._ws.closed:
            return
        self.record.bytes_out += len(data)
        try:
            if isinstance(data, bytes):
                await self._ws.send_bytes(data)
            else:
                await self._ws.send_str(data)
        except (ConnectionError, RuntimeError):
            return
        self.record.sent.append(_kind_of(data))


def _kind_of(data: str | bytes) -> str:
    if isinstance(data, bytes):
        return "binary"
    try:
        fields = json.loads(data)
    except ValueError:
        return "malformed"
    return str(fields.get("type")) if isinstance(fields, dict) else "malformed"


RouteHandler = Callable[[Wire], Any]
