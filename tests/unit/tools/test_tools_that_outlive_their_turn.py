"""Tools that report progress, or are left behind by an interruption, and how their results are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fakes.llm import FakeLLM, Reply
from fakes.session import Recorded, make_session, now, running
from fakes.speaker import Speaker
from fakes.tools import calls, messages, outputs, results, tool_story
from fakes.tts import FakeTTS
from livekit.agents.llm import StopResponse, ToolError, ToolFlag, function_tool
from livekit.agents.voice import Agent, AgentSession, AgentTask, RunContext

LONG = "this answer goes on and on until somebody has heard enough of it"


class Researcher(Agent):
    """`search` reports once, and ends after 10 s with what a test wants."""

    def __init__(self, outcome: Any = "found it", *, silent: bool = False) -> None:
        super().__init__(instructions="x")
        self.outcome = outcome
        self.silent = silent

    @function_tool
    async def search(self, ctx: RunContext) -> Any:
        """Searches."""
        await ctx.update("searching", silent=self.silent)
        await asyncio.sleep(10)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    @function_tool
    async def look(self, seconds: float) -> str:
        """Takes its time and says nothing."""
        await asyncio.sleep(seconds)
        return "seen"


@asynccontextmanager
async def speaking(
    agent: Agent, llm: FakeLLM, **options: Any
) -> AsyncIterator[tuple[AgentSession[Any], Recorded]]:
    """A session with a loudspeaker in virtual time."""
    session = make_session(
        llm, tts=FakeTTS(), tts_text_transforms=None, aec_warmup_duration=None, **options
    )
    recorded = Recorded(session)
    session.output.audio = Speaker()
    await session.start(agent)
    try:
        yield session, recorded
    finally:
        await session.aclose()


# -- reports ----------------------------------------------------------------------------------------


async def test_the_first_report_lets_the_turn_go_on_and_the_result_is_told_later() -> None:
    llm = FakeLLM([calls("search"), "I am at it", "I found it"])
    async with running(Researcher(), llm) as (session, recorded):
        began = now()
        await session.generate_reply(user_input="search")
        assert now() == began and llm.requests[1].tool_choice == "none"
        await asyncio.sleep(20)
        assert messages(session)[1:] == ["assistant: I am at it", "assistant: I found it"]
        assert [line.split(":")[0] for line in results(session)] == ["c1", "c1_final"]
        story = tool_story(recorded)
        assert story[:2] == ["c1 started", "c1 updated: searching"]
        assert sorted(story[2:]) == [
            "c1_final done: found it",
            "reply to c1_final completed",
            "reply to c1_final scheduled",
        ]
        told = llm.requests[-1].chat_ctx.messages()[-1]
        assert told.role == "system" and "c1_final" in (told.text_content or "")


@pytest.mark.parametrize(
    ("outcome", "output", "status", "told"),
    [
        (None, "", "done", False),
        (StopResponse(), "", "done", False),
        (ToolError("no luck"), "no luck", "error", True),
        (ValueError("secret"), "An internal error occurred", "error", True),
        (Agent(instructions="y"), "the agent handoff did not happen", "done", True),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str | bool) else None,
)
async def test_a_late_outcome_is_recorded_and_told_if_there_is_something_to_tell(
    outcome: Any, output: str, status: str, told: bool
) -> None:
    llm = FakeLLM([calls("search"), "I am at it"], default="well")
    async with running(Researcher(outcome), llm) as (session, recorded):
        await session.generate_reply(user_input="search")
        await asyncio.sleep(20)
        final = outputs(session)[-1]
        assert (final.call_id, final.output, final.reply_required) == ("c1_final", output, told)
        assert final.is_error == (outcome is not None and not isinstance(outcome, StopResponse))
        assert any(line.startswith(f"c1_final {status}") for line in tool_story(recorded))
        assert (messages(session)[-1] == "assistant: well") == told
        assert isinstance(session.current_agent, Researcher)


async def test_a_silent_report_makes_nobody_speak() -> None:
    llm = FakeLLM([calls("search"), "I found it"])
    async with running(Researcher(silent=True), llm) as (session, _):
        await session.generate_reply(user_input="search")
        assert len(llm.requests) == 1 and not outputs(session)[0].reply_required
        await asyncio.sleep(20)
        assert messages(session)[-1] == "assistant: I found it"


async def test_reports_that_come_while_the_agent_tells_others_are_told_next() -> None:
    @function_tool
    async def count(ctx: RunContext) -> str:
        """Counts."""
        await ctx.update("one")
        await ctx.update("two")
        await ctx.update("three", template="{call_id} says {message}")
        await asyncio.sleep(1.0)
        return "four"

    llm = FakeLLM([calls("count"), LONG, LONG, "that was it"])
    async with speaking(Agent(instructions="x", tools=[count]), llm) as (session, recorded):
        await session.generate_reply(user_input="count")
        await asyncio.sleep(30)
        replies = [line for line in tool_story(recorded) if line.startswith("reply")]
        assert replies == [
            "reply to c1_update_1, c1_update_2, c1_final scheduled",
            "reply to c1_update_1, c1_update_2, c1_final completed",
        ] or replies == [
            "reply to c1_update_1, c1_update_2 scheduled",
            "reply to c1_update_1, c1_update_2 completed",
            "reply to c1_final scheduled",
            "reply to c1_final completed",
        ]
        assert "c1_update_2: c1 says three" in results(session)


async def test_a_result_that_arrives_during_a_deferred_reply_is_not_lost() -> None:
    class Two(Agent):
        @function_tool
        async def work(self, ctx: RunContext, seconds: float) -> str:
            """Works."""
            await ctx.update("working")
            await asyncio.sleep(seconds)
            return f"{seconds:g} s are over"

    llm = FakeLLM([calls('work#a {"seconds": 10}', 'work#b {"seconds": 11}'), "ok", LONG, "and b"])
    async with speaking(Two(instructions="x"), llm) as (session, recorded):
        await session.generate_reply(user_input="work")
        await asyncio.sleep(60)
        replies = [line for line in tool_story(recorded) if line.startswith("reply")]
        assert replies == [
            "reply to a_final scheduled",
            "reply to a_final completed",
            "reply to b_final scheduled",
            "reply to b_final completed",
        ]
        assert messages(session)[-1] == "assistant: and b"


async def test_a_deferred_reply_may_use_tools() -> None:
    llm = FakeLLM([calls("search"), "I am at it", calls('look#c2 {"seconds": 1}'), "seen, too"])
    async with running(Researcher(), llm) as (session, _):
        await session.generate_reply(user_input="search")
        await asyncio.sleep(20)
        assert (
            results(session)[-1] == "c2: seen" and messages(session)[-1] == "assistant: seen, too"
        )


async def test_a_deferred_reply_waits_until_the_agent_has_spoken() -> None:
    llm = FakeLLM([calls("search"), "I am at it"], default="I found it")
    async with speaking(Researcher(), llm) as (session, recorded):
        await session.generate_reply(user_input="search")
        await asyncio.sleep(8)
        session.say(" ".join([LONG] * 9))
        await asyncio.sleep(3)
        assert tool_story(recorded)[-1] == "c1_final done: found it"
        await asyncio.sleep(60)
        assert messages(session)[-1] == "assistant: I found it"


async def test_the_model_is_told_whether_the_result_is_news() -> None:
    options: Any = {
        "async_options": {
            "reply_at_tail_template": "news: {call_ids}",
            "reply_maybe_covered_template": lambda args: f"old: {args['call_ids']}",
            "update_template": "{function_name}/{call_id}: {message}",
        }
    }
    llm = FakeLLM([calls("search"), "I am at it"], default="ok")
    async with speaking(Researcher(), llm, tool_handling=options) as (session, _):
        await session.generate_reply(user_input="search")
        assert results(session) == ["c1: search/c1: searching"]
        await asyncio.sleep(20)
        assert (llm.requests[-1].chat_ctx.messages()[-1].text_content or "") == "news: c1_final"
        llm.replies = [calls("search#c2"), "I am at it"]
        await session.generate_reply(user_input="again")
        await asyncio.sleep(8)
        session.say(" ".join([LONG] * 9))
        session.say("by the way")
        await asyncio.sleep(30)
        assert (llm.requests[-1].chat_ctx.messages()[-1].text_content or "") == "old: c2_final"


async def test_an_interrupted_or_empty_deferred_reply_says_so() -> None:
    llm = FakeLLM([calls("search"), "I am at it", "", calls("search#c2"), "again", LONG])
    async with speaking(Researcher(), llm) as (session, recorded):
        await session.generate_reply(user_input="search")
        await asyncio.sleep(20)
        assert tool_story(recorded)[-1] == "reply to c1_final skipped"
        await session.generate_reply(user_input="search")
        await asyncio.sleep(11)
        assert tool_story(recorded)[-1] == "reply to c2_final scheduled"
        await session.interrupt()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert tool_story(recorded)[-1] == "reply to c2_final interrupted"


async def test_once_it_has_reported_a_tool_may_wait_for_its_own_speech() -> None:
    ended: list[str] = []

    @function_tool
    async def patient(ctx: RunContext) -> None:
        """Waits."""
        with pytest.raises(RuntimeError, match="wait_for_playout"):
            await ctx.speech_handle
        await ctx.wait_for_playout()
        ended.append("words")
        await ctx.update("on it")
        await ctx.speech_handle
        ended.append("speech")

    llm = FakeLLM([calls("patient", text="one moment"), "I am on it"])
    async with speaking(Agent(instructions="x", tools=[patient]), llm) as (session, _):
        await session.generate_reply(user_input="go")
        await asyncio.sleep(0)
        assert ended == ["words", "speech"]


async def test_a_context_that_is_kept_only_records() -> None:
    kept: list[RunContext] = []

    @function_tool
    async def quick(ctx: RunContext) -> str:
        """Ends at once."""
        kept.append(ctx)
        return "done"

    llm = FakeLLM([calls("quick"), "told"])
    async with running(Agent(instructions="x", tools=[quick]), llm) as (session, recorded):
        await session.generate_reply(user_input="go")
        before = len(recorded.events)
        await kept[0].update("too late")
        assert len(recorded.events) == before and len(outputs(session)) == 1
        ((call, output),) = kept[0]._updates
        assert call.call_id == output.call_id == "c1_update_1" and "too late" in output.output


# -- interruptions ----------------------------------------------------------------------------------


async def test_a_tool_that_ends_soon_after_an_interruption_keeps_its_result() -> None:
    llm = FakeLLM([calls('look {"seconds": 3}', text=LONG)], default="never")
    async with speaking(Researcher(), llm) as (session, recorded):
        handle = session.generate_reply(user_input="look")
        await asyncio.sleep(1)
        session.interrupt()
        await handle
        assert results(session) == ["c1: seen"] and not outputs(session)[0].reply_required
        assert "function_tools_executed" in recorded.story and len(llm.requests) == 1


async def test_a_handoff_that_was_interrupted_does_not_happen() -> None:
    class Transfer(Agent):
        @function_tool
        async def transfer(self) -> Agent:
            """Hands over."""
            await asyncio.sleep(2)
            return Agent(instructions="y")

    llm = FakeLLM([calls("transfer", text=LONG)], default="never")
    async with speaking(Transfer(instructions="x"), llm) as (session, _):
        handle = session.generate_reply(user_input="go")
        await asyncio.sleep(1)
        session.interrupt()
        await handle
        await asyncio.sleep(1)
        assert isinstance(session.current_agent, Transfer)
        expected = "c1 error: the agent handoff was interrupted and did not happen"
        assert results(session) == [expected]


@pytest.mark.parametrize("text", [LONG, ""], ids=["while speaking", "with only tools left"])
async def test_a_tool_that_outlasts_the_interruption_goes_on_and_is_told_later(text: str) -> None:
    llm = FakeLLM([calls('look {"seconds": 20}', text=text)], default="I have seen it")
    async with speaking(Researcher(), llm) as (session, recorded):
        handle = session.generate_reply(user_input="look")
        await asyncio.sleep(1)
        began = now()
        session.interrupt()
        await handle
        assert now() - began == pytest.approx(5)
        (running_output,) = outputs(session)
        assert "In progress" in running_output.output
        assert not running_output.is_error and not running_output.reply_required
        await asyncio.sleep(30)
        assert results(session)[-1] == "c1_final: seen"
        assert messages(session)[-1] == "assistant: I have seen it"
        assert [line for line in tool_story(recorded) if line.startswith("c1")] == [
            "c1 started",
            "c1_final done: seen",
        ]


async def test_calls_that_were_not_started_when_the_user_cut_in_never_are() -> None:
    reply = Reply([LONG, " "], tool_calls=calls('look {"seconds": 1}').tool_calls, chunk_delay=2)
    async with speaking(Researcher(), FakeLLM([reply])) as (session, recorded):
        handle = session.generate_reply(user_input="look")
        await asyncio.sleep(1)
        began = now()
        session.interrupt()
        await handle
        assert now() - began < 1
        await asyncio.sleep(10)
        assert tool_story(recorded) == [] and outputs(session) == []


async def test_a_running_tool_is_shown_to_the_model_but_not_kept() -> None:
    llm = FakeLLM([calls('look {"seconds": 20}')], default="yes")
    async with running(Researcher(), llm) as (session, _):
        session.generate_reply(user_input="look")
        await asyncio.sleep(1)
        await session.generate_reply(user_input="are you still there?")
        items = llm.requests[-1].chat_ctx.items
        call = next(i for i in items if i.type == "function_call")
        output = next(i for i in items if i.type == "function_call_output")
        assert call.id.endswith("_running") and output.id == f"{call.id}_output"
        assert call.call_id == output.call_id == "c1" and "In progress" in output.output
        assert outputs(session) == []
        await asyncio.sleep(30)
        assert results(session) == ["c1: seen"]
        ids = [i.id for i in llm.requests[-1].chat_ctx.items]
        assert not any("_running" in id for id in ids), "the reply to it has the real pair"


# -- runs -------------------------------------------------------------------------------------------


async def test_a_run_ends_when_the_result_has_been_told() -> None:
    @function_tool
    async def report(ctx: RunContext) -> str:
        """Reports twice, and is done."""
        await ctx.update("one")
        return "two"

    llm = FakeLLM([calls("report"), "one it is", "two it is"])
    async with running(Agent(instructions="x", tools=[report]), llm) as (session, _):
        result = await session.run(user_input="go")
        said = [e.item.text_content for e in result.events if e.type == "message"]
        assert said == ["one it is", "two it is"]


async def test_a_run_does_not_wait_for_a_tool_that_reported() -> None:
    llm = FakeLLM([calls("search"), "I am at it"], default="I found it")
    async with running(Researcher(), llm) as (session, _):
        began = now()
        await session.run(user_input="search")
        assert now() == began
        await asyncio.sleep(20)
        assert messages(session)[-1] == "assistant: I found it"


async def test_a_result_for_a_paused_agent_waits_for_it_and_holds_no_run_open() -> None:
    class Ask(AgentTask[str]):
        def __init__(self) -> None:
            super().__init__(instructions="ask")

        @function_tool
        async def answer(self) -> None:
            """Ends the task."""
            self.complete("yes")

    class Parent(Researcher):
        @function_tool
        async def ask(self) -> str:
            """Asks."""
            return await Ask()

    llm = FakeLLM(
        [calls("search", "ask"), "yes or no?", calls("answer#c3"), "all right", "I found it"]
    )
    async with running(Parent(), llm) as (session, recorded):
        await session.run(user_input="go")
        await asyncio.sleep(20)
        assert not any("scheduled" in line for line in tool_story(recorded))
        await session.run(user_input="hm")
        assert messages(session)[-1] == "assistant: yes or no?"
        await session.run(user_input="yes")
        await asyncio.sleep(1)
        assert isinstance(session.current_agent, Parent)
        assert "reply to c1_final completed" in tool_story(recorded)


# -- closing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [1.0, 10.05, 10.5], ids=["running", "telling", "told"])
@pytest.mark.parametrize("drain", [False, True], ids=["forced", "graceful"])
async def test_closing_while_a_tool_that_reported_runs_or_is_told(
    moment: float, drain: bool
) -> None:
    reply = Reply(LONG, delay=0.2)
    llm = FakeLLM([calls("search"), "I am at it", reply], default="bye")
    session = make_session(llm)
    recorded = Recorded(session)
    await session.start(Researcher())
    await session.generate_reply(user_input="search")
    await asyncio.sleep(moment)
    began = now()
    session.shutdown(drain=drain)
    assert session._closing_task is not None
    await asyncio.wait((session._closing_task,))
    assert now() - began <= (9.5 if drain else 5.5)
    assert len(recorded.closes) == 1
    ends = [line for line in tool_story(recorded) if line.startswith("c1_final")]
    assert len(ends) == 1
    final = outputs(session)[-1]
    assert final.call_id == "c1_final"
    if moment == 1.0 and not drain:
        assert ends == ["c1_final cancelled"]
        assert final.is_error and not final.reply_required and "cancelled" in final.output
    else:
        assert ends == ["c1_final done: found it"] and final.output == "found it"


async def test_what_may_be_cancelled_does_not_hold_up_a_goodbye() -> None:
    @function_tool(flags=ToolFlag.CANCELLABLE)
    async def watch(ctx: RunContext) -> str:
        """Watches for ever."""
        await ctx.update("watching")
        await asyncio.sleep(1e6)
        return "never"

    llm = FakeLLM([calls("watch"), "I watch"], default="bye")
    session = make_session(llm)
    recorded = Recorded(session)
    await session.start(Agent(instructions="x", tools=[watch]))
    await session.generate_reply(user_input="watch")
    session.shutdown()
    assert session._closing_task is not None
    began = now()
    await asyncio.wait((session._closing_task,))
    assert now() == began and "c1_final cancelled" in tool_story(recorded)


async def test_the_model_can_list_and_cancel_what_runs() -> None:
    @function_tool(flags=ToolFlag.CANCELLABLE)
    async def watch(ctx: RunContext, what: str) -> str:
        """Watches for ever."""
        await ctx.update("watching")
        await asyncio.sleep(1e6)
        return "never"

    agent = Researcher()
    llm = FakeLLM(
        [
            calls('watch#w {"what": "birds"}', 'look#l {"seconds": 100}'),
            calls("lk_agents_get_running_tasks#list"),
            calls('lk_agents_cancel_task#x {"call_id": "l"}'),
            calls('lk_agents_cancel_task#y {"call_id": "w"}'),
            calls('lk_agents_cancel_task#z {"call_id": "w"}'),
        ],
        default="ok",
    )
    session = make_session(llm, tools=[watch], max_tool_steps=9)
    await session.start(agent)
    session.generate_reply(user_input="watch")
    await asyncio.sleep(1)
    await session.generate_reply(user_input="what runs?")
    assert [line for line in results(session) if not line.startswith("w:")] == [
        'list: [{"call_id": "w", "function_name": "watch", "arguments": {"what": "birds"}}]',
        "x error: the call l of look can't be cancelled",
        "w_final error: the call was cancelled",
        "y: cancelled watch (w)",
        "z error: there is no running call w",
    ]
    await session.aclose()
