"""A counter for the tasks of one event loop."""

from __future__ import annotations


class AsyncAtomicCounter:
    """An integer whose operations are atomic between the tasks of one event loop.

    No operation gives way to another task, so none needs a lock. Not thread-safe.
    """

    def __init__(self, initial: int = 0) -> None:
        """Start at ``initial``."""
        self._value = initial

    async def increment(self, n: int = 1) -> int:
        """Add ``n`` and return the new value."""
        self._value += n
        return self._value

    async def decrement(self, n: int = 1) -> int:
        """Subtract ``n`` and return the new value."""
        self._value -= n
        return self._value

    async def get(self) -> int:
        """The current value."""
        return self._value

    def get_nowait(self) -> int:
        """The current value."""
        return self._value

    async def set(self, value: int) -> None:
        """Replace the value."""
        self._value = value

    async def compare_and_swap(self, expected: int, new: int) -> bool:
        """Set the value to ``new`` if it is ``expected``. Returns whether it was."""
        if self._value != expected:
            return False
        self._value = new
        return True

    async def get_and_reset(self, reset_value: int = 0) -> int:
        """Replace the value and return the one before."""
        value, self._value = self._value, reset_value
        return value
