"""Chat contexts in the shapes that providers' APIs take: one module per API.

Each is a pure function of the context. What they have in common (which calls belong to which
message, what becomes of instructions in mid-conversation) is in `utils`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from ..chat_context import ChatContext

_CONVERTERS = {
    "openai": "openai:to_chat_ctx",
    "openai.responses": "openai:to_responses_chat_ctx",
    "anthropic": "anthropic:to_chat_ctx",
    "google": "google:to_chat_ctx",
    "aws": "aws:to_chat_ctx",
    "mistralai": "mistralai:to_chat_ctx",
}


class Converter(Protocol):
    """Turns a context into the entries of a request, and what the API takes beside them."""

    def __call__(
        self, chat_ctx: ChatContext, *, inject_dummy_user_message: bool = True, **kwargs: Any
    ) -> tuple[list[dict[str, Any]], Any]:
        """Convert `chat_ctx`, which is not changed."""


def converter(format: str) -> Converter:
    """The function that converts to that format; its module is loaded when first asked for.

    Raises:
        ValueError: If there is no such format.
    """
    try:
        module, function = _CONVERTERS[format].split(":")
    except KeyError:
        known = ", ".join(_CONVERTERS)
        raise ValueError(
            f"unsupported provider format {format!r}, expected one of: {known}"
        ) from None
    return cast(Converter, getattr(import_module(f".{module}", __name__), function))
