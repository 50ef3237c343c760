"""Every way to hang up, in every state of the agent: the session closes, once, within its bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from livekit import api

from e2e.harness.call import Call, calling
from e2e.harness.caller import Caller
from e2e.harness.server import LiveKitServer
from e2e.harness.speech import Speech
from fakes.llm import FakeLLM, Reply
from livekit.agents import Agent, function_tool
from livekit.agents.llm import FunctionToolCall
from livekit.agents.voice.room_io import RoomOptions

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(120)]

LONG = " ".join(["I could go on about our opening hours for a very long time."] * 10)
ABSENCE = 0.5
"""Seconds for which a caller who was lost may be away; the others meant to go."""

WAYS = ("leaves", "is killed", "room is deleted", "is removed")
STATES = ("listening", "thinking", "speaking", "wedged tool")

NOTICE = {"is killed": 40.0}
"""Seconds until the server tells that the caller is gone; it waits for a killed one to resume."""

SLACK = 0.5
"""Seconds for a machine that does other things, too."""

CLOSE = {"wedged tool": 5.0 + 0.5}
"""Seconds from then to the `close` event: the forced allowance when something is wedged."""


class Desk(Agent):
    """Looks things up, for ever: not even a cancellation ends it."""

    def __init__(self) -> None:
        super().__init__(instructions="be brief")
        self.looking = asyncio.Event()
        self.release = asyncio.Event()

    @function_tool
    async def look_up(self) -> str:
        """Look something up."""
        self.looking.set()
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                pass
        return "nothing"


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Rows of the table that is printed when all ways have been tried."""
    rows: list[str] = []
    yield rows
    print("\n\nhow the caller goes  while the agent is  noticed after  closed after  left behind")
    print("\n".join(rows))


def _llm(state: str) -> FakeLLM:
    call = FunctionToolCall(name="look_up", arguments="{}", call_id="call_1")
    replies: dict[str, Any] = {
        "thinking": Reply(hangs=True),
        "speaking": LONG,
        "wedged tool": Reply(tool_calls=[call]),
    }
    return FakeLLM(default=replies.get(state, "hello"))


async def _bring_into(state: str, call: Call, desk: Desk) -> None:
    if state == "listening":
        await call.agent_is("listening")
        return
    call.caller.write("hello")
    if state == "wedged tool":
        await asyncio.wait_for(desk.looking.wait(), 10.0)
    else:
        await call.agent_is(state)
    if state == "speaking":
        await call.caller.until("hears")


async def _hang_up(way: str, call: Call, server: LiveKitServer) -> None:
    if way == "leaves":
        call.caller.leave()
    elif way == "is killed":
        call.caller.kill()
    else:
        async with server.api() as client:
            if way == "room is deleted":
                await client.room.delete_room(api.DeleteRoomRequest(room=call.name))
            else:
                await client.room.remove_participant(
                    api.RoomParticipantIdentity(room=call.name, identity="caller")
                )


@pytest.mark.parametrize("way", WAYS)
async def test_the_session_closes_when_the_caller(
    way: str, server: LiveKitServer, tmp_path: Path, table: list[str]
) -> None:
    rows = await asyncio.gather(*(_one(way, state, server, tmp_path) for state in STATES))
    table += rows


async def _one(way: str, state: str, server: LiveKitServer, folder: Path) -> str:
    """One call, hung up in one way while the agent is in one state. Returns a row of the table."""
    desk, llm = Desk(), _llm(state)
    options = RoomOptions(close_after_absence=ABSENCE)
    recording = folder / f"{state}.wav"
    async with calling(server, recording, llm=llm, agent=desk, options=options) as call:
        await _bring_into(state, call, desk)
        noticed: list[float] = []
        for event in ("participant_disconnected", "disconnected"):
            call.room.on(event, lambda *_: noticed.append(time.time()))  # type: ignore[arg-type]
        hung_up = time.time()
        await _hang_up(way, call, server)
        await call.until(lambda: bool(noticed), "the hang-up", within=NOTICE.get(way, 5.0))
        closed = await call.closed(within=12.0)

    at, report = call.closes[0][0], closed.report
    assert closed.reason == "participant_disconnected"
    assert report is not None and report.finished_at is not None
    absence = ABSENCE if way in ("is killed", "is removed") else 0.0
    closing = at - noticed[0] - absence
    assert closing <= CLOSE.get(state, 0.5) + SLACK
    expected = ["look_up"] if state == "wedged tool" else []
    behind = [survivor.name for survivor in report.survivors]
    assert len(behind) == len(expected), behind
    assert "caller" not in await server.identities(call.name)
    desk.release.set()
    await asyncio.sleep(0.05)
    return (
        f"{way:19}  {state:18}  {noticed[0] - hung_up:10.2f} s   {closing:9.3f} s   "
        f"{', '.join(expected) or '-'}"
    )


async def test_a_caller_who_was_thrown_out_may_come_back_and_is_heard(
    server: LiveKitServer, speech: Speech, tmp_path: Path
) -> None:
    question = await speech.say("What are your opening hours?", after=0.5)
    llm = FakeLLM(default="I have booked a table.")
    async with calling(server, tmp_path / "first.wav", llm=llm) as call:
        await _hang_up("is removed", call, server)
        await call.until(lambda: call.session.room_io.linked_participant is None, "the removal")
        token = server.token(call.name, "caller")
        with Caller(server.url, token, tmp_path / "second.wav") as again:
            await again.until("subscribed")
            room_io = call.session.room_io
            await call.until(lambda: room_io.linked_participant is not None, "the new link")
            again.speak(question)
            await call.agent_is("speaking")
            await again.until("hears")
            again.leave()
            closed = await call.closed(within=5.0)
    assert "hours" in llm.requests[-1].user_text
    assert closed.reason == "participant_disconnected"
