"""Programs that run beside a test and are gone at its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .server import LiveKitServer

STOP_TIMEOUT = 20.0


@contextmanager
def running(
    command: list[str], server: LiveKitServer, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python program that finds the server in its environment; its output goes to `log`."""
    environment = {
        **os.environ,
        "LIVEKIT_URL": server.url,
        "LIVEKIT_API_KEY": server.key,
        "LIVEKIT_API_SECRET": server.secret,
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def says(log: Path, words: str, patience: float = 40.0) -> None:
    """Wait until a program has written some words."""
    deadline = time.monotonic() + patience
    while words not in log.read_text(errors="replace"):
        assert time.monotonic() < deadline, f"not told: {words!r}\n{log.read_text()}"
        time.sleep(0.1)


def serves(url: str, patience: float = 20.0) -> None:
    """Wait until somebody answers there."""
    deadline = time.monotonic() + patience
    while True:
        try:
            urllib.request.urlopen(url, timeout=1.0).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
