"""What a tool returns or raises, and what the model, the history and the handlers see of it."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from typing import Any

import pytest

from fakes.llm import FakeLLM, Reply, call
from fakes.realtime import FakeRealtimeModel, RealtimeReply
from fakes.session import now, running
from fakes.tools import calls, messages, outputs, results, tool_story
from livekit.agents.beta import EndCallTool
from livekit.agents.llm import (
    FunctionCall,
    StopResponse,
    ToolError,
    ToolFlag,
    ToolResult,
    function_tool,
)
from livekit.agents.llm.async_toolset import AsyncToolset
from livekit.agents.voice import Agent, AgentSession, FunctionToolsExecutedEvent, RunContext
from livekit.agents.voice.run_result import mock_tools


class Returning(Agent):
    """A tool that returns, or raises, what a test wants."""

    def __init__(self, *outcomes: Any) -> None:
        super().__init__(instructions="x")
        self.outcomes = list(outcomes)

    @function_tool
    async def act(self) -> Any:
        """Acts."""
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class Other(Agent):
    def __init__(self) -> None:
        super().__init__(instructions="y")


@pytest.mark.parametrize(
    ("outcome", "output", "is_error", "replies"),
    [
        ("fine", "fine", False, True),
        (3, "3", False, True),
        (None, "", False, False),
        (ToolResult("quiet", reply_required=False), "quiet", False, False),
        (ToolResult(None), "", False, True),
        (object(), "the tool returned an invalid output", True, True),
        (ToolError("sold out"), "sold out", True, True),
        (ValueError("secret"), "An internal error occurred", True, True),
        (StopResponse(), "", False, False),
        (asyncio.CancelledError(), "", False, False),
        ((Other(), Other()), "the tool returned more than one agent", True, True),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str | bool) else None,
)
async def test_every_outcome_has_its_output(
    outcome: Any, output: str, is_error: bool, replies: bool
) -> None:
    llm = FakeLLM([calls("act"), "told"])
    async with running(Returning(outcome), llm) as (session, recorded):
        await session.generate_reply(user_input="go")
        (out,) = outputs(session)
        assert (out.output, out.is_error) == (output, is_error)
        assert messages(session) == ["user: go", *(["assistant: told"] if replies else [])]
        assert len(tool_story(recorded)) == 2 and isinstance(session.current_agent, Returning)


async def test_an_agent_and_a_value_hand_over_after_the_old_agent_has_told_the_value() -> None:
    agent = Returning((Other(), "transferred"))
    llm = FakeLLM([calls("act"), "I put you through"])
    async with running(agent, llm) as (session, _):
        await session.generate_reply(user_input="go")
        await asyncio.sleep(0.1)
        assert isinstance(session.current_agent, Other)
        assert messages(session)[-1] == "assistant: I put you through"
        assert llm.requests[-1].tool_choice == "none"


async def test_two_tools_that_hand_over_in_one_turn_cancel_each_other_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    llm = FakeLLM([calls("act#a", "act#b")], default="hm")
    async with running(Returning(Other(), Other()), llm) as (session, _):
        await session.generate_reply(user_input="go")
        await asyncio.sleep(0.1)
        assert isinstance(session.current_agent, Returning)
        assert sum("handed over" in r.getMessage() for r in caplog.records) == 1


async def test_a_handler_may_cancel_the_handoff_and_the_reply() -> None:
    llm = FakeLLM([calls("act")])
    async with running(Returning((Other(), "transferred")), llm) as (session, _):

        def refuse(event: FunctionToolsExecutedEvent) -> None:
            assert event.has_agent_handoff and event.has_tool_reply
            event.cancel_agent_handoff()
            event.cancel_tool_reply()

        session.on("function_tools_executed", refuse)
        await session.generate_reply(user_input="go")
        await asyncio.sleep(0.1)
        assert isinstance(session.current_agent, Returning) and len(llm.requests) == 1
        assert not outputs(session)[0].reply_required


async def test_calls_run_in_parallel_and_their_outputs_come_as_they_end() -> None:
    class Racers(Agent):
        @function_tool
        async def run(self, seconds: float) -> str:
            """Runs."""
            await asyncio.sleep(seconds)
            return f"{seconds:g} s"

    llm = FakeLLM([calls('run#a {"seconds": 3}', 'run#b {"seconds": 1}'), "told"])
    async with running(Racers(instructions="x"), llm) as (session, recorded):
        began = now()
        await session.generate_reply(user_input="go")
        assert now() - began == pytest.approx(3)
        assert results(session) == ["b: 1 s", "a: 3 s"]
        event = next(e for e in recorded.events if e.type == "function_tools_executed")
        assert [c.call_id for c, o in event.zipped()] == ["b", "a"]
        asked = llm.requests[-1].chat_ctx.items
        assert [i.call_id for i in asked if i.type == "function_call"] == ["b", "a"]
        assert {i.call_id for i in asked if i.type == "function_call_output"} == {"a", "b"}


async def test_a_function_that_blocks_does_not_hold_up_the_session() -> None:
    thread: list[threading.Thread] = []

    @function_tool
    def look_up() -> str:
        """Blocks."""
        thread.append(threading.current_thread())
        time.sleep(0.02)
        return "found"

    llm = FakeLLM([calls("look_up"), "told"])
    async with running(Agent(instructions="x", tools=[look_up]), llm) as (session, _):
        await session.generate_reply(user_input="go")
        assert results(session) == ["c1: found"]
        assert thread[0] is not threading.main_thread() and thread[0].daemon


async def test_calls_that_can_not_start_are_answered_and_do_not_count_as_started() -> None:
    llm = FakeLLM([calls("fly#a", "act#b [1]", 'act#c "x"'), "told"])
    async with running(Returning("never"), llm) as (session, recorded):
        result = session.run(user_input="go")
        await result
        assert results(session) == [
            "a error: Unknown function: fly - available tools: act",
            *results(session)[1:],
        ]
        assert all("Error parsing arguments for `act`" in line for line in results(session)[1:])
        assert tool_story(recorded) == []
        types = [event.type for event in result.events]
        assert "function_call" not in types and types.count("function_call_output") == 3
        stored = [i for i in session.history.items if i.type == "function_call"]
        assert [i.arguments for i in stored if i.name == "act"][-1] == "{}"


async def test_arguments_that_do_not_fit_are_explained_to_the_model() -> None:
    @function_tool
    async def order(count: int) -> str:
        """Orders."""
        return "ordered"

    llm = FakeLLM([calls('order {"count": "many"}'), "sorry"])
    async with running(Agent(instructions="x", tools=[order]), llm) as (session, recorded):
        await session.generate_reply(user_input="go")
        assert "Error parsing arguments for `order`: count" in outputs(session)[0].output
        assert tool_story(recorded)[0] == "c1 started"
        assert tool_story(recorded)[1].startswith("c1 error: Error parsing")


async def test_a_call_id_that_is_still_running_is_refused() -> None:
    @function_tool
    async def wait(ctx: RunContext) -> str:
        """Waits."""
        await ctx.update("waiting")
        await asyncio.sleep(10)
        return "done"

    llm = FakeLLM([calls("wait#c1"), "one", calls("wait#c1"), "two"], default="told")
    async with running(Agent(instructions="x", tools=[wait]), llm) as (session, recorded):
        await session.generate_reply(user_input="go")
        await session.generate_reply(user_input="go")
        assert outputs(session)[-1].output == "An internal error occurred"
        assert tool_story(recorded).count("c1 started") == 1


async def test_tools_are_withheld_after_the_last_allowed_round(
    caplog: pytest.LogCaptureFixture,
) -> None:
    llm = FakeLLM([calls(f"act#c{n}") for n in range(4)], default="enough")
    async with running(Returning(*"abcd"), llm, max_tool_steps=3) as (session, _):
        handle = session.generate_reply(user_input="go", tool_choice="required")
        await handle
        choices = [request.tool_choice for request in llm.requests]
        assert choices == ["required", "auto", "auto", "auto", "none"]
        assert handle.num_steps == 5 and "max_tool_steps" in caplog.text
        assert messages(session)[-1] == "assistant: enough"


async def test_a_reply_that_may_use_no_tools_ignores_calls() -> None:
    llm = FakeLLM([calls("act", text="so be it")])
    async with running(Returning("never"), llm) as (session, recorded):
        await session.generate_reply(user_input="go", tool_choice="none")
        assert outputs(session) == [] and tool_story(recorded) == []
        assert messages(session)[-1] == "assistant: so be it"


async def test_a_reply_asked_for_in_a_tool_uses_no_tools() -> None:
    class Chatty(Agent):
        @function_tool
        async def chat(self) -> None:
            """Chats."""
            self.session.generate_reply(instructions="say something")

    llm = FakeLLM([calls("chat")], default="something")
    async with running(Chatty(instructions="x"), llm) as (session, _):
        await session.generate_reply(user_input="go")
        await asyncio.sleep(1)
        assert llm.requests[-1].tool_choice == "none"


async def test_tools_may_be_hidden_while_the_agent_greets() -> None:
    @function_tool(flags=ToolFlag.IGNORE_ON_ENTER)
    async def hang_up() -> None:
        """Hangs up."""

    @function_tool
    async def look() -> None:
        """Looks."""

    class Greeter(Agent):
        async def on_enter(self) -> None:
            self.session.generate_reply()

    llm = FakeLLM(default="hello")
    async with running(Greeter(instructions="x", tools=[hang_up, look]), llm) as (session, _):
        await session.generate_reply(user_input="hi")
        asked = [[tool.id for tool in request.tools] for request in llm.requests]
        assert asked == [["look"], ["hang_up", "look"]]


async def test_instructions_changed_by_a_tool_count_in_the_reply_to_it() -> None:
    class Learner(Agent):
        @function_tool
        async def learn(self) -> str:
            """Learns."""
            await self.update_instructions("be formal")
            return "learned"

    llm = FakeLLM([calls("learn"), "very well"])
    async with running(Learner(instructions="be casual"), llm) as (session, _):
        await session.generate_reply(user_input="go")
        system = [
            m.text_content for m in llm.requests[-1].chat_ctx.messages() if m.role == "system"
        ]
        assert system == ["be formal"]


async def test_a_mock_may_ask_for_the_context_and_report() -> None:
    class Real(Agent):
        @function_tool
        async def search(self, query: str, limit: int = 5) -> str:
            """Searches."""
            raise AssertionError("not called")

    async def search(ctx: RunContext, limit: int) -> str:
        await ctx.update(f"looking for {limit}")
        return "found"

    llm = FakeLLM([calls('search {"query": "x"}'), "looking"], default="found it")
    async with running(Real(instructions="x"), llm) as (session, recorded):
        with mock_tools(Real, {"search": search}):
            await session.generate_reply(user_input="go")
            await asyncio.sleep(1)
        assert "c1 updated: looking for 5" in tool_story(recorded)
        assert messages(session)[-1] == "assistant: found it"


async def test_a_mock_gets_validated_arguments_of_a_raw_tool_too() -> None:
    @function_tool(raw_schema={"name": "raw", "parameters": {"type": "object"}})
    async def raw(raw_arguments: dict[str, object]) -> str:
        raise AssertionError("not called")

    seen: list[Any] = []
    llm = FakeLLM([Reply(tool_calls=[call("raw", '{"x": 1}', "c1")]), "told"])
    async with running(Agent(instructions="x", tools=[raw]), llm) as (session, _):
        mock_tools(
            Agent, {"raw": lambda raw_arguments: seen.append(raw_arguments)}, session=session
        )
        await session.generate_reply(user_input="go")
        assert seen == [{"x": 1}]


async def test_tools_given_later_may_be_wrapped_in_a_decorator() -> None:
    @function_tool
    async def look() -> str:
        """Looks."""
        return "seen"

    @functools.wraps(look)
    async def logged() -> Any:
        return await look()

    agent = Agent(instructions="x")
    llm = FakeLLM([calls("look"), "told"])
    async with running(agent, llm) as (session, _):
        await agent.update_tools([logged])
        await session.generate_reply(user_input="go")
        assert results(session) == ["c1: seen"]
        with pytest.raises(TypeError, match="Invalid tool type"):
            await agent.update_tools([lambda: None])


async def test_a_realtime_model_gets_an_answer_to_every_call() -> None:
    forbidden = FunctionCall(call_id="c1", name="act", arguments="{}")
    model = FakeRealtimeModel([RealtimeReply("so be it", tool_calls=[forbidden])])
    session: AgentSession[Any] = AgentSession(llm=model, vad=None)
    await session.start(Returning("never"))
    await session.generate_reply(tool_choice="none")
    known = [i for i in model.sessions[-1].chat_ctx.items if i.type == "function_call_output"]
    assert [(o.call_id, o.is_error) for o in known] == [("c1", True)]
    await session.aclose()


class Editing(Agent):
    """Its `llm_node` changes the list of tools that it gets."""

    def __init__(self, change: Any, tools: Any) -> None:
        super().__init__(instructions="x", tools=tools)
        self.change = change

    async def llm_node(self, chat_ctx: Any, tools: Any, model_settings: Any) -> Any:
        self.change(tools)
        async for chunk in Agent.default.llm_node(self, chat_ctx, tools, model_settings):
            yield chunk


@function_tool
async def look() -> str:
    """Looks."""
    return "seen"


@function_tool
async def listen() -> str:
    """Listens."""
    return "heard"


async def test_a_node_may_add_tools_for_the_turn() -> None:
    added: list[str] = []

    def add(tools: list[Any]) -> None:
        if not added:
            tools.append(listen)
            added.append("listen")

    llm = FakeLLM([calls("listen#a"), calls("listen#b"), "told"])
    async with running(Editing(add, [look]), llm) as (session, _):
        await session.generate_reply(user_input="go")
        assert results(session) == ["a: heard", "b: heard"], "in the next steps, too"
        await session.generate_reply(user_input="go")
        assert [tool.id for tool in llm.requests[-1].tools] == ["look"], "for that turn only"


async def test_a_node_may_take_tools_away_also_those_of_a_toolset() -> None:
    senses = AsyncToolset(id="senses", tools=[look, listen])

    def take_away(tools: list[Any]) -> None:
        tools[:] = [tool for tool in tools if tool.id != "look"]

    llm = FakeLLM([calls("look#a", "listen#b"), "told"])
    async with running(Editing(take_away, [senses]), llm) as (session, _):
        await session.generate_reply(user_input="go")
        assert results(session) == [
            "a error: Unknown function: look - available tools: listen",
            "b: heard",
        ]
        assert [tool.id for tool in llm.requests[-1].tools] == ["listen"]


async def test_tools_of_a_toolset_may_be_hidden_while_the_agent_greets() -> None:
    class Greeter(Agent):
        async def on_enter(self) -> None:
            self.session.generate_reply()

    llm = FakeLLM(default="hello")
    agent = Greeter(instructions="x", tools=[EndCallTool(ignore_on_enter=True), look])
    async with running(agent, llm) as (session, _):
        await session.generate_reply(user_input="hi")
        asked = [[tool.id for tool in request.tools] for request in llm.requests]
        assert asked == [["look"], ["end_call", "look"]]
