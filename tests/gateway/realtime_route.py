"""The route ``/realtime``: a speech-to-speech model that speaks OpenAI's realtime protocol.

It hears with the emulator's recognizer and speaks with its voice. What it says comes from a script;
when that is empty it repeats what it was told.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from livekit.agents.inference._protocol.stt import StartOfSpeech, Transcript, TranscriptKind
from livekit.agents.utils.aio import TaskScope

from .wire import Wire

if TYPE_CHECKING:
    from .server import GatewayEmulator

RATE = 24000
Event = dict[str, Any]


@dataclass
class ScriptedReply:
    """One response of the model."""

    text: str = ""
    calls: Sequence[tuple[str, str]] = ()
    """Names of functions, each with its arguments as JSON."""
    delay: float = 0.0
    """Seconds before it begins."""
    error: Event | None = None
    """It fails with this error after what it says."""
    never_begins: bool = False
    never_ends: bool = False


class Conversation:
    """What one connection has agreed on and said."""

    def __init__(self, route: RealtimeRoute, wire: Wire) -> None:
        self.wire = wire
        self.session: Event = {}
        self.items: list[Event] = []
        self.truncated: dict[str, int] = {}
        """Message ids -> milliseconds that were heard."""
        self.requests: list[Event] = []
        """The `response` objects of what was asked for."""
        self.responses: list[tuple[str, str]] = []
        """Ids and statuses of responses that have ended."""
        self._route = route
        self._scope = TaskScope("realtime conversation")
        self._response: asyncio.Task[None] | None = None
        self._response_id = ""
        self._user_item = ""
        self._turn: asyncio.Task[None] | None = None
        self._recognizer: Any = None

    @property
    def kinds(self) -> list[str]:
        """Types of the client's events, audio left out."""
        return [event["type"] for _, event in self.wire.record.messages]

    @property
    def said(self) -> list[str]:
        """Roles and words of its messages."""
        return [
            f"{item['role']}: {_words(item)}" for item in self.items if item["type"] == "message"
        ]

    async def run(self) -> None:
        """Serve the connection."""
        await self._send("session.created", session={"id": self.wire.session_id})
        try:
            await self.wire.progress()
            while True:
                event = json.loads(await self.wire.receive())
                if event["type"] != "input_audio_buffer.append":
                    now = asyncio.get_running_loop().time()
                    self.wire.record.messages.append((now, event))
                await self._answer(event)
                await self.wire.progress()
        finally:
            self._scope.cancel_soon()
            if self._recognizer is not None:
                await self._recognizer.aclose()

    async def say(self, kind: str, **fields: Any) -> None:
        """Send an event out of turn."""
        await self._send(kind, **fields)

    async def _send(self, kind: str, **fields: Any) -> None:
        await self.wire.send(json.dumps({"type": kind, **fields}))

    async def _complain(self, about: Event, code: str, message: str) -> None:
        error = {
            "type": "invalid_request_error",
            "code": code,
            "message": message,
            "event_id": about.get("event_id"),
        }
        await self._send("error", error=error)

    # -- what the client asks for -----------------------------------------------------------------

    async def _answer(self, event: Event) -> None:
        kind = event["type"]
        if kind == "session.update":
            _merge(self.session, event["session"])
            await self._send("session.updated", session=self.session)
        elif kind == "input_audio_buffer.append":
            self._hear(base64.b64decode(event["audio"]))
        elif kind == "input_audio_buffer.commit":
            await self._commit()
        elif kind == "conversation.item.create":
            await self._create(event)
        elif kind == "conversation.item.delete":
            await self._delete(event)
        elif kind == "conversation.item.truncate":
            await self._truncate(event)
        elif kind == "response.create":
            await self._create_response(event)
        elif kind == "response.cancel":
            await self._cancel(event)

    async def _create(self, event: Event) -> None:
        item, previous = event["item"], event.get("previous_item_id")
        item.setdefault("id", self._new_id("item"))
        if previous is None and self.items:
            previous = self.items[-1]["id"]
        if self._index(item["id"]) is not None:
            await self._complain(event, "item_already_exists", "there is one already")
            return
        index = self._index(previous) if previous not in (None, "root") else -1
        if index is None:
            await self._complain(event, "item_unknown", f"there is no item {previous}")
            return
        self.items.insert(index + 1, item)
        await self._send(
            "conversation.item.added",
            previous_item_id=None if previous == "root" else previous,
            item=item,
        )

    async def _delete(self, event: Event) -> None:
        index = self._index(event["item_id"])
        if index is None:
            await self._complain(event, "item_delete_invalid_item_id", "there is no such item")
            return
        del self.items[index]
        await self._send("conversation.item.deleted", item_id=event["item_id"])

    async def _truncate(self, event: Event) -> None:
        if self._index(event["item_id"]) is None:
            await self._complain(event, "item_truncate_invalid_item_id", "there is no such item")
            return
        self.truncated[event["item_id"]] = event["audio_end_ms"]
        await self._send("conversation.item.truncated", item_id=event["item_id"])

    def _index(self, item_id: str | None) -> int | None:
        for index, item in enumerate(self.items):
            if item["id"] == item_id:
                return index
        return None

    # -- hearing ----------------------------------------------------------------------------------

    @property
    def _detection(self) -> Event | None:
        given: Event = self.session.get("audio", {}).get("input", {})
        return given.get("turn_detection") or self.session.get("turn_detection")

    def _hear(self, pcm: bytes) -> None:
        self.wire.record.audio_seconds += len(pcm) / 2 / RATE
        if self._recognizer is None:
            self._recognizer = self._route.emulator.make_recognizer(
                self._on_heard, RATE, self._detection is not None
            )
        self._recognizer.feed(pcm)

    def _on_heard(self, message: Any) -> None:
        if isinstance(message, StartOfSpeech) and self._detection is not None:
            self._user_item = self._new_id("item")
            self._scope.spawn(self._speech_started(self._user_item))
        elif isinstance(message, Transcript) and message.kind is TranscriptKind.FINAL:
            self._turn = self._scope.spawn(self._turn_over(self._user_item, message.text))

    async def _speech_started(self, item_id: str) -> None:
        await self._send("input_audio_buffer.speech_started", item_id=item_id, audio_start_ms=0)
        if (self._detection or {}).get("interrupt_response") is not False:
            await self._end_response("cancelled")

    async def _commit(self) -> None:
        self._user_item = self._new_id("item")
        if self._recognizer is not None:
            self._recognizer.finalize()
        if self._turn is not None:
            await self._turn

    async def _turn_over(self, item_id: str, words: str) -> None:
        detection = self._detection
        if detection is not None:
            await self._send("input_audio_buffer.speech_stopped", item_id=item_id)
        await self._send("input_audio_buffer.committed", item_id=item_id)
        content: list[Event] = [{"type": "input_audio", "transcript": None}]
        await self._add({"id": item_id, "type": "message", "role": "user", "content": content})
        content[0]["transcript"] = words
        if self.session.get("audio", {}).get("input", {}).get("transcription", True) is not None:
            named = "conversation.item.input_audio_transcription"
            await self._send(f"{named}.delta", item_id=item_id, content_index=0, delta=words)
            await self._send(
                f"{named}.completed",
                item_id=item_id,
                content_index=0,
                transcript=words,
                logprobs=[{"token": words, "logprob": math.log(0.9)}],
                usage={
                    "type": "tokens",
                    "input_tokens": 12,
                    "output_tokens": 3,
                    "total_tokens": 15,
                },
            )
        if detection is not None and detection.get("create_response") is not False:
            await self._begin_response({})

    async def _add(self, item: Event) -> None:
        previous = self.items[-1]["id"] if self.items else None
        self.items.append(item)
        await self._send("conversation.item.added", previous_item_id=previous, item=item)

    # -- speaking ---------------------------------------------------------------------------------

    def _new_id(self, kind: str) -> str:
        return self._route.new_id(kind)

    async def _create_response(self, event: Event) -> None:
        self.requests.append(event.get("response", {}))
        if self._response is not None:
            code = "conversation_already_has_active_response"
            await self._complain(event, code, "a response is under way")
            return
        await self._begin_response(event.get("response", {}).get("metadata") or {})

    async def _begin_response(self, metadata: Event) -> None:
        reply = self._route.next_reply(self.items)
        if reply.never_begins:
            return
        self._response_id = self._new_id("resp")
        self._response = self._scope.spawn(self._respond(self._response_id, reply, metadata))

    async def _respond(self, response_id: str, reply: ScriptedReply, metadata: Event) -> None:
        if reply.delay:
            await asyncio.sleep(reply.delay)
        await self._send("response.created", response={"id": response_id, "metadata": metadata})
        if reply.text:
            await self._speak(response_id, reply.text)
        for name, arguments in reply.calls:
            item = {
                "id": self._new_id("item"),
                "type": "function_call",
                "call_id": self._new_id("call"),
                "name": name,
                "arguments": arguments,
            }
            await self._add(item)
            await self._send("response.output_item.added", response_id=response_id, item=item)
            await self._send("response.output_item.done", response_id=response_id, item=item)
        if reply.never_ends:
            await asyncio.get_running_loop().create_future()
        await self._end_response("completed" if reply.error is None else "failed", reply.error)

    async def _speak(self, response_id: str, text: str) -> None:
        spoken = self.session.get("output_modalities") != ["text"]
        item: Event = {
            "id": self._new_id("item"),
            "type": "message",
            "role": "assistant",
            "content": [],
        }
        place = {"response_id": response_id, "item_id": item["id"], "content_index": 0}
        part = {"type": "audio" if spoken else "text"}
        await self._send("response.output_item.added", response_id=response_id, item=item)
        await self._add(item)
        await self._send("response.content_part.added", part=part, **place)
        named = "output_audio_transcript" if spoken else "output_text"
        for word in text.split():
            delta = word if not item["content"] else f" {word}"
            item["content"] = [{"type": "output_text", "text": _words(item) + delta}]
            await self._send(f"response.{named}.delta", delta=delta, **place)
            if spoken:
                await self._send_audio(word, place)
        await self._send("response.output_item.done", response_id=response_id, item=item)

    async def _send_audio(self, word: str, place: Event) -> None:
        async for pcm in self._route.emulator.voice.say(word, RATE):
            audio = base64.b64encode(pcm).decode()
            await self._send("response.output_audio.delta", delta=audio, **place)
            self.wire.record.audio_seconds += len(pcm) / 2 / RATE
            await self.wire.progress()
            await asyncio.sleep(len(pcm) / 2 / RATE / self._route.pace)

    async def _cancel(self, event: Event) -> None:
        if self._response is None:
            await self._complain(
                event, "response_cancel_not_active", "Cancellation failed: no active response found"
            )
        else:
            await self._end_response("cancelled")

    async def _end_response(self, status: str, error: Event | None = None) -> None:
        response, self._response = self._response, None
        if response is None:
            return
        if response is not asyncio.current_task():
            response.cancel()
        self.responses.append((self._response_id, status))
        usage = {
            "input_tokens": 100,
            "output_tokens": 40,
            "total_tokens": 140,
            "input_token_details": {"text_tokens": 60, "audio_tokens": 40, "cached_tokens": 20},
            "output_token_details": {"text_tokens": 10, "audio_tokens": 30},
        }
        ended: Event = {"id": self._response_id, "status": status, "usage": usage}
        if error is not None:
            ended["status_details"] = {"type": "failed", "error": error}
        await self._send("response.done", response=ended)


class RealtimeRoute:
    """Serves conversations."""

    def __init__(self, emulator: GatewayEmulator) -> None:
        self.emulator = emulator
        self.script: deque[ScriptedReply] = deque()
        """What to say next."""
        self.pace = 4.0
        """How much faster than it is heard audio is made."""
        self.conversations: list[Conversation] = []
        """One for each connection."""
        self._ids = 0

    async def serve(self, wire: Wire) -> None:
        """One conversation."""
        conversation = Conversation(self, wire)
        self.conversations.append(conversation)
        await conversation.run()

    def new_id(self, kind: str) -> str:
        """An id that no other connection uses."""
        self._ids += 1
        return f"{kind}_{self._ids}"

    def next_reply(self, items: list[Event]) -> ScriptedReply:
        """What to say now."""
        if self.script:
            return self.script.popleft()
        told = [_words(item) for item in items if item.get("role") == "user"]
        return ScriptedReply(f"You said: {told[-1]}" if told else "Hello")


def _words(item: Event) -> str:
    parts = item.get("content") or ()
    return "".join(part.get("text") or part.get("transcript") or "" for part in parts)


def _merge(known: Event, changes: Event) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(known.get(name), dict):
            _merge(known[name], value)
        else:
            known[name] = value
