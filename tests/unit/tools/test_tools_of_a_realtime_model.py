"""Tools that outlive their turn, called by a model that hears and speaks by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fakes.realtime import FakeRealtimeModel, FakeRealtimeSession, RealtimeReply
from fakes.session import Recorded, now
from fakes.speaker import Speaker
from fakes.tools import messages, results, tool_story
from livekit.agents.llm import FunctionCall, function_tool
from livekit.agents.voice import Agent, AgentSession, RunContext


class Searching(Agent):
    def __init__(self) -> None:
        super().__init__(instructions="x")

    @function_tool
    async def search(self, ctx: RunContext[Any]) -> str:
        """Reports, and ends 10 s later."""
        await ctx.update("searching")
        await asyncio.sleep(10)
        return "found it"

    @function_tool
    async def look(self) -> str:
        """Takes 20 s."""
        await asyncio.sleep(20)
        return "seen"


def calling(name: str, text: str = "", audio: float = 0.0) -> RealtimeReply:
    call = FunctionCall(call_id="c1", name=name, arguments="{}")
    return RealtimeReply(text, audio=audio, tool_calls=[call])


@asynccontextmanager
async def session_with(
    *replies: RealtimeReply | str, **capabilities: bool
) -> AsyncIterator[tuple[AgentSession[Any], Recorded, FakeRealtimeSession]]:
    model = FakeRealtimeModel(replies, **capabilities)
    session: AgentSession[Any] = AgentSession(llm=model, vad=None, aec_warmup_duration=None)
    session.output.audio = Speaker()
    recorded = Recorded(session)
    await session.start(Searching())
    try:
        yield session, recorded, model.sessions[-1]
    finally:
        await session.aclose()


async def test_a_late_result_reaches_the_model_before_it_is_asked_to_tell_it() -> None:
    async with session_with(calling("search"), "I am at it", "I found it") as (s, recorded, server):
        await s.generate_reply()
        await asyncio.sleep(20)
        known = {getattr(item, "call_id", None) for item in server.chat_ctx.items}
        assert {"c1", "c1_final"} <= known
        assert "c1_final" in str(server.requests[-1].instructions)
        assert messages(s) == ["assistant: I am at it", "assistant: I found it"]
        assert tool_story(recorded)[-1] == "reply to c1_final completed"


async def test_a_tool_that_outlasts_the_interruption_goes_on() -> None:
    async with session_with(calling("look", "let me look, this takes a while", 5.0), "seen") as (
        s,
        recorded,
        server,
    ):
        handle = s.generate_reply()
        await asyncio.sleep(1)
        began = now()
        s.interrupt()
        await handle
        assert now() - began == pytest.approx(5)
        assert "In progress" in results(s)[0]
        await asyncio.sleep(30)
        assert results(s)[-1] == "c1_final: seen" and messages(s)[-1] == "assistant: seen"
        known = {getattr(item, "call_id", None) for item in server.chat_ctx.items}
        assert {"c1", "c1_final"} <= known, "the server waits for an answer to every call"
        ends = [line for line in tool_story(recorded) if line.startswith("c1")]
        assert ends == ["c1 started", "c1_final done: seen"]
