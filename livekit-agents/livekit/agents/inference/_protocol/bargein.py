"""Messages of the route ``/bargein``: windows of overlapping speech in, verdicts out.

Audio is signed 16-bit little-endian mono at 16 kHz, in binary frames after a time stamp.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from .stt import SessionClose, SessionClosed
from .wire import Fields, ProtocolError, ServerError, UnknownMessage, decode, encode

_STAMP = struct.Struct("<Q")

# -- from the client -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SessionCreate:
    """Opens the session; the first message of a connection."""

    sample_rate: int = 16000
    num_channels: int = 1
    threshold: float | None = None
    """Probability from which overlapping speech is an interruption; None: the server's."""
    min_frames: int = 2
    """Frames of 25 ms that an interruption lasts at least."""
    encoding: str = "s16le"


@dataclass(frozen=True)
class AudioWindow:
    """Audio to judge. `created_at`, in nanoseconds of the client's clock, names the request."""

    created_at: int
    pcm: bytes


ClientMessage = SessionCreate | AudioWindow | SessionClose


def encode_client(message: ClientMessage) -> str | bytes:
    """Write a client's message: bytes for audio, text for the rest."""
    if isinstance(message, AudioWindow):
        return _STAMP.pack(message.created_at) + message.pcm
    if isinstance(message, SessionClose):
        return '{"type":"session.close"}'
    settings: dict[str, Any] = {
        "sample_rate": message.sample_rate,
        "num_channels": message.num_channels,
        "min_frames": message.min_frames,
        "encoding": message.encoding,
    }
    if message.threshold is not None:
        settings["threshold"] = message.threshold
    return encode({"type": "session.create", "settings": settings})


def decode_client(data: str | bytes) -> ClientMessage | UnknownMessage:
    """Read a client's message.

    Raises:
        ProtocolError: It is malformed.
    """
    if isinstance(data, bytes):
        if len(data) < _STAMP.size or (len(data) - _STAMP.size) % 2:
            raise ProtocolError(
                f"a window is 8 bytes of time stamp and whole samples, got {len(data)} bytes"
            )
        return AudioWindow(_STAMP.unpack_from(data)[0], data[_STAMP.size :])
    fields = decode(data)
    kind = fields.type
    if kind == "session.close":
        return SessionClose()
    if kind != "session.create":
        return UnknownMessage(kind)
    settings = Fields(fields.mapping("settings") or {}, "session.create.settings")
    return SessionCreate(
        sample_rate=settings.integer("sample_rate", 16000),
        num_channels=settings.integer("num_channels", 1),
        threshold=settings.optional_number("threshold"),
        min_frames=settings.integer("min_frames", 2),
        encoding=settings.text("encoding", "s16le"),
    )


# -- from the server -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SessionCreated:
    """The session is open."""

    default_threshold: float | None = None


@dataclass(frozen=True)
class InferenceDone:
    """A window was judged: `is_interruption` when it ended the agent's turn."""

    created_at: int
    prediction_duration: float = 0.0
    """Seconds that judging took."""
    probabilities: tuple[float, ...] = ()
    """For each frame of 25 ms."""
    is_interruption: bool = False


ServerMessage = SessionCreated | InferenceDone | SessionClosed | ServerError


def decode_server(text: str | bytes) -> ServerMessage | UnknownMessage:
    """Read a server's message.

    Raises:
        ProtocolError: It is malformed.
    """
    fields = decode(text)
    kind = fields.type
    if kind in ("inference_done", "bargein_detected"):
        if fields.values.get("created_at") is None:
            raise ProtocolError(f'"created_at" of {kind} is missing')
        return InferenceDone(
            created_at=fields.integer("created_at"),
            prediction_duration=fields.number("prediction_duration"),
            probabilities=tuple(fields.numbers("probabilities")),
            is_interruption=kind == "bargein_detected",
        )
    if kind == "session.created":
        return SessionCreated(fields.optional_number("default_threshold"))
    if kind == "session.closed":
        return SessionClosed()
    if kind == "error":
        return ServerError.read(fields)
    return UnknownMessage(kind)


def encode_server(message: ServerMessage) -> str:
    """Write a server's message."""
    if isinstance(message, InferenceDone):
        kind = "bargein_detected" if message.is_interruption else "inference_done"
        return encode(
            {
                "type": kind,
                "created_at": message.created_at,
                "prediction_duration": message.prediction_duration,
                "probabilities": list(message.probabilities),
            }
        )
    if isinstance(message, SessionCreated):
        return encode({"type": "session.created", "default_threshold": message.default_threshold})
    if isinstance(message, SessionClosed):
        return '{"type":"session.closed"}'
    return encode(message.write())
