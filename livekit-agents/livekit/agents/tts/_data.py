"""The values that pass between a speech synthesizer and its listeners."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from livekit import rtc
from pydantic import BaseModel, ConfigDict, Field


@dataclass
class SynthesizedAudio:
    """A piece of synthesized speech."""

    frame: rtc.AudioFrame
    """The audio, 16-bit PCM."""

    request_id: str
    """Id of the request, usually the provider's. It changes when an attempt is repeated."""

    is_final: bool = False
    """Whether this is the last piece of its segment."""

    segment_id: str = ""
    """Id of the segment; empty for a request that has only one."""

    delta_text: str = ""
    """Not filled in; timed words travel in `frame.userdata["lk.timed_transcripts"]`."""


@dataclass
class TTSCapabilities:
    """What a synthesizer can do. Read anew at each use, so it may change while running."""

    streaming: bool
    """Whether `TTS.stream` takes text piece by piece."""

    aligned_transcript: bool = False
    """Whether frames carry the words spoken in them, with times."""


@dataclass
class MarkupInfo:
    """What a synthesizer's markup dialect can express."""

    nonverbals: dict[str, list[str]] = field(default_factory=dict)
    """Non-speech sounds by category, such as `{"laughing": ["laugh", "chuckle"]}`."""


class TTSError(BaseModel):
    """Payload of the `"error"` event of a `TTS`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    type: Literal["tts_error"] = "tts_error"
    timestamp: float
    """Epoch seconds."""
    label: str
    """Which synthesizer failed."""
    error: Exception = Field(..., exclude=True)
    """What went wrong. Left out of dumps."""
    recoverable: bool
    """True when another attempt follows, False when the request is over."""
