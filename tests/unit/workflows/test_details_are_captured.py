"""Tasks that find out one thing: asked for, taken down, read back, and agreed to."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from fakes.chat import context, message
from fakes.collecting import Collecting, collecting
from fakes.llm import Reply
from fakes.session import make_session
from fakes.speaker import Speaker
from fakes.stt import FakeSTT
from fakes.tools import calls, messages
from fakes.tts import FakeTTS
from fakes.vad import FakeVAD
from livekit.agents.beta.workflows import (
    GetAddressResult,
    GetAddressTask,
    GetDOBResult,
    GetDOBTask,
    GetEmailResult,
    GetEmailTask,
    GetNameResult,
    GetNameTask,
    GetPhoneNumberResult,
    GetPhoneNumberTask,
    WorkflowInstructions,
)
from livekit.agents.llm import Instructions, ToolError, function_tool
from livekit.agents.voice import AgentTask


@dataclass
class Case:
    """One kind of task: how it is answered, and with what."""

    make: Callable[..., AgentTask[Any]]
    update: str
    confirm: str
    decline: str
    good: dict[str, Any]
    result: Any
    bad: list[dict[str, Any]] = field(default_factory=list)

    def updates(self, arguments: dict[str, Any] | None = None) -> Reply:
        return calls(f"{self.update} {json.dumps(arguments or self.good)}")


CASES = {
    "email": Case(
        GetEmailTask,
        "update_email_address",
        "confirm_email_address",
        "decline_email_capture",
        {"email": " Ada.Lovelace@example.com "},
        GetEmailResult("Ada.Lovelace@example.com"),
        [{"email": "ada at example.com"}, {"email": "ada@example"}, {"email": "@example.com"}],
    ),
    "phone": Case(
        GetPhoneNumberTask,
        "update_phone_number",
        "confirm_phone_number",
        "decline_phone_number_capture",
        {"phone_number": "+1 (415) 555-0100"},
        GetPhoneNumberResult("+14155550100"),
        [{"phone_number": "415"}, {"phone_number": "0415 555 0100"}, {"phone_number": "call me"}],
    ),
    "name": Case(
        lambda **options: GetNameTask(last_name=True, **options),
        "update_name",
        "confirm_name",
        "decline_name_capture",
        {"first_name": "Ada ", "last_name": "King  Lovelace"},
        GetNameResult(first_name="Ada", last_name="King Lovelace"),
        [{"first_name": "Ada"}, {"first_name": "Ada", "last_name": "42"}],
    ),
    "address": Case(
        GetAddressTask,
        "update_address",
        "confirm_address",
        "decline_address_capture",
        {
            "street": "12 Main Street",
            "unit": "Apt 4",
            "city": "Springfield",
            "region": "IL",
            "postal_code": "62701",
            "country": "USA",
        },
        GetAddressResult("12 Main Street, Apt 4, Springfield, IL 62701, USA"),
        [
            {"street": " ", "city": "Springfield", "country": "USA"},
            {"street": "12 Main Street", "city": "?", "country": "USA"},
        ],
    ),
    "dob": Case(
        GetDOBTask,
        "update_dob",
        "confirm_dob",
        "decline_dob_capture",
        {"year": 1990, "month": 2, "day": 28},
        GetDOBResult(datetime.date(1990, 2, 28)),
        [
            {"year": 1990, "month": 2, "day": 30},
            {"year": 90, "month": 2, "day": 28},
            {"year": 2999, "month": 1, "day": 1},
            {"year": 1815, "month": 12, "day": 10},
        ],
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def read_back(c: Collecting) -> bool:
    return c.outcome is None and c.result().startswith("c1: Taken down, not settled yet.")


async def test_who_speaks_has_to_agree_to_what_was_read_back(case: Case) -> None:
    async with collecting(case.make) as c:
        await c.user("it is this", case.updates(), "I have this. Is that right?")
        assert read_back(c)
        run = await c.user("yes", calls(case.confirm), "Thank you.")
        assert c.outcome == case.result
        run.expect.contains_agent_handoff()
        assert run.expect[-1].is_message(role="assistant").event().item.text_content == "Thank you."


async def test_who_writes_need_not_confirm(case: Case) -> None:
    async with collecting(case.make, modality="text") as c:
        await c.user("it is this", case.updates(), "Thank you.")
        assert c.outcome == case.result


@pytest.mark.parametrize("modality", ["audio", "text"])
async def test_a_task_may_always_or_never_ask_for_confirmation(case: Case, modality: str) -> None:
    async with collecting(lambda: case.make(require_confirmation=False), modality=modality) as c:
        await c.user("it is this", case.updates(), "Thank you.")
        assert c.outcome == case.result
        assert case.confirm not in {tool.id for tool in c.task.tools}
    async with collecting(lambda: case.make(require_confirmation=True), modality=modality) as c:
        await c.user("it is this", case.updates(), "Is that right?")
        assert read_back(c)
        await c.user("yes", calls(case.confirm), "Thank you.")
        assert c.outcome == case.result


async def test_the_model_can_not_confirm_in_the_place_of_the_user(case: Case) -> None:
    async with collecting(case.make) as c:
        both = calls(f"{case.update} {json.dumps(case.good)}", f"{case.confirm}#same")
        await c.user("it is this", both, calls(case.confirm + "#next"), "Is that right?")
        assert "the user has not answered yet" in c.result("same error")
        assert "the user has not answered yet" in c.result("next error")
        speech = c.session.generate_reply(instructions="go on", input_modality="audio")
        c.llm.replies[:] = [calls(case.confirm + "#again"), "Is that right?"]
        await speech
        assert "the user has not answered yet" in c.result("again error")
        assert c.outcome is None
        await c.user("yes it is", calls(case.confirm), "Thank you.")
        assert c.outcome == case.result


async def test_there_is_nothing_to_confirm_at_first(case: Case) -> None:
    async with collecting(case.make) as c:
        await c.user("yes", calls(case.confirm), "What is it, please?")
        assert "nothing is taken down yet" in c.result("c1 error") and c.outcome is None


async def test_what_can_not_be_true_is_not_taken_down(case: Case) -> None:
    async with collecting(case.make, modality="text") as c:
        for arguments in case.bad:
            await c.user("it is this", case.updates(arguments), "Could you repeat that?")
            assert c.result().startswith("c1 error: ") and c.outcome is None
        await c.user("it is this", case.updates(), "Thank you.")
        assert c.outcome == case.result


async def test_a_correction_takes_the_place_of_what_was_taken_down_before(case: Case) -> None:
    other = dict(case.good)
    key = next(key for key, value in other.items() if isinstance(value, (str, int)))
    other[key] = {"email": "bob@example.com", "phone_number": "+14155550199"}.get(key, other[key])
    if key in ("first_name", "street"):
        other[key] = "12 Bob"
    if key == "year":
        other[key] = 1991
    async with collecting(case.make) as c:
        await c.user("it is this", case.updates(other), "Is that right?")
        await c.user("no, this", case.updates(), "So this, right?")
        await c.user("yes", calls(case.confirm), "Thank you.")
        assert c.outcome == case.result


async def test_the_user_may_decline(case: Case) -> None:
    async with collecting(case.make) as c:
        decline = calls(f'{case.decline} {{"reason": "too private"}}')
        with pytest.raises(ToolError, match="too private"):  # what the run came to
            await c.user("I would rather not", decline, "Fine.")
        assert isinstance(c.outcome, ToolError) and "too private" in c.outcome.message
        assert c.result("start error") == f"start error: {c.outcome.message}"
        assert messages(c.session)[-1] == "assistant: Fine."


async def test_an_answer_that_the_conversation_holds_already_is_taken_at_once(case: Case) -> None:
    async with collecting(case.make, case.updates(), "Thank you.", modality="text") as c:
        assert c.outcome == case.result


async def test_confirming_and_declining_are_not_offered_before_the_user_was_asked(
    case: Case,
) -> None:
    async with collecting(case.make) as c:
        assert c.offered() == [case.update]
        await c.user("hm", "Please?")
        assert {case.update, case.confirm, case.decline} <= set(c.offered())


async def test_a_task_may_insist_on_asking(case: Case) -> None:
    async with collecting(lambda: case.make(require_explicit_ask=True)) as c:
        assert c.offered() == []
        await c.user("hm", "Please?")
        assert case.update in c.offered()


async def test_it_knows_the_conversation_it_is_given(case: Case) -> None:
    known = context(message("user", "I live on the moon"))
    async with collecting(lambda: case.make(chat_ctx=known)) as c:
        assert "I live on the moon" in [m.text_content for m in c.task.chat_ctx.messages()]


async def test_instructions_differ_for_voice_and_text_and_can_be_added_to(case: Case) -> None:
    task = case.make(extra_instructions="Be quick {about} it.")
    instructions = task.instructions
    assert isinstance(instructions, Instructions)
    spoken = instructions.render(modality="audio")
    written = instructions.render(modality="text")
    assert "speech recognition" in spoken and "speech recognition" not in written
    assert case.confirm in spoken and case.confirm not in written
    assert all(text.endswith("Be quick {about} it.") for text in (spoken, written))
    assert all(case.update in text and case.decline in text for text in (spoken, written))
    assert "\n\n\n" not in spoken + written and "{" not in spoken.replace("{about}", "").replace(
        "{first_name} {last_name}", ""
    )


async def test_further_tools_and_models_are_used(case: Case) -> None:
    @function_tool
    async def weather() -> str:
        """The weather."""
        return "sunny"

    async with collecting(lambda: case.make(tools=[weather], allow_interruptions=False)) as c:
        await c.user("is it sunny", calls("weather"), "Yes. So what is it?")
        assert c.result() == "c1: sunny"
        assert c.task.allow_interruptions is False


async def test_a_close_ends_the_task_wherever_it_is(case: Case) -> None:
    for replies in ([], [case.updates(), "Is that right?"]):
        async with collecting(case.make) as c:
            if replies:
                await c.user("it is this", *replies)
            await c.session.aclose()
            assert isinstance(c.outcome, ToolError) and c.task.done()
            assert len(c.recorded.closes) == 1
            assert not c.recorded.closes[0].report.survivors


async def test_a_user_who_speaks_is_heard_and_answered_aloud() -> None:
    case = CASES["email"]
    voice: dict[str, Any] = {"stt": FakeSTT(), "vad": FakeVAD(), "tts": FakeTTS()}
    async with collecting(case.make, aec_warmup_duration=None, **voice) as c:
        c.session.output.audio = speaker = Speaker()
        await c.hear("ada at example dot com", case.updates(), "I have this. Is that right?")
        assert read_back(c)
        await c.hear("yes", calls(case.confirm), "Thank you.")
        assert c.outcome == case.result and speaker._pending_playback_count == 0
        assert messages(c.session)[-4:] == [
            "user: ada at example dot com",
            "assistant: I have this. Is that right?",
            "user: yes",
            "assistant: Thank you.",
        ]


async def test_what_the_task_was_told_is_on_record(case: Case) -> None:
    async with collecting(case.make) as c:
        told = [i.instructions for i in c.task.chat_ctx.items if i.type == "agent_config_update"]
        assert len(told) == 1 and case.update in told[0]


# -- what is special about each -----------------------------------------------------------------------


async def test_the_agent_is_told_how_to_say_it() -> None:
    async with collecting(GetEmailTask) as c:
        await c.user("ada", calls('update_email_address {"email": "a_d@example.com"}'), "Right?")
        assert "a _ d; then example.com" in c.result()
    async with collecting(GetPhoneNumberTask) as c:
        await c.user(
            "one", calls('update_phone_number {"phone_number": "0014155550100"}'), "Right?"
        )
        assert "plus 1, 4 1 5, 5 5 5, 0 1 0 0" in c.result()
    async with collecting(lambda: GetNameTask(verify_spelling=True)) as c:
        assert "letter by letter" in c.task.instructions.render(modality="text")
        await c.user("Ada", calls('update_name {"first_name": "Ada"}'), "Right?")
        assert "Ada (spelled: A d a)" in c.result()


@pytest.mark.parametrize(
    "email",
    ["o'neil@example.co.uk", "a+b@sub.example.org", "jürgen@müller.de", "x@xn--bcher-kva.ch"],
)
async def test_unusual_email_addresses_are_fine(email: str) -> None:
    async with collecting(GetEmailTask, modality="text") as c:
        await c.user("it", calls(f"update_email_address {json.dumps({'email': email})}"), "Thanks")
        assert c.outcome == GetEmailResult(email)


async def test_the_spelling_of_an_email_address_may_be_asked_for() -> None:
    assert "letter by letter" in GetEmailTask(verify_spelling=True).instructions.render(
        modality="audio"
    )
    assert "letter by letter" not in GetEmailTask().instructions.render(modality="audio")


async def test_a_middle_name_may_be_missing_and_a_format_orders_the_parts() -> None:
    def make() -> GetNameTask:
        return GetNameTask(
            last_name=True, middle_name=True, name_format="{last_name}, {first_name} {middle_name}"
        )

    async with collecting(make) as c:
        arguments = '{"first_name": "Ada", "middle_name": "", "last_name": "Lovelace"}'
        await c.user("Ada", calls(f"update_name {arguments}"), "Right?")
        assert "Lovelace, Ada. Ask whether" in c.result()
        await c.user("yes", calls("confirm_name"), "Thanks")
        assert c.outcome == GetNameResult("Ada", None, "Lovelace")


async def test_a_name_without_parts_or_with_a_broken_format_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one of"):
        GetNameTask(first_name=False)
    for broken in ("{last_name}", "{first_name", "Ada"):
        with pytest.raises(ValueError, match="name_format"):
            GetNameTask(name_format=broken)


async def test_the_time_of_birth_is_asked_for_after_the_date() -> None:
    async with collecting(lambda: GetDOBTask(include_time=True)) as c:
        early = calls('update_time_of_birth {"hour": 25}')
        await c.user("at night", early, "When?")
        assert c.result().startswith("c1 error: 25:None is no time")
        await c.user("x", calls('update_dob {"year": 1990, "month": 2, "day": 28}'), "And when?")
        assert c.result() == "c1: Taken down. Now ask for the time of birth, if the user knows it."
        await c.user("x", calls('update_time_of_birth {"hour": 23, "minute": 5}'), "Right?")
        assert "1990-02-28" in c.result() and "23:05" in c.result()
        await c.user("yes", calls("confirm_dob"), "Thanks")
        assert c.outcome == GetDOBResult(datetime.date(1990, 2, 28), datetime.time(23, 5))


async def test_the_time_of_birth_need_not_be_known() -> None:
    async with collecting(lambda: GetDOBTask(include_time=True), modality="text") as c:
        await c.user("x", calls("update_time_of_birth"), "And the date?")
        assert c.result() == "c1: Taken down. Now ask for the date of birth."
        await c.user("x", calls('update_dob {"year": 1990, "month": 2, "day": 28}'), "Thanks")
        assert c.outcome == GetDOBResult(datetime.date(1990, 2, 28), None)


# -- instructions ---------------------------------------------------------------------------------------


async def test_the_persona_of_a_task_can_be_exchanged() -> None:
    for make in (GetEmailTask, GetAddressTask):
        given = WorkflowInstructions(persona="You are Ada.", extra="Sell tea.")
        text = str(make(instructions=given).instructions.render(modality="audio"))  # type: ignore[union-attr]
        assert text.startswith("You are Ada.\n\n") and text.endswith("Sell tea.")
        assert "speech recognition" in text


async def test_the_instructions_of_a_task_can_be_replaced() -> None:
    given = WorkflowInstructions("Spoken {x}.", text="Written.", extra="More.")
    made: Any = GetEmailTask(instructions=given, extra_instructions="Even more.").instructions
    assert made.render(modality="audio") == "Spoken {x}.\n\nMore.\n\nEven more."
    assert made.render(modality="text") == "Written.\n\nMore.\n\nEven more."
    made = GetEmailTask(instructions="Just this.", extra_instructions="More.").instructions
    assert made.render(modality="text") == made.render(modality="audio") == "Just this.\n\nMore."
    plain = Instructions("Common.", audio="Spoken.", dynamic="Now.")
    made = GetEmailTask(instructions=plain, extra_instructions="More.").instructions
    assert made.render(modality="audio") == "Common.\n\nMore.\n\nSpoken.\nNow."


async def test_workflow_instructions_keep_what_they_were_made_of() -> None:
    given = WorkflowInstructions("x", persona="p", extra="e")
    assert (given.common, given.persona, given.extra) == ("x", "p", "e")
    with pytest.raises(KeyError):
        WorkflowInstructions().resolve(template="{nothing}", default_persona="")


async def test_a_subclass_may_open_the_conversation_in_its_own_way() -> None:
    class Friendly(GetEmailTask):
        async def on_enter(self) -> None:
            await self.session.say("Hi there, what is your email?")

    async with collecting(Friendly, greets=False) as c:
        await c.user("x", CASES["email"].updates(), "Right?")
        await c.user("yes", calls("confirm_email_address"), "Thanks")
        assert c.outcome == CASES["email"].result


async def test_a_task_may_be_the_first_agent_of_a_session() -> None:
    task = GetEmailTask(require_confirmation=False)
    session = make_session()
    await session.start(task)
    await session.aclose()
    assert isinstance(task._fut.exception(), ToolError)
