"""`AudioRecognition`: turns the user's audio into the user's turns.

The parts are in `hearing/`: `Listening` owns STT, VAD and detectors, `TurnMachine` keeps the turn,
`EndOfTurn` decides when it is over. `HearingParts` puts them together; here is what they are for.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from ..types import NOT_GIVEN, NotGivenOr
from ..utils import is_given
from ..utils.aio import Survivor
from .hearing.hooks import (
    EndOfTurnInfo,
    PreemptiveGenerationInfo,
    RecognitionHooks,
    TurnMetrics,
    notify,
)
from .hearing.listening import DetachedHearing, check_vad
from .hearing.overlap import InterruptionDetector
from .hearing.parts import HearingParts
from .hearing.stt_pump import STTPump, _STTPipelineContextVar, published_stream
from .hearing.teardown import KILL_GRACE, end_tasks, side_by_side
from .hearing.transcript import MIN_LANGUAGE_DETECTION_LENGTH, joined
from .hearing.user_turn import TurnMode, turn_mode
from .turn import TurnDetectionMode

if TYPE_CHECKING:
    from livekit import rtc

    from ..language import LanguageCode
    from ..vad import VAD
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
        self._session = session
        self._given = (stt, vad, interruption_detection, turn_detection)
        self._parts = HearingParts(
            session,
            hooks,
            endpointing=endpointing,
            mode=turn_mode(turn_detection),
            aligned_transcript=stt_aligned_transcript,
        )
        self._parts.spans.set_stt(stt_model, stt_provider)
        self._started = False
        self._closing = False
        self._guesses_move_on = False

    # -- lifecycle ------------------------------------------------------------------------------

    def start(self, *, adopt: DetachedHearing | None = None) -> None:
        """Open all streams. Needs a running loop.

        Args:
            adopt: Streams of the previous agent to take over, where they fit. What is not taken
                stays there, to be closed by the caller.
        """
        stt, vad, interruption, detection = self._given
        self._parts.listening.start(
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
        return self._parts.listening.detach(
            keep_stt=keep_stt, keep_turn_detector=keep_turn_detector
        )

    def begin_close(self) -> None:
        """The session closes: the user's speech ends here, turns end only by `commit_for_close`.

        Idempotent. Audio is still heard, so that a last word can be transcribed.
        """
        if self._closing:
            return
        self._closing = True
        self._parts.end_of_turn.begin_close()
        self._parts.listening.begin_close()
        self._parts.timeout.reset()
        self.on_input_disabled()

    @property
    def turn_pending(self) -> bool:
        """Whether the user said something that isn't committed, or may still be transcribed.

        Without it, a close has nothing to wait for. Audio alone, without a VAD to say that there
        is speech in it, is not pending; nor is anything without an STT.
        """
        if not self.has_stt:
            return False
        turn = self._parts.turn
        said = turn.words.text or self._parts.overlap.held_text
        return bool(said) or turn.awaits_transcript(time.time())

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
        self._parts.commit.cancel()
        self._parts.overlap.release_held()
        if self._parts.turn.awaits_transcript(time.time()):
            await self._parts.commit.collect(
                audio_detached=True, timeout=timeout, flush_duration=stt_flush_duration
            )
        self._commit_pending_words()

    def _commit_pending_words(self) -> None:
        """Synchronous, so that nothing can get between what was heard and the history."""
        self._parts.overlap.release_held()
        if not self._guesses_move_on:  # else the next agent hears the final
            self._parts.commit.promote_interim()
        self._parts.end_of_turn.commit_now()

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
        self._parts.commit.cancel()
        if self.has_stt:
            self._commit_pending_words()
        if self._started:
            self._started = False
            self._session.off("agent_state_changed", self._on_agent_state)
        self._parts.overlap.disable()
        self._parts.timeout.reset()
        self._parts.spans.end()
        return await side_by_side(
            self._parts.listening.aclose(timeout),
            end_tasks(self._parts.scope, min(timeout, KILL_GRACE)),
        )

    # -- audio ----------------------------------------------------------------------------------

    def push_audio(self, frame: rtc.AudioFrame, stt_frame: rtc.AudioFrame | None = None) -> None:
        """Hear a frame (int16, any rate). Never blocks.

        Args:
            frame: What the user's microphone sent.
            stt_frame: What the STT hears instead, such as silence while it must not listen.
        """
        self._parts.push_audio(frame, frame if stt_frame is None else stt_frame)

    @property
    def input_started_at(self) -> float | None:
        """When the audio began that the STT counts its seconds from, `time.time()`."""
        return self._parts.input_started_at

    # -- what is known --------------------------------------------------------------------------

    @property
    def has_stt(self) -> bool:
        """Whether somebody transcribes."""
        return self._parts.has_stt

    @property
    def has_vad(self) -> bool:
        """Whether somebody tells speech from silence."""
        return self._parts.has_vad

    @property
    def speaking(self) -> bool:
        """Whether the user counts as speaking."""
        return self._parts.turn.speaking

    @property
    def current_transcript(self) -> str:
        """The words of the turn so far, guesses and held words included."""
        return joined(self._parts.turn.words.with_interim, self._parts.overlap.held_text)

    @property
    def audio_may_interrupt(self) -> bool:
        """Whether plain audio activity may interrupt the agent right now."""
        return self._parts.hooks.interruption_by_audio_activity_enabled

    def let_audio_interrupt(self) -> None:
        """Plain audio activity decides about the rest of this agent speech."""
        self._parts.hooks.interruption_by_audio_activity_enabled = True

    @property
    def stt_committed(self) -> bool:
        """Whether the STT has said that the turn is over, and the decision is not through yet."""
        return self._parts.turn.committed

    @property
    def last_speaking_time(self) -> float | None:
        """When the user was last heard in the current speech, `time.time()`, if known."""
        last, started = self._parts.turn.last_speaking_at, self._parts.turn.speech_started_at
        if last is None or (started is not None and last < started):
            return None
        return last

    @property
    def endpointing(self) -> BaseEndpointing:
        """How long silence lasts before a turn is over."""
        return self._parts.machine.endpointing

    @property
    def language(self) -> LanguageCode | None:
        """The language the user speaks, if known."""
        return self._parts.language

    @property
    def mode(self) -> TurnMode:
        """Who opens and closes turns."""
        return self._parts.machine.mode

    @property
    def stt_context(self) -> Any:
        """What the STT knows about the speaker (`stt.SpeakerContext`), or None. Settable."""
        return self._parts.stt_context

    @stt_context.setter
    def stt_context(self, context: Any) -> None:
        self._parts.stt_context = context

    def llm_instructions(self) -> str | None:
        """What the STT knows about the speaker, as instructions for an LLM; None for nothing."""
        from ..stt import SpeakerContext

        if isinstance(self._parts.stt_context, SpeakerContext):
            return self._parts.stt_context.to_instructions() or None
        return None

    @property
    def end_of_turn_pending(self) -> bool:
        """Whether the end of the turn is being decided."""
        return self._parts.end_of_turn.pending

    @property
    def end_of_turn_task(self) -> asyncio.Future[None] | None:
        """The decision about the end of the turn that is under way, to wait for; or None."""
        return self._parts.end_of_turn.task

    async def wait_for_end_of_turn(self) -> bool:
        """Wait until nothing is being decided. False if the decision was dropped."""
        return await self._parts.end_of_turn.settled()

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
        return self._parts.commit.start(
            audio_detached=audio_detached,
            transcript_timeout=transcript_timeout,
            flush_duration=stt_flush_duration,
            skip_reply=skip_reply,
        )

    def clear_user_turn(self) -> None:
        """Forget the pending turn. The STT starts over, so that nothing it holds can leak."""
        self._parts.end_of_turn.drop("dropped")
        self._parts.overlap.discard_held()
        self._parts.turn.clear()
        self._parts.limit.reset()
        self._parts.timeout.reset()
        if (predictor := self._parts.streaming_predictor) is not None:
            notify(predictor.flush, "clear_user_turn")
        self._parts.spans.end()
        self._parts.machine.stt_replaced(time.time())
        self._parts.listening.restart_stt()

    def take_transcript(self) -> str:
        """The realtime model has taken the turn itself: its words are not pending any more.

        Returns:
            What was understood of it for sure.
        """
        text = self._parts.turn.words.text
        self._parts.turn.words.clear()
        self._parts.turn.request_ids = []
        return text

    # -- the agent's speech ---------------------------------------------------------------------

    def _on_agent_state(self, ev: AgentStateChangedEvent) -> None:
        # "speaking" is entered with the first sound, and left when finished, interrupted or paused
        if ev.new_state == "speaking":
            self.on_start_of_agent_speech(ev.created_at)
        elif ev.old_state == "speaking":
            self.on_end_of_agent_speech(ev.created_at)

    def on_start_of_agent_speech(self, started_at: float) -> None:
        """The agent is audible since `started_at` (`time.time()`)."""
        self._parts.limit.reset()
        self.endpointing.on_start_of_agent_speech(started_at)
        self._parts.overlap.agent_started(started_at, user_speaking=self._parts.turn.speaking)

    def on_end_of_agent_speech(self, ended_at: float) -> None:
        """The agent is silent since `ended_at`: finished, interrupted or paused."""
        self.endpointing.on_end_of_agent_speech(ended_at)
        self._parts.overlap.agent_ended(ended_at)

    def on_overlap(self) -> None:
        """Audio activity over the agent is about to interrupt it."""
        if self._parts.overlap.agent_speaking and not self.endpointing.overlapping:
            started_at = self._parts.turn.speech_started_at
            self.endpointing.on_start_of_speech(
                time.time() if started_at is None else started_at, overlapping=True
            )

    def on_start_of_speech(self, started_at: float) -> None:
        """Somebody other than our VAD, such as a realtime model, hears the user speak."""
        self._parts.machine.start_speech(started_at)

    def on_end_of_speech(self, ended_at: float) -> None:
        """That one doesn't hear the user any more."""
        self._parts.machine.end_speech(ended_at)

    def on_input_disabled(self) -> None:
        """No more audio comes (input off, user gone, closing): who speaks has stopped."""
        if self._parts.machine.end_speech(time.time()):
            self._parts.listening.flush_vad()
            if self.mode in ("base", "stt") and not self._closing:
                self._parts.turn.committed = self.mode == "stt"
                self._parts.evaluate("vad")

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
        self._parts.stt_context = None
        self._parts.spans.set_stt(stt_model, stt_provider)
        self._parts.machine.aligned_transcript = stt_aligned_transcript
        if stt is None:
            self._parts.timeout.reset()
        self._parts.machine.stt_replaced(time.time())
        self._parts.listening.set_stt(stt)

    def update_vad(self, vad: VAD | None) -> None:
        """Listen with another VAD, or none.

        Raises:
            ValueError: It is too quick for the streaming turn detector. Nothing has changed then.
        """
        check_vad(vad, self._given[3])
        self._parts.listening.set_vad(vad)
        self._parts.machine.on_vad_lost(time.time())
        if vad is None:
            self._parts.listening.set_interruption_detector(None)

    def update_interruption_detection(self, detector: InterruptionDetector | None) -> None:
        """Judge speech over the agent with another detector, or not at all."""
        self._parts.listening.set_interruption_detector(detector)

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
            check_vad(self._parts.listening.vad, turn_detection)
            self._change_turn_detection(turn_detection)
        if is_given(endpointing):
            self._parts.machine.endpointing = endpointing

    def _change_turn_detection(self, detection: TurnDetectionMode | None) -> None:
        stt, vad, interruption, old = self._given
        self._given = (stt, vad, interruption, detection)
        mode = turn_mode(detection)
        if (mode == "manual") != (self._parts.machine.mode == "manual"):
            self._parts.end_of_turn.drop("dropped")
            self._parts.turn.committed = False
            self._parts.turn.request = None
            self._parts.forget_prediction()
        self._parts.machine.mode = mode
        if detection is not old:
            self._parts.listening.set_turn_detection(detection)
