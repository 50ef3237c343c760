"""Recording a call. Imported on first use."""

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from .recorder_io import RecorderAudioInput, RecorderAudioOutput, RecorderIO

__all__ = ["RecorderAudioInput", "RecorderAudioOutput", "RecorderIO"]

__getattr__, __dir__ = attach(
    __name__,
    dict.fromkeys(["RecorderAudioInput", "RecorderAudioOutput", "RecorderIO"], ".recorder_io"),
)
