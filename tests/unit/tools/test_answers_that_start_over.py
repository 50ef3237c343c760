"""A model that fails half-way, and another one that begins its answer anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fakes.llm import call
from fakes.session import make_session, running
from fakes.speaker import Speaker
from fakes.tools import messages, results
from fakes.tts import FakeTTS
from livekit.agents.llm import ChatChunk, ChoiceDelta, function_tool
from livekit.agents.llm.llm import RESTARTED
from livekit.agents.voice import Agent


def chunk(text: str = "", *names: str, restarts: bool = False) -> ChatChunk:
    extra = {RESTARTED: True} if restarts else {"from": text} if text else None
    calls = [call(name, call_id=name) for name in names]
    return ChatChunk(id="x", delta=ChoiceDelta(content=text or None, tool_calls=calls, extra=extra))


class Restarting(Agent):
    """Its answers are scripted chunk by chunk; a number is a pause in seconds."""

    def __init__(self, *script: ChatChunk | float) -> None:
        super().__init__(instructions="x")
        self.script = list(script)
        self.called: list[str] = []

    async def llm_node(self, chat_ctx: Any, tools: Any, model_settings: Any) -> AsyncIterator[Any]:
        script, self.script = self.script, []
        for item in script:
            if isinstance(item, float):
                await asyncio.sleep(item)
            else:
                yield item

    @function_tool
    async def first(self) -> None:
        """The first model's choice."""
        self.called.append("first")

    @function_tool
    async def second(self) -> None:
        """The second model's choice."""
        self.called.append("second")


async def test_what_nobody_has_heard_is_replaced() -> None:
    agent = Restarting(
        chunk("The capital of"), chunk(restarts=True), chunk("It is "), chunk("Paris.")
    )
    session = make_session(tts=FakeTTS(), tts_text_transforms=None, aec_warmup_duration=None)
    session.output.audio = speaker = Speaker()
    await session.start(agent)
    session.say("one moment please, I have to think about that")
    handle = session.generate_reply(user_input="the capital of France?")
    await handle
    assert messages(session)[-1] == "assistant: It is Paris."
    answer = session.history.messages()[-1]
    assert answer.extra == {"from": "Paris."}, "neither the marker nor what came before it"
    assert speaker._pending_playback_count == 0
    await session.aclose()


async def test_what_was_heard_stays_in_the_history() -> None:
    agent = Restarting(chunk("The capital of "), 5.0, chunk(restarts=True), chunk("It is Paris."))
    session = make_session(tts=FakeTTS(), tts_text_transforms=None, aec_warmup_duration=None)
    session.output.audio = Speaker()
    await session.start(agent)
    await session.generate_reply(user_input="the capital of France?")
    assert messages(session)[-1] == "assistant: The capital of It is Paris."
    await session.aclose()


async def test_calls_of_the_answer_that_failed_are_not_run() -> None:
    agent = Restarting(chunk("", "first"), chunk(restarts=True), chunk("", "second"))
    async with running(agent) as (session, _):
        session.say("one moment")
        await session.generate_reply(user_input="go")
        assert agent.called == ["second"] and results(session) == ["second: "]
