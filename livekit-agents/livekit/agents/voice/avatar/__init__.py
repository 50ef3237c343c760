"""Avatars: somebody else plays the agent's audio, with a face. Imported on first use."""

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from ._datastream_io import DataStreamAudioOutput
    from ._datastream_receiver import DataStreamAudioReceiver
    from ._queue_io import QueueAudioOutput
    from ._runner import AvatarRunner
    from ._types import AudioReceiver, AudioSegmentEnd, AvatarOptions, VideoGenerator
    from .avatar_session import AvatarSession

__all__ = [
    "AudioReceiver",
    "AudioSegmentEnd",
    "AvatarOptions",
    "AvatarRunner",
    "AvatarSession",
    "DataStreamAudioOutput",
    "DataStreamAudioReceiver",
    "QueueAudioOutput",
    "VideoGenerator",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            "AvatarRunner": "._runner",
            "AvatarSession": ".avatar_session",
            "DataStreamAudioOutput": "._datastream_io",
            "DataStreamAudioReceiver": "._datastream_receiver",
            "QueueAudioOutput": "._queue_io",
            **dict.fromkeys(
                ["AudioReceiver", "AudioSegmentEnd", "AvatarOptions", "VideoGenerator"], "._types"
            ),
        },
    )
