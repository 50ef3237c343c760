"""Where audio, video and text come from and go to."""

from ...types import TimedString
from ._nodes import LLMNode, STTNode, TTSNode
from .audio_output import (
    AudioOutput,
    AudioOutputCapabilities,
    PlaybackFinishedEvent,
    PlaybackProgressedEvent,
    PlaybackStartedEvent,
)
from .inputs import AudioInput, VideoInput
from .outputs import TextOutput, VideoOutput
from .slots import AgentInput, AgentOutput

__all__ = [
    "AgentInput",
    "AgentOutput",
    "AudioInput",
    "AudioOutput",
    "AudioOutputCapabilities",
    "LLMNode",
    "PlaybackFinishedEvent",
    "PlaybackProgressedEvent",
    "PlaybackStartedEvent",
    "STTNode",
    "TTSNode",
    "TextOutput",
    "TimedString",
    "VideoInput",
    "VideoOutput",
]
