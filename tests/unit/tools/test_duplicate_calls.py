"""A tool that is called again while it runs: refused, confirmed, replaced, or run twice."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from fakes.llm import FakeLLM
from fakes.session import now, running
from fakes.tools import calls, outputs, results, tool_story
from livekit.agents.llm import FunctionTool, ToolFlag, function_tool
from livekit.agents.llm.tool_context import CONFIRM_DUPLICATE_PARAM
from livekit.agents.voice import Agent, RunContext

CONFIRMED = json.dumps({"city": "Oslo", CONFIRM_DUPLICATE_PARAM: True})


class Clerk:
    """A tool that takes 10 s, and a record of what became of its calls."""

    def __init__(self, **options: Any) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []

        async def book(ctx: RunContext, city: str, nights: int = 1) -> str:
            """Books a room."""
            call_id = ctx.function_call.call_id
            self.began.append(call_id)
            try:
                await ctx.update("asking the hotel")
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                self.ended.append(f"{call_id} cancelled")
                raise
            self.ended.append(f"{call_id} done")
            return f"{nights} nights in {city}"

        self.book: FunctionTool[..., Any] = function_tool(book, **options)
        self.agent = Agent(instructions="x", tools=[self.book])


OSLO = 'book#c1 {"city": "Oslo"}'


async def test_both_run_by_default() -> None:
    clerk = Clerk()
    llm = FakeLLM([calls(OSLO), "one", calls('book#c2 {"city": "Oslo"}'), "two"], default="done")
    async with running(clerk.agent, llm) as (session, _):
        await session.generate_reply(user_input="book")
        await session.generate_reply(user_input="book")
        await asyncio.sleep(20)
        assert clerk.ended == ["c1 done", "c2 done"]


async def test_a_rejected_call_is_answered_with_what_runs_and_never_starts() -> None:
    clerk = Clerk(on_duplicate="reject")
    llm = FakeLLM(
        [
            calls(OSLO),
            "one",
            calls('book#c2 {"city": "Rome"}'),
            "no",
            "booked",
            calls('book#c3 {"city": "Rome"}'),
        ]
    )
    async with running(clerk.agent, llm) as (session, recorded):
        await session.generate_reply(user_input="book")
        await session.generate_reply(user_input="book")
        assert clerk.began == ["c1"]
        refused = outputs(session)[-1]
        assert refused.call_id == "c2" and not refused.is_error and refused.reply_required
        assert (
            "running already" in refused.output and 'c1: book({"city": "Oslo"})' in refused.output
        )
        assert not any(line.startswith("c2") for line in tool_story(recorded))
        await asyncio.sleep(20)
        await session.generate_reply(user_input="book")
        assert clerk.began == ["c1", "c3"], "the first is over, so a new one may start"


async def test_only_equal_arguments_are_duplicates_if_asked_for() -> None:
    clerk = Clerk(on_duplicate="reject", duplicate_scope="name_and_args")
    llm = FakeLLM(
        [
            calls(
                OSLO,
                'book#c2 {"nights": 1, "city": "Oslo"}',
                'book#c3 {"city": "Oslo", "nights": 2}',
                'book#c4 {"city": "Oslo", "nights": "1"}',
            )
        ],
        default="ok",
    )
    async with running(clerk.agent, llm) as (session, _):
        await session.generate_reply(user_input="book")
        assert clerk.began == ["c1", "c3"], "order, omitted defaults and spelling don't matter"


async def test_a_duplicate_runs_once_the_user_has_confirmed_it() -> None:
    clerk = Clerk(on_duplicate="confirm")
    llm = FakeLLM(
        [
            calls(OSLO),
            "one",
            calls('book#c2 {"city": "Oslo"}'),
            "sure?",
            calls(f"book#c3 {CONFIRMED}"),
        ],
        default="ok",
    )
    async with running(clerk.agent, llm) as (session, _):
        for _ in range(3):
            await session.generate_reply(user_input="book")
        assert clerk.began == ["c1", "c3"]
        assert CONFIRM_DUPLICATE_PARAM in outputs(session)[1].output
        await asyncio.sleep(20)
        assert clerk.ended == ["c1 done", "c3 done"]


async def test_the_new_call_takes_the_place_of_the_running_one() -> None:
    clerk = Clerk(on_duplicate="replace", flags=ToolFlag.CANCELLABLE)
    llm = FakeLLM([calls(OSLO), "one", calls('book#c2 {"city": "Rome"}'), "two"], default="done")
    async with running(clerk.agent, llm) as (session, recorded):
        await session.generate_reply(user_input="book")
        await asyncio.sleep(1)
        await session.generate_reply(user_input="book")
        assert clerk.ended == ["c1 cancelled"] and clerk.began == ["c1", "c2"]
        await asyncio.sleep(20)
        assert clerk.ended == ["c1 cancelled", "c2 done"]
        story = tool_story(recorded)
        assert story.index("c1_final cancelled") < story.index("c2 started")
        assert "c1_final error: the call was cancelled" in results(session)


async def test_what_can_not_be_cancelled_is_not_replaced() -> None:
    clerk = Clerk(on_duplicate="replace")
    llm = FakeLLM([calls(OSLO), "one", calls('book#c2 {"city": "Rome"}'), "no"], default="done")
    async with running(clerk.agent, llm) as (session, _):
        await session.generate_reply(user_input="book")
        await session.generate_reply(user_input="book")
        assert clerk.began == ["c1"]
        assert outputs(session)[-1].is_error and "can't be cancelled" in outputs(session)[-1].output


async def test_replacing_a_tool_that_ignores_its_cancellation_gives_up_in_time() -> None:
    free = asyncio.Event()

    @function_tool(on_duplicate="replace", flags=ToolFlag.CANCELLABLE)
    async def stubborn(ctx: RunContext) -> str:
        """Never lets go."""
        await ctx.update("on it")
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                pass
        return "at last"

    agent = Agent(instructions="x", tools=[stubborn])
    llm = FakeLLM([calls("stubborn#c1"), "one", calls("stubborn#c2"), "no"], default="done")
    async with running(agent, llm) as (session, _):
        await session.generate_reply(user_input="go")
        began = now()
        await session.generate_reply(user_input="go")
        assert now() - began == pytest.approx(5)
        assert outputs(session)[-1].is_error
        free.set()


async def test_a_close_while_a_call_waits_to_replace_another() -> None:
    @function_tool(on_duplicate="replace", flags=ToolFlag.CANCELLABLE)
    async def slow_to_stop(ctx: RunContext) -> str:
        """Takes its time to stop."""
        await ctx.update("on it")
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(3)
        return "never"

    agent = Agent(instructions="x", tools=[slow_to_stop])
    llm = FakeLLM([calls("slow_to_stop#c1"), "one", calls("slow_to_stop#c2")], default="done")
    async with running(agent, llm) as (session, recorded):
        await session.generate_reply(user_input="go")
        session.generate_reply(user_input="go")
        await asyncio.sleep(1)
        began = now()
        await session.aclose()
        assert now() - began <= 5.5 and len(recorded.closes) == 1
        story = tool_story(recorded)
        assert story.count("c1_final cancelled") == 1 and "c2 started" not in story


async def test_the_texts_can_be_set_and_a_wrong_one_does_no_harm() -> None:
    def texts(reject: str) -> Any:
        return {"async_options": {"duplicate_reject_template": reject}}

    for template, expected in [
        ("{function_name}: {fnc_calls_json}", '"call_id": "c1"'),
        ("{unknown}", "An internal error occurred"),
    ]:
        clerk = Clerk(on_duplicate="reject")
        llm = FakeLLM([calls(OSLO), "one", calls('book#c2 {"city": "Oslo"}')], default="ok")
        async with running(clerk.agent, llm, tool_handling=texts(template)) as (session, _):
            await session.generate_reply(user_input="book")
            await session.generate_reply(user_input="book")
            assert expected in outputs(session)[-1].output
