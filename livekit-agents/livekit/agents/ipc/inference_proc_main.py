"""What the inference process does. Imported by the process itself."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ..log import logger
from ..utils.aio import TaskScope
from ..utils.aio.duplex_unix import DuplexClosed, _AsyncDuplex, _Duplex
from . import proto
from .channel import Message, arecv_message, recv_message, send_message, send_message_soon
from .child_guard import ParentWatch, exit_process, install_signal_handlers
from .child_loop import run_loop
from .log_queue import LogForwarder, forward_logs, set_logger_levels

__all__ = ["InferenceProcArgs", "inference_proc_main"]


@dataclass
class InferenceProcArgs:
    """What crosses to the process when it starts."""

    runners: dict[str, type[Any]]
    control: socket.socket
    logs: socket.socket
    logger_levels: dict[str, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))


def inference_proc_main(args: InferenceProcArgs) -> None:
    """Run the inference process. Ends the process; does not return."""
    install_signal_handlers(lambda: None)
    ParentWatch(args.control, lambda: 2.0)
    os.environ.update(args.environment)
    set_logger_levels(args.logger_levels)
    logs = LogForwarder(args.logs)
    forward_logs(logs)
    code = 1
    try:
        _serve(args)
        code = 0
    except DuplexClosed:
        pass  # the worker went away while we started
    except BaseException:
        logger.exception("the inference process failed")
    finally:
        exit_process(code, logs)


def _serve(args: InferenceProcArgs) -> None:
    duplex = _Duplex.open(args.control)
    request = recv_message(duplex, proto.IPC_MESSAGES)
    assert isinstance(request, proto.InitializeRequest), "the first message initialises"
    runners = _load(args.runners)
    send_message(duplex, proto.InitializeResponse())

    async def main() -> None:
        await _InferenceServer(await _AsyncDuplex.open(duplex.detach()), runners).run()

    run_loop(main, debug=request.asyncio_debug, name="inference")


def _load(classes: dict[str, type[Any]]) -> dict[str, Any]:
    """Make the models. One that fails is reported, and missing."""
    runners: dict[str, Any] = {}
    for method, runner_class in classes.items():
        began = time.monotonic()
        try:
            runner = runner_class()
            runner.initialize()
        except Exception:
            logger.exception("the inference runner %s can't be initialized", method)
            continue
        runners[method] = runner
        logger.debug(
            "inference runner initialized",
            extra={"runner": method, "elapsed_time": round(time.monotonic() - began, 2)},
        )
    return runners


class _InferenceServer:
    """Answers requests, several at a time."""

    def __init__(self, duplex: _AsyncDuplex, runners: dict[str, Any]) -> None:
        from ..utils.hw import get_cpu_monitor

        self._duplex = duplex
        self._runners = runners
        self._threads = ThreadPoolExecutor(
            max(1, math.ceil(get_cpu_monitor().cpu_count())), thread_name_prefix="ThreadPool_infer"
        )
        self._scope = TaskScope("inference process")

    async def run(self) -> None:
        """Serve until the worker says otherwise, or is gone."""
        try:
            while True:
                msg = await arecv_message(self._duplex, proto.IPC_MESSAGES)
                if isinstance(msg, proto.PingRequest):
                    self._send(proto.PongResponse(msg.timestamp, int(time.time() * 1000)))
                elif isinstance(msg, proto.InferenceRequest):
                    self._scope.spawn(self._answer(msg), name=f"inference {msg.method}")
                elif isinstance(msg, proto.ShutdownRequest):
                    self._send(proto.ShutdownRequestAck())
                    self._send(proto.Exiting(msg.reason))
                    return
        except DuplexClosed:
            return
        finally:
            await self._scope.cancel(1.0)
            self._threads.shutdown(wait=False, cancel_futures=True)
            await self._duplex.aclose()

    async def _answer(self, msg: proto.InferenceRequest) -> None:
        runner = self._runners.get(msg.method)
        if runner is None:
            self._send(proto.InferenceResponse(msg.request_id, error=f"no runner {msg.method}"))
            return
        try:
            loop = asyncio.get_running_loop()
            data = await loop.run_in_executor(self._threads, runner.run, msg.data)
        except Exception as error:
            logger.exception("inference of %s failed", msg.method)
            self._send(proto.InferenceResponse(msg.request_id, error=str(error) or repr(error)))
            return
        self._send(proto.InferenceResponse(msg.request_id, data))

    def _send(self, msg: Message) -> None:
        try:
            send_message_soon(self._duplex, msg)
        except DuplexClosed:
            pass
