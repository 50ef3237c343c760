"""An agent's file, as users write it. Its jobs leave traces in a folder, for the tests to read.

What a job does is said by the metadata of its dispatch: it is "brief", or "wedged", or stays.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from e2e.harness.traces import leave
from fakes.llm import FakeLLM
from livekit.agents import Agent, AgentServer, AgentSession, JobContext, cli, inference
from livekit.agents.llm import FunctionToolCall, function_tool

assert inference
server = AgentServer(
    port=0,
    load_threshold=float("inf"),
    num_idle_processes=int(os.environ.get("E2E_IDLE", "1")),
    shutdown_process_timeout=3.0,
)


class Wedged(Agent):
    """Calls a tool that never returns, whatever is done to it."""

    def __init__(self, ctx: JobContext) -> None:
        super().__init__(instructions="You look things up.")
        self._ctx = ctx

    async def on_enter(self) -> None:
        """Have the model call the tool."""
        self.session.generate_reply(user_input="look it up")

    @function_tool
    async def look_up(self) -> str:
        """Never returns."""
        leave(self._ctx, event="wedged")
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue


def session_for(plan: str) -> AgentSession[None]:
    """A session without voice: who is in the room is what counts here."""
    call = FunctionToolCall(name="look_up", arguments="{}", call_id="call_1")
    from fakes.llm import Reply

    llm = FakeLLM([Reply(tool_calls=[call])]) if plan == "wedged" else FakeLLM(default="Hello.")
    return AgentSession(llm=llm)


@server.rtc_session(agent_name=os.environ.get("E2E_AGENT", "e2e"))
async def entrypoint(ctx: JobContext) -> None:
    """One job."""
    plan = ctx.job.metadata
    leave(ctx, event="started", job=ctx.job.id)

    async def ended(reason: str) -> None:
        leave(ctx, event="ended", reason=reason)

    ctx.add_shutdown_callback(ended)
    session = session_for(plan)
    session.on("close", lambda closed: leave(ctx, event="closed", reason=closed.reason.value))
    if plan == "brief":
        session.on("close", lambda _: ctx.shutdown("the session is closed"))
    agent = Wedged(ctx) if plan == "wedged" else Agent(instructions="Say hello.")
    await session.start(agent=agent, room=ctx.room)
    leave(ctx, event="talking")
    if plan == "brief":
        session.shutdown()


if __name__ == "__main__":
    cli.run_app(server)
