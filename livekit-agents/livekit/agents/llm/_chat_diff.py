"""What to tell a server so that its chat context becomes ours."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .chat_context import ChatMessage

if TYPE_CHECKING:
    from .chat_context import ChatContext


@dataclass
class DiffOps:
    """Changes that turn one list of items into another; apply them in this order."""

    to_remove: list[str]
    """Ids of items that are gone or have moved."""
    to_create: list[tuple[str | None, str]]
    """Pairs of the id of the item before (None: at the start) and the id of the new item."""
    to_update: list[tuple[str | None, str]]
    """The same, for messages whose text has changed."""


def compute_chat_ctx_diff(old_ctx: ChatContext, new_ctx: ChatContext) -> DiffOps:
    """Find the fewest changes that turn `old_ctx` into `new_ctx`, in O(n log n).

    An item that moved is removed and created again.
    """
    old_items = {item.id: item for item in old_ctx.items}
    kept = _longest_common_ids(
        [item.id for item in old_ctx.items], [item.id for item in new_ctx.items]
    )
    changes = DiffOps(
        to_remove=[item_id for item_id in old_items if item_id not in kept],
        to_create=[],
        to_update=[],
    )
    previous: str | None = None
    for item in new_ctx.items:
        if item.id not in kept:
            changes.to_create.append((previous, item.id))
        else:
            old = old_items[item.id]
            if (
                isinstance(old, ChatMessage)
                and isinstance(item, ChatMessage)
                and old.raw_text_content != item.raw_text_content
            ):
                changes.to_update.append((previous, item.id))
        previous = item.id
    return changes


def _longest_common_ids(old: list[str], new: list[str]) -> set[str]:
    """The ids of a longest common subsequence, ids being unique within each list.

    It is then a longest run of the new list whose places in the old one increase.
    """
    place = {item_id: i for i, item_id in enumerate(old)}
    shared = [item_id for item_id in dict.fromkeys(new) if item_id in place]
    ends: list[int] = []  # ends[n]: smallest old place at which a run of n + 1 ids can end
    run_ends: list[str] = []  # the id there
    before: dict[str, str | None] = {}
    for item_id in shared:
        length = bisect_left(ends, place[item_id])
        before[item_id] = run_ends[length - 1] if length else None
        ends[length : length + 1] = [place[item_id]]
        run_ends[length : length + 1] = [item_id]
    kept: set[str] = set()
    last = run_ends[-1] if run_ends else None
    while last is not None:
        kept.add(last)
        last = before[last]
    return kept
