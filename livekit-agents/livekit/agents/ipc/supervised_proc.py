"""A process under supervision: started, initialised, pinged, measured, ended in time.

`Supervision` decides, this class acts. Subclasses say what the process runs and understand its
messages.
"""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

from ..log import logger
from ..utils.aio import TaskScope, wait_until
from ..utils.aio.duplex_unix import DuplexClosed, _AsyncDuplex
from . import proto
from .channel import Message, arecv_message, send_message_soon
from .log_queue import handle_forwarded
from .memory import MemoryAction, MemoryWatch, measure
from .process_handle import ProcessHandle
from .stack_dump import dumps_wanted
from .supervision import Kill, KillReason, Supervision

__all__ = ["SupervisedProc"]

_MEMORY_INTERVAL = 5.0
_DUMP_GAP = 0.5
"""Seconds between the request for a dump and the kill."""
_LAST_WORDS = 0.5
"""Seconds for reading what a dead process had still sent."""
_KILL_PATIENCE = 5.0
"""Seconds after a kill until the process is reported dead whatever the system says."""


class SupervisedProc:
    """Owns a process from its start to its last log record."""

    process_kind = "job"
    process_name = "job_proc"

    def __init__(
        self,
        *,
        initialize_timeout: float,
        close_timeout: float,
        memory_warn_mb: float,
        memory_limit_mb: float,
        ping_interval: float,
        ping_timeout: float,
        high_ping_threshold: float,
        http_proxy: str | None,
        mp_ctx: BaseContext,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Prepare. Times are seconds, memory is MB (0: no warning, no limit)."""
        self._initialize_timeout = initialize_timeout
        self._close_timeout = close_timeout
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._high_ping = high_ping_threshold
        self._http_proxy = http_proxy
        self._loop = loop
        self._memory = MemoryWatch(warn_mb=memory_warn_mb, limit_mb=memory_limit_mb)
        self._supervision = Supervision(
            ping_interval=ping_interval, ping_timeout=ping_timeout, ack_timeout=close_timeout
        )
        self._handle = ProcessHandle(mp_ctx, target=self._main(), name=self.process_name)
        self._scope = TaskScope(f"{self.process_kind} process")
        self._duplex: _AsyncDuplex | None = None
        self._log_duplex: _AsyncDuplex | None = None
        self._readers: list[asyncio.Task[Any]] = []
        self._starting: asyncio.Task[None] | None = None
        self._initialized: asyncio.Future[str] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()
        self._wake = asyncio.Event()
        self._closing = False
        self._killed: Kill | None = None
        self._started_at = 0.0

    # -- what a subclass provides -----------------------------------------------------------------

    def _main(self) -> Callable[..., None]:
        """The function that the process runs."""
        raise NotImplementedError

    def _arguments(self, control: socket.socket, logs: socket.socket) -> Any:
        """Its argument."""
        raise NotImplementedError

    def _end_budget(self) -> float:
        """Seconds that the end of the process may take in all."""
        return self._close_timeout

    def _received(self, msg: Any) -> None:
        """A message that supervision has no use for."""

    def _died(self) -> None:
        """The process is gone."""

    # -- state --------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Id of the process, once it is started."""
        return self._handle.pid

    @property
    def exitcode(self) -> int | None:
        """Exit code, once it is gone; negative: the signal that killed it."""
        return self._handle.exitcode

    @property
    def started(self) -> bool:
        """Whether `start` was called."""
        return self._starting is not None

    @property
    def killed(self) -> bool:
        """Whether this side killed it."""
        return self._killed is not None

    @property
    def kill_reason(self) -> str:
        """Why it was killed, in words; empty when it was not."""
        return self._killed.reason.value if self._killed is not None else ""

    @property
    def uptime(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started_at if self._started_at else 0.0

    def logging_extra(self) -> dict[str, Any]:
        """Fields for log records about it, and of it."""
        return {"pid": self.pid} if self.pid is not None else {}

    # -- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the process. Cancelling the caller does not leave a half-started one behind.

        Raises:
            RuntimeError: it was started or closed before.
        """
        if self.started:
            raise RuntimeError(f"the {self.process_kind} process was started already")
        if self._closing:
            raise RuntimeError(f"the {self.process_kind} process was closed already")
        self._starting = self._scope.spawn(
            self._start(), name=f"start {self.process_name}", log_errors=False
        )
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        sockets = [*socket.socketpair(), *socket.socketpair()]
        control, child_control, logs, child_logs = sockets
        try:
            arguments = self._arguments(child_control, child_logs)
            await asyncio.to_thread(
                self._handle.start,
                arguments,
                self._died_elsewhere,
            )
        except BaseException as error:
            for sock in sockets:
                sock.close()
            self._finish_gone()
            if not self._initialized.done():
                self._initialized.set_result(f"the process could not be started: {error}")
            raise
        child_control.close()
        child_logs.close()
        self._started_at = time.monotonic()
        self._duplex = await _AsyncDuplex.open(control)
        self._log_duplex = await _AsyncDuplex.open(logs)
        self._readers = [
            self._scope.spawn(self._read_control(self._duplex), name="control of a process"),
            self._scope.spawn(self._read_logs(self._log_duplex), name="logs of a process"),
        ]

    async def initialize(self) -> None:
        """Have the process get ready for work.

        Raises:
            RuntimeError: it says that it can't.
            asyncio.TimeoutError: it did not answer in time, and was killed.
        """
        logger.info("initializing process", extra=self.logging_extra())
        began = time.monotonic()
        self._send(
            proto.InitializeRequest(
                asyncio_debug=self._loop.get_debug(),
                ping_interval=self._ping_interval,
                ping_timeout=self._ping_timeout,
                high_ping_threshold=self._high_ping,
                http_proxy=self._http_proxy or "",
            )
        )
        if await wait_until(self._initialized, self._initialize_timeout):
            self._kill(Kill(KillReason.INITIALIZE, self._initialize_timeout, ""))
            raise asyncio.TimeoutError(
                f"the process did not initialize within {self._initialize_timeout:g} s"
            )
        error = self._initialized.result()
        if error:
            raise RuntimeError(f"process initialization failed: {error}")
        elapsed = time.monotonic() - began
        logger.info(
            "process initialized",
            extra={**self.logging_extra(), "elapsed_time": round(elapsed, 2)},
        )
        self._supervision.begin(time.monotonic())
        self._scope.spawn(self._supervise(), name=f"supervise {self.pid}")
        if self._memory.active:
            self._scope.spawn(self._watch_memory(), name=f"memory of {self.pid}")

    async def join(self) -> None:
        """Return when the process is gone.

        Raises:
            RuntimeError: it was never started.
        """
        if not self.started:
            raise RuntimeError(f"the {self.process_kind} process was not started")
        await asyncio.shield(self._gone)

    async def aclose(self) -> None:
        """End the process: ask, wait as long as its end may take, then kill. Idempotent."""
        self._closing = True
        if self._starting is None:
            return
        await wait_until(self._starting, self._initialize_timeout)
        if self._gone.done():
            return
        if not self._initialized.done() or self._initialized.result():
            self._kill(Kill(KillReason.REQUESTED, 0.0, ""))
        else:
            self._send(proto.ShutdownRequest())
            self._supervision.shutdown_requested(time.monotonic(), self._end_budget())
            self._wake.set()
        await asyncio.shield(self._gone)

    def kill(self) -> None:
        """Kill the process now, with whatever it started."""
        self._kill(Kill(KillReason.REQUESTED, 0.0, self._supervision.step))

    # -- messages -----------------------------------------------------------------------------------

    def _send(self, msg: Message) -> None:
        """Send without waiting. A process that is gone is noticed elsewhere."""
        if self._duplex is not None:
            try:
                send_message_soon(self._duplex, msg)
            except DuplexClosed:
                pass

    async def _read_control(self, duplex: _AsyncDuplex) -> None:
        while True:
            try:
                msg = await arecv_message(duplex, proto.IPC_MESSAGES)
            except DuplexClosed:
                return
            self._dispatch(msg)

    def _dispatch(self, msg: Any) -> None:
        now = time.monotonic()
        if isinstance(msg, proto.InitializeResponse):
            if not self._initialized.done():
                self._initialized.set_result(msg.error)
        elif isinstance(msg, proto.PongResponse):
            self._supervision.pong(now)
            delay = (msg.timestamp - msg.last_timestamp) / 1000
            if delay > self._high_ping:
                logger.warning(
                    "process is unresponsive",
                    extra={**self.logging_extra(), "delay": round(delay * 1000)},
                )
        elif isinstance(msg, proto.ShutdownRequestAck):
            self._supervision.acked()
        else:
            self._received(msg)
        self._wake.set()

    async def _read_logs(self, duplex: _AsyncDuplex) -> None:
        while True:
            try:
                data = await duplex.recv_bytes()
            except DuplexClosed:
                return
            try:
                handle_forwarded(data, self.logging_extra)
            except Exception:
                logger.exception("a log record of process %s can't be handled", self.pid)

    # -- supervision --------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        while not self._gone.done():
            next_at = self._supervision.next_at()
            wait = None if next_at == math.inf else max(0.0, next_at - time.monotonic())
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), wait)
                continue  # something was said: look at the clocks again
            except asyncio.TimeoutError:
                pass
            now = time.monotonic()
            ping, verdict = self._supervision.tick(now)
            if verdict is not None:
                self._kill(verdict)
                return
            if ping:
                self._send(proto.PingRequest(int(time.time() * 1000)))

    async def _watch_memory(self) -> None:
        while True:
            await asyncio.sleep(_MEMORY_INTERVAL)
            if self.pid is None or self._gone.done():
                return
            sample = await asyncio.to_thread(measure, self.pid)
            if sample is None:
                continue
            action = self._memory.sample(time.monotonic(), sample.mb)
            extra = self._memory_extra(sample.mb, sample.metric)
            if action is MemoryAction.KILL:
                logger.error("%s %s", self.process_kind, KillReason.MEMORY.value, extra=extra)
                self._kill(Kill(KillReason.MEMORY, self.uptime, self._supervision.step))
                return
            if action is MemoryAction.WARN:
                advisory = "" if self._memory.limit_mb else " (no limit is set: this is advice)"
                logger.warning(
                    "%s process uses much memory%s", self.process_kind, advisory, extra=extra
                )

    def _memory_extra(self, mb: float, metric: str) -> dict[str, Any]:
        baseline = self._memory.baseline or mb
        return {
            **self.logging_extra(),
            "memory_usage_mb": round(mb, 1),
            "memory_metric": metric,
            "memory_warn_mb": self._memory.warn_mb,
            "memory_limit_mb": self._memory.limit_mb,
            "uptime": round(self.uptime, 1),
            "has_running_job": getattr(self, "running_job", None) is not None,
            "baseline_memory_mb": round(baseline, 1),
            "growth_memory_mb": round(mb - baseline, 1),
        }

    # -- the end ------------------------------------------------------------------------------------

    def _kill(self, kill: Kill) -> None:
        if self._gone.done() or self._killed is not None:
            return
        self._killed = kill
        extra = {**self.logging_extra(), "waited": round(kill.waited, 1)}
        if kill.step:
            extra["step"] = kill.step
        if kill.reason not in (KillReason.REQUESTED, KillReason.MEMORY):
            logger.error(kill.reason.value, extra=extra)
        self._scope.spawn(self._carry_out_kill(), name=f"kill {self.pid}")

    async def _carry_out_kill(self) -> None:
        if dumps_wanted() and self._initialized.done() and not self._initialized.result():
            if hasattr(signal, "SIGUSR1"):
                self._handle.send_signal(signal.SIGUSR1)
            else:
                self._send(proto.DumpStackTraceRequest())
            await wait_until(self._gone, _DUMP_GAP)
        await asyncio.to_thread(self._handle.kill)
        if await wait_until(self._gone, _KILL_PATIENCE):
            logger.error("process %s does not die, it is left behind", self.pid)
            self._finish_gone()

    def _died_elsewhere(self, exitcode: int | None) -> None:
        self._loop.call_soon_threadsafe(self._on_death, exitcode)

    def _on_death(self, exitcode: int | None) -> None:
        if not self._scope.closed:
            self._scope.spawn(self._bury(exitcode), name=f"bury {self.pid}")

    async def _bury(self, exitcode: int | None) -> None:
        """Read the last words, close the sockets, and say that the process is gone."""
        if self._starting is not None:
            await wait_until(self._starting, _LAST_WORDS)
        await wait_until(self._readers, _LAST_WORDS)
        if not self._initialized.done():
            self._initialized.set_result(f"the process died at once (exit code {exitcode})")
        if exitcode and self._killed is None:
            what = f"signal {-exitcode} from outside" if exitcode < 0 else "itself"
            logger.error(
                "process exited with non-zero exit code %d",
                exitcode,
                extra={**self.logging_extra(), "ended_by": what},
            )
        self._finish_gone()
        for duplex in (self._duplex, self._log_duplex):
            if duplex is not None:
                await duplex.aclose()
        self._scope.cancel_soon()

    def _finish_gone(self) -> None:
        if not self._gone.done():
            self._gone.set_result(None)
            self._wake.set()
            self._died()
