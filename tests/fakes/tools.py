"""What tools did in a session: calls, outputs and life-cycle events, in forms that read well."""

from __future__ import annotations

from typing import Any

from fakes.llm import Reply, call
from fakes.session import Recorded
from livekit.agents.llm import FunctionCallOutput
from livekit.agents.voice import AgentSession


def calls(*names: str, text: str = "") -> Reply:
    """A reply that calls tools. `name`, `name#call_id`, each with optional JSON arguments after a
    blank: `calls('order#c1 {"dish": "soup"}')`."""
    made = []
    for index, spec in enumerate(names):
        head, _, arguments = spec.partition(" ")
        name, _, call_id = head.partition("#")
        made.append(call(name, arguments or "{}", call_id or f"c{index + 1}"))
    return Reply(text, tool_calls=made)


def outputs(session: AgentSession[Any]) -> list[FunctionCallOutput]:
    """The outputs in the session's history."""
    return [item for item in session.history.items if item.type == "function_call_output"]


def results(session: AgentSession[Any]) -> list[str]:
    """`call_id: output` for each, with a mark for errors."""
    return [f"{o.call_id}{' error' if o.is_error else ''}: {o.output}" for o in outputs(session)]


def messages(session: AgentSession[Any]) -> list[str]:
    """`role: text` for each message of the history."""
    return [f"{m.role}: {m.text_content}" for m in session.history.messages()]


def tool_story(recorded: Recorded) -> list[str]:
    """One line per `tool_execution_updated`: what happened to which call."""
    return [
        _line(event.update) for event in recorded.events if event.type == "tool_execution_updated"
    ]


def _line(update: Any) -> str:
    if update.type == "tool_call_started":
        return f"{update.function_call.call_id} started"
    if update.type == "tool_call_updated":
        return f"{update.id} updated: {update.message}"
    if update.type == "tool_call_ended":
        message = f": {update.message}" if update.message is not None else ""
        return f"{update.id} {update.status}{message}"
    return f"reply to {', '.join(update.update_ids)} {update.status}"
