"""The messages of OpenAI's realtime protocol: from JSON to typed events, and back. No I/O.

Whatever a server sends, reading it yields an event, None for one that nobody needs, or `BadEvent`.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from ..chat_context import ChatItem, FunctionCall
from .openai_utils import Event, calculate_confidence_from_logprobs, openai_item_to_livekit_item

T = TypeVar("T")


class BadEvent(ValueError):
    """A message of the server can't be understood; it is of no use."""


@dataclass(frozen=True)
class ErrorInfo:
    """What the provider says went wrong."""

    message: str
    code: str | None = None
    type: str | None = None
    event_id: str | None = None
    """The client's event that it is about."""
    body: Event = field(default_factory=dict)
    """All that was said about it."""


@dataclass(frozen=True)
class TokenUsage:
    """Tokens of a response or a transcription."""

    input: int = 0
    output: int = 0
    total: int = 0
    input_details: Event = field(default_factory=dict)
    output_details: Event = field(default_factory=dict)
    seconds: float = 0.0
    """Of audio, where that is what counts."""


class JsonObject(dict[str, Any]):
    """A JSON object whose fields are attributes as well; absent ones are None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def _as_attribute(value: Any) -> Any:
    if isinstance(value, dict):
        return JsonObject({name: _as_attribute(each) for name, each in value.items()})
    return [_as_attribute(each) for each in value] if isinstance(value, list) else value


@dataclass
class _FromServer:
    """An event of the server.

    Plugins override handlers of events, and know the objects of the `openai` library: whatever has no
    attribute of its own here can be read by its name in the protocol, and is None if absent.
    """

    raw: Event = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "raw":
            raise AttributeError(name)
        if not isinstance(self.raw, JsonObject):
            self.raw = _as_attribute(self.raw)  # once, so that changes stay
        return getattr(self.raw, name)


@dataclass
class ResponseCreated(_FromServer):
    """A response begins."""

    response_id: str

    @property
    def client_event_id(self) -> str | None:
        """Of the request that asked for it; None if the server decided by itself."""
        metadata = optional_object(optional_object(self.raw, "response"), "metadata")
        return optional_text(metadata, "client_event_id")


@dataclass
class OutputItemAdded(_FromServer):
    """An item of a response begins."""

    response_id: str | None
    item_id: str
    kind: str


@dataclass
class ContentPartAdded(_FromServer):
    """A message turns out to have text, or audio."""

    response_id: str | None
    item_id: str
    modality: Literal["text", "audio"]


@dataclass
class TextDelta(_FromServer):
    """Written words of a message."""

    response_id: str | None
    item_id: str
    delta: str


@dataclass
class AudioTranscriptDelta(_FromServer):
    """Spoken words of a message."""

    response_id: str | None
    item_id: str
    delta: str


@dataclass
class AudioDelta(_FromServer):
    """Sound of a message: 24 kHz, mono, int16."""

    response_id: str | None
    item_id: str
    pcm: bytes


@dataclass
class OutputItemDone(_FromServer):
    """An item of a response is complete."""

    response_id: str | None
    item_id: str
    call: FunctionCall | None
    """Set if the item is a call."""


@dataclass
class ResponseDone(_FromServer):
    """A response has ended, one way or another."""

    response_id: str
    status: str
    error: ErrorInfo | None
    usage: TokenUsage


@dataclass
class InputSpeechStarted(_FromServer):
    """The server hears the user."""

    item_id: str


@dataclass
class InputSpeechStopped(_FromServer):
    """The server hears the user no more."""

    item_id: str


@dataclass
class InputCommitted(_FromServer):
    """The server has taken what it heard as a turn of the user."""

    item_id: str


@dataclass
class ItemAdded(_FromServer):
    """The server's conversation has a new item."""

    previous_item_id: str | None
    chat_item: ChatItem


@dataclass
class ItemDeleted(_FromServer):
    """The server's conversation has an item less."""

    item_id: str


@dataclass
class TranscriptionDelta(_FromServer):
    """A piece of what the user said."""

    item_id: str
    delta: str


@dataclass
class TranscriptionCompleted(_FromServer):
    """All that the user said in a turn."""

    item_id: str
    transcript: str
    confidence: float | None
    usage: TokenUsage | None


@dataclass
class TranscriptionFailed(_FromServer):
    """Nobody will know what the user said in a turn."""

    item_id: str


@dataclass
class ErrorReported(_FromServer):
    """Something went wrong at the server."""

    error: ErrorInfo


ServerEvent = (
    ResponseCreated
    | OutputItemAdded
    | ContentPartAdded
    | TextDelta
    | AudioTranscriptDelta
    | AudioDelta
    | OutputItemDone
    | ResponseDone
    | InputSpeechStarted
    | InputSpeechStopped
    | InputCommitted
    | ItemAdded
    | ItemDeleted
    | TranscriptionDelta
    | TranscriptionCompleted
    | TranscriptionFailed
    | ErrorReported
)

_OLD_NAMES = {
    "response.text.delta": "response.output_text.delta",
    "response.text.done": "response.output_text.done",
    "response.audio.delta": "response.output_audio.delta",
    "response.audio.done": "response.output_audio.done",
    "response.audio_transcript.delta": "response.output_audio_transcript.delta",
    "response.audio_transcript.done": "response.output_audio_transcript.done",
    "conversation.item.created": "conversation.item.added",
}
"""Names of the protocol's first version, which Azure still uses -> today's."""


# -- reading ---------------------------------------------------------------------------------------


def parse(message: str | bytes) -> Event:
    """The JSON object of a message.

    Raises:
        BadEvent: It is none, or has no type.
    """
    try:
        event = json.loads(message)
    except (ValueError, RecursionError):
        raise BadEvent("not JSON") from None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise BadEvent("not a JSON object with a type")
    return event


def decode(event: Event) -> ServerEvent | None:
    """The typed event; None for a type of which no use is made.

    Raises:
        BadEvent: A field is missing or of the wrong kind.
    """
    kind: str = event["type"]
    read = _READERS.get(_OLD_NAMES.get(kind, kind))
    if read is None:
        return None
    try:
        typed = read(event)
        typed.raw = event
        return typed
    except BadEvent:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise BadEvent(f"{kind}: {error!r}") from error


def typed(event: Any) -> Any:
    """An event that a plugin passes to a handler: one of ours, or an object of the `openai` library.

    Raises:
        BadEvent: It is neither.
    """
    if isinstance(event, _FromServer):
        return event
    fields = event if isinstance(event, dict) else event.model_dump()
    return decode(fields)


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """A field that has to be a string.

    Raises:
        BadEvent: It is none.
    """
    value = fields.get(name)
    if not isinstance(value, str):
        raise BadEvent(f"{name!r} is not a string")
    return value


def optional_text(fields: Mapping[str, Any], name: str) -> str | None:
    """A field that may be a string; None otherwise."""
    value = fields.get(name)
    return value if isinstance(value, str) else None


def object_of(fields: Mapping[str, Any], name: str) -> Event:
    """A field that has to be an object.

    Raises:
        BadEvent: It is none.
    """
    value = fields.get(name)
    if not isinstance(value, dict):
        raise BadEvent(f"{name!r} is not an object")
    return value


def optional_object(fields: Mapping[str, Any], name: str) -> Event:
    """A field that may be an object; an empty one otherwise."""
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def count_of(fields: Mapping[str, Any], name: str) -> int:
    """A field that may be a number of things; 0 otherwise."""
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def seconds_of(fields: Mapping[str, Any], name: str, *, per: float = 1.0) -> float | None:
    """A field that may be a duration; None otherwise.

    Args:
        fields: Where it is.
        name: Its name.
        per: How many of its units are a second.
    """
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        seconds = float(value) / per
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def pcm_of(fields: Mapping[str, Any], name: str) -> bytes:
    """A field that has to be int16 audio in base64. Half a sample at the end is dropped.

    Raises:
        BadEvent: It is none.
    """
    try:
        pcm = base64.b64decode(text_of(fields, name))
    except (binascii.Error, ValueError):
        raise BadEvent(f"{name!r} is not audio in base64") from None
    return pcm[: len(pcm) // 2 * 2]


def read_error(fields: Event) -> ErrorInfo:
    """What an error object says; never raises."""
    return ErrorInfo(
        message=str(fields.get("message") or "unknown error"),
        code=None if fields.get("code") is None else str(fields["code"]),
        type=optional_text(fields, "type"),
        event_id=optional_text(fields, "event_id"),
        body=fields,
    )


def read_usage(fields: Event) -> TokenUsage:
    """What a usage object says; never raises."""
    return TokenUsage(
        input=count_of(fields, "input_tokens"),
        output=count_of(fields, "output_tokens"),
        total=count_of(fields, "total_tokens"),
        input_details=optional_object(fields, "input_token_details"),
        output_details=optional_object(fields, "output_token_details"),
        seconds=seconds_of(fields, "seconds") or 0.0,
    )


def read_call(item: Event) -> FunctionCall:
    """The call that an output item is.

    Raises:
        BadEvent: It lacks something.
    """
    return FunctionCall(
        id=text_of(item, "id"),
        call_id=text_of(item, "call_id"),
        name=text_of(item, "name"),
        arguments=optional_text(item, "arguments") or "{}",
    )


def _response_created(event: Event) -> ResponseCreated:
    return ResponseCreated(text_of(object_of(event, "response"), "id"))


def _response_done(event: Event) -> ResponseDone:
    response = object_of(event, "response")
    error = optional_object(optional_object(response, "status_details"), "error")
    status = optional_text(response, "status") or "completed"
    return ResponseDone(
        text_of(response, "id"),
        status,
        read_error(error) if status == "failed" else None,
        read_usage(optional_object(response, "usage")),
    )


def _output_item_added(event: Event) -> OutputItemAdded:
    item = object_of(event, "item")
    return OutputItemAdded(
        optional_text(event, "response_id"), text_of(item, "id"), text_of(item, "type")
    )


def _output_item_done(event: Event) -> OutputItemDone:
    item = object_of(event, "item")
    call = read_call(item) if item.get("type") == "function_call" else None
    return OutputItemDone(optional_text(event, "response_id"), text_of(item, "id"), call)


def _content_part_added(event: Event) -> ContentPartAdded:
    written = text_of(object_of(event, "part"), "type") in ("text", "output_text")
    return ContentPartAdded(
        optional_text(event, "response_id"),
        text_of(event, "item_id"),
        "text" if written else "audio",
    )


def _delta(make: Callable[[str | None, str, str], T]) -> Callable[[Event], T]:
    def read(event: Event) -> T:
        return make(
            optional_text(event, "response_id"), text_of(event, "item_id"), text_of(event, "delta")
        )

    return read


def _audio_delta(event: Event) -> AudioDelta:
    return AudioDelta(
        optional_text(event, "response_id"), text_of(event, "item_id"), pcm_of(event, "delta")
    )


def _item_added(event: Event) -> ItemAdded:
    item = openai_item_to_livekit_item(object_of(event, "item"))
    return ItemAdded(optional_text(event, "previous_item_id"), item)


def _transcription_completed(event: Event) -> TranscriptionCompleted:
    usage = event.get("usage")
    return TranscriptionCompleted(
        text_of(event, "item_id"),
        optional_text(event, "transcript") or "",
        _confidence(event.get("logprobs")),
        read_usage(usage) if isinstance(usage, dict) else None,
    )


def _confidence(logprobs: object) -> float | None:
    """How sure the transcription is; None if that can't be told, which harms nobody."""
    try:
        confidence = calculate_confidence_from_logprobs(
            logprobs if isinstance(logprobs, list) else None
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    return confidence if confidence is not None and math.isfinite(confidence) else None


_READERS: dict[str, Callable[[Event], ServerEvent]] = {
    "response.created": _response_created,
    "response.done": _response_done,
    "response.output_item.added": _output_item_added,
    "response.output_item.done": _output_item_done,
    "response.content_part.added": _content_part_added,
    "response.output_text.delta": _delta(TextDelta),
    "response.output_audio_transcript.delta": _delta(AudioTranscriptDelta),
    "response.output_audio.delta": _audio_delta,
    "input_audio_buffer.speech_started": lambda event: InputSpeechStarted(
        optional_text(event, "item_id") or ""
    ),
    "input_audio_buffer.speech_stopped": lambda event: InputSpeechStopped(
        optional_text(event, "item_id") or ""
    ),
    "input_audio_buffer.committed": lambda event: InputCommitted(
        optional_text(event, "item_id") or ""
    ),
    "conversation.item.added": _item_added,
    "conversation.item.deleted": lambda event: ItemDeleted(text_of(event, "item_id")),
    "conversation.item.input_audio_transcription.delta": lambda event: TranscriptionDelta(
        text_of(event, "item_id"), optional_text(event, "delta") or ""
    ),
    "conversation.item.input_audio_transcription.completed": _transcription_completed,
    "conversation.item.input_audio_transcription.failed": lambda event: TranscriptionFailed(
        text_of(event, "item_id")
    ),
    "error": lambda event: ErrorReported(read_error(optional_object(event, "error") or event)),
}


# -- writing ---------------------------------------------------------------------------------------


def encode(event: Event) -> str:
    """The message of a client's event."""
    return json.dumps(event)


def append_audio(pcm: bytes) -> Event:
    """A piece of what the user says: 24 kHz, mono, int16."""
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm).decode()}


def create_item(previous_item_id: str | None, item: Event) -> Event:
    """An item for the server's conversation, after another one or (None) at its start."""
    return {
        "type": "conversation.item.create",
        "event_id": creation_of(item["id"]),
        "previous_item_id": previous_item_id or "root",
        "item": item,
    }


def delete_item(item_id: str) -> Event:
    """An item is to leave the server's conversation."""
    return {
        "type": "conversation.item.delete",
        "event_id": deletion_of(item_id),
        "item_id": item_id,
    }


def truncate_item(item_id: str, audio_end_ms: int) -> Event:
    """Only the beginning of a spoken message was heard."""
    return {
        "type": "conversation.item.truncate",
        "item_id": item_id,
        "content_index": 0,
        "audio_end_ms": audio_end_ms,
    }


def cancel_response(response_id: str | None = None) -> Event:
    """A response is to stop; the one under way if none is named."""
    event: Event = {"type": "response.cancel"}
    if response_id is not None:
        event["response_id"] = response_id
    return event


def creation_of(item_id: str) -> str:
    """Id of the event that creates an item; errors name it."""
    return f"+{item_id}"


def deletion_of(item_id: str) -> str:
    """Id of the event that deletes an item; errors name it."""
    return f"-{item_id}"
