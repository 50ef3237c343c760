"""A sound card for programs that tests start: silent, with one microphone and one loudspeaker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class PortAudioError(Exception):
    """What the real module raises."""


class _Stream:
    def __init__(self, **options: Any) -> None:
        pass

    def start(self) -> None:
        if (folder := os.environ.get("SOUND_LOG")) is not None:
            Path(folder, type(self).__name__).write_text("on", encoding="utf-8")

    def stop(self) -> None: ...

    def close(self) -> None: ...


class RawInputStream(_Stream):
    """The microphone."""


class RawOutputStream(_Stream):
    """The loudspeaker."""


def query_devices(device: Any = None, kind: Any = None) -> str:
    """There are no devices but the default ones."""
    if device is not None:
        raise ValueError(f"No {kind} device matching {device!r}")
    return "  0 built-in"
