"""`AgentSession`: a conversation between a user and agents. The face that users see."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from .._streams import ClosesOnExit
from ..llm import LLM, ChatContext
from ..log import logger
from ..metrics import ModelUsageCollector
from ..types import NOT_GIVEN, NotGiven, NotGivenOr
from ..utils import is_given
from ..utils.aio import TaskScope
from ..utils.aio.task_scope import Ledger, current_ledger
from . import session_start
from ._context import bound, neutral
from .agent import resolve_llm, resolve_stt, resolve_tts
from .closing import ClosePlan, Progress, Step
from .ending_streams import EndingStreams
from .events import (
    AgentEvent,
    CloseReason,
)
from .handoff import Handoffs
from .idle import IdleWatch
from .io import AgentInput, AgentOutput
from .keyterm_detection import KeytermDetector, KeytermsOptions, STTContextOptions
from .scheduling import ReplyLock
from .session_close import SessionClose, excused_caller
from .session_conversation import SessionConversation
from .session_inputs import SessionInputs
from .session_options import (
    DEFAULT_EXPRESSIVE_OPTIONS,
    DEFAULT_SPEECH_STEERING_OPTIONS,
    DEFAULT_TTS_TEXT_TRANSFORMS,
    AgentSessionOptions,
    ExpressiveOptions,
    NonverbalOptions,
    RecordingOptions,
    SessionConnectOptions,
    SpeechSteeringOptions,
    VoiceActivityVideoSampler,
    agent_turn_handling,
    resolve_expressive_options,
    resolve_recording,
    session_turn_handling,
    warn_deprecated_aliases,
)
from .session_spans import SessionSpans
from .session_state import ConversationState, ErrorBudget

if TYPE_CHECKING:
    from livekit import rtc

    from .. import llm as llm_module, stt as stt_module, tts as tts_module, vad as vad_module
    from .agent import Agent
    from .agent_activity import AgentActivity
    from .ivr import IVRActivity
    from .run_result import RunResult
    from .tool_options import ToolHandlingOptions
    from .transcription.text_transforms import TextTransforms
    from .turn import (
        PreemptiveGenerationOptions,
        TurnDetectionMode,
        TurnHandlingOptions,
    )

Userdata_T = TypeVar("Userdata_T")
Run_T = TypeVar("Run_T")


class AgentSession(ClosesOnExit, SessionConversation, Generic[Userdata_T]):
    """Connects a user with an agent: hears, takes turns, thinks, speaks, and always hangs up.

    Give it models, `start()` it with an agent, and close it with `aclose()` (at once) or
    `shutdown()` (after what was begun). Whatever models, tools, hooks or sinks do, a forced close
    emits `close` within `forced_drain_timeout + teardown_timeout + 0.5` seconds, exactly once, and
    `aclose()` returns at most `teardown_timeout` later. A closed session can be started again.

    Events: see `EventTypes`. A handler that raises is logged and stops nothing.
    """

    def __init__(
        self,
        *,
        stt: NotGivenOr[stt_module.STT[Any] | str] = NOT_GIVEN,
        vad: NotGivenOr[vad_module.VAD | None] = NOT_GIVEN,
        llm: NotGivenOr[
            llm_module.LLM[Any] | llm_module.RealtimeModel | llm_module.DuplexModel | str
        ] = NOT_GIVEN,
        tts: NotGivenOr[tts_module.TTS[Any] | str] = NOT_GIVEN,
        turn_handling: NotGivenOr[TurnHandlingOptions] = NOT_GIVEN,
        stt_context_options: NotGivenOr[STTContextOptions] = NOT_GIVEN,
        tools: NotGivenOr[list[llm_module.Tool | llm_module.Toolset]] = NOT_GIVEN,
        tool_handling: NotGivenOr[ToolHandlingOptions] = NOT_GIVEN,
        max_tool_steps: int = 3,
        use_tts_aligned_transcript: NotGivenOr[bool] = NOT_GIVEN,
        tts_text_transforms: NotGivenOr[Sequence[TextTransforms] | None] = NOT_GIVEN,
        min_consecutive_speech_delay: float = 0.0,
        expressive: bool | ExpressiveOptions = False,
        userdata: NotGivenOr[Userdata_T] = NOT_GIVEN,
        video_sampler: NotGivenOr[
            Callable[[rtc.VideoFrame, AgentSession[Any]], bool] | None
        ] = NOT_GIVEN,
        aec_warmup_duration: NotGivenOr[float | None] = NOT_GIVEN,
        ivr_detection: bool = False,
        user_away_timeout: float | None = 15.0,
        transcription_timeout: float | None = None,
        session_close_transcript_timeout: float = 2.0,
        forced_drain_timeout: float = 5.0,
        teardown_timeout: float = 2.0,
        drain_timeout: float | None = None,
        conn_options: NotGivenOr[SessionConnectOptions | None] = NOT_GIVEN,
        loop: asyncio.AbstractEventLoop | None = None,
        # deprecated
        turn_detection: NotGivenOr[TurnDetectionMode | None] = NOT_GIVEN,
        min_endpointing_delay: NotGivenOr[float] = NOT_GIVEN,
        max_endpointing_delay: NotGivenOr[float] = NOT_GIVEN,
        false_interruption_timeout: NotGivenOr[float | None] = NOT_GIVEN,
        agent_false_interruption_timeout: NotGivenOr[float | None] = NOT_GIVEN,
        resume_false_interruption: NotGivenOr[bool] = NOT_GIVEN,
        discard_audio_if_uninterruptible: NotGivenOr[bool] = NOT_GIVEN,
        allow_interruptions: NotGivenOr[bool] = NOT_GIVEN,
        min_interruption_duration: NotGivenOr[float] = NOT_GIVEN,
        min_interruption_words: NotGivenOr[int] = NOT_GIVEN,
        preemptive_generation: NotGivenOr[bool | PreemptiveGenerationOptions] = NOT_GIVEN,
        keyterms_options: NotGivenOr[KeytermsOptions] = NOT_GIVEN,
        mcp_servers: NotGivenOr[list[llm_module.mcp.MCPServer]] = NOT_GIVEN,
    ) -> None:
        """Set up a session; nothing runs before `start()`.

        Args:
            stt: Speech to text; a model string goes through LiveKit Inference.
            vad: Voice activity detection; the built-in one when left out, None for none.
            llm: A language model, a realtime or duplex model, or a model string.
            tts: Text to speech, or a model string.
            turn_handling: Turn detection, endpointing, interruption and preemptive generation.
            stt_context_options: Keyterms and context given to the STT.
            tools: Tools that every agent of the session has.
            tool_handling: Texts used around tools that outlive their turn.
            max_tool_steps: Rounds of tool calls in one turn before tools are withheld.
            use_tts_aligned_transcript: Show the transcript with the timing the TTS reports.
            tts_text_transforms: Filters for the text that is synthesised; None for none.
            min_consecutive_speech_delay: Seconds of pause between two speeches.
            expressive: Let the LLM use the markup of an expressive voice.
            userdata: Anything; available as `session.userdata` and in `RunContext`.
            video_sampler: Decides which video frames are passed on; None passes all.
            aec_warmup_duration: Seconds of agent speech during which the user's audio can't
                interrupt, because the echo canceller still learns. 3.0 by default.
            ivr_detection: Detect telephone menus and navigate them.
            user_away_timeout: Seconds of silence on both sides after which the user is "away".
            transcription_timeout: Seconds after user speech without a transcript until
                `user_transcription_timeout` is emitted.
            session_close_transcript_timeout: Seconds a close waits for the last transcript, if a
                user turn is pending.
            forced_drain_timeout: Seconds that interrupted speech, hooks and tools together get
                when the session is closed at once. 0 cuts them off immediately.
            teardown_timeout: Seconds that one teardown (a socket, a recorder, a toolset) gets.
            drain_timeout: Seconds after which a graceful close or handoff stops waiting; None
                waits as long as it takes.
            conn_options: Timeouts and retries of the models, and how many errors are borne.
            loop: The event loop; the running one by default.

        Raises:
            ValueError: If a timeout is negative or not finite.
        """
        super().__init__()
        aliases: dict[str, Any] = {
            "turn_detection": turn_detection,
            "min_endpointing_delay": min_endpointing_delay,
            "max_endpointing_delay": max_endpointing_delay,
            "false_interruption_timeout": false_interruption_timeout,
            "agent_false_interruption_timeout": agent_false_interruption_timeout,
            "resume_false_interruption": resume_false_interruption,
            "discard_audio_if_uninterruptible": discard_audio_if_uninterruptible,
            "allow_interruptions": allow_interruptions,
            "min_interruption_duration": min_interruption_duration,
            "min_interruption_words": min_interruption_words,
            "preemptive_generation": preemptive_generation,
        }
        warn_deprecated_aliases(**aliases, mcp_servers=mcp_servers)
        given_turns = agent_turn_handling(turn_handling, **aliases)
        context_options = (
            stt_context_options
            if is_given(stt_context_options)
            else cast("STTContextOptions", keyterms_options if is_given(keyterms_options) else {})
        )
        self._aec_warmup_given = is_given(aec_warmup_duration)
        self._options = AgentSessionOptions(
            turn_handling=session_turn_handling(given_turns),
            stt_context_options=context_options,
            endpointing_overrides=dict(given_turns.get("endpointing", {})),  # type: ignore[arg-type]
            max_tool_steps=max_tool_steps,
            user_away_timeout=user_away_timeout,
            transcription_timeout=transcription_timeout,
            min_consecutive_speech_delay=min_consecutive_speech_delay,
            use_tts_aligned_transcript=(
                use_tts_aligned_transcript if is_given(use_tts_aligned_transcript) else None
            ),
            tts_text_transforms=(
                DEFAULT_TTS_TEXT_TRANSFORMS
                if isinstance(tts_text_transforms, NotGiven)
                else tts_text_transforms
            ),
            ivr_detection=ivr_detection,
            aec_warmup_duration=3.0
            if isinstance(aec_warmup_duration, NotGiven)
            else aec_warmup_duration,
            session_close_transcript_timeout=session_close_transcript_timeout,
            recording_options=resolve_recording(False),
            forced_drain_timeout=forced_drain_timeout,
            teardown_timeout=teardown_timeout,
            drain_timeout=drain_timeout,
        )
        self._options.check()
        self._loop = loop
        self._conn_options = (is_given(conn_options) and conn_options) or SessionConnectOptions()
        self._stt: stt_module.STT[Any] | None = _or_none(resolve_stt(stt))
        self._llm: Any = _or_none(resolve_llm(llm))
        self._tts: tts_module.TTS[Any] | None = _or_none(resolve_tts(tts))
        self._default_vad = isinstance(vad, NotGiven)
        self._vad: vad_module.VAD | None = session_start.default_vad() if self._default_vad else vad  # type: ignore[assignment]
        self._turn_detector = None  # the default one, see `_default_turn_detector`
        self._tools = list(tools) if is_given(tools) else []
        self._tool_handling = tool_handling
        self._mcp_servers = list(mcp_servers) if is_given(mcp_servers) and mcp_servers else None
        self._expressive: bool | ExpressiveOptions = expressive
        self._userdata: Userdata_T | None = userdata if is_given(userdata) else None
        self._video_sampler = (
            VoiceActivityVideoSampler() if isinstance(video_sampler, NotGiven) else video_sampler
        )
        self._history = ChatContext.empty()
        self._keyterms = KeytermDetector(
            static_keyterms=context_options.get("keyterms"),
            options=context_options.get("keyterm_detection"),
        )
        self._keyterms.on("metrics_collected", self._on_metrics)
        self._input = AgentInput(
            self._on_video_input_changed,
            self._on_audio_input_changed,
            audio_enabled_cb=self._on_audio_enabled_changed,
        )
        self._output = AgentOutput(
            self._on_video_output_changed,
            self._on_audio_output_changed,
            self._on_text_output_changed,
        )
        self._errors = ErrorBudget(self._conn_options.max_unrecoverable_errors)
        self._state = ConversationState(self)
        self._idle = IdleWatch(self)
        self._progress = Progress()
        self._former_tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._close_scope = TaskScope("session close")
        self._closing_task: asyncio.Task[None] | None = None
        self._agent: Agent | None = None
        self._current_agent: Agent | None = None
        self._begin_life()
        if isinstance(self._llm, LLM):
            self._llm.prewarm()

    def _begin_life(self) -> None:
        """Forget whatever a former run left behind."""
        self._ledger = Ledger()
        self._scope = TaskScope("session")
        self._teardowns = TaskScope("teardown of an agent")
        self._activity_lock = asyncio.Lock()
        self._handoffs = Handoffs(self, self._scope)
        self._inputs = SessionInputs(self)
        self._spans = SessionSpans(self)
        self._ending_streams = EndingStreams()
        self._reply_lock = ReplyLock()
        self._started = False
        self._had_activity = False
        self._start_task: asyncio.Task[Any] | None = None
        self._close: SessionClose | None = None
        self._closing_waiter: asyncio.Future[None] | None = None
        self._activity: AgentActivity | None = None
        self._next_activity: AgentActivity | None = None
        self._global_run_state: RunResult[Any] | None = None
        self._recorded_events: list[AgentEvent] = []
        self._usage = ModelUsageCollector()
        self._started_at: float | None = None
        self._recorder_io: Any = None
        self._session_host: Any = None
        self._room_io: Any = None
        self._amd: Any = None
        self._ivr_activity: IVRActivity | None = None
        self._tool_mocks: dict[type[Agent], dict[str, Callable[..., Any]]] = {}

    # -- what it has ----------------------------------------------------------------------------

    @property
    def userdata(self) -> Userdata_T:
        """What was passed as `userdata`. Raises ValueError when unset."""
        if self._userdata is None:
            raise ValueError("AgentSession userdata is not set")
        return self._userdata

    @userdata.setter
    def userdata(self, value: Userdata_T) -> None:
        self._userdata = value

    # -- start ----------------------------------------------------------------------------------

    async def start(
        self,
        agent: Agent,
        *,
        capture_run: bool = False,
        room: NotGivenOr[rtc.Room] = NOT_GIVEN,
        room_options: NotGivenOr[Any] = NOT_GIVEN,
        session_host: NotGivenOr[bool] = NOT_GIVEN,
        record: NotGivenOr[bool | RecordingOptions] = NOT_GIVEN,
        room_input_options: NotGivenOr[Any] = NOT_GIVEN,
        room_output_options: NotGivenOr[Any] = NOT_GIVEN,
    ) -> RunResult[Any] | None:
        """Start the conversation. Does not wait for the agent's `on_enter`.

        On a started session it returns None and ignores its arguments. During a close it waits
        for the end of the close first. If it fails, or is cancelled, everything it had begun is
        closed again, and the session can be started anew.

        Args:
            agent: Who has the floor first.
            capture_run: Await and return a `RunResult` of what `on_enter` produced.
            room: A LiveKit room to hear and speak in.
            room_options: How to use the room.
            session_host: Whether remote clients may follow the session; on by default.
            record: What to record.

        Raises:
            RuntimeError: "session closed" if the session was closed meanwhile.
        """
        self._refuse_former_life()
        await session_start.wait_for_former_close(self)
        if self._started:
            return None
        request = session_start.StartRequest(
            agent=agent,
            capture_run=capture_run,
            room=room,
            room_options=room_options,
            session_host=session_host,
            record=record,
            room_input_options=room_input_options,
            room_output_options=room_output_options,
        )
        return await session_start.start(self, request)

    # -- closing --------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Let the current agent finish: `on_exit`, then what is queued. Speech is refused after.

        From inside a tool or a hook: everything else is waited for.

        Raises:
            RuntimeError: When the session does not run.
        """
        activity = self._activity_or_raise()
        with excused_caller(activity):
            await activity.drain()

    def shutdown(self, *, drain: bool = True) -> None:
        """Close in the background. Does nothing when the session does not run.

        Args:
            drain: First let what was begun end by itself: speech, tools, `on_exit`. With False,
                the same as `aclose()`, and a graceful close that is already running becomes a
                forced one.
        """
        if self._started:
            self._refuse_former_life()
        self._close_soon(reason=CloseReason.USER_INITIATED, drain=drain)

    async def aclose(self) -> None:
        """Close now, and return when the session is closed. Never raises because of a component.

        Speech is interrupted; speech, hooks and tools together get `forced_drain_timeout`.
        Joins a close that is already running; a graceful one is given as long as it progresses.
        Safe to call from a tool, a hook or a handler, and repeatedly. Cancelling the caller
        cancels its wait, not the close.
        """
        if self._started:
            self._refuse_former_life()
        if self._is_closing:
            assert self._close is not None
            self._close.join_draining()
        else:
            self._close_soon(reason=CloseReason.USER_INITIATED)
        task, close = self._closing_task, self._close
        if task is None or task.done() or close is None or task is asyncio.current_task():
            return
        close.excuse_caller()
        await asyncio.wait((task,))

    def _close_soon(self, *, reason: CloseReason, drain: bool = False, error: Any = None) -> None:
        """Begin to close in a task of the session's own, or join the close that runs."""
        if self._is_closing:
            assert self._close is not None
            if reason is CloseReason.JOB_SHUTDOWN:
                self._close.join_draining()
            elif not drain:
                self._close.escalate(reason.value)
            return
        if not self._started and self._start_task is None:
            return
        if drain and self._room_io is not None and self._room_io.linked_participant is None:
            drain = False  # nobody would hear it
        self._close = SessionClose(self, reason=reason, drain=drain, error=error)
        with neutral(), bound(current_ledger, self._ledger):
            self._closing_task = self._close_scope.spawn(
                self._aclose_impl(reason=reason, drain=drain, error=error),
                name="close session",
                cancellable=False,
            )
        self._state.stop()
        if not self._closing_fut.done():
            self._closing_fut.set_result(None)
        self._idle.changed()

    async def _aclose_impl(
        self, *, reason: CloseReason, drain: bool = False, error: Any = None
    ) -> None:
        """The body of the one close of this run: see `SessionClose.run`."""
        assert self._close is not None
        await self._close.run()

    @property
    def _is_closing(self) -> bool:
        return self._closing_task is not None and not self._closing_task.done()

    @property
    def _closing_fut(self) -> asyncio.Future[None]:
        """Resolved when a close begins. Shared: wait for it with `asyncio.wait`."""
        if self._closing_waiter is None:
            self._closing_waiter = asyncio.get_running_loop().create_future()
            if self._is_closing:
                self._closing_waiter.set_result(None)
        return self._closing_waiter

    def _teardown_plan(self) -> ClosePlan:
        """A plan for ending one activity in ordinary life, with the session's budgets."""
        return ClosePlan(self._options.close_budgets, scope=self._teardowns)

    def _close_amd(self) -> Any:
        return self._amd.aclose() if self._amd is not None else None

    def _detach_inputs(self, plan: ClosePlan) -> None:
        self._detach(plan, self._input, "audio", "video")

    def _detach_outputs(self, plan: ClosePlan) -> None:
        self._detach(plan, self._output, "audio", "transcription", "video")

    def _detach(self, plan: ClosePlan, side: Any, *names: str) -> None:
        """Let go of inputs or outputs; an awaitable that a detach returns is awaited, bounded."""
        for name in names:
            io = getattr(side, name)
            if io is None:
                continue
            try:
                result = side._detach(name)
            except (Exception, asyncio.CancelledError):
                logger.exception("detaching %s failed", io)
                continue
            if hasattr(result, "__await__"):
                step = Step(f"detach {name}", lambda waited=result: waited)
                plan.beside(plan.run(step), f"detach {name}")

    def _component_steps(self) -> list[Step]:
        """What the session itself has to end: recorder, IVR, its toolsets, models it made."""
        return self._ending_streams.steps() + session_start.component_steps(self)

    def _room_steps(self) -> list[Step]:
        """What has to be ended of the room, and of the host for remote clients."""
        if self._session_host is None and self._room_io is None:
            return []
        from . import session_room

        return session_room.close_steps(self)

    def _end_life(self, spared: frozenset[asyncio.Task[Any]], error: Any) -> None:
        """Back to the state before the first start; survivors are barred from coming back."""
        for task in spared:
            if not task.done():
                self._former_tasks.add(task)
        self._room_io = None
        self._fail_run(error)
        self._global_run_state = None
        self._activity = self._next_activity = None
        self._activity_lock = asyncio.Lock()  # a survivor may hold the former one
        self._started, self._start_task = False, None
        self._state.reset()
        self._errors.reset()
        self._idle.reset()

    def _fail_run(self, error: Any) -> None:
        """The run that is waited for, if there is one, has no answer: the session closed."""
        if self._global_run_state is not None and not self._global_run_state.done():
            suffix = f": {error}" if error is not None else ""
            self._global_run_state._fail(RuntimeError(f"session closed{suffix}"))


def _or_none(model: Any) -> Any:
    return None if isinstance(model, NotGiven) else model


__all__ = [
    "DEFAULT_EXPRESSIVE_OPTIONS",
    "DEFAULT_SPEECH_STEERING_OPTIONS",
    "DEFAULT_TTS_TEXT_TRANSFORMS",
    "AgentSession",
    "AgentSessionOptions",
    "ExpressiveOptions",
    "NonverbalOptions",
    "RecordingOptions",
    "Run_T",
    "SessionConnectOptions",
    "SpeechSteeringOptions",
    "Userdata_T",
    "VoiceActivityVideoSampler",
    "resolve_expressive_options",
]
