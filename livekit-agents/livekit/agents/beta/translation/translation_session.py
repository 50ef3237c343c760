"""`TranslationSession`: somebody speaks, and others hear it in another language."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from ..._emitter import IsolatedEmitter
from ...language import LanguageCode
from ...log import logger
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given
from ...utils.aio import TaskScope, wait_until
from ...utils.aio.task_scope import await_stack
from ...voice.closing import CloseBudgets, ClosePlan, CloseReport, Step
from ...voice.events import (
    CloseEvent,
    CloseReason,
    ErrorEvent,
    UserInputTranscribedEvent,
    UserState,
    UserStateChangedEvent,
)
from ...voice.io import AgentInput, AgentOutput
from ...voice.session_inputs import InputForwarder
from ...voice.session_start import current_job
from ._interpreter import Interpreter
from .translation_model import (
    InputTranscript,
    TranslationModel,
    TranslationModelError,
    check_language,
)

if TYPE_CHECKING:
    from livekit import rtc

    from .room_io import TranslationRoomIO, TranslationRoomOptions

DEFAULT_OUTPUT_SEGMENT_TIMEOUT = 0.5
"""Seconds without audio that end a segment, where the model does not tell its end."""

DRAIN_TIMEOUT = 10.0
"""Seconds that `shutdown` leaves for what has been said to be translated and heard."""

Userdata_T = TypeVar("Userdata_T")

EventTypes = Literal[
    "user_state_changed",
    "user_input_transcribed",
    "translation_transcribed",
    "error",
    "close",
]


class TranslationTranscribedEvent(BaseModel):
    """Something of the translation was written; the final text of an utterance is whole."""

    type: Literal["translation_transcribed"] = "translation_transcribed"
    transcript: str
    """The utterance so far."""
    is_final: bool
    language: str | None = None
    created_at: float = Field(default_factory=lambda: time.time())


class TranslationSession(IsolatedEmitter[EventTypes], Generic[Userdata_T]):
    """Translates what comes from `input.audio` to `output.audio` and `output.transcription`.

    ::

        session = TranslationSession(model=model)
        await session.start(room=ctx.room)

    Emits "user_state_changed", "user_input_transcribed" and "translation_transcribed", where the
    model tells of them; "error" with an `ErrorEvent`, and "close" exactly once per run with a
    `CloseEvent`. A closed session can be started again.
    """

    def __init__(
        self,
        *,
        model: TranslationModel,
        userdata: NotGivenOr[Userdata_T] = NOT_GIVEN,
        output_segment_timeout: float = DEFAULT_OUTPUT_SEGMENT_TIMEOUT,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Set up the session; nothing happens before `start`.

        Args:
            model: Translates. It stays open when the session closes.
            userdata: Whatever belongs to the session.
            output_segment_timeout: Seconds without audio that end a segment of the translation,
                where the model does not tell its end.
            loop: Ignored; the session belongs to the loop that starts it.

        Raises:
            ValueError: The timeout is not positive.
        """
        super().__init__()
        if not output_segment_timeout > 0:
            raise ValueError(
                f"output_segment_timeout must be greater than 0 seconds, got {output_segment_timeout!r}"
            )
        self._model = model
        self._userdata = userdata
        self._segment_timeout = output_segment_timeout
        self._budgets = CloseBudgets()
        self._input = AgentInput(_nothing, self._refresh_input)
        self._output = AgentOutput(_nothing, _nothing, _nothing)
        self._closing_task: asyncio.Task[None] | None = None
        self._running = False
        self._begin_life()

    def _begin_life(self) -> None:
        self._scope = TaskScope("translation session")
        self._former = TaskScope("former translations")
        self._audio = InputForwarder("audio", self._on_audio)
        self._start_task: asyncio.Task[None] | None = None
        self._interpreter: Interpreter | None = None
        self._room_io: TranslationRoomIO | None = None
        self._user_state: UserState = "listening"
        self._closing = False
        self._forced: asyncio.Event | None = None

    # -- what it has ------------------------------------------------------------------------------

    @property
    def model(self) -> TranslationModel:
        """The model."""
        return self._model

    @property
    def input(self) -> AgentInput:
        """Where the speaker's audio comes from; assignable at any time."""
        return self._input

    @property
    def output(self) -> AgentOutput:
        """Where the translation is heard and read; a change counts from the next segment."""
        return self._output

    @property
    def room_io(self) -> TranslationRoomIO | None:
        """The connection to the room, if it was started with one."""
        return self._room_io

    @property
    def userdata(self) -> Userdata_T:
        """What was given as `userdata`. Raises ValueError if nothing was."""
        if not is_given(self._userdata):
            raise ValueError(
                "this TranslationSession has no userdata: TranslationSession(userdata=…)"
            )
        return self._userdata

    @property
    def user_state(self) -> UserState:
        """Whether the speaker speaks; "listening" where the model does not tell."""
        return self._user_state

    @property
    def _is_closing(self) -> bool:
        return self._closing

    # -- start ------------------------------------------------------------------------------------

    async def start(
        self,
        *,
        room: NotGivenOr[rtc.Room] = NOT_GIVEN,
        room_options: NotGivenOr[TranslationRoomOptions] = NOT_GIVEN,
    ) -> None:
        """Begin to translate. In a job the room is connected, and the session closes with the job.

        Args:
            room: Whose participant is translated; otherwise set `input` and `output` yourself.
            room_options: What to use of the room, and how.

        Raises:
            RuntimeError: It runs already, or was closed while it started.
            ValueError: There are options without a room.
        """
        if is_given(room_options) and not is_given(room):
            raise ValueError("room_options need a room: start(room=..., room_options=...)")
        await self._wait_for_close()
        if self._running:
            raise RuntimeError("the TranslationSession is running already")
        self._begin_life()
        self._running = True
        self._forced = asyncio.Event()
        self._closing_task = None
        task = self._start_task = self._scope.spawn(
            self._start(room, room_options), name="start translation", log_errors=False
        )
        try:
            await wait_until(task, None)
        except asyncio.CancelledError:
            self._close_soon(reason=CloseReason.USER_INITIATED)
            await self._wait_for_close()
            raise
        error = None if task.cancelled() or not task.done() else task.exception()
        if error is not None:
            self._close_soon(reason=CloseReason.ERROR)
        if self._closing:
            await self._wait_for_close()
            raise error or RuntimeError("the session was closed while it started")

    async def _start(self, room: NotGivenOr[rtc.Room], options: Any) -> None:
        job = current_job()
        if job is not None:
            job._session_shutdown_registered.add(self)
        if is_given(room):
            from .room_io import TranslationRoomIO

            self._room_io = TranslationRoomIO(self, room, options=options)
            await self._room_io.start()
        self._interpret()
        self._refresh_input()
        if job is not None and is_given(room):
            # not a task of the session: the native layer does not survive a cancelled connect
            connecting = job._scope.spawn(job.connect(), name="connect the room", log_errors=False)
            await wait_until(connecting, None)
            connecting.result()

    def _interpret(self) -> None:
        if self._closing:  # a start that ignores its cancellation begins nothing any more
            raise RuntimeError("the TranslationSession is closing")
        interpreter = Interpreter(self, self._model.session(), self._segment_timeout)
        self._interpreter = interpreter
        interpreter.start()

    # -- while it runs ----------------------------------------------------------------------------

    def set_target_language(self, language: str) -> None:
        """Translate to another language from now on.

        A model that can't change it in a running session gets a new one; what the former one had
        not said yet is dropped.

        Raises:
            ValueError: The language is empty.
            RuntimeError: The session is closing.
        """
        check_language(language)
        if self._closing:
            raise RuntimeError("the TranslationSession is closing")
        if language == self._model.target_language:
            return
        self._model.update_options(target_language=language)
        interpreter = self._interpreter
        if interpreter is None:
            return
        if self._model.capabilities.retargetable:
            interpreter.model_session.update_options(target_language=language)
            return
        self._interpret()
        interpreter.settle()
        self._former.spawn(self._end_former(interpreter), name="end a former translation")

    async def _end_former(self, interpreter: Interpreter) -> None:
        plan = ClosePlan(self._budgets)
        await plan.run(*self._end_steps(interpreter))
        await plan.sweep()
        plan.warn_once()

    def _refresh_input(self) -> None:
        started = self._running and not self._closing
        self._audio.set_source(self._input.audio if started else None)

    def _on_audio(self, frame: rtc.AudioFrame) -> None:
        if self._interpreter is not None and self._input.audio_enabled:
            self._interpreter.push(frame)

    def _speaker_changed(self) -> None:
        """Somebody else is translated from now on."""
        if self._interpreter is not None:
            self._interpreter.clear()
        self._set_user_state("listening")

    def _set_user_state(self, state: UserState) -> None:
        old, self._user_state = self._user_state, state
        if old != state:
            event = UserStateChangedEvent(old_state=old, new_state=state)
            self.emit("user_state_changed", event)

    def _heard(self, transcript: InputTranscript) -> None:
        event = UserInputTranscribedEvent(
            transcript=transcript.text,
            is_final=transcript.is_final,
            speaker_id=transcript.speaker_id,
            language=LanguageCode(transcript.language) if transcript.language else None,
        )
        self.emit("user_input_transcribed", event)

    def _translated(self, text: str, language: str | None, *, is_final: bool) -> None:
        event = TranslationTranscribedEvent(
            transcript=text,
            is_final=is_final,
            language=language or self._model.target_language,
        )
        self.emit("translation_transcribed", event)

    def _failed(self, error: TranslationModelError) -> None:
        self.emit("error", ErrorEvent(error=error, source=self._model))
        if error.recoverable:
            logger.warning("the translation failed and is tried again: %s", error.error)
            return
        logger.error("the translation failed, the session closes: %s", error.error)
        self._close_soon(reason=CloseReason.ERROR, error=error)

    # -- the end ----------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Close soon, once what has been said is translated and heard: ten seconds at most."""
        self._close_soon(reason=CloseReason.USER_INITIATED, drain=True)

    async def aclose(self) -> None:
        """Close now. Bounded, whatever model, room and outputs do; every caller joins one close.

        Cancelling the caller does not cancel the close. Does nothing when it does not run.
        """
        self._close_soon(reason=CloseReason.USER_INITIATED)
        await self._wait_for_close()

    # as the end of a job asks for it (`SessionInJob`)

    async def _close_with_job(self) -> None:
        self._close_soon(reason=CloseReason.JOB_SHUTDOWN)
        await self._wait_for_close()

    def _cut_close_short(self) -> None:
        if self._forced is not None:
            self._forced.set()

    def _close_held_by(self) -> str | None:
        closing = self._closing_task
        return None if closing is None or closing.done() else await_stack(closing)

    def _models(self) -> list[Any]:
        return [self._model]

    async def _wait_for_close(self) -> None:
        closing = self._closing_task
        if closing is not None and not closing.done() and closing is not asyncio.current_task():
            await asyncio.wait((closing,))

    def _close_soon(self, *, reason: CloseReason, drain: bool = False, error: Any = None) -> None:
        """Begin to close. A request without `drain` ends the patience of one with it."""
        if not self._running:
            return
        assert self._forced is not None
        if not drain:
            self._forced.set()
        if self._closing:
            return
        self._closing = True
        scope = TaskScope("translation session close")
        self._closing_task = scope.spawn(
            self._run_close(reason, error, drain=drain),
            name="close translation session",
            cancellable=False,
        )

    async def _run_close(self, reason: CloseReason, error: Any, *, drain: bool) -> None:
        """Drain if there is time, tear down, tell, leave the room. Each step is bounded."""
        report = CloseReport(forced=not drain)
        plan = ClosePlan(self._budgets, report)
        try:
            await plan.guarded(self._tear_down(plan), "translation")
            event = CloseEvent(reason=reason, error=error, report=report)
            self.emit("close", event)
            await plan.guarded(self._leave(plan), "room")
        finally:
            report.finished_at = time.time()
            plan.warn_once()
            self._running = False

    async def _tear_down(self, plan: ClosePlan) -> None:
        self._refresh_input()  # nothing more is heard
        if self._start_task is not None and not self._start_task.done():
            self._start_task.cancel()
        await self._drain(plan.report)
        interpreter, self._interpreter = self._interpreter, None
        steps = [Step("audio input", lambda: self._audio.aclose(0.5))]
        if interpreter is not None:
            plan.attempt("outputs", interpreter.settle)
            steps += self._end_steps(interpreter)
        steps.append(Step("former translations", self._end_all_former))
        await plan.run(*steps)
        for name in ("audio", "video"):
            plan.attempt(f"input.{name}", lambda n=name: self._input._detach(n))  # type: ignore[misc]
        for name in ("audio", "transcription", "video"):
            plan.attempt(f"output.{name}", lambda n=name: self._output._detach(n))  # type: ignore[misc]

    def _end_steps(self, interpreter: Interpreter) -> list[Step]:
        teardown = self._budgets.teardown / 2
        return [
            Step("model session", interpreter.model_session.aclose),
            Step("translated audio and text", lambda: interpreter.aclose(teardown)),
        ]

    async def _end_all_former(self) -> Any:
        await self._former.join(self._budgets.teardown / 2)
        return await self._former.cancel(0.25)

    async def _drain(self, report: CloseReport) -> None:
        """Let what has been said be translated and heard, unless it is to be quick."""
        interpreter, forced = self._interpreter, self._forced
        if report.forced or interpreter is None:
            return
        assert forced is not None
        loop = asyncio.get_running_loop()
        deadline, quiet_since = loop.time() + DRAIN_TIMEOUT, loop.time()
        waiting = self._scope.spawn(forced.wait(), name="wait for a forced close")
        while loop.time() < min(deadline, quiet_since + self._segment_timeout):
            await asyncio.wait((waiting,), timeout=self._segment_timeout / 5)
            if forced.is_set():
                report.escalated = report.forced = True
                break
            if interpreter.busy:
                quiet_since = loop.time()
        waiting.cancel()

    async def _leave(self, plan: ClosePlan) -> None:
        if self._room_io is not None:
            await plan.run(*self._room_io._begin_close())
        plan.survived(await self._scope.cancel(0.5))
        await plan.sweep()


def _nothing() -> None:
    """Nothing depends on it."""


__all__ = [
    "DEFAULT_OUTPUT_SEGMENT_TIMEOUT",
    "EventTypes",
    "TranslationSession",
    "TranslationTranscribedEvent",
    "Userdata_T",
]
