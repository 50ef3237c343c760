"""Keys pressed in the console while one talks, and lines typed while one types."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Any

from .readchar import KeyDecoder, key

__all__ = ["KeyReader", "LineEditor", "LineReader"]


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


class LineEditor:
    """A line that is typed key by key. No I/O."""

    def __init__(self) -> None:
        """Start with an empty line."""
        self.text = ""

    def press(self, pressed: str) -> str | None:
        """Take a key. Returns the line when it is complete: Enter was pressed."""
        if pressed in (key.LF, key.CR):
            line, self.text = self.text, ""
            return line
        if pressed in (key.BACKSPACE, key.CTRL_H):
            self.text = self.text[:-1]
        elif pressed == key.CTRL_U:
            self.text = ""
        elif pressed == key.CTRL_W:
            head, _, _ = self.text.rstrip().rpartition(" ")
            self.text = f"{head} " if head else ""
        elif pressed.isprintable():
            self.text += pressed
        return None


class KeyReader:
    """Reads keys from a terminal, whose settings are restored at the end of the block.

    Ctrl+C stays a signal.
    """

    def __init__(
        self, on_key: Callable[[str], None], on_end: Callable[[], None] = lambda: None
    ) -> None:
        """Set up. Both are called from a thread; `on_end` when the terminal is gone."""
        self._on_key = on_key
        self._on_end = on_end
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
        decoder = KeyDecoder()
        while not self._stop.is_set():
            ready, _, _ = select.select([sys.stdin], [], [], 0.1)
            if self._stop.is_set():
                return
            if not ready:
                keys = decoder.flush()
            else:
                try:
                    data = os.read(sys.stdin.fileno(), 1024)
                except OSError:  # the terminal was closed
                    data = b""
                if not data:
                    self._on_end()
                    return
                keys = decoder.feed(data)
            for pressed in keys:
                self._on_key(pressed)
