"""Runs and their assertions: the API for testing agents."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.llm import FakeLLM, Reply
from fakes.session import make_session, running
from livekit.agents.llm import FunctionToolCall, ToolError, function_tool
from livekit.agents.voice import Agent, AgentTask
from livekit.agents.voice.run_result import UnexpectedModelBehavior, mock_tools


def call(name: str, arguments: str = "{}", call_id: str = "c1") -> Reply:
    return Reply(tool_calls=[FunctionToolCall(name=name, arguments=arguments, call_id=call_id)])


class Waiter(Agent):
    def __init__(self) -> None:
        super().__init__(instructions="serve")

    @function_tool
    async def order(self, dish: str) -> str:
        """Order a dish."""
        return f"{dish} ordered"


async def test_a_run_collects_what_happened_in_order() -> None:
    llm = FakeLLM([call("order", '{"dish": "soup"}'), "your soup is coming"])
    async with running(Waiter(), llm) as (session, _):
        result = await session.run(user_input="soup please")
        result.expect.next_event().is_function_call(name="order", arguments={"dish": "soup"})
        result.expect.next_event(type="function_call_output")
        result.expect.next_event().is_message(role="assistant")
        result.expect.no_more_events()
        result.expect.contains_function_call_output(output="soup ordered", is_error=False)
        assert result.expect[-1].event().item.text_content == "your soup is coming"
        assert result.expect[0:1].contains_function_call(name="order")


async def test_assertions_show_the_events_and_where_they_failed() -> None:
    async with running(llm=FakeLLM(default="hello")) as (session, _):
        result = await session.run(user_input="hi")
        with pytest.raises(AssertionError, match=r">>> \[0\] message from assistant: 'hello'"):
            result.expect[0].is_function_call()
        assert result.expect.skip_next_event_if(type="function_call") is None
        assert result.expect.skip_next_event_if(type="message", role="assistant") is not None
        with pytest.raises(AssertionError, match="there is none"):
            result.expect.next_event()
        with pytest.raises(AssertionError, match="can't skip 1"):
            result.expect.skip_next()
        with pytest.raises(AssertionError, match="no event here satisfies"):
            result.expect.contains_agent_handoff()
        with pytest.raises(TypeError, match="int or slice"):
            result.expect["0"]  # type: ignore[call-overload]


async def test_only_one_run_at_a_time() -> None:
    async with running(llm=FakeLLM(default=Reply("slow", delay=5))) as (session, _):
        first = session.run(user_input="one")
        with pytest.raises(RuntimeError, match="nested runs are not supported"):
            session.run(user_input="two")
        await first
        await session.run(user_input="three")


async def test_a_run_that_can_not_start_does_not_block_later_ones() -> None:
    async with running(llm=FakeLLM(default="ok")) as (session, _):
        model, session._llm = session._llm, None
        with pytest.raises(RuntimeError, match="without an LLM"):
            session.run(user_input="hi")
        session._llm = model
        await session.run(user_input="hi")


async def test_a_failing_model_fails_the_run() -> None:
    async with running(llm=FakeLLM(default=ValueError("no words"))) as (session, _):
        with pytest.raises(ValueError, match="no words"):
            await session.run(user_input="hi")


async def test_start_can_capture_what_on_enter_does() -> None:
    class Greeter(Agent):
        async def on_enter(self) -> None:
            self.session.say("welcome")

    session = make_session()
    result = await session.start(Greeter(instructions="greet"), capture_run=True)
    assert result is not None
    result.expect.next_event().is_agent_handoff(new_agent_type=Greeter)
    result.expect.next_event().is_message(role="assistant")
    await session.aclose()


class Ask(AgentTask[int]):
    def __init__(self) -> None:
        super().__init__(instructions="ask")

    async def on_enter(self) -> None:
        await self.session.say("how many?")

    @function_tool
    async def answer(self, number: int) -> None:
        """The number."""
        self.complete(number)


class Asker(Agent):
    @function_tool
    async def ask(self) -> str:
        """Ask."""
        return f"got {await Ask()}"


async def test_a_run_ends_while_an_inline_task_waits_for_the_user() -> None:
    llm = FakeLLM([call("ask"), call("answer", '{"number": 3}', "c2"), "three it is"])
    async with running(Asker(instructions="x"), llm) as (session, _):
        first = await session.run(user_input="go")
        first.expect.contains_agent_handoff(new_agent_type=Ask)
        first.expect.contains_message(role="assistant")
        second = await session.run(user_input="three", output_type=int)
        assert second.final_output == 3
        assert [event.type for event in second.events] == [
            "function_call",  # the answer; the question belongs to the first run
            "function_call_output",
            "agent_handoff",
            "function_call_output",
            "message",
        ]
        second.expect.contains_function_call_output(output="got 3")


class AskWithNaturalNames(AgentTask[int]):
    """Its tools are called as the task's own methods are."""

    def __init__(self) -> None:
        super().__init__(instructions="ask")

    async def on_enter(self) -> None:
        await self.session.say("how many?")

    @function_tool
    async def done(self, number: int) -> None:  # type: ignore[override]
        """The user is done."""
        self.complete(number)

    @function_tool
    async def cancel(self, reason: str) -> None:  # type: ignore[override]
        """The user gives up."""


async def test_a_task_may_have_tools_named_like_its_own_methods() -> None:
    class Asker(Agent):
        @function_tool
        async def ask(self) -> str:
            """Ask."""
            return f"got {await AskWithNaturalNames()}"

    llm = FakeLLM([call("ask"), call("done", '{"number": 3}', "c2"), "three it is", call("ask")])
    async with running(Asker(instructions="x"), llm) as (session, _):
        await session.run(user_input="go")
        second = await session.run(user_input="three")
        second.expect.contains_function_call_output(output="got 3")
        await session.run(user_input="go again")  # and then it hangs up, with the task open
    assert not session._handoffs.stack


async def test_a_run_without_the_wanted_output_says_so() -> None:
    async with running(llm=FakeLLM(default="no idea")) as (session, _):
        with pytest.raises(UnexpectedModelBehavior, match="expected an output of type int"):
            await session.run(user_input="a number", output_type=int)
        assert len(session.history.messages()) == 4, "asked twice more"


async def test_tools_can_be_mocked_for_a_context_and_for_a_session() -> None:
    def sold_out() -> str:
        raise ToolError("sold out")

    llm = FakeLLM(
        [call("order", '{"dish": "soup"}'), "a", call("order", '{"dish": "pie"}', "c2"), "b"]
    )
    async with running(Waiter(), llm) as (session, _):
        with mock_tools(Waiter, {"order": lambda dish: f"mocked {dish}"}):
            result = await session.run(user_input="soup")
        result.expect.contains_function_call_output(output="mocked soup")
        mock_tools(Waiter, {"order": sold_out}, session=session)
        result = await session.run(user_input="pie")
        result.expect.contains_function_call_output(output="sold out", is_error=True)


async def test_a_message_can_be_judged() -> None:
    judge = FakeLLM([call("verdict", '{"success": true, "reason": "it greets"}')])
    strict = FakeLLM([call("verdict", '{"success": false, "reason": "too curt"}')])
    async with running(llm=FakeLLM(default="hello")) as (session, _):
        result = await session.run(user_input="hi")
        message: Any = result.expect.next_event(type="message")
        await message.judge(judge, intent="greets the user")
        with pytest.raises(AssertionError, match="too curt"):
            await message.judge(strict, intent="greets warmly")
        with pytest.raises(AssertionError, match="say in `intent`"):
            await message.judge(judge, intent="")


async def test_closing_while_an_inline_task_waits_fails_the_run_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    llm = FakeLLM([call("ask"), "never", "never"])
    async with running(Asker(instructions="x"), llm) as (session, recorded):
        await session.run(user_input="go")
        second = session.run(user_input="well?")
        await session.aclose()
        with pytest.raises(RuntimeError, match="session closed"):
            await second
    assert len(recorded.closes) == 1
    assert not [r for r in caplog.records if r.levelname == "ERROR"]
