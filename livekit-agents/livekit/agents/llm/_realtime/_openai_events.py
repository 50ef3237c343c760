"""What a session does about the events of OpenAI's realtime protocol."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from ..._close_codes import IDLE_CODE
from ..._exceptions import APIConnectionError, APIError
from ...log import logger
from ..realtime import (
    GenerationCreatedEvent,
    InputSpeechStartedEvent,
    InputSpeechStoppedEvent,
    InputTranscriptionCompleted,
    RealtimeModelError,
    RealtimeSession as _BaseSession,
    RemoteItemAddedEvent,
)
from ..remote_chat_context import RemoteChatContext
from . import openai_codec as codec
from ._input_audio import UnansweredAudio
from ._line import Renewal
from ._openai_context import ServerContext
from ._openai_generation import Generation, _DiscardedGeneration
from ._openai_metrics import response_metrics, transcription_metrics
from ._openai_replies import ReplyRequests
from .openai_codec import BadEvent, ErrorInfo
from .openai_utils import Event

if TYPE_CHECKING:
    from .openai import RealtimeModel

_MAX_BAD_MESSAGES = 5
"""Messages in a row that are no events, after which a connection is given up."""

_FATAL = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "invalid_api_key",
        "account_deactivated",
        "billing_hard_limit_reached",
    }
)
_SESSION_OVER = frozenset({"session_expired", str(IDLE_CODE)})


def _is_fatal_error(error: Any) -> bool:
    """Whether the provider will refuse everything from now on.

    Args:
        error: An error of the server: an object, or a dict.
    """
    for name in ("code", "type"):
        value = error.get(name) if isinstance(error, dict) else getattr(error, name, None)
        if isinstance(value, str) and value in _FATAL:
            return True
    return False


class ServerEvents(
    _BaseSession[Literal["openai_server_event_received", "openai_client_event_queued"]]
):
    """The listening half of a session. A handler that fails is logged, and its event skipped."""

    def __init__(self, realtime_model: RealtimeModel, turn_detection: Event | None) -> None:
        super().__init__(realtime_model)
        self._opts = realtime_model._opts
        self._model = realtime_model
        self._detection = turn_detection
        self._context = ServerContext(legacy=self._opts.legacy)
        self._current_generation: Generation | _DiscardedGeneration | None = None
        self._replies = ReplyRequests(self._on_reply_dropped)
        self._partials: dict[str, str] = {}
        self._input_speech_started_at: dict[str, float] = {}
        self._user_speaking = False
        self._unanswered = UnansweredAudio()
        self._bad_messages = 0
        self._stirred = asyncio.Event()
        self._closing = False

    @property
    def _remote_chat_ctx(self) -> RemoteChatContext:
        return self._context.mirror

    @property
    def _response_created_futures(self) -> dict[str, asyncio.Future[GenerationCreatedEvent]]:
        return self._replies.waiting

    @property
    def _discarded_event_ids(self) -> set[str]:
        return self._replies.dropped

    @property
    def _item_create_future(self) -> dict[str, asyncio.Future[None]]:
        return self._context.creations

    @property
    def _item_delete_future(self) -> dict[str, asyncio.Future[None]]:
        return self._context.deletions

    @abstractmethod
    def send_event(self, event: Event) -> None:
        """Queue an event for the server."""

    @abstractmethod
    def _on_reply_dropped(self, event_id: str) -> None:
        """Nobody waits for a requested response any more."""

    @abstractmethod
    def _on_success(self) -> None:
        """The server works."""

    # -- every message ----------------------------------------------------------------------------

    def _line_received(self, message: str | bytes) -> None:
        if self._closing:
            return
        try:
            event = codec.parse(message)
        except BadEvent as error:
            self._on_bad_message(error)
            return
        self._bad_messages = 0
        self.emit("openai_server_event_received", event)
        try:
            self._handle(event)
        except (APIError, Renewal):
            raise
        except BadEvent as error:
            logger.warning("a realtime event is left out: %s", error)
        except Exception:
            logger.exception("failed to handle a realtime event: %s", event["type"])
        self._stirred.set()

    def _on_bad_message(self, error: BadEvent) -> None:
        self._bad_messages += 1
        if self._bad_messages == 1:
            logger.warning("a message of the realtime server is left out: %s", error)
        elif self._bad_messages >= _MAX_BAD_MESSAGES:
            self._bad_messages = 0
            raise APIConnectionError("the realtime server sends nothing that can be understood")

    def _handle(self, event: Event) -> None:
        typed = codec.decode(event)
        if typed is not None:
            getattr(self, _HANDLERS[type(typed)])(typed)

    # -- responses --------------------------------------------------------------------------------

    def _handle_response_created(self, event: codec.ResponseCreated) -> None:
        event = codec.typed(event)
        self._close_current_generation()
        if self._replies.take_dropped(event.client_event_id):
            self._current_generation = _DiscardedGeneration(event.response_id)
            self.send_event(codec.cancel_response(event.response_id))
            return
        reply = self._replies.begun(event.client_event_id)
        generation = Generation(event.response_id, user_initiated=reply is not None)
        self._current_generation = generation
        self.emit("generation_created", generation.event)
        if reply is not None and not reply.done():
            reply.set_result(generation.event)

    def _generation_of(self, event: Any) -> Generation | None:
        """The open response that an event is about; None if it is not wanted or over."""
        generation = self._current_generation
        if not isinstance(generation, Generation):
            return None
        return generation if event.response_id in (None, generation.response_id) else None

    def _handle_response_output_item_added(self, event: codec.OutputItemAdded) -> None:
        generation = self._generation_of(event)
        if generation is not None and event.kind == "message":
            generation.open_message(event.item_id)

    def _handle_response_content_part_added(self, event: codec.ContentPartAdded) -> None:
        generation = self._generation_of(event)
        if generation is not None:
            message = generation.open_message(event.item_id)
            message.resolve(["text"] if event.modality == "text" else ["audio", "text"])

    def _handle_response_text_delta(self, event: codec.TextDelta) -> None:
        event = codec.typed(event)
        generation = self._generation_of(event)
        if generation is not None:
            generation.add_text(event.item_id, event.delta, spoken=False)

    def _handle_response_audio_transcript_delta(self, event: codec.AudioTranscriptDelta) -> None:
        event = codec.typed(event)
        generation = self._generation_of(event)
        if generation is not None:
            generation.add_text(event.item_id, event.delta, spoken=True)

    def _handle_response_audio_delta(self, event: codec.AudioDelta) -> None:
        event = codec.typed(event)
        generation = self._generation_of(event)
        if generation is not None:
            generation.add_audio(event.item_id, event.pcm)

    def _handle_response_output_item_done(self, event: codec.OutputItemDone) -> None:
        generation = self._generation_of(event)
        if generation is not None:
            generation.finish_item(event.item_id, event.call)

    def _handle_response_done(self, event: codec.ResponseDone) -> None:
        generation = self._current_generation
        if generation is None or generation.response_id != event.response_id:
            return
        self._close_current_generation()
        if event.status == "completed":
            self._on_success()
        if isinstance(generation, Generation):
            self.emit("metrics_collected", response_metrics(self._model, generation, event))
        if event.error is not None:
            self._report(event.error)

    def _close_current_generation(self) -> None:
        """End the open response here, and note in the mirror what it has said."""
        generation, self._current_generation = self._current_generation, None
        if generation is None:
            return
        generation.end()
        if isinstance(generation, Generation):
            for message in generation.messages.values():
                if message.audio_transcript:
                    self._context.set_text(message.message_id, message.audio_transcript)

    # -- the user ---------------------------------------------------------------------------------

    def _handle_input_audio_buffer_speech_started(self, event: codec.InputSpeechStarted) -> None:
        event = codec.typed(event)
        self._user_speaking = self._unanswered.speaking = True
        self._input_speech_started_at[event.item_id] = time.time()
        self.emit("input_speech_started", InputSpeechStartedEvent())

    def _handle_input_audio_buffer_speech_stopped(self, event: codec.InputSpeechStopped) -> None:
        self._user_speaking = False
        transcribed = self._opts.transcription is not None
        self.emit("input_speech_stopped", InputSpeechStoppedEvent(transcribed))

    def _handle_input_audio_buffer_committed(self, event: codec.InputCommitted) -> None:
        self._unanswered.taken()
        self._unanswered.speaking = self._detection is None

    def _handle_conversion_item_input_audio_transcription_delta(
        self, event: codec.TranscriptionDelta
    ) -> None:
        heard = self._partials.get(event.item_id, "") + event.delta
        self._partials[event.item_id] = heard
        if heard:
            self._emit_transcript(event.item_id, heard, is_final=False)

    def _handle_conversion_item_input_audio_transcription_completed(
        self, event: codec.TranscriptionCompleted
    ) -> None:
        event = codec.typed(event)
        self._partials.pop(event.item_id, None)
        self._context.set_text(event.item_id, event.transcript)
        self._emit_transcript(
            event.item_id, event.transcript, is_final=True, confidence=event.confidence
        )
        if event.usage is not None:
            transcriber = (self._opts.transcription or {}).get("model")
            metrics = transcription_metrics(self._model, event.item_id, event.usage, transcriber)
            self.emit("metrics_collected", metrics)

    def _handle_conversion_item_input_audio_transcription_failed(
        self, event: codec.TranscriptionFailed
    ) -> None:
        heard = self._partials.pop(event.item_id, "")
        logger.warning("the realtime server could not transcribe what the user said")
        if heard:
            self._context.set_text(event.item_id, heard)
            self._emit_transcript(event.item_id, heard, is_final=True)

    def _emit_transcript(
        self, item_id: str, transcript: str, *, is_final: bool, confidence: float | None = None
    ) -> None:
        started = self._input_speech_started_at.get(item_id)
        if is_final:
            self._input_speech_started_at.pop(item_id, None)
        self.emit(
            "input_audio_transcription_completed",
            InputTranscriptionCompleted(
                item_id=item_id,
                transcript=transcript,
                is_final=is_final,
                confidence=confidence,
                turn_started_at=started,
            ),
        )

    def _reset_input_turn_state(self) -> None:
        """Nothing is known of a turn of the user any more."""
        self._partials.clear()
        self._input_speech_started_at.clear()
        self._user_speaking = False

    # -- the conversation -------------------------------------------------------------------------

    def _handle_conversion_item_added(self, event: codec.ItemAdded) -> None:
        event = codec.typed(event)
        news = self._context.added(event)
        if news is not None:
            self.emit("remote_item_added", RemoteItemAddedEvent(*news))

    def _handle_conversion_item_deleted(self, event: codec.ItemDeleted) -> None:
        event = codec.typed(event)
        self._context.deleted(event.item_id)

    # -- errors -----------------------------------------------------------------------------------

    def _is_fatal_error(self, error: Any) -> bool:
        """Whether the provider will refuse everything from now on."""
        return _is_fatal_error(error)

    def _handle_error(self, event: codec.ErrorReported) -> None:
        error = event.error
        if self._is_harmless(error) or self._replies.rejected(error):
            return
        if not self._context.rejected(error):
            self._report(error)

    def _is_harmless(self, error: ErrorInfo) -> bool:
        if error.message.startswith("Cancellation failed"):
            return True  # what was to be cancelled had just ended
        # A server that decides about turns by itself may have committed just before.
        return error.code == "input_audio_buffer_commit_empty" and self._detection is not None

    def _report(self, error: ErrorInfo) -> None:
        """Tell whoever listens.

        Raises:
            APIError: There is no point in going on.
            Renewal: It was the end of this connection alone.
        """
        if self._is_fatal_error(error.body or error):
            raise APIError(error.message, body=error.body, retryable=False)
        if error.code in _SESSION_OVER:
            raise Renewal(error.message)
        self._emit_error(APIError(error.message, body=error.body), recoverable=True)

    def _emit_error(self, error: Exception, *, recoverable: bool) -> None:
        if self._closing:
            return
        self.emit(
            "error",
            RealtimeModelError(
                timestamp=time.time(),
                label=self._model.label,
                error=error,
                recoverable=recoverable,
            ),
        )


_HANDLERS: dict[type, str] = {
    codec.ResponseCreated: "_handle_response_created",
    codec.OutputItemAdded: "_handle_response_output_item_added",
    codec.ContentPartAdded: "_handle_response_content_part_added",
    codec.TextDelta: "_handle_response_text_delta",
    codec.AudioTranscriptDelta: "_handle_response_audio_transcript_delta",
    codec.AudioDelta: "_handle_response_audio_delta",
    codec.OutputItemDone: "_handle_response_output_item_done",
    codec.ResponseDone: "_handle_response_done",
    codec.InputSpeechStarted: "_handle_input_audio_buffer_speech_started",
    codec.InputSpeechStopped: "_handle_input_audio_buffer_speech_stopped",
    codec.InputCommitted: "_handle_input_audio_buffer_committed",
    codec.ItemAdded: "_handle_conversion_item_added",
    codec.ItemDeleted: "_handle_conversion_item_deleted",
    codec.TranscriptionDelta: "_handle_conversion_item_input_audio_transcription_delta",
    codec.TranscriptionCompleted: "_handle_conversion_item_input_audio_transcription_completed",
    codec.TranscriptionFailed: "_handle_conversion_item_input_audio_transcription_failed",
    codec.ErrorReported: "_handle_error",
}
"""By name, so that a subclass may override them."""
