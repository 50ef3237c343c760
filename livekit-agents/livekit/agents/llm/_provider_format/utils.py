"""What all provider formats need: the conversation in groups, and instructions in their place."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeGuard

from ...log import logger
from ..chat_context import (
    DYNAMIC_INSTRUCTIONS_MESSAGE_ID,
    ChatContext,
    ChatItem,
    ChatMessage,
    ChatRole,
    FunctionCall,
    FunctionCallOutput,
    ImageContent,
    to_xml,
)
from ..utils import SerializedImage, parse_function_arguments, serialize_image

ModelItem: TypeAlias = ChatMessage | FunctionCall | FunctionCallOutput
"""The items a model gets to see."""

Part: TypeAlias = dict[str, Any]
"""A piece of a message, as an API writes it."""


def model_items(items: Iterable[ChatItem]) -> list[ModelItem]:
    """The items without handoffs and configuration changes, which no model gets to see."""
    return [
        item for item in items if isinstance(item, (ChatMessage, FunctionCall, FunctionCallOutput))
    ]


# -- Grouping ----------------------------------------------------------------------------------


@dataclass
class ChatGroup:
    """One reply: a message, the tool calls made with it, and their outputs.

    A message of another role is a group of its own.
    """

    message: ChatMessage | None = None
    calls: list[FunctionCall] = field(default_factory=list)
    outputs: list[FunctionCallOutput] = field(default_factory=list)

    def flatten(self) -> list[ModelItem]:
        """The members in the order that providers insist on."""
        message = [self.message] if self.message else []
        return [*message, *self.calls, *self.outputs]


def group_items(items: Sequence[ModelItem]) -> list[ChatGroup]:
    """Put tool calls with the message they were made with, and outputs with their calls.

    A group stands where its first member stood. Every call in it has exactly one output and the
    other way round: what has no counterpart is dropped with a warning, because providers reject
    a request in which one is missing, and with it every later one.

    Raises:
        AssertionError: If two assistant messages claim the same group.
    """
    answers = _pair(items)
    groups: dict[tuple[bool, str], ChatGroup] = {}
    home: dict[int, ChatGroup] = {}  # by the identity of the output
    for item in items:
        if isinstance(item, FunctionCallOutput):
            continue
        if isinstance(item, ChatMessage) and item.role != "assistant":
            # Its id may coincide with the one of a reply, without being part of it.
            groups[False, item.id] = ChatGroup(item)
            continue
        if isinstance(item, FunctionCall) and id(item) not in answers:
            continue
        group = groups.setdefault((True, _group_id(item)), ChatGroup())
        if isinstance(item, FunctionCall):
            group.calls.append(item)
            home[id(answers[id(item)])] = group
        else:
            assert group.message is None, f"two assistant messages share the id {_group_id(item)!r}"
            group.message = item
    for item in items:
        if isinstance(item, FunctionCallOutput) and (found := home.get(id(item))):
            found.outputs.append(item)
    return list(groups.values())


def _group_id(item: ChatMessage | FunctionCall) -> str:
    if isinstance(item, FunctionCall) and item.group_id:
        return item.group_id
    return item.id.partition("/")[0]


def _pair(items: Sequence[ModelItem]) -> dict[int, FunctionCallOutput]:
    """Match calls with outputs: the output of each answered call, by the call's identity.

    Some models number the calls of each reply anew, so a `call_id` may come again. An output
    answers the latest open call before it, or if there is none, the first one after it.
    """
    answers: dict[int, FunctionCallOutput] = {}
    waiting: defaultdict[str, list[FunctionCall]] = defaultdict(list)
    early: list[FunctionCallOutput] = []
    for item in items:
        if isinstance(item, FunctionCall):
            waiting[item.call_id].append(item)
        elif isinstance(item, FunctionCallOutput):
            if waiting[item.call_id]:
                answers[id(waiting[item.call_id].pop())] = item
            else:
                early.append(item)
    orphans = []
    for output in early:
        if waiting[output.call_id]:
            answers[id(waiting[output.call_id].pop(0))] = output
        else:
            orphans.append(output)
    _warn_unmatched(
        "tool calls without an output", [c for calls in waiting.values() for c in calls]
    )
    _warn_unmatched("tool outputs without a call", orphans)
    return answers


def _warn_unmatched(what: str, items: Sequence[FunctionCall | FunctionCallOutput]) -> None:
    if items:
        logger.warning(
            "the chat context has %s; they are not sent",
            what,
            extra={"call_ids": [i.call_id for i in items], "tools": [i.name for i in items]},
        )


# -- Instructions ------------------------------------------------------------------------------


def merge_dynamic_instructions(items: Sequence[ModelItem]) -> list[ModelItem]:
    """Join the instructions at the start with the dynamic ones right after them, if there are."""
    if len(items) < 2 or items[1].id != DYNAMIC_INSTRUCTIONS_MESSAGE_ID:
        return list(items)
    first, second = items[:2]
    if not _is_instructions(first) or not isinstance(second, ChatMessage):
        return list(items)
    merged = first.model_copy(update={"content": [*first.content, *second.content]})
    return [merged, *items[2:]]


def split_instructions(
    items: Iterable[ChatItem], *, merge_dynamic: bool = True
) -> tuple[str | None, list[ModelItem]]:
    """Separate the instructions at the start from the conversation.

    For APIs that take instructions apart from the messages. Later ones become messages of the
    user that say what they are, each at its place.

    Args:
        items: The conversation.
        merge_dynamic: Count dynamic instructions right after the first as part of them.

    Returns:
        The text of the instructions (None if there is none), and the rest.
    """
    rest = model_items(items)
    if merge_dynamic:
        rest = merge_dynamic_instructions(rest)
    preamble = None
    if rest and _is_instructions(rest[0]):
        preamble = rest[0].raw_text_content or None
        del rest[0]
    inlined = (_inline(item) if _is_instructions(item) else item for item in rest)
    return preamble, [item for item in inlined if item is not None]


def _is_instructions(item: ChatItem) -> TypeGuard[ChatMessage]:
    return isinstance(item, ChatMessage) and item.role in ("system", "developer")


def _inline(
    item: ChatMessage, *, role: ChatRole = "user", template: str | None = None
) -> ChatMessage | None:
    text = item.raw_text_content
    if not text:
        return None
    wrapped = to_xml("instructions", text) if template is None else _filled(template, text)
    return ChatMessage(id=item.id, role=role, content=[wrapped], created_at=item.created_at)


class _InlineTemplate(str):
    """Wraps a text; takes it by position or under any name, as plugins have named it."""

    def format(self, *args: Any, **kwargs: Any) -> str:
        return str.format(self, *(args or kwargs.values()))


_DEFAULT_INLINE_INSTRUCTIONS_TEMPLATE = _InlineTemplate("<instructions>\n{}\n</instructions>")
"""How instructions look that are sent as a message of the user. Plugins import it."""


def _filled(template: str, text: str) -> str:
    if isinstance(template, _InlineTemplate):
        return template.format(text)
    return re.sub(r"\{\w*\}", lambda _: text, template)


def convert_mid_conversation_instructions(
    chat_ctx: ChatContext,
    *,
    role: ChatRole = "user",
    template: str | None = None,
    **_: Any,
) -> ChatContext:
    """A copy of a context in which only the first message may be instructions.

    For models that refuse later ones, and for plugins of such models. Instructions in the middle
    become messages of `role` that say what they are; those without text are left out. Dynamic
    instructions right after the first are joined with it.

    Args:
        chat_ctx: Stays as it is.
        role: Who seems to say the later instructions.
        template: How they are wrapped; a placeholder in braces stands for the text.
    """
    items = chat_ctx.copy().items
    if len(items) > 1 and _is_instructions(items[0]) and _is_dynamic(items[1]):
        merged = {"content": [*items[0].content, *items[1].content]}
        items = [items[0].model_copy(update=merged), *items[2:]]
    converted: list[ChatItem] = items[:1]
    for item in items[1:]:
        if not _is_instructions(item):
            converted.append(item)
        elif (inlined := _inline(item, role=role, template=template)) is not None:
            converted.append(inlined)
    return ChatContext(converted)


def _is_dynamic(item: ChatItem) -> TypeGuard[ChatMessage]:
    return isinstance(item, ChatMessage) and item.id == DYNAMIC_INSTRUCTIONS_MESSAGE_ID


# -- Turns of parts ----------------------------------------------------------------------------


@dataclass(frozen=True)
class PartTypes:
    """How an API writes the parts of its turns."""

    text: Callable[[str], Part]
    image: Callable[[SerializedImage], Part]
    call: Callable[[FunctionCall], Part]
    output: Callable[[FunctionCallOutput], Part]

    def of(self, item: ModelItem) -> Iterator[Part]:
        """The parts of an item: no empty texts, no audio, no cache markers."""
        if isinstance(item, FunctionCall):
            yield self.call(item)
        elif isinstance(item, FunctionCallOutput):
            yield self.output(item)
        else:
            for content in item.content:
                if isinstance(content, str) and content:
                    yield self.text(content)
                elif isinstance(content, ImageContent):
                    yield self.image(serialize_image(content))


class Turns:
    """A conversation as turns of two sides. Parts of the same role in a row share a turn.

    What contributes no part leaves no trace, so there are never empty turns.

    Args:
        items: The conversation, without instructions.
        types: How to write its parts.
        output_role: Role of tool outputs.
    """

    def __init__(
        self, items: Sequence[ModelItem], types: PartTypes, *, output_role: str = "user"
    ) -> None:
        self._turns: list[tuple[str, list[Part]]] = []
        for group in group_items(items):
            for item in group.flatten():
                if isinstance(item, FunctionCallOutput):
                    role = output_role
                else:
                    by_user = isinstance(item, ChatMessage) and item.role == "user"
                    role = "user" if by_user else "assistant"
                for part in types.of(item):
                    self.add(role, part)

    @property
    def first_role(self) -> str | None:
        """Role of the first turn, None if there is none."""
        return self._turns[0][0] if self._turns else None

    @property
    def last_role(self) -> str | None:
        """Role of the last turn, None if there is none."""
        return self._turns[-1][0] if self._turns else None

    def add(self, role: str, part: Part) -> None:
        """Append a part, in a new turn if the last one is of another role."""
        if self.last_role != role:
            self._turns.append((role, []))
        self._turns[-1][1].append(part)

    def start_with(self, role: str, part: Part) -> None:
        """Put a part in front, in a turn of its own, unless the first turn is of that role."""
        if self.first_role != role:
            self._turns.insert(0, (role, [part]))

    def to_list(self, *, parts_key: str = "content", **roles: str) -> list[dict[str, Any]]:
        """The turns as dicts; `roles` says what the API calls a role, if not by its name."""
        return [{"role": roles.get(role, role), parts_key: parts} for role, parts in self._turns]


def arguments_object(call: FunctionCall) -> dict[str, Any]:
    """The arguments of a past call as an object.

    Raises nothing: one garbled call in the history must not fail every request from then on.
    """
    try:
        return parse_function_arguments(call.arguments)
    except Exception as error:
        logger.warning(
            "the arguments of a past tool call can't be read, they are sent as {}",
            extra={"tool": call.name, "call_id": call.call_id, "error": str(error)},
        )
        return {}


# -- Content as APIs in OpenAI's style take it -------------------------------------------------


def image_url(image: SerializedImage) -> str:
    """Where to find the image: its URL, or a data URL that contains it."""
    if image.external_url:
        return image.external_url
    return f"data:{image.mime_type};base64,{image_base64(image)}"


def image_base64(image: SerializedImage) -> str:
    """The data of an image that isn't given by URL."""
    from base64 import b64encode

    assert image.data_bytes is not None, "an image has either a URL or data"
    return b64encode(image.data_bytes).decode()


def text_or_parts(
    message: ChatMessage,
    *,
    text: Callable[[str], Part],
    image: Callable[[SerializedImage], Part],
) -> str | list[Part]:
    """A plain text if that is all there is; else the images, then one part with all the text."""
    joined = message.raw_text_content or ""
    images = [
        image(serialize_image(part)) for part in message.content if isinstance(part, ImageContent)
    ]
    if not images:
        return joined
    return [*images, text(joined)] if joined else images
