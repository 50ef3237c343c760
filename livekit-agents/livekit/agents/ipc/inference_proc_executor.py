"""The process that runs local models for all jobs of a worker, and is replaced when it dies."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

from ..log import logger
from ..utils.aio import TaskScope
from . import proto
from .inference_proc_main import InferenceProcArgs, inference_proc_main
from .log_queue import logger_levels
from .supervised_proc import SupervisedProc

__all__ = ["InferenceProcExecutor"]

_BACKOFF = (0.5, 2.0, 5.0, 10.0, 30.0)
"""Seconds before the first, second, ... replacement in a row."""


class _InferenceProc(SupervisedProc):
    """One such process."""

    process_kind = "inference"
    process_name = "agents_inference_process"

    def __init__(
        self, runners: dict[str, type[Any]], died: Callable[[], None], **common: Any
    ) -> None:
        super().__init__(**common)
        self._runners = runners
        self._on_died = died
        self._pending: dict[str, asyncio.Future[proto.InferenceResponse]] = {}

    async def request(self, method: str, data: bytes) -> bytes | None:
        """Have a runner work in the process.

        Raises:
            RuntimeError: The process does not run, or the runner failed.
        """
        if self._gone.done():
            raise RuntimeError("the inference process is not running")
        request_id = uuid.uuid4().hex
        future: asyncio.Future[proto.InferenceResponse] = self._loop.create_future()
        self._pending[request_id] = future
        try:
            self._send(proto.InferenceRequest(method, request_id, data))
            response = await future
        finally:
            self._pending.pop(request_id, None)
        if response.error:
            raise RuntimeError(response.error)
        return response.data

    def logging_extra(self) -> dict[str, Any]:
        return {**super().logging_extra(), "inference": True}

    def _main(self) -> Callable[..., None]:
        return inference_proc_main

    def _arguments(self, control: socket.socket, logs: socket.socket) -> InferenceProcArgs:
        return InferenceProcArgs(self._runners, control, logs, logger_levels())

    def _received(self, msg: Any) -> None:
        if isinstance(msg, proto.InferenceResponse):
            future = self._pending.get(msg.request_id)
            if future is not None and not future.done():
                future.set_result(msg)

    def _died(self) -> None:
        for future in self._pending.values():
            if not future.done():
                future.set_exception(RuntimeError("the inference process died"))
        self._on_died()


class InferenceProcExecutor:
    """Offers `do_inference` for as long as it is open, whatever becomes of the process."""

    def __init__(
        self,
        *,
        runners: dict[str, type[Any]],
        initialize_timeout: float,
        close_timeout: float,
        memory_warn_mb: float,
        memory_limit_mb: float,
        ping_interval: float,
        ping_timeout: float,
        high_ping_threshold: float,
        mp_ctx: BaseContext,
        loop: asyncio.AbstractEventLoop,
        http_proxy: str | None,
    ) -> None:
        """Prepare. `runners`: name -> class, see `inference_runner`."""
        self._runners = runners
        self._common: dict[str, Any] = {
            "initialize_timeout": initialize_timeout,
            "close_timeout": close_timeout,
            "memory_warn_mb": memory_warn_mb,
            "memory_limit_mb": memory_limit_mb,
            "ping_interval": ping_interval,
            "ping_timeout": ping_timeout,
            "high_ping_threshold": high_ping_threshold,
            "mp_ctx": mp_ctx,
            "loop": loop,
            "http_proxy": http_proxy,
        }
        self._scope = TaskScope("inference executor")
        self._closing = False
        self._ready = False
        self._failures = 0
        self._proc = self._make()

    def _make(self) -> _InferenceProc:
        return _InferenceProc(self._runners, self._on_died, **self._common)

    @property
    def pid(self) -> int | None:
        """Of the current process."""
        return self._proc.pid

    async def start(self) -> None:
        """Start the process."""
        await self._proc.start()

    async def initialize(self) -> None:
        """Have the models loaded. Raises as `SupervisedProc.initialize` does."""
        await self._proc.initialize()
        self._ready = True

    def is_alive(self) -> bool:
        """Whether a process is there that answers."""
        return self._ready

    async def do_inference(self, method: str, data: bytes) -> bytes | None:
        """See `InferenceExecutor.do_inference`."""
        return await self._proc.request(method, data)

    async def aclose(self) -> None:
        """End the process. Bounded; pending requests fail."""
        self._closing = True
        self._ready = False
        await self._scope.cancel(1.0)
        await self._proc.aclose()

    def _on_died(self) -> None:
        was_ready, self._ready = self._ready, False
        if was_ready and not self._closing:
            logger.error("the inference process died, it is started again")
            self._scope.spawn(self._replace(), name="replace the inference process")

    async def _replace(self) -> None:
        while not self._closing:
            await asyncio.sleep(_BACKOFF[min(self._failures, len(_BACKOFF) - 1)])
            self._failures += 1
            self._proc = self._make()
            try:
                await self._proc.start()
                await self._proc.initialize()
            except Exception:
                logger.exception("the inference process can't be started again")
                await self._proc.aclose()
                continue
            self._ready = True
            return
