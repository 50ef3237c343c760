"""A session's life: start, conversation, handoff, inline tasks, restart."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fakes.llm import FakeLLM, Reply
from fakes.session import Recorded, make_session, now, running
from livekit.agents.llm import FunctionToolCall, ToolError, function_tool
from livekit.agents.voice import Agent, AgentSession, AgentTask, RunContext


def call(name: str, arguments: str = "{}", call_id: str = "c1") -> Reply:
    """A reply that only calls a tool."""
    return Reply(tool_calls=[FunctionToolCall(name=name, arguments=arguments, call_id=call_id)])


async def test_start_announces_the_agent_before_it_listens() -> None:
    entered: list[str] = []

    class Greeter(Agent):
        async def on_enter(self) -> None:
            entered.append(self.session.agent_state)

    session = make_session()
    recorded = Recorded(session)
    await session.start(Greeter(instructions="greet"))
    assert recorded.story == ["handoff None → greeter", "agent → listening"]
    assert session.current_agent.id == "greeter"
    assert entered == ["initializing"]  # it enters before the state says that it listens
    assert await session.start(Greeter(instructions="ignored")) is None
    await asyncio.sleep(0)
    assert len(entered) == 1
    await session.aclose()


async def test_a_text_turn_reads_like_a_conversation() -> None:
    async with running(llm=FakeLLM(by_text={"hi": "hello there"})) as (session, recorded):
        handle = await session.generate_reply(user_input="hi")
        assert recorded.story[2:] == [
            "speech_created",
            "user: hi",
            "agent → thinking",
            "agent → speaking",
            "assistant: hello there",
            "agent → listening",
        ]
        assert [item.text_content for item in handle.chat_items] == ["hello there"]
        with pytest.raises(TypeError, match="text or a ChatMessage, got int"):
            session.generate_reply(user_input=5)
        assert [m.role for m in session.history.messages()] == ["user", "assistant"]


async def test_say_speaks_a_stream_of_text() -> None:
    async def words() -> Any:
        for word in ("good ", "bye"):
            yield word

    async with running() as (session, _):
        await session.say(words())
        assert session.history.messages()[-1].text_content == "good bye"
        await session.say("forget this", add_to_chat_ctx=False)
        assert session.history.messages()[-1].text_content == "good bye"


async def test_a_tool_result_is_told_in_a_second_step() -> None:
    class Helper(Agent):
        @function_tool
        async def weather(self, city: str) -> str:
            """The weather."""
            return f"sun in {city}"

    llm = FakeLLM([call("weather", '{"city": "Rome"}'), "it is sunny"])
    async with running(Helper(instructions="help"), llm) as (session, recorded):
        handle = await session.generate_reply(user_input="weather?")
        assert handle.num_steps == 2
        assert recorded.story[2:] == [
            "speech_created",
            "user: weather?",
            "agent → thinking",
            "tool_call_started",
            "tool_call_ended",
            "function_tools_executed",
            "agent → speaking",
            "assistant: it is sunny",
            "agent → listening",
        ]
        kinds = [item.type for item in session.history.items][2:]
        assert kinds == ["message", "function_call", "function_call_output", "message"]


async def test_a_tool_hands_over_by_returning_an_agent() -> None:
    class Sales(Agent):
        async def on_enter(self) -> None:
            self.session.say("sales here")

    class Desk(Agent):
        async def on_exit(self) -> None:
            exits.append("desk")

        @function_tool
        async def to_sales(self) -> Any:
            """Hand over."""
            return Sales(instructions="sell"), "one moment"

    exits: list[str] = []
    llm = FakeLLM([call("to_sales"), "I connect you"])
    async with running(Desk(instructions="desk"), llm) as (session, recorded):
        await session.generate_reply(user_input="sales please")
        await asyncio.sleep(1)
        assert exits == ["desk"]
        assert session.current_agent.id == "sales"
        story = recorded.story
        assert story.index("assistant: I connect you") < story.index("handoff desk → sales")
        assert story.index("handoff desk → sales") < story.index("assistant: sales here")
        assert llm.requests[1].tool_choice == "none"


async def test_update_agent_lets_the_old_one_finish() -> None:
    async with running(llm=FakeLLM(default=Reply("still talking", delay=2))) as (session, _):
        handle = session.generate_reply(user_input="hi")
        await asyncio.sleep(0)
        new = Agent(instructions="new")
        session.update_agent(new)
        assert session.current_agent is new
        await handle
        assert handle.exception() is None and not handle.interrupted
        await asyncio.sleep(1)
        assert session._activity is not None and session._activity.agent is new


async def test_a_failed_handoff_does_not_poison_the_next() -> None:
    other = make_session()
    taken = Agent(instructions="taken")
    await other.start(taken)
    async with running() as (session, recorded):
        first = session.current_agent
        session.update_agent(taken)
        await asyncio.sleep(1)
        assert session.current_agent is first
        assert "error" in recorded.story
        free = Agent(instructions="free")
        session.update_agent(free)
        await asyncio.sleep(1)
        assert session.current_agent is free and free._activity is not None
    await other.aclose()


class AskName(AgentTask[str]):
    def __init__(self) -> None:
        super().__init__(instructions="ask for the name")

    async def on_enter(self) -> None:
        self.session.say("your name?")

    @function_tool
    async def got_name(self, name: str) -> None:
        """The name."""
        self.complete(name)


class Booker(Agent):
    def __init__(self) -> None:
        super().__init__(instructions="book")
        self.results: list[str] = []

    @function_tool
    async def book(self) -> str:
        """Book."""
        name = await AskName()
        self.results.append(name)
        return f"booked for {name}"


async def test_an_inline_task_takes_the_floor_and_gives_it_back() -> None:
    llm = FakeLLM([call("book"), call("got_name", '{"name": "Ada"}', "c2"), "all done"])
    agent = Booker()
    async with running(agent, llm) as (session, recorded):
        handle = session.generate_reply(user_input="book")
        await asyncio.sleep(1)
        assert session.current_agent.id == "ask_name"
        assert not handle.allow_interruptions
        await session.generate_reply(user_input="Ada")
        await handle
        assert agent.results == ["Ada"]
        assert session.current_agent is agent
        story = [line for line in recorded.story if "handoff" in line]
        assert story == [
            "handoff None → booker",
            "handoff booker → ask_name",
            "handoff ask_name → booker",
        ]
        assert session.history.messages()[-1].text_content == "all done"


async def test_an_inline_task_is_refused_elsewhere_and_twice() -> None:
    task = AskName()
    with pytest.raises(RuntimeError, match="should only be awaited inside"):
        await task
    task.complete("x")
    with pytest.raises(RuntimeError, match="is already done"):
        task.complete("y")

    errors: list[str] = []

    class Once(Agent):
        async def on_enter(self) -> None:
            inner = Quick()
            assert await inner == "quick"
            try:
                await inner
            except RuntimeError as error:
                errors.append(str(error))

    class Quick(AgentTask[str]):
        def __init__(self) -> None:
            super().__init__(instructions="quick")

        async def on_enter(self) -> None:
            self.complete("quick")

    async with running(Once(instructions="once")):
        await asyncio.sleep(1)
    assert errors == ["Quick is not re-entrant, await only once"]


async def test_a_failing_on_enter_of_an_inline_task_reaches_the_one_who_awaits() -> None:
    class Broken(AgentTask[str]):
        def __init__(self) -> None:
            super().__init__(instructions="broken")

        async def on_enter(self) -> None:
            raise ValueError("no questions today")

    caught: list[str] = []

    class Parent(Agent):
        async def on_enter(self) -> None:
            try:
                await Broken()
            except ValueError as error:
                caught.append(str(error))

    parent = Parent(instructions="parent")
    async with running(parent) as (session, _):
        await asyncio.sleep(1)
        assert caught == ["no questions today"]
        assert session.current_agent is parent
        await session.say("and on we go")


async def test_the_await_of_an_inline_task_can_be_cancelled() -> None:
    class Parent(Agent):
        async def on_enter(self) -> None:
            task = AskName()
            me = asyncio.current_task()
            assert me is not None
            asyncio.get_running_loop().call_later(2.0, me.cancel)
            try:
                await task
            except asyncio.CancelledError:
                done.append(task.done())
                raise

    done: list[bool] = []
    parent = Parent(instructions="parent")
    async with running(parent) as (session, _):
        await asyncio.sleep(5)
        assert done == [True]
        assert session.current_agent is parent


async def test_a_session_can_be_started_again_and_keeps_its_history() -> None:
    session = make_session(FakeLLM(default="hello"))
    recorded = Recorded(session)
    for life in range(3):
        await session.start(Agent(instructions="again"))
        await session.generate_reply(user_input=f"hi {life}")
        await session.aclose()
        assert session.agent_state == "initializing"
        with pytest.raises(RuntimeError, match="AgentSession isn't running"):
            session.say("too late")
    assert len(recorded.closes) == 3
    assert len(session.history.messages()) == 6


async def test_start_during_a_close_waits_for_it() -> None:
    session = make_session()
    await session.start(Agent(instructions="one"))
    session.shutdown(drain=False)
    await session.start(Agent(instructions="two"))
    assert session.agent_state == "listening"
    await session.aclose()


async def test_a_start_that_fails_cleans_up_and_can_be_repeated() -> None:
    class Unlucky(Agent):
        def __init__(self) -> None:
            super().__init__(instructions="x")
            self.tries = 0

        @property
        def tools(self) -> Any:
            return []

    agent = Unlucky()
    session = make_session()
    recorded = Recorded(session)
    agent._turn_handling["endpointing"] = {"min_delay": 5.0, "max_delay": 1.0}
    with pytest.raises(ValueError, match="min_delay <= max_delay"):
        await session.start(agent)
    assert agent._activity is None
    assert recorded.closes == []
    agent._turn_handling["endpointing"] = {}
    await session.start(agent)
    await session.aclose()
    assert len(recorded.closes) == 1


async def test_a_cancelled_start_leaves_nothing_behind() -> None:
    from livekit.agents.llm import Toolset

    class SlowTools(Toolset):
        closed = 0

        async def setup(self) -> Any:
            await asyncio.sleep(3600)

        async def aclose(self) -> None:
            SlowTools.closed += 1

    session = make_session(tools=[SlowTools(id="slow")])
    start = asyncio.ensure_future(session.start(Agent(instructions="x")))
    await asyncio.sleep(1)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert SlowTools.closed == 1
    assert not session._started


async def test_the_user_counts_as_away_when_both_sides_stay_silent() -> None:
    async with running(user_away_timeout=15.0) as (session, recorded):
        await asyncio.sleep(14)
        assert session.user_state == "listening"
        await session.say("still there?")
        await asyncio.sleep(16)
        assert session.user_state == "away"
        session.reset_away_timer()
        assert session.user_state == "listening"
        assert "user → away" in recorded.story


async def test_wait_for_idle_waits_for_speech_and_claims() -> None:
    async with running(llm=FakeLLM(default=Reply("hm", delay=3))) as (session, _):
        session.generate_reply(user_input="hi")
        began = now()
        assert await session.wait_for_idle() is session._activity
        assert now() - began == pytest.approx(3.0)
        async with session._claim_user_turn():
            idle = asyncio.ensure_future(session.wait_for_idle())
            await asyncio.sleep(1)
            assert not idle.done() and session.user_state == "speaking"
        await idle
        assert session.user_state == "listening"


async def test_a_handler_that_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as (session, recorded):

        def broken(ev: Any) -> None:
            raise TypeError("wrong handler")

        session.on("conversation_item_added", broken)
        await session.generate_reply(user_input="hi")
        assert "assistant: hello" in recorded.story
    assert "a handler of the event" in caplog.text


async def test_unrecoverable_errors_close_the_session_after_the_fourth() -> None:
    from livekit.agents import APIConnectionError, APIConnectOptions
    from livekit.agents.voice.agent_session import SessionConnectOptions

    llm = FakeLLM(default=APIConnectionError("down"))
    options = SessionConnectOptions(llm_conn_options=APIConnectOptions(max_retry=0))
    session = make_session(llm, conn_options=options)
    recorded = Recorded(session)
    await session.start(Agent(instructions="x"))
    for failure in range(4):
        handle = session.generate_reply(user_input="hi")
        await handle
        assert isinstance(handle.exception(), APIConnectionError)
        assert session._is_closing == (failure == 3)
    await session.aclose()
    assert recorded.closes[0].reason.value == "error"
    assert recorded.closes[0].error is not None


async def test_late_calls_name_the_state() -> None:
    session: AgentSession[Any] = make_session()
    for late in (
        lambda: session.say("x"),
        lambda: session.generate_reply(),
        lambda: session.interrupt(),
        lambda: session.commit_user_turn(),
        lambda: session.clear_user_turn(),
    ):
        with pytest.raises(RuntimeError, match="AgentSession isn't running"):
            late()
    with pytest.raises(RuntimeError, match="no active AgentActivity"):
        await session.wait_for_idle()
    with pytest.raises(RuntimeError, match="VoiceAgent isn't running"):
        _ = session.current_agent
    with pytest.raises(RuntimeError, match="Cannot access room_io"):
        _ = session.room_io
    with pytest.raises(ValueError, match="userdata is not set"):
        _ = session.userdata
    await session.aclose()
    session.shutdown()


async def test_a_tool_gets_its_context_and_can_outlive_its_turn() -> None:
    class Slow(Agent):
        @function_tool
        async def search(self, ctx: RunContext[Any]) -> str:
            """Search."""
            await ctx.update("searching the archive")
            await asyncio.sleep(30)
            return "found it"

    llm = FakeLLM([call("search"), "I am searching", "I found it"])
    async with running(Slow(instructions="x"), llm) as (session, recorded):
        await session.generate_reply(user_input="search")
        assert session.history.messages()[-1].text_content == "I am searching"
        await asyncio.sleep(40)
        assert session.history.messages()[-1].text_content == "I found it"
        outputs = [i.output for i in session.history.items if i.type == "function_call_output"]
        assert outputs[-1] == "found it" and "searching the archive" in outputs[0]
        assert "tool_reply_updated" in recorded.story


async def test_a_tool_error_is_told_and_other_errors_are_hidden() -> None:
    class Failing(Agent):
        @function_tool
        async def known(self) -> str:
            """Fails knowingly."""
            raise ToolError("the kitchen is closed")

        @function_tool
        async def unknown(self) -> str:
            """Fails."""
            raise ValueError("secret")

    llm = FakeLLM([call("known"), call("unknown", call_id="c2"), "sorry"])
    async with running(Failing(instructions="x"), llm) as (session, _):
        await session.generate_reply(user_input="order")
        outputs = [i for i in session.history.items if i.type == "function_call_output"]
        assert [o.output for o in outputs] == [
            "the kitchen is closed",
            "An internal error occurred",
        ]
        assert all(o.is_error for o in outputs)


async def test_a_claim_of_a_former_run_ends_without_touching_the_next_one() -> None:
    async with running() as (session, _):
        former = session._claim_user_turn()
        await former.__aenter__()
        await session.aclose()
        await session.start(Agent(instructions="be brief"))
        async with session._claim_user_turn():
            await former.__aexit__(None, None, None)
            assert session.user_state == "speaking"
        assert session.user_state == "listening"
