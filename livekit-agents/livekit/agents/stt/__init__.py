"""Speech recognition: the base classes of providers, and adapters that combine them."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .fallback_adapter import AvailabilityChangedEvent, FallbackAdapter
    from .multi_speaker_adapter import MultiSpeakerAdapter
    from .recognize_stream import RecognizeStream, SpeechStream
    from .stream_adapter import StreamAdapter, StreamAdapterWrapper
    from .stt import STT
    from .types import (
        RecognitionUsage,
        SpeakerContext,
        SpeechData,
        SpeechEvent,
        SpeechEventType,
        STTCapabilities,
        STTError,
    )

__all__ = [
    "AvailabilityChangedEvent",
    "FallbackAdapter",
    "MultiSpeakerAdapter",
    "RecognitionUsage",
    "RecognizeStream",
    "STT",
    "STTCapabilities",
    "STTError",
    "SpeakerContext",
    "SpeechData",
    "SpeechEvent",
    "SpeechEventType",
    "SpeechStream",
    "StreamAdapter",
    "StreamAdapterWrapper",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            "AvailabilityChangedEvent": ".fallback_adapter",
            "FallbackAdapter": ".fallback_adapter",
            "MultiSpeakerAdapter": ".multi_speaker_adapter",
            "RecognitionUsage": ".types",
            "RecognizeStream": ".recognize_stream",
            "STT": ".stt",
            "STTCapabilities": ".types",
            "STTError": ".types",
            "SpeakerContext": ".types",
            "SpeechData": ".types",
            "SpeechEvent": ".types",
            "SpeechEventType": ".types",
            "SpeechStream": ".recognize_stream",
            "StreamAdapter": ".stream_adapter",
            "StreamAdapterWrapper": ".stream_adapter",
        },
    )
