"""The tool with which the model ends the call, and the one that presses keys."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from fakes.llm import FakeLLM
from fakes.realtime import FakeRealtimeModel, RealtimeReply
from fakes.session import Recorded, make_session, now, running
from fakes.speaker import Speaker
from fakes.tools import calls, messages, results
from livekit.agents import job
from livekit.agents.beta import EndCallTool, Instructions
from livekit.agents.beta.tools import send_dtmf_events
from livekit.agents.beta.workflows.utils import DtmfEvent, dtmf_event_to_code, format_dtmf
from livekit.agents.llm import FunctionCall, Toolset, chat_context
from livekit.agents.voice import Agent, AgentSession


class FakeJob:
    """The part of a job that these tools use."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.callbacks: list[Any] = []
        self.fails_at = ""
        self.room = SimpleNamespace(
            local_participant=SimpleNamespace(publish_dtmf=self._publish_dtmf)
        )

    async def _publish_dtmf(self, *, code: int, digit: str) -> None:
        if digit == self.fails_at:
            raise ConnectionError("line is dead")
        self.log.append(f"{digit} ({code}) at {now():g}")

    def add_shutdown_callback(self, callback: Any) -> None:
        self.callbacks.append(callback)

    def shutdown(self, reason: str) -> None:
        self.log.append(f"shutdown: {reason}")

    async def delete_room(self) -> None:
        self.log.append("room deleted")


@contextmanager
def in_job() -> Iterator[FakeJob]:
    """What is started in the block belongs to a job."""
    made = FakeJob()
    token = job._JobContextVar.set(made)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        job._JobContextVar.reset(token)


async def ended(session: AgentSession[Any]) -> None:
    if session._closing_task is not None:
        await asyncio.wait((session._closing_task,))


async def test_the_agent_says_goodbye_and_the_job_ends() -> None:
    session = make_session(FakeLLM([calls("end_call"), "good bye"]), tools=[EndCallTool()])
    recorded = Recorded(session)
    await session.start(Agent(instructions="x"))
    with in_job() as fake_job:
        await session.generate_reply(user_input="that was all, bye")
    await asyncio.sleep(0)
    await ended(session)
    assert messages(session)[-1] == "assistant: good bye" and len(recorded.closes) == 1
    assert results(session) == ["c1: say goodbye to the user"]
    assert fake_job.log == ["shutdown: user_initiated"]
    for callback in fake_job.callbacks:
        await callback()
    assert fake_job.log[-1] == "room deleted"


async def test_callbacks_are_told_and_may_choose_the_last_words() -> None:
    seen: list[str] = []

    async def called(event: Toolset.ToolCalledEvent) -> None:
        seen.append(f"called {event.ctx.function_call.name} {event.arguments}")

    async def completed(event: Toolset.ToolCompletedEvent) -> None:
        seen.append(f"completed {event.output}")
        event.output = None

    tool = EndCallTool(
        extra_description="Never before noon.",
        delete_room=False,
        end_instructions="wish them well",
        ignore_on_enter=True,
        on_tool_called=called,
        on_tool_completed=completed,
    )
    llm = FakeLLM([calls("end_call")])
    session = make_session(llm, tools=[tool])
    recorded = Recorded(session)
    await session.start(Agent(instructions="x"))
    await session.generate_reply(user_input="bye")
    await asyncio.sleep(0)
    await ended(session)
    assert seen == ["called end_call {}", "completed wish them well"]
    assert len(recorded.closes) == 1 and len(llm.requests) == 1, "outside of a job, without a word"
    (offered,) = llm.requests[0].tools
    assert offered.info.description.endswith("Never before noon.")  # type: ignore[attr-defined]


async def test_a_session_that_starts_again_can_be_ended_again() -> None:
    llm = FakeLLM([calls("end_call"), "bye", calls("end_call#c2"), "bye again"])
    session = make_session(llm, tools=[EndCallTool()])
    recorded = Recorded(session)
    for _ in range(2):
        await session.start(Agent(instructions="x"))
        await session.generate_reply(user_input="bye")
        await asyncio.sleep(0)
        await ended(session)
    assert len(recorded.closes) == 2


@pytest.mark.parametrize(
    ("goodbye", "closes_after"),
    [(RealtimeReply("bye", audio=2.0), 2.0), (None, 5.0)],
    ids=["says goodbye", "says nothing"],
)
async def test_a_model_that_answers_tools_by_itself_gets_time_for_it(
    goodbye: RealtimeReply | None, closes_after: float
) -> None:
    end = FunctionCall(call_id="c1", name="end_call", arguments="{}")
    replies = [RealtimeReply("", tool_calls=[end])] + ([goodbye] if goodbye else [])
    model = FakeRealtimeModel(replies, auto_tool_reply_generation=True)
    session: AgentSession[Any] = AgentSession(llm=model, vad=None, tools=[EndCallTool()])
    session.output.audio = Speaker()
    recorded = Recorded(session)
    await session.start(Agent(instructions="x"))
    await session.generate_reply()
    await asyncio.sleep(closes_after - 0.1)
    assert not recorded.closes
    await asyncio.sleep(0.3)
    assert len(recorded.closes) == 1
    if goodbye is not None:
        assert messages(session)[-1] == "assistant: bye"


async def test_closing_while_the_goodbye_is_awaited() -> None:
    end = FunctionCall(call_id="c1", name="end_call", arguments="{}")
    model = FakeRealtimeModel(
        [RealtimeReply("", tool_calls=[end])], auto_tool_reply_generation=True
    )
    session: AgentSession[Any] = AgentSession(llm=model, vad=None, tools=[EndCallTool()])
    recorded = Recorded(session)
    await session.start(Agent(instructions="x"))
    await session.generate_reply()
    await asyncio.sleep(1)
    await session.aclose()
    await asyncio.sleep(10)
    assert len(recorded.closes) == 1


async def test_keys_are_pressed_one_after_another() -> None:
    agent = Agent(instructions="x", tools=[send_dtmf_events])
    llm = FakeLLM(
        [
            calls('send_dtmf_events#a {"events": ["1", "#"]}'),
            calls('send_dtmf_events#b {"events": ["2", "A"]}'),
            "done",
        ]
    )
    async with running(agent, llm) as (session, _):
        began = now()
        with in_job() as fake_job:
            fake_job.fails_at = "A"
            await session.generate_reply(user_input="press them")
        assert fake_job.log == [
            f"1 (1) at {began:g}",
            f"# (11) at {began + 0.3:g}",
            f"2 (2) at {began + 0.3:g}",
        ]
        assert results(session) == [
            "a: Pressed the keys 1 #.",
            "b: The keys 2 A could not be pressed after 2: line is dead",
        ]


async def test_without_a_line_no_key_can_be_pressed() -> None:
    agent = Agent(instructions="x", tools=[send_dtmf_events])
    llm = FakeLLM([calls('send_dtmf_events {"events": ["1"]}'), "sorry"])
    async with running(agent, llm) as (session, _):
        await session.generate_reply(user_input="press it")
        assert "could not be pressed: there is no phone line" in results(session)[0]


def test_every_key_has_its_code() -> None:
    assert [dtmf_event_to_code(DtmfEvent(key)) for key in "0123456789*#ABCD"] == list(range(16))
    assert format_dtmf([DtmfEvent.ONE, DtmfEvent.STAR]) == "1 *"
    assert Instructions is chat_context.Instructions
