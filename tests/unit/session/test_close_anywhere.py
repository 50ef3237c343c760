"""A close may come at any moment of a conversation, between any two turns of the loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from fakes.llm import FakeLLM, Reply
from fakes.session import Recorded, make_session, now
from livekit.agents.llm import FunctionToolCall, function_tool
from livekit.agents.voice import Agent, AgentTask


def call(name: str, arguments: str = "{}", call_id: str = "c1") -> Reply:
    return Reply(tool_calls=[FunctionToolCall(name=name, arguments=arguments, call_id=call_id)])


class Ask(AgentTask[int]):
    def __init__(self) -> None:
        super().__init__(instructions="ask")

    async def on_enter(self) -> None:
        await self.session.say("how many?")

    async def on_exit(self) -> None:
        self.session.say("thank you")

    @function_tool
    async def answer(self, number: int) -> None:
        """The number."""
        self.complete(number)


class Second(Agent):
    async def on_enter(self) -> None:
        self.session.generate_reply(instructions="greet")


class First(Agent):
    async def on_exit(self) -> None:
        await self.session.say("goodbye")

    @function_tool
    async def ask(self) -> str:
        """Asks."""
        return f"got {await Ask()}"

    @function_tool
    async def transfer(self) -> Agent:
        """Hands over."""
        return Second(instructions="second")


SCRIPTS: dict[str, Callable[[], list[Any]]] = {
    "inline task": lambda: [call("ask"), call("answer", '{"number": 3}', "c2"), "three it is"],
    "handoff": lambda: [call("transfer"), "hello from the second"],
    "plain": lambda: ["one", "two"],
}


async def converse(session: Any) -> None:
    """Say two things, as fast as the session lets one."""
    try:
        for text in ("first", "second"):
            session.generate_reply(user_input=text)
            await asyncio.sleep(0.01)
    except RuntimeError:
        pass  # refused, because the session is closing


def _is_a_defect(record: logging.LogRecord) -> bool:
    """Errors of agents that speak or call tools too late are theirs, and are told to them."""
    error = record.exc_info[1] if record.exc_info else None
    too_late = "is closing" in str(error) or "may use no tools" in record.getMessage()
    return record.levelno >= logging.ERROR and not too_late


@pytest.mark.parametrize("drain", [False, True])
@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_close_between_any_two_turns_of_the_loop(
    script: str, drain: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for turns in range(0, 140, 2):
        caplog.clear()
        session = make_session(FakeLLM(SCRIPTS[script](), default="and so on"))
        recorded = Recorded(session)
        agent = First(instructions="first")
        await session.start(agent)
        talk = asyncio.ensure_future(converse(session))
        for turn in range(turns):
            await asyncio.sleep(0.01 if turn % 40 == 39 else 0)
        began = now()
        if drain:
            session.shutdown()
        await session.aclose()
        where = f"after {turns} turns"
        assert now() - began < 1.0, f"{where}: nothing hangs, so nothing may be waited for"
        assert len(recorded.closes) == 1, where
        report = recorded.closes[0].report
        assert report is not None and not report.survivors, where
        assert not session._activity_lock.locked(), where
        assert agent._activity is None and session._activity is None, where
        errors = [r.getMessage() for r in caplog.records if _is_a_defect(r)]
        assert not errors, f"{where}: {errors}"
        calls = [i.call_id for i in session.history.items if i.type == "function_call"]
        outputs = [i.call_id for i in session.history.items if i.type == "function_call_output"]
        assert sorted(calls) == sorted(outputs), where
        talk.cancel()
        await asyncio.wait([talk])
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() == {asyncio.current_task()}
