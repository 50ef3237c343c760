"""An agent whose inline task is replaced by another agent: its code ends, and it stays silent."""

from __future__ import annotations

import asyncio

from fakes.llm import FakeLLM, Reply, call
from fakes.session import running
from livekit.agents.llm import function_tool
from livekit.agents.voice import Agent, AgentTask


class Ask(AgentTask[str]):
    def __init__(self) -> None:
        super().__init__(instructions="ask")

    async def on_enter(self) -> None:
        await asyncio.sleep(0.2)
        if not self.done():
            self.complete("three")


class First(Agent):
    exited = 0

    async def on_exit(self) -> None:
        self.exited += 1

    @function_tool
    async def ask(self) -> str:
        """Asks."""
        return f"got {await Ask()}"


async def test_a_task_that_completes_while_the_handoff_waits_for_it() -> None:
    llm = FakeLLM([Reply(tool_calls=[call("ask")])], default="nobody may say this")
    first = First(instructions="first")
    async with running(first, llm) as (session, recorded):
        handle = session.generate_reply(user_input="hello")
        await asyncio.sleep(0.1)  # the task has the floor
        session.update_agent(Agent(instructions="second"))
        await asyncio.sleep(5)
        assert handle.done()
        assert session._activity is not None and session._activity.agent.instructions == "second"
        assert first._activity is None and first.exited == 1
        outputs = [i for i in session.history.items if i.type == "function_call_output"]
        assert len(outputs) == 1
        assert not [m for m in session.history.messages() if m.role == "assistant"]
    assert len(recorded.closes) == 1
    report = recorded.closes[0].report
    assert report is not None and report.clean
