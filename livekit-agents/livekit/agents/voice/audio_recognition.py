"""`AudioRecognition`: turns the user's audio into the user's turns.

The parts are in `hearing/`: `Listening` owns STT, VAD and detectors, `TurnMachine` keeps the turn,
`EndOfTurn` decides when it is over. Here they are put together.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..types import NOT_GIVEN, NotGivenOr
from ..utils import is_given
from ..utils.aio import Survivor, TaskScope
from .events import UserTurnExceededEvent
from .hearing.commit import TurnCommit
from .hearing.end_of_turn import EndOfTurn
from .hearing.hooks import (
    AnsweringMachineListener,
    EndOfTurnInfo,
    PreemptiveGenerationInfo,
    RecognitionHooks,
    TurnMetrics,
    notify,
)
from .hearing.listening import DetachedHearing, Listening, check_vad
from .hearing.overlap import InterruptionDetector, OverlapGate, OverlapSignal
from .hearing.overlap_judge import OverlapJudge
from .hearing.prediction import StreamingPredictor, TextPredictor
from .hearing.spans import TurnSpans
from .hearing.stt_pump import STTPump, _STTPipelineContextVar, published_stream
from .hearing.teardown import KILL_GRACE, end_tasks, side_by_side
from .hearing.transcript import MIN_LANGUAGE_DETECTION_LENGTH, joined
from .hearing.transcription_timeout import TranscriptionTimeout
from .hearing.turn_limit import UserTurnLimit
from .hearing.turn_machine import EouTrigger, TurnMachine
from .hearing.user_turn import TurnMode, UserTurn, turn_mode
from .turn import TurnDetectionMode, resolve_backchannel_boundary

if TYPE_CHECKING:
    from livekit import rtc

    from ..inference import OverlappingSpeechEvent
    from ..language import LanguageCode
    from ..stt import SpeechEvent
    from ..vad import VAD, VADEvent
    from .agent_session import AgentSession
    from .endpointing import BaseEndpointing
    from .events import AgentStateChangedEvent
    from .io import STTNode

__all__ = [
    "MIN_LANGUAGE_DETECTION_LENGTH",
    "AudioRecognition",
    "DetachedHearing",
    "EndOfTurnInfo",
    "PreemptiveGenerationInfo",
    "RecognitionHooks",
    "STTPump",
    "TurnDetectionMode",
    "TurnMetrics",
    "_STTPipelineContextVar",
    "published_stream",
]

SILENCE_FRAME = 0.2
"""Seconds per frame of the silence that makes an STT finish."""


class AudioRecognition:
    """One agent's hearing.

    Args:
        session: Read for its options and for an active answering machine detection.
        hooks: Told what is heard.
        endpointing: How long silence lasts before a turn is over.
        stt: The agent's `stt_node`, or None when nothing transcribes.
        vad: Tells speech from silence, or None.
        interruption_detection: Judges speech over the agent, or None.
        turn_detection: The validated mode: usable with the given parts.
        stt_model: For traces.
        stt_provider: For traces.
        stt_aligned_transcript: Whether the STT's transcripts carry times.

    Raises:
        ValueError: The VAD is too quick for the streaming turn detector.
    """

    def __init__(
        self,
        session: AgentSession[Any],
        *,
        hooks: RecognitionHooks,
        endpointing: BaseEndpointing,
        stt: STTNode | None,
        vad: VAD | None,
        interruption_detection: InterruptionDetector | None,
        turn_detection: TurnDetectionMode | None,
        stt_model: str | None = None,
        stt_provider: str | None = None,
        stt_aligned_transcript: bool = False,
    ) -> None:
        check_vad(vad, turn_detection)
        options = session.options
        self._session = session
        self._hooks = hooks
        self._parts = (stt, vad, interruption_detection, turn_detection)
        self._scope = TaskScope("recognition")
        self._turn = UserTurn()
        self._spans = TurnSpans()
        self._spans.set_stt(stt_model, stt_provider)
        self._listening = Listening(self)
        self._limit = UserTurnLimit(options.turn_handling.get("user_turn_limit", {}))
        self._timeout = TranscriptionTimeout(
            options.transcription_timeout, _call_later, self._on_transcription_timeout
        )
        boundary = options.interruption.get("backchannel_boundary")
        self._overlap = OverlapJudge(
            hooks,
            turn=self._turn,
            gate=OverlapGate(resolve_backchannel_boundary(boundary)),
            call_later=_call_later,
            replay=self._replay,
        )
        self._machine = TurnMachine(
            hooks,
            self,
            turn=self._turn,
            endpointing=endpointing,
            overlap=self._overlap,
            timeout=self._timeout,
            limit=self._limit,
            mode=turn_mode(turn_detection),
            aligned_transcript=stt_aligned_transcript,
        )
        self._end_of_turn = EndOfTurn(
            hooks, self, turn=self._turn, scope=self._scope, spans=self._spans
        )
        self._commit = TurnCommit(
            hooks, self, turn=self._turn, end_of_turn=self._end_of_turn, scope=self._scope
        )
        self._last_frame: rtc.AudioFrame | None = None
        self._started = False
        self._closing = False
        self._guesses_move_on = False
        self._stt_context: Any = None

    # -- lifecycle ------------------------------------------------------------------------------

    def start(self, *, adopt: DetachedHearing | None = None) -> None:
        """Open all streams. Needs a running loop.

        Args:
            adopt: Streams of the previous agent to take over, where they fit. What is not taken
                stays there, to be closed by the caller.
        """
        stt, vad, interruption, detection = self._parts
        self._listening.start(
            node=stt, vad=vad, interruption=interruption, detection=detection, adopt=adopt
        )
        self._session.on("agent_state_changed", self._on_agent_state)
        self._started = True
        if self._session.agent_state == "speaking":
            self.on_start_of_agent_speech(time.time())

    def detach(self, *, keep_stt: bool = True, keep_turn_detector: bool = False) -> DetachedHearing:
        """Take open streams out, for the next agent to adopt; `aclose` closes the rest.

        Args:
            keep_stt: The next agent uses the same STT, and neither agent has its own `stt_node`.
            keep_turn_detector: It uses the same turn detector object.
        """
        self._guesses_move_on = keep_stt
        return self._listening.detach(keep_stt=keep_stt, keep_turn_detector=keep_turn_detector)

    def begin_close(self) -> None:
        """The session closes: the user's speech ends here, turns end only by `commit_for_close`.

        Idempotent. Audio is still heard, so that a last word can be transcribed.
        """
        if self._closing:
            return
        self._closing = True
        self._end_of_turn.begin_close()
        self._commit.cancel()
        self._timeout.reset()
        self.on_input_disabled()

    @property
    def turn_pending(self) -> bool:
        """Whether the user said something that isn't committed, or may still be transcribed.

        Without it, a close has nothing to wait for. Audio alone, without a VAD to say that there
        is speech in it, is not pending; nor is anything without an STT.
        """
        if not self.has_stt:
            return False
        return bool(self._turn.words.text) or self._awaits_transcript

    @property
    def _awaits_transcript(self) -> bool:
        return bool(self._overlap.held_text) or self._turn.awaits_transcript(time.time())

    async def commit_for_close(self, timeout: float, *, stt_flush_duration: float = 2.0) -> None:
        """Bring the pending turn, if any, into the history: wait for its transcript, then commit.

        Args:
            timeout: Seconds to wait for the last transcript; the commit itself takes none.
            stt_flush_duration: Seconds of silence that make an STT finish which can't be told to.
        """
        self.begin_close()
        self.on_input_disabled()
        if not self.turn_pending:
            return
        if self._awaits_transcript:
            self._overlap.release_held()
            await self._commit.collect(
                audio_detached=True, timeout=timeout, flush_duration=stt_flush_duration
            )
        self._commit_pending_words()

    def _commit_pending_words(self) -> None:
        """Synchronous, so that nothing can get between what was heard and the history."""
        self._overlap.release_held()
        if not self._guesses_move_on:  # else the next agent hears the final
            self._commit.promote_interim()
        self._end_of_turn.commit_now()

    async def aclose(self, timeout: float = 2.0) -> list[Survivor]:
        """Stop hearing: all streams end side by side, whatever they do. Idempotent.

        What was transcribed and is still pending is committed first, without waiting for more.

        Args:
            timeout: Seconds for everything together.

        Returns:
            Tasks that ignored their cancellation.
        """
        self.begin_close()
        self.on_input_disabled()
        if self.has_stt:
            self._commit_pending_words()
        if self._started:
            self._started = False
            self._session.off("agent_state_changed", self._on_agent_state)
        self._overlap.disable()
        self._timeout.reset()
        self._spans.end()
        return await side_by_side(
            self._listening.aclose(timeout), end_tasks(self._scope, min(timeout, KILL_GRACE))
        )

    # -- audio ----------------------------------------------------------------------------------

    def push_audio(self, frame: rtc.AudioFrame, stt_frame: rtc.AudioFrame | None = None) -> None:
        """Hear a frame (int16, any rate). Never blocks.

        Args:
            frame: What the user's microphone sent.
            stt_frame: What the STT hears instead, such as silence while it must not listen.
        """
        self._last_frame = frame
        self._listening.push(frame, frame if stt_frame is None else stt_frame)

    def push_silence(self, duration: float) -> None:
        """Let everybody hear `duration` seconds of silence, in the format of the last frame."""
        last = self._last_frame
        if last is None:
            return
        from ..utils.audio import silence_frame

        silence = silence_frame(SILENCE_FRAME, last.sample_rate, last.num_channels)
        for _ in range(math.ceil(duration / SILENCE_FRAME)):
            self.push_audio(silence)

    @property
    def input_started_at(self) -> float | None:
        """When the audio began that the STT counts its seconds from, `time.time()`."""
        pump = self._listening.pump
        return None if pump is None else pump.input_started_at

    # -- what is known --------------------------------------------------------------------------

    @property
    def speaking(self) -> bool:
        """Whether the user counts as speaking."""
        return self._turn.speaking

    @property
    def current_transcript(self) -> str:
        """The words of the turn so far, guesses and held words included."""
        return joined(self._turn.words.with_interim, self._overlap.held_text)

    @property
    def audio_may_interrupt(self) -> bool:
        """Whether plain audio activity may interrupt the agent right now."""
        return self._hooks.interruption_by_audio_activity_enabled

    def let_audio_interrupt(self) -> None:
        """Plain audio activity decides about the rest of this agent speech."""
        self._hooks.interruption_by_audio_activity_enabled = True

    @property
    def stt_committed(self) -> bool:
        """Whether the STT has said that the turn is over, and the decision is not through yet."""
        return self._turn.committed

    @property
    def last_speaking_time(self) -> float | None:
        """When the user was last heard in the current speech, `time.time()`, if known."""
        last, started = self._turn.last_speaking_at, self._turn.speech_started_at
        if last is None or (started is not None and last < started):
            return None
        return last

    @property
    def endpointing(self) -> BaseEndpointing:
        """How long silence lasts before a turn is over."""
        return self._machine.endpointing

    @property
    def language(self) -> LanguageCode | None:
        """The language the user speaks, if known."""
        return self._machine.language.current

    @property
    def mode(self) -> TurnMode:
        """Who opens and closes turns."""
        return self._machine.mode

    @property
    def stt_context(self) -> Any:
        """What the STT knows about the speaker (`stt.SpeakerContext`), or None. Settable."""
        return self._stt_context

    @stt_context.setter
    def stt_context(self, context: Any) -> None:
        self._stt_context = context

    def llm_instructions(self) -> str | None:
        """What the STT knows about the speaker, as instructions for an LLM; None for nothing."""
        from ..stt import SpeakerContext

        if isinstance(self._stt_context, SpeakerContext):
            return self._stt_context.to_instructions() or None
        return None

    @property
    def end_of_turn_pending(self) -> bool:
        """Whether the end of the turn is being decided."""
        return self._end_of_turn.pending

    @property
    def end_of_turn_task(self) -> asyncio.Future[None] | None:
        """The decision about the end of the turn that is under way, to wait for; or None."""
        return self._end_of_turn.task

    async def wait_for_end_of_turn(self) -> bool:
        """Wait until nothing is being decided. False if the decision was dropped."""
        return await self._end_of_turn.settled()

    # -- the user's code ------------------------------------------------------------------------

    def commit_user_turn(
        self,
        *,
        audio_detached: bool = False,
        transcript_timeout: float | None = 2.0,
        stt_flush_duration: float = 2.0,
        skip_reply: bool = False,
    ) -> asyncio.Future[str]:
        """End the turn now: get the last transcript, then decide.

        Args:
            audio_detached: No audio comes any more, so silence may be pushed to make the STT
                finish.
            transcript_timeout: Seconds to wait for the last transcript; None is 2.0.
            stt_flush_duration: Seconds of silence to push.
            skip_reply: Keep the words, but don't answer them.

        Returns:
            The transcript. Empty without an STT or while closing; cancelled when another commit
            replaces this one.
        """
        if self._closing or not self.has_stt:
            nothing: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            nothing.set_result("")
            return nothing
        return self._commit.start(
            audio_detached=audio_detached,
            transcript_timeout=transcript_timeout,
            flush_duration=stt_flush_duration,
            skip_reply=skip_reply,
        )

    def clear_user_turn(self) -> None:
        """Forget the pending turn. The STT starts over, so that nothing it holds can leak."""
        self._end_of_turn.drop("dropped")
        self._overlap.discard_held()
        self._turn.clear()
        self._limit.reset()
        self._timeout.reset()
        if (predictor := self.streaming_predictor) is not None:
            notify(predictor.flush, "clear_user_turn")
        self._spans.end()
        self._machine.stt_replaced(time.time())
        self._listening.restart_stt()

    def discard_transcript(self) -> None:
        """The realtime model has taken the turn itself: its transcript is not pending any more."""
        self._turn.words.clear()
        self._turn.request_ids = []

    # -- the agent's speech ---------------------------------------------------------------------

    def _on_agent_state(self, ev: AgentStateChangedEvent) -> None:
        # "speaking" is entered with the first sound, and left when finished, interrupted or paused
        if ev.new_state == "speaking":
            self.on_start_of_agent_speech(ev.created_at)
        elif ev.old_state == "speaking":
            self.on_end_of_agent_speech(ev.created_at)

    def on_start_of_agent_speech(self, started_at: float) -> None:
        """The agent is audible since `started_at` (`time.time()`)."""
        self._limit.reset()
        self.endpointing.on_start_of_agent_speech(started_at)
        self._overlap.agent_started(started_at, user_speaking=self._turn.speaking)

    def on_end_of_agent_speech(self, ended_at: float) -> None:
        """The agent is silent since `ended_at`: finished, interrupted or paused."""
        self.endpointing.on_end_of_agent_speech(ended_at)
        self._overlap.agent_ended(ended_at)

    def on_overlap(self, started_at: float) -> None:
        """Audio activity over the agent, since `started_at`, is about to interrupt it."""
        if self._overlap.agent_speaking and not self.endpointing.overlapping:
            self.endpointing.on_start_of_speech(started_at, overlapping=True)

    def on_start_of_speech(self, started_at: float) -> None:
        """Somebody other than our VAD, such as a realtime model, hears the user speak."""
        self._machine.start_speech(started_at)

    def on_end_of_speech(self, ended_at: float) -> None:
        """That one doesn't hear the user any more."""
        self._machine.end_speech(ended_at)

    def on_input_disabled(self) -> None:
        """No more audio comes (input off, user gone, closing): who speaks has stopped."""
        if self._machine.end_speech(time.time()):
            self._listening.flush_vad()
            if self.mode in ("base", "stt") and not self._closing:
                self.evaluate("vad")

    # -- changes while running ------------------------------------------------------------------

    def update_stt(
        self,
        stt: STTNode | None,
        *,
        stt_model: str | None = None,
        stt_provider: str | None = None,
        stt_aligned_transcript: bool = False,
    ) -> None:
        """Transcribe with another node, or not at all."""
        self._stt_context = None
        self._spans.set_stt(stt_model, stt_provider)
        self._machine.aligned_transcript = stt_aligned_transcript
        if stt is None:
            self._timeout.reset()
        self._machine.stt_replaced(time.time())
        self._listening.set_stt(stt)

    def update_vad(self, vad: VAD | None) -> None:
        """Listen with another VAD, or none.

        Raises:
            ValueError: It is too quick for the streaming turn detector. Nothing has changed then.
        """
        check_vad(vad, self._parts[3])
        self._listening.set_vad(vad)
        self._machine.on_vad_lost(time.time())
        if vad is None:
            self._listening.set_interruption_detector(None)

    def update_interruption_detection(self, detector: InterruptionDetector | None) -> None:
        """Judge speech over the agent with another detector, or not at all."""
        self._listening.set_interruption_detector(detector)

    def update_options(
        self,
        *,
        endpointing: NotGivenOr[BaseEndpointing] = NOT_GIVEN,
        turn_detection: NotGivenOr[TurnDetectionMode | None] = NOT_GIVEN,
    ) -> None:
        """Change how turns end, from now on.

        Raises:
            ValueError: The VAD is too quick for the new detector. Nothing has changed then.
        """
        if is_given(turn_detection):
            check_vad(self._listening.vad, turn_detection)
            self._change_turn_detection(turn_detection)
        if is_given(endpointing):
            self._machine.endpointing = endpointing

    def _change_turn_detection(self, detection: TurnDetectionMode | None) -> None:
        stt, vad, interruption, old = self._parts
        self._parts = (stt, vad, interruption, detection)
        mode = turn_mode(detection)
        if (mode == "manual") != (self._machine.mode == "manual"):
            self._end_of_turn.drop("dropped")
            self._turn.committed = False
            self._turn.request = None
            self.forget_prediction()
        self._machine.mode = mode
        if detection is not old:
            self._listening.set_turn_detection(detection)

    # -- what was heard (ListeningEvents) -------------------------------------------------------

    def on_stt_event(self, ev: SpeechEvent) -> None:
        """An event of the STT."""
        self._spans.record_stt_event(ev)
        pump = self._listening.pump
        stream = None if pump is None else pump.live_stream
        if stream is not None and (context := getattr(stream, "context", None)) is not None:
            self._stt_context = context
        self._machine.on_stt_event(ev, time.time())

    def on_stt_failure(self, error: Exception) -> None:
        """The STT node broke."""
        notify(self._hooks.on_stt_failure, error)

    def on_vad_event(self, ev: VADEvent) -> None:
        """An event of the VAD."""
        self._machine.on_vad_event(ev, time.time())

    def on_vad_lost(self) -> None:
        """The VAD ended."""
        self._machine.on_vad_lost(time.time())

    def on_verdict(self, ev: OverlappingSpeechEvent) -> None:
        """The interruption detector has judged."""
        self._overlap.on_verdict(ev)

    def on_interruption_detector_changed(
        self, send: Callable[[OverlapSignal], None] | None
    ) -> None:
        """Another interruption detector judges now, or none."""
        if send is None:
            self._overlap.disable()
        else:
            self._overlap.enable(send)

    def _replay(self, held: list[SpeechEvent]) -> None:
        for ev in held:
            self._machine.process_stt_event(ev, time.time())

    # -- what the parts need (TurnPorts, EndOfTurnHost, CommitHost) -----------------------------

    @property
    def has_stt(self) -> bool:
        """Whether somebody transcribes."""
        return self._listening.has_stt

    @property
    def has_vad(self) -> bool:
        """Whether somebody tells speech from silence."""
        return self._listening.vad is not None

    @property
    def amd(self) -> AnsweringMachineListener | None:
        """An answering machine detection in progress."""
        amd: AnsweringMachineListener | None = self._session.amd
        return amd

    @property
    def evaluating(self) -> bool:
        """Whether the end of the turn is being decided."""
        return self._end_of_turn.pending

    def evaluate(self, trigger: EouTrigger) -> None:
        """Decide whether the turn is over."""
        self._end_of_turn.evaluate(trigger)

    def resume_turn(self) -> None:
        """The user goes on: nothing is decided yet."""
        self._end_of_turn.drop("user_resumed")

    def turn_opened(self) -> None:
        """A turn begins."""
        self._spans.turn_opened(self._turn)

    @property
    def text_predictor(self) -> TextPredictor | None:
        """Reads the conversation for the end of a turn."""
        return self._listening.text_predictor

    @property
    def streaming_predictor(self) -> StreamingPredictor | None:
        """Listens for the end of a turn."""
        return self._listening.streaming_predictor

    def predict(self) -> None:
        """Ask the streaming detector."""
        if (predictor := self.streaming_predictor) is not None:
            notify(predictor.predict)

    def forget_prediction(self) -> None:
        """Drop what the streaming detector was asked."""
        if (predictor := self.streaming_predictor) is not None:
            notify(predictor.forget)

    def flush_vad(self) -> None:
        """Make the VAD forget the speech it is in."""
        self._listening.flush_vad()

    @property
    def can_flush_stt(self) -> bool:
        """Whether the STT can be told to finish its transcript."""
        pump = self._listening.pump
        return pump is not None and pump.can_flush

    def flush_stt(self) -> bool:
        """Tell the STT to finish its transcript; False if it can't be told to."""
        pump = self._listening.pump
        return pump is not None and pump.flush()

    def final_received(self) -> None:
        """A final transcript came."""
        self._commit.final_received()

    def turn_committed(self) -> None:
        """The turn was taken."""
        self._timeout.reset()
        if (predictor := self.streaming_predictor) is not None:
            notify(predictor.flush, "turn committed")
            self._turn.detector_flushed = True

    def limit_exceeded(self) -> None:
        """The user has spoken longer than allowed."""
        ev = UserTurnExceededEvent(
            transcript=self._turn.words.with_interim,
            accumulated_transcript=self._limit.transcript,
            accumulated_word_count=self._limit.word_count,
            duration=self._limit.duration,
        )
        notify(self._hooks.on_user_turn_exceeded, ev)

    def _on_transcription_timeout(self, speech_duration: float) -> None:
        if self._turn.started_at is not None:
            notify(
                self._hooks.on_transcription_timeout,
                speech_duration=speech_duration,
                turn_start=self._turn.started_at,
            )


def _call_later(delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(delay, callback, *args)
