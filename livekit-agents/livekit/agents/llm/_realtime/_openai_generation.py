"""One response of OpenAI's realtime protocol: server events in, streams out. No I/O."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from livekit import rtc

from ...utils.aio import Chan
from ..chat_context import FunctionCall
from ..realtime import GenerationCreatedEvent, MessageGeneration
from ._input_audio import NUM_CHANNELS, SAMPLE_RATE

Modalities = list[Literal["text", "audio"]]


class _MessageGeneration:
    """A message while it is generated."""

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.text_ch: Chan[str] = Chan()
        self.audio_ch: Chan[rtc.AudioFrame] = Chan()
        self.modalities: asyncio.Future[Modalities] = asyncio.get_running_loop().create_future()
        self.audio_transcript = ""
        """All its words so far, written or spoken."""

    def add_text(self, text: str) -> None:
        """Pass on words."""
        self.audio_transcript += text
        if not self.text_ch.closed:
            self.text_ch.send_nowait(text)

    def add_audio(self, pcm: bytes) -> None:
        """Pass on sound: 24 kHz, mono, int16."""
        if pcm and not self.audio_ch.closed:
            frame = rtc.AudioFrame(pcm, SAMPLE_RATE, NUM_CHANNELS, len(pcm) // 2)
            self.audio_ch.send_nowait(frame)

    def end(self) -> None:
        """End the streams and resolve the modalities."""
        self.text_ch.close()
        self.audio_ch.close()
        self.resolve(["text"])

    def resolve(self, modalities: Modalities) -> None:
        """Say what the message consists of; the first word counts."""
        if self.modalities.done():
            return
        self.modalities.set_result(modalities)
        if "audio" not in modalities:
            self.audio_ch.close()


class Generation:
    """A response while it is generated."""

    def __init__(self, response_id: str, *, user_initiated: bool) -> None:
        self.response_id = response_id
        self.created_at = time.time()
        self.messages: dict[str, _MessageGeneration] = {}
        self.message_ch: Chan[MessageGeneration] = Chan()
        self.function_ch: Chan[FunctionCall] = Chan()
        self.event = GenerationCreatedEvent(
            message_stream=self.message_ch,
            function_stream=self.function_ch,
            user_initiated=user_initiated,
            response_id=response_id,
        )
        self._first_audio_at: float | None = None
        self._first_text_at: float | None = None

    @property
    def ttft(self) -> float:
        """Seconds from the start to the first sound; to the first word if there is no sound.

        -1 when there was neither.
        """
        first = self._first_text_at if self._first_audio_at is None else self._first_audio_at
        return -1 if first is None else first - self.created_at

    def open_message(self, message_id: str) -> _MessageGeneration:
        """The message with this id, which begins now if it has not."""
        message = self.messages.get(message_id)
        if message is None:
            message = self.messages[message_id] = _MessageGeneration(message_id)
            self.message_ch.send_nowait(
                MessageGeneration(
                    message_id=message_id,
                    text_stream=message.text_ch,
                    audio_stream=message.audio_ch,
                    modalities=message.modalities,
                )
            )
        return message

    def add_text(self, message_id: str, text: str, *, spoken: bool) -> None:
        """Words of a message, or of the transcript of its audio."""
        message = self.open_message(message_id)
        message.resolve(["audio", "text"] if spoken else ["text"])
        message.add_text(text)
        if self._first_text_at is None:
            self._first_text_at = time.time()

    def add_audio(self, message_id: str, pcm: bytes) -> None:
        """Sound of a message."""
        message = self.open_message(message_id)
        message.resolve(["audio", "text"])
        message.add_audio(pcm)
        if self._first_audio_at is None:
            self._first_audio_at = time.time()

    def finish_item(self, item_id: str, call: FunctionCall | None) -> None:
        """A message is complete, or a call is."""
        if call is not None:
            self.function_ch.send_nowait(call)
        elif message := self.messages.get(item_id):
            message.end()

    def end(self) -> None:
        """End everything that is still open."""
        for message in self.messages.values():
            message.end()
        self.message_ch.close()
        self.function_ch.close()


class _DiscardedGeneration:
    """Stands for a response that nobody waits for any more: its events are skipped."""

    def __init__(self, response_id: str) -> None:
        self.response_id = response_id

    def end(self) -> None:
        """Nothing of it is open."""
