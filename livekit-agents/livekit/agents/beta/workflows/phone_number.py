"""A task that finds out a phone number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ...llm import ChatContext, Instructions, Tool, ToolError, Toolset, function_tool
from ...llm.tool_context import ToolFlag
from ...types import NOT_GIVEN, NotGivenOr
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
)

PHONE_REGEX = r"^\+?[1-9]\d{6,14}$"
"""A number as in ITU-T E.164: 7 to 15 digits, the country code first; the + may be missing."""


@dataclass
class GetPhoneNumberResult:
    """What the user gave."""

    phone_number: str
    """Digits, with a leading + if the country code is certain."""


class GetPhoneNumberTask(CaptureTask[GetPhoneNumberResult]):
    """Asks for a phone number. Raises `ToolError` where it is awaited if the user declines."""

    def __init__(
        self,
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
            extra_instructions: Added to the instructions, for instance the country that callers
                are from.
            chat_ctx: The conversation so far; without one, the task begins with a blank page.
            turn_detection: How the end of the user's turn is found.
            tools: Further tools.
            stt: Speech to text.
            vad: Voice activity detection.
            llm: The language model.
            tts: Text to speech.
            allow_interruptions: Whether the agent may be interrupted.
            require_confirmation: Whether the user has to confirm the number after it was read
                back. By default users who speak have to, and users who write don't.
            require_explicit_ask: Ask even if the conversation holds a number already.
        """
        super().__init__(
            what="the phone number of the user",
            updates=[("update_phone_number", self._update)],
            confirm="confirm_phone_number",
            instructions=compose(
                NOT_GIVEN,
                extra_instructions,
                persona="You find out one thing: the phone number of the user.",
                modality=Instructions(audio=AUDIO, text=TEXT),
                taking="People give numbers in pieces: wait until it is complete. Then call "
                "`update_phone_number`, and again whenever the user corrects it. Write it with the "
                "country code if you know the country; if a number begins with 0 and you don't, "
                "ask. Never add or drop digits.",
                confirmation=by_modality(require_confirmation, confirming("confirm_phone_number")),
                declining=declining("decline_phone_number_capture", "a phone number"),
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

    async def _update(self, phone_number: str, ctx: RunContext[Any]) -> str | None:
        """Take down the phone number, also a corrected one.

        Args:
            phone_number: All digits, with + and the country code if it is known.
        """
        number = normalized(phone_number)
        if not re.match(PHONE_REGEX, number):
            raise ToolError(
                f"{phone_number!r} can't be a complete phone number: it takes 7 to 15 digits, with "
                "the country code in place of a leading 0. Ask for what is missing"
            )
        return self._take_down(ctx, GetPhoneNumberResult(number), read_back=grouped(number))

    @function_tool(flags=ToolFlag.IGNORE_ON_ENTER)
    async def decline_phone_number_capture(self, reason: str) -> None:
        """The user does not want to give a phone number, or has none.

        Args:
            reason: Why, in a few words.
        """
        self._decline(reason)


def normalized(number: str) -> str:
    """Without the signs that people put between digits; the international prefix 00 becomes +."""
    number = re.sub(r"[\s().\-/\u2010-\u2015]", "", number.strip().removeprefix("tel:"))
    return f"+{number[2:]}" if number.startswith("00") else number


def grouped(number: str) -> str:
    """The digits as they are read out: in groups of three, and four at the end."""
    plus, digits = ("plus ", number[1:]) if number.startswith("+") else ("", number)
    head, tail = digits[:-4], digits[-4:]
    first = len(head) % 3
    groups = [head[:first]] if first else []
    groups += [head[i : i + 3] for i in range(first, len(head), 3)]
    return plus + ", ".join(" ".join(group) for group in [*groups, tail])


__all__ = ["GetPhoneNumberResult", "GetPhoneNumberTask"]
