"""Random tools, interruptions, handoffs and closes: what always holds for the calls."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st

from fakes.llm import FakeLLM
from fakes.session import Recorded, make_session, now
from fakes.speaker import Speaker
from fakes.tools import calls, tool_story
from fakes.tts import FakeTTS
from livekit.agents.llm import StopResponse, ToolError, ToolFlag, function_tool
from livekit.agents.llm.async_toolset import AsyncToolset
from livekit.agents.voice import Agent, AgentTask, RunContext


class Errand(AgentTask[None]):
    def __init__(self) -> None:
        super().__init__(instructions="be quick")

    async def on_enter(self) -> None:
        await self.session.say("one moment")
        self.complete(None)


async def act(ctx: RunContext, script: str) -> Any:
    """Follows a script."""
    for step in script:
        if step == "u":
            await ctx.update("getting on")
        elif step == "s":
            await ctx.update("getting on", silent=True)
        elif step == "f":
            async with ctx.foreground():
                await asyncio.sleep(1)
        elif step == "w":
            async with ctx.with_filler("one moment", delay=0.5, interval=1):
                await asyncio.sleep(2)
        elif step == "i":
            await Errand()
        elif step == "h":
            return Agent(instructions="next")
        elif step == "e":
            raise ToolError("no")
        elif step == "!":
            raise StopResponse
        else:
            await asyncio.sleep(float(step))
    return "done"


plain = function_tool(act, name="plain")
cancellable = function_tool(act, name="cancellable", flags=ToolFlag.CANCELLABLE)
rejecting = function_tool(act, name="rejecting", on_duplicate="reject")
replacing = function_tool(act, name="replacing", on_duplicate="replace", flags=ToolFlag.CANCELLABLE)
shared = function_tool(act, name="shared")
owned = function_tool(act, name="owned")

scripts = st.text("012599usfwi", max_size=4).flatmap(
    lambda body: st.sampled_from(["", "e", "!", "h"]).map(lambda end: body + end)
)
tools = st.sampled_from(["plain", "cancellable", "rejecting", "replacing", "shared", "owned"])
turns = st.lists(
    st.lists(st.tuples(tools, scripts), min_size=1, max_size=3), min_size=1, max_size=3
)
acts = st.lists(
    st.tuples(st.floats(0, 8), st.sampled_from(["interrupt", "handoff", "claim", "nothing"])),
    max_size=3,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(turns, acts, st.floats(0, 12), st.booleans())
async def test_every_call_ends_once_and_history_knows_how(
    turns: list[list[tuple[str, str]]],
    acts: list[tuple[float, str]],
    close_after: float,
    drain: bool,
) -> None:
    replies: list[Any] = []
    number = 0
    for turn in turns:
        specs = []
        for name, script in turn:
            number += 1
            specs.append(f'{name}#c{number} {{"script": "{script}"}}')
        replies.append(calls(*specs, text="let me see"))
    session = make_session(
        FakeLLM(replies, default="well"),
        tts=FakeTTS(),
        aec_warmup_duration=None,
        tools=[AsyncToolset(id="of the session", tools=[shared])],
    )
    session.output.audio = Speaker()
    recorded = Recorded(session)
    own = AsyncToolset(id="of the agent", tools=[owned])
    agent = Agent(instructions="x", tools=[plain, cancellable, rejecting, replacing, own])
    await session.start(agent)
    user = asyncio.create_task(_user(session, len(turns), acts))
    await asyncio.sleep(close_after)
    began = now()
    session.shutdown(drain=drain)
    assert session._closing_task is not None
    await asyncio.wait((session._closing_task,))
    user.cancel()
    await asyncio.gather(user, return_exceptions=True)

    assert drain or now() - began <= 5.5 + 1e-6
    assert len(recorded.closes) == 1
    report = recorded.closes[0].report
    assert report is not None and not report.survivors
    story = tool_story(recorded)
    started = [line.split()[0] for line in story if line.split()[1:] == ["started"]]
    ends = Counter(
        line.split()[0].removesuffix("_final")
        for line in story
        if line.split()[1].rstrip(":") in ("done", "error", "cancelled")
    )
    assert ends == Counter(started), "each call that started has ended once"
    items = session.history.items
    asked = [i.call_id for i in items if i.type == "function_call"]
    answered = [i.call_id for i in items if i.type == "function_call_output"]
    assert Counter(asked) == Counter(answered), "each call has one output"
    assert max(Counter(asked).values(), default=0) <= 1
    for call_id in started:
        assert call_id in answered
    assert not any("running" in i.id for i in items)


async def _user(session: Any, count: int, acts: list[tuple[float, str]]) -> None:
    try:
        for _ in range(count):
            session.generate_reply(user_input="go")
            await asyncio.sleep(0.5)
        for pause, what in acts:
            await asyncio.sleep(pause)
            if what == "interrupt":
                session.interrupt(force=True)
            elif what == "handoff":
                session.update_agent(Agent(instructions="other"))
            elif what == "claim":
                async with session._claim_user_turn():
                    await asyncio.sleep(2)
    except RuntimeError:
        pass  # closing
