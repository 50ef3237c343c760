"""Engines, and the threads they work in: decoding is far too slow for the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ._decoder import UtteranceDecoder
from ._engine import Engine
from .log import logger

T = TypeVar("T")

_MAX_IDLE = 1
"""Engines kept for the next stream. An agent has one stream at a time; each holds some 90 MB."""


class EnginePool:
    """Loads engines, and keeps one for the next stream. May be used by any thread."""

    def __init__(self, load: Callable[[], Engine]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._idle: list[Engine] = []
        self._loading = threading.Lock()  # so that a stream gets what `prewarm` is loading
        self._closed = False

    def acquire(self) -> tuple[Engine, bool]:
        """An engine, and whether it was there already. Blocks while one is loaded (0.5 s)."""
        if (engine := self._take_idle()) is not None:
            return engine, True
        with self._loading:
            if (engine := self._take_idle()) is not None:
                return engine, True
            return self._load(), False

    def release(self, engine: Engine) -> None:
        """Give an engine back."""
        with self._lock:
            if not self._closed and len(self._idle) < _MAX_IDLE:
                self._idle.append(engine)
                return
        engine.close()

    def prewarm(self) -> None:
        """Load an engine in the background, unless one is idle."""
        with self._lock:
            if self._idle or self._closed:
                return
        threading.Thread(target=self._load_ahead, name="pocketsphinx-prewarm", daemon=True).start()

    def close(self) -> None:
        """Free idle engines now, and the others when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for engine in idle:
            engine.close()

    def _load_ahead(self) -> None:
        try:
            engine, _ = self.acquire()
        except Exception as error:
            # whoever opens a stream gets the error then
            logger.warning("could not load PocketSphinx ahead of its use: %s", error)
        else:
            self.release(engine)

    def _take_idle(self) -> Engine | None:
        with self._lock:
            return self._idle.pop() if self._idle else None


class DecoderThread:
    """A thread with a decoder, for one speaker. Calls are carried out in order, one at a time.

    It holds no more than the call it is in: cancelling a call's await or closing the thread never
    waits for the decoder.
    """

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="pocketsphinx")
        self._decoder: UtteranceDecoder | None = None  # of the thread
        self._ended: Future[None] | None = None

    async def open(self) -> tuple[float, bool]:
        """Get an engine. Returns the seconds it took and whether it was loaded already.

        Raises:
            EngineError: The models can't be loaded.
        """
        began = time.perf_counter()
        reused = await self._run(self._acquire)
        return time.perf_counter() - began, reused

    async def call(self, work: Callable[[UtteranceDecoder], T]) -> T:
        """Have the thread do something with the decoder and return the result."""
        return await self._run(lambda: work(self._opened()))

    def close(self) -> None:
        """Give the engine back and end the thread, after the call it is in (a fraction of a second).

        Does not wait. Idempotent.
        """
        if self._ended is None:
            self._ended = self._executor.submit(self._release)
            self._executor.shutdown(wait=False)

    async def wait_closed(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the end after `close`. False: it is still busy."""
        if self._ended is None:
            return True
        _, busy = await asyncio.wait([asyncio.wrap_future(self._ended)], timeout=timeout)
        if not busy:
            self._executor.shutdown(wait=True)  # it has nothing left to do: microseconds
        return not busy

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _opened(self) -> UtteranceDecoder:
        if self._decoder is None:
            raise RuntimeError("the decoder thread has no engine: open() has not succeeded")
        return self._decoder

    def _acquire(self) -> bool:
        engine, reused = self._pool.acquire()
        self._decoder = UtteranceDecoder(engine)
        return reused

    def _release(self) -> None:
        decoder, self._decoder = self._decoder, None
        if decoder is None:
            return
        try:
            decoder.abandon()
        except Exception:
            logger.exception("a PocketSphinx decoder could not be reset; it is not used again")
            decoder.engine.close()
        else:
            self._pool.release(decoder.engine)
