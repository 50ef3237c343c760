"""What happens once the user's turn is over: the agent's hook, and the reply."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...llm import ChatContext, ChatMessage, MetricsReport, RealtimeModel, StopResponse
from ...log import logger
from ...metrics import EOUMetrics
from ...metrics.base import Metadata
from ...telemetry import trace_types, tracer
from ...utils.aio import TaskScope, wait_until
from ...utils.aio.task_scope import log_failure
from ..speech_handle import SpeechHandle
from .activity import HearingActivity, interruption_options
from .barge_in import word_count
from .hooks import EndOfTurnInfo, notify

if TYPE_CHECKING:
    from ..events import AgentStateChangedEvent, UserTurnExceededEvent

__all__ = ["UserTurns"]


@dataclass(eq=False)
class _Turn:
    """A turn on its way to the history and to a reply."""

    info: EndOfTurnInfo
    message: ChatMessage
    kept: bool = False
    """The message is in the history, or is not to get there."""
    hook_duration: float = 0.0


class UserTurns:
    """Answers user turns, one after another, in the order in which they were spoken."""

    def __init__(self, activity: HearingActivity) -> None:
        self._activity = activity
        self._turns: dict[asyncio.Task[None], _Turn] = {}
        self._latest: asyncio.Task[None] | None = None
        self._exceeded: asyncio.Task[None] | None = None
        self._exceeded_running = False

    # -- end of turn ----------------------------------------------------------------------------

    def on_end_of_turn(self, info: EndOfTurnInfo) -> bool:
        """The user has finished. Synchronous: the words are either taken or stay pending.

        Returns:
            False if this was too little to be a turn, so that its words belong to the next one.
        """
        activity = self._activity
        skip_reply = info.skip_reply
        amd = activity.session.amd
        if amd is not None and amd.on_end_of_turn():
            activity.replies.drop_preemptive()
            skip_reply = True
        if activity.turns_blocked or activity.session._is_closing:
            self._keep_without_reply(info)
            return True
        if self._too_few_words(info) or self._was_backchannel(info):
            activity.replies.drop_preemptive()
            return False
        if not skip_reply and not activity.server_turn_detection:
            self._activity.barge_in.disarm()
        if activity.recognition is not None and isinstance(activity.llm, RealtimeModel):
            activity.replies.user_stopped(activity.recognition.last_speaking_time)
        activity.session._spans.describe_user(info.span)
        turn = _Turn(info, _message(info, activity))
        coro = self._complete(turn, self._latest, skip_reply=skip_reply)
        task = self._latest = activity.create_speech_task(coro, name="user turn completed")
        self._turns[task] = turn
        task.add_done_callback(self._forget)
        return True

    def _forget(self, task: asyncio.Task[None]) -> None:
        turn = self._turns.pop(task)
        _end_span(turn.info)
        self._activity.session._idle.changed()

    def _keep_without_reply(self, info: EndOfTurnInfo) -> None:
        activity = self._activity
        activity.replies.drop_preemptive()
        log = logger.debug if activity.session._is_closing else logger.warning
        log(
            "skipping user input, speech scheduling is paused",
            extra={"lk.pii.user_input": info.new_transcript},
        )
        self._keep(_Turn(info, _message(info, activity)))
        _end_span(info)

    def _too_few_words(self, info: EndOfTurnInfo) -> bool:
        """Whether the agent goes on speaking over a word or two."""
        activity = self._activity
        speech = activity.scheduler.current_speech
        min_words = interruption_options(activity)["min_words"]
        return (
            activity.stt is not None
            and activity.turn_detection != "manual"
            and speech is not None
            and speech.allow_interruptions
            and not speech.interrupted
            and min_words > 0
            and word_count(info.new_transcript) < min_words
        )

    def _was_backchannel(self, info: EndOfTurnInfo) -> bool:
        """Whether a model that hears audio only is to be spared an "uh-huh" over the agent."""
        activity = self._activity
        if (
            activity.stt is not None
            or activity.turn_detection == "manual"
            or not isinstance(activity.llm, RealtimeModel)
            or activity.server_turn_detection
            or not info.backchannel_over_agent
        ):
            return False
        if activity.realtime is not None:
            activity.realtime.clear_audio()
        return True

    # -- completing -----------------------------------------------------------------------------

    async def _complete(
        self, turn: _Turn, previous: asyncio.Task[None] | None, *, skip_reply: bool
    ) -> None:
        try:
            if previous is not None:
                # However it ends, even by being cancelled: this turn is not its victim.
                await wait_until(previous, None)
            self._activity.replies.new_turn()
            handle = await self._answer(turn, skip_reply=skip_reply)
            if handle is not None:
                self._report_metrics(turn, handle)
        except asyncio.CancelledError:
            self._keep(turn)
            raise
        except Exception:
            log_failure("answering a user turn failed, its words are kept in the history")
            self._keep(turn)

    async def _answer(self, turn: _Turn, *, skip_reply: bool) -> SpeechHandle | None:
        """Reply to a turn; returns the reply, if there is one."""
        activity = self._activity
        realtime = activity.realtime
        await self._interrupt_background()
        if realtime is not None:
            if activity.server_turn_detection:
                self._keep_unless_reported(turn)
                return None
            if not skip_reply:
                realtime.commit_audio()
        if skip_reply:
            self._keep(turn)
            return None
        if not await self._make_room(turn) or self._reply_refused(turn):
            return None
        chat_ctx = activity.agent._chat_ctx.copy()
        if not await self._run_hook(turn, chat_ctx) or self._reply_refused(turn):
            return None
        return await self._reply(turn, chat_ctx)

    async def _interrupt_background(self) -> None:
        """Speeches that only wait for their tools give way to the user; the tools go on."""
        waiting = [
            handle.interrupt(source="user_turn")
            for handle in list(self._activity.scheduler.background)
            if handle.allow_interruptions and not handle.done()
        ]
        for handle in waiting:
            handle._release_tools()
            await handle

    async def _make_room(self, turn: _Turn) -> bool:
        """End what the agent is saying; False if it can't be ended, so that no reply follows."""
        activity = self._activity
        speech = activity.scheduler.current_speech
        if speech is None:
            return True
        if not speech.allow_interruptions and not speech.interrupted:
            logger.warning(
                "skipping reply to user input, current speech generation cannot be interrupted",
                extra={"lk.pii.user_input": turn.info.new_transcript},
            )
            activity.replies.drop_preemptive()
            self._keep(turn)
            return False
        self._activity.barge_in.end_with_interruption(source="user_turn")
        speech.interrupt(source="user_turn")._release_tools()
        await speech
        if activity.realtime is not None:
            activity.realtime.interrupt()
        return True

    def _reply_refused(self, turn: _Turn) -> bool:
        """Whether, by now, nobody may reply any more. The words are kept then."""
        activity = self._activity
        if not (activity.turns_blocked or activity.session._is_closing):
            return False
        activity.replies.drop_preemptive()
        log = logger.debug if activity.session._is_closing else logger.warning
        log("skipping reply to user input, speech scheduling is paused")
        self._keep(turn)
        return True

    async def _run_hook(self, turn: _Turn, chat_ctx: ChatContext) -> bool:
        """Let the agent look at the turn; False if it wants no reply."""
        began = time.perf_counter()
        agent = self._activity.agent
        parent = None if turn.info.span is None else tracer.context_of(turn.info.span)
        try:
            with tracer.start_as_current_span(
                "on_user_turn_completed",
                context=parent,
                attributes={trace_types.ATTR_AGENT_LABEL: agent.label},
            ) as span:
                try:
                    await agent.on_user_turn_completed(chat_ctx, new_message=turn.message)
                except StopResponse:
                    span.add_event("stop_response")
                    turn.kept = True
                    self._activity.replies.drop_preemptive()
                    return False
        except Exception:
            log_failure("error in on_user_turn_completed of %s, the turn gets no reply", agent.id)
            self._activity.replies.drop_preemptive()
            self._keep(turn)
            return False
        finally:
            turn.hook_duration = time.perf_counter() - began
            if turn.info.span is not None:
                turn.info.span.set_attribute(
                    trace_types.ATTR_ON_USER_TURN_COMPLETED_DELAY, turn.hook_duration
                )
        return True

    async def _reply(self, turn: _Turn, chat_ctx: ChatContext) -> SpeechHandle | None:
        activity = self._activity
        if activity.llm is None:
            self._keep(turn)
            return None
        turn.message.metrics["on_user_turn_completed_delay"] = turn.hook_duration
        handle: SpeechHandle | None = None
        if not isinstance(activity.llm, RealtimeModel):
            handle = activity.replies.adopt_preemptive(turn.message, chat_ctx)
        else:
            self._keep_unless_reported(turn)
        if handle is None:
            handle = self._generate(turn, chat_ctx)
        turn.kept = True
        if self._latest is not asyncio.current_task() and not handle.done():
            # The user has said more meanwhile, and that is answered next.
            handle.interrupt(force=True, source="user_turn")
            await handle
        return handle

    def _generate(self, turn: _Turn, chat_ctx: ChatContext) -> SpeechHandle:
        stopped_at = turn.info.metrics.stopped_speaking_at
        if isinstance(self._activity.llm, RealtimeModel):
            # It has heard the user itself.
            return self._activity.replies.generate_reply(answers_user_at=stopped_at)
        return self._activity.replies.generate_reply(
            user_message=turn.message,
            chat_ctx=chat_ctx,
            answers_user_at=stopped_at,
        )

    def _report_metrics(self, turn: _Turn, handle: SpeechHandle) -> None:
        metrics = turn.info.metrics
        self._activity.session._on_metrics(
            EOUMetrics(
                timestamp=time.time(),
                end_of_utterance_delay=metrics.end_of_turn_delay or 0.0,
                transcription_delay=metrics.transcription_delay or 0.0,
                on_user_turn_completed_delay=turn.hook_duration,
                speech_id=handle.id,
                metadata=_detection_metadata(self._activity.turn_detection),
            )
        )

    def _keep(self, turn: _Turn) -> None:
        """Put the words into the history, once, if there are any."""
        if not turn.kept and turn.info.new_transcript:
            turn.kept = True
            self._activity.commit(turn.message)

    def _keep_unless_reported(self, turn: _Turn) -> None:
        """A realtime model has heard the words itself; one that transcribes also reports them."""
        model = self._activity.llm
        if isinstance(model, RealtimeModel) and model.capabilities.user_transcription:
            turn.kept = True
        else:
            self._keep(turn)

    # -- a user who keeps talking ---------------------------------------------------------------

    def on_user_turn_exceeded(self, ev: UserTurnExceededEvent) -> None:
        """The user has had the floor for too long: cut in as soon as nobody else does."""
        if self._activity.turns_blocked or self._activity.session._is_closing:
            logger.warning("the user turn limit was exceeded, but speech scheduling is paused")
            return
        if self._exceeded_running:
            return
        if self._exceeded is not None:
            self._exceeded.cancel()
        self._exceeded = self._activity.create_speech_task(
            self._cut_in(ev), name="user turn exceeded"
        )

    async def _cut_in(self, ev: UserTurnExceededEvent) -> None:
        if not await self._agent_stays_silent():
            return
        self._exceeded_running = True
        try:
            await self._activity.agent.on_user_turn_exceeded(ev)
        except Exception:
            log_failure("error in on_user_turn_exceeded of %s", self._activity.agent.id)
        finally:
            self._exceeded_running = False

    async def _agent_stays_silent(self) -> bool:
        """Wait until the agent is idle; False if it speaks before, which is interruption enough."""
        session = self._activity.session
        spoke: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_state(ev: AgentStateChangedEvent) -> None:
            if ev.new_state == "speaking" and not spoke.done():
                spoke.set_result(None)

        if session.agent_state == "speaking":
            return False
        session.on("agent_state_changed", on_state)
        scope = TaskScope("user turn limit")
        idle = scope.spawn(
            self._activity.wait_for_idle(wait_for_user=False),
            name="wait for idle",
            log_errors=False,
        )
        try:
            await asyncio.wait((spoke, idle), return_when=asyncio.FIRST_COMPLETED)
            return idle.done() and idle.exception() is None and not spoke.done()
        finally:
            scope.cancel_soon()
            session.off("agent_state_changed", on_state)

    # -- waiting and closing --------------------------------------------------------------------

    def pending_decision(self) -> tuple[asyncio.Future[Any], ...]:
        """What has to end before it is clear whether the user gets a reply; empty when it is."""
        recognition = self._activity.recognition
        deciding = None if recognition is None else recognition.end_of_turn_task
        pending: list[asyncio.Future[Any]] = list(self._turns)
        if deciding is not None:
            pending.append(deciding)
        return tuple(pending)

    def cut_off(self) -> None:
        """The close waits no longer for user code: keep the words of turns it still holds."""
        for turn in list(self._turns.values()):
            notify(self._keep, turn)


def _message(info: EndOfTurnInfo, activity: HearingActivity) -> ChatMessage:
    metrics: MetricsReport = {}
    for name, value in info.metrics.known().items():
        metrics[name] = value  # type: ignore[literal-required]
    if activity.stt is not None:
        model = activity.stt.metrics_metadata
        metrics["stt_metadata"] = {
            "model_name": model.model_name or "unknown",
            "model_provider": model.model_provider or "unknown",
        }
    return ChatMessage(
        role="user",
        content=[info.new_transcript],
        transcript_confidence=info.transcript_confidence,
        metrics=metrics,
    )


def _detection_metadata(detection: object) -> Metadata | None:
    if detection is None:
        return None
    if isinstance(detection, str):
        return Metadata(model_name="unknown", model_provider=detection)
    return Metadata(
        model_name=getattr(detection, "model", "unknown"),
        model_provider=getattr(detection, "provider", "unknown"),
    )


def _end_span(info: EndOfTurnInfo) -> None:
    if info.span is not None:
        info.span.end()
