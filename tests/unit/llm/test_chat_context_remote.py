"""The mirror of a realtime model's conversation, against a plain list as its model."""

from __future__ import annotations

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fakes.chat import ids, message
from livekit.agents.llm.remote_chat_context import RemoteChatContext

ITEM_IDS = st.sampled_from(["a", "b", "c", "d", "e"])


class RemoteConversation(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.remote = RemoteChatContext()
        self.expected: list[str] = []

    @rule(previous=st.none() | ITEM_IDS, item_id=ITEM_IDS)
    def insert(self, previous: str | None, item_id: str) -> None:
        item = message("user", id=item_id)
        if item_id in self.expected or (previous is not None and previous not in self.expected):
            with pytest.raises(ValueError):
                self.remote.insert(previous, item)
            return
        self.remote.insert(previous, item)
        self.expected.insert(0 if previous is None else self.expected.index(previous) + 1, item_id)
        found = self.remote.get(item_id)
        assert found is not None and found.item is item

    @rule(item_id=ITEM_IDS)
    def delete(self, item_id: str) -> None:
        if item_id not in self.expected:
            with pytest.raises(ValueError, match=item_id):
                self.remote.delete(item_id)
            return
        self.remote.delete(item_id)
        self.expected.remove(item_id)
        assert self.remote.get(item_id) is None

    @invariant()
    def mirrors_the_list(self) -> None:
        assert ids(self.remote.to_chat_ctx()) == self.expected
        assert self.remote.tail_id == (self.expected[-1] if self.expected else None)

    @invariant()
    def links_both_ways(self) -> None:
        backwards = []
        node = self.remote.get(self.expected[-1]) if self.expected else None
        while node:
            backwards.append(node.item.id)
            node = node._prev
        assert backwards == self.expected[::-1]


TestRemoteConversation = RemoteConversation.TestCase
TestRemoteConversation.settings = settings(max_examples=30, stateful_step_count=20)
