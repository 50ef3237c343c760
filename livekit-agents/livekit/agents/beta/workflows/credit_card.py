"""Tasks that find out the data of a payment card, piece by piece.

None of them logs what it hears. Numbers and codes are taken out of the tool calls that are kept in
the session's history, and out of the user's words where they are written in digits; the agent repeats
no more of a number than its last four digits, and of a code nothing.
"""

from __future__ import annotations

import re
import time as clock
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ...llm import ChatContext, Instructions, Tool, ToolError, Toolset, function_tool
from ...llm.tool_context import ToolFlag
from ...types import NOT_GIVEN, NotGivenOr
from ...voice.agent import AgentTask
from ...voice.run_context import RunContext
from ._capture import (
    AUDIO,
    TEXT,
    AnyLLM,
    AnySTT,
    AnyTTS,
    AnyVAD,
    CaptureTask,
    Result_T,
    TurnDetection,
    by_modality,
    compose,
    confirming,
    declining,
    has_letter,
    squeezed,
)
from ._redaction import redact_arguments, redact_digits
from .task_group import TaskCompletedEvent, TaskGroup

CARD_ISSUERS_LOOKUP = {
    "34": "American Express",
    "37": "American Express",
    **dict.fromkeys(("300", "301", "302", "303", "304", "305", "36", "38"), "Diners Club"),
    "35": "JCB",
    "4": "Visa",
    **{str(prefix): "Mastercard" for prefix in (*range(51, 56), *range(2221, 2230))},
    **{str(prefix): "Mastercard" for prefix in (*range(223, 230), *range(23, 27), 270, 271, 2720)},
    **{str(prefix): "Discover" for prefix in (6011, *range(644, 650), 65)},
    "62": "UnionPay",
}
"""The digits that a card number begins with -> who has issued it. The longest that fits counts."""

OTHER_ISSUER = "Other"

MAX_YEARS_VALID = 20
"""Cards that are valid for longer are misheard ones."""


class CardCaptureDeclinedError(ToolError):
    """The user does not want to give card data."""

    def __init__(self, reason: str) -> None:
        """Create the error.

        Args:
            reason: The user's, in a few words.
        """
        super().__init__(f"the user does not give the data of a card: {reason}")
        self._reason = reason

    @property
    def reason(self) -> str:
        """The user's, in a few words."""
        return self._reason


class CardCollectionRestartError(ToolError):
    """The user wants to start over, for instance with another card."""

    def __init__(self, reason: str) -> None:
        """Create the error.

        Args:
            reason: The user's, in a few words.
        """
        super().__init__(f"the user wants to start over with the card: {reason}")
        self._reason = reason

    @property
    def reason(self) -> str:
        """The user's, in a few words."""
        return self._reason


@function_tool(flags=ToolFlag.IGNORE_ON_ENTER)
async def decline_card_capture(context: RunContext[Any], reason: str) -> None:
    """The user does not want to give the data of a card, or not all of it.

    Args:
        reason: Why, in a few words.
    """
    _running_task(context).complete(CardCaptureDeclinedError(reason))


@function_tool(flags=ToolFlag.IGNORE_ON_ENTER)
async def restart_card_collection(context: RunContext[Any], reason: str) -> None:
    """Begin again with the first piece of data, because the user takes another card.

    Args:
        reason: Why, in a few words.
    """
    restart = CardCollectionRestartError(reason)
    _running_task(context)._complete(restart, is_outcome_of_run=False)


def _running_task(context: RunContext[Any]) -> AgentTask[Any]:
    task = context.session.current_agent
    if not isinstance(task, AgentTask) or task.done():
        raise ToolError("too late: the card is dealt with already")
    return task


class _CardTask(CaptureTask[Result_T]):
    """Finds out one piece of data."""

    def __init__(
        self,
        *,
        what: str,
        update: tuple[str, Any],
        confirm: str,
        taking: str,
        confirmation: str,
        extra_instructions: str,
        **options: Any,
    ) -> None:
        super().__init__(
            what=what,
            updates=[update],
            confirm=confirm,
            instructions=compose(
                NOT_GIVEN,
                extra_instructions,
                persona=f"You find out one thing: {what}.",
                modality=Instructions(audio=AUDIO, text=TEXT),
                taking=f"{taking} Pass on what the user says and nothing else; never guess. Data "
                "of cards are confidential: don't repeat more of them than you are told to.",
                confirmation=by_modality(options["require_confirmation"], confirmation),
                declining=f"{declining('decline_card_capture', 'the data of a card')} If the user "
                "takes another card, or wants to begin again, call `restart_card_collection`.",
            ),
            tools=[decline_card_capture, restart_card_collection],
            **options,
        )
        self._made_at = clock.time()

    def _redact(self, ctx: RunContext[Any], digits: str, *, since: float = 0.0) -> None:
        redact_arguments(ctx)
        if digits:
            items = [*self.session.history.items, *self._chat_ctx.items]
            redact_digits((item for item in items if item.created_at >= since), digits)


def digits_of(text: str) -> str:
    """The digits, without the blanks and dashes between them.

    Raises:
        ToolError: There is something else in it.
    """
    digits = re.sub(r"[\s\-.]", "", text)
    if not (digits.isascii() and digits.isdigit()):
        raise ToolError(
            "pass the digits that the user has just said, and nothing else; what was said earlier is "
            "not kept, so if you lack them, ask for all of them once more"
        )
    return digits


# -- the number -----------------------------------------------------------------------------------


@dataclass
class GetCardNumberResult:
    """What the user gave."""

    issuer: str
    """As the number tells, or "Other"."""
    card_number: str = field(repr=False)
    """Digits only."""


class GetCardNumberTask(_CardTask[GetCardNumberResult]):
    """Asks for the number of a card.

    Raises `CardCaptureDeclinedError` or `CardCollectionRestartError` where it is awaited if the user
    declines or wants to start over.
    """

    def __init__(
        self,
        *,
        chat_ctx: NotGivenOr[ChatContext] = NOT_GIVEN,
        require_confirmation: NotGivenOr[bool] = NOT_GIVEN,
        require_explicit_ask: bool = False,
        extra_instructions: str = "",
    ) -> None:
        """Describe the task.

        Args:
            chat_ctx: The conversation so far.
            require_confirmation: Whether the user has to confirm it. By default users who speak
                have to, and users who write don't.
            require_explicit_ask: Ask even if the conversation holds it already.
            extra_instructions: Added to the instructions.
        """
        super().__init__(
            what="the number of the user's payment card",
            update=("update_card_number", self._update),
            confirm="confirm_card_number",
            taking="Wait until the number is complete: 12 to 19 digits, mostly 16, often said in "
            "groups. Then call `update_card_number`. It is not kept where you can see it: when the user "
            "corrects a part of it, have all of it said again.",
            confirmation=confirming("confirm_card_number"),
            chat_ctx=chat_ctx,
            require_confirmation=require_confirmation,
            require_explicit_ask=require_explicit_ask,
            extra_instructions=extra_instructions,
        )

    def validate_card_number(self, card_number: str) -> bool:
        """Whether digits can be the number of a card: by their count and the Luhn checksum."""
        if not (card_number.isascii() and card_number.isdigit() and 12 <= len(card_number) <= 19):
            return False
        total = 0
        for place, sign in enumerate(reversed(card_number)):
            digit = int(sign) * (1 + place % 2)
            total += digit - 9 if digit > 9 else digit
        return total % 10 == 0 and int(card_number) > 0

    async def _update(self, card_number: str, ctx: RunContext[Any]) -> str | None:
        """Take down the number of the card, also a corrected one.

        Args:
            card_number: All digits.
        """
        redact_arguments(ctx)
        number = digits_of(card_number)
        self._redact(ctx, number)
        if not self.validate_card_number(number):
            raise ToolError(
                f"a card can't have this number of {len(number)} digits: some are missing or "
                "misheard. Ask for all of it once more, slowly"
            )
        issuer = issuer_of(number)
        card = "card" if issuer == OTHER_ISSUER else f"{issuer} card"
        return self._take_down(
            ctx,
            GetCardNumberResult(issuer, number),
            read_back=f"the {card} that ends in {' '.join(number[-4:])}",
        )


def issuer_of(number: str) -> str:
    """Who issued a card, by `CARD_ISSUERS_LOOKUP`."""
    for length in range(4, 0, -1):
        issuer = CARD_ISSUERS_LOOKUP.get(number[:length])
        if issuer is not None:
            return issuer
    return OTHER_ISSUER


# -- the security code ------------------------------------------------------------------------------


@dataclass
class GetSecurityCodeResult:
    """What the user gave."""

    security_code: str = field(repr=False)
    """Three or four digits."""


class GetSecurityCodeTask(_CardTask[GetSecurityCodeResult]):
    """Asks for the security code of a card. It is confirmed by being said once more.

    Raises `CardCaptureDeclinedError` or `CardCollectionRestartError` where it is awaited if the user
    declines or wants to start over.
    """

    def __init__(
        self,
        *,
        chat_ctx: NotGivenOr[ChatContext] = NOT_GIVEN,
        require_confirmation: NotGivenOr[bool] = NOT_GIVEN,
        require_explicit_ask: bool = False,
        extra_instructions: str = "",
    ) -> None:
        """Describe the task.

        Args:
            chat_ctx: The conversation so far.
            require_confirmation: Whether the user has to say it twice. By default users who speak
                have to, and users who write don't.
            require_explicit_ask: Ask even if the conversation holds it already.
            extra_instructions: Added to the instructions.
        """
        self._lengths: tuple[int, ...] = (3, 4)
        super().__init__(
            what="the security code of the user's payment card",
            update=("update_security_code", self._update),
            confirm="confirm_security_code",
            confirm_with=self._confirm_code,
            taking="It has three digits, on the back of the card; on American Express four, on the "
            "front. Call `update_security_code` as soon as you have it, and again whenever the "
            "user corrects it.",
            confirmation="Never say the code yourself, not even a part of it. Once it is taken "
            "down, ask the user to say it a second time, wait, and call `confirm_security_code` "
            "with what you hear then.",
            chat_ctx=chat_ctx,
            require_confirmation=require_confirmation,
            require_explicit_ask=require_explicit_ask,
            extra_instructions=extra_instructions,
        )

    async def _update(self, security_code: str, ctx: RunContext[Any]) -> str | None:
        """Take down the security code, also a corrected one.

        Args:
            security_code: All digits.
        """
        return self._take_down(
            ctx,
            GetSecurityCodeResult(self._checked(security_code, ctx)),
            read_back="",
            ask="Without saying the code, ask the user to say it once more to be sure",
        )

    async def _confirm_code(self, security_code: str, ctx: RunContext[Any]) -> None:
        """Settle the security code, once the user has said it a second time.

        Args:
            security_code: What the user said the second time, all digits.
        """
        repeated = self._checked(security_code, ctx)
        draft = self._confirmable(ctx)
        if draft.result.security_code != repeated:
            self._draft = None
            raise ToolError("that is not the code of the first time: ask for it anew")
        self.complete(draft.result)

    def _checked(self, security_code: str, ctx: RunContext[Any]) -> str:
        redact_arguments(ctx)
        code = digits_of(security_code)
        self._redact(ctx, code, since=self._made_at)
        if len(code) not in self._lengths:
            wanted = " or ".join(map(str, self._lengths))
            raise ToolError(
                f"the code of this card has {wanted} digits, this has {len(code)}: ask for it again"
            )
        return code


# -- the expiration date ------------------------------------------------------------------------------


@dataclass
class GetExpirationDateResult:
    """What the user gave."""

    date: str
    """As printed on the card: month and year, "08/29"."""


class GetExpirationDateTask(_CardTask[GetExpirationDateResult]):
    """Asks until when a card is valid.

    Raises `CardCaptureDeclinedError` or `CardCollectionRestartError` where it is awaited if the user
    declines or wants to start over.
    """

    def __init__(
        self,
        *,
        chat_ctx: NotGivenOr[ChatContext] = NOT_GIVEN,
        require_confirmation: NotGivenOr[bool] = NOT_GIVEN,
        require_explicit_ask: bool = False,
        extra_instructions: str = "",
    ) -> None:
        """Describe the task.

        Args:
            chat_ctx: The conversation so far.
            require_confirmation: Whether the user has to confirm it. By default users who speak
                have to, and users who write don't.
            require_explicit_ask: Ask even if the conversation holds it already.
            extra_instructions: Added to the instructions.
        """
        super().__init__(
            what="the expiration date of the user's payment card",
            update=("update_expiration_date", self._update),
            confirm="confirm_expiration_date",
            taking="It is a month and a year. Call `update_expiration_date` as soon as you have "
            "both, and again whenever the user corrects them.",
            confirmation=confirming("confirm_expiration_date"),
            chat_ctx=chat_ctx,
            require_confirmation=require_confirmation,
            require_explicit_ask=require_explicit_ask,
            extra_instructions=extra_instructions,
        )

    async def _update(self, month: int, year: int, ctx: RunContext[Any]) -> str | None:
        """Take down the expiration date, also a corrected one.

        Args:
            month: 1 to 12.
            year: With two or four digits.
        """
        if not 1 <= month <= 12:
            raise ToolError(f"there is no month {month}: ask for the date again")
        year = year + 2000 if 0 <= year < 100 else year
        today = datetime.fromtimestamp(clock.time(), timezone.utc)
        if (year, month) < (today.year, today.month):
            raise ToolError(
                "this card has expired: say so, and ask whether the date is right or whether the "
                "user has another card"
            )
        if year > today.year + MAX_YEARS_VALID:
            raise ToolError(f"no card is valid until {year}: ask for the date again")
        return self._take_down(
            ctx,
            GetExpirationDateResult(f"{month:02d}/{year % 100:02d}"),
            read_back=f"month {month} of {year} (the month by its name)",
        )


# -- the name -----------------------------------------------------------------------------------------


class _GetCardholderTask(_CardTask[str]):
    """Asks for the name on a card."""

    def __init__(
        self,
        *,
        require_confirmation: NotGivenOr[bool] = NOT_GIVEN,
        extra_instructions: str = "",
    ) -> None:
        super().__init__(
            what="the name of the cardholder, as printed on the payment card",
            update=("update_cardholder_name", self._update),
            confirm="confirm_cardholder_name",
            taking="Call `update_cardholder_name` as soon as you have first and last name, and "
            "again whenever the user corrects it.",
            confirmation=confirming("confirm_cardholder_name"),
            require_confirmation=require_confirmation,
            extra_instructions=extra_instructions,
        )

    async def _update(self, name: str, ctx: RunContext[Any]) -> str | None:
        """Take down the name of the cardholder, also a corrected one.

        Args:
            name: As printed on the card.
        """
        name = squeezed(name)
        if not has_letter(name) or len(name) > 100:
            raise ToolError("that can't be a name: ask for it again")
        return self._take_down(ctx, name, read_back=name)


# -- all of it ------------------------------------------------------------------------------------------


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
            ("cardholder_name", _GetCardholderTask, "the name on the card"),
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
        """The task with the models, tools and turn handling that this one was given."""
        task.update_options(stt=self._stt, vad=self._vad, llm=self._llm, tts=self._tts)
        task._turn_handling = self._turn_handling
        task._tools = [*self._tools, *task._tools]
        return task


__all__ = [
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
