"""A task that finds out an email address."""

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
    TEMPLATE,
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
    spelled,
)
from .utils import WorkflowInstructions

EMAIL_REGEX = (
    r"^(?=.{6,254}$)(?=[^@]{1,64}@)"
    r"[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*"
    r"@(?:(?!-)[^\W_](?:[\w-]{0,61}[^\W_])?\.)+(?:xn--[A-Za-z0-9-]{2,59}|[^\W\d_]{2,63})$"
)
"""An address as people use them: no quotes, no IP addresses; letters of any script."""

PERSONA = "You find out one thing: the email address of the user."

AUDIO_SPECIFIC = f"""\
{AUDIO}
"At" is @, "dot" is a full stop, "underscore", "dash", "minus" and "plus" are signs. Well-known \
providers (gmail, outlook, icloud, yahoo, ...) are domains even when "dot com" was swallowed by the \
line. Names may be spelled in unexpected ways: when in doubt, ask for the part that is unclear, not \
for everything again."""

TEXT_SPECIFIC = TEXT

CONFIRMATION_INSTRUCTION = confirming("confirm_email_address")

SPELLING_INSTRUCTION = """\
Have the user spell the part before the @ letter by letter before you take the address down, unless \
they have done so by themselves."""

INSTRUCTIONS_TEMPLATE = TEMPLATE.replace("{taking}", "{taking}\n\n{spelling}")


@dataclass
class GetEmailResult:
    """What the user gave."""

    email_address: str
    """The address, valid by its form."""


class GetEmailTask(CaptureTask[GetEmailResult]):
    """Asks for an email address.

    ::

        result = await GetEmailTask(chat_ctx=self.chat_ctx)

    Raises `ToolError` where it is awaited if the user declines.
    """

    def __init__(
        self,
        *,
        instructions: NotGivenOr[WorkflowInstructions | Instructions | str] = NOT_GIVEN,
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
        verify_spelling: bool = False,
        extra_instructions: str = "",
    ) -> None:
        """Describe the task.

        Args:
            instructions: In place of those the task comes with; `WorkflowInstructions` can change
                parts of them.
            chat_ctx: The conversation so far; without one, the task begins with a blank page.
            turn_detection: How the end of the user's turn is found.
            tools: Further tools.
            stt: Speech to text.
            vad: Voice activity detection.
            llm: The language model.
            tts: Text to speech.
            allow_interruptions: Whether the agent may be interrupted.
            require_confirmation: Whether the user has to confirm the address after it was read
                back. By default users who speak have to, and users who write don't.
            require_explicit_ask: Ask even if the conversation holds an address already.
            verify_spelling: Have it spelled.
            extra_instructions: Added to the instructions.
        """
        super().__init__(
            what="the email address of the user",
            updates=[("update_email_address", self._update)],
            confirm="confirm_email_address",
            instructions=compose(
                instructions,
                extra_instructions,
                template=INSTRUCTIONS_TEMPLATE,
                persona=PERSONA,
                modality=Instructions(audio=AUDIO_SPECIFIC, text=TEXT_SPECIFIC),
                taking="Call `update_email_address` as soon as the address is complete, and again "
                "whenever the user corrects it. Never complete it by guessing.",
                spelling=SPELLING_INSTRUCTION if verify_spelling else "",
                confirmation=by_modality(require_confirmation, CONFIRMATION_INSTRUCTION),
                declining=declining("decline_email_capture", "an email address"),
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

    async def _update(self, email: str, ctx: RunContext[Any]) -> str | None:
        """Take down the email address, also a corrected one.

        Args:
            email: The complete address, such as "ada.lovelace@example.com".
        """
        address = "".join(email.split()).removeprefix("mailto:").strip("<>")
        if not re.match(EMAIL_REGEX, address):
            raise ToolError(
                f"{email!r} can't be an email address: ask for the part that is missing or unclear"
            )
        local, domain = address.split("@")
        return self._take_down(
            ctx,
            GetEmailResult(address),
            read_back=f"{address} (before the @, spelled: {spelled(local)}; then {domain})",
        )

    @function_tool(flags=ToolFlag.IGNORE_ON_ENTER)
    async def decline_email_capture(self, reason: str) -> None:
        """The user does not want to give an email address, or has none.

        Args:
            reason: Why, in a few words.
        """
        self._decline(reason)


__all__ = ["GetEmailResult", "GetEmailTask"]
