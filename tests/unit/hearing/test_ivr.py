"""Phone menus: the agent is woken when one repeats itself, or waits."""

from __future__ import annotations

import asyncio

import pytest

from fakes.llm import FakeLLM
from fakes.session import running
from livekit.agents.voice import Agent
from livekit.agents.voice.events import UserInputTranscribedEvent
from livekit.agents.voice.ivr import IVRActivity
from livekit.agents.voice.ivr.ivr_activity import TfidfLoopDetector

MENU = "For sales press one, for support press two."


def test_a_menu_that_repeats_three_times_is_a_loop() -> None:
    detector = TfidfLoopDetector()
    found = []
    for _ in range(4):
        detector.add_chunk(MENU)
        found.append(detector.check_loop_detection())
    assert found == [False, False, False, True]
    detector.reset()
    assert detector.check_loop_detection() is False


def test_something_else_in_between_starts_the_count_anew() -> None:
    detector = TfidfLoopDetector(consecutive_threshold=2)
    found = []
    for text in (MENU, MENU, "please hold the line", MENU, MENU):
        detector.add_chunk(text)
        found.append(detector.check_loop_detection())
    assert found == [False, False, False, False, True]


def test_no_words_are_no_loop() -> None:
    detector = TfidfLoopDetector(consecutive_threshold=1)
    for text in ("", "a 1 ?", ""):
        detector.add_chunk(text)
        assert detector.check_loop_detection() is False


@pytest.mark.parametrize(
    "bad", [{"window_size": 0}, {"similarity_threshold": 1.5}, {"consecutive_threshold": 0}]
)
def test_arguments_out_of_range_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        TfidfLoopDetector(**bad)


async def test_the_agent_acts_when_both_are_silent() -> None:
    async with running(ivr_detection=True) as (session, recorded):
        await asyncio.sleep(4.9)
        assert "assistant: hello" not in recorded.story
        await asyncio.sleep(0.2)
        assert "assistant: hello" in recorded.story
        assert [tool.id for tool in session.tools] == ["send_dtmf_events"]


async def test_the_agent_acts_on_a_loop() -> None:
    async with running(ivr_detection=True) as (session, recorded):
        for _ in range(4):
            session.emit(
                "user_input_transcribed",
                UserInputTranscribedEvent(transcript=MENU, is_final=True),
            )
        await asyncio.sleep(0.1)
        created = [ev for ev in recorded.events if ev.type == "speech_created"]
        assert len(created) == 1 and not created[0].speech_handle.allow_interruptions


async def test_each_run_has_its_own_and_the_tool_once() -> None:
    async with running(ivr_detection=True) as (session, _):
        first = session._ivr_activity
        await session.aclose()
        assert session.tools == []
        await session.start(Agent(instructions="again"))
        assert session._ivr_activity is not None and session._ivr_activity is not first
        assert len(session.tools) == 1


async def test_a_second_start_only_warns(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as (session, _):
        ivr = IVRActivity(session, max_silence_duration=1.0)
        await ivr.start()
        await ivr.start()
        assert "started already" in caplog.text and len(session.tools) == 1
        await ivr.aclose()
        await ivr.aclose()
        await asyncio.sleep(5)
        assert session.tools == []


async def test_a_close_is_not_disturbed_by_a_late_timer() -> None:
    llm = FakeLLM(default="hello")
    async with running(llm=llm, ivr_detection=True) as (session, recorded):
        await asyncio.sleep(4.99)
        await session.aclose()
        await asyncio.sleep(20)
        assert len(recorded.closes) == 1 and llm.requests == []
