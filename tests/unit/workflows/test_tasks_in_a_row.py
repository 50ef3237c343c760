"""Groups of tasks: one after the other, with the way back, and a summary at the end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from fakes.collecting import Collecting, collecting
from fakes.llm import Reply
from fakes.tools import calls, messages, results
from livekit.agents.beta.workflows import (
    GetCreditCardResult,
    GetCreditCardTask,
    GetEmailResult,
    GetEmailTask,
    GetNameResult,
    GetNameTask,
    TaskCompletedEvent,
    TaskGroup,
)
from livekit.agents.beta.workflows._card_numbers import issuer_of
from livekit.agents.beta.workflows.credit_card import (
    CardCaptureDeclinedError,
    CardCollectionRestartError,
    GetCardNumberTask,
    GetExpirationDateTask,
    GetSecurityCodeTask,
)
from livekit.agents.llm import ToolError
from livekit.agents.voice import AgentTask

NAME = calls('update_name {"first_name": "Ada"}')
EMAIL = calls('update_email_address {"email": "ada@example.com"}')
BACK = calls('out_of_scope {"task_ids": ["name"]}')


def make_group(**options: Any) -> TaskGroup:
    options.setdefault("summarize_chat_ctx", False)
    group = TaskGroup(**options)
    group.add(GetNameTask, id="name", description="the first name")
    group.add(GetEmailTask, id="email", description="the email address")
    return group


async def test_tasks_run_in_order_and_know_what_was_said() -> None:
    done: list[TaskCompletedEvent] = []

    async def on_done(event: TaskCompletedEvent) -> None:
        done.append(event)

    async with collecting(
        lambda: make_group(on_task_completed=on_done), "Your name?", modality="text"
    ) as c:
        await c.user("Ada", NAME, "And your email?")
        assert isinstance(c.session.current_agent, GetEmailTask)
        asked = [m.text_content for m in c.llm.requests[-1].chat_ctx.messages()]
        assert "Ada" in asked and "Your name?" in asked
        await c.user("ada@example.com", EMAIL, "Thanks.")
        assert c.outcome.task_results == {
            "name": GetNameResult("Ada"),
            "email": GetEmailResult("ada@example.com"),
        }
        assert list(c.outcome.task_results) == ["name", "email"]
    assert [(e.task_id, e.result) for e in done] == list(c.outcome.task_results.items())
    assert isinstance(done[0].agent_task, GetNameTask)


async def test_the_user_may_return_to_what_is_done() -> None:
    async with collecting(make_group, "Your name?", modality="text") as c:
        assert "out_of_scope" not in {tool.id for tool in c.session.current_agent.tools}
        await c.user("Ada", NAME, "And your email?")
        await c.user("my name is Eve, sorry", BACK, "So your name is?")
        assert isinstance(c.session.current_agent, GetNameTask)
        assert "out_of_scope" in {tool.id for tool in c.session.current_agent.tools}
        await c.user("Eve", calls('update_name {"first_name": "Eve"}'), "And your email?")
        await c.user("ada@example.com", EMAIL, "Thanks.")
        assert c.outcome.task_results == {
            "name": GetNameResult("Eve"),
            "email": GetEmailResult("ada@example.com"),
        }


@pytest.mark.parametrize("ids", ['["email"]', "[]", '["age"]', "7"])
async def test_there_is_no_return_to_what_was_not_done(ids: str) -> None:
    async with collecting(make_group, "Your name?", modality="text") as c:
        await c.user("Ada", NAME, "And your email?")
        await c.user("hm", calls(f'out_of_scope {{"task_ids": {ids}}}'), "Your email?")
        assert "error" in c.result("c1 error") and isinstance(c.session.current_agent, GetEmailTask)


async def test_a_task_that_fails_fails_the_group() -> None:
    decline = calls('decline_name_capture {"reason": "no"}')
    async with collecting(make_group, "Your name?", modality="text") as c:
        with pytest.raises(ToolError):
            await c.user("no", decline, "Fine.")
        assert isinstance(c.outcome, ToolError)


async def test_a_group_may_keep_failures_as_results() -> None:
    decline = calls('decline_name_capture {"reason": "no"}')
    async with collecting(
        lambda: make_group(return_exceptions=True), "Your name?", modality="text"
    ) as c:
        with pytest.raises(ToolError):
            await c.user("no", decline, "And your email?")
        await c.user("ada@example.com", EMAIL, "Thanks.")
        assert isinstance(c.outcome.task_results["name"], ToolError)
        assert c.outcome.task_results["email"] == GetEmailResult("ada@example.com")


async def test_what_is_said_in_the_group_is_summarized_for_the_agent_but_kept_in_the_history() -> (
    None
):
    async with collecting(
        lambda: make_group(summarize_chat_ctx=True), "Your name?", modality="text"
    ) as c:
        await c.user("Ada", NAME, "And your email?")
        await c.user("ada@example.com", EMAIL, "Ada gave her data.", "Thanks.")
        texts = [m.text_content or "" for m in c.agent.chat_ctx.messages()]
        assert any("Ada gave her data." in text for text in texts)
        assert "Your name?" not in texts and "please" in texts
        assert "assistant: Your name?" in messages(c.session)


@pytest.mark.parametrize("summary", [Reply(hangs=True), Reply(error=RuntimeError("oops"))])
async def test_a_summary_that_does_not_come_is_done_without(summary: Reply) -> None:
    async with collecting(
        lambda: make_group(summarize_chat_ctx=True), "Your name?", modality="text"
    ) as c:
        await c.user("Ada", NAME, "And your email?")
        await c.user("ada@example.com", EMAIL, summary, "Thanks.")
        assert c.outcome.task_results["email"] == GetEmailResult("ada@example.com")
        assert "Your name?" in [m.text_content for m in c.agent.chat_ctx.messages()]


async def test_a_handler_that_fails_fails_the_group() -> None:
    async def on_done(event: TaskCompletedEvent) -> None:
        raise RuntimeError("the database is gone")

    async with collecting(
        lambda: make_group(on_task_completed=on_done), "Your name?", modality="text"
    ) as c:
        await c.user("Ada", NAME, "Sorry.")
        assert isinstance(c.outcome, RuntimeError) and "database" in str(c.outcome)


async def test_a_group_without_tasks_is_done_at_once() -> None:
    async with collecting(TaskGroup, "Done.") as c:
        assert c.outcome.task_results == {}


async def test_ids_are_unique_and_tasks_come_before_the_start() -> None:
    with pytest.raises(ValueError, match="a task 'name' already"):
        make_group().add(GetNameTask, id="name", description="again")
    async with collecting(make_group) as c:
        with pytest.raises(RuntimeError, match="too late"):
            c.task.add(GetNameTask, id="other", description="x")


@pytest.mark.parametrize("turns", range(3))
@pytest.mark.parametrize("seconds", [0.0, 0.001, 2.0])
async def test_a_close_ends_the_group_wherever_it_is(turns: int, seconds: float) -> None:
    async with collecting(
        lambda: make_group(summarize_chat_ctx=True, return_exceptions=True),
        "Your name?",
        modality="text",
    ) as c:
        steps = [("Ada", NAME, "And your email?"), ("x", EMAIL, Reply(hangs=True), "Thanks")]
        for text, *replies in steps[:turns]:
            c.llm.replies[:] = replies
            c.session.generate_reply(user_input=text)
            await asyncio.sleep(seconds)
        began = asyncio.get_running_loop().time()
        await c.session.aclose()
        assert asyncio.get_running_loop().time() - began < 1.0
        assert len(c.recorded.closes) == 1 and not c.recorded.closes[0].report.survivors
        if turns < 2:
            assert isinstance(c.outcome, ToolError)


# -- cards --------------------------------------------------------------------------------------------

VISA, AMEX = "4242424242424242", "378282246310005"


def number(digits: str) -> Reply:
    return calls(f"update_card_number {json.dumps({'card_number': digits})}")


def code(digits: str, tool: str = "update_security_code") -> Reply:
    return calls(f"{tool} {json.dumps({'security_code': digits})}")


def date(month: int, year: int) -> Reply:
    return calls(f"update_expiration_date {json.dumps({'month': month, 'year': year})}")


HOLDER = calls('update_cardholder_name {"name": "Ada  Lovelace"}')


def everything(c: Collecting) -> str:
    """All words that are kept of the conversation."""
    words: list[str] = []
    for item in (*c.session.history.items, *c.agent.chat_ctx.items):
        if item.type == "message":
            words.append(item.text_content or "")
        elif item.type == "function_call":
            words.append(item.arguments)
        elif item.type == "function_call_output":
            words.append(item.output)
    return " | ".join(words)


async def test_a_card_is_taken_piece_by_piece_and_its_secrets_are_not_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    async with collecting(GetCreditCardTask, "The name on the card?", modality="text") as c:
        await c.user("Ada Lovelace", HOLDER, "And the number?")
        await c.user("4242 4242-4242 4242", number("4242 4242 4242 4242"), "Valid until?")
        await c.user("august 49", date(8, future() % 100), "And the code?")
        await c.user("code 123", code("123"), "Thanks.")
        card = c.outcome
        assert card == GetCreditCardResult(
            "Ada Lovelace", "Visa", VISA, "123", f"08/{future() % 100:02d}"
        )
        kept = everything(c)
        assert VISA not in kept.replace(" ", "").replace("-", "") and "123" not in kept
        assert "[redacted]" in kept and "123" not in repr(card) and VISA not in repr(card)
        assert VISA not in caplog.text


def future() -> int:
    """A year in which a card may expire."""
    import time

    return time.gmtime(time.time()).tm_year + 3


async def test_who_speaks_hears_four_digits_and_says_the_code_twice() -> None:
    async with collecting(GetCardNumberTask) as c:
        await c.user("it is", number(VISA), "The Visa that ends in 4 2 4 2?")
        assert "the Visa card that ends in 4 2 4 2" in c.result() and VISA not in c.result()
        await c.user("yes", calls("confirm_card_number"), "Thanks")
        assert (c.outcome.issuer, c.outcome.card_number) == ("Visa", VISA)
    async with collecting(GetSecurityCodeTask) as c:
        await c.user("it is", code("987"), "Again please?")
        assert "987" not in c.result()
        await c.user("hm", code("986", "confirm_security_code"), "That differs. Once more?")
        assert "not the code of the first time" in c.result("c1 error")
        await c.user("it is", code("987"), "Again please?")
        await c.user("it is", code("987", "confirm_security_code"), "Thanks")
        assert c.outcome.security_code == "987" and "987" not in everything(c)


async def test_a_misheard_number_is_asked_for_again() -> None:
    async with collecting(GetCardNumberTask, modality="text") as c:
        for wrong in ("4242424242424241", "4242", "four two", "0" * 16, "4" * 20):
            await c.user("it is", number(wrong), "Once more?")
            assert c.result().startswith("c1 error") and wrong not in c.result()
            assert wrong not in everything(c)
        await c.user("it is", number(VISA), "Thanks")
        assert c.outcome.card_number == VISA


async def test_the_code_of_a_card_has_as_many_digits_as_its_issuer_prints() -> None:
    async with collecting(GetCreditCardTask, "The name?", modality="text") as c:
        await c.user("Ada", HOLDER, "And the number?")
        await c.user("it is", number(AMEX), "Valid until?")
        await c.user("x", date(8, future()), "And the code?")
        await c.user("x", code("123"), "Four digits?")
        assert "has 4 digits, this has 3" in c.result("c1 error")
        await c.user("x", code("1234"), "Thanks.")
        assert (c.outcome.issuer, c.outcome.security_code) == ("American Express", "1234")


@pytest.mark.parametrize(
    ("month", "year", "why"), [(13, 2050, "no month"), (1, 2001, "expired"), (1, 99, "until 2099")]
)
async def test_an_impossible_expiration_date_is_refused(month: int, year: int, why: str) -> None:
    async with collecting(GetExpirationDateTask, modality="text") as c:
        await c.user("x", date(month, year), "Once more?")
        assert why in c.result("c1 error") and c.outcome is None


async def test_the_user_may_start_over_with_another_card_or_decline() -> None:
    async with collecting(GetCreditCardTask, "The name?", modality="text") as c:
        await c.user("Ada", HOLDER, "And the number?")
        restart = calls('restart_card_collection {"reason": "another card"}')
        await c.user("I take another one", restart, "The name on that one?")
        assert "name of the cardholder" in c.session.current_agent._what  # type: ignore[attr-defined]
        decline = calls('decline_card_capture {"reason": "I pay cash"}')
        with pytest.raises(CardCaptureDeclinedError):
            await c.user("I pay cash", decline, "Fine.")
        assert isinstance(c.outcome, CardCaptureDeclinedError)
        assert c.outcome.reason == "I pay cash" and "I pay cash" in c.outcome.message
    assert CardCollectionRestartError("x").reason == "x"


async def test_the_tasks_of_a_card_use_the_models_and_tools_they_are_given() -> None:
    async def nothing() -> None: ...

    from fakes.llm import FakeLLM
    from livekit.agents.llm import function_tool

    tool = function_tool(nothing, name="weather", description="x")
    own = FakeLLM(default="The name on the card, please?")

    def make() -> AgentTask[Any]:
        return GetCreditCardTask(tools=[tool], llm=own, allow_interruptions=False)

    async with collecting(make, greets=False) as c:
        assert len(own.requests) == 1
        agent = c.session.current_agent
        assert "weather" in {t.id for t in agent.tools} and agent.allow_interruptions is False


async def test_a_close_in_the_middle_of_a_card_leaves_nothing() -> None:
    async with collecting(GetCreditCardTask, "The name?", modality="text") as c:
        await c.user("Ada", HOLDER, "And the number?")
        await c.session.aclose()
        assert isinstance(c.outcome, ToolError) and len(results(c.session)) >= 1
        assert not c.recorded.closes[0].report.survivors


@pytest.mark.parametrize(
    ("digits", "issuer"),
    [
        (VISA, "Visa"),
        (AMEX, "American Express"),
        ("5555555555554444", "Mastercard"),
        ("2223003122003222", "Mastercard"),
        ("2720990000000007", "Mastercard"),
        ("6011111111111117", "Discover"),
        ("30569309025904", "Diners Club"),
        ("3530111333300000", "JCB"),
        ("6200000000000005", "UnionPay"),
        ("9999999999999995", "Other"),
    ],
)
def test_the_number_tells_the_issuer(digits: str, issuer: str) -> None:
    assert issuer_of(digits) == issuer
