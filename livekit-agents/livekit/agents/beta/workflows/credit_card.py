"""A task that finds out all data of a payment card, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...llm import ChatContext, Tool, Toolset
from ...types import NOT_GIVEN, NotGivenOr
from ...voice.agent import AgentTask
from ._capture import AnyLLM, AnySTT, AnyTTS, AnyVAD, TurnDetection
from ._card_numbers import CARD_ISSUERS_LOOKUP
from ._card_tasks import (
    CardCaptureDeclinedError,
    CardCollectionRestartError,
    GetCardholderTask,
    GetCardNumberResult,
    GetCardNumberTask,
    GetExpirationDateResult,
    GetExpirationDateTask,
    GetSecurityCodeResult,
    GetSecurityCodeTask,
    decline_card_capture,
    restart_card_collection,
)
from .task_group import TaskCompletedEvent, TaskGroup


@dataclass
class GetCreditCardResult:
    """What the user gave."""

    cardholder_name: str
    issuer: str
    """As the number tells, or "Other"."""
    card_number: str = field(repr=False)
    """Digits only."""
    security_code: str = field(repr=False)
    """Three digits; four for American Express."""
    expiration_date: str
    """As printed on the card: month and year, "08/29"."""


class GetCreditCardTask(AgentTask[GetCreditCardResult]):
    """Asks for all data of a card: name, number, expiration date and security code.

    The user may return to what was dealt with, start over with another card, or decline, which
    raises `CardCaptureDeclinedError` where it is awaited.
    """

    def __init__(
        self,
        chat_ctx: NotGivenOr[ChatContext] = NOT_GIVEN,
        turn_detection: TurnDetection = NOT_GIVEN,
        tools: NotGivenOr[list[Tool | Toolset]] = NOT_GIVEN,
        stt: AnySTT = NOT_GIVEN,
        vad: AnyVAD = NOT_GIVEN,
        llm: AnyLLM = NOT_GIVEN,
        tts: AnyTTS = NOT_GIVEN,
        allow_interruptions: NotGivenOr[bool] = NOT_GIVEN,
        require_confirmation: NotGivenOr[bool] = NOT_GIVEN,
        extra_instructions: str = "",
    ) -> None:
        """Describe the task.

        Args:
            chat_ctx: The conversation so far.
            turn_detection: How the end of the user's turn is found.
            tools: Further tools.
            stt: Speech to text.
            vad: Voice activity detection.
            llm: The language model.
            tts: Text to speech.
            allow_interruptions: Whether the agent may be interrupted.
            require_confirmation: Whether the user has to confirm each piece of data. By default
                users who speak have to, and users who write don't.
            extra_instructions: Added to the instructions.
        """
        super().__init__(
            instructions="The data of a payment card are being found out. If you are to speak now, "
            "ask the user for a moment's patience.",
            chat_ctx=chat_ctx,
            turn_detection=turn_detection,
            tools=list(tools) if isinstance(tools, list) else None,
            stt=stt,
            vad=vad,
            llm=llm,
            tts=tts,
            allow_interruptions=allow_interruptions,
        )
        self._options: dict[str, Any] = {
            "require_confirmation": require_confirmation,
            "extra_instructions": extra_instructions,
        }

    async def on_enter(self) -> None:
        """Ask for one piece of data after the other."""
        while not (self.done() or self.session._is_closing):
            try:
                results = (await self._group()).task_results
            except CardCollectionRestartError:
                continue
            except Exception as error:
                if not self.done():
                    self.complete(error)
                return
            number: GetCardNumberResult = results["card_number"]
            if not self.done():
                self.complete(
                    GetCreditCardResult(
                        cardholder_name=results["cardholder_name"],
                        issuer=number.issuer,
                        card_number=number.card_number,
                        security_code=results["security_code"].security_code,
                        expiration_date=results["expiration_date"].date,
                    )
                )

    def _group(self) -> TaskGroup:
        code_lengths: tuple[int, ...] = (3, 4)

        async def completed(event: TaskCompletedEvent) -> None:
            nonlocal code_lengths
            if event.task_id == "card_number":
                american = event.result.issuer == "American Express"
                code_lengths = (4,) if american else (3,)

        def security_code() -> AgentTask[Any]:
            task = GetSecurityCodeTask(**self._options)
            task._lengths = code_lengths
            return self._equipped(task)

        group = TaskGroup(
            # a summary is written by a model, from what the user said: no place for card data
            summarize_chat_ctx=False,
            chat_ctx=self._chat_ctx.copy(exclude_instructions=True, exclude_config_update=True),
            on_task_completed=completed,
        )
        self._equipped(group)
        for id, make, description in (
            ("cardholder_name", GetCardholderTask, "the name on the card"),
            ("card_number", GetCardNumberTask, "the number of the card"),
            ("expiration_date", GetExpirationDateTask, "the expiration date of the card"),
        ):
            group.add(
                lambda make=make: self._equipped(make(**self._options)),  # type: ignore[misc]
                id=id,
                description=description,
            )
        group.add(security_code, id="security_code", description="the security code of the card")
        return group

    def _equipped(self, task: AgentTask[Any]) -> AgentTask[Any]:
        task._equip_like(self)
        return task


__all__ = [
    "CARD_ISSUERS_LOOKUP",
    "CardCaptureDeclinedError",
    "CardCollectionRestartError",
    "GetCardNumberResult",
    "GetCardNumberTask",
    "GetCreditCardResult",
    "GetCreditCardTask",
    "GetExpirationDateResult",
    "GetExpirationDateTask",
    "GetSecurityCodeResult",
    "GetSecurityCodeTask",
    "decline_card_capture",
    "restart_card_collection",
]
