"""An agent's file, for tests of the command line: the agents of `fakes.worker`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from fakes.llm import FakeLLM
from fakes.tts import FakeTTS
from fakes.worker import leave, make_server, scripted
from livekit.agents import Agent, AgentSession, JobContext, JobRequest, cli

server = make_server()


async def talk(ctx: JobContext) -> None:
    """A session that greets and answers."""
    session = AgentSession(llm=FakeLLM(default="How do you do?"), tts=FakeTTS())
    await session.start(agent=Agent(instructions="Be polite."), room=ctx.room)


async def block(request: JobRequest) -> None:
    """Blocks the event loop of the worker."""
    leave("blocked")
    time.sleep(3600)  # noqa: ASYNC251


if os.environ.get("AGENT") == "talk":
    server._entrypoint = talk
elif os.environ.get("AGENT") == "block":
    server._hooks["on_request"] = block
assert scripted

if __name__ == "__main__":
    cli.run_app(server)
