"""One asynchronous source, several readers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

from typing_extensions import Self

T = TypeVar("T")


async def tee_peer(
    iterator: AsyncIterator[T],
    buffer: deque[T],
    peers: list[deque[T]],
    lock: AbstractAsyncContextManager[Any],
    exception: list[Exception],
) -> AsyncGenerator[T, None]:
    """One reader of a `Tee`.

    Args:
        iterator: the source, shared by all readers.
        buffer: items that this reader has not yielded yet.
        peers: the buffers of all readers that are still reading.
        lock: held by the reader that reads the source.
        exception: how the source ended (`StopAsyncIteration` for the normal end), empty until then.
    """
    try:
        while True:
            if not buffer:
                async with lock:
                    if not buffer:  # nobody else read an item while we waited for the lock
                        await _read(iterator, peers, exception)
                    if not buffer:
                        return
            yield buffer.popleft()
    finally:
        # by identity: two empty buffers are equal
        peers[:] = [peer for peer in peers if peer is not buffer]


async def _read(
    iterator: AsyncIterator[T], peers: list[deque[T]], exception: list[Exception]
) -> None:
    """Move one item from the source to every buffer; raises the source's error to every reader."""
    if not exception:
        try:
            item = await iterator.__anext__()
        except Exception as error:
            exception.append(error)
        else:
            for peer in peers:
                peer.append(item)
            return
    if not isinstance(exception[0], StopAsyncIteration):
        raise exception[0]


class Tee(Generic[T]):
    """Several independent iterators over one asynchronous source.

    ::

        async with tee(frames, 2) as (to_stt, to_recorder):
            ...

    Each iterator yields every item. What one has read and another has not is buffered without
    limit. An error of the source reaches all of them, after the items before it; a cancellation
    only the one that was reading.
    """

    def __init__(self, iterator: AsyncIterable[T], n: int = 2) -> None:
        """Split ``iterator``.

        Args:
            iterator: the source. It must not be read from elsewhere any more.
            n: number of readers.
        """
        self._source = iterator.__aiter__()
        self._buffers: list[deque[T]] = [deque() for _ in range(n)]
        lock = asyncio.Lock()
        exception: list[Exception] = []
        self._children = tuple(
            tee_peer(self._source, buffer, self._buffers, lock, exception)
            for buffer in tuple(self._buffers)
        )

    def __len__(self) -> int:
        return len(self._children)

    @overload
    def __getitem__(self, item: int) -> AsyncIterator[T]: ...

    @overload
    def __getitem__(self, item: slice) -> tuple[AsyncIterator[T], ...]: ...

    def __getitem__(self, item: int | slice) -> AsyncIterator[T] | tuple[AsyncIterator[T], ...]:
        return self._children[item]

    def __iter__(self) -> Iterator[AsyncIterator[T]]:
        yield from self._children

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all readers, then the source if it can be closed.

        Errors are swallowed. A reader that another task is waiting in can't be closed from here; it
        ends with that task.
        """
        for child in self._children:
            await _close(child)
        self._buffers.clear()  # readers that never started would go on collecting
        await _close(self._source)


async def _close(iterator: AsyncIterator[Any]) -> None:
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        try:
            await aclose()
        except Exception:
            pass


tee = Tee
