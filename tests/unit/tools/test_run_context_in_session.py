"""Fillers, the floor, and what else a tool may ask of the conversation it runs in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fakes.llm import FakeLLM
from fakes.session import Recorded, make_session, now, running
from fakes.speaker import Speaker
from fakes.tools import calls, messages, results, tool_story
from fakes.tts import FakeTTS
from livekit.agents.llm import function_tool
from livekit.agents.voice import Agent, AgentSession, AgentTask, RunContext
from livekit.agents.voice.agent_activity import ActivityClosedError


class Busy(Agent):
    """`work` fills the silence while it takes `seconds`."""

    def __init__(self, source: Any = "still working", **options: Any) -> None:
        super().__init__(instructions="x")
        self.source = source
        self.options = options
        self.seconds = 10.0

    @function_tool
    async def work(self, ctx: RunContext) -> str:
        """Works."""
        async with ctx.with_filler(self.source, **self.options):
            await asyncio.sleep(self.seconds)
        return "worked"

    @function_tool
    async def report(self, ctx: RunContext) -> str:
        """Works, and reports in between."""
        async with ctx.with_filler(self.source, **self.options):
            for step in range(3):
                await asyncio.sleep(2)
                await ctx.update(f"step {step}", silent=True)
            await asyncio.sleep(self.seconds)
        return "worked"


def fillers(session: AgentSession[Any], text: str = "still working") -> int:
    return sum(line == f"assistant: {text}" for line in messages(session))


# -- fillers ----------------------------------------------------------------------------------------


async def test_a_filler_breaks_the_silence_once() -> None:
    llm = FakeLLM([calls("work"), "done"])
    async with running(Busy(delay=2), llm) as (session, _):
        session.generate_reply(user_input="go")
        await asyncio.sleep(1.9)
        assert fillers(session) == 0
        await asyncio.sleep(0.2)
        assert fillers(session) == 1
        await asyncio.sleep(20)
        assert messages(session)[1:] == ["assistant: still working", "assistant: done"]


async def test_fillers_are_repeated_with_pauses_up_to_a_number() -> None:
    steps: list[int] = []

    def source(step: int) -> str | None:
        steps.append(step)
        return None if len(steps) == 2 else f"step {step}"

    llm = FakeLLM([calls("work"), "done"])
    agent = Busy(source, delay=1, interval=1, max_steps=2)
    async with running(agent, llm) as (session, _):
        await session.generate_reply(user_input="go")
        assert steps == [0, 1, 1], "one that says nothing does not count"
        assert messages(session)[1:] == [
            "assistant: step 0",
            "assistant: step 1",
            "assistant: done",
        ]


async def test_a_filler_may_be_a_speech_of_its_own() -> None:
    agent = Busy(None, delay=1, interval=0.5, max_steps=2)
    agent.source = lambda step: agent.session.say(f"speech {step}")
    async with running(agent, FakeLLM([calls("work"), "done"])) as (session, _):
        await session.generate_reply(user_input="go")
        assert messages(session)[1:3] == ["assistant: speech 0", "assistant: speech 1"]


async def test_progress_and_words_start_the_silence_anew() -> None:
    agent = Busy(delay=3)
    async with running(agent, FakeLLM([calls("report")], default="done")) as (session, _):
        session.generate_reply(user_input="go")
        await asyncio.sleep(7)
        session.say("by the way")
        await asyncio.sleep(2.9)
        assert fillers(session) == 0
        await asyncio.sleep(0.2)
        assert fillers(session) == 1


async def test_no_filler_is_said_over_the_user() -> None:
    async with running(Busy(delay=1), FakeLLM([calls("work")], default="done")) as (session, _):
        session.generate_reply(user_input="go")
        async with session._claim_user_turn():
            await asyncio.sleep(5)
            assert fillers(session) == 0
        await asyncio.sleep(1.1)
        assert fillers(session) == 1


async def test_an_interruption_ends_the_fillers() -> None:
    agent = Busy(delay=1, interval=1)
    async with running(agent, FakeLLM([calls("work")], default="done")) as (session, _):
        session.generate_reply(user_input="go")
        await asyncio.sleep(2.5)
        assert fillers(session) == 1
        session.interrupt()
        await asyncio.sleep(30)
        assert fillers(session) == 1


async def test_a_source_that_fails_ends_the_fillers_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def source(step: int) -> str:
        raise ValueError("no idea what to say")

    async with running(Busy(source, interval=1), FakeLLM([calls("work"), "done"])) as (session, _):
        await session.generate_reply(user_input="go")
        assert messages(session)[-1] == "assistant: done"
        assert sum("a filler failed" in r.getMessage() for r in caplog.records) == 1


async def test_negative_times_are_refused() -> None:
    llm = FakeLLM([calls("work")], default="done")
    async with running(Busy(delay=-1), llm) as (session, _):
        await session.generate_reply(user_input="go")
        assert results(session) == ["c1 error: An internal error occurred"]


@pytest.mark.parametrize("moment", [0.5, 1.05, 2.0], ids=["silence", "filler", "pause"])
@pytest.mark.parametrize("drain", [False, True], ids=["forced", "graceful"])
async def test_closing_at_any_moment_of_a_filler(
    moment: float, drain: bool, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Busy(delay=1, interval=1)
    session = make_session(FakeLLM([calls("work"), "done"]), tts=FakeTTS())
    session.output.audio = Speaker()
    recorded = Recorded(session)
    await session.start(agent)
    session.generate_reply(user_input="go")
    await asyncio.sleep(moment)
    began = now()
    session.shutdown(drain=drain)
    assert session._closing_task is not None
    await asyncio.wait((session._closing_task,))
    assert now() - began <= (12 if drain else 5.5)
    assert len(recorded.closes) == 1
    assert not [r for r in caplog.records if "filler" in r.getMessage()]


# -- the floor --------------------------------------------------------------------------------------


class Ask(AgentTask[str]):
    def __init__(self) -> None:
        super().__init__(instructions="ask")

    async def on_enter(self) -> None:
        self.session.say("yes or no?")

    @function_tool
    async def answer(self, ctx: RunContext) -> None:
        """Ends the task."""
        async with ctx.foreground():
            self.complete("yes")


class Host(Agent):
    """Tools that take the floor."""

    def __init__(self) -> None:
        super().__init__(instructions="x")
        self.log: list[str] = []

    @function_tool
    async def take(self, ctx: RunContext, name: str = "a", wait: float = 0) -> str:
        """Takes the floor for 3 s."""
        await ctx.update("soon", silent=True)
        await asyncio.sleep(wait)
        try:
            async with ctx.foreground() as activity:
                assert activity.agent is self
                self.log.append(f"{name} begins at {now() - self.began:g}")
                await asyncio.sleep(3)
                self.log.append(f"{name} ends")
        except ActivityClosedError:
            self.log.append(f"{name} gives up")
        return f"{name} had the floor"

    @function_tool
    async def ask(self, ctx: RunContext) -> str:
        """Asks the user something."""
        async with ctx.foreground():
            return await Ask()

    async def on_enter(self) -> None:
        self.began = now()


async def test_the_floor_belongs_to_one_tool_at_a_time() -> None:
    host = Host()
    llm = FakeLLM([calls("take#a", 'take#b {"name": "b"}')], default="well")
    async with running(host, llm) as (session, _):
        await session.generate_reply(user_input="go")
        await asyncio.sleep(20)
        first, second = ("a", "b") if host.log[0].startswith("a") else ("b", "a")
        assert host.log == [
            f"{first} begins at 0",
            f"{first} ends",
            f"{second} begins at 3",
            f"{second} ends",
        ]


async def test_late_results_wait_until_the_floor_is_free() -> None:
    @function_tool
    async def search(ctx: RunContext) -> str:
        """Searches."""
        await ctx.update("searching", silent=True)
        await asyncio.sleep(1)
        return "found"

    host = Host()
    llm = FakeLLM([calls("take#a", "search#s")], default="found it")
    async with running(host, llm, tools=[search]) as (session, recorded):
        await session.generate_reply(user_input="go")
        await asyncio.sleep(2.9)
        assert "s_final done: found" in tool_story(recorded)
        assert not any(line.startswith("reply") for line in tool_story(recorded))
        await asyncio.sleep(0.2)
        assert "reply to s_final, a_final scheduled" in tool_story(recorded) or (
            "reply to s_final scheduled" in tool_story(recorded)
        )


async def test_the_floor_is_taken_when_the_user_and_the_agent_are_silent() -> None:
    host = Host()
    llm = FakeLLM([calls("take#a")], default="well")
    async with running(host, llm) as (session, _):
        session.generate_reply(user_input="go")
        async with session._claim_user_turn():
            await asyncio.sleep(2)
        await asyncio.sleep(5)
        assert host.log[0] == "a begins at 2"


async def test_an_inline_task_on_the_floor_leaves_the_run_to_the_user() -> None:
    host = Host()
    llm = FakeLLM([calls("ask"), calls("answer#c2"), "thanks"])
    async with running(host, llm) as (session, _):
        first = await session.run(user_input="go")
        assert [e.item.text_content for e in first.events if e.type == "message"] == ["yes or no?"]
        second = session.run(user_input="yes")
        await second
        await asyncio.sleep(0)
        assert results(session)[-1] == "c1: yes" and session.current_agent is host
        assert messages(session)[-1] == "assistant: thanks"


async def test_several_inline_tasks_on_the_floor_take_a_run_each() -> None:
    class Form(Host):
        @function_tool
        async def fill_in(self, ctx: RunContext) -> str:
            """Asks twice."""
            async with ctx.foreground():
                return f"{await Ask()}, {await Ask()}"

    llm = FakeLLM([calls("fill_in"), calls("answer#c2"), calls("answer#c3"), "thanks"])
    async with running(Form(), llm) as (session, _):
        for user in ("go", "yes", "yes"):
            await asyncio.wait_for(session.run(user_input=user), 10)
        assert results(session)[-1] == "c1: yes, yes"
        assert messages(session)[-1] == "assistant: thanks"


async def test_a_run_stays_open_while_its_tool_has_the_floor() -> None:
    class Speaks(Agent):
        @function_tool
        async def tell(self, ctx: RunContext) -> None:
            """Says something later."""
            await ctx.update("later", silent=True)
            async with ctx.foreground():
                await asyncio.sleep(3)
                await self.session.say("here it is")

    async with running(Speaks(instructions="x"), FakeLLM([calls("tell")])) as (session, _):
        result = await session.run(user_input="go")
        assert [e.item.text_content for e in result.events if e.type == "message"] == ["here it is"]


async def test_a_tool_that_waits_for_the_floor_does_not_hold_up_a_handoff() -> None:
    host = Host()
    llm = FakeLLM([calls('take#a {"wait": 1}')], default="well")
    async with running(host, llm) as (session, _):
        await session.generate_reply(user_input="go")
        async with session._claim_user_turn():
            await asyncio.sleep(2)
            session.update_agent(Agent(instructions="y"))
            await asyncio.sleep(1)
            assert session.current_agent is not host and host.log == ["a gives up"]


@pytest.mark.parametrize("moment", [0.5, 1.5, 4.5], ids=["before", "waiting", "holding"])
@pytest.mark.parametrize("drain", [False, True], ids=["forced", "graceful"])
async def test_closing_while_a_tool_wants_or_has_the_floor(moment: float, drain: bool) -> None:
    host = Host()
    session = make_session(FakeLLM([calls('take#a {"wait": 1}')], default="well"))
    recorded = Recorded(session)
    await session.start(host)
    await session.generate_reply(user_input="go")

    async def user_speaks() -> None:
        async with session._claim_user_turn():
            await asyncio.sleep(3)

    user = asyncio.create_task(user_speaks())
    await asyncio.sleep(moment)
    began = now()
    session.shutdown(drain=drain)
    assert session._closing_task is not None
    await asyncio.wait((session._closing_task,))
    assert now() - began <= 5.5 and len(recorded.closes) == 1
    assert host.log[-1] == ("a ends" if moment == 4.5 else "a gives up")
    await user


async def test_closing_while_an_inline_task_has_the_floor() -> None:
    session = make_session(FakeLLM([calls("ask")], default="well"))
    recorded = Recorded(session)
    await session.start(Host())
    session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    assert isinstance(session.current_agent, Ask)
    began = now()
    await session.aclose()
    assert now() - began <= 5.5 and len(recorded.closes) == 1
    assert [line.split(":")[0] for line in results(session)] == ["c1 error"]


# -- the rest ---------------------------------------------------------------------------------------


async def test_a_tool_that_changes_the_world_is_not_interrupted() -> None:
    @function_tool
    async def pay(ctx: RunContext[dict[str, int]]) -> str:
        """Pays."""
        ctx.disallow_interruptions()
        await asyncio.sleep(3)
        ctx.userdata["paid"] = 1
        return "paid"

    agent = Agent(instructions="x", tools=[pay])
    userdata: dict[str, int] = {}
    async with running(agent, FakeLLM([calls("pay"), "paid"]), userdata=userdata) as (session, _):
        handle = session.generate_reply(user_input="pay")
        await asyncio.sleep(1)
        with pytest.raises(RuntimeError, match="does not allow interruptions"):
            handle.interrupt()
        await handle
        assert userdata == {"paid": 1} and messages(session)[-1] == "assistant: paid"


@asynccontextmanager
async def loud(agent: Agent, llm: FakeLLM) -> AsyncIterator[AgentSession[Any]]:
    session = make_session(llm, tts=FakeTTS(), aec_warmup_duration=None)
    session.output.audio = Speaker()
    await session.start(agent)
    try:
        yield session
    finally:
        await session.aclose()


async def test_a_tool_can_wait_for_the_words_before_it() -> None:
    heard: list[str] = []

    @function_tool
    async def listen(ctx: RunContext) -> str:
        """Waits."""
        await ctx.wait_for_playout()
        heard.extend(messages(ctx.session)[-1:])
        return "ok"

    agent = Agent(instructions="x", tools=[listen])
    async with loud(agent, FakeLLM([calls("listen", text="one moment"), "so"])) as session:
        await session.generate_reply(user_input="go")
        assert heard == ["assistant: one moment"]
