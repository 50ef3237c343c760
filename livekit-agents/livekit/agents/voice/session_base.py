"""What a session has and does behind its face: properties, events, errors, states.

`AgentSession` is this plus what users call: starting, speaking, closing.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from .._emitter import IsolatedEmitter
from ..llm import ChatContext, ChatItem, ChatMessage
from ..log import logger
from ..metrics import AgentSessionUsage, ModelUsageCollector
from ..telemetry.otel_metrics import collect_usage
from ..types import NOT_GIVEN, NotGivenOr
from ..utils.aio.task_scope import is_abandoned, running_task
from ._context import current_activity, in_exit_hook
from .events import (
    AgentEvent,
    AgentState,
    CloseReason,
    ConversationItemAddedEvent,
    ErrorEvent,
    EventTypes,
    MetricsCollectedEvent,
    SessionUsageUpdatedEvent,
    UserState,
)
from .session_state import ConversationState, ErrorBudget

if TYPE_CHECKING:
    import weakref

    from .. import llm as llm_module, stt as stt_module, tts as tts_module, vad as vad_module
    from ..utils.aio import TaskScope
    from .agent import Agent
    from .agent_activity import AgentActivity
    from .agent_session import AgentSession
    from .handoff import Handoffs
    from .io import AgentInput, AgentOutput
    from .ivr import IVRActivity
    from .keyterm_detection import KeytermDetector
    from .run_result import RunResult
    from .scheduling import ReplyLock
    from .session_close import SessionClose
    from .session_inputs import SessionInputs
    from .session_options import AgentSessionOptions, SessionConnectOptions
    from .session_spans import SessionSpans
    from .speech_handle import SpeechHandle
    from .tool_executor import ToolExecutor
    from .turn import TurnDetectionMode, _StreamingTurnDetector


class SessionBase(IsolatedEmitter[EventTypes]):
    """The side of a session that its own parts work with."""

    if TYPE_CHECKING:
        _activity: AgentActivity | None
        _agent: Agent | None
        _amd: Any
        _close: SessionClose | None
        _closing_task: asyncio.Task[None] | None
        _conn_options: SessionConnectOptions
        _current_agent: Agent | None
        _errors: ErrorBudget
        _former_tasks: weakref.WeakSet[asyncio.Task[Any]]
        _global_run_state: RunResult[Any] | None
        _handoffs: Handoffs
        _history: ChatContext
        _input: AgentInput
        _inputs: SessionInputs
        _keyterms: KeytermDetector
        _llm: Any
        _mcp_servers: list[llm_module.mcp.MCPServer] | None
        _next_activity: AgentActivity | None
        _options: AgentSessionOptions
        _output: AgentOutput
        _ivr_activity: IVRActivity | None
        _recorded_events: list[AgentEvent]
        _reply_lock: ReplyLock
        _recorder_io: Any
        _room_io: Any
        _scope: TaskScope
        _spans: SessionSpans
        _started: bool
        _started_at: float | None
        _state: ConversationState
        _stt: stt_module.STT[Any] | None
        _turn_detector: _StreamingTurnDetector | None
        _tools: list[llm_module.Tool | llm_module.Toolset]
        _tts: tts_module.TTS[Any] | None
        _usage: ModelUsageCollector
        _vad: vad_module.VAD | None

        @property
        def _is_closing(self) -> bool: ...

        def _close_soon(
            self, *, reason: CloseReason, drain: bool = False, error: Any = None
        ) -> None: ...

    # -- what it has ----------------------------------------------------------------------------

    @property
    def input(self) -> AgentInput:
        """Where the user's audio and video come from; assignable at any time."""
        return self._input

    @property
    def output(self) -> AgentOutput:
        """Where the agent's audio, transcript and video go; assignable at any time."""
        return self._output

    @property
    def options(self) -> AgentSessionOptions:
        """The resolved options."""
        return self._options

    @property
    def conn_options(self) -> SessionConnectOptions:
        """How the session connects to its models."""
        return self._conn_options

    @property
    def history(self) -> ChatContext:
        """The whole conversation, over all agents and runs. Live; a close does not clear it."""
        return self._history

    @property
    def stt(self) -> stt_module.STT[Any] | None:
        """The session's STT, for agents that bring none."""
        return self._stt

    @property
    def llm(self) -> Any:
        """The session's LLM or realtime model, for agents that bring none."""
        return self._llm

    @property
    def tts(self) -> tts_module.TTS[Any] | None:
        """The session's TTS, for agents that bring none."""
        return self._tts

    @property
    def vad(self) -> vad_module.VAD | None:
        """The session's VAD, for agents that bring none."""
        return self._vad

    @property
    def tools(self) -> list[llm_module.Tool | llm_module.Toolset]:
        """The tools that every agent has."""
        return self._tools

    @property
    def mcp_servers(self) -> list[llm_module.mcp.MCPServer] | None:
        """Deprecated: pass an `MCPToolset` in `tools`."""
        return self._mcp_servers

    @property
    def turn_detection(self) -> TurnDetectionMode | None:
        """How the end of a user turn is found; None: by what there is.

        A session that was not told uses an `inference.TurnDetector`, where one can work.
        """
        handling = self._options.turn_handling
        if "turn_detection" in handling:
            return handling["turn_detection"]
        return self._default_turn_detector()

    def _default_turn_detector(self) -> _StreamingTurnDetector:
        """The turn detector of a session that was given none, made when it is first wanted."""
        if self._turn_detector is None:
            from ..inference import TurnDetector

            self._turn_detector = TurnDetector()
        return self._turn_detector

    @property
    def interruption_detection(self) -> NotGivenOr[Any]:
        """The interruption mode that was given, or NOT_GIVEN."""
        return self._options.interruption.get("mode", NOT_GIVEN)

    @property
    def keyterms(self) -> list[str]:
        """Static and detected keyterms, without duplicates."""
        return self._keyterms.keyterms

    @property
    def usage(self) -> AgentSessionUsage:
        """Tokens, characters and audio seconds used in this run, per model."""
        return AgentSessionUsage(model_usage=self._usage.flatten())

    @property
    def amd(self) -> Any:
        """The active answering machine detection, or None."""
        return self._amd

    @property
    def room_io(self) -> Any:
        """The connection to the room. Raises RuntimeError when started without one."""
        if self._room_io is None:
            raise RuntimeError(
                "Cannot access room_io when the AgentSession was not started with a room"
            )
        return self._room_io

    @property
    def current_speech(self) -> SpeechHandle | None:
        """The speech that plays, or None."""
        return self._activity.current_speech if self._activity is not None else None

    @property
    def user_state(self) -> UserState:
        """What the user does: "speaking", "listening" or "away"."""
        return self._state.user

    @property
    def agent_state(self) -> AgentState:
        """What the agent does: "initializing", "listening", "thinking" or "speaking"."""
        return self._state.agent

    @property
    def current_agent(self) -> Agent:
        """The agent on duty; stays after a close. Raises RuntimeError before the first."""
        if self._current_agent is None:
            raise RuntimeError("VoiceAgent isn't running")
        return self._current_agent

    # -- inside ---------------------------------------------------------------------------------

    def _activity_or_raise(self) -> AgentActivity:
        self._refuse_former_life()
        if self._activity is None:
            raise RuntimeError("AgentSession isn't running")
        return self._activity

    def _is_former_life(self) -> bool:
        """Whether the running task belongs to a run of the session that has closed."""
        task = running_task()
        return task is not None and (task in self._former_tasks or is_abandoned(task))

    def _refuse_former_life(self) -> None:
        if self._is_former_life():
            raise RuntimeError(
                "the session run that this task belongs to has closed; it can't act on a later one"
            )

    def _activity_for_speech(self, method: str) -> AgentActivity:
        """The activity that speaks now: the current one, or the next one of a handoff."""
        activity = self._activity_or_raise()
        leaving = current_activity.get()
        if in_exit_hook.get() and leaving is not None and not leaving.closed:
            activity = leaving  # a farewell is for whoever says it
        if self._is_closing:
            assert self._close is not None
            if not self._close.graceful and not in_exit_hook.get():
                raise RuntimeError(f"AgentSession is closing, cannot use {method}()")
        if not activity.scheduler.paused:
            return activity
        if self._next_activity is not None and not self._next_activity.scheduler.paused:
            return self._next_activity
        if self._handoffs.in_progress or activity.paused_for_inline:
            raise RuntimeError(
                f"an agent transition is in progress, cannot use {method}() until it is over"
            )
        raise RuntimeError(f"AgentSession is closing, cannot use {method}()")

    def _run_beside(self, result: object, *, name: str) -> asyncio.Task[Any] | None:
        """Run what a method of a sink returned, where that is overridden by a coroutine function."""
        if not inspect.iscoroutine(result):
            return None
        if self._scope.closed:
            result.close()
            return None
        return self._scope.spawn(result, name=name)

    def _watch(self, handle: SpeechHandle) -> None:
        if self._global_run_state is not None:
            self._global_run_state._watch_handle(handle)

    def emit(self, event: EventTypes, arg: Any) -> None:
        """Record the event for the session's report, and call its handlers."""
        if event != "debug_message":
            self._recorded_events.append(arg)
        super().emit(event, arg)

    def on(self, event: EventTypes, callback: Callable[..., Any] | None = None) -> Any:
        """Register a handler, directly or as a decorator. Coroutine functions are refused."""
        if event == "metrics_collected":
            logger.warning(
                "metrics_collected is deprecated: use session_usage_updated for usage, and "
                "ChatMessage.metrics for latencies"
            )
        return super().on(event, callback)

    def _add_to_history(self, item: ChatItem) -> None:
        self._history.insert(item)
        if isinstance(item, ChatMessage):
            self._conversation_item_added(item)

    def _conversation_item_added(self, item: Any) -> None:
        self.emit("conversation_item_added", ConversationItemAddedEvent(item=item))

    def _commit_handoff(self, item: Any, *, old_agent: Any, new_agent: Any) -> None:
        self._history.insert(item)
        if self._global_run_state is not None:
            self._global_run_state._agent_handoff(
                item=item, old_agent=old_agent, new_agent=new_agent
            )
        self._conversation_item_added(item)

    def _update_agent_state(self, state: AgentState, *, at: float | None = None) -> None:
        self._state.set_agent(state, at=at)

    def _update_user_state(
        self, state: UserState, *, last_speaking_time: float | None = None
    ) -> None:
        self._state.set_user(state, last_speaking_time=last_speaking_time)

    @property
    def _aec_warmup_active(self) -> bool:
        return self._state.warmup_active

    @property
    def _user_turn_claimed(self) -> bool:
        return self._state.turn_claimed

    @property
    def _audio_epoch(self) -> float | None:
        recording = getattr(self._recorder_io, "recording_started_at", None)
        return recording if recording is not None else self._started_at

    @property
    def _hears(self) -> bool:
        return self._input.audio is not None and self._input.audio_enabled

    def _tool_executors(self) -> list[ToolExecutor]:
        """Where tools run: of the agents with and below the floor, and of the session itself."""
        stacked = self._handoffs.stacked_activities()
        own = [executor for activity in stacked for executor in activity.tool_executors]
        return [*own, *self._shared_executors()]

    def _shared_executors(self) -> list[ToolExecutor]:
        """Where tools run that go on through a handoff."""
        from ..llm.async_toolset import executors

        return list(executors(self._tools))

    def _may_go_away(self) -> bool:
        """Whether the user could go away: nothing runs for them, and they are there."""
        activity = self._activity
        if not self._started or self._is_closing:
            return False
        if activity is not None and any(e.running for e in self._tool_executors()):
            return False
        return self._room_io is None or bool(self._room_io._linked_and_subscribed())

    def _cancel_user_away_timer(self) -> None:
        """The user is not there: they can't go away."""
        self._state.cancel_away()

    def _on_room_io_participant_linked(self, participant: Any) -> None:
        """The room's user has come."""
        from . import session_room

        session_room.participant_linked(cast("AgentSession[Any]", self), participant)

    def _start_ivr(self, transcript: str = "") -> None:
        """Begin to navigate a phone menu, which has said `transcript` so far."""
        if self._ivr_activity is not None:
            logger.warning("IVR detection is started already")
            return
        from .ivr.ivr_activity import IVRActivity

        self._ivr_activity = IVRActivity(cast("AgentSession[Any]", self))
        self._ivr_activity.begin(transcript)

    def _on_metrics(self, metrics: Any) -> None:
        if self._is_former_life():
            return
        self._usage.collect(metrics)
        collect_usage(metrics)
        self.emit("metrics_collected", MetricsCollectedEvent(metrics=metrics))
        self.emit("session_usage_updated", SessionUsageUpdatedEvent(usage=self.usage))

    def _on_error(self, error: Any, source: Any) -> None:
        """A component failed: tell the handlers, and close when it can't be borne any longer."""
        if self._is_former_life():
            return  # it failed for a run that is over
        self.emit("error", ErrorEvent(error=error, source=source))
        if getattr(error, "recoverable", False):
            return
        kind = str(getattr(error, "type", "")).removesuffix("_error")
        if kind in ("llm", "stt", "tts") and not self._errors.count(kind):
            return
        cause = getattr(error, "error", error)
        if self._close is None or self._close.graceful:
            logger.error(
                "AgentSession is closing due to unrecoverable error: %s", cause, exc_info=cause
            )
        self._close_soon(reason=CloseReason.ERROR, error=error)

    def _on_handoff_failed(self, agent: Agent, error: Exception) -> None:
        """The old agent may be gone already: keep `current_agent` truthful."""
        if self._activity is not None and not self._activity.closed:
            self._current_agent = self._activity.agent
        self.emit("error", ErrorEvent(error=error, source=agent))

    def _on_audio_input_changed(self) -> None:
        if self._started:
            self._inputs.refresh_audio()

    def _on_video_input_changed(self) -> None:
        if self._started:
            self._inputs.refresh_video()

    def _on_audio_enabled_changed(self, enabled: bool) -> None:
        if enabled or self._state.user != "speaking":
            return
        if self._activity is not None and self._activity.recognition is not None:
            self._activity.recognition.on_input_disabled()
        else:
            self._state.set_user("listening")

    def _on_audio_output_changed(self) -> None:
        audio = self._output.audio
        if (
            self._started
            and audio is not None
            and not audio.can_pause
            and self._options.interruption["resume_false_interruption"]
        ):
            logger.warning(
                "resume_false_interruption is on, but the audio output %s can't pause: false "
                "interruptions will end the agent's speech",
                audio.label,
            )

    def _on_video_output_changed(self) -> None:
        """Nothing to do: the next reply looks at the output when it starts."""

    def _on_text_output_changed(self) -> None:
        """Nothing to do: the next reply looks at the output when it starts."""

    # -- as the end of a job asks for it (`SessionInJob`) -----------------------------------------

    async def _close_with_job(self) -> None:
        self._close_soon(reason=CloseReason.JOB_SHUTDOWN)
        if self._closing_task is not None:
            await asyncio.wait((self._closing_task,))

    def _cut_close_short(self) -> None:
        if self._close is not None:
            self._close.cut_short("the end of the job")

    def _close_held_by(self) -> str | None:
        if not self._is_closing or self._close is None:
            return None
        return self._close.held_by() or "an unknown task"

    def _models(self) -> list[Any]:
        agents = (self._agent, self._current_agent)
        owners: list[Any] = [self, *(agent for agent in agents if agent is not None)]
        models = [model for each in owners for model in (each._stt, each._tts, each._llm)]
        return [model for model in models if callable(getattr(model, "aclose", None))]
