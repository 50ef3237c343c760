"""Summarising the older part of a conversation, and the XML a model reads it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from ._chat_items import ChatItem, ChatMessage, FunctionCall, FunctionCallOutput

if TYPE_CHECKING:
    from .llm import LLM

_PROMPT = """\
Summarize the conversation you are given, so that an assistant who reads only your summary can \
carry on where it ends.
Keep: what the user wants and prefers; facts, names, numbers and dates; what was decided, \
promised or done, and what tools returned, as far as it still matters; what is still open.
Leave out greetings, fillers and repetitions. Add nothing that was not said.
Write plain text in the language of the conversation, and nothing but the summary."""


def to_xml(
    tag_name: str, content: str | None = None, attrs: Mapping[str, Any] | None = None
) -> str:
    """An XML element, as models read it best.

    Args:
        tag_name: Name of the element.
        content: What goes inside, on lines of its own and as it is; None makes an empty element.
        attrs: Attributes, in order; quoted and escaped.
    """
    quoted = (f'{key}="{escape(str(value))}"' for key, value in (attrs or {}).items())
    tag = " ".join([tag_name, *quoted])
    return f"<{tag}>\n{content}\n</{tag_name}>" if content else f"<{tag} />"


async def summarize(
    items: list[ChatItem], llm_v: LLM[Any], *, keep_last_turns: int
) -> list[ChatItem]:
    """The items with all but the last turns replaced by a summary the model writes.

    Args:
        items: The conversation; not changed.
        llm_v: The model.
        keep_last_turns: How many pairs of user and assistant messages stay as they are.

    Returns:
        New items; the given ones if there is nothing to summarise or the answer is blank.
    """
    split = _split_index(items, keep_messages=keep_last_turns * 2)
    head, tail = items[:split], items[split:]
    transcript = "\n\n".join(filter(None, map(_as_xml, head)))
    if not transcript:
        return items
    summary = await _ask(llm_v, transcript)
    if not summary:
        return items
    created_at = tail[0].created_at - 1e-6 if tail else head[-1].created_at + 1e-6
    message = ChatMessage(
        role="assistant",
        content=[to_xml("chat_history_summary", summary)],
        extra={"is_summary": True},
        created_at=created_at,
    )
    return [*(item for item in head if not _is_replaced(item)), message, *tail]


def _split_index(items: Sequence[ChatItem], *, keep_messages: int) -> int:
    """Where the tail that is kept starts: 0 keeps everything."""
    if keep_messages <= 0:
        return len(items)
    turns = [i for i, item in enumerate(items) if _is_turn(item)]
    return turns[-keep_messages] if len(turns) >= keep_messages else 0


def _is_turn(item: ChatItem) -> bool:
    return isinstance(item, ChatMessage) and item.role in ("user", "assistant")


def _is_summary(item: ChatItem) -> bool:
    return isinstance(item, ChatMessage) and item.extra.get("is_summary") is True


def _is_replaced(item: ChatItem) -> bool:
    """Whether the summary takes the place of the item; earlier summaries stay."""
    if isinstance(item, (FunctionCall, FunctionCallOutput)):
        return True
    return _is_turn(item) and not _is_summary(item)


def _as_xml(item: ChatItem) -> str | None:
    if isinstance(item, FunctionCall):
        return to_xml("function_call", item.arguments, {"name": item.name, "call_id": item.call_id})
    if isinstance(item, FunctionCallOutput):
        content = to_xml("error", item.output) if item.is_error else item.output
        return to_xml("function_call_output", content, {"call_id": item.call_id, "name": item.name})
    if isinstance(item, ChatMessage) and _is_replaced(item):
        text = (item.text_content or "").strip()
        return to_xml(item.role, text) if text else None
    return None


async def _ask(llm_v: LLM[Any], transcript: str) -> str:
    from .chat_context import ChatContext

    request = ChatContext.empty()
    request.add_message(role="system", content=_PROMPT)
    request.add_message(role="user", content=f"The conversation to summarize:\n\n{transcript}")
    answer = await llm_v.chat(chat_ctx=request).collect()
    return answer.text.strip()
