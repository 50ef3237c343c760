"""Digits from the keys of a phone: in time, to the end, agreed to; or spoken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fakes.collecting import Collecting, collecting
from fakes.room import FakeRoom, Native
from fakes.session import now
from fakes.tools import calls, messages
from livekit.agents.beta.workflows import GetDtmfResult, GetDtmfTask
from livekit.agents.beta.workflows.utils import DtmfEvent
from livekit.agents.llm import ToolError
from livekit.agents.testing import fake_job_context


class Line:
    def __init__(self, c: Collecting, room: FakeRoom) -> None:
        self.c, self.room = c, room

    def press(self, keys: str) -> None:
        for key in keys:
            self.room.emit("sip_dtmf_received", SimpleNamespace(digit=key, participant=None))

    @property
    def outcome(self) -> Any:
        return self.c.outcome

    async def settle(self, seconds: float = 0.1) -> None:
        await asyncio.sleep(seconds)

    @property
    def last(self) -> str:
        return messages(self.c.session)[-1]


@asynccontextmanager
async def line(**options: Any) -> AsyncIterator[Line]:
    room: Any = FakeRoom(Native())
    options.setdefault("num_digits", 4)
    with fake_job_context(room=room):
        async with collecting(lambda: GetDtmfTask(**options), "Please enter it.") as c:
            yield Line(c, room)
    assert not room.registered, "the task still listens"


async def test_the_last_digit_completes_the_entry() -> None:
    async with line() as phone:
        phone.press("123")
        await phone.settle(3.9)
        assert phone.outcome is None
        phone.press("4")
        await phone.settle()
        assert phone.outcome == GetDtmfResult("1 2 3 4")
        phone.press("5#")
        assert "sip_dtmf_received" not in phone.room.registered


@pytest.mark.parametrize("how", ["a pause", "the stop key"])
async def test_an_entry_that_is_too_short_is_asked_for_again_a_few_times(how: str) -> None:
    async with line(dtmf_input_timeout=2.0) as phone:
        for attempt in range(3):
            phone.c.llm.replies[:] = ["Only two. Once more?"]
            phone.press("12" if how == "a pause" else "12#")
            await phone.settle(2.1 if how == "a pause" else 0.1)
            if attempt < 2:
                assert phone.outcome is None and phone.last == "assistant: Only two. Once more?"
        assert isinstance(phone.outcome, ToolError) and "2 of 4 digits" in phone.outcome.message


async def test_what_was_keyed_in_is_read_back_and_agreed_to_in_words() -> None:
    async with line(ask_for_confirmation=True) as phone:
        phone.c.llm.replies[:] = ["1 2 3 4, right?"]
        phone.press("1234#")  # the stop key is pressed by habit, and is no answer
        assert phone.c.task.dtmf_reply_running()
        await phone.settle()
        assert phone.last == "assistant: 1 2 3 4, right?" and phone.outcome is None
        assert not phone.c.task.dtmf_reply_running()
        assert "1 2 3 4" in (phone.c.llm.requests[-1].chat_ctx.messages()[-1].text_content or "")
        phone.c.llm.replies[:] = [calls("confirm_digits"), "Right?"]
        await phone.c.session.generate_reply(instructions="go on", input_modality="audio")
        assert phone.outcome is None, "the user has not answered"
        await phone.c.user("yes", calls("confirm_digits"), "Thanks.")
        assert phone.outcome == GetDtmfResult("1 2 3 4")


async def test_the_stop_key_says_yes_after_the_read_back() -> None:
    async with line(ask_for_confirmation=True, dtmf_stop_event=DtmfEvent.STAR) as phone:
        phone.press("*")
        phone.press("12#4")
        await phone.settle()
        assert phone.outcome is None
        phone.press("*")
        await phone.settle()
        assert phone.outcome == GetDtmfResult("1 2 # 4")


async def test_new_digits_take_the_place_of_those_read_back() -> None:
    async with line(ask_for_confirmation=True) as phone:
        phone.press("1234")
        await phone.settle()
        phone.press("9")
        await phone.c.user("yes", calls("confirm_digits"), "Go on?")
        assert phone.outcome is None
        phone.press("876")
        await phone.settle()
        phone.press("#")
        await phone.settle()
        assert phone.outcome == GetDtmfResult("9 8 7 6")


async def test_digits_may_be_spoken() -> None:
    async with line(num_digits=2, ask_for_confirmation=True) as phone:
        await phone.c.user("one", calls('update_digits {"digits": ["1"]}'), "Two, please.")
        assert "it takes 2 digits" in phone.c.result("c1 error")
        await phone.c.user("one two", calls('update_digits {"digits": ["1", "2"]}'), "1 2?")
        await phone.c.user("yes", calls("confirm_digits"), "Thanks.")
        assert phone.outcome == GetDtmfResult("1 2")


async def test_the_caller_may_decline() -> None:
    async with line() as phone:
        with pytest.raises(ToolError):
            await phone.c.user("no", calls('decline_digits {"reason": "lost it"}'), "Fine.")
        assert "lost it" in phone.outcome.message


async def test_without_a_room_digits_are_spoken() -> None:
    async with collecting(lambda: GetDtmfTask(num_digits=1)) as c:
        await c.user("one", calls('update_digits {"digits": ["1"]}'), "Thanks.")
        assert c.outcome == GetDtmfResult("1")


async def test_unknown_keys_and_other_callers_are_ignored() -> None:
    async with line(num_digits=1) as phone:
        phone.press("x")
        phone.c.session._room_io = SimpleNamespace(  # type: ignore[assignment]
            linked_participant=SimpleNamespace(identity="caller"), room=phone.room
        )
        other = SimpleNamespace(digit="1", participant=SimpleNamespace(identity="somebody"))
        phone.room.emit("sip_dtmf_received", other)
        phone.c.session._room_io = None
        await phone.settle()
        assert phone.outcome is None


@pytest.mark.parametrize("pressed", ["", "12", "1234"])
async def test_a_close_forgets_the_keys(pressed: str) -> None:
    async with line(ask_for_confirmation=True) as phone:
        phone.press(pressed)
        began = now()
        await phone.c.session.aclose()
        assert now() - began < 1.0 and isinstance(phone.outcome, ToolError)
        phone.press("5678#")
        await phone.settle(10.0)
        assert not phone.c.recorded.closes[0].report.survivors


@pytest.mark.parametrize("options", [{"num_digits": 0}, {"num_digits": 1, "dtmf_input_timeout": 0}])
async def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        GetDtmfTask(**options)


@settings(max_examples=40, deadline=None)
@given(
    confirms=st.booleans(),
    acts=st.lists(st.sampled_from(["1", "2", "*", "#", 0.01, 1.0, 4.5]), max_size=14),
)
async def test_whatever_is_pressed_and_when_an_entry_is_whole_or_none(
    confirms: bool, acts: list[str | float]
) -> None:
    async with line(num_digits=3, ask_for_confirmation=confirms) as phone:
        for act in acts:
            if isinstance(act, str):
                phone.press(act)
            else:
                await phone.settle(act)
        await phone.settle(5.0)
        outcome = phone.outcome
        if isinstance(outcome, GetDtmfResult):
            keys = "".join(act for act in acts if isinstance(act, str) and act != "#")
            assert outcome.user_input.replace(" ", "") in keys and len(outcome.user_input) == 5
        else:
            assert outcome is None or isinstance(outcome, ToolError)
