"""The conversation on the server of OpenAI's protocol: what it holds and what it is to hold. No I/O."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from ...log import logger
from ..chat_context import ChatContext, ChatItem, ChatMessage
from ..realtime import RealtimeError
from ..remote_chat_context import RemoteChatContext
from ..utils import compute_chat_ctx_diff
from .openai_codec import (
    ErrorInfo,
    ItemAdded,
    create_item,
    creation_of,
    delete_item,
    deletion_of,
)
from .openai_utils import Event, livekit_item_to_openai_item


@dataclass
class _Creation:
    """An item that the server was asked to add, and has not acknowledged."""

    previous: str | None
    item: ChatItem


class ServerContext:
    """A mirror of the server's conversation, and the changes that are on their way.

    Args:
        legacy: Whether the server speaks the protocol's first version.
    """

    def __init__(self, *, legacy: bool = False) -> None:
        self._legacy = legacy
        self.mirror = RemoteChatContext()
        self.creations: dict[str, asyncio.Future[None]] = {}
        """By item id; each is resolved when the server has added the item, or refused to."""
        self.deletions: dict[str, asyncio.Future[None]] = {}
        self._creating: dict[str, _Creation] = {}
        self._unheard: set[str] = set()
        self._cut: set[str] = set()

    @property
    def chat_ctx(self) -> ChatContext:
        """What the server holds."""
        return self.mirror.to_chat_ctx()

    # -- changes ----------------------------------------------------------------------------------

    def plan(self, wanted: ChatContext) -> list[Event]:
        """The events that make the server's conversation equal to `wanted`.

        Handoffs, changes of configuration and instructions are not for the server, nor are messages
        without words that it does not know.
        """
        from ...voice.generation import remove_instructions

        wanted = wanted.copy(exclude_handoff=True, exclude_config_update=True)
        remove_instructions(wanted)
        wanted.items[:] = [
            item
            for item in wanted.items
            if not isinstance(item, ChatMessage) or item.content or self.mirror.get(item.id)
        ]
        diff = compute_chat_ctx_diff(self.chat_ctx, wanted)
        items = {item.id: item for item in wanted.items}
        for item_id in self._creating.keys() - items.keys():
            del self._creating[item_id]  # was never acknowledged, and is not wanted any more
        changed = [
            (previous, item_id)
            for previous, item_id in diff.to_update
            if (node := self.mirror.get(item_id)) and getattr(node.item, "content", None)
        ]
        events = [delete_item(item_id) for item_id in diff.to_remove]
        events += [delete_item(item_id) for _, item_id in changed]
        for previous, item_id in [*diff.to_create, *changed]:
            event = self._creation(previous, items[item_id])
            if event is not None:
                events.append(event)
        return events

    def _creation(self, previous: str | None, item: ChatItem) -> Event | None:
        try:
            event = create_item(previous, livekit_item_to_openai_item(item, legacy=self._legacy))
        except Exception:
            logger.exception("item %s can't be told the realtime model and is left out", item.id)
            return None
        self._creating[item.id] = _Creation(previous, item)
        return event

    def expect(self, events: list[Event]) -> dict[str, asyncio.Future[None]]:
        """Await the server's acknowledgement of these events."""
        waiting = {}
        for event in events:
            deleted, created = event.get("item_id"), event.get("item", {}).get("id")
            item_id = deleted or created
            if item_id is not None:
                futures = self.deletions if deleted else self.creations
                futures[item_id] = asyncio.get_running_loop().create_future()
                waiting[f"{event['type']} {item_id}"] = futures[item_id]
        return waiting

    def forget(self, waiting: dict[str, asyncio.Future[None]]) -> None:
        """Nobody waits for these any more."""
        for futures in (self.creations, self.deletions):
            for item_id, future in list(futures.items()):
                if future in waiting.values():
                    del futures[item_id]

    def replace_text(self, message_id: str, text: str) -> list[Event]:
        """The events that give a message of the server another text; none if it has no such."""
        node = self.mirror.get(message_id)
        if node is None or not isinstance(node.item, ChatMessage):
            return []
        previous = node._prev.item.id if node._prev else None
        changed = ChatMessage(id=message_id, role=node.item.role, content=[text])
        creation = self._creation(previous, changed) if text else None
        return [delete_item(message_id), *([creation] if creation else [])]

    def has_audio(self, message_id: str) -> bool:
        """Whether the server has a message as sound: not if it was told it on a later connection."""
        return message_id not in self._unheard

    # -- what the server says ---------------------------------------------------------------------

    def added(self, event: ItemAdded) -> tuple[str | None, ChatItem] | None:
        """The server has an item. Returns where it put one that is news, and the item."""
        item = event.chat_item
        self._resolve(self.creations, item.id)
        self._creating.pop(item.id, None)
        if self.mirror.get(item.id):
            return None
        previous = event.previous_item_id
        if previous == "root":
            previous = None
        elif previous is None or not self.mirror.get(previous):
            previous = self.mirror.tail_id
        self.mirror.insert(previous, item)
        return previous, item

    def deleted(self, item_id: str) -> None:
        """The server has an item less."""
        if self.mirror.get(item_id):
            self.mirror.delete(item_id)
        self._resolve(self.deletions, item_id)

    def rejected(self, error: ErrorInfo) -> bool:
        """The server refuses an event. False if the event is none of ours."""
        event_id = error.event_id or ""
        item_id = event_id[1:]
        if item_id and event_id == deletion_of(item_id):
            logger.warning("the server does not delete item %s: %s", item_id, error.message)
            self._resolve(self.deletions, item_id)
            return True
        if not item_id or event_id != creation_of(item_id):
            return False
        creation = self._creating.pop(item_id, None)
        if "already_exists" in (error.code or ""):
            if creation is not None and not self.mirror.get(item_id):
                self.added(ItemAdded(creation.previous or "root", creation.item))
        else:
            logger.warning("the server does not take item %s: %s", item_id, error.message)
            if item_id in self._unheard and self.mirror.get(item_id):
                self.mirror.delete(item_id)
        self._resolve(self.creations, item_id)
        return True

    def set_text(self, item_id: str, text: str) -> None:
        """The words of a message that the server holds as sound."""
        node = self.mirror.get(item_id)
        if node is not None and isinstance(node.item, ChatMessage) and item_id not in self._cut:
            images = [part for part in node.item.content if not isinstance(part, str)]
            node.item.content = [*images, text]

    def cut_text(self, item_id: str, text: str) -> None:
        """No more than these words of a message were heard, however many there are."""
        self.set_text(item_id, text)
        self._cut.add(item_id)

    def _resolve(self, futures: dict[str, asyncio.Future[None]], item_id: str) -> None:
        future = futures.get(item_id)
        if future is not None and not future.done():
            future.set_result(None)

    # -- connections ------------------------------------------------------------------------------

    def replay(self) -> list[Event]:
        """What a new connection has to be told: all that the old one knew or was being told.

        Messages of which no words are known can't be told, and are gone.
        """
        for item_id in [*self.deletions]:
            self.deleted(item_id)
        items = self.chat_ctx.items
        for item in items:
            if isinstance(item, ChatMessage) and not item.content:
                self.mirror.delete(item.id)
        told = self.chat_ctx.items
        for item_id, creation in self._creating.items():
            if not self.mirror.get(item_id):
                _insert_after(told, creation)
        events: list[Event] = []
        previous: str | None = None
        for item in told:
            event = self._creation(previous, item)
            if event is not None:
                events.append(event)
                self._unheard.add(item.id)
                previous = item.id
        return events

    def fail(self, reason: str) -> None:
        """Nobody will acknowledge anything any more."""
        waiting: list[asyncio.Future[Any]] = [*self.creations.values(), *self.deletions.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(RealtimeError(reason))
                future.exception()  # whoever waits still gets it; nobody has to


def _insert_after(items: list[ChatItem], creation: _Creation) -> None:
    if creation.previous is None:
        items.insert(0, creation.item)
        return
    for index, item in enumerate(items):
        if item.id == creation.previous:
            items.insert(index + 1, creation.item)
            return
    items.append(creation.item)
