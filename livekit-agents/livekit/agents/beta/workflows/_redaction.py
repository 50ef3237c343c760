"""Keeps secrets out of the histories of a session, as far as they are digits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from ...llm.chat_context import ChatItem, ChatMessage
from ...voice.run_context import RunContext

REDACTED = "[redacted]"


def redact_arguments(ctx: RunContext[Any]) -> None:
    """Take the arguments out of the call that runs, wherever it is kept."""
    call = ctx.function_call
    try:
        names = list(json.loads(call.arguments or "{}"))
    except ValueError:
        names = []
    call.arguments = json.dumps(dict.fromkeys(names, REDACTED))


def redact_digits(items: Iterable[ChatItem], digits: str) -> None:
    """Take a number out of what the user said. Numbers said in words are not found."""
    pattern = re.compile(r"(?<!\d)" + r"[\s.,\-]*".join(digits) + r"(?!\d)")
    for item in items:
        if isinstance(item, ChatMessage) and item.role == "user":
            for index, part in enumerate(item.content):
                if isinstance(part, str):
                    item.content[index] = pattern.sub(REDACTED, part)


__all__ = ["REDACTED", "redact_arguments", "redact_digits"]
