"""`Chan`: an asyncio queue that can be closed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


class ChanClosed(Exception):
    """The channel is closed: it takes no more items, or has none left."""


class ChanFull(Exception):
    """`Chan.send_nowait` found no room."""


class ChanEmpty(Exception):
    """`Chan.recv_nowait` found no item."""


class ChanSender(Protocol[T_contra]):
    """The end of a channel that items are put into."""

    async def send(self, value: T_contra) -> None:
        """See `Chan.send`."""
        ...

    def send_nowait(self, value: T_contra) -> None:
        """See `Chan.send_nowait`."""
        ...

    def close(self) -> None:
        """See `Chan.close`."""
        ...


class ChanReceiver(Protocol[T_co]):
    """The end of a channel that items are taken from."""

    async def recv(self) -> T_co:
        """See `Chan.recv`."""
        ...

    def recv_nowait(self) -> T_co:
        """See `Chan.recv_nowait`."""
        ...

    def close(self) -> None:
        """See `Chan.close`."""
        ...

    def __aiter__(self) -> AsyncIterator[T_co]: ...

    async def __anext__(self) -> T_co: ...


class Chan(Generic[T]):
    """A first-in first-out channel between tasks of one event loop.

    Any number of tasks may send and receive; each item goes to one receiver. After `close`, items
    that are already in the channel can still be received.

    Not thread-safe: from another thread use ``loop.call_soon_threadsafe(chan.send_nowait, item)``.
    """

    # An item stays in `_items` until its receiver really runs. A waiter's future carries only a
    # wake-up, never an item, so cancelling a waiter can't lose one; it passes the wake-up on.

    def __init__(self, maxsize: int = 0, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Open a channel. No event loop needs to be running yet.

        Args:
            maxsize: items it holds before `send` waits; 0 or less: no limit.
            loop: accepted for compatibility; the loop that runs the first waiting task is used.
        """
        self._loop: asyncio.AbstractEventLoop | None = None
        self._maxsize = maxsize
        self._closed = False
        self._items: deque[T] = deque()
        self._receivers: deque[asyncio.Future[None]] = deque()
        self._senders: deque[asyncio.Future[None]] = deque()

    async def send(self, value: T) -> None:
        """Put ``value`` into the channel, waiting for room.

        Raises:
            ChanClosed: the channel is closed, or was closed while waiting.
        """
        woken = False
        while not self._closed and self.full():
            await self._wait(self._senders, first=woken)
            woken = True
        self.send_nowait(value)

    def send_nowait(self, value: T) -> None:
        """Put ``value`` into the channel.

        Raises:
            ChanClosed: the channel is closed.
            ChanFull: there is no room.
        """
        if self._closed:
            raise ChanClosed
        if self.full():
            raise ChanFull
        self._items.append(value)
        wake_one(self._receivers)

    async def recv(self) -> T:
        """Take the oldest item, waiting for one.

        Raises:
            ChanClosed: the channel is closed and empty.
        """
        woken = False
        while not self._items:
            if self._closed:
                raise ChanClosed
            await self._wait(self._receivers, first=woken)
            woken = True
        return self._take()

    def recv_nowait(self) -> T:
        """Take the oldest item.

        Raises:
            ChanEmpty: the channel is open and has no item.
            ChanClosed: the channel is closed and empty.
        """
        if not self._items:
            raise ChanClosed if self._closed else ChanEmpty
        return self._take()

    def close(self) -> None:
        """Take no more items. Wakes everyone who waits. Does nothing on a closed channel."""
        self._closed = True
        for waiters in (self._senders, self._receivers):
            while waiters:
                wake_one(waiters)

    @property
    def closed(self) -> bool:
        """Whether `close` was called; items may be left."""
        return self._closed

    def qsize(self) -> int:
        """Number of items that wait to be received."""
        return len(self._items)

    def full(self) -> bool:
        """Whether `send` would have to wait."""
        return 0 < self._maxsize <= len(self._items)

    def empty(self) -> bool:
        """Whether there is nothing to receive right now."""
        return not self._items

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.recv()
        except ChanClosed:
            raise StopAsyncIteration from None

    def _take(self) -> T:
        value = self._items.popleft()
        wake_one(self._senders)
        return value

    async def _wait(self, waiters: deque[asyncio.Future[None]], *, first: bool) -> None:
        """Wait for a wake-up. One that came too late for its item queues up in front again."""
        if (loop := self._loop) is None:  # asking costs a system call, and frames come often
            loop = self._loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        if first:
            waiters.appendleft(waiter)
        else:
            waiters.append(waiter)
        try:
            await waiter
        except BaseException:
            if not waiter.cancelled():
                # woken and cancelled in one turn of the loop: somebody else can have the turn
                waiter.cancel()
                self._pass_on(waiters)
            elif waiter in waiters:
                waiters.remove(waiter)
            raise

    def _pass_on(self, waiters: deque[asyncio.Future[None]]) -> None:
        useful = self._items if waiters is self._receivers else not self.full()
        if useful:
            wake_one(waiters)


def wake_one(waiters: deque[asyncio.Future[None]]) -> None:
    """Let the first of those go on that still wait."""
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return
