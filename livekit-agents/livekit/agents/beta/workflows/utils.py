"""The keys of a telephone, and instructions that a workflow completes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import Any

from ...llm import Instructions
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given

__all__ = ["DtmfEvent", "WorkflowInstructions", "dtmf_event_to_code", "format_dtmf"]


class DtmfEvent(str, Enum):
    """A key, as its sign."""

    ONE = "1"
    TWO = "2"
    THREE = "3"
    FOUR = "4"
    FIVE = "5"
    SIX = "6"
    SEVEN = "7"
    EIGHT = "8"
    NINE = "9"
    ZERO = "0"
    STAR = "*"
    POUND = "#"
    A = "A"
    B = "B"
    C = "C"
    D = "D"


_CODES = {"*": 10, "#": 11, "A": 12, "B": 13, "C": 14, "D": 15}


def dtmf_event_to_code(event: DtmfEvent) -> int:
    """The event code of a key in RTP (RFC 4733, section 3.2): 0 to 9, `*` 10, `#` 11, A to D 12-15."""
    sign = DtmfEvent(event).value
    return _CODES[sign] if sign in _CODES else int(sign)


def format_dtmf(events: Iterable[DtmfEvent]) -> str:
    """The signs of the keys, with blanks between them, as they are read out."""
    return " ".join(DtmfEvent(event).value for event in events)


class WorkflowInstructions(Instructions):
    """What to change in the instructions that a workflow's task comes with.

    ::

        GetEmailTask(instructions=WorkflowInstructions(persona="You are Ada, who sells tea."))

    A text for `audio` (and `text`) replaces the task's own instructions altogether; `persona` only
    their beginning, which says who speaks; `extra` is added at the end.
    """

    def __init__(
        self,
        audio: str = "",
        *,
        text: str | None = None,
        persona: NotGivenOr[str | Instructions] = NOT_GIVEN,
        extra: str | Instructions = "",
    ) -> None:
        """Word them.

        Args:
            audio: In place of the task's instructions, when the user speaks; empty keeps them.
            text: The same when the user writes; `audio` by default.
            persona: Who the agent is.
            extra: What it has to know or do besides.
        """
        if text is None:
            super().__init__(audio)
        else:
            super().__init__(audio=audio, text=text)
        self.persona = persona
        self.extra = extra

    def resolve(
        self, *, template: str, default_persona: str | Instructions, **format_kwargs: Any
    ) -> Instructions:
        """Complete the instructions of a task.

        Args:
            template: The task's instructions, as for `str.format`, with `{persona}` and `{extra}`.
            default_persona: For `{persona}`, unless one was given.
            format_kwargs: The other values of the template; `Instructions` among them may differ
                for voice and text. Sections that are empty leave no gap.

        Raises:
            KeyError: The template names a value that is not given.
        """
        if self.common or self.audio or self.text:
            template, format_kwargs = "{own}\n\n{extra}", {"own": self}
        resolved = Instructions.resolve_template(
            template,
            persona=self.persona if is_given(self.persona) else default_persona,
            extra=self.extra,
            **format_kwargs,
        )
        return Instructions(
            _tidy(resolved.common) or "",
            audio=_tidy(resolved.audio),
            text=_tidy(resolved.text),
        )


def _tidy(text: str | None) -> str | None:
    """Without the gaps that empty sections leave."""
    return None if text is None else re.sub(r"\n{3,}", "\n\n", text).strip()
