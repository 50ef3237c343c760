"""The route ``/live/sessions``: a model that listens and speaks at once, by the GPT-Live protocol.

It understands tones, and speaks when a script tells it to. Between words its output is silence.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

from livekit.agents.inference._protocol.stt import Transcript
from livekit.agents.utils.aio import TaskScope

from .wire import Wire

if TYPE_CHECKING:
    from .server import GatewayEmulator

RATE = 24000
PIECE = 0.1
Event = dict[str, Any]


class LiveSession:
    """One connection."""

    def __init__(self, route: LiveRoute, wire: Wire) -> None:
        self.wire = wire
        self.config: Event = {}
        self.appended: list[tuple[str, str, str | None]] = []
        """What was appended: instructions, thinking or commentary, the text, the delegation."""
        self.items: list[Event] = []
        self.continued = 0
        """How often the model that thinks was told to go on."""
        self.muted = False
        self._route = route
        self._scope = TaskScope("live session")
        self._recognizer: Any = None
        self._pending = bytearray()
        self._seconds = 0.0
        self._heard = 0
        self._started = False

    @property
    def kinds(self) -> list[str]:
        """Types of the client's events, audio left out."""
        return [event["type"] for _, event in self.wire.record.messages]

    async def run(self) -> None:
        """Serve the connection."""
        try:
            await self.wire.progress()
            while True:
                event = json.loads(await self.wire.receive())
                if event["type"] != "session.input_audio.append":
                    now = asyncio.get_running_loop().time()
                    self.wire.record.messages.append((now, event))
                await self._answer(event)
                await self.wire.progress()
        finally:
            self._scope.cancel_soon()

    async def send(self, kind: str, **fields: Any) -> None:
        """Send an event."""
        await self.wire.send(json.dumps({"type": kind, **fields}))

    async def _answer(self, event: Event) -> None:
        kind = event["type"]
        if kind == "session.start":
            self.config = event["session"]
            if not self._route.never_starts:
                self._started = True
                await self.send("session.started", session={"id": self.wire.session_id})
                self._scope.spawn(self._speak())
            return
        if not self._started:
            await self.send("error", error={"code": "not_started", "message": f"{kind} too early"})
        elif kind == "session.update":
            self.config["delegation"]["responses"].update(
                event["session"]["delegation"]["responses"]
            )
        elif kind == "session.input_audio.append":
            await self._hear(base64.b64decode(event["audio"]))
        elif kind.startswith("session.input_audio."):
            self.muted = kind.endswith(".mute")
        elif kind.endswith(".append"):
            self.appended.append((kind.split(".")[1], event["text"], event["delegation_id"]))
        elif kind == "response.item.create":
            self.items.append(event["item"])
        elif kind == "response.create":
            self.continued += 1
        elif kind == "session.close":
            await self.send("session.closed", usage={"duration_seconds": self._seconds + 0.5})
            await self.wire.hang_up(1000)

    # -- hearing ----------------------------------------------------------------------------------

    async def _hear(self, pcm: bytes) -> None:
        self.wire.record.audio_seconds += len(pcm) / 2 / RATE
        if self.muted:
            return
        if self._recognizer is None:
            self._recognizer = self._route.emulator.make_recognizer(self._on_heard, RATE, True)
        self._recognizer.feed(pcm)

    def _on_heard(self, message: Any) -> None:
        if isinstance(message, Transcript):
            words = message.text.split()
            fresh, self._heard = words[self._heard :], len(words)
            if message.kind.value == "final_transcript":
                self._heard = 0
            for word in fresh:
                self._scope.spawn(self.send("session.input_transcript.delta", delta=f"{word} "))

    # -- speaking ---------------------------------------------------------------------------------

    async def say(self, text: str) -> None:
        """Speak from now on."""
        start = round(self._seconds * 1000)
        for word in text.split():
            pcm = b"".join([p async for p in self._route.emulator.voice.say(word, RATE)])
            self._pending += pcm
            end = start + round(len(pcm) / 2 / RATE * 1000)
            await self.send(
                "session.output_transcript.delta", delta=f"{word} ", start_ms=start, end_ms=end
            )
            start = end

    async def think(self, *calls: tuple[str, str], response_id: str = "resp_1") -> None:
        """A response of the model that thinks, which calls functions (name, call id)."""
        await self._backend("response.created", response={"id": response_id})
        for name, call_id in calls:
            item = {
                "type": "function_call",
                "id": f"item_{call_id}",
                "call_id": call_id,
                "name": name,
                "arguments": "{}",
            }
            await self._backend("response.output_item.done", item=item)
        usage = {
            "input_tokens": 50,
            "input_tokens_details": {"cached_tokens": 10},
            "output_tokens": 20,
            "output_tokens_details": {"reasoning_tokens": 5},
            "total_tokens": 70,
        }
        await self._backend("response.completed", response={"id": response_id, "usage": usage})

    async def _backend(self, kind: str, **fields: Any) -> None:
        await self.send("response.event", event={"type": kind, **fields})

    async def _speak(self) -> None:
        size = round(PIECE * RATE) * 2
        while True:
            piece = bytes(self._pending[:size])
            del self._pending[:size]
            audio = base64.b64encode(piece + bytes(size - len(piece))).decode()
            start = round(self._seconds * 1000)
            await self.send("session.output_audio.delta", delta=audio, start_ms=start)
            self._seconds += PIECE
            await asyncio.sleep(PIECE)


class LiveRoute:
    """Serves sessions."""

    def __init__(self, emulator: GatewayEmulator) -> None:
        self.emulator = emulator
        self.sessions: list[LiveSession] = []
        """One for each connection."""
        self.never_starts = False

    async def serve(self, wire: Wire) -> None:
        """One session."""
        session = LiveSession(self, wire)
        self.sessions.append(session)
        await session.run()
