"""Two realtime models behind two gateways: when one fails for good, the other goes on."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway import faults
from gateway.calls import QUICK, emulated
from gateway.realtime_route import ScriptedReply

from fakes.realtime_line import hear_out
from livekit.agents import inference
from livekit.agents.llm import ChatContext, RealtimeModelFallbackAdapter


async def test_another_model_takes_over_and_is_told_the_conversation() -> None:
    async with emulated() as (first, http), emulated() as (second, other_http):
        models = [
            inference.RealtimeModel(
                "openai/gpt-realtime",
                http_session=session,
                conn_options=QUICK,
                **gateway.arguments(),
            )
            for gateway, session in ((first, http), (second, other_http))
        ]
        adapter = RealtimeModelFallbackAdapter(list(models))
        session = adapter.session()
        reconnected: list[Any] = []
        session.on("session_reconnected", reconnected.append)
        await session.update_instructions("be brief")
        chat_ctx = ChatContext()
        chat_ctx.add_message(role="user", content="hi", id="u1")
        await session.update_chat_ctx(chat_ctx)

        first.standing["realtime"] = faults.refuse(401)
        first.strike("realtime", faults.drop())
        session.clear_audio()
        await asyncio.sleep(3.0)
        assert first.open_connections == [] and len(second.open_connections) == 1
        told = second.realtime.conversations[-1]
        assert told.said == ["user: hi"]
        assert len(reconnected) == 1

        second.realtime.script.append(ScriptedReply("here I am"))
        assert (await hear_out(await session.generate_reply()))[0] == ["here I am"]
        await session.aclose()
        await adapter.aclose()
        await second.until_closed(0.5)
