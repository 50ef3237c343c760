"""What a request to a model adds to the one before, so that a trace needn't repeat the whole chat.

The *base* of a request is the last one of the same kind whose answer was really used. Its span is
linked. To rebuild what the model was given: rebuild the base, take `dropped_from_base` entries off
its end, and append the entries of this span. Instructions that have not changed are left out.

Only with `RecordingOptions(input_delta=True)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from . import trace_types
from ._messages import entries_of, entry_messages, instructions_of, to_system_instructions

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

    from ..llm import ChatContext, ChatItem

    _Entry: TypeAlias = Sequence[ChatItem]

__all__ = [
    "LLM_NODE",
    "LLM_REQUEST",
    "InputDelta",
    "InputDeltaScope",
    "InputDeltaSite",
    "InputDeltaTracker",
    "active",
    "compute",
    "reset_scope",
    "set_attributes",
    "set_scope",
]


@dataclass(frozen=True)
class InputDeltaSite:
    """A kind of span that records the input of a model.

    Attributes:
        name: Of the span.
        chat_ctx: It records the items of the chat as they are; otherwise as messages and
            instructions, in the form of the conventions for generative AI.
    """

    name: str
    chat_ctx: bool


LLM_NODE = InputDeltaSite("llm_node", chat_ctx=True)
LLM_REQUEST = InputDeltaSite("llm_request", chat_ctx=False)


@dataclass(frozen=True)
class InputDelta:
    """What a span is to record of its input.

    Attributes:
        chat_ctx: The recorded items, in order.
        instructions: Those of them that instruct; none when they have not changed.
        conversation: The others, in entries: all of them, or what the base does not have.
        base: The span that this one continues; None for a full record.
        dropped_from_base: How many of its last entries are not part of this input.
    """

    chat_ctx: ChatContext
    instructions: Sequence[ChatItem]
    conversation: Sequence[_Entry]
    base: SpanContext | None = None
    dropped_from_base: int | None = None

    @classmethod
    def full(cls, chat_ctx: ChatContext) -> InputDelta:
        """A record of everything."""
        instructions, conversation = _split(LLM_REQUEST, chat_ctx.items)
        return cls(chat_ctx, instructions, conversation)

    def input_messages(self) -> list[dict[str, Any]]:
        """The conversation, as `gen_ai.to_input_messages` puts it."""
        return entry_messages(self.conversation)

    def system_instructions(self) -> list[dict[str, Any]]:
        """The instructions, as `gen_ai.to_system_instructions` puts them."""
        return to_system_instructions(_context(self.instructions))


@dataclass(frozen=True)
class _Recorded:
    """The input of one span, as the next one compares with it."""

    instructions: tuple[bytes, ...]
    conversation: tuple[bytes, ...]
    span: SpanContext


class InputDeltaTracker:
    """Knows what the last used generation of a conversation was given."""

    def __init__(self) -> None:
        """Nothing was recorded yet: the first records are full."""
        self._bases: dict[str, _Recorded] = {}

    def begin(self) -> InputDeltaScope:
        """A generation begins."""
        return InputDeltaScope(self)


class InputDeltaScope:
    """The requests of one generation."""

    def __init__(self, tracker: InputDeltaTracker) -> None:
        """Compare with what `tracker` knows, and with nothing that is not committed."""
        self._tracker = tracker
        self._recorded: dict[str, _Recorded] = {}
        self._committed = False

    def delta(self, site: InputDeltaSite, chat_ctx: ChatContext, span: Span) -> InputDelta:
        """Return what `span` is to record of `chat_ctx`."""
        instructions, conversation = _split(site, chat_ctx.items)
        recorded = _Recorded(
            tuple(item._fingerprint() for item in instructions),
            tuple(_fingerprint(entry) for entry in conversation),
            span.get_span_context(),
        )
        base = self._tracker._bases.get(site.name)
        self._recorded[site.name] = recorded
        if self._committed:  # as of a request that is repeated
            self.commit()
        shared = 0 if base is None else _shared_prefix(base.conversation, recorded.conversation)
        if base is None or not shared or (base.instructions and not instructions):
            return InputDelta(chat_ctx, instructions, conversation)
        if recorded.instructions == base.instructions:
            instructions = []
        added = conversation[shared:]
        return InputDelta(
            _context([*instructions, *chain.from_iterable(added)]),
            instructions,
            added,
            base=base.span,
            dropped_from_base=len(base.conversation) - shared,
        )

    def commit(self) -> None:
        """The answer is used: what was recorded is the base of what comes."""
        self._committed = True
        self._tracker._bases.update(self._recorded)


_scope: ContextVar[InputDeltaScope | None] = ContextVar("lk_input_delta", default=None)


def active() -> InputDeltaScope | None:
    """The generation that the caller works for, if its deltas are recorded."""
    return _scope.get()


def set_scope(scope: InputDeltaScope | None) -> Token[InputDeltaScope | None]:
    """Requests in this context belong to `scope` from now on; `reset_scope` ends that."""
    return _scope.set(scope)


def reset_scope(token: Token[InputDeltaScope | None]) -> None:
    """Undo `set_scope`."""
    _scope.reset(token)


def compute(site: InputDeltaSite, chat_ctx: ChatContext, span: Span) -> InputDelta:
    """Return what `span` is to record: everything, unless a scope is active."""
    scope = _scope.get()
    return InputDelta.full(chat_ctx) if scope is None else scope.delta(site, chat_ctx, span)


def set_attributes(span: Span, delta: InputDelta) -> None:
    """Say on `span` which one it continues. Does nothing for a full record."""
    if delta.base is None or not span.is_recording():
        return
    span.add_link(delta.base)
    span.set_attributes(
        {
            trace_types.ATTR_INPUT_DELTA: True,
            trace_types.ATTR_INPUT_BASE_SPAN_ID: format(delta.base.span_id, "016x"),
            trace_types.ATTR_INPUT_DROPPED_FROM_BASE: delta.dropped_from_base or 0,
        }
    )


def _split(site: InputDeltaSite, items: Sequence[ChatItem]) -> tuple[list[ChatItem], list[_Entry]]:
    """Instructions and conversation, as the two are told apart in what `site` records."""
    if site.chat_ctx:
        instructions, others = _split_by_id(items)
        return instructions, [[item] for item in others]
    first = instructions_of(items)
    return [] if first is None else [first], list(entries_of(items))


def _split_by_id(items: Sequence[ChatItem]) -> tuple[list[ChatItem], list[ChatItem]]:
    """The agent's own instructions are known by their ids; others keep their place as entries."""
    from ..llm.chat_context import DYNAMIC_INSTRUCTIONS_MESSAGE_ID
    from ..voice.generation import EXPRESSIVE_INSTRUCTIONS_MESSAGE_ID, INSTRUCTIONS_MESSAGE_ID

    ids = {
        INSTRUCTIONS_MESSAGE_ID,
        DYNAMIC_INSTRUCTIONS_MESSAGE_ID,
        EXPRESSIVE_INSTRUCTIONS_MESSAGE_ID,
    }
    leading = 0
    while leading < len(items) and items[leading].id in ids:
        leading += 1
    if any(item.id in ids for item in items[leading:]):
        leading = 0  # out of place: nobody could tell them apart where they are not known by it
    return list(items[:leading]), list(items[leading:])


def _fingerprint(entry: _Entry) -> bytes:
    return b"".join(item._fingerprint() for item in entry)


def _shared_prefix(before: Sequence[bytes], now: Sequence[bytes]) -> int:
    shared = 0
    for one, other in zip(before, now, strict=False):
        if one != other:
            break
        shared += 1
    return shared


def _context(items: Sequence[ChatItem]) -> ChatContext:
    from ..llm import ChatContext

    return ChatContext(list(items))
