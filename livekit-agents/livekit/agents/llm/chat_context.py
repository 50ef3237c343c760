"""`ChatContext`: the conversation so far, in order, and everything that may stand in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn, SupportsIndex, overload

from ..log import logger
from ..types import NOT_GIVEN, NotGivenOr
from ..utils.misc import is_given
from ._chat_items import (
    AgentConfigUpdate,
    AgentHandoff,
    AudioContent,
    CacheBreakpoint,
    ChatContent,
    ChatItem,
    ChatMessage,
    ChatRole,
    FunctionCall,
    FunctionCallOutput,
    ImageContent,
    MetricsMetadata,
    MetricsReport,
    _ChatItemBase,
)
from ._chat_summary import to_xml
from ._instructions import Instructions

if TYPE_CHECKING:
    from livekit.protocol.agent_pb import agent_session

    from ._provider_format.anthropic import AnthropicFormatData
    from ._provider_format.aws import BedrockFormatData
    from ._provider_format.google import GoogleFormatData
    from ._provider_format.mistralai import MistralFormatData
    from .llm import LLM
    from .tool_context import Tool, Toolset

__all__ = [
    "DYNAMIC_INSTRUCTIONS_MESSAGE_ID",
    "AgentConfigUpdate",
    "AgentHandoff",
    "AudioContent",
    "CacheBreakpoint",
    "ChatContent",
    "ChatContext",
    "ChatItem",
    "ChatMessage",
    "ChatRole",
    "FunctionCall",
    "FunctionCallOutput",
    "ImageContent",
    "Instructions",
    "MetricsMetadata",
    "MetricsReport",
    "_ChatItemBase",
    "_ReadOnlyChatContext",
    "to_xml",
]

DYNAMIC_INSTRUCTIONS_MESSAGE_ID = "lk.agent_task.instructions.dynamic"
"""Id of the message that holds `Instructions.dynamic`. Applications store it: never change it."""


class ChatContext:
    """A conversation: messages, tool calls and their outputs, handoffs, configuration changes.

    Items are kept in the order of their `created_at`, as far as they are added through methods
    that take it into account (`insert`, `merge`, `add_message` with `created_at`).

    Args:
        items: The list to work on. It is kept, not copied.
    """

    def __init__(self, items: NotGivenOr[list[ChatItem]] = NOT_GIVEN) -> None:
        self._items: list[ChatItem] = items if is_given(items) else []

    @classmethod
    def empty(cls) -> ChatContext:
        """A new context without items."""
        return cls([])

    @property
    def items(self) -> list[ChatItem]:
        """The items, oldest first. Changing the list changes the context."""
        return self._items

    @items.setter
    def items(self, items: list[ChatItem]) -> None:
        self._items = items

    @property
    def readonly(self) -> bool:
        """Whether changing the context raises."""
        return False

    def messages(self) -> list[ChatMessage]:
        """The messages among the items, oldest first."""
        return [item for item in self._items if isinstance(item, ChatMessage)]

    def add_message(
        self,
        *,
        role: ChatRole,
        content: list[ChatContent] | str | Instructions,
        id: NotGivenOr[str] = NOT_GIVEN,
        interrupted: NotGivenOr[bool] = NOT_GIVEN,
        created_at: NotGivenOr[float] = NOT_GIVEN,
        metrics: NotGivenOr[MetricsReport] = NOT_GIVEN,
        extra: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
    ) -> ChatMessage:
        """Create a message and add it: at the end, or where `created_at` belongs.

        Args:
            role: Who said it.
            content: Its parts; a text alone is one part, `Instructions` are rendered.
            id: Unique id; a new one by default.
            interrupted: Whether the agent was cut off.
            created_at: Unix timestamp, in seconds. Decides where the message goes.
            metrics: Timings of the turn.
            extra: Data passed along with the message.

        Returns:
            The new message.
        """
        if isinstance(content, Instructions):
            content = content.render()
        optional: dict[str, Any] = {
            "id": id,
            "interrupted": interrupted,
            "created_at": created_at,
            "metrics": metrics,
            "extra": extra,
        }
        message = ChatMessage(
            role=role,
            content=[content] if isinstance(content, str) else content,
            **{name: value for name, value in optional.items() if is_given(value)},
        )
        if is_given(created_at):
            self.insert(message)
        else:
            self._items.append(message)
        return message

    def insert(self, item: ChatItem | Sequence[ChatItem]) -> None:
        """Put an item, or several in turn, where `created_at` says it belongs."""
        items = item if isinstance(item, Sequence) else [item]
        for each in items:
            self._items.insert(self.find_insertion_index(created_at=each.created_at), each)

    def remove(self, item: ChatItem | str) -> None:
        """Remove the first item with that id.

        Args:
            item: The item, or its id.

        Raises:
            ValueError: If there is none.
        """
        item_id = item if isinstance(item, str) else item.id
        index = self.index_by_id(item_id)
        if index is None:
            raise ValueError(f"no item with id {item_id!r} in the chat context")
        del self._items[index]

    def get_by_id(self, item_id: str) -> ChatItem | None:
        """The first item with that id, or None."""
        return next((item for item in self._items if item.id == item_id), None)

    def index_by_id(self, item_id: str) -> int | None:
        """Index of the first item with that id, or None."""
        return next((i for i, item in enumerate(self._items) if item.id == item_id), None)

    def find_insertion_index(self, *, created_at: float) -> int:
        """Where an item of that time goes: after the last item that isn't newer.

        Items with equal timestamps thus stay in the order they arrived in.
        """
        for i in range(len(self._items), 0, -1):
            if self._items[i - 1].created_at <= created_at:
                return i
        return 0

    def copy(
        self,
        *,
        exclude_function_call: bool = False,
        exclude_instructions: bool = False,
        exclude_empty_message: bool = False,
        exclude_handoff: bool = False,
        exclude_config_update: bool = False,
        tools: NotGivenOr[Sequence[Tool | Toolset | str]] = NOT_GIVEN,
    ) -> ChatContext:
        """A new, writable context with the same item objects.

        Args:
            exclude_function_call: Leave out tool calls and their outputs.
            exclude_instructions: Leave out system and developer messages.
            exclude_empty_message: Leave out messages without content.
            exclude_handoff: Leave out handoffs.
            exclude_config_update: Leave out configuration changes.
            tools: Keep only calls (and outputs of calls) of these tools; a string is a tool's
                name. An empty list keeps none; by default all are kept.
        """
        items = [
            item
            for item in self._items
            if not _excluded(
                item,
                function_call=exclude_function_call,
                instructions=exclude_instructions,
                empty_message=exclude_empty_message,
                handoff=exclude_handoff,
                config_update=exclude_config_update,
            )
        ]
        return ChatContext(_only_tools(items, tools) if is_given(tools) else items)

    def truncate(self, *, max_items: int) -> ChatContext:
        """Shorten the context in place to its last `max_items` items.

        It then doesn't start with tool calls or outputs (a provider would reject them), and the
        first system or developer message stays, on top of `max_items`. A context that is short
        enough is left as it is.

        Returns:
            Itself.

        Raises:
            ValueError: If `max_items` is negative.
        """
        if max_items < 0:
            raise ValueError(f"max_items is {max_items}, it must be 0 or more")
        if len(self._items) <= max_items:
            return self
        start = len(self._items) - max_items
        while start < len(self._items) and _is_function_item(self._items[start]):
            start += 1
        # What is cut off is [0, start); the instructions in there are all that is put back.
        self._items[:start] = [self._items[i] for i in _instructions_span(self._items) if i < start]
        return self

    def merge(
        self,
        other_chat_ctx: ChatContext,
        *,
        exclude_function_call: bool = False,
        exclude_instructions: bool = False,
        exclude_config_update: bool = False,
    ) -> ChatContext:
        """Add the items of another context that this one lacks, each where it belongs in time.

        Args:
            other_chat_ctx: Where to take items from; those with a known id are skipped.
            exclude_function_call: Leave out tool calls and their outputs.
            exclude_instructions: Leave out system and developer messages.
            exclude_config_update: Leave out configuration changes.

        Returns:
            Itself.
        """
        present = {item.id for item in self._items}
        for item in list(other_chat_ctx.items):
            if item.id in present or _excluded(
                item,
                function_call=exclude_function_call,
                instructions=exclude_instructions,
                config_update=exclude_config_update,
            ):
                continue
            self.insert(item)
            present.add(item.id)
        return self

    def is_equivalent(self, other: ChatContext) -> bool:
        """Whether both say the same: equal ids, types and content, in the same order.

        Timestamps, metrics and `extra` may differ.
        """
        return len(self._items) == len(other.items) and all(
            a.id == b.id and a.type == b.type and a._essential_fields() == b._essential_fields()
            for a, b in zip(self._items, other.items, strict=True)
        )

    def to_dict(
        self,
        *,
        exclude_image: bool = True,
        exclude_audio: bool = True,
        exclude_timestamp: bool = True,
        exclude_function_call: bool = False,
        exclude_metrics: bool = False,
        exclude_config_update: bool = False,
        strip_markup: bool = False,
    ) -> dict[str, Any]:
        """The context as data that JSON can carry; `from_dict` reads it back.

        Args:
            exclude_image: Leave out images.
            exclude_audio: Leave out audio.
            exclude_timestamp: Leave out `created_at`.
            exclude_function_call: Leave out tool calls and their outputs.
            exclude_metrics: Leave out the timings of messages.
            exclude_config_update: Leave out configuration changes.
            strip_markup: Remove expressive markup from the assistant's messages.

        Returns:
            `{"items": [...]}`, without keys whose value is None.
        """
        from ._chat_codec import dump_item

        kept = (
            item
            for item in self._items
            if not _excluded(
                item, function_call=exclude_function_call, config_update=exclude_config_update
            )
        )
        return {
            "items": [
                dump_item(
                    item,
                    exclude_image=exclude_image,
                    exclude_audio=exclude_audio,
                    exclude_timestamp=exclude_timestamp,
                    exclude_metrics=exclude_metrics,
                    strip_markup=strip_markup,
                )
                for item in kept
            ]
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ChatContext:
        """Read what `to_dict` wrote.

        Unknown keys are ignored; items without a timestamp get the current time, in order.

        Raises:
            pydantic.ValidationError: If an item lacks a field or has a wrong type.
        """
        from ._chat_codec import load_items

        return cls(load_items(data["items"]))

    def to_proto(self) -> agent_session.ChatContext:
        """The context as a `livekit.agent` protobuf message; of content, only text."""
        from ._chat_codec import to_proto

        return to_proto(self._items)

    @overload
    def to_provider_format(
        self,
        format: Literal["openai", "openai.responses"],
        *,
        inject_dummy_user_message: bool = True,
        prompt_cache_breakpoints: bool = False,
    ) -> tuple[list[dict[str, Any]], Literal[None]]: ...

    @overload
    def to_provider_format(
        self,
        format: Literal["anthropic"],
        *,
        inject_dummy_user_message: bool = True,
        inject_trailing_user_message: bool = False,
    ) -> tuple[list[dict[str, Any]], AnthropicFormatData]: ...

    @overload
    def to_provider_format(
        self,
        format: Literal["google"],
        *,
        inject_dummy_user_message: bool = True,
        thought_signatures: dict[str, bytes] | None = None,
        merge_dynamic_instructions: bool = True,
    ) -> tuple[list[dict[str, Any]], GoogleFormatData]: ...

    @overload
    def to_provider_format(
        self, format: Literal["aws"], *, inject_dummy_user_message: bool = True
    ) -> tuple[list[dict[str, Any]], BedrockFormatData]: ...

    @overload
    def to_provider_format(
        self, format: Literal["mistralai"], *, inject_dummy_user_message: bool = True
    ) -> tuple[list[dict[str, Any]], MistralFormatData]: ...

    @overload
    def to_provider_format(
        self, format: str, *, inject_dummy_user_message: bool = True, **kwargs: Any
    ) -> tuple[list[dict[str, Any]], Any]: ...

    def to_provider_format(
        self, format: str, *, inject_dummy_user_message: bool = True, **kwargs: Any
    ) -> tuple[list[dict[str, Any]], Any]:
        """The conversation in the shape a provider's API takes.

        Calls without an output, and outputs without a call, are left out with a warning: every
        provider would reject the request. The context itself is not changed.

        Args:
            format: `openai` (Chat Completions), `openai.responses`, `anthropic`, `google`,
                `aws` (Bedrock Converse) or `mistralai` (Conversations).
            inject_dummy_user_message: Add a placeholder where the API insists on a user message.
            **kwargs: Options of the format.

        Returns:
            The entries of the request, and what the API takes beside them (None for openai).

        Raises:
            ValueError: If there is no such format.
        """
        from ._provider_format import converter

        convert = converter(format)
        return convert(self, inject_dummy_user_message=inject_dummy_user_message, **kwargs)

    def _upsert_item(self, item: ChatItem, *, allow_type_mismatch: bool = False) -> None:
        """Replace the item of the same id where it stands, else insert.

        Raises:
            ValueError: If that item is of another type, unless that is allowed.
        """
        index = self.index_by_id(item.id)
        if index is None:
            self.insert(item)
            return
        existing = self._items[index]
        if existing.type != item.type and not allow_type_mismatch:
            raise ValueError(
                f"can't replace item {item.id!r}: it is a {existing.type}, not a {item.type}"
            )
        self._items[index] = item

    async def _summarize(self, llm_v: LLM[Any], *, keep_last_turns: int = 2) -> ChatContext:
        """Replace all but the last turns by a summary, in place.

        Args:
            llm_v: The model that writes it.
            keep_last_turns: How many pairs of user and assistant messages stay as they are.

        Returns:
            Itself.
        """
        from ._chat_summary import summarize

        self._items[:] = await summarize(self._items, llm_v, keep_last_turns=keep_last_turns)
        return self


def _is_function_item(item: ChatItem) -> bool:
    return item.type == "function_call" or item.type == "function_call_output"


def _is_instructions(item: ChatItem) -> bool:
    return item.type == "message" and item.role in ("system", "developer")


def _excluded(
    item: ChatItem,
    *,
    function_call: bool = False,
    instructions: bool = False,
    empty_message: bool = False,
    handoff: bool = False,
    config_update: bool = False,
) -> bool:
    return (
        (function_call and _is_function_item(item))
        or (instructions and _is_instructions(item))
        or (empty_message and item.type == "message" and not item.content)
        or (handoff and item.type == "agent_handoff")
        or (config_update and item.type == "agent_config_update")
    )


def _only_tools(items: list[ChatItem], tools: Sequence[Tool | Toolset | str]) -> list[ChatItem]:
    names = {tool for tool in tools if isinstance(tool, str)}
    if objects := [tool for tool in tools if not isinstance(tool, str)]:
        from .tool_context import get_fnc_tool_names

        names.update(get_fnc_tool_names(objects))
    call_ids = {i.call_id for i in items if i.type == "function_call" and i.name in names}

    def keep(item: ChatItem) -> bool:
        if item.type == "function_call":
            return item.name in names
        if item.type == "function_call_output":
            return item.name in names if item.name else item.call_id in call_ids
        return True

    return [item for item in items if keep(item)]


def _instructions_span(items: list[ChatItem]) -> list[int]:
    """Where the first instructions stand, with the dynamic part that follows them, if any."""
    first = next((i for i, item in enumerate(items) if _is_instructions(item)), None)
    if first is None:
        return []
    after = first + 1
    dynamic = after < len(items) and items[after].id == DYNAMIC_INSTRUCTIONS_MESSAGE_ID
    return [first, after] if dynamic else [first]


def _refuse() -> NoReturn:
    message = (
        "this chat context is read-only. To change it, take a `.copy()`, change that, "
        "and pass it to `agent.update_chat_ctx()`"
    )
    logger.error(message)
    raise RuntimeError(message)


class _ReadOnlyItems(list[ChatItem]):
    """A list that refuses every change."""

    def append(self, _: ChatItem) -> NoReturn:
        _refuse()

    def extend(self, _: Iterable[ChatItem]) -> NoReturn:
        _refuse()

    def insert(self, *_: Any) -> NoReturn:
        _refuse()

    def pop(self, _: SupportsIndex = -1) -> NoReturn:
        _refuse()

    def remove(self, _: ChatItem) -> NoReturn:
        _refuse()

    def clear(self) -> NoReturn:
        _refuse()

    def sort(self, **_: Any) -> NoReturn:
        _refuse()

    def reverse(self) -> NoReturn:
        _refuse()

    def __setitem__(self, *_: Any) -> NoReturn:
        _refuse()

    def __delitem__(self, _: Any) -> NoReturn:
        _refuse()

    def __iadd__(self, _: Any) -> NoReturn:  # type: ignore[misc]
        _refuse()

    def __imul__(self, _: Any) -> NoReturn:  # type: ignore[misc]
        _refuse()

    def __reduce__(self) -> tuple[Any, ...]:
        # The default appends the items to an empty list, which this list refuses.
        return type(self), (list(self),)


class _ReadOnlyChatContext(ChatContext):
    """A snapshot that refuses changes; `copy` gives a writable context."""

    def __init__(self, items: Iterable[ChatItem]) -> None:
        super().__init__(_ReadOnlyItems(items))

    @property
    def readonly(self) -> bool:
        return True

    @property
    def items(self) -> list[ChatItem]:
        return self._items

    @items.setter
    def items(self, _: list[ChatItem]) -> None:
        _refuse()
