"""`SpeechHandle`: one thing the agent says, from its request to the end of its last tool reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..log import logger
from ..utils import shortuuid
from ._context import is_blocking_tool_of

if TYPE_CHECKING:
    from ..llm import ChatItem, ChatMessage

INTERRUPTION_TIMEOUT = 5.0
"""Seconds an interrupted speech may take to end before it is cut off."""

InterruptionSource = Literal["audio_activity", "user_turn", "programmatic"]


@dataclass
class InputDetails:
    """How the input that a speech answers came in."""

    modality: Literal["text", "audio"]


DEFAULT_INPUT_DETAILS = InputDetails(modality="audio")


class SpeechHandle:
    """A speech: everything from one `say()` or `generate_reply()` until its tools are answered.

    A handle is created, scheduled, authorized (it may play), its generation ends (the next speech
    may play), and it is *done* once its tools and their replies are over too. It can be interrupted
    at any point before that, and an interruption is never undone.
    """

    SPEECH_PRIORITY_LOW = 0
    """Plays after every speech of a higher priority."""
    SPEECH_PRIORITY_NORMAL = 5
    """Priority of everything that the framework itself schedules."""
    SPEECH_PRIORITY_HIGH = 10
    """Plays before every queued speech of a lower priority."""

    def __init__(
        self, *, speech_id: str, allow_interruptions: bool, input_details: InputDetails
    ) -> None:
        """Made by `say` and `generate_reply`; see `create` for one of your own.

        Args:
            speech_id: Unique.
            allow_interruptions: Whether the user may interrupt it.
            input_details: What it answers.
        """
        loop = asyncio.get_event_loop()
        self._id = speech_id
        self._allow_interruptions = allow_interruptions
        self._input_details = input_details
        self._loop = loop
        self._interrupt_fut: asyncio.Future[None] = loop.create_future()
        self._done_fut: asyncio.Future[None] = loop.create_future()
        self._scheduled_fut: asyncio.Future[None] = loop.create_future()
        self._authorized_fut: asyncio.Future[None] = loop.create_future()
        self._generations: list[asyncio.Future[None]] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._num_steps = 1
        self._chat_items: list[ChatItem] = []
        self._user_message: ChatMessage | None = None  # what it answers
        self._item_added_callbacks: list[Callable[[ChatItem], None]] = []
        self._done_callbacks: list[Callable[[SpeechHandle], None]] = []
        self._settlers: dict[object, Callable[[], None]] = {}
        self._releasers: dict[object, Callable[[], None]] = {}
        self._interrupt_timeout_handle: asyncio.TimerHandle | None = None
        self._interruption_source: InterruptionSource | None = None
        self._holds = 0
        self._allowed_before_hold = allow_interruptions
        self._error: BaseException | None = None
        self._was_cut_off = False
        self._trace_context: Any = None
        self._scheduled_at: float | None = None
        self._queue_wait: float | None = None
        self._playout_position: float | None = None
        self._maybe_run_final_output: Any = None

    @staticmethod
    def create(
        allow_interruptions: bool = True, input_details: InputDetails = DEFAULT_INPUT_DETAILS
    ) -> SpeechHandle:
        """Make a handle with a fresh id. Needs an event loop."""
        return SpeechHandle(
            speech_id=shortuuid("speech_"),
            allow_interruptions=allow_interruptions,
            input_details=input_details,
        )

    def __repr__(self) -> str:
        state = "done" if self.done() else "interrupted" if self.interrupted else "live"
        return f"SpeechHandle(id={self._id!r}, {state}, step={self._num_steps})"

    # -- public state ---------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """`speech_` and twelve hexadecimal digits."""
        return self._id

    @property
    def num_steps(self) -> int:
        """The LLM step this speech is at; 1 for the first, one more for each tool reply."""
        return self._num_steps

    @property
    def input_details(self) -> InputDetails:
        """The modality of the input this speech answers."""
        return self._input_details

    @property
    def chat_items(self) -> list[ChatItem]:
        """What this speech produced so far, in the order it joined the history.

        The user's message that it answers isn't among them.
        """
        return self._chat_items

    @property
    def scheduled(self) -> bool:
        """Whether the speech was queued for playing (a discarded preemptive reply never is)."""
        return self._scheduled_fut.done()

    @property
    def interrupted(self) -> bool:
        """Whether the speech was interrupted."""
        return self._interrupt_fut.done()

    @property
    def interruption_source(self) -> InterruptionSource | None:
        """Who interrupted first, or None."""
        return self._interruption_source

    @property
    def allow_interruptions(self) -> bool:
        """Whether the user or `interrupt()` without force may interrupt this speech.

        Raises:
            RuntimeError: On setting False once the speech is interrupted.
        """
        return self._allow_interruptions

    @allow_interruptions.setter
    def allow_interruptions(self, value: bool) -> None:
        if self.interrupted and not value:
            raise RuntimeError(
                f"{self._id} is interrupted already, so interruptions can't be disallowed any more; "
                "set allow_interruptions before the speech plays"
            )
        self._allow_interruptions = value
        self._allowed_before_hold = value

    def done(self) -> bool:
        """Whether the whole speech, tool replies included, is over."""
        return self._done_fut.done()

    def exception(self) -> BaseException | None:
        """The error this speech failed with, or None. Awaiting a handle never raises it.

        Raises:
            asyncio.InvalidStateError: If the speech is not done.
        """
        if not self.done():
            raise asyncio.InvalidStateError("the speech is not done yet; await the handle first")
        return self._error

    # -- interrupting ---------------------------------------------------------------------------

    def interrupt(
        self, *, force: bool = False, source: InterruptionSource = "programmatic"
    ) -> SpeechHandle:
        """Stop this speech; what was audibly spoken stays in the history.

        Does nothing once interrupted or done. A speech that is not over `INTERRUPTION_TIMEOUT`
        seconds later is cut off.

        Args:
            force: Interrupt even if `allow_interruptions` is False.
            source: Recorded as the cause; the first one stays.

        Raises:
            RuntimeError: If interruptions are disallowed and `force` is False.
        """
        if self.interrupted or self.done():
            return self
        if not force and not self._allow_interruptions:
            raise RuntimeError("This generation handle does not allow interruptions")
        self._interruption_source = source
        self._interrupt_fut.set_result(None)
        self._interrupt_timeout_handle = self._loop.call_later(
            INTERRUPTION_TIMEOUT, self._on_interruption_timeout
        )
        return self

    def _on_interruption_timeout(self) -> None:
        logger.error(
            "speech not done in time after interruption, cancelling the speech arbitrarily.",
            extra={"speech_id": self._id, "timeout": INTERRUPTION_TIMEOUT},
        )
        self._release_tools()
        self._cut_off()

    def _disarm_interruption_timeout(self) -> None:
        """A forced close has an allowance of its own, which takes the timer's place."""
        if self._interrupt_timeout_handle is not None:
            self._interrupt_timeout_handle.cancel()
            self._interrupt_timeout_handle = None

    def _hold_interruptions(self) -> None:
        """Disallow interruptions until the matching release; holds are counted."""
        if self._holds == 0:
            self._allowed_before_hold = self._allow_interruptions
            self._allow_interruptions = False
        self._holds += 1

    def _release_interruptions(self) -> None:
        self._holds -= 1
        if self._holds == 0 and not self.interrupted:
            self._allow_interruptions = self._allowed_before_hold

    # -- waiting --------------------------------------------------------------------------------

    def __await__(self) -> Generator[None, None, SpeechHandle]:
        async def wait() -> SpeechHandle:
            await self.wait_for_playout()
            return self

        return wait().__await__()

    async def wait_for_playout(self) -> None:
        """Return when the whole speech is over, tools and tool replies included.

        Never raises the speech's error, and cancelling the waiter does not touch the speech.

        Raises:
            RuntimeError: From inside the function tool whose result this speech waits for.
        """
        if is_blocking_tool_of(self):
            raise RuntimeError(
                "cannot wait for the speech from inside its own function tool: the speech waits "
                "for the tool. Use RunContext.wait_for_playout() to wait for what was said "
                "before the tool was called."
            )
        await _settled(self._done_fut)

    async def wait_if_not_interrupted(self, aw: Sequence[asyncio.Future[Any]]) -> None:
        """Wait for all of `aw`, or for the interruption of this speech, whichever is first.

        The futures are never cancelled; their errors are not raised.
        """
        pending = {fut for fut in aw if not fut.done()}
        while pending and not self._interrupt_fut.done():
            done, _ = await asyncio.wait(
                {*pending, self._interrupt_fut}, return_when=asyncio.FIRST_COMPLETED
            )
            pending -= done
        for fut in aw:
            if fut.done() and not fut.cancelled():
                fut.exception()  # retrieved, so that asyncio does not report it as lost

    def add_done_callback(self, callback: Callable[[SpeechHandle], None]) -> None:
        """Call `callback(handle)` once the speech is done; soon, if it is already."""
        if self.done():
            self._loop.call_soon(self._call_back, callback)
        else:
            self._done_callbacks.append(callback)

    def remove_done_callback(self, callback: Callable[[SpeechHandle], None]) -> None:
        """Forget a done callback. Unknown ones are ignored."""
        if callback in self._done_callbacks:
            self._done_callbacks.remove(callback)

    def _call_back(self, callback: Callable[[SpeechHandle], None]) -> None:
        try:
            callback(self)
        except (Exception, asyncio.CancelledError):
            logger.exception("error in a done callback", extra={"speech_id": self._id})

    # -- life, driven by the scheduler and the reply --------------------------------------------

    def _mark_scheduled(self) -> None:
        if not self._scheduled_fut.done():
            self._scheduled_at = self._loop.time()
            self._scheduled_fut.set_result(None)

    async def _wait_for_scheduled(self) -> None:
        await _settled(self._scheduled_fut)

    def _authorize_generation(self) -> None:
        """Let the next step play. Opens the generation that the scheduler then waits for."""
        self._generations.append(self._loop.create_future())
        if self._queue_wait is None and self._scheduled_at is not None:
            self._queue_wait = self._loop.time() - self._scheduled_at
        if not self._authorized_fut.done():
            self._authorized_fut.set_result(None)

    def _mark_generation_done(self) -> None:
        """The current step's playout is over: the scheduler may go on with other speeches."""
        if self._generations and not self._generations[-1].done():
            self._generations[-1].set_result(None)
            self._authorized_fut = self._loop.create_future()

    async def _wait_for_generation(self, step_idx: int = -1) -> None:
        """Return when the playout of a step is over; at once if there was none."""
        if self._generations:
            await _settled(self._generations[step_idx])

    def _link(self, task: asyncio.Task[Any]) -> None:
        self._tasks.append(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        if all(linked.done() for linked in self._tasks):
            self._mark_done()

    def _set_error(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error

    def _mark_done(self, error: BaseException | None = None) -> None:
        if self.done():
            return
        if error is not None:
            self._set_error(error)
        self._mark_generation_done()
        self._disarm_interruption_timeout()
        self._settlers.clear()
        self._done_fut.set_result(None)
        callbacks, self._done_callbacks = self._done_callbacks, []
        for callback in callbacks:
            self._loop.call_soon(self._call_back, callback)

    def _item_added(self, items: Sequence[ChatItem]) -> None:
        for item in items:
            if item.type == "message" and item.role == "user":
                self._user_message = item
                continue
            self._chat_items.append(item)
            for callback in list(self._item_added_callbacks):
                callback(item)

    def _add_item_added_callback(self, callback: Callable[[ChatItem], None]) -> None:
        self._item_added_callbacks.append(callback)

    def _remove_item_added_callback(self, callback: Callable[[ChatItem], None]) -> None:
        if callback in self._item_added_callbacks:
            self._item_added_callbacks.remove(callback)

    # -- being cut off --------------------------------------------------------------------------

    def _on_cut_off(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` right before this speech is cut off, to save what was said so far.

        Returns:
            A function that takes the callback back, for the ordinary end of a step.
        """
        return _register(self._settlers, callback)

    def _on_release(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when this speech is to end without the tools that it waits for.

        Returns:
            A function that takes the callback back.
        """
        return _register(self._releasers, callback)

    def _release_tools(self) -> None:
        """Let tools that still run go on by themselves: the speech waits for them no longer."""
        for release in list(self._releasers.values()):
            try:
                release()
            except Exception:
                logger.exception("could not release the tools of a speech: %s", self._id)

    def _cut_off(self, *, spare: frozenset[asyncio.Task[Any]] = frozenset()) -> None:
        """End this speech now: save what was said, mark it done, cancel its tasks.

        Marked done before anything is cancelled, so that waiters return whatever the tasks do.
        """
        if not self.interrupted:
            self._interruption_source = "programmatic"
            self._interrupt_fut.set_result(None)
        self._was_cut_off = True
        settlers, self._settlers = list(self._settlers.values()), {}
        for settle in settlers:
            try:
                settle()
            except (Exception, asyncio.CancelledError):
                logger.exception("could not save a speech that was cut off: %s", self._id)
        self._mark_done()
        for task in self._tasks:
            if task not in spare:
                task.cancel()


def _register(
    callbacks: dict[object, Callable[[], None]], callback: Callable[[], None]
) -> Callable[[], None]:
    key = object()
    callbacks[key] = callback

    def undo() -> None:
        callbacks.pop(key, None)

    return undo


async def _settled(fut: asyncio.Future[None]) -> None:
    """Wait for a shared future without cancelling it when the waiter is cancelled."""
    if not fut.done():
        await asyncio.wait((fut,))
