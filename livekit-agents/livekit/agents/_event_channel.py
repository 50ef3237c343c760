"""The channel that a stream's events leave through."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .log import logger
from .utils.aio import Chan

T = TypeVar("T")


class EventChannel(Chan[T]):
    """A channel whose owner sees every event as it is sent.

    Sending into the closed channel does nothing: worker threads and cleanups of a provider's code
    may still have something to say when the stream has ended, and nobody is listening.

    Args:
        on_send: Called with each event before it is queued. Its failures are logged.
    """

    def __init__(self, on_send: Callable[[T], None]) -> None:
        super().__init__()
        self._on_send = on_send

    def send_nowait(self, value: T) -> None:
        """Send an event, or drop it if the stream has ended."""
        if self.closed:
            return
        try:
            self._on_send(value)
        except Exception:
            logger.exception("failed to take note of the event %r", value)
        super().send_nowait(value)
