"""Sessions in LiveKit rooms. Imported on first use."""

from typing import TYPE_CHECKING

from ..._lazy import attach
from ...types import ATTRIBUTE_PUBLISH_ON_BEHALF

if TYPE_CHECKING:
    from ._output import _ParticipantAudioOutput
    from ._transcription import (
        _ParticipantStreamTranscriptionOutput,
        _ParticipantTranscriptionOutput,
    )
    from .room_io import RoomIO
    from .types import (
        AudioInputOptions,
        AudioOutputOptions,
        RoomInputOptions,
        RoomOptions,
        RoomOutputOptions,
        TextInputEvent,
        TextInputOptions,
        TextOutputOptions,
        VideoInputOptions,
    )

__all__ = [
    "ATTRIBUTE_PUBLISH_ON_BEHALF",
    "AudioInputOptions",
    "AudioOutputOptions",
    "RoomIO",
    "RoomInputOptions",
    "RoomOptions",
    "RoomOutputOptions",
    "TextInputEvent",
    "TextInputOptions",
    "TextOutputOptions",
    "VideoInputOptions",
    "_ParticipantAudioOutput",
    "_ParticipantStreamTranscriptionOutput",
    "_ParticipantTranscriptionOutput",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            "RoomIO": ".room_io",
            "_ParticipantAudioOutput": "._output",
            "_ParticipantStreamTranscriptionOutput": "._transcription",
            "_ParticipantTranscriptionOutput": "._transcription",
            **dict.fromkeys(
                [
                    "AudioInputOptions",
                    "AudioOutputOptions",
                    "RoomInputOptions",
                    "RoomOptions",
                    "RoomOutputOptions",
                    "TextInputEvent",
                    "TextInputOptions",
                    "TextOutputOptions",
                    "VideoInputOptions",
                ],
                ".types",
            ),
        },
    )
