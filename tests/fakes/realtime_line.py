"""A session with a realtime model behind the emulated gateway, and all that it reported."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway import GatewayEmulator
from gateway.calls import QUICK, emulated
from gateway.realtime_route import Conversation, ScriptedReply
from livekit import rtc

from livekit.agents import inference
from livekit.agents.llm import GenerationCreatedEvent

EVENTS = (
    "input_speech_started",
    "input_speech_stopped",
    "input_audio_transcription_completed",
    "generation_created",
    "session_reconnected",
    "metrics_collected",
    "remote_item_added",
    "error",
)


class RealtimeTestLine:
    """The session, the gateway and what happened between them."""

    def __init__(self, gateway: GatewayEmulator, model: inference.RealtimeModel, **session: Any):
        self.gateway = gateway
        self.model = model
        self.session = model.session(**session)
        self.events: list[tuple[str, Any]] = []
        for name in EVENTS:
            self.session.on(name, self._recorder(name))

    def _recorder(self, name: str) -> Any:
        return lambda event: self.events.append((name, event))

    def of(self, name: str) -> list[Any]:
        """The events of a kind."""
        return [event for kind, event in self.events if kind == name]

    @property
    def errors(self) -> list[bool]:
        """For each error, whether the session went on."""
        return [error.recoverable for error in self.of("error")]

    @property
    def server(self) -> Conversation:
        """The newest connection, as the server sees it."""
        return self.gateway.realtime.conversations[-1]

    def script(self, *replies: ScriptedReply) -> None:
        """What the model says next."""
        self.gateway.realtime.script.extend(replies)

    async def settle(self, seconds: float = 0.5) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)


async def hear_out(event: GenerationCreatedEvent) -> tuple[list[str], float, list[str]]:
    """A response to its end: texts of its messages, seconds of audio, names of called functions."""
    texts, seconds = [], 0.0
    async for message in event.message_stream:
        texts.append("".join([text async for text in message.text_stream]))
        seconds += sum([frame.duration async for frame in message.audio_stream])
        await message.modalities
    return texts, round(seconds, 3), [call.name async for call in event.function_stream]


def silence(seconds: float, rate: int = 24000, channels: int = 1) -> rtc.AudioFrame:
    count = round(seconds * rate)
    return rtc.AudioFrame(bytes(2 * count * channels), rate, channels, count)


def audio_sizes(record: Any) -> list[int]:
    """Bytes of the pieces of audio in a list of client events."""
    return [len(base64.b64decode(e["audio"])) for e in record if "audio" in e]


def raw(event: dict[str, Any]) -> str:
    return json.dumps(event)


@asynccontextmanager
async def realtime_line(
    *, model: str = "openai/gpt-realtime", turn_detection_disabled: bool = False, **options: Any
) -> AsyncIterator[RealtimeTestLine]:
    """A session that is closed at the end; no connection may be left then."""
    async with emulated() as (gateway, http):
        made = inference.RealtimeModel(
            model,
            http_session=http,
            **{"conn_options": QUICK, **gateway.arguments(), **options},
        )
        line = RealtimeTestLine(gateway, made, turn_detection_disabled=turn_detection_disabled)
        try:
            yield line
        finally:
            await line.session.aclose()
            await made.aclose()
        await gateway.until_closed(0.5)
