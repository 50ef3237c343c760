"""The engine of OpenAI's realtime protocol on real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from livekit.agents.llm import ChatContext
from livekit.agents.llm._realtime.openai import (
    RealtimeModel,
    RealtimeSession,
    _is_fatal_error,
    process_base_url,
)
from livekit.agents.llm._realtime.openai_utils import _shorten_call_id
from livekit.agents.types import APIConnectOptions

pytestmark = pytest.mark.real_time


class Server:
    """Answers what it is asked; keeps what it heard."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.arrived: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sockets: list[web.WebSocketResponse] = []
        self.url = ""
        self.drops = False
        """Close connections as soon as they are accepted."""

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        self.sockets.append(ws)
        if self.drops:
            await ws.close()
        async for message in ws:
            event = json.loads(message.data)
            self.heard.append(event)
            self.arrived.put_nowait(event)
            if event["type"] == "conversation.item.create":
                await ws.send_json(
                    {
                        "type": "conversation.item.added",
                        "previous_item_id": event["previous_item_id"],
                        "item": event["item"],
                    }
                )
        return ws

    async def say(self, *events: dict[str, Any]) -> None:
        for event in events:
            await self.sockets[-1].send_json(event)

    async def until(self, kind: str) -> dict[str, Any]:
        while True:
            event = await asyncio.wait_for(self.arrived.get(), 5)
            if event["type"] == kind:
                return event


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_get("/v1/realtime", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield server
    await runner.cleanup()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Server, RealtimeSession]]:
    async with serving() as server, aiohttp.ClientSession() as http:
        model = RealtimeModel(
            api_key="key",
            base_url=server.url,
            http_session=http,
            conn_options=APIConnectOptions(max_retry=2, retry_interval=0.01, timeout=2),
        )
        session = model.session()
        await server.until("session.update")
        yield server, session
        await session.aclose()


def created(request: dict[str, Any]) -> dict[str, Any]:
    metadata = request["response"]["metadata"]
    return {"type": "response.created", "response": {"id": "r1", "metadata": metadata}}


async def test_a_reply_streams_text_audio_and_calls() -> None:
    async with connected() as (server, session):
        reply = session.generate_reply(instructions="greet")
        request = await server.until("response.create")
        item = {"item_id": "m1", "response_id": "r1"}
        call = {
            "type": "function_call",
            "id": "f1",
            "call_id": "c1",
            "name": "f",
            "arguments": "{}",
        }
        await server.say(
            created(request),
            {"type": "response.output_item.added", "item": {"type": "message", "id": "m1"}},
            {"type": "response.content_part.added", "part": {"type": "audio"}, **item},
            {"type": "response.output_audio_transcript.delta", "delta": "hello", **item},
            {
                "type": "response.output_audio.delta",
                "delta": base64.b64encode(bytes(480)).decode(),
                **item,
            },
            {"type": "response.output_item.done", "item": {"type": "message", "id": "m1"}},
            {"type": "response.output_item.done", "item": call},
            {"type": "response.done", "response": {"id": "r1", "status": "completed"}},
        )
        event = await asyncio.wait_for(reply, 5)
        assert event.user_initiated
        (message,) = [message async for message in event.message_stream]
        assert [text async for text in message.text_stream] == ["hello"]
        assert [frame.samples_per_channel async for frame in message.audio_stream] == [240]
        assert await message.modalities == ["audio", "text"]
        assert [call.name async for call in event.function_stream] == ["f"]


async def test_a_lost_connection_is_replaced_and_the_conversation_replayed() -> None:
    async with connected() as (server, session):
        context = ChatContext()
        context.add_message(role="user", content="hi", id="u1")
        await session.update_chat_ctx(context)
        assert [item.id for item in session.chat_ctx.items] == ["u1"]
        reconnected = asyncio.Event()
        errors: list[Any] = []
        session.on("session_reconnected", lambda _: reconnected.set())
        session.on("error", errors.append)
        await server.until("conversation.item.create")
        await server.sockets[-1].close()
        await asyncio.wait_for(reconnected.wait(), 5)
        assert (await server.until("conversation.item.create"))["item"]["id"] == "u1"
        assert [error.recoverable for error in errors] == [True]


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("https://a.b/v1", "wss://a.b/v1/realtime?model=m"),
        ("http://a.b", "ws://a.b/realtime?model=m"),
        ("wss://a.b/own?model=x", "wss://a.b/own?model=x"),
    ],
)
def test_the_url_follows_from_the_base_url(base: str, expected: str) -> None:
    assert process_base_url(base, "m") == expected


def test_only_codes_that_never_recover_are_fatal() -> None:
    assert _is_fatal_error({"type": "invalid_api_key"})
    assert not _is_fatal_error({"code": "rate_limit_exceeded"})


async def test_a_server_that_accepts_and_drops_is_given_up() -> None:
    async with connected() as (server, session):
        errors: list[Any] = []
        given_up = asyncio.Event()

        def on_error(error: Any) -> None:
            errors.append(error.recoverable)
            if not error.recoverable:
                given_up.set()

        session.on("error", on_error)
        server.drops = True
        await server.sockets[-1].close()
        await asyncio.wait_for(given_up.wait(), 10)
        assert errors == [True, True, False], "max_retry is 2"
        assert len(server.sockets) == 3


def test_a_call_id_that_the_protocol_would_refuse_is_shortened_always_to_the_same() -> None:
    """Clients of compatible protocols, in packages of their own, use it by this name."""
    long = "call_" + 40 * "x"
    assert _shorten_call_id("call_1") == "call_1"
    assert len(_shorten_call_id(long)) == 32
    assert _shorten_call_id(long) == _shorten_call_id(long) != _shorten_call_id(long + "y")
