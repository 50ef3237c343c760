"""A caller: a process of its own with a WebRTC client that speaks, listens, and hangs up."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .network import Line
from .processes import mortal

PROGRAM = Path(__file__).parent / "caller_program.py"

PATIENCE = 40.0
"""Seconds to wait for something the caller should tell; it speaks and hears in real time."""


class Caller:
    """A caller in another process. Used as a context manager: the process is gone at the end.

    Args:
        url: The server.
        token: Who the caller is, and which room is called.
        recording: WAV file for what the caller hears, written when they leave in order. Beside it
            is what their client logs.
        said_before: WAV file of what the caller said before the agent had joined, which the client
            kept for it.
        line: What connects their machine to the server's; they are on this machine without one.
    """

    def __init__(
        self,
        url: str,
        token: str,
        recording: Path,
        *,
        said_before: Path | None = None,
        line: Line | None = None,
    ) -> None:
        before = [] if said_before is None else ["--said-before", str(said_before)]
        self._log = recording.with_suffix(".log").open("wb")
        command = [sys.executable, str(PROGRAM), url, token, str(recording), *before]
        self._process = subprocess.Popen(
            mortal(command if line is None else line.command(command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.recording = recording
        self.told: list[dict[str, Any]] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="caller", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._more:
                self.told.append(json.loads(line))
                self._more.notify_all()
        with self._more:
            self.told.append({"event": "gone"})
            self._more.notify_all()

    def _command(self, command: str, argument: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command} {argument}\n")
        self._process.stdin.flush()

    def speak(self, wav: Path) -> None:
        """Play a WAV file into the microphone."""
        self._command("speak", str(wav))

    def write(self, text: str) -> None:
        """Send a chat message."""
        self._command("write", text)

    def show(self) -> None:
        """Switch the camera on."""
        self._command("show")

    def leave(self) -> None:
        """Hang up in order."""
        self._command("leave")

    def kill(self) -> None:
        """Vanish: the process is killed and says nothing to anybody."""
        self._process.kill()

    def freeze(self) -> None:
        """Fall silent: the process stops, and the connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    async def until(
        self, event: str, matches: Callable[[dict[str, Any]], bool] = lambda told: True
    ) -> dict[str, Any]:
        """Wait until the caller has told something, and return it."""

        def found() -> dict[str, Any] | None:
            return next((t for t in self.told if t["event"] == event and matches(t)), None)

        def wait() -> dict[str, Any]:
            with self._more:
                if not self._more.wait_for(lambda: found() is not None, PATIENCE):
                    raise TimeoutError(f"the caller did not tell of {event!r}: {self.told}")
            told = found()
            assert told is not None
            return told

        return await asyncio.get_running_loop().run_in_executor(None, wait)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._log.close()
