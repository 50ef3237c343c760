"""How to test an agent: type with it, and say what should happen. No audio, no room, no job.

    pytest examples/test_receptionist.py

`session.run` returns when the agent has answered; `result.expect` walks through what it did. With a
real language model, `.judge(llm, intent="...")` of a message checks what it means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from receptionist import Receptionist, receptionist_rules

from livekit.agents import AgentSession, mock_tools

Test = Callable[[AgentSession[Any], Receptionist], Awaitable[None]]


def with_receptionist(test: Test) -> None:
    """Run a test with a session in which the receptionist has greeted."""

    async def run() -> None:
        agent = Receptionist(lookup_seconds=0.1)
        async with AgentSession[Any](llm=receptionist_rules()) as session:
            await session.start(agent)
            await test(session, agent)

    asyncio.run(run())


def test_it_tells_the_opening_hours() -> None:
    async def test(session: AgentSession[Any], agent: Receptionist) -> None:
        result = await session.run(user_input="When are you open?")
        result.expect.next_event().is_function_call(name="opening_hours")
        result.expect.next_event().is_function_call_output()
        message = result.expect.next_event().is_message(role="assistant").event().item
        assert "from noon until ten" in (message.text_content or "")
        result.expect.no_more_events()

    with_receptionist(test)


def test_it_books_a_table() -> None:
    async def test(session: AgentSession[Any], agent: Receptionist) -> None:
        result = await session.run(user_input="Please book a table for four people tomorrow night")
        arguments = {"people": 4, "when": "tomorrow night"}
        result.expect.contains_function_call(name="book_table", arguments=arguments)
        assert agent.bookings == [arguments]

    with_receptionist(test)


def test_it_says_so_when_the_reservation_system_is_down() -> None:
    async def find_reservation() -> str:
        raise RuntimeError("the database does not answer")

    async def test(session: AgentSession[Any], agent: Receptionist) -> None:
        with mock_tools(Receptionist, {"find_reservation": find_reservation}):
            result = await session.run(user_input="Can you look up my reservation?")
        result.expect.contains_function_call_output(is_error=True)
        result.expect[-1].is_message(role="assistant")

    with_receptionist(test)
