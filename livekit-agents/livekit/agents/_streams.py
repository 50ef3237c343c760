"""What models and their streams have in common: how they end, and how they are named in messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from typing_extensions import Self

from .log import logger
from .utils.aio import Chan, Survivor

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")

CLOSE_GRACE = 2.0
"""Seconds that a provider's task may take for its cleanup before it is abandoned."""


class Patience:
    """Whether a provider's code had to be told twice to end.

    `TaskScope.cancel` asks once more half-way. A cleanup that is interrupted then, such as the wait
    for a goodbye, has ended without closing what it was about to close.

    Args:
        seconds: What the code is given in all.
    """

    def __init__(self, seconds: float) -> None:
        self._clock = asyncio.get_running_loop().time
        self._lost_at = self._clock() + seconds / 2

    @property
    def lost(self) -> bool:
        """Whether the second half has begun."""
        return self._clock() >= self._lost_at


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
        if self._closed:
            return
        try:
            self._on_send(value)
        except Exception:
            logger.exception("failed to take note of the event %r", value)
        super().send_nowait(value)


class ClosesOnExit:
    """Works in `async with`, which closes it at the end."""

    if TYPE_CHECKING:

        async def aclose(self) -> None:
            """Close it."""
            ...

    async def __aenter__(self) -> Self:
        """Return itself; it is in use already."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Close it, whatever ended the block."""
        try:
            await self.aclose()
        finally:
            self._left()

    def _left(self) -> None:
        """The block is over, also when an override of `aclose` failed or was given up."""


def report_survivors(survivors: Iterable[Survivor]) -> None:
    """Log the tasks that a closed stream leaves behind."""
    for survivor in survivors:
        logger.error(
            "%s: %s ignored its cancellation and is left behind\n%s",
            survivor.owner,
            survivor.name,
            survivor.stack,
        )


def qualified_name(stream: object) -> str:
    """Module and class of an object, for messages."""
    return f"{type(stream).__module__}.{type(stream).__name__}"
