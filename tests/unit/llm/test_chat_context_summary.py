"""Summarising the older part of a conversation."""

from __future__ import annotations

import pytest

from fakes.chat import call, context, ids, message, output
from fakes.llm import FakeLLM
from livekit.agents.llm.chat_context import AgentHandoff, ChatContext, to_xml


def conversation() -> ChatContext:
    """Instructions, one turn with a tool, two more turns; timestamps 0 to 8."""
    return context(
        message("system", "be kind", id="sys", created_at=0),
        message("user", "hello", id="u1", created_at=1),
        call("c1", id="call", arguments='{"q": 1}', created_at=2),
        output("c1", "nothing", id="out", is_error=True, created_at=3),
        message("assistant", "hi", id="a1", created_at=4),
        message("user", "b?", id="u2", created_at=5),
        message("assistant", "b!", id="a2", created_at=6),
        message("user", "c?", id="u3", created_at=7),
        message("assistant", "c!", id="a3", created_at=8),
    )


def test_xml_elements() -> None:
    assert to_xml("user", "hi") == "<user>\nhi\n</user>"
    assert to_xml("user") == to_xml("user", "") == "<user />"
    assert to_xml("f", "x", {"name": 'a"b', "id": 1}) == '<f name="a&quot;b" id="1">\nx\n</f>'


async def test_the_last_turns_stay_and_the_rest_becomes_one_message() -> None:
    ctx = conversation()
    items = ctx.items
    llm = FakeLLM([" they met "])
    assert await ctx._summarize(llm, keep_last_turns=2) is ctx
    assert ctx.items is items
    summary = ctx.messages()[1]
    assert ids(ctx) == ["sys", summary.id, "u2", "a2", "u3", "a3"]
    assert summary.role == "assistant" and summary.extra == {"is_summary": True}
    assert summary.text_content == "<chat_history_summary>\nthey met\n</chat_history_summary>"
    assert 4 < summary.created_at < 5


async def test_the_model_reads_what_was_said_and_done() -> None:
    llm = FakeLLM(["s"])
    await conversation()._summarize(llm, keep_last_turns=2)
    (request,) = llm.requests
    assert [m.role for m in request.chat_ctx.messages()] == ["system", "user"]
    expected = [
        to_xml("user", "hello"),
        to_xml("function_call", '{"q": 1}', {"name": "look_up", "call_id": "c1"}),
        to_xml(
            "function_call_output",
            to_xml("error", "nothing"),
            {"call_id": "c1", "name": "look_up"},
        ),
        to_xml("assistant", "hi"),
    ]
    assert request.user_text.endswith("\n\n".join(expected))


async def test_without_a_tail_everything_is_summarised() -> None:
    ctx = conversation()
    await ctx._summarize(FakeLLM(["all"]), keep_last_turns=0)
    assert ids(ctx)[0] == "sys" and len(ctx.items) == 2
    assert ctx.items[1].created_at > 8


async def test_earlier_summaries_and_other_items_stay_and_are_not_summarised_again() -> None:
    ctx = context(
        message("assistant", "old summary", id="s0", extra={"is_summary": True}),
        AgentHandoff(new_agent_id="x", id="h"),
        message("user", "  ", id="blank"),
        message("user", "more", id="u1"),
        message("assistant", "bye", id="a1"),
    )
    llm = FakeLLM(["new"])
    await ctx._summarize(llm, keep_last_turns=0)
    assert ids(ctx)[:2] == ["s0", "h"] and len(ctx.items) == 3
    assert "old summary" not in llm.requests[0].user_text


@pytest.mark.parametrize("keep", [4, 5])
async def test_a_short_conversation_stays_as_it_is(keep: int) -> None:
    ctx, llm = conversation(), FakeLLM(["s"])
    before = ids(ctx)
    await ctx._summarize(llm, keep_last_turns=keep)
    assert ids(ctx) == before and not llm.requests


async def test_nothing_said_is_nothing_to_summarise() -> None:
    ctx, llm = context(message("system", "x")), FakeLLM(["s"])
    await ctx._summarize(llm, keep_last_turns=0)
    assert len(ctx.items) == 1 and not llm.requests


async def test_a_blank_answer_changes_nothing() -> None:
    ctx = conversation()
    before = ids(ctx)
    await ctx._summarize(FakeLLM(["  \n"]), keep_last_turns=1)
    assert ids(ctx) == before
