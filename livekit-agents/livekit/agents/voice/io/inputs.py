"""Where the user's audio and video come from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, ClassVar, TypeVar

from livekit import rtc

from ._chain import ChainLink

T = TypeVar("T")


class _Source(ChainLink[Any], AsyncIterator[T]):
    """An input, or a wrapper around another one, to which everything is delegated."""

    _kind_of_next: ClassVar[str] = "source"

    def __init__(self, *, label: str, source: _Source[T] | None = None) -> None:
        super().__init__(label=label, wrapped=source)

    @property
    def source(self) -> _Source[T] | None:
        """The wrapped input, or None."""
        return self._wrapped

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        source = self.source
        if source is None:
            raise NotImplementedError(f"{type(self).__name__} has no source: override __anext__")
        return await source.__anext__()


class AudioInput(_Source[rtc.AudioFrame]):
    """Yields the user's audio: int16 frames of any rate and channel count."""

    def __init__(self, *, label: str, source: AudioInput | None = None) -> None:
        """Set up an input.

        Args:
            label: What to call it in logs.
            source: The input it wraps, whose frames it yields unless `__anext__` is overridden.
        """
        super().__init__(label=label, source=source)


class VideoInput(_Source[rtc.VideoFrame]):
    """Yields the user's video."""

    def __init__(self, *, label: str, source: VideoInput | None = None) -> None:
        """Set up an input.

        Args:
            label: What to call it in logs.
            source: The input it wraps, whose frames it yields unless `__anext__` is overridden.
        """
        super().__init__(label=label, source=source)
