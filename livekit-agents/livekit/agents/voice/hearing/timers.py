"""Timers as the state machines see them: something that calls back later, and can be cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A pending call."""

    def cancel(self) -> None:
        """Don't call. Harmless once called."""


class CallLater(Protocol):
    """`loop.call_later`, or a test's own."""

    def __call__(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer: ...
