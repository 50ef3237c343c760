"""Tools while the user talks: what they run for may change, but nobody waits for them in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fakes.hearing import settle
from fakes.llm import FakeLLM
from fakes.session import Recorded, make_session, now
from fakes.speaker import Speaker
from fakes.stt import FakeSTT
from fakes.tools import calls, messages, results, tool_story
from fakes.tts import FakeTTS
from fakes.vad import FakeVAD
from livekit.agents.llm import function_tool
from livekit.agents.vad import VADEventType
from livekit.agents.voice import Agent, AgentSession


class Phone:
    """A session that hears a user."""

    def __init__(self, llm: FakeLLM) -> None:
        self.stt, self.vad = FakeSTT(), FakeVAD()
        self.session: AgentSession[Any] = make_session(
            llm, stt=self.stt, vad=self.vad, tts=FakeTTS(), aec_warmup_duration=None
        )
        self.session.output.audio = Speaker()
        self.recorded = Recorded(self.session)

    async def user_says(self, text: str) -> None:
        vad = self.vad.streams[-1]
        vad.send(VADEventType.START_OF_SPEECH, speech_duration=0.05)
        for step in range(1, 7):
            await asyncio.sleep(0.1)
            vad.send(
                VADEventType.INFERENCE_DONE,
                speaking=True,
                speech_duration=0.1 * step,
                raw_accumulated_speech=0.1,
            )
        self.stt.streams[-1].final(text)
        await asyncio.sleep(0.25)
        vad.send(
            VADEventType.END_OF_SPEECH, silence_duration=0.25, speech_duration=0.6, speaking=False
        )
        await settle()


@asynccontextmanager
async def phone(llm: FakeLLM) -> AsyncIterator[Phone]:
    class Looking(Agent):
        @function_tool
        async def look(self) -> str:
            """Looks for 20 s."""
            await asyncio.sleep(20)
            return "seen"

    made = Phone(llm)
    await made.session.start(Looking(instructions="x"))
    await settle()
    try:
        yield made
    finally:
        await made.session.aclose()


@pytest.mark.parametrize("text", ["let me look, this takes a while, as you know", ""])
async def test_a_slow_tool_does_not_delay_the_next_reply(text: str) -> None:
    llm = FakeLLM([calls("look", text=text), "go on, I still look"], default="I have seen it")
    async with phone(llm) as p:
        await p.user_says("look")
        await asyncio.sleep(1)
        began = now()
        await p.user_says("what else can you do")
        await asyncio.sleep(1)
        assert now() - began < 3 and llm.requests[1].user_text == "what else can you do"
        told = [i for i in llm.requests[1].chat_ctx.items if i.type == "function_call_output"]
        assert ["In progress" in output.output for output in told] == [True]
        await asyncio.sleep(30)
        assert results(p.session)[-1] == "c1_final: seen"
        assert messages(p.session)[-1] == "assistant: I have seen it"
        assert "c1_final done: seen" in tool_story(p.recorded)
