"""A duplex model in a session: it listens and speaks at once, and nobody takes its turns for it."""

from __future__ import annotations

import asyncio

import pytest

from fakes.duplex import FakeDuplexModel, FakeDuplexSession
from fakes.hearing import settle
from fakes.session import Recorded, now
from fakes.speaker import Speaker
from livekit.agents.llm import FunctionCall, RealtimeError, function_tool
from livekit.agents.voice import Agent, AgentSession

SPEECH = (0.5,) * 10
PAUSE = (0.0,) * 12


class Line:
    """A session with a duplex model and a loudspeaker."""

    def __init__(self, **capabilities: bool) -> None:
        self.model = FakeDuplexModel(**capabilities)
        self.session: AgentSession[None] = AgentSession(
            llm=self.model, vad=None, aec_warmup_duration=None
        )
        self.recorded = Recorded(self.session)
        self.speaker = Speaker()
        self.session.output.audio = self.speaker

    @property
    def server(self) -> FakeDuplexSession:
        return self.model.sessions[-1]

    async def speak(self, text: str) -> None:
        """The model says something of one second, and is silent again."""
        self.server.say(text)
        await self.server.speak(*SPEECH, *PAUSE)

    @property
    def said(self) -> list[str]:
        return [f"{m.role}: {m.text_content}" for m in self.session.history.messages()]


async def test_what_it_says_is_played_and_kept() -> None:
    line = Line()
    await line.session.start(Agent(instructions="be brief"))
    assert line.server.instructions == "be brief"
    agent = line.session.current_agent
    assert agent.duplex_session is line.server
    await line.speak("hello there")
    await asyncio.sleep(3.0)
    assert line.said == ["assistant: hello there"]
    assert line.recorded.story.count("agent → speaking") == 1
    await line.session.aclose()
    assert line.server.closed and not line.model.closed


async def test_it_is_asked_for_a_reply_and_given_what_was_typed() -> None:
    line = Line(mutable_chat_context=True)
    await line.session.start(Agent(instructions="x"))
    handle = line.session.generate_reply(user_input="I am Ann", instructions="greet")
    await settle()
    assert line.server.requests == ["greet"]
    await line.speak("hello Ann")
    await handle
    assert handle.exception() is None
    assert line.said == ["user: I am Ann", "assistant: hello Ann"]
    await line.session.aclose()


async def test_a_reply_that_it_does_not_give_fails_in_time() -> None:
    line = Line()
    await line.session.start(Agent(instructions="x"))
    began = now()
    handle = line.session.generate_reply()
    await handle
    assert isinstance(handle.exception(), RealtimeError) and now() - began == pytest.approx(10.0)
    await line.session.aclose()


async def test_its_calls_are_answered() -> None:
    class Looking(Agent):
        @function_tool
        async def look(self) -> str:
            """Looks."""
            return "rain"

    line = Line(mutable_chat_context=True)
    await line.session.start(Looking(instructions="x"))
    line.server.emit("function_call", FunctionCall(call_id="c1", name="look", arguments="{}"))
    await asyncio.sleep(2.0)
    outputs = [i.output for i in line.server.items if i.type == "function_call_output"]
    assert outputs == ["rain"]
    await line.speak("it rains")
    await asyncio.sleep(3.0)
    assert line.said == ["assistant: it rains"]
    await line.session.aclose()


async def test_closing_while_it_hangs() -> None:
    line = Line()
    line.model.close_hangs = True
    await line.session.start(Agent(instructions="x"))
    await line.server.speak(*SPEECH)
    line.session.generate_reply()
    await asyncio.sleep(0.5)
    began = now()
    await line.session.aclose()
    assert now() - began < 3.0 and len(line.recorded.closes) == 1
    line.server.release()
    await settle()
