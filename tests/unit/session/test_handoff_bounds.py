"""A handoff from an agent that does not let go, and the limit for that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fakes.llm import FakeLLM
from fakes.session import now, running
from fakes.stt import FakeSTT
from fakes.tools import calls, messages, outputs
from livekit.agents.llm import function_tool
from livekit.agents.voice import Agent, AgentTask


class Clinging(Agent):
    """Does not leave."""

    def __init__(self, where: str) -> None:
        super().__init__(instructions="x")
        self.where = where

    @function_tool
    async def work(self) -> str:
        """Works."""
        if self.where == "tool":
            await asyncio.sleep(1e6)
        return "worked"

    async def on_exit(self) -> None:
        if self.where == "on_exit":
            await asyncio.sleep(1e6)


class Next(Agent):
    def __init__(self) -> None:
        super().__init__(instructions="next")

    async def on_enter(self) -> None:
        self.session.say("at your service")


@pytest.mark.parametrize("where", ["tool", "on_exit"])
async def test_an_agent_that_clings_is_cut_off_after_the_drain_timeout(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    llm = FakeLLM([calls("work")], default="done")
    async with running(Clinging(where), llm, drain_timeout=4.0) as (session, recorded):
        session.generate_reply(user_input="work")
        await asyncio.sleep(1)
        session.update_agent(Next())
        await asyncio.sleep(3.9)
        assert messages(session)[-1] != "assistant: at your service"
        began = now()
        await asyncio.sleep(1)
        assert messages(session)[-1] == "assistant: at your service" and now() - began == 1
        assert isinstance(session.current_agent, Next) and recorded.closes == []
        warning = next(r.getMessage() for r in caplog.records if "drain_timeout" in r.getMessage())
        assert where.replace("tool", "work") in warning
        if where == "tool":
            assert outputs(session)[0].is_error and not outputs(session)[0].reply_required
        await session.generate_reply(user_input="still there?")
        assert messages(session)[-1] == "assistant: done"


async def test_without_a_limit_the_tool_is_waited_for() -> None:
    class Patient(Agent):
        @function_tool
        async def work(self) -> str:
            """Works."""
            await asyncio.sleep(100)
            return "worked"

    async with running(Patient(instructions="x"), FakeLLM([calls("work")], default="done")) as (
        session,
        _,
    ):
        session.generate_reply(user_input="work")
        await asyncio.sleep(1)
        session.update_agent(Next())
        await asyncio.sleep(98)
        assert outputs(session) == []
        await asyncio.sleep(2)
        assert outputs(session)[0].output == "worked"
        assert messages(session)[-1] == "assistant: at your service"


@pytest.mark.parametrize("where", ["on_enter", "on_exit"])
async def test_an_inline_task_that_clings_gives_the_floor_back(where: str) -> None:
    class Ask(AgentTask[str]):
        def __init__(self) -> None:
            super().__init__(instructions="ask")

        async def on_enter(self) -> None:
            self.complete("yes")
            if where == "on_enter":
                await asyncio.sleep(1e6)

        async def on_exit(self) -> None:
            if where == "on_exit":
                await asyncio.sleep(1e6)

    class Parent(Agent):
        @function_tool
        async def ask(self) -> Any:
            """Asks."""
            return await Ask()

    llm = FakeLLM([calls("ask"), "thanks"])
    async with running(Parent(instructions="x"), llm, drain_timeout=4.0) as (session, _):
        began = now()
        await session.generate_reply(user_input="go")
        assert now() - began == pytest.approx(4)
        assert outputs(session)[0].output == "yes"
        assert messages(session)[-1] == "assistant: thanks"


async def test_calls_that_wait_for_inline_tasks_when_the_agent_is_replaced_are_recorded() -> None:
    class Ask(AgentTask[str]):
        def __init__(self) -> None:
            super().__init__(instructions="ask")

    class Parent(Agent):
        @function_tool
        async def ask(self) -> Any:
            """Asks."""
            return await Ask()

    llm = FakeLLM([calls("ask#a", "ask#b", "ask#c")], default="done")
    async with running(Parent(instructions="x"), llm) as (session, _):
        session.generate_reply(user_input="go")
        await asyncio.sleep(1)
        session.update_agent(Next())
        await asyncio.sleep(1)
        assert isinstance(session.current_agent, Next)
        assert {output.call_id for output in outputs(session)} == {"a", "b", "c"}
        assert all(output.is_error for output in outputs(session))


async def test_the_open_stream_of_an_agent_that_had_drained_does_not_outlive_a_close() -> None:
    stt = FakeSTT()
    async with running(stt=stt) as (session, recorded):
        await session.drain()
        session.update_agent(Next())
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the stream is on its way to the next agent
        await session.aclose()
        assert all(stream._task.done() for stream in stt.streams)
        assert len(recorded.closes) == 1
