"""Messages of the route ``/stt``: PCM audio in, transcripts out.

Audio is signed 16-bit little-endian mono, in chunks of 50 ms.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from .wire import Fields, ProtocolError, ServerError, UnknownMessage, decode, encode

# -- from the client -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SessionCreate:
    """Opens the session; the first message of a connection."""

    sample_rate: int
    encoding: str = "pcm_s16le"
    extra: Mapping[str, Any] = field(default_factory=dict)
    language: str | None = None
    model: str | None = None
    fallback: tuple[Mapping[str, Any], ...] | None = None
    """Models that the gateway tries in turn: ``{"model": …, "extra": … or None}``."""
    connect_timeout: float = 10.0
    """Seconds that the gateway gives a provider, as `retries` is for the gateway."""
    retries: int = 3


@dataclass(frozen=True)
class InputAudio:
    """A piece of the caller's audio."""

    pcm: bytes


@dataclass(frozen=True)
class SessionUpdate:
    """Changes options of a running session; None leaves one as it is."""

    model: str | None = None
    language: str | None = None
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SessionFinalize:
    """Asks for the final transcript of what was sent so far."""


@dataclass(frozen=True)
class SessionClose:
    """Says good-bye."""


ClientMessage = SessionCreate | InputAudio | SessionUpdate | SessionFinalize | SessionClose


def encode_audio(pcm: bytes | bytearray | memoryview) -> str:
    """Write an `InputAudio`. Base64 needs no escaping, so the JSON is put together by hand."""
    return '{"type":"input_audio","audio":"' + base64.b64encode(pcm).decode("ascii") + '"}'


def encode_client(message: ClientMessage) -> str:
    """Write a client's message.

    Raises:
        ValueError: Its options have no form in JSON.
    """
    if isinstance(message, InputAudio):
        return encode_audio(message.pcm)
    if isinstance(message, SessionCreate):
        return encode(_write_create(message))
    if isinstance(message, SessionUpdate):
        settings = {
            "model": message.model,
            "language": message.language,
            "extra": message.extra,
        }
        present = {key: value for key, value in settings.items() if value is not None}
        return encode({"type": "session.update", "settings": present})
    if isinstance(message, SessionFinalize):
        return '{"type":"session.finalize"}'
    return '{"type":"session.close"}'


def _write_create(message: SessionCreate) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "sample_rate": str(message.sample_rate),
        "encoding": message.encoding,
        "extra": message.extra,
    }
    if message.language is not None:
        settings["language"] = message.language
    created: dict[str, Any] = {"type": "session.create", "settings": settings}
    if message.model is not None:
        created["model"] = message.model
    if message.fallback is not None:
        created["fallback"] = {"models": list(message.fallback)}
    created["connection"] = {"timeout": message.connect_timeout, "retries": message.retries}
    return created


def decode_client(text: str | bytes) -> ClientMessage | UnknownMessage:
    """Read a client's message.

    Raises:
        ProtocolError: It is malformed.
    """
    fields = decode(text)
    kind = fields.type
    if kind == "input_audio":
        return InputAudio(fields.audio("audio"))
    if kind == "session.create":
        return _read_create(fields)
    if kind == "session.update":
        settings = Fields(fields.mapping("settings") or {}, kind)
        return SessionUpdate(
            model=settings.optional_text("model"),
            language=settings.optional_text("language"),
            extra=settings.mapping("extra"),
        )
    if kind == "session.finalize":
        return SessionFinalize()
    if kind == "session.close":
        return SessionClose()
    return UnknownMessage(kind)


def _read_create(fields: Fields) -> SessionCreate:
    settings = Fields(fields.mapping("settings") or {}, "session.create.settings")
    connection = Fields(fields.mapping("connection") or {}, "session.create.connection")
    fallback = Fields(fields.mapping("fallback") or {}, "session.create.fallback").objects("models")
    return SessionCreate(
        sample_rate=read_sample_rate(settings, default=16000),
        encoding=settings.text("encoding", "pcm_s16le"),
        extra=settings.mapping("extra") or {},
        language=settings.optional_text("language"),
        model=fields.optional_text("model"),
        fallback=None if fallback is None else tuple(item.values for item in fallback),
        connect_timeout=connection.number("timeout", 10.0),
        retries=connection.integer("retries", 3),
    )


def read_sample_rate(fields: Fields, *, default: int) -> int:
    """A sample rate in Hz, which travels as a string.

    Raises:
        ProtocolError: It is none.
    """
    text = fields.text("sample_rate", str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 7 and int(text) > 0):
        raise ProtocolError('"sample_rate" should be a positive integer, written as a string')
    return int(text)


# -- from the server -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SessionCreated:
    """The session is open. A client need not wait for it."""

    session_id: str | None = None


@dataclass(frozen=True)
class StartOfSpeech:
    """Somebody began to speak."""

    request_id: str | None = None


class TranscriptKind(Enum):
    """How sure a transcript is."""

    INTERIM = "interim_transcript"
    PREFLIGHT = "preflight_transcript"
    FINAL = "final_transcript"


class Word(NamedTuple):
    """A word of a transcript, with seconds since the connection's first sample."""

    text: str
    start: float = 0.0
    end: float = 0.0
    confidence: float = 0.0
    speaker_id: str | None = None


@dataclass(frozen=True)
class Transcript:
    """What was said. `start` and `duration` are seconds since the connection's first sample."""

    kind: TranscriptKind
    text: str = ""
    request_id: str | None = None
    language: str | None = None
    start: float = 0.0
    duration: float = 0.0
    confidence: float = 1.0
    speaker_id: str | None = None
    words: tuple[Word, ...] | None = None
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SessionFinalized:
    """A `SessionFinalize` was carried out. Transcripts may still follow."""


@dataclass(frozen=True)
class SessionClosed:
    """The server will close the connection now."""


ServerMessage = (
    SessionCreated | StartOfSpeech | Transcript | SessionFinalized | SessionClosed | ServerError
)

_TRANSCRIPTS = {kind.value: kind for kind in TranscriptKind}


def decode_server(text: str | bytes) -> ServerMessage | UnknownMessage:
    """Read a server's message.

    Raises:
        ProtocolError: It is malformed.
    """
    fields = decode(text)
    name = fields.type
    kind = _TRANSCRIPTS.get(name)
    if kind is not None:
        return _read_transcript(kind, fields)
    if name == "start_of_speech":
        return StartOfSpeech(fields.optional_text("request_id"))
    if name == "session.created":
        return SessionCreated(fields.optional_text("session_id"))
    if name == "session.finalized":
        return SessionFinalized()
    if name == "session.closed":
        return SessionClosed()
    if name == "error":
        return ServerError.read(fields)
    return UnknownMessage(name)


def _read_transcript(kind: TranscriptKind, fields: Fields) -> Transcript:
    return Transcript(
        kind=kind,
        text=fields.text("transcript"),
        request_id=fields.optional_text("request_id"),
        language=fields.optional_text("language"),
        start=fields.number("start"),
        duration=fields.number("duration"),
        confidence=fields.number("confidence", 1.0),
        speaker_id=fields.optional_text("speaker_id"),
        words=_read_words(fields),
        extra=fields.mapping("extra"),
    )


_LONGEST = 1e9
"""Seconds; more is no time but nonsense."""


def _read_words(fields: Fields) -> tuple[Word, ...] | None:
    values = fields.values.get("words")
    plain = [_plain_word(value) for value in values] if type(values) is list else [None]
    if None not in plain:
        return tuple(plain)  # type: ignore[arg-type]
    words = fields.objects("words")
    return None if words is None else tuple(map(_read_word, words))


def _plain_word(value: Any) -> Word | None:
    """Reads nearly every word there is; the rest is read field by field, for proper complaints."""
    if type(value) is not dict:
        return None
    get = value.get
    text, start, end = get("word"), get("start"), get("end")
    confidence, speaker = get("confidence"), get("speaker_id")
    if (
        type(text) is str
        and type(start) is type(end) is type(confidence) is float
        and (speaker is None or (type(speaker) is str and speaker.isascii()))
        and text.isascii()
        and -_LONGEST < start < _LONGEST
        and -_LONGEST < end < _LONGEST
        and -_LONGEST < confidence < _LONGEST
    ):
        return Word(text, start, end, confidence, speaker)
    return None


def _read_word(fields: Fields) -> Word:
    return Word(
        text=fields.text("word"),
        start=fields.number("start"),
        end=fields.number("end"),
        confidence=fields.number("confidence"),
        speaker_id=fields.optional_text("speaker_id"),
    )


def encode_server(message: ServerMessage) -> str:
    """Write a server's message."""
    if isinstance(message, Transcript):
        return encode(_write_transcript(message))
    if isinstance(message, StartOfSpeech):
        return encode(_without_none({"type": "start_of_speech", "request_id": message.request_id}))
    if isinstance(message, SessionCreated):
        return encode(_without_none({"type": "session.created", "session_id": message.session_id}))
    if isinstance(message, SessionFinalized):
        return '{"type":"session.finalized"}'
    if isinstance(message, SessionClosed):
        return '{"type":"session.closed"}'
    return encode(message.write())


def _write_transcript(message: Transcript) -> dict[str, Any]:
    words = None
    if message.words is not None:
        words = [
            {
                "word": word.text,
                "start": word.start,
                "end": word.end,
                "confidence": word.confidence,
                "speaker_id": word.speaker_id,
            }
            for word in message.words
        ]
    return _without_none(
        {
            "type": message.kind.value,
            "request_id": message.request_id,
            "transcript": message.text,
            "language": message.language,
            "start": message.start,
            "duration": message.duration,
            "confidence": message.confidence,
            "speaker_id": message.speaker_id,
            "words": words,
            "extra": message.extra,
        }
    )


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
