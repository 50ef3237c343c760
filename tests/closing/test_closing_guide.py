"""What docs/closing.md tells users, tried out. One test per promise that no other test is about."""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from fakes.llm import FakeLLM, Reply
from fakes.session import Recorded, make_session, now, running
from fakes.speaker import Speaker
from fakes.tts import FakeTTS
from livekit.agents import utils
from livekit.agents.llm import FunctionToolCall, ToolFlag, function_tool
from livekit.agents.voice import Agent, AgentSession
from livekit.agents.voice.closing import CloseReport

GUIDE = Path(__file__).parents[2] / "docs" / "closing.md"


def call(name: str) -> Reply:
    return Reply(tool_calls=[FunctionToolCall(name=name, arguments="{}", call_id="c1")])


class Clerk(Agent):
    """Has a tool for each habit."""

    def __init__(self) -> None:
        super().__init__(instructions="Be brief.")
        self.free = asyncio.Event()
        self.told: list[Any] = []

    @function_tool(flags=ToolFlag.CANCELLABLE)
    async def droppable(self) -> str:
        """May be dropped."""
        await self._note_cancellation()
        return "never"

    @function_tool
    async def tidy(self) -> str:
        """Cleans up."""
        await self._note_cancellation()
        return "never"

    async def _note_cancellation(self) -> None:
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.told.append(now())
            raise

    @function_tool
    async def slow_to_tidy(self) -> str:
        """Takes a moment to clean up."""
        try:
            await self.free.wait()
        finally:
            await asyncio.sleep(0.1)
            self.told.append("tidy")
        return "never"

    @function_tool
    async def stubborn(self) -> str:
        """Ignores its cancellation."""
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                pass
        return "late"

    @function_tool
    async def says_goodbye(self) -> str:
        """Hangs up after the reply."""
        self.session.shutdown()
        return "done"

    @function_tool
    async def hangs_up(self) -> str:
        """Hangs up now."""
        await self.session.aclose()
        self.told.append("closed")
        return "dropped"


async def stuck_in(tool: str, **options: Any) -> tuple[AgentSession[Any], Recorded, Clerk]:
    session = make_session(FakeLLM([call(tool), "goodbye"]), **options)
    recorded = Recorded(session)
    clerk = Clerk()
    await session.start(clerk)
    session.generate_reply(user_input="go")
    await asyncio.sleep(1)
    return session, recorded, clerk


async def test_a_waiter_that_gives_up_does_no_harm() -> None:
    session, recorded, _ = await stuck_in("tidy")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(session.aclose(), 1.0)
    assert recorded.closes == []
    await asyncio.sleep(6.5)
    assert len(recorded.closes) == 1


async def test_a_long_goodbye_that_plays_is_heard_to_its_end() -> None:
    goodbye = "so long, " * 100  # 45 seconds
    session = make_session(FakeLLM(default=goodbye), tts=FakeTTS())
    session.output.audio = Speaker()
    await session.start(Agent(instructions="x"))
    session.generate_reply(user_input="bye")
    await asyncio.sleep(1)
    session.shutdown()
    began = now()
    await session.aclose()
    assert 40 < now() - began < 47
    message = session.history.messages()[-1]
    assert message.text_content == goodbye.strip() or message.text_content == goodbye
    assert not message.interrupted


async def test_a_cancellable_tool_is_cancelled_at_once_and_another_one_after_the_allowance() -> (
    None
):
    for tool, after in (("droppable", 0.0), ("tidy", 5.0)):
        session, _, clerk = await stuck_in(tool)
        began = now()
        await session.aclose()
        assert [told - began for told in clerk.told] == [pytest.approx(after)]


async def test_a_tool_has_a_moment_to_clean_up() -> None:
    session, recorded, clerk = await stuck_in("slow_to_tidy")
    await session.aclose()
    assert clerk.told == ["tidy"]
    report = recorded.closes[0].report
    assert report is not None and report.survivors == []


async def test_the_goodbye_of_a_tool_that_shuts_down_is_heard() -> None:
    session, recorded, _ = await stuck_in("says_goodbye")
    await asyncio.sleep(1)
    assert len(recorded.closes) == 1
    assert session.history.messages()[-1].text_content == "goodbye"


async def test_a_tool_that_closes_goes_on_when_the_session_is_closed() -> None:
    session, recorded, clerk = await stuck_in("hangs_up")
    assert len(recorded.closes) == 1
    assert clerk.told == ["closed"]
    (output,) = (i for i in session.history.items if i.type == "function_call_output")
    assert output.is_error and "dropped" not in output.output


async def test_a_plain_function_is_cut_off_and_its_thread_left_to_itself() -> None:
    go_on = threading.Event()

    class Blocking(Agent):
        @function_tool
        def block(self) -> str:
            """Blocks."""
            go_on.wait(10)
            return "late"

    session = make_session(FakeLLM([call("block")]), forced_drain_timeout=0.0)
    recorded = Recorded(session)
    await session.start(Blocking(instructions="x"))
    session.generate_reply(user_input="go")
    for _ in range(50):  # it begins; any sleep would wait for its thread
        await asyncio.sleep(0)
    await session.aclose()
    report = recorded.closes[0].report
    assert report is not None
    assert [survivor.name for survivor in report.survivors] == ['tool "block"']
    go_on.set()
    await asyncio.wait(utils.aio.abandoned())
    (output,) = (i for i in session.history.items if i.type == "function_call_output")
    assert output.is_error and "late" not in output.output


async def test_survivors_are_listed_for_the_session_and_for_the_process() -> None:
    session, recorded, clerk = await stuck_in("stubborn")
    began = now()
    await session.aclose()
    assert now() - began == pytest.approx(5.25)
    report = recorded.closes[0].report
    assert report is not None and not report.clean
    (survivor,) = report.survivors
    assert survivor.name == 'tool "stubborn"' and "stubborn" in survivor.stack
    assert survivor.name in [known.name for known in utils.aio.abandoned().values()]
    assert report.cut_off and report.finished_at is not None
    (drain,) = (step for step in report.steps if step.name == "drain")
    assert drain.outcome == "timeout" and (drain.detail or "").startswith(
        'tool "stubborn" (call c1)'
    )
    clerk.free.set()
    await asyncio.sleep(0.1)
    assert [i.output for i in session.history.items if i.type == "function_call_output"] != ["late"]
    assert not utils.aio.abandoned()


async def test_the_report_is_completed_after_the_event() -> None:
    async with running() as (session, recorded):
        finished: list[float | None] = []
        session.on("close", lambda event: finished.append(event.report.finished_at))
        await session.aclose()
        assert finished == [None]
        report = recorded.closes[0].report
        assert report is not None and report.finished_at is not None and report.clean


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
@pytest.mark.parametrize("option", ["forced_drain_timeout", "teardown_timeout", "drain_timeout"])
def test_senseless_options_are_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        make_session(**{option: value})


async def test_inputs_and_outputs_are_detached() -> None:
    session = make_session(tts=FakeTTS())
    session.output.audio = Speaker()
    await session.start(Agent(instructions="x"))
    await session.aclose()
    assert session.output.audio is None and session.input.audio is None


def test_the_report_in_the_guide_is_one() -> None:
    block = re.search(r"```json\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert block is not None
    report = CloseReport.model_validate(json.loads(block.group(1)))
    assert report.forced and not report.clean and report.survivors


def test_the_defaults_in_the_guide_are_those_of_the_code() -> None:
    options = make_session().options
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([\w.]+)`? \|", GUIDE.read_text(), re.MULTILINE))
    assert set(rows) == {
        "forced_drain_timeout",
        "teardown_timeout",
        "drain_timeout",
        "session_close_transcript_timeout",
    }
    for name, default in rows.items():
        assert str(getattr(options, name)) == default
    budgets = options.close_budgets
    assert (budgets.close_by, budgets.whole) == (7.5, 9.5)
