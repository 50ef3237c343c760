"""What speech recognition produces and reports: events, transcripts, usage, capabilities, errors."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from ..language import LanguageCode
from ..types import TimedString


@unique
class SpeechEventType(str, Enum):
    """What happened in the speech that a recognizer listens to."""

    START_OF_SPEECH = "start_of_speech"
    """The speaker began to talk."""
    INTERIM_TRANSCRIPT = "interim_transcript"
    """A guess at what is being said, replaced by the next one."""
    PREFLIGHT_TRANSCRIPT = "preflight_transcript"
    """A transcript stable enough to start preparing a reply, but not final."""
    FINAL_TRANSCRIPT = "final_transcript"
    """What was said; it won't change any more."""
    RECOGNITION_USAGE = "recognition_usage"
    """How much audio the provider billed since the last such event."""
    END_OF_SPEECH = "end_of_speech"
    """The speaker stopped talking."""


@dataclass
class SpeechData:
    """One reading of a stretch of speech.

    Times are seconds on the time line of the stream; `confidence` lies in 0..1. Plain strings
    given as languages become `LanguageCode`.
    """

    language: LanguageCode
    text: str
    start_time: float = 0.0
    end_time: float = 0.0
    confidence: float = 0.0
    speaker_id: str | None = None
    is_primary_speaker: bool | None = None
    words: list[TimedString] | None = None
    source_languages: list[LanguageCode] | None = None
    """Languages that were spoken, when the provider translates."""
    source_texts: list[str] | None = None
    target_languages: list[LanguageCode] | None = None
    """Languages that the speech was translated to."""
    target_texts: list[str] | None = None
    metadata: dict[str, Any] | None = None
    """Whatever else the provider said about this reading."""

    def __post_init__(self) -> None:
        self.language = _language(self.language)
        if self.source_languages is not None:
            self.source_languages = [_language(lang) for lang in self.source_languages]
        if self.target_languages is not None:
            self.target_languages = [_language(lang) for lang in self.target_languages]


def _language(value: str) -> LanguageCode:
    return value if isinstance(value, LanguageCode) else LanguageCode(value)


@dataclass
class RecognitionUsage:
    """What a provider bills: seconds of audio, and tokens where it counts those."""

    audio_duration: float
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass
class SpeechEvent:
    """Something a recognizer heard. `speech_start_time` and `speech_end_time` are wall clock."""

    type: SpeechEventType
    request_id: str = ""
    alternatives: list[SpeechData] = field(default_factory=list)
    recognition_usage: RecognitionUsage | None = None
    speech_start_time: float | None = None
    created_at: float = field(default_factory=lambda: time.time())
    speech_end_time: float | None = None


@dataclass
class STTCapabilities:
    """What a recognizer can do. Mutable: a plugin may change it, readers look at it live."""

    streaming: bool
    interim_results: bool
    diarization: bool = False
    """Transcripts say who spoke."""
    aligned_transcript: Literal["word", "chunk"] | Literal[False] = False
    """Transcripts carry times, for each word or each chunk."""
    offline_recognize: bool = True
    """`STT.recognize` works."""
    keyterms: bool = False
    """Terms to listen for can be set while a session runs."""
    chat_context: bool = False
    """What the agent said can be passed on, to recognize the answer better."""
    manual_flush: bool = False
    """`RecognizeStream.flush` makes the provider finish its transcript."""


class STTError(BaseModel):
    """Payload of the `"error"` event of an `STT`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    type: Literal["stt_error"] = "stt_error"
    timestamp: float
    label: str
    error: Exception = Field(..., exclude=True)
    recoverable: bool
    """True when the stream or request goes on by itself."""


@runtime_checkable
class SpeakerContext(Protocol):
    """What a recognizer knows about the speaker (mood, age, accent), as text for a model."""

    def to_instructions(self) -> str:
        """Describe the speaker in a sentence or two for the instructions of a language model."""
        ...
