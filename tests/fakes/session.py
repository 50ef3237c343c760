"""Sessions ready to start, and a record of what they said to their listeners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from livekit.agents.voice import Agent, AgentSession, CloseEvent

from .llm import FakeLLM

EVENTS = (
    "speech_created",
    "conversation_item_added",
    "agent_state_changed",
    "user_state_changed",
    "function_tools_executed",
    "tool_execution_updated",
    "agent_false_interruption",
    "user_input_transcribed",
    "error",
    "close",
)


class Recorded:
    """The events of a session, in order, in a form that reads well in an assertion."""

    def __init__(self, session: AgentSession[Any]) -> None:
        self.events: list[Any] = []
        for name in EVENTS:
            session.on(name, self.events.append)  # type: ignore[arg-type]

    @property
    def closes(self) -> list[CloseEvent]:
        """The `close` events."""
        return [ev for ev in self.events if ev.type == "close"]

    @property
    def story(self) -> list[str]:
        """One short line for each event."""
        return [_line(event) for event in self.events]


def _line(event: Any) -> str:
    if event.type in ("agent_state_changed", "user_state_changed"):
        return f"{event.type.split('_')[0]} → {event.new_state}"
    if event.type == "conversation_item_added":
        item = event.item
        if item.type == "agent_handoff":
            return f"handoff {item.old_agent_id} → {item.new_agent_id}"
        cut = " (interrupted)" if item.interrupted else ""
        return f"{item.role}: {item.text_content}{cut}"
    if event.type == "tool_execution_updated":
        return str(event.update.type)
    return str(event.type)


def make_session(llm: FakeLLM | None = None, **options: Any) -> AgentSession[Any]:
    """A session without VAD and with a scripted LLM; text only until given an audio output."""
    options.setdefault("vad", None)
    return AgentSession(llm=llm if llm is not None else FakeLLM(default="hello"), **options)


@asynccontextmanager
async def running(
    agent: Agent | None = None, llm: FakeLLM | None = None, **options: Any
) -> AsyncIterator[tuple[AgentSession[Any], Recorded]]:
    """A started session and its events; closed at the end of the block."""
    session = make_session(llm, **options)
    recorded = Recorded(session)
    await session.start(agent if agent is not None else Agent(instructions="be brief"))
    try:
        yield session, recorded
    finally:
        await session.aclose()


def now() -> float:
    """The loop's clock, in seconds."""
    return asyncio.get_running_loop().time()
