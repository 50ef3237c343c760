"""The chat context as its users see it: adding, finding, copying, cutting, merging."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st

from fakes import chat
from fakes.chat import call, context, ids, message, output
from livekit.agents.llm.chat_context import (
    DYNAMIC_INSTRUCTIONS_MESSAGE_ID,
    AgentConfigUpdate,
    AgentHandoff,
    ChatContext,
    ChatItem,
    ChatMessage,
    Instructions,
    _ReadOnlyChatContext,
)


def test_the_given_list_is_kept_and_not_copied() -> None:
    items: list[ChatItem] = []
    ChatContext(items).add_message(role="user", content="hello")
    assert len(items) == 1


def test_contexts_do_not_share_their_default_list() -> None:
    ChatContext().add_message(role="user", content="hello")
    assert ChatContext().items == [] == ChatContext.empty().items


def test_a_text_becomes_the_only_part_of_a_message() -> None:
    added = ChatContext().add_message(role="user", content="hello", extra={"a": 1}, id="m1")
    assert (added.id, added.content, added.extra) == ("m1", ["hello"], {"a": 1})
    assert added.interrupted is False and added.metrics == {}


def test_instructions_are_rendered_when_added() -> None:
    added = ChatContext().add_message(role="system", content=Instructions("be kind", dynamic="now"))
    assert added.content == ["be kind\nnow"]


def test_a_message_without_a_time_goes_to_the_end() -> None:
    ctx = context(message("user", "later", id="later", created_at=1e12))
    ctx.add_message(role="user", content="now", id="now")
    assert ids(ctx) == ["later", "now"]


def test_a_message_with_a_time_goes_where_it_belongs() -> None:
    ctx = context(
        message("user", "a", id="a", created_at=1), message("user", "c", id="c", created_at=3)
    )
    ctx.add_message(role="user", content="b", id="b", created_at=2)
    assert ids(ctx) == ["a", "b", "c"]


@settings(max_examples=40)
@given(st.lists(chat.items, max_size=12))
def test_inserting_sorts_by_time_and_keeps_arrival_order_on_ties(items: list[ChatItem]) -> None:
    ctx = ChatContext()
    ctx.insert(items)
    assert ids(ctx) == [item.id for item in sorted(items, key=lambda item: item.created_at)]


@settings(max_examples=40)
@given(chat.conversations, chat.times)
def test_an_item_goes_right_after_the_last_that_is_not_newer(
    items: list[ChatItem], created_at: float
) -> None:
    index = ChatContext(items).find_insertion_index(created_at=created_at)
    assert all(item.created_at > created_at for item in items[index:])
    assert index == 0 or items[index - 1].created_at <= created_at


def test_items_are_found_and_removed_by_id_or_object() -> None:
    first, second = message("user", "a"), call("c1")
    ctx = context(first, second)
    assert ctx.get_by_id(second.id) is second and ctx.index_by_id(second.id) == 1
    ctx.remove(first)
    ctx.remove(second.id)
    assert ctx.items == []
    assert ctx.get_by_id(first.id) is None and ctx.index_by_id(first.id) is None
    with pytest.raises(ValueError, match=first.id):
        ctx.remove(first)


def test_removing_takes_the_first_of_two_items_with_the_same_id() -> None:
    ctx = context(message("user", "a", id="x"), message("user", "b", id="x"))
    ctx.remove("x")
    assert [m.content for m in ctx.messages()] == [["b"]]


def test_messages_leaves_out_other_items() -> None:
    said = message("user", "a")
    assert context(call("c"), said, AgentHandoff(new_agent_id="x")).messages() == [said]


def test_upsert_replaces_in_place_even_when_the_time_differs() -> None:
    ctx = context(
        message("user", "a", id="a", created_at=1), message("user", "b", id="b", created_at=2)
    )
    ctx._upsert_item(message("user", "new", id="a", created_at=9))
    assert ids(ctx) == ["a", "b"] and ctx.messages()[0].content == ["new"]
    ctx._upsert_item(message("user", "c", id="c", created_at=3))
    assert ids(ctx) == ["a", "b", "c"]


def test_upsert_refuses_another_type_unless_allowed() -> None:
    ctx = context(message("user", "a", id="a"))
    with pytest.raises(ValueError, match="message"):
        ctx._upsert_item(call("c", id="a"))
    ctx._upsert_item(call("c", id="a"), allow_type_mismatch=True)
    assert ctx.items[0].type == "function_call"


class TestCopy:
    def test_shares_the_items_but_not_the_list(self) -> None:
        ctx = context(message("user", "a"))
        copied = ctx.copy()
        assert copied.items[0] is ctx.items[0] and copied.items is not ctx.items

    @pytest.mark.parametrize(
        ("option", "dropped"),
        [
            ("exclude_function_call", {"call", "output"}),
            ("exclude_instructions", {"system", "developer"}),
            ("exclude_empty_message", {"empty"}),
            ("exclude_handoff", {"handoff"}),
            ("exclude_config_update", {"config"}),
        ],
    )
    def test_leaves_out_what_is_asked_for(self, option: str, dropped: set[str]) -> None:
        ctx = context(
            message("system", "a", id="system"),
            message("developer", "a", id="developer"),
            message("user", id="empty"),
            message("user", "", id="blank"),
            call("c", id="call"),
            output("c", id="output"),
            AgentHandoff(new_agent_id="x", id="handoff"),
            AgentConfigUpdate(id="config"),
        )
        kept = ids(ctx.copy(**{option: True}))  # type: ignore[arg-type]
        assert kept == [item_id for item_id in ids(ctx) if item_id not in dropped]

    def test_keeps_only_calls_of_the_given_tools(self) -> None:
        ctx = context(
            output("c1", name="", id="nameless"),  # stands before its call
            call("c1", name="book", id="book"),
            call("c2", name="pay", id="pay"),
            output("c2", name="pay", id="paid"),
            output("c9", name="", id="orphan"),
            output("c9", name="book", id="named"),
            message("user", "a", id="said"),
        )
        assert ids(ctx.copy(tools=["book"])) == ["nameless", "book", "named", "said"]
        assert ids(ctx.copy(tools=[])) == ["said"]
        assert ids(ctx.copy()) == ids(ctx)


class TestTruncate:
    def test_refuses_a_negative_length(self) -> None:
        with pytest.raises(ValueError, match="max_items"):
            ChatContext().truncate(max_items=-1)

    def test_leaves_a_short_context_alone_even_if_it_starts_with_calls(self) -> None:
        ctx = context(output("c1", id="o"), message("user", "a", id="a"))
        assert ids(ctx.truncate(max_items=2)) == ["o", "a"]

    def test_keeps_the_instructions_and_their_dynamic_part(self) -> None:
        ctx = context(
            message("user", "early", id="early"),
            message("developer", "be kind", id="sys"),
            message("system", "now", id=DYNAMIC_INSTRUCTIONS_MESSAGE_ID),
            message("user", "a", id="a"),
            message("user", "b", id="b"),
        )
        assert ids(ctx.copy().truncate(max_items=1)) == [
            "sys",
            DYNAMIC_INSTRUCTIONS_MESSAGE_ID,
            "b",
        ]
        assert ids(ctx.copy().truncate(max_items=0)) == ["sys", DYNAMIC_INSTRUCTIONS_MESSAGE_ID]
        # The dynamic part is among the last three already.
        assert ids(ctx.copy().truncate(max_items=3)) == ids(ctx)[1:]

    def test_does_not_start_with_calls_or_outputs(self) -> None:
        ctx = context(
            message("user", "a", id="a"), call("c1"), output("c1"), message("user", "b", id="b")
        )
        assert ids(ctx.truncate(max_items=3)) == ["b"]

    @settings(max_examples=40)
    @given(chat.conversations, st.integers(0, 12))
    def test_keeps_the_end_in_order_in_the_same_list(self, items: list[ChatItem], n: int) -> None:
        before = list(items)
        ctx = ChatContext(items)
        assert ctx.truncate(max_items=n) is ctx and ctx.items is items
        if len(before) <= n:
            assert items == before
            return
        instructions = [
            item
            for item in before
            if isinstance(item, ChatMessage) and item.role in ("system", "developer")
        ]
        assert instructions[:1] == [i for i in items if i in instructions][:1]
        tail = items[1:] if instructions and items[0] is instructions[0] else items
        assert len(tail) <= n
        assert tail == before[len(before) - len(tail) :] if tail else True
        if tail and not instructions:
            assert tail[0].type not in ("function_call", "function_call_output")


class TestMerge:
    def test_leaves_out_what_is_asked_for(self) -> None:
        other = context(
            message("system", "a", id="sys"), call("c", id="call"), AgentConfigUpdate(id="config")
        )
        assert ids(ChatContext().merge(other, exclude_function_call=True)) == ["sys", "config"]
        assert ids(ChatContext().merge(other, exclude_instructions=True)) == ["call", "config"]
        assert ids(ChatContext().merge(other, exclude_config_update=True)) == ["sys", "call"]

    @settings(max_examples=40)
    @given(chat.conversations, chat.conversations, st.randoms())
    def test_adds_each_missing_item_once_in_order_of_time(
        self, mine: list[ChatItem], theirs: list[ChatItem], random: object
    ) -> None:
        ctx = ChatContext()
        ctx.insert(mine)
        other = ChatContext([*theirs, *mine[:3], *theirs[:2]])
        merged = ctx.merge(other)
        assert merged is ctx
        assert sorted(ids(ctx)) == sorted({item.id for item in mine + theirs})
        moments = [item.created_at for item in ctx.items]
        assert moments == sorted(moments)
        assert ids(ctx.copy().merge(other)) == ids(ctx), "merging again adds nothing"

    def test_with_itself_changes_nothing(self) -> None:
        ctx = context(message("user", "a"))
        assert len(ctx.merge(ctx).items) == 1


class TestEquivalence:
    @settings(max_examples=40)
    @given(chat.conversations)
    def test_ignores_timestamps_metrics_and_extra(self, items: list[ChatItem]) -> None:
        ctx = ChatContext(items)
        restored = ChatContext([chat.timeless(item) for item in items])
        for said in restored.messages():
            said.extra, said.metrics = {"other": 1}, {}
        assert ctx.is_equivalent(restored) and restored.is_equivalent(ctx)

    @pytest.mark.parametrize(
        "other",
        [
            message("user", "b", id="x"),
            message("assistant", "a", id="x"),
            message("user", "a", id="x", interrupted=True),
            message("user", "a", id="y"),
            call("a", id="x"),
        ],
    )
    def test_notices_what_matters(self, other: ChatItem) -> None:
        ctx = context(message("user", "a", id="x"))
        assert not ctx.is_equivalent(context(other))
        assert not ctx.is_equivalent(ChatContext())


_MUTATIONS: dict[str, Callable[[ChatContext], object]] = {
    "append": lambda c: c.items.append(message("user")),
    "extend": lambda c: c.items.extend([]),
    "insert": lambda c: c.items.insert(0, message("user")),
    "pop": lambda c: c.items.pop(),
    "remove": lambda c: c.items.remove(c.items[0]),
    "clear": lambda c: c.items.clear(),
    "sort": lambda c: c.items.sort(key=id),
    "reverse": lambda c: c.items.reverse(),
    "set item": lambda c: c.items.__setitem__(0, message("user")),
    "set slice": lambda c: c.items.__setitem__(slice(None), []),
    "delete": lambda c: c.items.__delitem__(0),
    "+=": lambda c: c.items.__iadd__([]),
    "*=": lambda c: c.items.__imul__(2),
    "items": lambda c: setattr(c, "items", []),
    "context.add_message": lambda c: c.add_message(role="user", content="x"),
    "context.add_message at": lambda c: c.add_message(role="user", content="x", created_at=0),
    "context.insert": lambda c: c.insert(message("user")),
    "context.merge": lambda c: c.merge(context(message("user"))),
    "context.truncate": lambda c: c.truncate(max_items=0),
    "context.remove": lambda c: c.remove("x"),
    "context.upsert": lambda c: c._upsert_item(message("user", id="x")),
}


class TestReadOnly:
    @pytest.mark.parametrize("mutation", _MUTATIONS)
    def test_refuses_changes_and_says_what_to_do(
        self, mutation: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        ctx = _ReadOnlyChatContext([message("user", "a", id="x")])
        with pytest.raises(RuntimeError, match=r"copy\(\).*update_chat_ctx"):
            _MUTATIONS[mutation](ctx)
        assert ids(ctx) == ["x"]
        assert [record.levelname for record in caplog.records] == ["ERROR"]

    def test_is_a_snapshot_that_can_be_copied_to_change(self) -> None:
        original = context(message("user", "a", id="x"))
        ctx = _ReadOnlyChatContext(original.items)
        original.add_message(role="user", content="later")
        assert ctx.readonly and ids(ctx) == ["x"]
        writable = ctx.copy()
        writable.add_message(role="user", content="b")
        assert not writable.readonly and len(writable.items) == 2

    def test_survives_a_deep_copy(self) -> None:
        ctx = copy.deepcopy(_ReadOnlyChatContext([message("user", "a", id="x")]))
        assert ctx.readonly and ids(ctx) == ["x"]
