"""`AMD`: finds out who has picked up the phone before the agent speaks."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ..._emitter import IsolatedEmitter
from ...log import logger
from ...telemetry import trace_types, tracer
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given
from ...utils.aio import Survivor, TaskScope, run_bounded, wait_until
from ...utils.aio.task_scope import current_ledger
from .._context import bound
from .classifier import AMD_PROMPT, MAX_ENDPOINTING_DELAY, AMDCategory, AMDPredictionEvent
from .machine import CAP, AnsweringMachine, Thresholds
from .models import (
    EVALUATED_LLM_MODELS,
    EVALUATED_STT_MODELS,
    ask,
    resolve_llm,
    resolve_stt,
    warn_if_untested,
)

if TYPE_CHECKING:
    from livekit import rtc

    from ...llm import LLM
    from ...stt import STT, RecognizeStream
    from ..agent_session import AgentSession
    from ..events import UserInputTranscribedEvent

__all__ = ["AMD", "EVALUATED_LLM_MODELS", "EVALUATED_STT_MODELS", "DetectionOptions"]

CLOSE_TIMEOUT = 1.5
"""Seconds for own models and tasks to end; what is left then is reported and abandoned."""


class DetectionOptions(TypedDict, total=False):
    """How to tell humans from machines. All times in seconds.

    Attributes:
        human_speech_threshold: A greeting up to this long is a human's. Default 2.5.
        human_silence_threshold: Silence after a short greeting. Default 0.5.
        machine_silence_threshold: Silence after any other. Default 1.5.
        no_speech_threshold: How long to wait for a first sound. Default 10.0.
        timeout: For the whole detection. Default 20.0.
        max_endpointing_delay: Silence after which whoever speaks is through. Default: the
            session's own.
        prompt: Instead of the built-in one.
    """

    human_speech_threshold: float
    human_silence_threshold: float
    machine_silence_threshold: float
    no_speech_threshold: float
    timeout: float
    max_endpointing_delay: float
    prompt: str


class AMD(IsolatedEmitter[Literal["amd_prediction"]]):
    """Answering machine detection for one call. An async context manager.

    While it decides, the agent prepares replies but says nothing. Emits "amd_prediction" with the
    `AMDPredictionEvent`.

    Args:
        session: A started session.
        llm: Judges the words; a string names a model of the inference gateway, None is the
            session's LLM. By default a small model on LiveKit Cloud, else the session's.
        stt: Hears the words; None is the session's own transcripts. Default as for `llm`.
        interrupt_on_machine: When a machine has picked up, drop what the agent was about to say.
        ivr_detection: Navigate a phone menu when one has picked up.
        participant_identity: Who is called; by default whoever the session is linked to.
        suppress_compatibility_warning: Don't warn of models that were not evaluated for this.
        detection_options: See `DetectionOptions`.
        wait_until_finished: After a timeout let whoever speaks finish, for three times the
            timeout in all.

    Raises:
        ValueError: A detection option is unknown or negative.
    """

    def __init__(
        self,
        session: AgentSession[Any],
        *,
        llm: NotGivenOr[LLM[Any] | str | None] = NOT_GIVEN,
        stt: NotGivenOr[STT[Any] | str | None] = NOT_GIVEN,
        interrupt_on_machine: bool = True,
        ivr_detection: bool = True,
        participant_identity: NotGivenOr[str] = NOT_GIVEN,
        suppress_compatibility_warning: bool = False,
        detection_options: NotGivenOr[DetectionOptions] = NOT_GIVEN,
        wait_until_finished: bool = True,
    ) -> None:
        super().__init__()
        self._session = session
        self._given_llm, self._given_stt = llm, stt
        self._interrupt_on_machine = interrupt_on_machine
        self._ivr_detection = ivr_detection
        self._identity = participant_identity if is_given(participant_identity) else None
        self._quiet = suppress_compatibility_warning
        self._options: DetectionOptions = detection_options if is_given(detection_options) else {}
        _check(self._options)
        self._wait_until_finished = wait_until_finished
        self._scope = TaskScope("answering machine detection")
        self._machine: AnsweringMachine | None = None
        self._result: asyncio.Future[AMDPredictionEvent | None] | None = None
        self._closing: asyncio.Task[list[Survivor]] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._llm: LLM[Any] | None = None
        self._stt: STT[Any] | None = None
        self._made: list[Any] = []
        self._stream: RecognizeStream | None = None
        self._span: Any = None

    # -- state ------------------------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        """Whether it was entered and is not closed."""
        return self._machine is not None and self._closing is None

    @property
    def started(self) -> bool:
        """Whether the line is open and what is heard counts, or has counted."""
        machine = self._machine
        return machine is not None and (machine.listening or machine.prediction is not None)

    @property
    def pending(self) -> bool:
        """Whether it was entered and there is no result yet."""
        return self.enabled and self._result is not None and not self._result.done()

    # -- begin and end ----------------------------------------------------------------------------

    async def __aenter__(self) -> AMD:
        """Hold replies back and begin to listen once somebody can be heard.

        Raises:
            ValueError: There is no LLM to judge what is heard.
            RuntimeError: The session does not run, another detection is active, or this one has
                been closed.
        """
        if self.enabled:
            logger.warning("answering machine detection is active already")
            return self
        session = self._session
        if self._closing is not None:
            raise RuntimeError("this answering machine detection is closed: make another one")
        session._activity_or_raise()
        if session._amd is not None:
            raise RuntimeError("the session has an active answering machine detection: close it")
        self._resolve_models()
        loop = asyncio.get_running_loop()
        self._result = loop.create_future()
        self._machine = AnsweringMachine(
            self._thresholds(),
            self,
            call_later=loop.call_later,
            clock=loop.time,
            wait_until_finished=self._wait_until_finished,
        )
        session._amd = self
        session._reply_lock.hold()
        if session.options.ivr_detection:
            logger.warning("answering machine detection takes over from ivr_detection")
            session.options.ivr_detection = False
        ivr, session._ivr_activity = session._ivr_activity, None
        self._span = tracer.start_span("amd", context=session._spans.root_context)
        session.on("user_input_transcribed", self._on_realtime_transcript)
        with bound(current_ledger, session._ledger):
            if ivr is not None:
                self._scope.spawn(ivr.aclose(), name="end IVR")
            self._scope.spawn(self._set_up(), name="wait for the call")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Close."""
        await self.aclose()

    async def aclose(self) -> list[Survivor]:
        """Stop, let replies play, and wake `execute`. Idempotent; takes 1.5 s at most.

        Returns:
            Tasks that ignored their cancellation.
        """
        if self._closing is None:
            self._let_go()
            scope = TaskScope("answering machine detection, closing")
            with bound(current_ledger, self._session._ledger):
                self._closing = scope.spawn(self._end(), name="close", cancellable=False)
        await wait_until(self._closing, CLOSE_TIMEOUT + 0.1)
        return self._closing.result() if self._closing.done() else []

    def _let_go(self) -> None:
        """What needs no waiting: from here on the session is as if there were no detection."""
        if self._machine is not None:
            self._machine.close()
        self._session.off("user_input_transcribed", self._on_realtime_transcript)
        if self._session._amd is self:
            self._session._amd = None
            self._session._reply_lock.release()
        if self._result is not None and not self._result.done():
            self._result.set_result(None)
        self._end_span(None)

    async def _end(self) -> list[Survivor]:
        survivors = await self._scope.cancel(CLOSE_TIMEOUT / 2)
        closing = TaskScope("answering machine detection's models")
        for model in self._made:
            closing.spawn(model.aclose(), name=f"close {model.label}")
        await closing.join(CLOSE_TIMEOUT / 4)
        return survivors + await closing.cancel(CLOSE_TIMEOUT / 4)

    async def execute(self) -> AMDPredictionEvent:
        """Wait for the verdict. By then the agent may speak, and a menu is being navigated.

        Raises:
            RuntimeError: It was not entered, or "amd closed before a result was available".
        """
        if self._result is None:
            raise RuntimeError(
                "enter it first: async with AMD(session) as amd: await amd.execute()"
            )
        await asyncio.wait((self._result,))
        result = self._result.result()
        if result is None:
            raise RuntimeError("amd closed before a result was available")
        return result

    def _resolve_models(self) -> None:
        self._llm, made = resolve_llm(self._session, self._given_llm)
        self._made = [self._llm] if made else []
        self._stt, made = resolve_stt(self._given_stt)
        if made:
            self._made.append(self._stt)
        if not self._quiet:
            warn_if_untested(self._llm, EVALUATED_LLM_MODELS)
            if self._stt is not None:
                warn_if_untested(self._stt, EVALUATED_STT_MODELS)

    def _thresholds(self) -> Thresholds:
        activity = self._session._activity
        names = {
            "human_speech_threshold": "human_speech",
            "human_silence_threshold": "human_silence",
            "machine_silence_threshold": "machine_silence",
            "no_speech_threshold": "no_speech",
            "timeout": "timeout",
            "max_endpointing_delay": "endpointing",
        }
        given: dict[str, Any] = dict(self._options)
        times = {field: given[key] for key, field in names.items() if key in given}
        times.setdefault(
            "endpointing",
            activity.max_endpointing_delay if activity is not None else MAX_ENDPOINTING_DELAY,
        )
        return Thresholds(**times)

    async def _set_up(self) -> None:
        """Wait for somebody to be heard, then hear them."""
        assert self._machine is not None
        room_io = self._session._room_io
        if room_io is not None:
            from .line import wait_until_open

            linked = room_io.linked_participant
            identity = self._identity or (linked.identity if linked is not None else None)
            patience = CAP * self._options.get("timeout", Thresholds().timeout)
            opened = False
            try:
                opened = await wait_until_open(room_io.room, identity, arrival_timeout=patience)
            except Exception:
                logger.exception("the call could not be watched")
            if not opened:
                self._machine.participant_missing()
                return
        self._machine.listen()
        if self._stt is not None:
            await self._transcribe(self._stt)

    async def _transcribe(self, stt: STT[Any]) -> None:
        from ...stt import SpeechEventType

        assert self._machine is not None
        try:
            stream = self._stream = stt.stream()
            try:
                async for event in stream:
                    if event.type is SpeechEventType.FINAL_TRANSCRIPT and event.alternatives:
                        self._machine.heard(event.alternatives[0].text)
            finally:
                self._stream = None
                await run_bounded(
                    stream.aclose(), CLOSE_TIMEOUT / 4, owner="answering machine detection"
                )
        except Exception:
            logger.exception("answering machine detection goes on with the session's transcripts")
            self._stt = None

    # -- what it hears ----------------------------------------------------------------------------

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """A frame from the user, as it came in. Ignored without an STT of its own."""
        if self._stream is not None and self._machine is not None and self._machine.listening:
            self._stream.push_frame(frame)

    def on_user_speech_started(self) -> None:
        """The user began to speak."""
        if self._machine is not None:
            self._machine.speech_started()

    def on_user_speech_ended(self, silence_duration: float) -> None:
        """The user fell silent, `silence_duration` seconds ago."""
        if self._machine is not None and not self._machine.speech_ended(silence_duration):
            logger.warning("speech ended that answering machine detection did not hear begin")

    def on_transcript(self, text: str) -> None:
        """A final transcript of the session. Ignored with an STT of its own."""
        if self._machine is not None and self._stt is None:
            self._machine.heard(text)

    def _on_realtime_transcript(self, ev: UserInputTranscribedEvent) -> None:
        activity = self._session._activity
        if (
            ev.is_final
            and activity is not None
            and activity.stt is None
            and activity.realtime_llm_session is not None
        ):
            self.on_transcript(ev.transcript)

    def on_end_of_turn(self) -> bool:
        """A turn is over. Returns whether the reply to it is to be skipped: to a machine."""
        if self._machine is None:
            return False
        self._machine.turn_ended()
        prediction = self._machine.prediction
        return self._interrupt_on_machine and prediction is not None and prediction.is_machine

    # -- what it does: the ports of the state machine ---------------------------------------------

    def ask(self, transcript: str, *, may_postpone: bool) -> None:
        """Ask the model about the transcript, instead of what it is being asked."""
        if self._asking is not None:
            self._asking.cancel()
        if self._scope.closed:
            return
        with bound(current_ledger, self._session._ledger):  # whoever brought the words
            self._asking = self._scope.spawn(
                self._ask(transcript, may_postpone), name="ask who has picked up"
            )

    async def _ask(self, transcript: str, may_postpone: bool) -> None:
        assert self._llm is not None and self._machine is not None
        prompt = self._options.get("prompt", AMD_PROMPT)
        try:
            answer = await ask(self._llm, prompt, transcript, may_postpone=may_postpone)
        except Exception as error:
            logger.warning("the model can't say who has picked up", exc_info=error)
            return
        if self._asking is not asyncio.current_task():
            return  # it was asked anew while this answer ignored its cancellation
        if isinstance(answer, AMDCategory):
            self._machine.labelled(answer)
        elif answer is not None:
            self._machine.postponed(answer)

    def release(self, prediction: AMDPredictionEvent) -> None:
        """The verdict: act on it, then tell everybody."""
        assert self._result is not None
        logger.info(
            "amd prediction",
            extra={
                "category": prediction.category.value,
                "reason": prediction.reason,
                "delay": prediction.delay,
                "lk.pii.transcript": prediction.transcript,
            },
        )
        for task in self._scope.tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._act(prediction)
        self._end_span(prediction)
        self._report(prediction)
        self.emit("amd_prediction", prediction)
        if not self._result.done():
            self._result.set_result(prediction)

    def _act(self, prediction: AMDPredictionEvent) -> None:
        session = self._session
        running = session._activity is not None and not session._is_closing
        if prediction.is_machine and self._interrupt_on_machine and running:
            session.interrupt(force=True)
        if prediction.category is AMDCategory.MACHINE_IVR and self._ivr_detection and running:
            session._start_ivr(prediction.transcript)
        session._reply_lock.release()

    def _report(self, prediction: AMDPredictionEvent) -> None:
        from ..session_start import current_job

        facts = prediction.model_dump(mode="json", exclude={"type"})
        job = current_job()
        if job is not None:
            job.tagger.add(f"lk.amd:{prediction.category.value}", metadata=facts)
        host = self._session._session_host
        if host is not None:
            host._on_amd_prediction(prediction)

    def _end_span(self, prediction: AMDPredictionEvent | None) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        if prediction is not None:
            span.set_attributes(
                {
                    trace_types.ATTR_AMD_CATEGORY: prediction.category.value,
                    trace_types.ATTR_AMD_REASON: prediction.reason,
                    trace_types.ATTR_AMD_SPEECH_DURATION: prediction.speech_duration,
                    trace_types.ATTR_AMD_DELAY: prediction.delay,
                    trace_types.ATTR_AMD_TRANSCRIPT: prediction.transcript,
                }
            )
        span.end()


def _check(options: DetectionOptions) -> None:
    for name, value in options.items():
        if name not in DetectionOptions.__annotations__:
            known = ", ".join(DetectionOptions.__annotations__)
            raise ValueError(f"{name!r} is no detection option; there are: {known}")
        if isinstance(value, (int, float)) and value < 0:
            raise ValueError(f"the detection option {name!r} is negative: {value}")
