"""An agent's file: an agent with a voice that waits for its caller to hang up.

Its ears and its voice are behind an inference gateway. The metadata of the dispatch say where that
is, and in which state the agent is to be when the caller has said something.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from e2e.harness.traces import leave
from fakes.llm import FakeLLM, Reply
from livekit.agents import Agent, AgentServer, AgentSession, CloseEvent, JobContext, cli, inference
from livekit.agents.llm import FunctionToolCall, Toolset, function_tool
from livekit.agents.voice.room_io import RoomOptions

ABSENCE = 0.5
"""Seconds for which a caller who was lost may be away; the others meant to go."""

SENTENCE = "I could go on about our opening hours for a very long time."

server = AgentServer(
    port=0,
    load_threshold=float("inf"),
    num_idle_processes=int(os.environ.get("E2E_IDLE", "1")),
    initialize_process_timeout=30.0,
)


def replies(state: str) -> Any:
    """What the model answers, to bring the agent into a state."""
    tool = {"wedged tool": "look_up", "handoff": "hand_over"}.get(state)
    if tool is not None:
        return Reply(tool_calls=[FunctionToolCall(name=tool, arguments="{}", call_id="call_1")])
    return {"thinking": Reply(hangs=True), "speaking": " ".join([SENTENCE] * 40)}.get(state, "Yes.")


class Desk(Agent):
    """Never gets anything done."""

    def __init__(self, ctx: JobContext, state: str) -> None:
        super().__init__(instructions="be brief")
        self._ctx = ctx
        self._state = state

    @function_tool
    async def look_up(self) -> str:
        """Look something up, for ever: not even a cancellation ends it."""
        leave(self._ctx, event="in state", state="wedged tool")
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass

    @function_tool
    async def hand_over(self) -> Agent:
        """Hand over to somebody else."""
        return Agent(instructions="be brief, too")

    async def on_exit(self) -> None:
        """Takes its time to hand over."""
        if self._state != "handoff":
            return
        leave(self._ctx, event="in state", state="handoff")
        await asyncio.sleep(3600)


class SlowTools(Toolset):
    """Tools of a service that doesn't answer."""

    def __init__(self, ctx: JobContext) -> None:
        super().__init__(id="slow")
        self._ctx = ctx

    async def setup(self) -> SlowTools:
        """Wait for the service."""
        leave(self._ctx, event="in state", state="during start")
        await asyncio.sleep(3600)
        return self


def watch(ctx: JobContext, session: AgentSession[None]) -> None:
    """Leave a trace of whatever a test waits for."""

    async def ended(reason: str) -> None:
        leave(ctx, event="ended", reason=reason)

    def closed(event: CloseEvent) -> None:
        leave(ctx, event="closed", reason=event.reason.value)
        ctx.shutdown("the session is closed")

    ctx.add_shutdown_callback(ended)
    session.on("close", closed)
    session.on(
        "agent_state_changed", lambda e: leave(ctx, event="in state", state=str(e.new_state))
    )
    for event in ("participant_connected", "participant_disconnected", "disconnected"):
        ctx.room.on(event, lambda *_, event=event: leave(ctx, event=event))  # type: ignore[misc]
    for event in ("reconnecting", "reconnected"):
        ctx.room.on(event, lambda *_, event=event: leave(ctx, event=event))  # type: ignore[misc]


@server.rtc_session(agent_name=os.environ.get("E2E_AGENT", "desk"))
async def entrypoint(ctx: JobContext) -> None:
    """One call."""
    plan = json.loads(ctx.job.metadata)
    state, gateway = plan["state"], plan["gateway"]
    leave(ctx, event="started", job=ctx.job.id)
    session: AgentSession[None] = AgentSession(
        stt=inference.STT("deepgram/nova-3", language="en", **gateway),
        tts=inference.TTS("rime/mist", **gateway),
        llm=FakeLLM(default=replies(state)),
        vad=None,
        tools=[SlowTools(ctx)] if state == "during start" else [],
    )
    watch(ctx, session)
    await session.start(
        agent=Desk(ctx, state), room=ctx.room, room_options=RoomOptions(close_after_absence=ABSENCE)
    )


if __name__ == "__main__":
    cli.run_app(server)
