"""A whole conversation with a realtime model behind the gateway, named by a string."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from gateway import Fault, GatewayEmulator, faults
from gateway.calls import Caller, emulated, sentence
from gateway.realtime_route import Conversation, ScriptedReply

from fakes.microphone import Microphone
from fakes.session import Recorded
from fakes.speaker import Speaker
from livekit.agents import Agent, AgentSession
from livekit.agents.llm import function_tool
from livekit.agents.utils import http_context
from livekit.agents.voice import TranscriptSynchronizer

A, B, C = sentence(0), sentence(5), sentence(10)
CLOSE_BOUND = 5.0 + 2 * 2.0 + 0.5


class Clerk(Agent):
    def __init__(self) -> None:
        super().__init__(instructions="be brief")
        self.looked_up: list[str] = []

    @function_tool
    async def look_up(self, name: str) -> str:
        """Look somebody up."""
        self.looked_up.append(name)
        return f"{name} is in"


@dataclass
class Call:
    gateway: GatewayEmulator
    session: AgentSession[Any]
    clerk: Clerk
    caller: Caller
    recorded: Recorded

    @property
    def server(self) -> Conversation:
        return self.gateway.realtime.conversations[-1]

    @property
    def said(self) -> list[str]:
        return [
            f"{m.role}{' (interrupted)' if m.interrupted else ''}: {m.text_content}"
            for m in self.session.history.messages()
        ]

    def script(self, *replies: ScriptedReply) -> None:
        self.gateway.realtime.script.extend(replies)

    async def ask(self, *words: str) -> None:
        """Say something, and listen for five seconds."""
        await self.caller.say(*words)
        await self.caller.be_quiet(5.0)


@contextlib.asynccontextmanager
async def in_call(
    monkeypatch: pytest.MonkeyPatch, model: str = "openai/gpt-realtime"
) -> AsyncIterator[Call]:
    async with emulated() as (gateway, http):
        arguments = gateway.arguments()
        monkeypatch.setenv("LIVEKIT_INFERENCE_URL", arguments["base_url"])
        monkeypatch.setenv("LIVEKIT_INFERENCE_API_KEY", arguments["api_key"])
        monkeypatch.setenv("LIVEKIT_INFERENCE_API_SECRET", arguments["api_secret"])
        token = http_context._factory.set(lambda: http)
        session: AgentSession[Any] = AgentSession(llm=model, vad=None, aec_warmup_duration=None)
        recorded = Recorded(session)
        microphone, clerk = Microphone(), Clerk()
        session.input.audio = microphone
        paced = TranscriptSynchronizer(next_in_chain_audio=Speaker(), next_in_chain_text=None)
        session.output.audio = paced.audio_output
        session.output.transcription = paced.text_output
        await session.start(clerk)
        call = Call(gateway, session, clerk, Caller(microphone), recorded)
        await call.caller.be_quiet(0.5)
        try:
            yield call
        finally:
            await session.aclose()
            await paced.aclose()
            http_context._factory.reset(token)
        await gateway.until_closed(0.5)


async def test_a_question_a_tool_and_an_interruption_and_then_the_server_falls_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with in_call(monkeypatch) as call:
        # the user asks, and is answered
        await call.ask(*A)
        assert call.said == [f"user: {' '.join(A)}", f"assistant: You said: {' '.join(A)}"]
        assert call.server.session["instructions"] == "be brief"
        assert [tool["name"] for tool in call.server.session["tools"]] == ["look_up"]

        # the model calls a tool, and goes on with what that returns
        call.script(
            ScriptedReply(calls=[("look_up", '{"name": "Ann"}')]), ScriptedReply("she is in")
        )
        await call.ask(*B)
        assert call.clerk.looked_up == ["Ann"]
        assert call.said[2:] == [f"user: {' '.join(B)}", "assistant: she is in"]
        outputs = [item for item in call.server.items if item["type"] == "function_call_output"]
        assert [output["output"] for output in outputs] == ["Ann is in"]

        # the user interrupts, and the server learns what was heard
        call.script(ScriptedReply("this is going to be a very long story indeed, be patient"))
        await call.caller.say(*C)
        await call.caller.be_quiet(2.0)
        await call.ask(*A)
        interrupted = call.said[5]
        assert interrupted.startswith("assistant (interrupted): this is")
        assert "patient" not in interrupted
        (heard,) = call.server.truncated.values()
        assert 500 < heard < 2500
        assert call.said[6:] == [f"user: {' '.join(A)}", f"assistant: You said: {' '.join(A)}"]

        # the server falls silent in the middle of an answer, and somebody hangs up
        call.script(ScriptedReply("this is the end of a very long call"))
        await call.caller.say(*B)
        await call.caller.be_quiet(1.5)
        call.gateway.strike("realtime", faults.half_open())
        await call.caller.be_quiet(0.5)
        began = asyncio.get_running_loop().time()
        await call.session.aclose()
        assert asyncio.get_running_loop().time() - began <= CLOSE_BOUND
        await call.gateway.until_closed(0.1)
        assert call.said[8] == f"user: {' '.join(B)}"
        assert call.said[9].startswith("assistant (interrupted): this is")
        assert call.recorded.story.count("close") <= 1


async def test_a_call_goes_on_after_its_connection_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    async with in_call(monkeypatch) as call:
        await call.ask(*A)
        call.gateway.inject("realtime", faults.refuse(503))
        call.gateway.strike("realtime", faults.drop())
        await call.caller.be_quiet(3.0)
        assert len(call.gateway.realtime.conversations) == 2
        await call.ask(*B)
        expected = [
            f"user: {' '.join(A)}",
            f"assistant: You said: {' '.join(A)}",
            f"user: {' '.join(B)}",
            f"assistant: You said: {' '.join(B)}",
        ]
        assert call.said == expected
        assert call.server.said == expected, "the new connection knows the whole call"


async def test_a_gateway_that_is_gone_for_good_ends_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with in_call(monkeypatch) as call:
        await call.ask(*A)
        closed = asyncio.Event()
        call.session.on("close", lambda event: closed.set())
        call.gateway.standing["realtime"] = faults.refuse(401)
        call.gateway.strike("realtime", faults.drop())
        await call.caller.be_quiet(2.0)
        await asyncio.wait_for(closed.wait(), 20.0)
        assert call.said[0] == f"user: {' '.join(A)}"


@pytest.mark.parametrize(
    "fault",
    [
        None,
        faults.half_open(),
        faults.stall_reads(),
        faults.stall_writes(),
        faults.no_close_reply(),
    ],
    ids=str,
)
@pytest.mark.parametrize("model", ["openai/gpt-realtime", "openai/gpt-live-1"])
async def test_a_forced_close_is_bounded_whatever_the_server_does(
    model: str, fault: Fault | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_call(monkeypatch, model) as call:
        route = "realtime" if model.endswith("realtime") else "live/sessions"
        await call.caller.say(*A)
        await call.caller.be_quiet(1.5)
        if fault is not None:
            call.gateway.strike(route, fault)
        await call.caller.say(*B[:2])
        began = asyncio.get_running_loop().time()
        await call.session.aclose()
        assert asyncio.get_running_loop().time() - began <= CLOSE_BOUND
        await call.gateway.until_closed(0.1)


async def test_a_duplex_model_named_by_a_string_answers_and_calls_tools(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with in_call(monkeypatch, "openai/gpt-live-1") as call:
        server = call.gateway.live.sessions[-1]
        await call.caller.say(*A)
        await call.caller.be_quiet(2.0)
        await server.say("good day to you")
        await call.caller.be_quiet(3.0)
        assert call.said == [f"user: {' '.join(A)}", "assistant: good day to you "]
        await server.think(("look_up", "c1"))
        await call.caller.be_quiet(1.0)
        assert [item["output"] for item in server.items] != [] and server.continued == 1


@pytest.mark.parametrize("model", ["openai/gpt-realtime", "openai/gpt-live-1"])
async def test_a_session_that_was_closed_can_be_started_again(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_call(monkeypatch, model) as call:
        await call.caller.say(*A)
        await call.caller.be_quiet(2.0)
        await call.session.aclose()
        assert call.gateway.open_connections == []
        microphone = Microphone()
        call.session.input.audio = microphone
        call.session.output.audio = Speaker()
        await call.session.start(Clerk())
        caller = Caller(microphone)
        await caller.be_quiet(0.5)
        await caller.say(*B)
        await caller.be_quiet(2.0)
        assert f"user: {' '.join(B)}" in call.said
        assert len(call.gateway.open_connections) == 1


async def test_a_tool_that_takes_long_is_answered_after_the_connection_was_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with in_call(monkeypatch) as call:
        done = asyncio.Event()

        @function_tool
        async def think() -> str:
            """Think for a while."""
            await done.wait()
            return "42"

        await call.clerk.update_tools([think])
        call.script(ScriptedReply(calls=[("think", "{}")]), ScriptedReply("it is 42"))
        await call.ask(*A)
        call.gateway.strike("realtime", faults.drop())
        await call.caller.be_quiet(2.0)
        assert len(call.gateway.realtime.conversations) == 2
        done.set()
        await call.caller.be_quiet(5.0)
        outputs = [item for item in call.server.items if item["type"] == "function_call_output"]
        assert [output["output"] for output in outputs] == ["42"]
        assert call.said[-1] == "assistant: it is 42"
