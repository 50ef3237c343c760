"""A task that finds out a name."""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter
from typing import Any

from ...llm import ChatContext, Instructions, Tool, ToolError, Toolset, function_tool
from ...llm.tool_context import ToolFlag
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given
from ...voice.run_context import RunContext
from ._capture import (
    AUDIO,
    TEXT,
    AnyLLM,
    AnySTT,
    AnyTTS,
    AnyVAD,
    CaptureTask,
    TurnDetection,
    by_modality,
    compose,
    confirming,
    declining,
    has_letter,
    spelled,
    squeezed,
)

MAX_LENGTH = 100
"""Signs of one part of a name."""


@dataclass
class GetNameResult:
    """What the user gave; parts that were not asked for are None."""

    first_name: str | None = None
    middle_name: str | None = None
    """None also for people who have none."""
    last_name: str | None = None


class GetNameTask(CaptureTask[GetNameResult]):
    """Asks for a name. Raises `ToolError` where it is awaited if the user declines."""

    def __init__(
        self,
        first_name: bool = True,
        last_name: bool = False,
        middle_name: bool = False,
        name_format: NotGivenOr[str] = NOT_GIVEN,
        verify_spelling: bool = False,
        extra_instructions: str = "",
        chat_ctx: NotGivenOr[ChatContext] = NOT_GIVEN,
        turn_detection: TurnDetection = NOT_GIVEN,
        tools: NotGivenOr[list[Tool | Toolset]] = NOT_GIVEN,
        stt: AnySTT = NOT_GIVEN,
        vad: AnyVAD = NOT_GIVEN,
        llm: AnyLLM = NOT_GIVEN,
        tts: AnyTTS = NOT_GIVEN,
        allow_interruptions: NotGivenOr[bool] = NOT_GIVEN,
        require_confirmation: NotGivenOr[bool] = NOT_GIVEN,
        require_explicit_ask: bool = False,
    ) -> None:
        """Describe the task.

        Args:
            first_name: Ask for the first name.
            last_name: Ask for the last name.
            middle_name: Ask for the middle name.
            name_format: How the parts make a name, such as "{last_name}, {first_name}"; in the
                usual order by default.
            verify_spelling: Have it spelled.
            extra_instructions: Added to the instructions.
            chat_ctx: The conversation so far; without one, the task begins with a blank page.
            turn_detection: How the end of the user's turn is found.
            tools: Further tools.
            stt: Speech to text.
            vad: Voice activity detection.
            llm: The language model.
            tts: Text to speech.
            allow_interruptions: Whether the agent may be interrupted.
            require_confirmation: Whether the user has to confirm the name after it was read
                back. By default users who speak have to, and users who write don't.
            require_explicit_ask: Ask even if the conversation holds a name already.

        Raises:
            ValueError: No part of the name is asked for, or `name_format` names another one.
        """
        wanted = {"first_name": first_name, "middle_name": middle_name, "last_name": last_name}
        self._parts = [part for part, is_wanted in wanted.items() if is_wanted]
        if not self._parts:
            raise ValueError("ask for at least one of first_name, middle_name and last_name")
        self._format = _checked(name_format, self._parts)
        self._verify_spelling = verify_spelling
        asked = " and ".join(part.replace("_", " ") for part in self._parts)
        spelling = (
            "Have the user spell the name letter by letter before you take it down, unless they "
            "have done so by themselves."
        )
        super().__init__(
            what=f"the {asked} of the user",
            updates=[("update_name", self._update)],
            confirm="confirm_name",
            instructions=compose(
                NOT_GIVEN,
                extra_instructions,
                persona=f"You find out one thing: the {asked} of the user.",
                modality=Instructions(audio=AUDIO, text=TEXT),
                taking="Call `update_name` as soon as you have every part you ask for, and again "
                "whenever the user corrects it. Take names as they are, from wherever they come; "
                f"never complete one by guessing. It is written like this: {self._format}."
                + (f"\n\n{spelling}" if verify_spelling else ""),
                confirmation=by_modality(require_confirmation, confirming("confirm_name")),
                declining=declining("decline_name_capture", "a name"),
            ),
            chat_ctx=chat_ctx,
            turn_detection=turn_detection,
            tools=tools,
            stt=stt,
            vad=vad,
            llm=llm,
            tts=tts,
            allow_interruptions=allow_interruptions,
            require_confirmation=require_confirmation,
            require_explicit_ask=require_explicit_ask,
        )

    async def _update(
        self,
        ctx: RunContext[Any],
        first_name: str | None = None,
        middle_name: str | None = None,
        last_name: str | None = None,
    ) -> str | None:
        """Take down the name, also a corrected one. Leave out parts that you are not to ask for.

        Args:
            first_name: The given name.
            middle_name: The middle name; empty if the user says that there is none.
            last_name: The family name.
        """
        given = {"first_name": first_name, "middle_name": middle_name, "last_name": last_name}
        parts = {part: self._checked_part(part, given[part]) for part in self._parts}
        result = GetNameResult(**{part: text or None for part, text in parts.items()})
        name = squeezed(self._format.format(**parts))
        if self._verify_spelling:
            name += f" (spelled: {', '.join(spelled(text) for text in parts.values() if text)})"
        return self._take_down(ctx, result, read_back=name)

    def _checked_part(self, part: str, text: str | None) -> str:
        label = part.replace("_", " ")
        if text is None:
            raise ToolError(f"the {label} is missing: ask for it")
        text = squeezed(text)
        if not text and part == "middle_name":
            return ""
        if not has_letter(text) or len(text) > MAX_LENGTH:
            raise ToolError(f"{text!r} can't be a {label}: ask for it again")
        return text

    @function_tool(flags=ToolFlag.IGNORE_ON_ENTER)
    async def decline_name_capture(self, reason: str) -> None:
        """The user does not want to give a name.

        Args:
            reason: Why, in a few words.
        """
        self._decline(reason)


def _checked(name_format: NotGivenOr[str], parts: list[str]) -> str:
    if not is_given(name_format):
        return " ".join(f"{{{part}}}" for part in parts)
    try:
        fields = {field for _, field, _, _ in Formatter().parse(name_format) if field is not None}
    except ValueError as error:
        raise ValueError(f"name_format {name_format!r} can't be read: {error}") from error
    unknown = sorted(fields - set(parts))
    if unknown or not fields:
        raise ValueError(
            f"name_format {name_format!r} may use only {', '.join(f'{{{p}}}' for p in parts)}: "
            "those are the parts that are asked for"
        )
    return name_format


__all__ = ["GetNameResult", "GetNameTask"]
