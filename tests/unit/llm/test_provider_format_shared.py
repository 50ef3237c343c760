"""What every provider format guarantees, over random conversations; grouping and pairing."""

from __future__ import annotations

import copy
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings

from fakes import chat
from fakes.chat import call, context, ids, message, output
from livekit.agents.llm._provider_format.utils import (
    _DEFAULT_INLINE_INSTRUCTIONS_TEMPLATE,
    convert_mid_conversation_instructions,
    group_items,
    model_items,
)
from livekit.agents.llm.chat_context import (
    DYNAMIC_INSTRUCTIONS_MESSAGE_ID,
    AgentConfigUpdate,
    AgentHandoff,
    ChatContext,
    ChatItem,
)

FORMATS = ["openai", "openai.responses", "anthropic", "google", "aws", "mistralai"]
DYNAMIC = DYNAMIC_INSTRUCTIONS_MESSAGE_ID


def flattened(*items: ChatItem) -> list[list[str]]:
    """The ids of each group's members."""
    return [[i.id for i in group.flatten()] for group in group_items(model_items(items))]


def test_an_unknown_format_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="parrot"):
        ChatContext().to_provider_format("parrot")


class TestGrouping:
    def test_calls_join_the_reply_their_id_names(self) -> None:
        groups = flattened(
            message("user", "a", id="u"),
            call("c1", id="m/fnc_0"),
            output("c1", id="o1"),
            message("assistant", "hi", id="m"),
            call("c2", id="m/fnc_1"),
            message("user", "b", id="u2"),
            output("c2", id="o2"),
        )
        assert groups == [["u"], ["m", "m/fnc_0", "m/fnc_1", "o1", "o2"], ["u2"]]

    def test_a_group_id_overrides_the_item_id(self) -> None:
        groups = flattened(
            message("assistant", "hi", id="m"),
            call("c", id="x/1", group_id="m"),
            output("c", id="o"),
        )
        assert groups == [["m", "x/1", "o"]]

    def test_outputs_follow_in_order_of_arrival(self) -> None:
        groups = flattened(
            call("c1", id="m/1"), call("c2", id="m/2"), output("c2", id="o2"), output("c1", id="o1")
        )
        assert groups == [["m/1", "m/2", "o2", "o1"]]

    def test_a_message_of_the_user_never_joins_a_reply_of_the_same_id(self) -> None:
        groups = flattened(
            message("assistant", "hi", id="x"),
            message("user", "a", id="x"),
            message("user", "b", id="y"),
        )
        assert groups == [["x"], ["x"], ["y"]]

    def test_a_repeated_id_replaces_the_message_where_it_stood(self) -> None:
        ctx = context(
            message("user", "old", id="u"),
            message("assistant", "hi"),
            message("user", "new", id="u"),
        )
        assert [m["content"] for m in ctx.to_provider_format("openai")[0]] == ["new", "hi"]

    def test_two_assistant_messages_in_one_group_are_a_bug(self) -> None:
        with pytest.raises(AssertionError, match="'m'"):
            flattened(message("assistant", "a", id="m"), message("assistant", "b", id="m/2"))


class TestPairing:
    def test_unanswered_calls_and_orphaned_outputs_are_dropped_with_a_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        groups = flattened(
            message("assistant", "hi", id="m"),
            call("c1", id="m/1"),
            call("c2", id="m/2"),
            output("c2", id="o2"),
            output("c9", id="o9"),
            call("c3", id="alone"),
        )
        assert groups == [["m", "m/2", "o2"]]
        dropped = [record.__dict__["call_ids"] for record in caplog.records]
        assert dropped == [["c1", "c3"], ["c9"]]

    def test_a_duplicated_output_does_not_hide_an_unanswered_call(self) -> None:
        groups = flattened(
            call("c1", id="m/1"),
            call("c2", id="m/2"),
            output("c1", id="o1"),
            output("c1", id="again"),
        )
        assert groups == [["m/1", "o1"]]

    def test_an_output_may_stand_before_its_call(self) -> None:
        assert flattened(output("c", id="o"), call("c", id="m/1")) == [["m/1", "o"]]

    def test_a_reused_call_id_pairs_within_its_turn(self) -> None:
        groups = flattened(
            call("0", id="a/1"),
            output("0", id="oa"),
            call("0", id="interrupted/1"),
            call("0", id="b/1"),
            output("0", id="ob"),
        )
        assert groups == [["a/1", "oa"], ["b/1", "ob"]]

    @given(chat.conversations)
    def test_each_call_has_one_output_in_its_group(self, items: list[ChatItem]) -> None:
        for group in group_items(model_items(items)):
            called = Counter(c.call_id for c in group.calls)
            assert called == Counter(o.call_id for o in group.outputs)
            assert group.message or group.calls


class TestInstructions:
    @pytest.mark.parametrize("fmt", ["anthropic", "google", "aws"])
    @pytest.mark.parametrize("role", ["system", "developer"])
    def test_the_first_and_its_dynamic_part_stand_apart(self, fmt: str, role: Any) -> None:
        ctx = context(
            AgentHandoff(new_agent_id="a"),
            message(role, "be kind"),
            AgentConfigUpdate(),
            message("system", "it is noon", id=DYNAMIC),
            message("user", "hello"),
        )
        entries, data = ctx.to_provider_format(fmt)
        assert data.system_messages == ["be kind\nit is noon"]
        assert len(entries) == 1 and entries[0]["role"] == "user"

    @pytest.mark.parametrize("fmt", ["anthropic", "google", "aws"])
    def test_later_ones_are_said_by_the_user(self, fmt: str) -> None:
        ctx = context(
            message("user", "hello"),
            message("system", "be kind"),
            message("developer"),
            message("system", "noon", id=DYNAMIC),
        )
        entries, data = ctx.to_provider_format(fmt)
        (turn,) = entries
        parts = turn.get("content") or turn.get("parts")
        assert data.system_messages == []
        assert [part["text"] for part in parts] == [
            "hello",
            "<instructions>\nbe kind\n</instructions>",
            "<instructions>\nnoon\n</instructions>",
        ]

    @pytest.mark.parametrize("fmt", ["openai", "openai.responses"])
    def test_openai_keeps_them_in_place_and_merges_the_dynamic_part(self, fmt: str) -> None:
        ctx = context(
            message("developer", "be kind"),
            message("system", "noon", id=DYNAMIC),
            message("user", "hello"),
            message("system", "hurry"),
        )
        entries, data = ctx.to_provider_format(fmt)
        assert data is None
        assert [(entry["role"], entry["content"]) for entry in entries] == [
            ("developer", "be kind\nnoon"),
            ("user", "hello"),
            ("system", "hurry"),
        ]
        apart, _ = ctx.to_provider_format(fmt, prompt_cache_breakpoints=True)
        assert [entry["content"] for entry in apart] == ["be kind", "noon", "hello", "hurry"]

    def test_a_dynamic_part_after_something_said_is_not_merged(self) -> None:
        ctx = context(
            message("user", "a"), message("system", "b"), message("system", "c", id=DYNAMIC)
        )
        assert [m["content"] for m in ctx.to_provider_format("openai")[0]] == ["a", "b", "c"]

    def test_instructions_without_text_leave_nothing(self) -> None:
        _, data = context(message("system"), message("user", "a")).to_provider_format("anthropic")
        assert data.system_messages == []


@pytest.mark.parametrize("fmt", ["anthropic", "google", "aws"])
@pytest.mark.parametrize("arguments", ["", "{nonsense", "[1]", "null"])
def test_garbled_arguments_of_a_past_call_become_an_empty_object(fmt: str, arguments: str) -> None:
    ctx = context(call("c", arguments=arguments), output("c"))
    entries, _ = ctx.to_provider_format(fmt)
    assert [value for key, value in _walk(entries) if key in ("input", "args")] == [{}]


@pytest.mark.parametrize("fmt", FORMATS)
@given(items=chat.conversations)
@settings(max_examples=20)
def test_converting_changes_nothing_and_never_fails(fmt: str, items: list[ChatItem]) -> None:
    ctx = _without_external_images(items) if fmt == "aws" else ChatContext(items)
    before = copy.deepcopy(ctx.to_dict(exclude_image=False, exclude_timestamp=False))
    entries, _ = ctx.to_provider_format(fmt)
    assert ctx.to_dict(exclude_image=False, exclude_timestamp=False) == before
    assert entries == ctx.to_provider_format(fmt)[0], "and again, the same"
    json.dumps(entries, default=bytes.hex)


@pytest.mark.parametrize("fmt", FORMATS)
@given(items=chat.conversations)
@settings(max_examples=20)
def test_calls_and_outputs_come_in_pairs(fmt: str, items: list[ChatItem]) -> None:
    ctx = _without_external_images(items) if fmt == "aws" else ChatContext(items)
    entries, _ = ctx.to_provider_format(fmt)
    called, answered = _call_ids(fmt, entries)
    assert Counter(called) == Counter(answered)
    expected = [group.calls for group in group_items(model_items(ctx.items))]
    assert Counter(called) == Counter(c.call_id for calls in expected for c in calls)


@pytest.mark.parametrize("fmt", ["anthropic", "google", "aws"])
@given(items=chat.conversations)
@settings(max_examples=20)
def test_turns_alternate_and_are_never_empty(fmt: str, items: list[ChatItem]) -> None:
    entries, _ = _without_external_images(items).to_provider_format(fmt)
    kinds = [_kind(entry) for entry in entries]
    assert all(a != b for a, b in itertools.pairwise(kinds))
    assert all(entry.get("content") or entry.get("parts") for entry in entries)
    if fmt == "google":
        assert kinds[-1] != "model"
    else:
        assert kinds[0] == "user"


def _kind(turn: dict[str, Any]) -> str:
    outputs = any("function_response" in part for part in turn.get("parts", ()))
    return "outputs" if outputs else turn["role"]


def _without_external_images(items: list[ChatItem]) -> ChatContext:
    kept = [
        item
        for item in items
        if item.type != "message"
        or not any(
            getattr(part, "image", None) == "https://example.com/cat.jpg" for part in item.content
        )
    ]
    return ChatContext(kept)


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


_ID_KEYS = {
    "anthropic": ("tool_use", "id", "tool_result", "tool_use_id"),
    "openai.responses": ("function_call", "call_id", "function_call_output", "call_id"),
    "mistralai": ("function.call", "tool_call_id", "function.result", "tool_call_id"),
}


def _call_ids(fmt: str, entries: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    if fmt == "openai":
        calls = [c["id"] for entry in entries for c in entry.get("tool_calls", ())]
        return calls, [entry["tool_call_id"] for entry in entries if entry["role"] == "tool"]
    parts = [value for _, value in _walk({"entries": entries}) if isinstance(value, list)]
    dicts = [part for part_list in parts for part in part_list if isinstance(part, dict)]
    if fmt == "google":
        return (
            [p["function_call"]["id"] for p in dicts if "function_call" in p],
            [p["function_response"]["id"] for p in dicts if "function_response" in p],
        )
    if fmt == "aws":
        return (
            [p["toolUse"]["toolUseId"] for p in dicts if "toolUse" in p],
            [p["toolResult"]["toolUseId"] for p in dicts if "toolResult" in p],
        )
    call_type, call_key, output_type, output_key = _ID_KEYS[fmt]
    return (
        [p[call_key] for p in dicts if p.get("type") == call_type],
        [p[output_key] for p in dicts if p.get("type") == output_type],
    )


def test_handoffs_and_configuration_never_reach_a_model() -> None:
    ctx = context(AgentHandoff(new_agent_id="a"), AgentConfigUpdate(instructions="x"))
    for fmt in FORMATS:
        assert ctx.to_provider_format(fmt, inject_dummy_user_message=False)[0] == []
    assert len(ids(ctx)) == 2


def test_plugins_turn_later_instructions_into_messages() -> None:
    ctx = ChatContext.empty()
    ctx.add_message(role="system", content="be brief")
    ctx.add_message(role="user", content="hello")
    ctx.add_message(role="system", content="speak French")
    ctx.add_message(role="developer", content="")

    converted = convert_mid_conversation_instructions(ctx)

    assert [(m.role, m.text_content) for m in converted.messages()] == [
        ("system", "be brief"),
        ("user", "hello"),
        ("user", "<instructions>\nspeak French\n</instructions>"),
    ]
    assert [m.role for m in ctx.messages()] == ["system", "user", "system", "developer"]
    assert converted.items[2].id == ctx.items[2].id


def test_plugins_may_bring_their_own_words_for_later_instructions() -> None:
    ctx = ChatContext.empty()
    ctx.add_message(role="user", content="hello")
    ctx.add_message(role="system", content="speak {French}")
    converted = convert_mid_conversation_instructions(ctx, template="Note: {content}")
    assert converted.messages()[1].text_content == "Note: speak {French}"
    for wrapped in (
        _DEFAULT_INLINE_INSTRUCTIONS_TEMPLATE.format("x"),
        _DEFAULT_INLINE_INSTRUCTIONS_TEMPLATE.format(instructions="x"),
    ):
        assert wrapped == "<instructions>\nx\n</instructions>"
