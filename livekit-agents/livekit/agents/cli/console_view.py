"""What the console prints of a conversation."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..voice import AgentSession

__all__ = ["ConsoleView"]

_COLORS = {"you": "\033[36m", "agent": "\033[32m", "tool": "\033[35m", "note": "\033[2m"}
_RESET = "\033[0m"


class ConsoleView:
    """Prints who says what, which tools run, and how it ends. Coloured on a terminal."""

    def __init__(self) -> None:
        self._colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def show(self, who: str, text: str) -> None:
        """Print a line."""
        label = f"{who:>6} "
        if self._colored:
            label = f"{_COLORS.get(who, '')}{label}{_RESET}"
        sys.stdout.write(f"\r{label} {text}\n")
        sys.stdout.flush()

    def follow(self, session: AgentSession[Any], *, heard: bool) -> None:
        """Print what happens in a session.

        Args:
            session: To follow.
            heard: Print what the user says, too: it is spoken and not typed.
        """
        session.on("conversation_item_added", lambda event: self._item(event.item, heard=heard))
        session.on("function_tools_executed", self._tools)
        session.on("error", lambda event: self.show("note", f"error: {event.error}"))
        session.on("close", lambda event: self.show("note", f"closed ({event.reason.value})"))

    def _item(self, item: Any, *, heard: bool) -> None:
        if item.type == "agent_handoff":
            self.show("note", f"now talking to {item.new_agent_id}")
        if item.type != "message" or not item.text_content:
            return
        if item.role == "assistant":
            cut = " …" if item.interrupted else ""
            self.show("agent", f"{item.text_content}{cut}")
        elif item.role == "user" and heard:
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
