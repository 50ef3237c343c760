"""A call: our session in a room, and a caller in another process, on a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livekit import rtc

from fakes.llm import FakeLLM
from livekit.agents import Agent, AgentSession, CloseEvent, inference, utils
from livekit.agents.voice.room_io import RoomOptions
from livekit.plugins import piper, pocketsphinx

from .caller import PATIENCE, Caller
from .network import Line
from .server import LiveKitServer


async def until(condition: Callable[[], bool], what: str, *, within: float = PATIENCE) -> None:
    """Wait for something; it is looked at fifty times a second."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {within:g} s"
        await asyncio.sleep(0.02)


@dataclass
class Call:
    """What a test works with."""

    name: str
    room: rtc.Room
    session: AgentSession[Any]
    caller: Caller
    closes: list[tuple[float, CloseEvent]] = field(default_factory=list)
    """The `close` events, with the moment of each in epoch seconds."""

    async def until(
        self, condition: Callable[[], bool], what: str, *, within: float = PATIENCE
    ) -> None:
        """Wait for something in the session."""
        await until(condition, what, within=within)

    async def agent_is(self, state: str) -> None:
        """Wait until the agent is in a state."""
        await self.until(lambda: self.session.agent_state == state, f"the agent is {state}")

    async def closed(self, within: float) -> CloseEvent:
        """Wait for the end of the session's close."""
        deadline = time.monotonic() + within
        while not self.closes or self.session._is_closing:
            assert time.monotonic() < deadline, f"the session did not close within {within} s"
            await asyncio.sleep(0.02)
        assert len(self.closes) == 1, "closed once"
        return self.closes[0][1]


@asynccontextmanager
async def calling(
    server: LiveKitServer,
    recording: Path,
    *,
    llm: FakeLLM,
    agent: Agent | None = None,
    options: RoomOptions | None = None,
    said_before: Path | None = None,
    phone: dict[str, str] | None = None,
    line: Line | None = None,
    **session_options: Any,
) -> AsyncIterator[Call]:
    """A call that has been answered: both are in the room and hear each other.

    Args:
        server: The server.
        recording: WAV file for what the caller hears.
        llm: What the agent says.
        agent: The agent.
        options: How the session uses the room.
        said_before: What the caller said before they were connected, as a WAV file.
        phone: The caller is on the phone, with these attributes.
        line: The caller is on a machine of their own, at the end of this.
        session_options: Further options of the session.
    """
    name = utils.shortuuid("room_")
    session: AgentSession[Any] = AgentSession(
        stt=pocketsphinx.STT(),
        vad=inference.VAD(),
        llm=llm,
        tts=piper.TTS(),
        **session_options,
    )
    room = rtc.Room()
    await room.connect(server.url, server.token(name, "agent", agent=True))
    try:
        kind = "standard" if phone is None else "sip"
        token = server.token(name, "caller", kind=kind, **(phone or {}))
        with Caller(server.url, token, recording, said_before=said_before, line=line) as caller:
            call = Call(name, room, session, caller)
            session.on("close", lambda event: call.closes.append((time.time(), event)))
            await session.start(
                agent or Agent(instructions="be brief"),
                room=room,
                room_options=options or RoomOptions(),
            )
            await caller.until("joined")
            await session.room_io.wait_for_ready()
            await caller.until("subscribed")
            yield call
            await session.aclose()
    finally:
        await session.aclose()
        await room.disconnect()
