"""What the emulator saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ConnectionRecord:
    """One connection, or one request. Times are seconds on the loop's clock."""

    route: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    opened_at: float
    messages: list[tuple[float, Any]] = field(default_factory=list)
    """What the client sent, decoded; audio is in `pcm` instead."""
    pcm: bytearray = field(default_factory=bytearray)
    """All audio of the client, unless the emulator keeps none."""
    bytes_in: int = 0
    bytes_out: int = 0
    audio_seconds: float = 0.0
    """Of audio received (STT) or sent (TTS)."""
    sent: list[str] = field(default_factory=list)
    """Types of the messages it was sent."""
    refused: int | None = None
    """HTTP status, if it was not let in."""
    close_code: int | None = None
    closed_by: str | None = None
    """``"client"``, ``"server"`` or ``"lost"``."""
    closed_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.closed_at is None

    def kinds(self) -> list[str]:
        """Class names of the client's messages, audio left out."""
        return [type(message).__name__ for _, message in self.messages]
