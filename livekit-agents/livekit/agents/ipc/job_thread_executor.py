"""A job in a thread of this process: on Windows, in the console, in notebooks, or by choice.

A thread can't be killed. One that does not end in time is left behind as a daemon, which keeps
neither the worker nor the interpreter from ending.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ..job import JobContext, JobExecutorType, JobProcess
from ..log import logger
from ..utils.aio import TaskScope, wait_until
from ..utils.aio.duplex_unix import DuplexClosed, _AsyncDuplex, _Duplex
from . import proto
from .channel import Message, arecv_message, recv_message, send_message, send_message_soon
from .child_loop import run_loop
from .inference_executor import InferenceExecutor
from .inference_relay import InferenceRelay
from .job_holder import JobHolder
from .job_record import JobRecord
from .job_run import JobFunctions
from .supervision import JobEndBudgets

__all__ = ["ThreadJobExecutor"]

_LAST_WORDS = 1.0
"""Seconds for reading what a thread that ended had still sent."""


class ThreadJobExecutor(JobHolder):
    """Runs one job in a thread with an event loop of its own."""

    what = "job thread"

    def __init__(
        self,
        *,
        initialize_process_fnc: Callable[[JobProcess], Any] | None,
        job_entrypoint_fnc: Callable[[JobContext], Awaitable[Any]],
        session_end_fnc: Callable[[JobContext], Awaitable[Any]] | None,
        simulation_end_fnc: Callable[..., Any] | None,
        inference_executor: InferenceExecutor | None,
        initialize_timeout: float,
        close_timeout: float,
        session_end_timeout: float,
        ping_interval: float,
        high_ping_threshold: float,
        http_proxy: str | None,
        loop: asyncio.AbstractEventLoop,
        entrypoint_timeout: float = 15.0,
        session_close_timeout: float = 60.0,
        on_job_ended: Callable[[ThreadJobExecutor], None] | None = None,
    ) -> None:
        """Prepare. Times are seconds."""
        from ..utils.misc import shortuuid

        self._id = shortuuid("THEXEC_")
        self._loop = loop
        self._functions = JobFunctions(
            initialize_process_fnc, job_entrypoint_fnc, session_end_fnc, simulation_end_fnc
        )
        self._budgets = JobEndBudgets(
            entrypoint=entrypoint_timeout,
            session=session_close_timeout,
            session_end=session_end_timeout if session_end_fnc is not None else 0.0,
            callbacks_asked=close_timeout,
        )
        self._initialize_timeout = initialize_timeout
        self._close_timeout = close_timeout
        self._ping_interval = ping_interval
        self._high_ping = high_ping_threshold
        self._http_proxy = http_proxy
        self._on_job_ended = on_job_ended
        self._job = JobRecord(self._job_ended)
        self._relay = InferenceRelay(inference_executor, self._send)
        self._scope = TaskScope("job thread")
        self._duplex: _AsyncDuplex | None = None
        self._thread: threading.Thread | None = None
        self._initialized: asyncio.Future[str] = loop.create_future()
        self._acked = asyncio.Event()
        self._left = asyncio.Event()
        self._gone: asyncio.Future[None] = loop.create_future()
        self._closing = False
        self._reader: asyncio.Task[None] | None = None

    # -- state --------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether `start` was called."""
        return self._thread is not None

    def logging_extra(self) -> dict[str, Any]:
        """Fields for log records about it."""
        thread: dict[str, Any] = {}
        if self._thread is not None:
            thread["tid"] = self._thread.native_id
        return {**thread, **self._job.logging_extra()}

    # -- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: it was started or closed before.
        """
        if self.started or self._closing:
            raise RuntimeError("the job thread was started, or closed, already")
        ours, theirs = socket.socketpair()
        self._thread = threading.Thread(
            target=self._run, args=(theirs,), name="job_thread_runner", daemon=True
        )
        self._thread.start()
        self._duplex = await _AsyncDuplex.open(ours)
        self._reader = self._scope.spawn(self._read(self._duplex), name="control of a job thread")

    async def initialize(self) -> None:
        """Have the thread get ready.

        Raises:
            RuntimeError: `setup_fnc` failed.
            asyncio.TimeoutError: it took too long.
        """
        logger.debug("initializing job thread", extra=self.logging_extra())
        self._send(
            proto.InitializeRequest(
                asyncio_debug=self._loop.get_debug(), http_proxy=self._http_proxy or ""
            )
        )
        if await wait_until(self._initialized, self._initialize_timeout):
            raise asyncio.TimeoutError(
                f"the job thread did not initialize within {self._initialize_timeout:g} s"
            )
        if error := self._initialized.result():
            raise RuntimeError(f"job thread initialization failed: {error}")
        self._scope.spawn(self._ping(), name="ping a job thread")

    async def join(self) -> None:
        """Return when the thread is gone, or was left behind.

        Raises:
            RuntimeError: it was never started.
        """
        if not self.started:
            raise RuntimeError("the job thread was not started")
        await asyncio.shield(self._gone)

    async def aclose(self) -> None:
        """End the job, wait as long as that may take, and leave the thread behind if it takes more."""
        self._closing = True
        if not self.started or self._gone.done():
            return
        self._send(proto.ShutdownRequest())
        if self._job.info is None:
            if await wait_until(self._gone, self._close_timeout):
                self._leave_behind("job thread did not end in time")
            return
        deadline = self._budgets.whole(asked=True)
        if not await self._wait_for(self._acked, self._close_timeout):
            logger.warning("job did not ack shutdown in time", extra=self.logging_extra())
        elif await self._wait_for(self._left, deadline) and await wait_until(
            self._gone, self._close_timeout
        ):
            logger.warning("job shutdown is taking too much time..", extra=self.logging_extra())
            await wait_until(self._gone, self._budgets.tail(asked=True) - self._close_timeout)
        if not self._gone.done():
            self._leave_behind("the job did not end in time; its thread is left behind")

    # -- messages -----------------------------------------------------------------------------------

    def _send(self, msg: Message) -> None:
        if self._duplex is not None:
            try:
                send_message_soon(self._duplex, msg)
            except DuplexClosed:
                pass

    async def _read(self, duplex: _AsyncDuplex) -> None:
        while True:
            try:
                msg = await arecv_message(duplex, proto.IPC_MESSAGES)
            except DuplexClosed:
                return
            self._received(msg)

    def _received(self, msg: Any) -> None:
        if isinstance(msg, proto.InitializeResponse):
            if not self._initialized.done():
                self._initialized.set_result(msg.error)
        elif isinstance(msg, proto.PongResponse):
            delay = (msg.timestamp - msg.last_timestamp) / 1000
            if delay > self._high_ping:
                logger.warning(
                    "job executor is unresponsive",
                    extra={**self.logging_extra(), "delay": round(delay * 1000)},
                )
        elif isinstance(msg, proto.ShutdownRequestAck):
            self._acked.set()
        elif isinstance(msg, proto.JobFailed):
            self._job.failed(msg.text)
        elif isinstance(msg, proto.ShuttingDown):
            self._left.set()
            self._job.end()
        elif isinstance(msg, proto.InferenceRequest):
            self._scope.spawn(self._relay.serve(msg), name=f"inference {msg.method}")

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(self._ping_interval)
            self._send(proto.PingRequest(int(time.time() * 1000)))

    async def _wait_for(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for an event or the end of the thread. False when the time is over."""
        waiting = self._scope.spawn(event.wait(), name="end of a job thread")
        await asyncio.wait(
            (waiting, self._gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        waiting.cancel()
        return event.is_set() or self._gone.done()

    # -- the end ------------------------------------------------------------------------------------

    def _leave_behind(self, why: str) -> None:
        logger.error(why, extra=self.logging_extra())
        self._finish(why)

    def _finish(self, error: str = "") -> None:
        if not self._initialized.done():
            self._initialized.set_result(error or "the thread ended")
        if not self._gone.done():
            self._gone.set_result(None)
        self._job.end(error)
        self._scope.cancel_soon()

    async def _bury(self) -> None:
        if self._reader is not None:
            await wait_until(self._reader, _LAST_WORDS)
        if self._duplex is not None:
            await self._duplex.aclose()
        self._finish()

    def _on_end(self) -> None:
        if not self._scope.closed:
            self._scope.spawn(self._bury(), name="bury a job thread")

    # -- inside the thread ----------------------------------------------------------------------------

    def _run(self, sock: socket.socket) -> None:
        try:
            self._serve(sock)
        except DuplexClosed:
            pass
        except BaseException:
            logger.exception("the job thread failed")
        finally:
            sock.close()
            try:
                self._loop.call_soon_threadsafe(self._on_end)
            except RuntimeError:
                pass  # left behind, and the loop of the worker is closed

    def _serve(self, sock: socket.socket) -> None:
        duplex = _Duplex.open(sock)
        request = recv_message(duplex, proto.IPC_MESSAGES)
        if not isinstance(request, proto.InitializeRequest):
            return  # closed before it was needed
        proc = JobProcess(
            executor_type=JobExecutorType.THREAD,
            user_arguments=self._user_arguments,
            http_proxy=request.http_proxy or None,
        )
        try:
            if self._functions.initialize_process is not None:
                self._functions.initialize_process(proc)
        except Exception as error:
            logger.exception("setup_fnc failed, this thread takes no jobs")
            send_message(duplex, proto.InitializeResponse(f"{type(error).__name__}: {error}"))
            return
        send_message(duplex, proto.InitializeResponse())

        async def main() -> None:
            from .job_runtime import JobRuntime

            runtime = JobRuntime(
                await _AsyncDuplex.open(duplex.detach()),
                proc=proc,
                functions=self._functions,
                budgets=self._budgets,
            )
            await runtime.run()

        run_loop(main, debug=request.asyncio_debug, name="job")
