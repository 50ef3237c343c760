"""One response of OpenAI's realtime protocol: server events in, streams out. No I/O."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Literal

from livekit import rtc

from ...utils.aio import Chan
from ..chat_context import FunctionCall
from ..realtime import GenerationCreatedEvent, MessageGeneration
from .openai_utils import Event

SAMPLE_RATE = 24000
NUM_CHANNELS = 1

Modalities = list[Literal["text", "audio"]]


class _MessageGeneration:
    """A message while it is generated."""

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.text_ch: Chan[str] = Chan()
        self.audio_ch: Chan[rtc.AudioFrame] = Chan()
        self.modalities: asyncio.Future[Modalities] = asyncio.get_running_loop().create_future()
        self.audio_transcript = ""

    def end(self) -> None:
        """End the streams and resolve the modalities."""
        self.text_ch.close()
        self.audio_ch.close()
        self.resolve(["text"])

    def resolve(self, modalities: Modalities) -> None:
        """Say what the message consists of; the first word counts."""
        if not self.modalities.done():
            self.modalities.set_result(modalities)
        if "audio" not in modalities:
            self.audio_ch.close()


class Generation:
    """A response while it is generated."""

    def __init__(self, response_id: str, *, user_initiated: bool) -> None:
        self.response_id = response_id
        self.created_at = time.time()
        self.first_token_at: float | None = None
        self.messages: dict[str, _MessageGeneration] = {}
        self.ended = asyncio.Event()
        self.message_ch: Chan[MessageGeneration] = Chan()
        self.function_ch: Chan[FunctionCall] = Chan()
        self.event = GenerationCreatedEvent(
            message_stream=self.message_ch,
            function_stream=self.function_ch,
            user_initiated=user_initiated,
            response_id=response_id,
        )

    def open_message(self, message_id: str) -> None:
        """A message begins."""
        message = self.messages[message_id] = _MessageGeneration(message_id)
        self.message_ch.send_nowait(
            MessageGeneration(
                message_id=message_id,
                text_stream=message.text_ch,
                audio_stream=message.audio_ch,
                modalities=message.modalities,
            )
        )

    def add_text(self, event: Event, *, spoken: bool) -> None:
        """Words of a message, or of the transcript of its audio."""
        message = self.messages[event["item_id"]]
        message.audio_transcript += event["delta"]
        message.text_ch.send_nowait(event["delta"])
        if not spoken:
            self._token_arrived()

    def add_audio(self, event: Event) -> None:
        """Sound of a message."""
        message = self.messages[event["item_id"]]
        message.resolve(["audio", "text"])
        data = base64.b64decode(event["delta"])
        frame = rtc.AudioFrame(data, SAMPLE_RATE, NUM_CHANNELS, len(data) // 2)
        message.audio_ch.send_nowait(frame)
        self._token_arrived()

    def finish_item(self, item: Event) -> None:
        """A message is complete, or a call is."""
        if item["type"] == "message" and (message := self.messages.get(item["id"])):
            message.end()
        elif item["type"] == "function_call":
            self.function_ch.send_nowait(
                FunctionCall(
                    id=item["id"],
                    call_id=item["call_id"],
                    name=item["name"],
                    arguments=item.get("arguments") or "{}",
                )
            )

    def end(self) -> None:
        """End everything that is still open."""
        self.ended.set()
        for message in self.messages.values():
            message.end()
        self.message_ch.close()
        self.function_ch.close()

    def _token_arrived(self) -> None:
        if self.first_token_at is None:
            self.first_token_at = time.time()
