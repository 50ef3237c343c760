"""Streams of models that did not end together with the node that opened them.

A node that is cancelled while it closes its stream ends before the stream has. The session's close
looks here before it says that nothing is left. It also ends what streams of the session have left
open when they ended, as by then no later stream of the session can want to use it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from .._connections import Connections
from ..utils.aio import Survivor, wait_until
from .closing import Step

S = TypeVar("S", bound=Any)  # a stream of an STT, LLM or TTS


class EndingStreams:
    """Those of one run of a session."""

    def __init__(self) -> None:
        self._streams: dict[asyncio.Task[None], Any] = {}
        self._survivors: list[Survivor] = []
        self._leftovers: list[Connections] = []

    @asynccontextmanager
    async def using(self, stream: S) -> AsyncGenerator[S, None]:
        """Use a stream for the time of the block, and remember it while it takes time to close."""
        try:
            async with stream:
                yield stream
        finally:
            closing: asyncio.Task[None] | None = getattr(stream, "_closing_task", None)
            if closing is not None:
                self._streams[closing] = stream
                if closing.done():
                    self._ended(closing)
                else:
                    closing.add_done_callback(self._ended)

    def _ended(self, closing: asyncio.Task[None]) -> None:
        stream = self._streams.pop(closing)
        self._survivors += stream._survivors
        if stream._recorded_connections.any_left:
            self._leftovers = [left for left in self._leftovers if left.any_left]
            self._leftovers.append(stream._recorded_connections)

    def steps(self) -> list[Step]:
        """Wait for them; cut the connections of those that don't end in time, or left some open."""
        if not self._streams and not self._survivors and not self._leftovers:
            return []
        return [Step("streams of models", self._join, if_not=self.cut)]

    async def _join(self) -> list[Survivor]:
        await wait_until(self._streams, None)
        self._cut_leftovers()
        return self._survivors

    def cut(self) -> None:
        """Cut the connections of all."""
        for stream in self._streams.values():
            stream._recorded_connections.cut()
        self._cut_leftovers()

    def _cut_leftovers(self) -> None:
        leftovers, self._leftovers = self._leftovers, []
        for connections in leftovers:
            connections.cut_leftovers()
