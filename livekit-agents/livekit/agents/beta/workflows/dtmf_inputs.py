"""A task that takes digits from the keys of a phone, or spoken ones."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...llm import ChatContext, Instructions, ToolError, function_tool
from ...llm.tool_context import ToolFlag
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given
from ...voice.run_context import RunContext
from .._rooms import room_of
from ._capture import AUDIO, CaptureTask, compose, confirming, declining
from .utils import DtmfEvent, format_dtmf

if TYPE_CHECKING:
    from livekit import rtc

    from ...voice.speech_handle import SpeechHandle

logger = logging.getLogger("dtmf-inputs")

MAX_ATTEMPTS = 3
"""How often a caller may begin and not finish."""


@dataclass
class GetDtmfResult:
    """What the caller entered."""

    user_input: str
    """The keys, with blanks between them: "1 2 3 4"."""

    @classmethod
    def from_dtmf_inputs(cls, dtmf_inputs: Iterable[DtmfEvent]) -> GetDtmfResult:
        """Make one of keys."""
        return cls(format_dtmf(dtmf_inputs))


class GetDtmfTask(CaptureTask[GetDtmfResult]):
    """Has the caller enter a number with the keys of the phone; saying it is fine, too.

    The first key interrupts what the agent says. An entry is complete with its last digit; the stop
    key or a pause ends one that is too short, and the caller is asked to start over, a few times.
    Raises `ToolError` where it is awaited if the caller declines or never completes one.
    """

    def __init__(
        self,
        *,
        num_digits: int,
        ask_for_confirmation: bool = False,
        dtmf_input_timeout: float = 4.0,
        dtmf_stop_event: DtmfEvent = DtmfEvent.POUND,
        chat_ctx: NotGivenOr[ChatContext] = NOT_GIVEN,
        extra_instructions: NotGivenOr[str] = NOT_GIVEN,
    ) -> None:
        """Describe the task.

        Args:
            num_digits: How many keys make an entry.
            ask_for_confirmation: Read it back; the caller agrees in words or with the stop key.
            dtmf_input_timeout: Seconds after a key in which the next one has to come.
            dtmf_stop_event: The key that ends an entry.
            chat_ctx: The conversation so far.
            extra_instructions: Added to the instructions: what the digits are for.

        Raises:
            ValueError: `num_digits` or `dtmf_input_timeout` is not positive.
        """
        if num_digits < 1:
            raise ValueError(f"num_digits has to be at least 1, got {num_digits}")
        if dtmf_input_timeout <= 0:
            raise ValueError(f"dtmf_input_timeout has to be positive, got {dtmf_input_timeout}")
        self._num_digits = num_digits
        self._timeout = dtmf_input_timeout
        self._stop_key = dtmf_stop_event
        self._keys: list[DtmfEvent] = []
        self._attempts = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reply: SpeechHandle | None = None
        self._room: rtc.Room | None = None
        digits = f"{num_digits} digits" if num_digits > 1 else "one digit"
        super().__init__(
            what=f"{digits}, entered with the keys of the phone",
            updates=[("update_digits", self._update)],
            confirm="confirm_digits",
            instructions=compose(
                NOT_GIVEN,
                extra_instructions if is_given(extra_instructions) else "",
                persona=f"You have the caller enter {digits} with the keys of the phone.",
                modality=Instructions(audio=AUDIO, text=""),
                taking="What is keyed in is noted without you. Call `update_digits` only when the "
                "caller says the digits instead, once they are complete, and again whenever the "
                "caller corrects them. Never add or drop any.",
                confirmation=confirming("confirm_digits") if ask_for_confirmation else "",
                declining=declining("decline_digits", "the digits"),
            ),
            chat_ctx=chat_ctx,
            require_confirmation=ask_for_confirmation,
        )
        self._fut.add_done_callback(self._hang_up)

    def dtmf_reply_running(self) -> bool:
        """Whether the agent is answering what was keyed in."""
        return self._reply is not None and not self._reply.done()

    async def on_enter(self) -> None:
        """Listen to the keys, and ask."""
        room = self._room = room_of(self.session)
        if room is not None:
            room.on("sip_dtmf_received", self._on_dtmf)
        await super().on_enter()

    async def on_exit(self) -> None:
        """Listen no more."""
        self._hang_up()

    def _opening(self) -> str:
        return f"Ask the caller to enter {self._what}."

    def _hang_up(self, _: object = None) -> None:
        self._stop_timer()
        room, self._room = self._room, None
        if room is not None:
            room.off("sip_dtmf_received", self._on_dtmf)

    # -- keys ---------------------------------------------------------------------------------------

    def _on_dtmf(self, event: rtc.SipDTMF) -> None:
        if self.done() or self.session._is_closing or not self._from_caller(event):
            return
        try:
            key = DtmfEvent(event.digit)
        except ValueError:
            logger.warning("unknown DTMF digit %r is ignored", event.digit)
            return
        if key == self._stop_key:
            self._on_stop_key()
            return
        if not self._keys:
            self._begin_entry()
        self._keys.append(key)
        self._stop_timer()
        if len(self._keys) == self._num_digits:
            self._entered()
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout, self._cut_short)

    def _from_caller(self, event: rtc.SipDTMF) -> bool:
        room_io = self.session._room_io
        caller = room_io.linked_participant if room_io is not None else None
        sender = event.participant
        return caller is None or sender is None or sender.identity == caller.identity

    def _on_stop_key(self) -> None:
        if self._keys:
            self._cut_short()
        elif self._draft is not None and not self.dtmf_reply_running():
            self.complete(self._draft.result)
        # else it follows the last digit by habit, and says nothing new

    def _begin_entry(self) -> None:
        """What was entered before no longer counts, and what is being said has been understood."""
        self._draft = None
        if self.session.current_speech is None:
            return
        try:
            self.session.interrupt()
        except RuntimeError as error:
            logger.debug("the caller enters digits while the agent speaks on: %s", error)

    def _entered(self) -> None:
        keys, self._keys = self._keys, []
        result = GetDtmfResult.from_dtmf_inputs(keys)
        if not self._require_confirmation:
            self.complete(result)
            return
        reply = self._say(
            f"The caller has keyed in: {result.user_input}. Read that back digit by digit, ask "
            f"whether it is right, and say that {self._stop_key.value} means yes."
        )
        if reply is not None:
            self._begin_draft(result, reply)

    def _cut_short(self) -> None:
        """The entry has ended too early."""
        self._stop_timer()
        keys, self._keys = self._keys, []
        self._attempts += 1
        if self._attempts >= MAX_ATTEMPTS:
            self.complete(
                ToolError(
                    f"the caller entered {len(keys)} of {self._num_digits} digits, and that was "
                    f"attempt {self._attempts}"
                )
            )
            return
        self._say(
            f"The caller has keyed in {len(keys)} of {self._num_digits} digits and then stopped. Say "
            "so, and ask to enter all of them once more."
        )

    def _say(self, instructions: str) -> SpeechHandle | None:
        try:
            self._reply = self.session.generate_reply(
                instructions=instructions, tool_choice="none", input_modality="audio"
            )
        except RuntimeError as error:  # the session ends in this very moment
            logger.debug("the caller's keys are not answered: %s", error)
            return None
        return self._reply

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    # -- words --------------------------------------------------------------------------------------

    async def _update(self, digits: list[DtmfEvent], ctx: RunContext[Any]) -> str | None:
        """Take down the digits that the caller has said, also corrected ones.

        Args:
            digits: All of them, in order.
        """
        if len(digits) != self._num_digits:
            raise ToolError(f"it takes {self._num_digits} digits, these are {len(digits)}")
        result = GetDtmfResult.from_dtmf_inputs(digits)
        return self._take_down(ctx, result, read_back=result.user_input)

    @function_tool(flags=ToolFlag.IGNORE_ON_ENTER)
    async def decline_digits(self, reason: str) -> None:
        """The caller does not want to enter the digits, or does not have them.

        Args:
            reason: Why, in a few words.
        """
        self._decline(reason)


__all__ = ["GetDtmfResult", "GetDtmfTask"]
