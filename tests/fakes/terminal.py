"""A program on a real pseudo-terminal, as a user has it."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """Types into a program and reads what it prints."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self._loop = asyncio.get_running_loop()
        self._raw = bytearray()
        self._changed = asyncio.Event()
        self._loop.add_reader(master, self._read)

    @property
    def text(self) -> str:
        """Everything printed so far, without colours."""
        return _ESCAPES.sub("", self._raw.decode(errors="replace")).replace("\r", "")

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl+C."""
        self.type("\x03")

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def settings(self) -> list[Any]:
        """How the terminal is set: echo, single keys, and so on."""
        return termios.tcgetattr(self._master)

    async def shows(self, text: str, timeout: float = 20.0, *, times: int = 1) -> None:
        """Wait until a text is on the screen, that many times."""
        await self._until(
            lambda: self.text.count(text) >= times, f"{text!r} on the screen", timeout
        )

    async def takes_single_keys(self, timeout: float = 20.0) -> None:
        """Wait until the program wants each key as it is pressed, Ctrl+C too."""
        flags = termios.ICANON | termios.ISIG
        await self._until(lambda: not self.settings()[3] & flags, "a wait for a key", timeout)

    async def exits(self, timeout: float = 20.0) -> int:
        """Wait for the end of the program. Returns its status."""
        await self._until(lambda: self.process.poll() is not None, "the end", timeout)
        self._read()
        return int(self.process.returncode)

    async def _until(self, condition, what: str, timeout: float) -> None:  # type: ignore[no-untyped-def]
        deadline = self._loop.time() + timeout
        while not condition():
            self._changed.clear()
            if self._loop.time() > deadline:
                raise AssertionError(f"waited {timeout} s for {what}; the screen:\n{self.text}")
            try:
                await asyncio.wait_for(self._changed.wait(), 0.05)
            except asyncio.TimeoutError:
                pass

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except (BlockingIOError, OSError):
            self._loop.remove_reader(self._master)
            return
        self._raw += data
        self._changed.set()

    def close(self) -> None:
        self._loop.remove_reader(self._master)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


@asynccontextmanager
async def terminal(
    *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None
) -> AsyncIterator[Terminal]:
    """Run a Python program on a terminal for the time of a block."""
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    process = subprocess.Popen(  # noqa: ASYNC220 (a program that a user starts)
        [sys.executable, *map(str, arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", "TERM": "xterm", **(env or {})},
        preexec_fn=_take_terminal,
    )
    os.close(slave)
    screen = Terminal(process, master)
    try:
        yield screen
    finally:
        screen.close()


def _take_terminal() -> None:
    """Lead a session whose terminal is stdin, so that Ctrl+C reaches the program."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
