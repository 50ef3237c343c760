"""A person is called into a room of their own, briefed, and connected: real rooms, a made-up phone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from livekit import rtc

from e2e.harness.call import Call, calling, until
from e2e.harness.server import LiveKitServer
from fakes.collecting import Collector
from fakes.llm import FakeLLM
from fakes.tools import calls
from livekit.agents.beta.workflows import WarmTransferResult, WarmTransferTask
from livekit.agents.llm import ToolError
from livekit.agents.testing import fake_job_context

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(120)]


class Phone:
    """The person's: stands for the SIP service, which this server does not come with."""

    def __init__(self, server: LiveKitServer, client: Any, *, can_move: bool) -> None:
        self._server, self._client, self._can_move = server, client, can_move
        self.identity = self.room_name = ""
        self.room: rtc.Room | None = None
        self.heard: list[str] = []
        self.api: Any = SimpleNamespace(
            sip=SimpleNamespace(create_sip_participant=self._dial),
            room=SimpleNamespace(move_participant=self._move, delete_room=client.room.delete_room),
        )

    async def _dial(self, request: Any) -> None:
        self.identity, self.room_name = request.participant_identity, request.room_name
        await self._join(self.room_name)

    async def _join(self, room_name: str) -> None:
        self.room = rtc.Room()
        self.room.on("track_subscribed", lambda track, *_: self.heard.append(room_name))
        token = self._server.token(room_name, self.identity, kind="sip")
        await self.room.connect(self._server.url, token)

    async def _move(self, request: Any) -> None:
        if not self._can_move:
            await self._client.room.move_participant(request)  # the server refuses
            return
        await self.hang_up()
        await self._join(request.destination_room)

    async def hang_up(self) -> None:
        assert self.room is not None
        await self.room.disconnect()


@asynccontextmanager
async def transferring(
    server: LiveKitServer,
    recording: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    can_move: bool = True,
) -> AsyncIterator[tuple[Call, Phone, Collector]]:
    """The person has picked up and is being briefed."""
    monkeypatch.setenv("LIVEKIT_API_KEY", server.key)
    monkeypatch.setenv("LIVEKIT_API_SECRET", server.secret)
    agent = Collector(lambda: WarmTransferTask("+15550100", sip_trunk_id="ST_1"))
    llm = FakeLLM(default="Do you take it?")
    async with server.api() as client:
        phone = Phone(server, client, can_move=can_move)
        with fake_job_context() as job:
            job._info.fake_job, job._info.url, job._api = False, server.url, phone.api
            async with calling(server, recording, llm=llm, agent=agent) as call:
                job._room = call.room
                llm.replies[:] = [calls("collect")]
                call.session.generate_reply(user_input="a person please", input_modality="audio")
                await until(lambda: phone.room_name in phone.heard, "the briefing is heard")
                talk = next(s for s in job._session_shutdown_registered if s is not call.session)
                call.talk = talk  # type: ignore[attr-defined]
                try:
                    yield call, phone, agent
                finally:
                    if phone.room is not None:
                        await phone.room.disconnect()


async def decides(call: Any, tool: str, then: str) -> None:
    """The person has said something, and the model calls a tool."""
    await asyncio.sleep(0.5)
    call.session.llm.replies[:] = [calls(tool), then]
    call.talk.generate_reply(user_input="hm", input_modality="audio")


async def test_caller_and_person_end_up_in_one_room(
    server: LiveKitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with transferring(server, tmp_path / "heard.wav", monkeypatch) as (call, phone, agent):
        assert not call.session.input.audio_enabled
        await decides(call, "connect_to_caller", "You are connected.")
        await until(lambda: agent.outcome is not None, "the transfer ends", within=30.0)
        assert agent.outcome == WarmTransferResult(phone.identity)
        assert await server.identities(call.name) == {"agent", "caller", phone.identity}
        assert await server.identities(phone.room_name) == set()
        assert call.session.input.audio_enabled


async def test_a_server_that_can_not_move_people_gives_the_caller_back(
    server: LiveKitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with transferring(server, tmp_path / "heard.wav", monkeypatch, can_move=False) as (
        call,
        phone,
        agent,
    ):
        await decides(call, "connect_to_caller", "That did not work.")
        await until(lambda: agent.outcome is not None, "the transfer ends", within=30.0)
        assert isinstance(agent.outcome, ToolError)
        assert await server.identities(phone.room_name) == set()
        assert call.session.input.audio_enabled


async def test_a_caller_who_hangs_up_hangs_up_on_the_person_too(
    server: LiveKitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with transferring(server, tmp_path / "heard.wav", monkeypatch) as (call, phone, agent):
        call.caller.leave()
        event = await call.closed(within=10.0)
        assert event.reason == "participant_disconnected"
        assert event.report is not None and not event.report.survivors
        assert isinstance(agent.outcome, ToolError)
        assert phone.room is not None
        room = phone.room
        await until(lambda: not room.isconnected(), "the person is hung up on")
        assert await server.identities(phone.room_name) == set()
