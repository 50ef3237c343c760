"""A model that hears, speaks and answers its tools by itself can't agree in the user's place, either."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fakes.realtime import RealtimeReply
from fakes.realtime_call import calls, realtime_call
from livekit.agents.beta.workflows import GetEmailResult, GetEmailTask
from livekit.agents.voice import Agent

UPDATE = calls("update_email_address", "u1", '{"email": "ada@example.com"}')


class Asking(Agent):
    outcome: Any = None

    async def on_enter(self) -> None:
        self.outcome = await GetEmailTask()


@pytest.mark.parametrize("transcribes", [True, False])
async def test_the_user_has_to_speak_between_taking_down_and_confirming(transcribes: bool) -> None:
    agent = Asking(instructions="x")
    can = {"auto_tool_reply_generation": True}
    async with realtime_call("your email?", agent=agent, capabilities=can) as call:
        await asyncio.sleep(3.0)
        assert isinstance(call.session.current_agent, GetEmailTask)
        call.server.answer(RealtimeReply(tool_calls=[UPDATE]))
        await asyncio.sleep(3.0)
        call.server.answer(RealtimeReply(tool_calls=[calls("confirm_email_address", "early")]))
        await asyncio.sleep(3.0)
        assert agent.outcome is None and "has not answered yet" in call.outputs[-1]
        call.server.hear_start()
        await asyncio.sleep(0.5)
        call.server.hear_stop()
        if transcribes:
            call.server.transcribe("yes", "item_yes")
        call.server.answer(RealtimeReply(tool_calls=[calls("confirm_email_address", "late")]))
        await asyncio.sleep(3.0)
        assert agent.outcome == GetEmailResult("ada@example.com")
