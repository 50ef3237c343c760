"""Keys pressed in the console while one talks, and lines typed while one types."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["KeyReader", "LineReader"]


class LineReader:
    """A thread that reads lines from stdin. It keeps nobody from exiting."""

    def __init__(self, on_line: Callable[[str], None], on_end: Callable[[], None]) -> None:
        """Set up. Both are called from the thread; `on_end` at the end of the input."""
        self._on_line = on_line
        self._on_end = on_end

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._run, name="console_input", daemon=True).start()

    def _run(self) -> None:
        for line in sys.stdin:
            self._on_line(line.rstrip("\n"))
        self._on_end()


class KeyReader:
    """Reads single keys from a terminal, whose settings are restored at the end of the block."""

    def __init__(self, on_key: Callable[[str], None]) -> None:
        """Set up. `on_key` is called from a thread."""
        self._on_key = on_key
        self._stop = threading.Event()
        self._settings: Any = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> KeyReader:
        if os.name == "posix" and sys.stdin.isatty():
            import termios
            import tty

            self._settings = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
            self._thread = threading.Thread(target=self._run, name="console_keys", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._settings is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._settings)
            self._settings = None

    def _run(self) -> None:
        while not self._stop.is_set():
            ready, _, _ = select.select([sys.stdin], [], [], 0.1)
            if ready and not self._stop.is_set():
                key = os.read(sys.stdin.fileno(), 1).decode(errors="ignore")
                if not key:
                    return
                self._on_key(key)
