"""The examples say and do what they claim to, typed with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import background_tasks
import collect_details
import multi_agent
import pytest
import telephony_agent
from livekit import rtc

from livekit.agents import Agent, AgentSession, CloseEvent, ToolError
from livekit.agents.ipc.mock_room import MockRoom
from livekit.agents.testing import fake_job_context


@asynccontextmanager
async def talking(agent: Agent, **options: Any) -> AsyncIterator[AgentSession[Any]]:
    """A session of an example's agent, without audio."""
    session: AgentSession[Any] = AgentSession(vad=None, **options)
    await session.start(agent)
    await asyncio.sleep(5.0)  # the greeting
    yield session
    await session.aclose()


def said(session: AgentSession[Any]) -> list[str]:
    """What the agents have said."""
    return [m.text_content or "" for m in session.history.messages() if m.role == "assistant"]


async def test_the_front_desk_transfers_a_phone_call(monkeypatch: pytest.MonkeyPatch) -> None:
    caller = SimpleNamespace(kind=rtc.ParticipantKind.PARTICIPANT_KIND_SIP, identity="sip_1")
    room: Any = MockRoom()
    room.remote_participants = {"sip_1": caller}
    with fake_job_context(room=room) as job:
        transfers: list[tuple[Any, str]] = []

        async def transfer(participant: Any, to: str, play_dialtone: bool = False) -> None:
            transfers.append((participant, to))

        monkeypatch.setattr(job, "transfer_sip_participant", transfer)
        async with talking(telephony_agent.FrontDesk(), llm=telephony_agent.thinking()) as session:
            await session.run(user_input="can I talk to a person")
    assert transfers == [(caller, telephony_agent.TRANSFER_TO)]
    assert said(session)[-2:] == [
        "I am connecting you. One moment, please.",
        "You are being transferred.",
    ]


async def test_the_front_desk_transfers_nothing_but_phone_calls() -> None:
    with fake_job_context():
        async with talking(telephony_agent.FrontDesk(), llm=telephony_agent.thinking()) as session:
            await session.run(user_input="a human please")
    assert said(session)[-1] == "I am sorry: this is not a phone call, so it can't be transferred"


async def test_the_front_desk_hangs_up_when_the_caller_says_goodbye() -> None:
    closes: list[CloseEvent] = []
    async with talking(telephony_agent.FrontDesk(), llm=telephony_agent.thinking()) as session:
        session.on("close", closes.append)
        await session.run(user_input="thank you, bye")
        await asyncio.sleep(10.0)
        assert [close.reason for close in closes] == ["user_initiated"]
    assert said(session)[-1] == "Thank you for calling. Goodbye!"


async def test_sales_take_an_order_and_a_task_takes_the_address() -> None:
    order = multi_agent.Order()
    async with talking(multi_agent.Receptionist(), userdata=order) as session:
        handoff = await session.run(user_input="I would like to order")
        handoff.expect.contains_agent_handoff(new_agent_type=multi_agent.Sales)
        await session.run(user_input="a pizza please")
        assert isinstance(session.current_agent, multi_agent.AskAddress)
        await session.run(user_input="hm, let me think")
        await session.run(user_input="to twelve main street")
        assert isinstance(session.current_agent, multi_agent.Sales)
    assert order == multi_agent.Order(["pizza"], "twelve main street")
    assert said(session) == [
        "Hello! How can I help you?",
        "This is sales. What would you like to order?",
        "Where shall we bring it?",
        "I am sorry, which street is that, and which number?",
        "Thank you. We bring it to twelve main street.",
    ]


async def test_the_caller_talks_on_while_a_flight_is_searched() -> None:
    async with talking(background_tasks.TravelAgent(), llm=background_tasks.thinking()) as session:
        await session.generate_reply(user_input="to Paris please")
        assert said(session)[-1] == "I am searching all airlines for Paris."
        await session.generate_reply(user_input="how is the weather")
        assert said(session)[-1] == "It is sunny there at this time of the year."
        await asyncio.sleep(background_tasks.SEARCH_SECONDS + 5.0)
    assert said(session)[-1] == "I have found a flight to Paris at nine in the morning."


async def test_the_silence_of_a_slow_tool_is_filled() -> None:
    async with talking(background_tasks.TravelAgent(), llm=background_tasks.thinking()) as session:
        await session.run(user_input="is it on time")
    spoken = said(session)
    assert spoken.count("Still checking.") == 2 and spoken[-1] == "Your flight is on time."


async def test_the_library_takes_down_who_calls_and_lets_them_go_back() -> None:
    async with talking(collect_details.Membership(), llm=collect_details.thinking()) as session:

        async def hears(text: str) -> str:
            await session.run(user_input=text, input_modality="audio")
            await asyncio.sleep(1.0)
            return said(session)[-1]

        assert await hears("yes please") == "May I have your name, please?"
        assert await hears("my name is bob") == "Bob. Is that correct?"
        assert (await hears("yes")).startswith("What is your phone number")
        assert (await hears("wait, my name is wrong")) == "May I have your name, please?"
        assert await hears("my name is ada") == "Ada. Is that correct?"
        assert (await hears("yes")).startswith("What is your phone number")
        assert (await hears("it is 12")) == "I am sorry, could you say that in another way?"
        assert "4 1 5" in await hears("it is +1 415 555 0100")
        assert await hears("yes, correct") == "And your email address?"
        assert await hears("ada at example dot com") == "ada@example.com. Is that correct?"
        assert await hears("yes") == "Welcome! I have noted: Ada, +14155550100, ada@example.com."


async def test_the_library_does_not_insist() -> None:
    async with talking(collect_details.Membership(), llm=collect_details.thinking()) as session:
        await session.run(user_input="i want to be a member")
        await session.run(user_input="my name is ada")
        await session.run(user_input="+1 415 555 0100")
        with pytest.raises(ToolError):
            await session.run(user_input="i would rather not")
        await asyncio.sleep(1.0)
    assert said(session)[-1].startswith("I am sorry: the user does not give the email address")
