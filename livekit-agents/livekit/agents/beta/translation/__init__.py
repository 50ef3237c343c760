"""Live translation: what a speaker says is spoken, and written, in another language."""

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from .room_io import TranslationRoomIO, TranslationRoomOptions
    from .translation_model import (
        InputSpeechStarted,
        InputSpeechStopped,
        InputTranscript,
        OutputSpeechStopped,
        OutputTranscript,
        TranslatedAudioFrame,
        TranslationCapabilities,
        TranslationEventTypes,
        TranslationModel,
        TranslationModelError,
        TranslationModelSession,
    )
    from .translation_session import TranslationSession, TranslationTranscribedEvent

__all__ = [
    "InputSpeechStarted",
    "InputSpeechStopped",
    "InputTranscript",
    "OutputSpeechStopped",
    "OutputTranscript",
    "TranslatedAudioFrame",
    "TranslationCapabilities",
    "TranslationEventTypes",
    "TranslationModel",
    "TranslationModelError",
    "TranslationModelSession",
    "TranslationRoomIO",
    "TranslationRoomOptions",
    "TranslationSession",
    "TranslationTranscribedEvent",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    _elsewhere = {
        "TranslationRoomIO": ".room_io",
        "TranslationRoomOptions": ".room_io",
        "TranslationSession": ".translation_session",
        "TranslationTranscribedEvent": ".translation_session",
    }
    __getattr__, __dir__ = attach(
        __name__, {name: _elsewhere.get(name, ".translation_model") for name in __all__}
    )
