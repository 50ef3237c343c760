"""A mirror of the conversation that a realtime model keeps on its side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .chat_context import ChatContext, ChatItem

__all__ = ["RemoteChatContext"]


@dataclass(eq=False)
class _RemoteChatItem:
    """A node of the mirror: an item, linked to its neighbours."""

    item: ChatItem
    _prev: _RemoteChatItem | None = field(default=None, repr=False)
    _next: _RemoteChatItem | None = field(default=None, repr=False)


class RemoteChatContext:
    """The items of a conversation in the order the server gives them.

    A server says where an item belongs by naming the one before it, so this is a linked list with
    an index by id: inserting, deleting and looking up take constant time.
    """

    def __init__(self) -> None:
        self._head: _RemoteChatItem | None = None
        self._tail: _RemoteChatItem | None = None
        self._nodes: dict[str, _RemoteChatItem] = {}

    @property
    def tail_id(self) -> str | None:
        """Id of the last item, None if there is none."""
        return self._tail.item.id if self._tail else None

    def insert(self, previous_item_id: str | None, message: ChatItem) -> None:
        """Add an item right after another.

        Args:
            previous_item_id: Id of the item before it; None puts it first.
            message: The item, of any type.

        Raises:
            ValueError: If its id is taken, or there is no such previous item.
        """
        if message.id in self._nodes:
            raise ValueError(f"the remote chat context already has an item {message.id!r}")
        previous = None if previous_item_id is None else self._node(previous_item_id)
        following = previous._next if previous else self._head
        node = _RemoteChatItem(message, previous, following)
        self._nodes[message.id] = node
        self._link(previous, node)
        self._link(node, following)

    def delete(self, item_id: str) -> None:
        """Remove an item.

        Raises:
            ValueError: If there is none with that id.
        """
        node = self._node(item_id)
        del self._nodes[item_id]
        self._link(node._prev, node._next)
        node._prev = node._next = None

    def get(self, item_id: str) -> _RemoteChatItem | None:
        """The node with that id (its item is `.item`), or None."""
        return self._nodes.get(item_id)

    def to_chat_ctx(self) -> ChatContext:
        """A new context with the same item objects, in order."""
        return ChatContext(list(self._walk()))

    def _node(self, item_id: str) -> _RemoteChatItem:
        node = self._nodes.get(item_id)
        if node is None:
            raise ValueError(f"the remote chat context has no item {item_id!r}")
        return node

    def _link(self, before: _RemoteChatItem | None, after: _RemoteChatItem | None) -> None:
        """Make the two neighbours; None stands for the end of the list on that side."""
        if before:
            before._next = after
        else:
            self._head = after
        if after:
            after._prev = before
        else:
            self._tail = before

    def _walk(self) -> Iterator[ChatItem]:
        node = self._head
        while node:
            yield node.item
            node = node._next
