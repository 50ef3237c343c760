"""Several tools of one turn, some of which give the floor to inline tasks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fakes.llm import FakeLLM
from fakes.session import Recorded, make_session
from fakes.speaker import Speaker
from fakes.tools import calls, messages
from fakes.tts import FakeTTS
from livekit.agents.llm import function_tool
from livekit.agents.voice import Agent, AgentTask, RunContext


class Errand(AgentTask[None]):
    def __init__(self) -> None:
        super().__init__(instructions="be quick")

    async def on_enter(self) -> None:
        await self.session.say("one moment, I am on an errand")
        self.complete(None)


class Parent(Agent):
    @function_tool
    async def now(self) -> str:
        """Runs an errand at once."""
        await Errand()
        return "ran it"

    @function_tool
    async def later(self, ctx: RunContext[Any]) -> None:
        """Reports, and runs an errand once the first one is over."""
        await ctx.update("soon")
        await asyncio.sleep(0.1)
        await Errand()


@pytest.mark.parametrize("close_after", [1.0, 2.5, 10.0])
async def test_the_reply_of_a_turn_waits_while_one_of_its_tools_has_given_the_floor_away(
    close_after: float,
) -> None:
    session = make_session(
        FakeLLM([calls("now#n", "later#l")], default="both are on their way"),
        tts=FakeTTS(),
        aec_warmup_duration=None,
    )
    session.output.audio = speaker = Speaker()
    recorded = Recorded(session)
    await session.start(Parent(instructions="x"))
    session.generate_reply(user_input="go")
    await asyncio.sleep(close_after)
    session.shutdown()
    assert session._closing_task is not None
    await asyncio.wait((session._closing_task,), timeout=30)
    assert len(recorded.closes) == 1, "two voices at once confuse the loudspeaker"
    assert speaker._pending_playback_count == 0
    errands = 1 if close_after == 1.0 else 2  # none is begun any more in a session that closes
    assert messages(session) == [
        "user: go",
        *["assistant: one moment, I am on an errand"] * errands,
        "assistant: both are on their way",
    ]
