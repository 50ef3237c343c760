"""What an activity does with what it hears, and with what its models report."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from ..llm import ChatContext, RealtimeModel
from . import activity_wiring as wiring
from .audio_recognition import RecognitionHooks
from .events import (
    EotPredictionEvent,
    UserInputTranscribedEvent,
    UserTranscriptionTimeoutEvent,
    UserTurnExceededEvent,
)
from .hearing.hooks import EndOfTurnInfo, PreemptiveGenerationInfo

if TYPE_CHECKING:
    from livekit import rtc

    from ..inference import OverlappingSpeechEvent
    from ..llm import LLM
    from ..stt import SpeechEvent
    from ..vad import VADEvent
    from .agent import Agent
    from .agent_activity import AgentActivity
    from .agent_session import AgentSession
    from .audio_recognition import AudioRecognition
    from .hearing.barge_in import BargeIn
    from .hearing.user_turns import UserTurns
    from .realtime_link import RealtimeLink
    from .replies import Replies
    from .scheduling import SpeechScheduler
    from .turn import TurnDetectionMode


class ActivityRecognitionHooks(RecognitionHooks):
    """The hearing side of an `AgentActivity`: routes what is heard to whoever deals with it."""

    if TYPE_CHECKING:
        _agent: Agent
        _session: AgentSession[Any]
        barge_in: BargeIn
        user_turns: UserTurns
        replies: Replies
        recognition: AudioRecognition | None
        scheduler: SpeechScheduler
        _started: bool
        _silence: rtc.AudioFrame | None
        realtime: RealtimeLink | None
        _turn_detection: TurnDetectionMode | None

        @property
        def llm(self) -> LLM[Any] | RealtimeModel | None:
            """The LLM or realtime model in use."""
            ...

    _audio_may_interrupt = True

    @property
    def interruption_by_audio_activity_enabled(self) -> bool:
        """Whether plain audio activity may interrupt the agent right now."""
        return self._audio_may_interrupt

    @interruption_by_audio_activity_enabled.setter
    def interruption_by_audio_activity_enabled(self, enabled: bool) -> None:
        self._audio_may_interrupt = enabled

    # -- audio in -------------------------------------------------------------------------------

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """One frame of the user's audio, any rate. Dropped before the start."""
        if not self._started or self.recognition is None:
            return
        heard = self._silenced(frame) if self._must_not_listen() else frame
        self.recognition.push_audio(frame, heard)
        if self.realtime is not None:
            self.realtime.push_audio(heard)

    def _must_not_listen(self) -> bool:
        """Whether models get silence: the echo canceller still learns, or nobody may interrupt."""
        if self._session._aec_warmup_active:
            return True
        speech = self.scheduler.current_speech
        return (
            speech is not None
            and not speech.allow_interruptions
            and not speech.interrupted
            and not speech.done()
            and self._session.options.interruption["discard_audio_if_uninterruptible"]
        )

    def _silenced(self, frame: rtc.AudioFrame) -> rtc.AudioFrame:
        from ..utils.audio import silence_frame_like

        silence = self._silence
        if (
            silence is None
            or silence.samples_per_channel != frame.samples_per_channel
            or silence.sample_rate != frame.sample_rate
            or silence.num_channels != frame.num_channels
        ):
            silence = self._silence = silence_frame_like(frame)
        return silence

    def push_video(self, frame: rtc.VideoFrame) -> None:
        """One frame of the user's video, for a realtime model. Dropped otherwise."""
        if self._started and self.realtime is not None:
            self.realtime.push_video(frame)

    # -- the user's voice -------------------------------------------------------------------------

    def on_start_of_speech(self, ev: VADEvent | None, speech_start_time: float) -> None:
        """The user began to speak."""
        self.barge_in.on_start_of_speech(ev, speech_start_time)
        self._session._idle.changed()

    def on_vad_inference_done(self, ev: VADEvent) -> None:
        """The VAD looked at another piece of audio."""
        self.barge_in.on_vad_inference_done(ev)

    def on_end_of_speech(self, ev: VADEvent | None) -> None:
        """The user fell silent."""
        self.barge_in.on_end_of_speech(ev)
        self._session._idle.changed()

    # -- transcripts ------------------------------------------------------------------------------

    def _model_transcribes(self) -> bool:
        model = self.llm
        return isinstance(model, RealtimeModel) and model.capabilities.user_transcription

    def on_interim_transcript(self, ev: SpeechEvent, *, speaking: bool | None) -> None:
        """A guess at what is being said."""
        if self._model_transcribes():
            return
        self._announce_transcript(ev, final=False)
        has_vad = self.recognition is not None and self.recognition.has_vad
        self.barge_in.on_interim_transcript(ev, speaking=speaking, has_vad=has_vad)

    def on_final_transcript(self, ev: SpeechEvent, *, speaking: bool | None = None) -> None:
        """What was said."""
        if self._model_transcribes():
            return
        self._announce_transcript(ev, final=True)
        self.barge_in.on_final_transcript(ev, speaking=speaking)
        session = self._session
        if session.user_state == "away" and not speaking:
            session._update_user_state("listening")
        session._state.arm_away()

    def _announce_transcript(self, ev: SpeechEvent, *, final: bool) -> None:
        data = ev.alternatives[0] if ev.alternatives else None
        text = data.text if data is not None else ""
        self._session.emit(
            "user_input_transcribed",
            UserInputTranscribedEvent(
                transcript=text,
                is_final=final,
                language=data.language if data is not None else None,
                speaker_id=data.speaker_id if data is not None else None,
            ),
        )
        if text:
            self._session._errors.reset("stt")

    def on_transcription_timeout(self, *, speech_duration: float, turn_start: float) -> None:
        """The user spoke, and no transcript came."""
        self._session.emit(
            "user_transcription_timeout",
            UserTranscriptionTimeoutEvent(
                speech_duration=speech_duration, vad_speech_started_at=turn_start
            ),
        )

    def on_turn_detector_lost(self) -> None:
        """The turn detector is out of order: silence decides, with the delays that go with that."""
        wiring.change_turn_detection(cast("AgentActivity", self), None)

    def on_stt_failure(self, error: Exception) -> None:
        """The STT node broke in a way the STT has not reported: count it like an STT error."""
        from ..stt import STTError

        stt = self._agent._get_activity_or_raise().stt if self._agent._activity else None
        label = stt.label if stt is not None else "stt_node"
        self._session._on_error(
            STTError(timestamp=time.time(), label=label, error=error, recoverable=False),
            stt if stt is not None else self._agent,
        )

    # -- turns ------------------------------------------------------------------------------------

    def on_end_of_turn(self, info: EndOfTurnInfo) -> bool:
        """The turn is over. Returns whether it was taken."""
        taken = self.user_turns.on_end_of_turn(info)
        self._session._idle.changed()
        return taken

    def on_preemptive_generation(self, info: PreemptiveGenerationInfo) -> None:
        """The turn is probably over: a reply may be begun."""
        self.replies.preempt(info)

    def on_preflight_stale(self, info: PreemptiveGenerationInfo) -> None:
        """The user has said more than the prepared reply answers."""
        self.replies.preemptive_stale(info.new_transcript)

    def on_user_turn_exceeded(self, ev: UserTurnExceededEvent) -> None:
        """The user has spoken longer than the limits allow."""
        self.user_turns.on_user_turn_exceeded(ev)

    def retrieve_chat_ctx(self) -> ChatContext:
        """The conversation so far."""
        return self._agent._chat_ctx

    # -- detectors --------------------------------------------------------------------------------

    def on_eot_prediction(self, ev: EotPredictionEvent) -> None:
        """A detector said how likely the turn is over: remote sessions show it."""
        host = self._session._session_host
        if host is not None:
            host._on_eot_prediction(ev)

    def on_agent_backchannel_opportunity(self, ev: EotPredictionEvent) -> None:
        """A short reaction would fit now; nobody makes one yet."""

    def on_backchannel_confirmed(self) -> None:
        """What was said over the agent was no interruption: the model need not answer it."""
        if self.realtime is not None:
            self.realtime.clear_audio()

    def on_overlap_speech(self, ev: OverlappingSpeechEvent) -> None:
        """A detector judged speech over the agent."""
        self._session.emit("overlapping_speech", ev)
        self._session._spans.overlap_judged(ev)
        if ev.is_interruption:
            self.barge_in.on_audio_activity()

    # -- metrics ----------------------------------------------------------------------------------

    def on_model_metrics(self, metrics: Any) -> None:
        """A model measured something; what a speech caused carries its id."""
        from ._context import current_speech_handle

        handle = current_speech_handle.get()
        if handle is not None and hasattr(metrics, "speech_id") and metrics.speech_id is None:
            metrics.speech_id = handle.id
        self._session._on_metrics(metrics)
