"""`session.drain()` awaited by what the drain would wait for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fakes.llm import FakeLLM
from fakes.session import make_session, now
from fakes.tools import calls, messages, results
from livekit.agents.llm import function_tool
from livekit.agents.voice import Agent, RunContext


class Draining(Agent):
    """Drains its session where a test says."""

    def __init__(self, where: str) -> None:
        super().__init__(instructions="x")
        self.where = where
        self.drained: list[float] = []

    async def on_enter(self) -> None:
        if self.where == "on_enter":
            await asyncio.sleep(1)
            await self._drain()

    async def on_exit(self) -> None:
        if self.where == "on_exit":
            await self._drain()

    @function_tool
    async def finish(self, ctx: RunContext[Any]) -> str:
        """Drains."""
        if self.where == "a tool that reported":
            await ctx.update("finishing", silent=True)
        if self.where in ("a tool", "a tool that reported"):
            await self._drain()
        return "finished"

    @function_tool
    async def work(self) -> str:
        """Takes 3 s."""
        await asyncio.sleep(3)
        return "worked"

    async def _drain(self) -> None:
        await self.session.drain()
        self.drained.append(now())


@pytest.mark.parametrize("where", ["a tool", "a tool that reported", "on_enter", "on_exit"])
async def test_who_drains_from_inside_is_not_waited_for(where: str) -> None:
    agent = Draining(where)
    llm = FakeLLM([calls("work#w"), calls("finish#f")], default="well")
    session = make_session(llm)
    began = now()
    await session.start(agent)
    session.generate_reply(user_input="work")
    await asyncio.sleep(0.5)
    session.generate_reply(user_input="finish")
    if where == "on_exit":
        await session.drain()
        await asyncio.sleep(0.1)
    else:
        await asyncio.sleep(5)
    assert [at - began for at in agent.drained] == [pytest.approx(3)], "the work was waited for"
    assert "w: worked" in results(session)
    if where != "a tool that reported":
        assert messages(session)[-1] == "assistant: well"
    with pytest.raises(RuntimeError):
        session.say("too late")
    before = now()
    await session.aclose()
    assert now() == before
