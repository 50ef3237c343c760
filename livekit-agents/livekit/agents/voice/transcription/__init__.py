"""What is shown of what the agent says, and what is changed before it is spoken."""

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from . import text_transforms
    from .synchronizer import TranscriptSynchronizer, find_micro_track_id

__all__ = ["TranscriptSynchronizer", "find_micro_track_id", "text_transforms"]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            "TranscriptSynchronizer": ".synchronizer",
            "find_micro_track_id": ".synchronizer",
            "text_transforms": ".text_transforms:",
        },
    )
