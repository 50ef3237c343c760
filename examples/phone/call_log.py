"""Everything that happened in a call, on the clock of the line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from livekit.agents import AgentSession
from livekit.agents.voice import CloseReport

Kind = Literal[
    "agent_state", "user_state", "interim", "heard", "said", "tool", "tool_end", "close", "note"
]


@dataclass
class Entry:
    """One thing that happened."""

    at: float
    """Seconds since the call began."""
    kind: Kind
    text: str
    detail: str = ""


@dataclass
class CallLog:
    """Follows a session and tells `on_entry` what happens.

    Args:
        clock: Seconds since the call began.
        on_entry: Called for every entry as it happens.
    """

    clock: Callable[[], float]
    on_entry: Callable[[Entry], None]
    entries: list[Entry] = field(default_factory=list)
    tools_running: set[str] = field(default_factory=set)
    interruptions: int = 0
    report: CloseReport | None = None
    hung_up_at: float | None = None
    _tool_names: dict[str, str] = field(default_factory=dict)

    def add(self, kind: Kind, text: str, detail: str = "") -> None:
        """Note something."""
        entry = Entry(self.clock(), kind, text, detail)
        self.entries.append(entry)
        self.on_entry(entry)

    def follow(self, session: AgentSession[Any]) -> None:
        """Listen to a session's events."""
        session.on("agent_state_changed", lambda ev: self.add("agent_state", ev.new_state))
        session.on("user_state_changed", lambda ev: self.add("user_state", ev.new_state))
        session.on("user_input_transcribed", self._on_transcript)
        session.on("conversation_item_added", self._on_item)
        session.on("tool_execution_updated", self._on_tool)
        session.on("error", self._on_error)
        session.on("close", self._on_close)

    def _on_transcript(self, ev: Any) -> None:
        if ev.transcript:
            self.add("heard" if ev.is_final else "interim", ev.transcript)

    def _on_item(self, ev: Any) -> None:
        item = ev.item
        if item.type != "message" or item.role != "assistant":
            return
        self.interruptions += item.interrupted
        metrics = item.metrics
        latencies = [
            f"{label} {metrics[key] * 1000:.0f} ms"
            for key, label in (
                ("e2e_latency", "answered after"),
                ("llm_node_ttft", "first word"),
                ("tts_node_ttfb", "first sound"),
            )
            if key in metrics
        ]
        if item.interrupted:
            latencies.append("interrupted")
        self.add("said", item.text_content or "", ", ".join(latencies))

    def _on_tool(self, ev: Any) -> None:
        update = ev.update
        if update.type == "tool_call_started":
            call = update.function_call
            self._tool_names[call.call_id] = call.name
            self.tools_running.add(call.name)
            self.add("tool", call.name, call.arguments)
        elif update.type == "tool_call_ended":
            name = self._tool_names.get(update.call_id, "tool")
            self.tools_running.discard(name)
            self.add("tool_end", name, f"{update.status}: {update.message or ''}".rstrip(": "))

    def _on_error(self, ev: Any) -> None:
        # errors of models carry the exception, and whether they go on by themselves
        cause = getattr(ev.error, "error", ev.error)
        message = getattr(cause, "message", str(cause))
        recovers = getattr(ev.error, "recoverable", False)
        self.add("note", f"{message}{' (trying again)' if recovers else ''}")

    def _on_close(self, ev: Any) -> None:
        self.report = ev.report
        self.add("close", ev.reason.value)
