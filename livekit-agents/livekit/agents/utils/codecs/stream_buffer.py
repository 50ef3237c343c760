"""A pipe between the event loop and a thread that reads like from a file."""

from __future__ import annotations

import threading
from collections.abc import Callable

_RECHECK_INTERVAL = 1.0
"""Seconds. Lets the reader notice the end even if a notification were lost."""


class StreamBuffer:
    """Bytes written by one thread and read by another. Reading blocks until there are some."""

    def __init__(self, on_starving: Callable[[], object] | None = None) -> None:
        """Create an empty buffer.

        Args:
            on_starving: called by the reading thread each time it is about to wait for data.
        """
        self._data = bytearray()
        self._changed = threading.Condition()
        self._ended = False
        self._on_starving = on_starving

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes. Never blocks; drops them once input has ended."""
        with self._changed:
            if not self._ended:
                self._data += data
                self._changed.notify_all()

    def read(self, size: int = -1) -> bytes:
        """Return what there is, at most `size` bytes if that isn't negative.

        Waits while the buffer is empty. Returns nothing at the end of input.
        """
        with self._changed:
            starving = not self._data and not self._ended
        if starving and self._on_starving is not None:
            self._on_starving()  # outside the lock, which writers need
        with self._changed:
            while not self._data and not self._ended:
                self._changed.wait(_RECHECK_INTERVAL)
            if size < 0:
                size = len(self._data)
            chunk = bytes(self._data[:size])
            del self._data[:size]
            return chunk

    def end_input(self) -> None:
        """Let the reader reach the end after what is buffered."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what is buffered and let the reader reach the end at once."""
        with self._changed:
            self._data.clear()
            self._ended = True
            self._changed.notify_all()
