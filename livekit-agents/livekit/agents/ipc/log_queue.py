"""Log records on their way from a process to the handlers of the worker."""

from __future__ import annotations

import copy
import logging
import pickle
import queue
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..utils.aio.duplex_unix import DuplexClosed, _Duplex

__all__ = ["LogForwarder", "forward_logs", "handle_forwarded", "logger_levels", "set_logger_levels"]

_QUEUE_SIZE = 10_000
"""Records that may wait for a worker that does not read; more are dropped."""

_FORMATTER = logging.Formatter()


class LogForwarder(logging.Handler):
    """Sends records over a socket. Whoever logs never waits: a thread does the sending."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected socket and start the thread."""
        super().__init__()
        self._duplex = _Duplex.open(sock)
        self._queue: queue.Queue[bytes | None] = queue.Queue(_QUEUE_SIZE)
        self._thread = threading.Thread(target=self._send, name="log_forwarder", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record. One that can't be pickled is reported on stderr and dropped."""
        try:
            self._queue.put_nowait(pickle.dumps(_portable(record)))
        except queue.Full:
            pass  # nobody reads: losing a record is better than stopping the job
        except Exception:
            self.handleError(record)

    def stop(self, timeout: float) -> None:
        """Send what is queued, for `timeout` seconds at most."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _send(self) -> None:
        while (data := self._queue.get()) is not None:
            try:
                self._duplex.send_bytes(data)
            except DuplexClosed:
                return
        self._duplex.close()


def _portable(record: logging.LogRecord) -> logging.LogRecord:
    """A copy that can be pickled: message and traceback as text."""
    record = copy.copy(record)
    record.msg = record.getMessage() if not isinstance(record.msg, dict) else record.msg
    record.args = None
    if record.exc_info:
        record.exc_text = record.exc_text or _FORMATTER.formatException(record.exc_info)
        record.exc_info = None
    record.__dict__.pop("websocket", None)  # the websockets library attaches a live connection
    return record


def forward_logs(logs: LogForwarder) -> None:
    """Send records to the worker, which prints them: they shall not be printed here as well."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler and handler.stream in (sys.stdout, sys.stderr):
            root.removeHandler(handler)
    root.addHandler(logs)


def handle_forwarded(data: bytes, extra: Callable[[], Mapping[str, Any]]) -> None:
    """Give a record to the handlers of this process, with the fields of the one it came from."""
    record: logging.LogRecord = pickle.loads(data)
    target = logging.getLogger(record.name)
    if target.isEnabledFor(record.levelno):
        for key, value in extra().items():
            record.__dict__.setdefault(key, value)
        target.handle(record)


def logger_levels() -> dict[str, int]:
    """Name -> level of every logger that has one of its own; "" is the root."""
    levels = {"": logging.getLogger().level}
    for name, known in logging.root.manager.loggerDict.items():
        if isinstance(known, logging.Logger) and known.level != logging.NOTSET:
            levels[name] = known.level
    return levels


def set_logger_levels(levels: Mapping[str, int]) -> None:
    """Give the loggers the levels of another process."""
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)
