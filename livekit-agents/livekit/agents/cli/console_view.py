"""What the console prints of a conversation."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..voice import AgentSession

__all__ = ["ConsoleView"]

_COLORS = {"you": "\033[36m", "agent": "\033[32m", "tool": "\033[35m", "note": "\033[2m"}
_RESET = "\033[0m"


class ConsoleView:
    """Prints who says what, which tools run, and how it ends. Coloured on a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._colored = self._terminal and not os.environ.get("NO_COLOR")
        self._lock = threading.Lock()
        self._typed = ""

    def show(self, who: str, text: str) -> None:
        """Print a line, above the one that is being typed."""
        label = f"{who:>6} "
        if self._colored:
            label = f"{_COLORS.get(who, '')}{label}{_RESET}"
        with self._lock:
            sys.stdout.write(f"{self._line_start}{label} {text}\n{self._typed}")
            sys.stdout.flush()

    def prompt(self, typed: str) -> None:
        """Show what somebody has typed of their next line."""
        with self._lock:
            self._typed = typed
            sys.stdout.write(f"{self._line_start}{typed}")
            sys.stdout.flush()

    @property
    def _line_start(self) -> str:
        return "\r\033[K" if self._terminal else "\r"

    def follow(self, session: AgentSession[Any]) -> None:
        """Print what happens in a session."""
        session.on("conversation_item_added", lambda event: self._item(event.item))
        session.on("function_tools_executed", self._tools)
        session.on("error", lambda event: self.show("note", f"error: {event.error}"))
        session.on("close", lambda event: self.show("note", f"closed ({event.reason.value})"))

    def _item(self, item: Any) -> None:
        if item.type == "agent_handoff":
            self.show("note", f"now talking to {item.new_agent_id}")
        if item.type != "message" or not item.text_content:
            return
        if item.role == "assistant":
            cut = " …" if item.interrupted else ""
            self.show("agent", f"{item.text_content}{cut}")
        elif item.role == "user":
            self.show("you", item.text_content)

    def _tools(self, event: Any) -> None:
        for call, output in event.zipped():
            result = "" if output is None else f" -> {_short(output.output)}"
            self.show("tool", f"{call.name}({_short(_arguments(call.arguments))}){result}")


def _arguments(text: str) -> str:
    try:
        return ", ".join(f"{key}={value!r}" for key, value in json.loads(text or "{}").items())
    except (ValueError, AttributeError):
        return text


def _short(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"
