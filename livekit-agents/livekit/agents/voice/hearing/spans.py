"""The traces of a user turn: `user_turn`, and within it each wait for the turn's end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...telemetry import trace_types, tracer
from .transcript import first_alternative

if TYPE_CHECKING:
    from ...language import LanguageCode
    from ...llm import ChatContext
    from ...stt import SpeechEvent
    from .hooks import EndOfTurnInfo
    from .prediction import Prediction
    from .user_turn import UserTurn

__all__ = ["TurnSpans"]

DETECTION_ITEMS = 6
"""How much of the conversation a detection shows."""


class TurnSpans:
    """Opens, annotates and ends the spans of one turn after another.

    Does nothing, and costs nothing, while nobody records. What is open when it is made becomes the
    parent of all turns: the session.
    """

    def __init__(self) -> None:
        self._parent = tracer.current_context()
        self._stt: dict[str, str] = {}
        self._turn: UserTurn | None = None
        self._events: list[dict[str, Any]] = []
        self._resumed = 0
        self._wait: _Wait | None = None
        self.turn_span: Any = None
        """The span of the turn under way; None while there is none, or nobody records."""

    def set_stt(self, model: str | None, provider: str | None) -> None:
        """Name the STT in turns from now on."""
        names = {
            trace_types.ATTR_GEN_AI_REQUEST_MODEL: model,
            trace_types.ATTR_GEN_AI_PROVIDER_NAME: provider,
        }
        self._stt = {key: name for key, name in names.items() if name is not None}

    # -- the turn -------------------------------------------------------------------------------

    def turn_opened(self, turn: UserTurn) -> None:
        """A turn is under way; its span starts with it. Does nothing when it has one."""
        if self.turn_span is not None or not tracer.is_recording:
            return
        self._turn = turn
        self.turn_span = tracer.start_span(
            "user_turn",
            context=self._parent,
            attributes=self._stt,
            start_time=_nanoseconds(turn.started_at),
        )

    def record_stt_event(self, ev: SpeechEvent) -> None:
        """Note that a transcript came."""
        if self.turn_span is not None and ev.type.value.endswith("_transcript"):
            self._events.append(
                {
                    "received_at": time.time(),
                    "type": ev.type.value,
                    "transcript_length": len(first_alternative(ev).text),
                }
            )

    def turn_ending(self, info: EndOfTurnInfo) -> None:
        """The turn is about to be offered; whoever takes it ends the span."""
        if self.turn_span is None:
            return
        known = info.metrics.known()
        attributes: dict[str, Any] = {
            trace_types.ATTR_USER_TRANSCRIPT: info.new_transcript,
            trace_types.ATTR_TRANSCRIPT_CONFIDENCE: info.transcript_confidence,
        }
        for name, attribute in (
            ("transcription_delay", trace_types.ATTR_TRANSCRIPTION_DELAY),
            ("end_of_turn_delay", trace_types.ATTR_END_OF_TURN_DELAY),
        ):
            if name in known:
                attributes[attribute] = known[name]
        self.turn_span.set_attributes(attributes)
        self._describe_turn()

    def turn_committed(self) -> None:
        """The turn was taken: what comes next belongs to another one."""
        self._reset()

    def end(self) -> None:
        """The turn ends without being taken."""
        self.decision_ended("dropped")
        if self.turn_span is not None:
            self._describe_turn()
            self.turn_span.end()
        self._reset()

    def _describe_turn(self) -> None:
        assert self._turn is not None
        attributes: dict[str, Any] = {trace_types.ATTR_EOU_RESUME_COUNT: self._resumed}
        if self._turn.request_ids:
            attributes[trace_types.ATTR_PROVIDER_REQUEST_IDS] = list(self._turn.request_ids)
        if self._events:
            attributes[trace_types.ATTR_STT_EVENTS] = json.dumps(self._events)
        self.turn_span.set_attributes(attributes)

    def _reset(self) -> None:
        self.turn_span, self._turn = None, None
        self._events, self._resumed = [], 0

    # -- waiting for its end --------------------------------------------------------------------

    def decision_started(
        self, source: str, last_speaking_at: float | None, *, rearmed: bool
    ) -> None:
        """A wait for the end of the turn begins, or starts over when `rearmed`."""
        if self.turn_span is None:
            return
        if self._wait is None or not rearmed:
            self.decision_ended("dropped")
            self._wait = _Wait(self.turn_span, last_speaking_at)
        else:
            self._wait.rearm()
        self._wait.source = source
        self._wait.span.set_attribute(trace_types.ATTR_EOU_SOURCE, source)

    def decision_delay(self, delay: float) -> None:
        """The wait lasts `delay` seconds of silence."""
        if self._wait is not None:
            self._wait.span.set_attribute(trace_types.ATTR_EOU_DELAY, delay)

    def decision_not_committed(self) -> None:
        """The listener did not take the turn."""
        if self._wait is not None:
            self._wait.not_committed += 1
        self.decision_ended("dropped")

    def decision_ended(self, outcome: str) -> None:
        """The wait is over: "committed", "user_resumed" or "dropped"."""
        wait, self._wait = self._wait, None
        if outcome == "user_resumed":
            self._resumed += 1
        if wait is not None:
            if outcome == "user_resumed":
                wait.span.add_event("user_resumed")
            wait.end(outcome)

    @contextmanager
    def detection(
        self, chat_ctx: ChatContext | None, language: LanguageCode | None
    ) -> Iterator[Callable[[Prediction | None, float], None]]:
        """A detector is asked; call what this yields with its answer, and the delay after it."""
        wait = self._wait
        if wait is None:
            yield lambda prediction, delay: None
            return
        span = tracer.start_span("eou_detection", context=tracer.context_of(wait.span))
        span.set_attribute(trace_types.ATTR_EOU_LANGUAGE, language or "")
        span.set_attribute(trace_types.ATTR_EOU_SOURCE, wait.source)
        if chat_ctx is not None:
            shown = chat_ctx.copy(exclude_function_call=True, exclude_instructions=True)
            shown.truncate(max_items=DETECTION_ITEMS)
            span.set_attribute(trace_types.ATTR_CHAT_CTX, json.dumps(shown.to_dict()))
        answered: list[tuple[Prediction | None, float]] = []
        began = time.perf_counter()
        try:
            yield lambda prediction, delay: answered.append((prediction, delay))
        finally:
            span.set_attribute(trace_types.ATTR_EOU_DETECTION_DELAY, time.perf_counter() - began)
            if not answered:
                span.add_event("superseded")
            else:
                prediction, delay = answered[0]
                span.set_attribute(trace_types.ATTR_EOU_DELAY, delay)
                if prediction is not None:
                    span.set_attributes(_prediction_attributes(prediction))
            span.end()


class _Wait:
    """One `eou_wait` span. It begins when silence did, and may be armed again by more words."""

    def __init__(self, turn_span: Any, last_speaking_at: float | None) -> None:
        self._began = time.time() if last_speaking_at is None else last_speaking_at
        self._rearmed = 0
        self.not_committed = 0
        self.source = ""
        self.span = tracer.start_span(
            "eou_wait",
            context=tracer.context_of(turn_span),
            start_time=_nanoseconds(self._began),
        )

    def rearm(self) -> None:
        """More words came while waiting."""
        self._rearmed += 1
        self.span.add_event("rearmed")

    def end(self, outcome: str) -> None:
        """The wait is over."""
        ended = max(time.time(), self._began)
        self.span.set_attributes(
            {
                trace_types.ATTR_EOU_OUTCOME: outcome,
                trace_types.ATTR_EOU_WAIT_DURATION: ended - self._began,
                trace_types.ATTR_EOU_REARM_COUNT: self._rearmed,
                trace_types.ATTR_EOU_NOT_COMMITTED_COUNT: self.not_committed,
            }
        )
        self.span.end(end_time=_nanoseconds(ended))


def _prediction_attributes(prediction: Prediction) -> dict[str, Any]:
    attributes = {
        trace_types.ATTR_EOU_PROBABILITY: prediction.probability,
        trace_types.ATTR_EOU_UNLIKELY_THRESHOLD: prediction.threshold,
        trace_types.ATTR_EOU_FROM_CACHE: not prediction.fresh,
    }
    return {key: value for key, value in attributes.items() if value is not None}


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1e9)
