"""A task that finds out a postal address."""

from __future__ import annotations

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
    has_letter,
    squeezed,
)
from .utils import WorkflowInstructions

PERSONA = "You find out one thing: the postal address of the user."

AUDIO_SPECIFIC = f"""\
{AUDIO}
Numbers of houses, flats and postcodes come as words, in pairs or digit by digit. Ask how a street or \
town is spelled if you don't know it."""

TEXT_SPECIFIC = TEXT

CONFIRMATION_INSTRUCTION = confirming("confirm_address")

INSTRUCTIONS_TEMPLATE = TEMPLATE


@dataclass
class GetAddressResult:
    """What the user gave."""

    address: str
    """On one line: street, unit, city, region and postcode, country."""


class GetAddressTask(CaptureTask[GetAddressResult]):
    """Asks for a postal address, anywhere in the world.

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
            extra_instructions: Added to the instructions, for instance the country that is served.
        """
        super().__init__(
            what="the postal address of the user",
            updates=[("update_address", self._update)],
            confirm="confirm_address",
            instructions=compose(
                instructions,
                extra_instructions,
                template=INSTRUCTIONS_TEMPLATE,
                persona=PERSONA,
                modality=Instructions(audio=AUDIO_SPECIFIC, text=TEXT_SPECIFIC),
                taking="What belongs to an address depends on the country: not all have regions, "
                "postcodes or house numbers. Ask for what is missing, piece by piece, rather than "
                "for a list. Work the country out if it is plain, else ask. Call `update_address` "
                "as soon as the address would reach its house, and again whenever the user "
                "corrects it. Never complete it by guessing.",
                confirmation=by_modality(require_confirmation, CONFIRMATION_INSTRUCTION),
                declining=declining("decline_address_capture", "an address"),
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
        street: str,
        city: str,
        country: str,
        unit: str | None = None,
        region: str | None = None,
        postal_code: str | None = None,
    ) -> str | None:
        """Take down the address, also a corrected one: always all of it.

        Args:
            street: Street and house number, in the order that is customary there.
            city: City, town or village.
            country: The country's name.
            unit: Flat, floor, suite, or care of; only if there is one.
            region: State, province or county; only where it is customary.
            postal_code: Postcode; only where there are any.
        """
        for name, text in {"street": street, "city": city, "country": country}.items():
            if not has_letter(text) and not (name == "street" and squeezed(text)):
                raise ToolError(f"the {name} is missing: ask for it")
        locality = " ".join(squeezed(part) for part in (region, postal_code) if part)
        parts = (street, unit, city, locality, country)
        address = ", ".join(squeezed(part) for part in parts if part and squeezed(part))
        return self._take_down(ctx, GetAddressResult(address), read_back=address)

    @function_tool(flags=ToolFlag.IGNORE_ON_ENTER)
    async def decline_address_capture(self, reason: str) -> None:
        """The user does not want to give an address.

        Args:
            reason: Why, in a few words.
        """
        self._decline(reason)


__all__ = ["GetAddressResult", "GetAddressTask"]
