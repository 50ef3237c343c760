"""Places kept in an agent's context for messages that only a realtime model's server knows yet."""

from __future__ import annotations

from ..llm import ChatContext, ChatItem, ChatMessage

__all__ = ["fill_place", "give_up_place", "mirror", "place_of"]

_LOCAL_ITEMS = ("agent_handoff", "agent_config_update")
"""Types of items that are never sent to a server."""


def mirror(chat_ctx: ChatContext, previous_id: str | None, message: ChatMessage) -> None:
    """Keep a place for a message that the server added, until its words are known.

    Only where it continues what is known here: otherwise its place can't be told.
    """
    if chat_ctx.get_by_id(message.id) is not None:
        return
    shared = [item for item in chat_ctx.items if item.type not in _LOCAL_ITEMS]
    if previous_id is None or (shared and shared[-1].id == previous_id):
        chat_ctx.insert(ChatMessage(id=message.id, role=message.role, content=[]))


def place_of(chat_ctx: ChatContext, message_id: str) -> ChatMessage | None:
    """The place that is kept for a message; its `created_at` says since when."""
    place = chat_ctx.get_by_id(message_id)
    return place if isinstance(place, ChatMessage) and not place.content else None


def give_up_place(chat_ctx: ChatContext, message_id: str) -> None:
    """The message will never have any words."""
    if (place := place_of(chat_ctx, message_id)) is not None:
        chat_ctx.remove(place)


def fill_place(chat_ctx: ChatContext, item: ChatItem) -> None:
    """Put an item into the place that is kept for it, or else where its time says."""
    place = place_of(chat_ctx, item.id)
    if place is not None and place.created_at == item.created_at:
        index = chat_ctx.index_by_id(item.id)
        assert index is not None
        chat_ctx.items[index] = item
        return
    if place is not None:
        chat_ctx.remove(place)
    chat_ctx.insert(item)
