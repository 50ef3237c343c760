"""What a realtime model reports by itself: speech, transcripts, answers, errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..llm import ChatMessage
from ..metrics import RealtimeModelMetrics
from .events import UserInputTranscribedEvent
from .hearing.activity import owns_overlapping_speech
from .realtime_items import give_up_place, mirror, place_of
from .replies.tracing import trace_realtime_metrics

if TYPE_CHECKING:
    from ..llm import (
        GenerationCreatedEvent,
        InputSpeechStoppedEvent,
        InputTranscriptionCompleted,
        RealtimeModelError,
        RemoteItemAddedEvent,
    )
    from .agent_activity import AgentActivity
    from .realtime_link import RealtimeLink

__all__ = ["RealtimeEvents"]


class RealtimeEvents:
    """Routes the events of a realtime session to the activity that uses it."""

    def __init__(self, activity: AgentActivity, link: RealtimeLink) -> None:
        self._activity = activity
        self._session = activity.session
        self._link = link

    def handlers(self) -> dict[str, Callable[..., None]]:
        """The handlers, by the names of their events."""
        return {
            "generation_created": self._on_generation_created,
            "input_speech_started": self._on_speech_started,
            "input_speech_stopped": self._on_speech_stopped,
            "input_audio_transcription_completed": self._on_transcribed,
            "remote_item_added": self._on_remote_item,
            "session_reconnected": self._on_reconnected,
            "metrics_collected": self._on_metrics,
            "error": self._on_error,
        }

    def _on_generation_created(self, ev: GenerationCreatedEvent) -> None:
        generation = self._link.guard.generation(ev)
        if not ev.user_initiated:
            self._keep_words_of_turn()
        self._activity.replies.on_generation_created(generation)

    def _keep_words_of_turn(self) -> None:
        """The server has ended a turn: what an STT has understood of it is all there is in words."""
        recognition = self._activity.recognition
        if recognition is None or recognition.mode != "realtime_llm":
            return
        words = recognition.take_transcript()
        if words and not self._link.capabilities.user_transcription:
            self._activity.commit(ChatMessage(role="user", content=[words]))

    def _on_metrics(self, metrics: Any) -> None:
        if isinstance(metrics, RealtimeModelMetrics):
            trace_realtime_metrics(self._session, metrics)
        self._activity.on_model_metrics(metrics)

    def _on_error(self, error: RealtimeModelError) -> None:
        self._session._on_error(error, self._activity.llm)

    # -- the user's voice -----------------------------------------------------------------------

    @property
    def _server_hears(self) -> bool:
        """Whether nobody but the server notices when the user speaks."""
        recognition = self._activity.recognition
        return recognition is not None and not recognition.has_vad

    def _on_speech_started(self, _: Any) -> None:
        activity = self._activity
        if self._server_hears:
            self._session._update_user_state("speaking")
            activity.recognition.on_start_of_speech(time.time())  # type: ignore[union-attr]
        if not activity.server_turn_detection or owns_overlapping_speech(activity):
            return
        speech = activity.scheduler.current_speech
        if speech is None or speech.allow_interruptions:
            # also when nothing plays: the model may be at a response of which nothing came yet
            activity.interrupt(source="audio_activity")

    def _on_speech_stopped(self, ev: InputSpeechStoppedEvent) -> None:
        self._user_stopped()
        if ev.user_transcription_enabled:
            self._session.emit(
                "user_input_transcribed", UserInputTranscribedEvent(transcript="", is_final=False)
            )

    def _user_stopped(self) -> None:
        recognition = self._activity.recognition
        if self._server_hears and recognition is not None:
            recognition.on_end_of_speech(time.time())
            self._session._update_user_state("listening")
        if self._activity.server_turn_detection:
            heard = recognition.last_speaking_time if recognition is not None else None
            self._activity.replies.user_stopped(time.time() if heard is None else heard)

    def _on_reconnected(self, _: Any) -> None:
        """The new connection knows nothing of speech that began in the old one."""
        if self._server_hears and self._session.user_state == "speaking":
            self._user_stopped()

    # -- the conversation -----------------------------------------------------------------------

    def _on_transcribed(self, ev: InputTranscriptionCompleted) -> None:
        self._session.emit(
            "user_input_transcribed",
            UserInputTranscribedEvent(
                transcript=ev.transcript, is_final=ev.is_final, item_id=ev.item_id
            ),
        )
        if not ev.is_final:
            return
        activity = self._activity
        if activity.recognition is not None:
            activity.recognition.take_transcript()
        if self._session.user_state == "away":
            self._session._update_user_state("listening")
        self._session._state.arm_away()
        if not ev.transcript:
            give_up_place(activity.agent._chat_ctx, ev.item_id)
            return
        began, place = ev.turn_started_at, place_of(activity.agent._chat_ctx, ev.item_id)
        if began is None and place is not None:
            began = place.created_at
        activity.commit(
            ChatMessage(
                id=ev.item_id,
                role="user",
                content=[ev.transcript],
                transcript_confidence=ev.confidence,
                created_at=time.time() if began is None else began,
            )
        )

    def _on_remote_item(self, ev: RemoteItemAddedEvent) -> None:
        if isinstance(ev.item, ChatMessage):
            mirror(self._activity.agent._chat_ctx, ev.previous_item_id, ev.item)
