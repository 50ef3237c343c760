"""A whole session whose models are behind the gateway, and every way the gateway can be when it
ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway import GatewayEmulator, faults
from gateway.calls import Caller, emulated, sentence

from fakes.microphone import Microphone
from fakes.speaker import Speaker
from livekit.agents import Agent, AgentSession
from livekit.agents.utils import http_context

A = sentence(0)


@contextlib.asynccontextmanager
async def _in_call(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[GatewayEmulator, AgentSession[Any], Caller]]:
    async with emulated() as (gateway, http):
        arguments = gateway.arguments()
        monkeypatch.setenv("LIVEKIT_INFERENCE_URL", arguments["base_url"])
        monkeypatch.setenv("LIVEKIT_INFERENCE_API_KEY", arguments["api_key"])
        monkeypatch.setenv("LIVEKIT_INFERENCE_API_SECRET", arguments["api_secret"])
        token = http_context._factory.set(lambda: http)
        session: AgentSession[Any] = AgentSession(
            stt="deepgram/nova-3", llm="openai/gpt-4.1-mini", tts="deepgram/aura-2", vad=None
        )
        microphone = Microphone()
        session.input.audio = microphone
        session.output.audio = Speaker()
        await session.start(Agent(instructions="be brief"))
        try:
            yield gateway, session, Caller(microphone)
        finally:
            await session.aclose()
            http_context._factory.reset(token)


def _said(session: AgentSession[Any]) -> list[tuple[str, str | None]]:
    return [(m.role, m.text_content) for m in session.history.messages()]


async def test_a_question_is_heard_answered_and_spoken_by_models_named_in_strings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with _in_call(monkeypatch) as (gateway, session, caller):
        await caller.be_quiet(0.5)
        await caller.say(*A)
        await caller.be_quiet(8.0)
        assert _said(session) == [
            ("user", " ".join(A)),
            ("assistant", f"You said: {' '.join(A)}"),
        ]
        await session.aclose()
        assert gateway.open_connections == []


@pytest.mark.parametrize(
    "fault",
    [
        None,
        faults.half_open(),
        faults.stall_reads(),
        faults.stall_writes(),
        faults.no_close_reply(),
        faults.error(500, then="chatter"),
    ],
    ids=str,
)
async def test_a_forced_close_leaves_no_connection_open(
    fault: faults.Fault | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _in_call(monkeypatch) as (gateway, session, caller):
        await caller.be_quiet(0.5)
        await caller.say(*A)
        await caller.be_quiet(2.0)  # the agent is speaking
        if fault is not None:
            for route in ("stt", "tts"):
                gateway.strike(route, fault)
        await caller.say(*A[:2])
        began = asyncio.get_running_loop().time()
        await session.aclose()
        await gateway.until_closed(max(0.1, 5.5 - (asyncio.get_running_loop().time() - began)))
        assert asyncio.get_running_loop().time() - began <= 5.5


async def test_an_outage_in_a_sentence_ends_neither_the_session_nor_the_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with _in_call(monkeypatch) as (gateway, session, caller):
        await caller.be_quiet(0.5)
        await caller.say(*A[:3])
        await gateway.go_away()
        await caller.say(*A[3:])
        await caller.be_quiet(4.5)
        await gateway.come_back()
        await caller.be_quiet(12.0)
        said = _said(session)
        assert [text for role, text in said if role == "user"] == [" ".join(A)]
        assert said[-1] == ("assistant", f"You said: {' '.join(A)}")
