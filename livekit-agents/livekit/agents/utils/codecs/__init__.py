"""Decoding of compressed audio while it arrives."""

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from .decoder import AudioStreamDecoder, StreamBuffer

__all__ = ["AudioStreamDecoder", "StreamBuffer"]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            "AudioStreamDecoder": ".decoder",
            "StreamBuffer": ".decoder",
            "decoder": ".decoder:",
        },
    )
