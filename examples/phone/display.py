"""Shows a call in the terminal as it happens; readable without colour and when piped."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from livekit.agents.voice import CloseReport

from .call_log import Entry

_COLOURS = {
    "caller": "36",
    "agent": "33",
    "tool": "35",
    "state": "90",
    "close": "32",
    "note": "31",
}
_WHO = {
    "interim": "caller",
    "heard": "caller",
    "said": "agent",
    "tool": "tool",
    "tool_end": "tool",
    "agent_state": "state",
    "user_state": "state",
    "close": "close",
    "note": "note",
}


class Display:
    """Prints a line for each thing that happens.

    On a terminal, interim transcripts are shown on a line of their own that the next output
    replaces; when piped they are printed like everything else.
    """

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._live = out.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = self._live and "NO_COLOR" not in os.environ
        self._interim_shown = False

    def show(self, entry: Entry) -> None:
        """Show one entry."""
        who = _WHO[entry.kind]
        text = {
            "interim": f"… {entry.text}",
            "heard": f'"{entry.text}"',
            "said": f"{entry.text}",
            "tool": f"→ {entry.text}({_arguments(entry.detail)})",
            "tool_end": f"← {entry.text}: {entry.detail}",
            "agent_state": f"agent is {entry.text}",
            "user_state": f"caller is {entry.text}",
            "close": f"session closed ({entry.text})",
            "note": entry.text,
        }[entry.kind]
        if entry.kind == "said" and entry.detail:
            text += f"   [{entry.detail}]"
        self._print(f"{entry.at:7.2f} s  {who:<6}  {text}", who, interim=entry.kind == "interim")

    def title(self, text: str) -> None:
        """A heading."""
        self._print(f"\n{text}\n{'─' * len(text)}", "close")

    def line(self, text: str) -> None:
        """A plain line."""
        self._print(text, None)

    def close(self, report: CloseReport, *, bound: float) -> None:
        """What closing took."""
        self.title("How the session closed")
        width = max((len(step.name) for step in report.steps), default=10)
        for step in report.steps:
            detail = f"  {step.detail}" if step.detail else ""
            self.line(
                f"  {step.name:<{width}}  {step.seconds * 1000:8.1f} ms  {step.outcome}{detail}"
            )
        took = (report.finished_at or report.requested_at) - report.requested_at
        self.line(f"  cut off: {', '.join(report.cut_off) or 'nothing'}")
        names = ", ".join(survivor.name for survivor in report.survivors)
        self.line(f"  left behind: {names or 'nothing'}")
        self.line(f"  closed in {took:.2f} s; the bound is {bound:.1f} s")

    def _print(self, text: str, who: str | None, *, interim: bool = False) -> None:
        if self._interim_shown:
            self._out.write("\r\x1b[2K")
            self._interim_shown = False
        if self._colour and who is not None:
            text = f"\x1b[{_COLOURS[who]}m{text}\x1b[0m"
        if interim and self._live:
            self._out.write(text)
            self._interim_shown = True
        else:
            self._out.write(text + "\n")
        self._out.flush()


def _arguments(json_text: str) -> str:
    return json_text.strip("{}").replace('"', "")
