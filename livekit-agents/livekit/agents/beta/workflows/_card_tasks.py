"""Tasks that find out one piece of the data of a payment card each.

None of them logs what it hears. Numbers and codes are taken out of the tool calls that are kept in
the session's history, and out of the user's words where they are written in digits; the agent repeats
no more of a number than its last four digits, and of a code nothing.
"""

from __future__ import annotations

import re
import time as clock
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, ClassVar

from ...llm import ChatContext, Instructions, ToolError, function_tool
from ...llm.tool_context import ToolFlag
from ...types import NOT_GIVEN, NotGivenOr
from ...voice.agent import AgentTask
from ...voice.run_context import RunContext
from ._capture import (
    AUDIO,
    TEXT,
    CaptureTask,
    Result_T,
    by_modality,
    compose,
    confirming,
    declining,
    has_letter,
    squeezed,
)
from ._card_numbers import OTHER_ISSUER, is_card_number, issuer_of
from ._redaction import redact_arguments, redact_digits

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


class CardTask(CaptureTask[Result_T]):
    """Finds out one piece of data. Subclasses say which, and have the tool `_update`."""

    _what: str
    _subject: ClassVar[str]
    """The piece: its tools are `update_<subject>` and `confirm_<subject>`."""
    _taking: ClassVar[str]
    """When to call the update tool."""
    _confirmation: ClassVar[str | None] = None
    """How it is confirmed; by being read back when None."""
    _confirm_with: Callable[..., Any] | None = None
    """The confirming tool, where it needs more than a yes."""
    _update: Callable[..., Any]

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
        update, confirm = f"update_{self._subject}", f"confirm_{self._subject}"
        confirmation = self._confirmation or confirming(confirm)
        super().__init__(
            what=self._what,
            updates=[(update, self._update)],
            confirm=confirm,
            confirm_with=self._confirm_with,
            instructions=compose(
                NOT_GIVEN,
                extra_instructions,
                persona=f"You find out one thing: {self._what}.",
                modality=Instructions(audio=AUDIO, text=TEXT),
                taking=f"{self._taking} Pass on what the user says and nothing else; never guess. "
                "Data of cards are confidential: don't repeat more of them than you are told to.",
                confirmation=by_modality(require_confirmation, confirmation),
                declining=f"{declining('decline_card_capture', 'the data of a card')} If the user "
                "takes another card, or wants to begin again, call `restart_card_collection`.",
            ),
            tools=[decline_card_capture, restart_card_collection],
            chat_ctx=chat_ctx,
            require_confirmation=require_confirmation,
            require_explicit_ask=require_explicit_ask,
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


@dataclass
class GetCardNumberResult:
    """What the user gave."""

    issuer: str
    """As the number tells, or "Other"."""
    card_number: str = field(repr=False)
    """Digits only."""


class GetCardNumberTask(CardTask[GetCardNumberResult]):
    """Asks for the number of a card.

    Raises `CardCaptureDeclinedError` or `CardCollectionRestartError` where it is awaited if the user
    declines or wants to start over.
    """

    _what = "the number of the user's payment card"
    _subject = "card_number"
    _taking = (
        "Wait until the number is complete: 12 to 19 digits, mostly 16, often said in groups. Then "
        "call `update_card_number`. It is not kept where you can see it: when the user corrects a "
        "part of it, have all of it said again."
    )

    def validate_card_number(self, card_number: str) -> bool:
        """Whether digits can be the number of a card: by their count and the Luhn checksum."""
        return is_card_number(card_number)

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


@dataclass
class GetSecurityCodeResult:
    """What the user gave."""

    security_code: str = field(repr=False)
    """Three or four digits."""


class GetSecurityCodeTask(CardTask[GetSecurityCodeResult]):
    """Asks for the security code of a card. It is confirmed by being said once more.

    Raises `CardCaptureDeclinedError` or `CardCollectionRestartError` where it is awaited if the user
    declines or wants to start over.
    """

    _what = "the security code of the user's payment card"
    _subject = "security_code"
    _taking = (
        "It has three digits, on the back of the card; on American Express four, on the front. Call "
        "`update_security_code` as soon as you have it, and again whenever the user corrects it."
    )
    _confirmation = (
        "Never say the code yourself, not even a part of it. Once it is taken down, ask the user to "
        "say it a second time, wait, and call `confirm_security_code` with what you hear then."
    )
    _lengths: tuple[int, ...] = (3, 4)

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

    async def _confirm_with(self, security_code: str, ctx: RunContext[Any]) -> None:
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


@dataclass
class GetExpirationDateResult:
    """What the user gave."""

    date: str
    """As printed on the card: month and year, "08/29"."""


class GetExpirationDateTask(CardTask[GetExpirationDateResult]):
    """Asks until when a card is valid.

    Raises `CardCaptureDeclinedError` or `CardCollectionRestartError` where it is awaited if the user
    declines or wants to start over.
    """

    _what = "the expiration date of the user's payment card"
    _subject = "expiration_date"
    _taking = (
        "It is a month and a year. Call `update_expiration_date` as soon as you have both, and again "
        "whenever the user corrects them."
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


class GetCardholderTask(CardTask[str]):
    """Asks for the name on a card."""

    _what = "the name of the cardholder, as printed on the payment card"
    _subject = "cardholder_name"
    _taking = (
        "Call `update_cardholder_name` as soon as you have first and last name, and again whenever "
        "the user corrects it."
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


__all__ = [
    "CardCaptureDeclinedError",
    "CardCollectionRestartError",
    "GetCardNumberResult",
    "GetCardNumberTask",
    "GetCardholderTask",
    "GetExpirationDateResult",
    "GetExpirationDateTask",
    "GetSecurityCodeResult",
    "GetSecurityCodeTask",
    "decline_card_capture",
    "restart_card_collection",
]
