"""Deciding that the turn is over: how long to wait, what to ask, and carrying it out.

The numbers are in `EndpointingPlan`, without I/O. `EndOfTurn` waits them out in one task per
decision; a new decision replaces the one under way.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ...log import logger
from ...utils.aio import TaskScope
from ..events import EotPredictionEvent
from .hooks import EndOfTurnInfo, RecognitionHooks, notify
from .prediction import Prediction, StreamingPredictor, TextPredictor, bounded
from .turn_machine import EouTrigger
from .user_turn import TurnMode, TurnSnapshot, UserTurn

if TYPE_CHECKING:
    from ...language import LanguageCode
    from ...llm import ChatContext
    from ..endpointing import BaseEndpointing
    from .spans import TurnSpans

__all__ = ["EndOfTurn", "EndOfTurnHost", "EndpointingPlan"]


@dataclass(frozen=True)
class EndpointingPlan:
    """How long silence has to last, in seconds.

    Args:
        min_delay: When the turn looks complete.
        max_delay: When a detector doubts it.
        unlikely: Whether it doubts it.
        last_speaking_at: Where silence began, `time.time()`; None counts from now.
    """

    min_delay: float
    max_delay: float
    unlikely: bool
    last_speaking_at: float | None

    @property
    def delay(self) -> float:
        """Silence after which the turn is over."""
        return self.max_delay if self.unlikely else self.min_delay

    def until_flush(self, now: float) -> float:
        """Time left before the STT is asked to finish: at once, or half-way when in doubt."""
        return self._left(self.delay / 2, now) if self.unlikely else 0.0

    def until_commit(self, now: float) -> float:
        """Time left before the turn is over."""
        return self._left(self.delay, now)

    def _left(self, delay: float, now: float) -> float:
        since = 0.0 if self.last_speaking_at is None else now - self.last_speaking_at
        return max(0.0, delay - since)


class EndOfTurnHost(Protocol):
    """What the decision needs to know, as of the moment it asks."""

    @property
    def mode(self) -> TurnMode:
        """Who opens and closes turns."""
        ...

    @property
    def endpointing(self) -> BaseEndpointing:
        """How long to wait."""
        ...

    @property
    def language(self) -> LanguageCode | None:
        """What the user speaks, if known."""
        ...

    @property
    def has_stt(self) -> bool:
        """Whether there is an STT."""
        ...

    @property
    def can_flush_stt(self) -> bool:
        """Whether the STT can be told that the utterance is over."""
        ...

    def flush_stt(self) -> bool:
        """Tell it; False if it could not be told."""
        ...

    @property
    def text_predictor(self) -> TextPredictor | None:
        """A detector that reads, if there is one."""
        ...

    @property
    def streaming_predictor(self) -> StreamingPredictor | None:
        """A detector that listens, if there is one."""
        ...

    def turn_committed(self) -> None:
        """The turn was taken."""
        ...


@dataclass(frozen=True)
class _Decision:
    """One attempt at the end of the turn."""

    trigger: EouTrigger
    skip_reply: bool
    snapshot: TurnSnapshot
    auto_flush: bool
    chat_ctx: ChatContext | None


class EndOfTurn:
    """Decides about the end of the turn. At most one decision is under way.

    Args:
        hooks: Told of predictions and of the end of the turn.
        host: The state around the turn.
        turn: The turn.
        scope: Owns the tasks.
        spans: Where the decision is traced.
    """

    def __init__(
        self,
        hooks: RecognitionHooks,
        host: EndOfTurnHost,
        *,
        turn: UserTurn,
        scope: TaskScope,
        spans: TurnSpans,
    ) -> None:
        self._hooks = hooks
        self._host = host
        self._turn = turn
        self._scope = scope
        self._spans = spans
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The decision under way, or None. To wait for, not to cancel."""
        return self._task if self.pending else None

    @property
    def pending(self) -> bool:
        """Whether a decision is under way."""
        return self._task is not None and not self._task.done()

    async def settled(self) -> bool:
        """Wait until no decision is under way, following those that replace each other.

        Returns:
            Whether the last one came to its end; False if it was dropped, for instance because the
            user went on speaking.
        """
        ended = True
        while (task := self._task) is not None:
            if not task.done():
                await asyncio.wait((task,))
            ended = not task.cancelled()
            if self._task is task:
                break
        return ended

    # -- deciding -------------------------------------------------------------------------------

    def evaluate(self, trigger: EouTrigger, *, skip_reply: bool = False) -> None:
        """Start a decision, replacing the one under way.

        A turn whose end was asked for keeps that: a late transcript adds its words to the commit,
        but makes it neither conditional nor answered.
        """
        if self._closing:
            return
        host, turn = self._host, self._turn
        auto_flush = host.mode == "base" and host.can_flush_stt
        if (
            host.has_stt
            and not turn.words.text
            and host.mode != "manual"
            and (not auto_flush or turn.flush_requested)
        ):
            return
        if turn.request is not None:
            trigger, skip_reply = "manual", skip_reply or turn.request.skip_reply
        decision = _Decision(
            trigger=trigger,
            skip_reply=skip_reply,
            snapshot=turn.snapshot(),
            auto_flush=auto_flush,
            chat_ctx=self._chat_ctx_for_detector(),
        )
        # Opened only after the snapshot: a turn nobody heard begin has no metrics the first time.
        turn.open(turn.earliest_anchor or time.time())
        self._spans.turn_opened(turn)
        rearmed = self._cancel()
        self._spans.decision_started(trigger, turn.last_speaking_at, rearmed=rearmed)
        self._task = self._scope.spawn(self._decide(decision), name="end of turn")

    def _chat_ctx_for_detector(self) -> ChatContext | None:
        """The conversation with the turn's words, where a detector is going to read it."""
        if self._host.text_predictor is None or not self._turn.words.text:
            return None
        try:
            chat_ctx = self._hooks.retrieve_chat_ctx().copy()
        except Exception:
            logger.exception("no conversation for the turn detector, it is not asked")
            return None
        chat_ctx.add_message(role="user", content=self._turn.words.text)
        return chat_ctx

    def drop(self, outcome: str) -> None:
        """Abandon the decision under way. The words and anchors of the turn stay."""
        if self._cancel():
            self._spans.decision_ended(outcome)

    def _cancel(self) -> bool:
        if self._task is None or self._task.done():
            return False
        self._task.cancel()
        return True

    async def _decide(self, decision: _Decision) -> None:
        prediction = await self._predict(decision)
        plan = self._plan(decision, prediction)
        self._spans.decision_delay(plan.delay)
        if decision.auto_flush and not self._turn.flush_requested:
            await _sleep(plan.until_flush(time.time()))
            self._turn.flush_requested = self._host.flush_stt()
        await _sleep(plan.until_commit(time.time()))
        self._conclude(decision)

    def _plan(self, decision: _Decision, prediction: Prediction | None) -> EndpointingPlan:
        endpointing = self._host.endpointing
        return EndpointingPlan(
            min_delay=endpointing.min_delay,
            max_delay=endpointing.max_delay,
            unlikely=prediction is not None and prediction.unlikely,
            last_speaking_at=decision.snapshot.last_speaking_at,
        )

    async def _predict(self, decision: _Decision) -> Prediction | None:
        host = self._host
        if host.mode == "manual":
            return None
        if host.streaming_predictor is not None:
            if (
                decision.trigger == "stt"
                and self._turn.detector_flushed
                and not host.streaming_predictor.outstanding
            ):
                host.streaming_predictor.warn_late_transcript()
            asking = host.streaming_predictor.ask(host.language)
        elif host.text_predictor is not None and decision.chat_ctx is not None:
            asking = host.text_predictor.ask(decision.chat_ctx, host.language)
        else:
            return None
        with self._spans.detection(decision.chat_ctx, host.language) as record:
            prediction = await bounded(self._scope, asking)
            record(prediction, self._plan(decision, prediction).delay)
        if prediction is not None and prediction.complete and prediction.fresh:
            self._report(prediction, decision.snapshot)
        return prediction

    def _report(self, prediction: Prediction, snapshot: TurnSnapshot) -> None:
        assert prediction.probability is not None and prediction.threshold is not None
        now = time.time()
        ev = EotPredictionEvent(
            probability=prediction.probability,
            threshold=prediction.threshold,
            inference_duration=prediction.inference_duration or 0.0,
            delay=0.0 if snapshot.last_speaking_at is None else now - snapshot.last_speaking_at,
        )
        notify(self._hooks.on_eot_prediction, ev)
        if prediction.backchannel_likely:
            notify(self._hooks.on_agent_backchannel_opportunity, ev)

    # -- carrying it out ------------------------------------------------------------------------

    def _conclude(self, decision: _Decision) -> None:
        """End the turn. Synchronous from the hook to the clean-up: no half-cancelled commit."""
        turn = self._turn
        if self._host.has_stt and not turn.words.text and self._host.mode != "manual":
            self._spans.decision_ended("dropped")
            return  # nothing to commit; the final that is still to come decides anew
        info = EndOfTurnInfo(
            new_transcript=turn.words.text,
            transcript_confidence=turn.words.confidence,
            metrics=decision.snapshot.metrics(time.time()),
            skip_reply=decision.skip_reply,
            backchannel_over_agent=turn.backchannel,
            span=self._spans.turn_span,
        )
        self._spans.turn_ending(info)
        committed = False
        try:
            committed = self._hooks.on_end_of_turn(info)
        except Exception:
            logger.exception("the end of a turn could not be handled, its words stay pending")
        if committed:
            self._spans.decision_ended("committed")
            self._spans.turn_committed()
            turn.close(decision.snapshot)
            self._host.turn_committed()
            logger.debug(
                "user turn committed", extra={"lk.pii.user_transcript": info.new_transcript}
            )
        else:
            self._spans.decision_not_committed()
        turn.settle()

    # -- closing --------------------------------------------------------------------------------

    def begin_close(self) -> None:
        """From here on turns end only through `commit_now`."""
        self._closing = True
        self._cancel()

    def commit_now(self) -> None:
        """End the turn at once, if words are pending: no detector, no delay, no reply needed."""
        self._cancel()
        if self._turn.words.text:
            request = self._turn.request
            self._conclude(
                _Decision(
                    trigger="manual",
                    skip_reply=request is not None and request.skip_reply,
                    snapshot=self._turn.snapshot(),
                    auto_flush=False,
                    chat_ctx=None,
                )
            )


async def _sleep(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)
