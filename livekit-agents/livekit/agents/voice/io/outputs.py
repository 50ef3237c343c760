"""Where the agent's words and pictures go."""

from __future__ import annotations

from abc import ABC, abstractmethod

from livekit import rtc

from ._chain import ChainLink


class TextOutput(ABC, ChainLink["TextOutput"]):
    """A sink for the transcript of what the agent says."""

    def __init__(self, *, label: str, next_in_chain: TextOutput | None) -> None:
        """Set up a sink.

        Args:
            label: What to call it in logs.
            next_in_chain: The sink it wraps, if it does.
        """
        super().__init__(label=label, wrapped=next_in_chain)

    @property
    def next_in_chain(self) -> TextOutput | None:
        """The sink it wraps, or None."""
        return self._wrapped

    @abstractmethod
    async def capture_text(self, text: str) -> None:
        """Take a piece of text, maybe a `TimedString`; expressive markup is still in it."""

    @abstractmethod
    def flush(self) -> None:
        """The segment's text is complete."""


class VideoOutput(ABC, ChainLink["VideoOutput"]):
    """A sink for the agent's video."""

    def __init__(self, *, label: str, next_in_chain: VideoOutput | None) -> None:
        """Set up a sink.

        Args:
            label: What to call it in logs.
            next_in_chain: The sink it wraps, if it does.
        """
        super().__init__(label=label, wrapped=next_in_chain)

    @property
    def next_in_chain(self) -> VideoOutput | None:
        """The sink it wraps, or None."""
        return self._wrapped

    @abstractmethod
    async def capture_frame(self, text: rtc.VideoFrame) -> None:
        """Take a frame. The parameter's name is a compatibility accident."""

    @abstractmethod
    def flush(self) -> None:
        """The segment is complete."""
