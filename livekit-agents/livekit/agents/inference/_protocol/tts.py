"""Messages of the route ``/tts``: sentences in, PCM audio out.

A connection carries segments one after the other. Audio is signed 16-bit little-endian mono.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .stt import SessionCreated, read_sample_rate
from .wire import Fields, ServerError, UnknownMessage, decode, encode

# -- from the client -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SessionCreate:
    """Opens the session; the first message of a connection."""

    sample_rate: int
    encoding: str = "pcm_s16le"
    extra: Mapping[str, Any] = field(default_factory=dict)
    voice: str | None = None
    model: str | None = None
    language: str | None = None
    fallback: tuple[Mapping[str, Any], ...] | None = None
    """Models that the gateway tries in turn: ``{"model": …, "voice": …, "extra": {…}}``."""
    connect_timeout: float = 10.0
    """Seconds that the gateway gives a provider, as `retries` is for the gateway."""
    retries: int = 3


@dataclass(frozen=True)
class InputTranscript:
    """A sentence to speak, and how."""

    transcript: str
    voice: str | None = None
    model: str | None = None
    language: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SessionFlush:
    """The segment has no more sentences."""


ClientMessage = SessionCreate | InputTranscript | SessionFlush


def encode_client(message: ClientMessage) -> str:
    """Write a client's message.

    Raises:
        ValueError: Its options have no form in JSON.
    """
    if isinstance(message, InputTranscript):
        return encode(
            {
                "type": "input_transcript",
                "transcript": message.transcript,
                "generation_config": _voice_fields(message),
                "extra": message.extra,
            }
        )
    if isinstance(message, SessionFlush):
        return '{"type":"session.flush"}'
    created: dict[str, Any] = {
        "type": "session.create",
        "sample_rate": str(message.sample_rate),
        "encoding": message.encoding,
        "extra": message.extra,
        **_voice_fields(message),
    }
    if message.fallback is not None:
        created["fallback"] = {"models": list(message.fallback)}
    created["connection"] = {"timeout": message.connect_timeout, "retries": message.retries}
    return encode(created)


def _voice_fields(message: SessionCreate | InputTranscript) -> dict[str, str]:
    fields = {"voice": message.voice, "model": message.model, "language": message.language}
    return {key: value for key, value in fields.items() if value is not None}


def decode_client(text: str | bytes) -> ClientMessage | UnknownMessage:
    """Read a client's message.

    Raises:
        ProtocolError: It is malformed.
    """
    fields = decode(text)
    kind = fields.type
    if kind == "input_transcript":
        config = Fields(fields.mapping("generation_config") or {}, kind)
        return InputTranscript(
            transcript=fields.text("transcript"),
            voice=config.optional_text("voice"),
            model=config.optional_text("model"),
            language=config.optional_text("language"),
            extra=fields.mapping("extra") or {},
        )
    if kind == "session.flush":
        return SessionFlush()
    if kind != "session.create":
        return UnknownMessage(kind)
    connection = Fields(fields.mapping("connection") or {}, "session.create.connection")
    fallback = Fields(fields.mapping("fallback") or {}, "session.create.fallback").objects("models")
    return SessionCreate(
        sample_rate=read_sample_rate(fields, default=24000),
        encoding=fields.text("encoding", "pcm_s16le"),
        extra=fields.mapping("extra") or {},
        voice=fields.optional_text("voice"),
        model=fields.optional_text("model"),
        language=fields.optional_text("language"),
        fallback=None if fallback is None else tuple(item.values for item in fallback),
        connect_timeout=connection.number("timeout", 10.0),
        retries=connection.integer("retries", 3),
    )


# -- from the server -------------------------------------------------------------------------------


@dataclass(frozen=True)
class OutputAudio:
    """A piece of the speech. May end in the middle of a sample."""

    pcm: bytes
    session_id: str | None = None


@dataclass(frozen=True)
class Mark:
    """A word or character and when it is spoken, in seconds since the segment's start."""

    text: str
    start: float = 0.0
    end: float = 0.0


@dataclass(frozen=True)
class OutputAlignment:
    """When words, or characters, are spoken."""

    words: tuple[Mark, ...] | None = None
    chars: tuple[Mark, ...] | None = None
    session_id: str | None = None


@dataclass(frozen=True)
class Done:
    """The segment is complete."""

    session_id: str | None = None


ServerMessage = SessionCreated | OutputAudio | OutputAlignment | Done | ServerError


def decode_server(text: str | bytes) -> ServerMessage | UnknownMessage:
    """Read a server's message.

    Raises:
        ProtocolError: It is malformed.
    """
    fields = decode(text)
    kind = fields.type
    session_id = None if kind == "error" else fields.optional_text("session_id")
    if kind == "output_audio":
        return OutputAudio(fields.audio("audio"), session_id)
    if kind == "output_alignment":
        return OutputAlignment(_marks(fields, "word"), _marks(fields, "char"), session_id)
    if kind == "done":
        return Done(session_id)
    if kind == "session.created":
        return SessionCreated(session_id)
    if kind == "error":
        return ServerError.read(fields)
    return UnknownMessage(kind)


def _marks(fields: Fields, unit: str) -> tuple[Mark, ...] | None:
    items = fields.objects(f"{unit}s")
    if items is None:
        return None
    return tuple(Mark(item.text(unit), item.number("start"), item.number("end")) for item in items)


def encode_server(message: ServerMessage) -> str:
    """Write a server's message."""
    if isinstance(message, ServerError):
        return encode(message.write())
    fields: dict[str, Any]
    if isinstance(message, OutputAudio):
        audio = base64.b64encode(message.pcm).decode("ascii")
        fields = {"type": "output_audio", "audio": audio}
    elif isinstance(message, OutputAlignment):
        fields = {"type": "output_alignment"}
        for unit, marks in (("word", message.words), ("char", message.chars)):
            if marks is not None:
                fields[f"{unit}s"] = [
                    {unit: mark.text, "start": mark.start, "end": mark.end} for mark in marks
                ]
    elif isinstance(message, Done):
        fields = {"type": "done"}
    else:
        fields = {"type": "session.created"}
    if message.session_id is not None:
        fields["session_id"] = message.session_id
    return encode(fields)
