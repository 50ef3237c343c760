"""Cutting the endless output of a duplex model into generations. No I/O, no clock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from livekit import rtc

from ..types import TimedString
from ..utils import shortuuid
from ..utils.aio import Chan
from .realtime import GenerationCreatedEvent, MessageGeneration

if TYPE_CHECKING:
    from ._audio_gates import AudioGate
    from .chat_context import FunctionCall
    from .duplex import DuplexAudioFrame, DuplexOutputTranscriptDelta

_LOOK_AHEAD_MS = 300
"""How far before their audio words are passed on."""

_UNCLAIMED_MS = 3000
"""Milliseconds of output after which words without audio are passed on as text."""


class Burst:
    """The model is speaking: a generation with one message."""

    def __init__(self, start_ms: float, *, user_initiated: bool) -> None:
        self.start_ms = start_ms
        self.text: Chan[str] = Chan()
        self.audio: Chan[rtc.AudioFrame] = Chan()
        self._messages, self.functions, self.event = _generation(user_initiated=user_initiated)
        self.message_id = _add_message(self._messages, self.text, self.audio, ["audio", "text"])

    def say(self, delta: DuplexOutputTranscriptDelta) -> None:
        """Pass on words, with their place in the burst if it is known."""
        text = delta.text
        if delta.start_ms is not None:
            end_ms = delta.start_ms if delta.end_ms is None else delta.end_ms
            text = TimedString(
                text,
                start_time=max(0.0, delta.start_ms - self.start_ms) / 1000,
                end_time=max(0.0, end_ms - self.start_ms) / 1000,
            )
        self.text.send_nowait(text)

    def end(self) -> None:
        """End all streams."""
        for channel in (self.text, self.audio, self._messages, self.functions):
            channel.close()


@dataclass
class _Waiting:
    """Words whose audio has not come yet."""

    delta: DuplexOutputTranscriptDelta
    expires_ms: float


class BurstSegmenter:
    """Turns frames, words and calls into generations.

    Audio between bursts is not passed on. Words join the burst that speaks them; those whose audio
    has passed, or never comes, become a message of text alone.
    """

    def __init__(
        self,
        gate: AudioGate,
        *,
        emit: Callable[[GenerationCreatedEvent], None],
        take_reply: Callable[[], bool],
    ) -> None:
        """Set up.

        Args:
            gate: Tells speech from silence.
            emit: Announces a generation.
            take_reply: Whether a reply was asked for and the burst that begins now is it.
        """
        self._gate = gate
        self._emit = emit
        self._take_reply = take_reply
        self._burst: Burst | None = None
        self._position_ms = 0.0
        self._waiting: list[_Waiting] = []
        self._closed = False
        self.message_ids: set[str] = set()
        """Ids of all messages so far."""

    @property
    def speaking(self) -> bool:
        """Whether a burst is open."""
        return self._burst is not None

    def frame(self, audio: DuplexAudioFrame) -> None:
        """The model's next frame."""
        if self._closed:
            return
        start_ms = self._position_ms if audio.start_ms is None else float(audio.start_ms)
        self._position_ms = start_ms + audio.frame.duration * 1000
        if self._gate.update(audio.frame):
            if self._burst is None:
                self._begin_burst(start_ms)
            assert self._burst is not None
            self._burst.audio.send_nowait(audio.frame)
        else:
            self._end_burst()
        self._place_words()

    def words(self, delta: DuplexOutputTranscriptDelta) -> None:
        """Words the model speaks, has spoken or is about to speak."""
        if self._closed:
            return
        from_ms = self._position_ms
        if delta.start_ms is not None:
            from_ms = max(from_ms, delta.start_ms)
        self._waiting.append(_Waiting(delta, from_ms + _UNCLAIMED_MS))
        self._place_words()

    def call(self, function_call: FunctionCall) -> None:
        """The model calls a function."""
        if self._closed:
            return
        if self._burst is not None:
            self._burst.functions.send_nowait(function_call)
            return
        messages, functions, event = _generation(user_initiated=False)
        functions.send_nowait(function_call)
        messages.close()
        functions.close()
        self._emit(event)

    def pause(self) -> None:
        """No frame came in time: the burst is over."""
        self._gate.deactivate()
        self._end_burst()

    def restart(self) -> None:
        """The output begins anew, on another connection. Words that wait are passed on as text."""
        self.pause()
        waiting, self._waiting = self._waiting, []
        self._say_alone([each.delta for each in waiting])
        self._position_ms = 0.0

    def close(self) -> None:
        """The output has ended. Whatever comes now is ignored."""
        if not self._closed:
            self.restart()
            self._closed = True

    def _begin_burst(self, start_ms: float) -> None:
        self._burst = burst = Burst(start_ms, user_initiated=self._take_reply())
        self.message_ids.add(burst.message_id)
        self._emit(burst.event)

    def _end_burst(self) -> None:
        if self._burst is not None:
            self._burst.end()
            self._burst = None

    def _place_words(self) -> None:
        burst, waiting, alone = self._burst, self._waiting, []
        self._waiting = []
        for each in waiting:
            if self._has_passed(each.delta) or each.expires_ms <= self._position_ms:
                alone.append(each.delta)
            elif burst is not None and self._is_due(each.delta):
                burst.say(each.delta)
            else:
                self._waiting.append(each)
        self._say_alone(alone)

    def _has_passed(self, delta: DuplexOutputTranscriptDelta) -> bool:
        """Whether the words were spoken before the burst, or before now if there is none."""
        if delta.start_ms is None:
            return False
        end_ms = delta.start_ms if delta.end_ms is None else delta.end_ms
        if self._burst is not None:
            return end_ms < self._burst.start_ms
        return end_ms <= self._position_ms and self._position_ms > 0

    def _is_due(self, delta: DuplexOutputTranscriptDelta) -> bool:
        return delta.start_ms is None or delta.start_ms <= self._position_ms + _LOOK_AHEAD_MS

    def _say_alone(self, deltas: Sequence[DuplexOutputTranscriptDelta]) -> None:
        """Pass on words as a message without audio."""
        if not deltas:
            return
        text: Chan[str] = Chan()
        audio: Chan[rtc.AudioFrame] = Chan()
        messages, functions, event = _generation(user_initiated=False)
        self.message_ids.add(_add_message(messages, text, audio, ["text"]))
        for delta in deltas:
            text.send_nowait(delta.text)
        for channel in (text, audio, messages, functions):
            channel.close()
        self._emit(event)


def _generation(
    *, user_initiated: bool
) -> tuple[Chan[MessageGeneration], Chan[FunctionCall], GenerationCreatedEvent]:
    messages: Chan[MessageGeneration] = Chan()
    functions: Chan[FunctionCall] = Chan()
    event = GenerationCreatedEvent(
        message_stream=messages,
        function_stream=functions,
        user_initiated=user_initiated,
        response_id=shortuuid("response_"),
    )
    return messages, functions, event


def _add_message(
    messages: Chan[MessageGeneration],
    text: Chan[str],
    audio: Chan[rtc.AudioFrame],
    modalities: list[Literal["text", "audio"]],
) -> str:
    known: asyncio.Future[list[Literal["text", "audio"]]] = (
        asyncio.get_running_loop().create_future()
    )
    known.set_result(modalities)
    message_id = shortuuid("item_")
    messages.send_nowait(
        MessageGeneration(
            message_id=message_id, text_stream=text, audio_stream=audio, modalities=known
        )
    )
    return message_id
