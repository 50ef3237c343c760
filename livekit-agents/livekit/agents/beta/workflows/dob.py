"""A task that finds out when the user was born."""

from __future__ import annotations

import time as clock
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
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

MAX_AGE = 130
"""Years; nobody is known to have become older than 122."""


@dataclass
class GetDOBResult:
    """What the user gave."""

    date_of_birth: date
    time_of_birth: time | None = None
    """None if it was not asked for, or the user does not know it."""


class GetDOBTask(CaptureTask[GetDOBResult]):
    """Asks for a date of birth. Raises `ToolError` where it is awaited if the user declines."""

    def __init__(
        self,
        extra_instructions: str = "",
        include_time: bool = False,
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
            extra_instructions: Added to the instructions.
            include_time: Ask for the time of birth, too.
            chat_ctx: The conversation so far; without one, the task begins with a blank page.
            turn_detection: How the end of the user's turn is found.
            tools: Further tools.
            stt: Speech to text.
            vad: Voice activity detection.
            llm: The language model.
            tts: Text to speech.
            allow_interruptions: Whether the agent may be interrupted.
            require_confirmation: Whether the user has to confirm the date after it was read
                back. By default users who speak have to, and users who write don't.
            require_explicit_ask: Ask even if the conversation holds the date already.
        """
        self._include_time = include_time
        self._date: date | None = None
        self._time: time | None = None
        self._time_asked = not include_time
        what = "date and time of birth" if include_time else "date of birth"
        taking = (
            "Call `update_dob` as soon as you have day, month and year, and again whenever the "
            "user corrects it. If an order such as 3/4 may be read in two ways, ask for the month "
            "by its name; if the century is open, ask."
        )
        if include_time:
            taking += (
                " Then ask for the time of birth and call `update_time_of_birth`; many don't know "
                "theirs, which is fine: call it without one."
            )
        updates: list[tuple[str, Any]] = [("update_dob", self._update)]
        if include_time:
            updates.append(("update_time_of_birth", self._update_time))
        super().__init__(
            what=f"the {what} of the user",
            updates=updates,
            confirm="confirm_dob",
            instructions=compose(
                NOT_GIVEN,
                extra_instructions,
                persona=f"You find out one thing: the {what} of the user.",
                modality=Instructions(audio=AUDIO, text=TEXT),
                taking=taking,
                confirmation=by_modality(require_confirmation, confirming("confirm_dob")),
                declining=declining("decline_dob_capture", "a date of birth"),
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

    async def _update(self, year: int, month: int, day: int, ctx: RunContext[Any]) -> str | None:
        """Take down the date of birth, also a corrected one.

        Args:
            year: With all four digits.
            month: 1 to 12.
            day: 1 to 31.
        """
        self._refuse_when_done()
        self._date = plausible(year, month, day)
        return self._next(ctx)

    async def _update_time(
        self, ctx: RunContext[Any], hour: int | None = None, minute: int | None = None
    ) -> str | None:
        """Take down the time of birth, also a corrected one. Leave both out if it is not known.

        Args:
            hour: 0 to 23.
            minute: 0 to 59.
        """
        self._refuse_when_done()
        try:
            self._time = None if hour is None else time(hour, minute or 0)
        except ValueError:
            raise ToolError(
                f"{hour}:{minute} is no time of the day: ask for it again, and whether it was in "
                "the morning or in the evening"
            ) from None
        self._time_asked = True
        return self._next(ctx)

    def _next(self, ctx: RunContext[Any]) -> str | None:
        if self._date is None:
            return "Taken down. Now ask for the date of birth."
        if not self._time_asked:
            return "Taken down. Now ask for the time of birth, if the user knows it."
        read_back = f"{self._date.isoformat()} (with the month by its name)"
        if self._time is not None:
            read_back += f", at {self._time:%H:%M}"
        return self._take_down(ctx, GetDOBResult(self._date, self._time), read_back=read_back)

    @function_tool(flags=ToolFlag.IGNORE_ON_ENTER)
    async def decline_dob_capture(self, reason: str) -> None:
        """The user does not want to give a date of birth.

        Args:
            reason: Why, in a few words.
        """
        self._decline(reason)


def plausible(year: int, month: int, day: int) -> date:
    """The date, if somebody who is alive can have been born on it.

    Raises:
        ToolError: There is no such date, it is to come, or too long ago.
    """
    if 0 <= year < 100:
        raise ToolError("the year needs all four digits: ask for the century if it is not plain")
    try:
        born = date(year, month, day)
    except ValueError:
        raise ToolError(
            f"there is no day {day} of month {month} in {year}: ask for the date again"
        ) from None
    # wherever the user may be: in the earliest time zone the date is 14 hours ahead of UTC
    today = (datetime.fromtimestamp(clock.time(), timezone.utc) + timedelta(hours=14)).date()
    if born > today:
        raise ToolError(f"{born} is still to come: ask for the date again")
    if today.year - born.year > MAX_AGE:
        raise ToolError(f"nobody is as old as somebody born on {born}: ask for the year again")
    return born


__all__ = ["GetDOBResult", "GetDOBTask"]
