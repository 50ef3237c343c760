"""`jupyter.run_app`: an agent that runs below the cell of a notebook."""

from __future__ import annotations

import asyncio
import sys
import types
from typing import Any

import jwt
import pytest

from fakes.livekit_server import API_KEY, API_SECRET, FakeLiveKitServer
from livekit.agents import AgentServer, JobContext, jupyter

pytestmark = pytest.mark.real_time
NAMES = ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the notebook shows: the URL, and what the token says."""
    rooms: list[tuple[str, dict[str, Any]]] = []
    module: Any = types.ModuleType("livekit.rtc.jupyter")
    module.display_room = lambda url, token: rooms.append(
        (url, jwt.decode(token, API_SECRET, algorithms=["HS256"]))
    )
    monkeypatch.setitem(sys.modules, "livekit.rtc.jupyter", module)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return rooms


def set_credentials(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name, value in zip(NAMES, (url, API_KEY, API_SECRET), strict=True):
        monkeypatch.setenv(name, value)


async def test_the_agent_is_in_the_room_that_is_shown(
    shown: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[tuple[str, dict[str, Any]]] = []
    server = AgentServer()

    @server.rtc_session()
    async def entrypoint(ctx: JobContext) -> None:
        claims = jwt.decode(ctx._info.token, API_SECRET, algorithms=["HS256"])
        jobs.append((ctx.job.room.name, claims))
        ctx.shutdown()

    async with FakeLiveKitServer().serve() as livekit:
        set_credentials(monkeypatch, livekit.url)
        for _ in range(2):  # a cell may be run again
            await asyncio.wait_for(asyncio.to_thread(jupyter.run_app, server), 30)
    assert len(jobs) == len(shown) == 2
    for (room, agent), (url, user) in zip(jobs, shown, strict=True):
        assert room.startswith("jupyter-room-") and url == livekit.url
        assert user["video"]["room"] == agent["video"]["room"] == room
        assert agent["kind"] == "agent" and user["kind"] == "standard"
        assert user["sub"] != agent["sub"] and user["exp"] - user["nbf"] == 60


async def test_a_room_that_can_t_be_made_is_told(
    shown: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = AgentServer()
    server.rtc_session(lambda ctx: None)  # type: ignore[arg-type, return-value]
    set_credentials(monkeypatch, "ws://127.0.0.1:9")
    with pytest.raises(RuntimeError, match="the agent failed"):
        await asyncio.wait_for(asyncio.to_thread(jupyter.run_app, server), 30)


def test_an_interrupted_cell_ends_the_job(
    shown: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import _thread
    import threading

    ended = threading.Event()
    server = AgentServer(entrypoint_shutdown_timeout=0.5)

    @server.rtc_session()
    async def entrypoint(ctx: JobContext) -> None:
        async def end() -> None:
            ended.set()

        ctx.add_shutdown_callback(end)
        await asyncio.sleep(0.2)
        _thread.interrupt_main()  # the button of the notebook
        await asyncio.Event().wait()

    async def run() -> None:
        async with FakeLiveKitServer().serve() as livekit:
            url.append(livekit.url)
            serving.set()
            await asyncio.to_thread(done.wait)

    url: list[str] = []
    serving, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert serving.wait(10)
        set_credentials(monkeypatch, url[0])
        jupyter.run_app(server)
        assert ended.is_set()
    finally:
        done.set()
        thread.join(10)


def test_missing_credentials_are_named_and_colab_s_secrets_are_used(
    shown: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="LIVEKIT_API_KEY, LIVEKIT_API_SECRET missing"):
        jupyter.run_app(AgentServer(ws_url="wss://x"))
    colab: Any = types.ModuleType("google.colab")
    secrets = {"LIVEKIT_URL": "wss://colab", "LIVEKIT_API_KEY": "key"}
    colab.userdata = types.SimpleNamespace(get=secrets.__getitem__)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    with pytest.raises(ValueError, match=r"^LIVEKIT_API_SECRET missing"):
        jupyter.run_app(AgentServer())
    assert shown == []


def test_a_url_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="jupyter_url"):
        jupyter.run_app(AgentServer(), jupyter_url="https://example.com")
