"""The messages of the GPT-Live protocol: from JSON to typed events, and back. No I/O."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..chat_context import FunctionCall
from .gpt_live_types import AudioFormat, InputItem, InputRole
from .openai_codec import (
    BadEvent,
    ErrorInfo,
    ErrorReported,
    count_of,
    object_of,
    optional_object,
    optional_text,
    pcm_of,
    read_call,
    read_error,
    seconds_of,
    text_of,
)
from .openai_utils import Event

PCM: AudioFormat = {"type": "audio/pcm", "rate": 24000}


@dataclass(frozen=True)
class SessionStarted:
    """The session has begun; the client may speak."""

    session_id: str


@dataclass(frozen=True)
class OutputAudio:
    """The next piece of output: 24 kHz, mono, int16."""

    pcm: bytes
    start_ms: int | None


@dataclass(frozen=True)
class OutputTranscript:
    """Words that the model speaks."""

    text: str
    start_ms: int | None
    end_ms: int | None


@dataclass(frozen=True)
class InputTranscript:
    """Words that the user speaks."""

    text: str


@dataclass(frozen=True)
class DelegationCreated:
    """The client is asked to think."""

    delegation_id: str
    pending_transcript: str


@dataclass(frozen=True)
class BackendStarted:
    """The model that thinks begins a response."""

    response_id: str


@dataclass(frozen=True)
class BackendCall:
    """The model that thinks calls a function."""

    call: FunctionCall


@dataclass(frozen=True)
class BackendUsage:
    """Tokens of the model that thinks."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    total: int = 0


@dataclass(frozen=True)
class BackendDone:
    """A response of the model that thinks has ended, one way or another."""

    response_id: str
    status: str
    usage: BackendUsage | None
    error: ErrorInfo | None


@dataclass(frozen=True)
class UsageUpdated:
    """How long the session has lasted so far, to be paid for."""

    seconds: float


@dataclass(frozen=True)
class SessionClosed:
    """The session is over."""

    seconds: float | None
    """How long it has lasted, if that is said."""


LiveEvent = (
    SessionStarted
    | OutputAudio
    | OutputTranscript
    | InputTranscript
    | DelegationCreated
    | BackendStarted
    | BackendCall
    | BackendDone
    | UsageUpdated
    | SessionClosed
    | ErrorReported
)


# -- reading ---------------------------------------------------------------------------------------


def decode(event: Event) -> LiveEvent | None:
    """The typed event; None for a type of which no use is made.

    Raises:
        BadEvent: A field is missing or of the wrong kind.
    """
    read = _READERS.get(event["type"])
    if read is None:
        return None
    try:
        return read(event)
    except BadEvent:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise BadEvent(f"{event['type']}: {error!r}") from error


def _milliseconds(event: Event, name: str) -> int | None:
    value = seconds_of(event, name)
    return None if value is None else round(value)


def _output_transcript(event: Event) -> OutputTranscript:
    return OutputTranscript(
        text_of(event, "delta"), _milliseconds(event, "start_ms"), _milliseconds(event, "end_ms")
    )


def _delegation_created(event: Event) -> DelegationCreated:
    delegation = object_of(event, "delegation")
    return DelegationCreated(
        text_of(delegation, "id"), optional_text(delegation, "pending_transcript") or ""
    )


def _backend_event(envelope: Event) -> BackendStarted | BackendCall | BackendDone | None:
    event = object_of(envelope, "event")
    kind = text_of(event, "type")
    if kind == "response.created":
        return BackendStarted(text_of(object_of(event, "response"), "id"))
    if kind == "response.output_item.done":
        item = object_of(event, "item")
        return BackendCall(read_call(item)) if item.get("type") == "function_call" else None
    if kind in _BACKEND_ENDS:
        return _backend_done(object_of(event, "response"), _BACKEND_ENDS[kind])
    return None


_BACKEND_ENDS = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.cancelled": "cancelled",
    "response.failed": "failed",
}


def _backend_done(response: Event, status: str) -> BackendDone:
    usage = response.get("usage")
    error = read_error(optional_object(response, "error")) if status == "failed" else None
    return BackendDone(
        text_of(response, "id"),
        status,
        _backend_usage(usage) if isinstance(usage, dict) else None,
        error,
    )


def _backend_usage(usage: Event) -> BackendUsage:
    given, made = count_of(usage, "input_tokens"), count_of(usage, "output_tokens")
    return BackendUsage(
        prompt=given,
        cached=count_of(optional_object(usage, "input_tokens_details"), "cached_tokens"),
        completion=made,
        reasoning=count_of(optional_object(usage, "output_tokens_details"), "reasoning_tokens"),
        total=count_of(usage, "total_tokens") or given + made,
    )


def _seconds_used(event: Event) -> float | None:
    return seconds_of(optional_object(event, "usage"), "duration_seconds")


_READERS: dict[str, Callable[[Event], LiveEvent | None]] = {
    "session.started": lambda event: SessionStarted(
        optional_text(optional_object(event, "session"), "id") or ""
    ),
    "session.output_audio.delta": lambda event: OutputAudio(
        pcm_of(event, "delta"), _milliseconds(event, "start_ms")
    ),
    "session.output_transcript.delta": _output_transcript,
    "session.input_transcript.delta": lambda event: InputTranscript(text_of(event, "delta")),
    "session.delegation.created": _delegation_created,
    "response.event": _backend_event,
    "session.usage.updated": lambda event: UsageUpdated(_seconds_used(event) or 0.0),
    "session.closed": lambda event: SessionClosed(_seconds_used(event)),
    "error": lambda event: ErrorReported(read_error(optional_object(event, "error") or event)),
}


# -- writing ---------------------------------------------------------------------------------------


def append_audio(pcm: bytes) -> Event:
    """A piece of what the user says: 24 kHz, mono, int16."""
    return {"type": "session.input_audio.append", "audio": base64.b64encode(pcm).decode()}


def append_text(
    what: Literal["instructions", "thinking", "commentary"], text: str, delegation_id: str | None
) -> Event:
    """Something for the model that speaks; about a delegation, or in general (None)."""
    return {"type": f"session.{what}.append", "text": text, "delegation_id": delegation_id}


def message(role: InputRole, text: str) -> InputItem:
    """A message of the history."""
    if role == "assistant":
        return {
            "type": "message",
            "role": role,
            "content": [{"type": "output_text", "text": text}],
        }
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def create_item(item: Event) -> Event:
    """An item for the model that thinks."""
    return {"type": "response.item.create", "item": item}
