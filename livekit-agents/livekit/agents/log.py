"""The logger of the framework and its two extra levels."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

__all__ = ["DEV_LEVEL", "TRACE_LEVEL", "Logger", "logger"]

DEV_LEVEL = 23
"""Between INFO and WARNING: hints for the author of an agent while developing."""

TRACE_LEVEL = 5
"""Below DEBUG: one line per frame or message."""

# So that a record names the caller and not the method of ours it went through. Before Python 3.11
# logging takes the caller of `_log` for one of its own methods, as ours then is.
_OWN_FRAMES = 1 if sys.version_info >= (3, 11) else 0

logging.addLevelName(DEV_LEVEL, "DEV")
logging.addLevelName(TRACE_LEVEL, "TRACE")


class Logger(logging.Logger):
    """A standard logger with the levels DEV (23) and TRACE (5)."""

    def dev(self, message: object, *args: object, **kwargs: Any) -> None:
        """Log at DEV level. Arguments as for `logging.Logger.info`."""
        if self.isEnabledFor(DEV_LEVEL):
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + _OWN_FRAMES
            self._log(DEV_LEVEL, message, args, **kwargs)

    def trace(self, message: object, *args: object, **kwargs: Any) -> None:
        """Log at TRACE level. Arguments as for `logging.Logger.info`."""
        if self.isEnabledFor(TRACE_LEVEL):
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + _OWN_FRAMES
            self._log(TRACE_LEVEL, message, args, **kwargs)


def _framework_logger() -> Logger:
    logger = logging.getLogger("livekit.agents")
    if not isinstance(logger, Logger):
        # Somebody may have configured it before this import, so it is converted in place: handlers
        # and levels stay, and no global logger class is set even for a moment.
        logger.__class__ = Logger
    assert isinstance(logger, Logger)
    return logger


logger: Logger = _framework_logger()


class _GlobalFields(logging.Filter):
    """Adds fields to every record that does not carry them already."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__()
        self._fields = fields

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in self._fields.items():
            record.__dict__.setdefault(name, value)
        return True


def _add_global_log_fields(handler: logging.Handler) -> None:
    """Make ``handler`` add ``region`` (env ``LIVEKIT_REGION_NAME``) to its records.

    A ``region`` given explicitly with ``extra=`` wins. Without the variable nothing is added.
    """
    region = os.environ.get("LIVEKIT_REGION_NAME")
    if region:
        handler.addFilter(_GlobalFields({"region": region}))
