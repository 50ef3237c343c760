"""Tools of a realtime model: their results, the replies to them, and what an interruption leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fakes.hearing import settle
from fakes.realtime import RealtimeReply
from fakes.realtime_call import calls, outputs_of, realtime_call
from fakes.session import now
from livekit.agents.llm import RealtimeError, ToolFlag, function_tool
from livekit.agents.voice import Agent, AgentTask, RunContext


class Looking(Agent):
    """Can look, at once or for three seconds."""

    def __init__(self, **options: Any) -> None:
        super().__init__(instructions="x", **options)

    @function_tool
    async def look(self) -> str:
        """Looks."""
        return "rain"

    @function_tool
    async def stare(self) -> str:
        """Looks for long."""
        await asyncio.sleep(3.0)
        return "fog"

    @function_tool(flags=ToolFlag.IGNORE_ON_ENTER)
    async def hidden(self) -> None:
        """Not at first."""


async def test_the_model_gets_the_results_and_comments_on_them() -> None:
    asks = RealtimeReply("let me look", audio=1.0, tool_calls=[calls("look")])
    async with realtime_call(asks, "it rains", agent=Looking()) as call:
        handle = call.session.generate_reply()
        await handle
        assert call.said == ["assistant: let me look", "assistant: it rains"]
        assert outputs_of(call.server.chat_ctx.items) == call.outputs == ["rain"]
        assert handle.num_steps == 2 and len(call.server.requests) == 2
        kinds = [item.type for item in handle.chat_items]
        assert sorted(kinds) == ["function_call", "function_call_output", "message", "message"]
        assert call.story.count("function_tools_executed") == 1
        assert call.session.agent_state == "listening"


@pytest.mark.parametrize("per_response", [True, False])
async def test_a_reply_to_tools_need_not_call_one_again(per_response: bool) -> None:
    asks = RealtimeReply("let me look", audio=1.0, tool_calls=[calls("look")])
    capabilities = {"per_response_tool_choice": per_response}
    async with realtime_call(
        asks, RealtimeReply("rain", delay=1.0), agent=Looking(), capabilities=capabilities
    ) as call:
        call.session._activity.update_options(tool_choice="required")
        reply = call.session.generate_reply()
        await asyncio.sleep(1.5)  # the model has been asked to comment on it
        if per_response:
            assert call.server.requests[-1].tool_choice == "auto"
        else:
            assert call.server.tool_choice == "auto"
        await reply
        assert per_response or call.server.tool_choice == "required"


async def test_a_slow_tool_shows_as_thinking_and_leaves_the_floor_to_others() -> None:
    asks = RealtimeReply("hold on", audio=1.0, tool_calls=[calls("stare")])
    async with realtime_call(asks, "meanwhile", "there is fog", agent=Looking()) as call:
        call.session.generate_reply()
        await asyncio.sleep(1.5)
        assert call.session.agent_state == "thinking"
        await call.session.generate_reply()
        assert call.said == ["assistant: hold on", "assistant: meanwhile"]
        await asyncio.sleep(3.0)
        assert call.said[-1] == "assistant: there is fog"


async def test_the_reply_to_a_tool_waits_until_nobody_else_speaks() -> None:
    asks = RealtimeReply(tool_calls=[calls("look")])
    async with realtime_call(
        asks, RealtimeReply("an announcement", audio=5.0), "it rains", agent=Looking()
    ) as call:
        first = call.session.generate_reply()
        call.session.generate_reply()
        await first
        assert call.said == ["assistant: an announcement", "assistant: it rains"]


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_model_that_comments_by_itself_is_not_asked(recorded: bool) -> None:
    asks = RealtimeReply(tool_calls=[calls("look")])
    async with realtime_call(
        asks, "it rains", agent=Looking(), capabilities={"auto_tool_reply_generation": True}
    ) as call:
        if recorded:
            result = await call.session.run(user_input="look")
            texts = [e.item.text_content for e in result.events if e.type == "message"]
            assert texts == ["it rains"]
        else:
            await call.session.generate_reply()
            await asyncio.sleep(2.0)
        assert call.said[-1] == "assistant: it rains" and len(call.server.requests) == 1


async def test_a_run_does_not_wait_for_ever_for_a_comment_that_does_not_come() -> None:
    asks = RealtimeReply(tool_calls=[calls("look")])
    async with realtime_call(
        asks, agent=Looking(), capabilities={"auto_tool_reply_generation": True}
    ) as call:
        began = now()
        await call.session.run(user_input="look")
        assert now() - began == pytest.approx(5.0, abs=0.2) and call.outputs == ["rain"]


async def test_only_so_many_rounds_of_tools(caplog: pytest.LogCaptureFixture) -> None:
    rounds = [RealtimeReply(tool_calls=[calls("look", f"c{i}")]) for i in range(9)]
    async with realtime_call(*rounds, agent=Looking(), max_tool_steps=2) as call:
        handle = call.session.generate_reply()
        await handle
        await settle()
        assert handle.num_steps == 4
        # the last call was not to be made, and is answered all the same: the model waits for it
        assert call.outputs[:3] == ["rain", "rain", "rain"] and "no tools" in call.outputs[3]
        assert len(outputs_of(call.server.chat_ctx.items)) == 4
        assert "max_tool_steps" in caplog.text


async def test_an_unknown_tool_is_answered_with_an_error() -> None:
    asks = RealtimeReply(tool_calls=[calls("dance")])
    async with realtime_call(asks, "I can not dance", agent=Looking()) as call:
        await call.session.generate_reply()
        assert "Unknown function: dance" in outputs_of(call.server.chat_ctx.items)[0]
        assert call.said == ["assistant: I can not dance"]


async def test_an_interruption_gives_the_model_its_results_without_a_reply() -> None:
    asks = RealtimeReply("let me look", audio=6.0, tool_calls=[calls("stare")])
    async with realtime_call(asks, "never", agent=Looking()) as call:
        handle = call.session.generate_reply()
        await asyncio.sleep(1.0)
        call.session.interrupt()
        await handle
        await settle()
        (output,) = [i for i in call.server.chat_ctx.items if i.type == "function_call_output"]
        assert output.output == "fog" and not output.reply_required
        assert call.outputs == ["fog"] and len(call.server.requests) == 1


async def test_calls_that_an_interruption_kept_from_starting_are_answered_too() -> None:
    async with realtime_call(agent=Looking()) as call:
        call.server.hear_start()  # nothing may play yet
        generation = call.server.begin()
        generation.call(calls("look"))
        await settle()
        call.session.interrupt()
        await settle()
        assert "user interrupted" in outputs_of(call.server.chat_ctx.items)[0]
        assert call.server.interruptions >= 1


async def test_results_that_are_not_acknowledged_hold_up_neither_reply_nor_next_turn() -> None:
    asks = RealtimeReply(tool_calls=[calls("look")])
    async with realtime_call(asks, "it rains", agent=Looking()) as call:
        call.server.update_error = RealtimeError("not acknowledged")
        handle = call.session.generate_reply()
        await handle
        assert handle.exception() is None and call.said == ["assistant: it rains"]


async def test_tools_hidden_at_the_start_are_not_given_to_the_model_then() -> None:
    class Greeting(Looking):
        async def on_enter(self) -> None:
            self.session.generate_reply()

    async with realtime_call(
        "hello", agent=Greeting(), capabilities={"per_response_tool_choice": True}
    ) as call:
        await asyncio.sleep(2.0)
        (request,) = call.server.requests
        assert sorted(tool.id for tool in request.tools) == ["look", "stare"]  # type: ignore[union-attr]


# -- handoffs --------------------------------------------------------------------------------------


class Handing(Agent):
    def __init__(self, to: Agent, **options: Any) -> None:
        super().__init__(instructions="first", **options)
        self.to = to

    @function_tool
    async def transfer(self) -> Agent:
        """Hands over."""
        return self.to


class Second(Agent):
    async def on_enter(self) -> None:
        self.session.generate_reply()


async def test_a_tool_hands_over_and_the_session_with_the_model_goes_on() -> None:
    asks = RealtimeReply(tool_calls=[calls("transfer")])
    second = Second(instructions="second")
    async with realtime_call(asks, "I am the second", agent=Handing(second)) as call:
        await call.session.run(user_input="transfer me")
        assert call.session.current_agent is second
        assert len(call.model.sessions) == 1 and call.server.instructions == "second"  # type: ignore[attr-defined]
        assert call.said[-1] == "assistant: I am the second"
        call.server.transcribe("thanks", "u1")
        call.server.answer("you are welcome")
        await asyncio.sleep(2.0)
        heard = [e for e in call.recorded.events if e.type == "user_input_transcribed"]
        assert len(heard) == 1  # the first agent listens no more
        assert call.said[-2:] == ["user: thanks", "assistant: you are welcome"]


async def test_what_the_user_says_between_two_agents_is_kept() -> None:
    first, second = Looking(), Agent(instructions="second")
    async with realtime_call(agent=first) as call:
        session, link = call.session, call.session._activity.realtime  # type: ignore[union-attr]
        release = asyncio.Event()
        close = first._activity.aclose  # type: ignore[union-attr]

        async def slowly() -> None:
            await release.wait()  # a tool that takes its time
            await close()

        first._activity.aclose = slowly  # type: ignore[union-attr, method-assign]
        session.update_agent(second)
        await settle()
        assert first._activity.realtime is None  # type: ignore[union-attr]
        call.server.transcribe("are you there", "u1")
        call.server.fail(RealtimeError("hiccup"), recoverable=True)
        call.server.begin()
        assert call.said == []
        release.set()
        await asyncio.sleep(1.0)
        assert session._activity.realtime is link  # type: ignore[union-attr]
        assert call.said == ["user: are you there"]
        assert [m.text_content for m in second.chat_ctx.messages()] == ["are you there"]
        assert call.story.count("error") == 1 and "speech_created" not in call.story


async def test_a_model_that_cannot_change_gets_a_new_session_and_the_old_one_is_closed() -> None:
    second = Second(instructions="second")
    async with realtime_call(
        "I am the second",
        agent=Agent(instructions="first"),
        capabilities={"mutable_instructions": False},
    ) as call:
        old = call.server
        call.session.update_agent(second)
        await asyncio.sleep(2.0)
        assert old.closed and call.server is not old and not call.server.closed
        assert call.server.instructions == "second" and old.instructions == "first"
        assert call.said == ["assistant: I am the second"]


@pytest.mark.parametrize("mutable", [True, False])
async def test_an_inline_task_has_the_model_and_gives_it_back(mutable: bool) -> None:
    class Asking(AgentTask[str]):
        def __init__(self) -> None:
            super().__init__(instructions="ask for the name")

        async def on_enter(self) -> None:
            await self.session.generate_reply()
            self.complete("Ann")

    class Host(Agent):
        @function_tool
        async def ask(self) -> str:
            """Asks."""
            return f"it is {await Asking()}"

    asks = RealtimeReply(tool_calls=[calls("ask")])
    async with realtime_call(
        asks,
        "what is your name",
        "hello Ann",
        agent=Host(instructions="host"),
        capabilities={"mutable_instructions": mutable},
    ) as call:
        await call.session.generate_reply()
        assert call.said == ["assistant: what is your name", "assistant: hello Ann"]
        assert call.outputs == ["it is Ann"] and call.server.instructions == "host"
        assert len(call.model.sessions) == (1 if mutable else 3)  # type: ignore[attr-defined]
        assert "it is Ann" in outputs_of(call.server.chat_ctx.items)


async def test_a_model_that_knows_only_its_own_calls_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Quick(AgentTask[str]):
        def __init__(self) -> None:
            super().__init__(instructions="quick")

        async def on_enter(self) -> None:
            self.complete("done")

    class Host(Agent):
        @function_tool
        async def ask(self, ctx: RunContext) -> str:
            """Asks."""
            return await Quick()

    asks = RealtimeReply(tool_calls=[calls("ask")])
    async with realtime_call(
        asks,
        "fine",
        agent=Host(instructions="host"),
        capabilities={"manual_function_calls": False},
    ) as call:
        await call.session.generate_reply()
        assert "it may lose the tool's result" in caplog.text
        assert call.outputs == ["done"]
