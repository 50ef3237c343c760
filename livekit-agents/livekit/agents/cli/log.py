"""How an agent's logs look: one JSON object per line in production, coloured lines elsewhere."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from datetime import date, datetime, time as time_of_day, timezone
from inspect import istraceback
from typing import Any, TextIO

from ..log import _add_global_log_fields
from ..plugin import Plugin

__all__ = ["NOISY_LOGGERS", "ColoredFormatter", "JsonFormatter", "setup_logging"]

NOISY_LOGGERS = [
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "openai",
    "watchfiles",
    "anthropic",
    "websockets.client",
    "aiohttp.access",
    "livekit",
    "botocore",
    "aiobotocore",
    "urllib3.connectionpool",
    "mcp.client",
]
"""Loggers that are heard from WARN on, unless they have a level of their own."""

_STANDARD = frozenset(
    {
        *logging.makeLogRecord({}).__dict__,
        "message",
        "asctime",
        "color_message",
        "pid",
    }
)
"""What every record has; the rest came with `extra`."""


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {
        key: value
        for key, value in record.__dict__.items()
        if key not in _STANDARD and not key.startswith("_")
    }


class JsonFormatter(logging.Formatter):
    """One JSON object per record."""

    class JsonEncoder(json.JSONEncoder):
        """Knows dates and errors; anything else unknown becomes text."""

        def default(self, o: Any) -> Any:
            """See `json.JSONEncoder.default`."""
            if isinstance(o, (date, datetime, time_of_day)):
                return o.isoformat()
            if istraceback(o):
                return "".join(traceback.format_tb(o)).strip()
            if isinstance(o, Exception):
                return str(o)
            try:
                return str(o)
            except Exception:
                return None

    def __init__(self, *args: Any, ensure_ascii: bool = False, **kwargs: Any) -> None:
        """As `logging.Formatter`; `ensure_ascii` escapes everything beyond ASCII."""
        super().__init__(*args, **kwargs)
        self._ensure_ascii = ensure_ascii

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        fields: dict[str, Any]
        if isinstance(record.msg, dict):
            fields = {**record.msg, "level": record.levelname, "name": record.name}
        else:
            fields = {
                "message": record.getMessage(),
                "level": record.levelname,
                "name": record.name,
            }
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            fields["exc_info"] = record.exc_text
        if record.stack_info:
            fields["stack_info"] = self.formatStack(record.stack_info)
        fields.update(_extra(record))
        fields["pid"] = getattr(record, "pid", None) or record.process
        fields["code.file.path"] = record.pathname
        fields["code.function.name"] = record.funcName
        fields["code.line.number"] = record.lineno
        fields["timestamp"] = datetime.fromtimestamp(record.created, tz=timezone.utc).isoformat()
        return json.dumps(fields, cls=self.JsonEncoder, ensure_ascii=self._ensure_ascii)


_RESET = "\033[0m"
_COLORS = {
    "CRITICAL": "\033[1;31m",
    "ERROR": "\033[1;31m",
    "WARNING": "\033[1;33m",
    "DEV": "\033[1;35m",
    "INFO": "\033[1;32m",
    "DEBUG": "\033[1;36m",
    "TRACE": "\033[36m",
}
_DIM = "\033[2m"


class ColoredFormatter(logging.Formatter):
    """A line for a terminal: time, level, name, message, and the extra fields as JSON.

    Formats may use `%(esc_levelcolor)s`, `%(esc_gray)s`, `%(esc_reset)s` and `%(extra)s`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As `logging.Formatter`."""
        super().__init__(*args, **kwargs)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, without traceback."""
        extra = _extra(record)
        fields = {
            **record.__dict__,
            "esc_levelcolor": _COLORS.get(record.levelname, ""),
            "esc_gray": _DIM,
            "esc_reset": _RESET,
            "extra": json.dumps(extra, cls=JsonFormatter.JsonEncoder, ensure_ascii=False)
            if extra
            else "",
        }
        assert self._fmt is not None
        return (self._fmt % fields).rstrip()


_DEV_FORMAT = (
    "%(asctime)s - %(esc_levelcolor)s%(levelname)-4s%(esc_reset)s %(name)s - %(message)s "
    "%(esc_gray)s%(extra)s%(esc_reset)s"
)
_COMPACT_FORMAT = (
    "%(asctime)s %(esc_levelcolor)s%(levelname)-5s%(esc_reset)s %(name)s %(message)s "
    "%(esc_gray)s%(extra)s%(esc_reset)s"
)


def _formatter(devmode: bool, console: bool, compact: bool, stream: TextIO) -> logging.Formatter:
    if not devmode:
        encoding = (getattr(stream, "encoding", None) or "").lower().replace("-", "")
        return JsonFormatter(ensure_ascii=encoding != "utf8")
    if console:
        return ColoredFormatter("\r" + _COMPACT_FORMAT, datefmt="%H:%M:%S")
    if compact:
        return ColoredFormatter(_COMPACT_FORMAT, datefmt="%H:%M:%S")
    return ColoredFormatter(_DEV_FORMAT)


def setup_logging(log_level: str, devmode: bool, console: bool, compact: bool = False) -> None:
    """Print the logs of this process, and those its job processes forward, on stdout.

    Args:
        log_level: Of the root logger, the framework and the plugins.
        devmode: Coloured lines instead of JSON.
        console: Short lines that go along with a prompt.
        compact: Short lines.
    """
    stream = sys.stdout
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(devmode, console, compact, stream))
    _add_global_log_fields(handler)
    level = logging.getLevelName(log_level.upper())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    for name in NOISY_LOGGERS:
        _set_if_unset(logging.getLogger(name), logging.WARNING)
    _set_if_unset(logging.getLogger("livekit.agents"), level)

    def follow(plugin: Plugin) -> None:
        if plugin.logger is not None:
            _set_if_unset(plugin.logger, level)

    for plugin in Plugin.registered_plugins:
        follow(plugin)
    Plugin.emitter.on("plugin_registered", follow)
    if os.environ.get("NO_COLOR") and isinstance(handler.formatter, ColoredFormatter):
        handler.setFormatter(_Plain(handler.formatter))


class _Plain(logging.Formatter):
    """Takes the colours out again: see https://no-color.org."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        line = self._inner.format(record)
        for code in (*_COLORS.values(), _DIM, _RESET):
            line = line.replace(code, "")
        return line


def _set_if_unset(target: logging.Logger, level: int) -> None:
    if target.level == logging.NOTSET:
        target.setLevel(level)
