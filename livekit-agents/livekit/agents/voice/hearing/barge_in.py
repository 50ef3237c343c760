"""Barge-in: the user speaks over the agent.

Nobody knows at once whether a sound is an interruption, so the agent is *paused*. Words, or a turn
that gets a reply, make it an interruption; silence makes it a false one, and the agent goes on.
`PauseMachine` decides, without I/O; `BargeIn` watches, waits and carries it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from ...log import logger
from ...utils.aio import Survivor, TaskScope
from ..events import AgentFalseInterruptionEvent, AgentState
from ..speech_handle import InterruptionSource, SpeechHandle
from .activity import HearingActivity, interruption_options, owns_overlapping_speech
from .hooks import notify
from .timers import Timer
from .transcript import first_alternative

if TYPE_CHECKING:
    from ...stt import SpeechEvent
    from ...vad import VADEvent

__all__ = ["BargeIn", "PauseEffects", "PauseMachine", "PausedSpeech"]


class PausedSpeech(Protocol):
    """What the machine looks at in a speech."""

    def done(self) -> bool:
        """Whether it is over."""
        ...


class PauseEffects(Protocol):
    """What a decision about a pause does."""

    @property
    def agent_state(self) -> AgentState:
        """What the agent does."""
        ...

    def set_agent_state(self, state: AgentState) -> None:
        """The agent does something else."""
        ...

    def pause_output(self) -> None:
        """Hold the sound back."""
        ...

    def resume_output(self) -> None:
        """Let it play."""
        ...

    def arm(self, seconds: float) -> None:
        """(Re)start the timer that calls the interruption false."""

    def disarm(self) -> None:
        """Stop it, and whatever its firing has begun."""

    def report_false_interruption(self, *, resumed: bool) -> None:
        """Tell the session's listeners."""
        ...


class PauseMachine:
    """At most one speech is paused; this decides when that ends, and how."""

    def __init__(self, effects: PauseEffects) -> None:
        self._effects = effects
        self._resume_state: AgentState = "listening"
        self._timeout = 0.0
        self.paused: PausedSpeech | None = None
        self.closing = False

    def pause(self, speech: PausedSpeech, timeout: float) -> None:
        """The user may be interrupting `speech`: hold it.

        Args:
            speech: What plays, or is about to.
            timeout: Seconds of silence after which it goes on.
        """
        if self.closing:
            return
        self._effects.disarm()
        self._timeout = timeout
        if self.paused is speech:
            return
        self.paused = speech
        self._resume_state = self._effects.agent_state
        self._effects.pause_output()
        self._effects.set_agent_state("listening")

    def user_started(self) -> None:
        """The user speaks: no verdict until they stop."""
        self._effects.disarm()

    def user_stopped(self) -> None:
        """The user is silent: the clock runs."""
        if self.paused is not None:
            self._effects.arm(self._timeout)

    def transcript_after_speech(self, timeout: float) -> None:
        """A transcript came while the user is silent already: the clock runs anew."""
        if self.paused is not None:
            self._effects.arm(timeout)

    def silence_passed(self, current: PausedSpeech | None, *, can_resume: bool) -> None:
        """Nothing came of it: the agent goes on.

        Args:
            current: The speech whose turn it is now.
            can_resume: Whether resuming is wanted and the output can.
        """
        speech = self.paused
        if speech is None:
            return
        self.paused = None
        if current is not None and current is not speech:
            return  # the output belongs to another speech by now
        resumed = can_resume and not speech.done()
        if resumed:
            self._effects.set_agent_state(self._resume_state)
        if resumed or speech.done():
            self._effects.resume_output()
        self._effects.report_false_interruption(resumed=resumed)

    def take(self) -> PausedSpeech | None:
        """It was an interruption: who resumes the output once the speech has ended, takes over."""
        speech, self.paused = self.paused, None
        self._effects.disarm()
        return speech

    def release(self, speech: PausedSpeech, *, goes_on: bool) -> None:
        """`speech` must not be held any longer.

        Args:
            speech: Ignored if another one, or none, is paused.
            goes_on: It plays on, rather than having ended.
        """
        if self.paused is not speech:
            return
        self.take()
        if goes_on:
            self._effects.set_agent_state(self._resume_state)
        self._effects.resume_output()

    def about_to_play(self, speech: PausedSpeech, *, hold_back: bool) -> None:
        """The first audio of `speech` is about to be played.

        Args:
            speech: Whose audio.
            hold_back: The user is speaking, so it has to wait.
        """
        if self.paused is speech:
            return
        if self.paused is not None:
            self.take()
        if hold_back and not self.closing:
            self.pause(speech, 0.0)
        else:
            self._effects.resume_output()

    def close(self) -> None:
        """The session closes: nothing is held any more, and nothing will be."""
        self.closing = True
        if self.paused is not None:
            self.release(self.paused, goes_on=not self.paused.done())


class BargeIn:
    """Watches the user speak over the agent of one activity."""

    def __init__(self, activity: HearingActivity) -> None:
        self._activity = activity
        self._machine = PauseMachine(self)
        self._scope = TaskScope("barge-in")
        self._timer: Timer | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._warned = False

    # -- what is known --------------------------------------------------------------------------

    @property
    def paused_speech(self) -> SpeechHandle | None:
        """The speech that is being held."""
        speech = self._machine.paused
        assert speech is None or isinstance(speech, SpeechHandle)
        return speech

    @property
    def _applies(self) -> bool:
        """Whether sound from the user may interrupt at all."""
        return self._activity.turn_detection not in ("manual", "realtime_llm")

    @property
    def _can_pause(self) -> bool:
        options = interruption_options(self._activity)
        if (
            not options["resume_false_interruption"]
            or options["false_interruption_timeout"] is None
            or owns_overlapping_speech(self._activity)
        ):
            return False
        output = self._activity.session.output
        if output.audio is None or not output.audio_enabled:
            return False
        if not output.audio.can_pause:
            if not self._warned:
                self._warned = True
                logger.warning(
                    "resume_false_interruption is on, but the audio output %s can't pause: false "
                    "interruptions end the agent's speech",
                    output.audio.label,
                )
            return False
        return True

    # -- what is heard --------------------------------------------------------------------------

    def on_vad_inference_done(self, ev: VADEvent) -> None:
        """The VAD looked at more audio: keep the silence gate, and interrupt when it is enough."""
        gate = self._activity.scheduler.user_silent
        if not ev.speaking:
            gate.open()
            return
        if ev.raw_accumulated_silence <= self._activity.min_endpointing_delay / 2:
            gate.close()
        else:
            gate.open()
        if (
            ev.speech_duration >= interruption_options(self._activity)["min_duration"]
            and self._applies
            and not self._stt_ended_turn(ev)
        ):
            self.on_audio_activity(sound_only=True)

    def _stt_ended_turn(self, ev: VADEvent) -> bool:
        """Whether what the VAD still counts as speech is the tail of a turn the STT has ended."""
        recognition = self._activity.recognition
        return (
            self._activity.turn_detection == "stt"
            and recognition is not None
            and recognition.stt_committed
            and ev.raw_accumulated_silence > 0
        )

    def on_start_of_speech(self, ev: VADEvent | None, speech_start_time: float) -> None:
        """The user began to speak: nothing new may start over them."""
        activity = self._activity
        activity.session._update_user_state("speaking", last_speaking_time=speech_start_time)
        activity.scheduler.user_silent.close()
        self._machine.user_started()
        speech = activity.scheduler.current_speech
        if (
            activity.session.agent_state != "speaking"
            and speech is not None
            and speech is not self._machine.paused
            and _can_interrupt(speech)
            and self._applies
            and self._can_pause
        ):
            self._machine.pause(speech, 0.0)

    def on_end_of_speech(self, ev: VADEvent | None) -> None:
        """The user fell silent."""
        recognition = self._activity.recognition
        stopped_at = None if recognition is None else recognition.last_speaking_time
        self._activity.session._update_user_state("listening", last_speaking_time=stopped_at)
        self._activity.scheduler.user_silent.open()
        self._machine.user_stopped()

    def on_interim_transcript(
        self, ev: SpeechEvent, *, speaking: bool | None, has_vad: bool
    ) -> None:
        """A guess at words: without a VAD, the first sign of speech."""
        if has_vad or not self._applies or not first_alternative(ev).text:
            return
        self.on_audio_activity()
        self._rearm(speaking)

    def on_final_transcript(self, ev: SpeechEvent, *, speaking: bool | None = None) -> None:
        """Words: what was paused is interrupted."""
        if self._applies:
            self.on_audio_activity()
            self._rearm(speaking)
        self.end_with_interruption()

    def _rearm(self, speaking: bool | None) -> None:
        timeout = interruption_options(self._activity)["false_interruption_timeout"]
        if speaking is False and timeout is not None:
            self._machine.transcript_after_speech(timeout)

    def on_audio_activity(self, *, sound_only: bool = False) -> None:
        """The user is heard: pause the agent, or interrupt it where that is impossible.

        Args:
            sound_only: Only a VAD says so. While closing, that doesn't end what can't be paused
                any more.
        """
        activity = self._activity
        speech = activity.scheduler.current_speech
        if self._must_ignore_activity():
            return
        if (realtime := activity.realtime) is not None:
            realtime.start_user_activity()
        if speech is None or not _can_interrupt(speech):
            return
        recognition = activity.recognition
        if recognition is not None:
            recognition.on_overlap()
        options = interruption_options(activity)
        timeout = options["false_interruption_timeout"]
        if self._can_pause and timeout is not None:
            if not self._machine.closing:
                self._machine.pause(speech, timeout)
                self._let_audio_interrupt()
                return
            if sound_only:
                return
        if realtime is not None:
            realtime.interrupt()
        speech.interrupt(source="audio_activity")

    def _must_ignore_activity(self) -> bool:
        activity = self._activity
        recognition = activity.recognition
        if recognition is not None and not recognition.audio_may_interrupt:
            return True
        if activity.session._aec_warmup_active or activity.server_turn_detection:
            return True
        min_words = interruption_options(activity)["min_words"]
        return (
            activity.stt is not None
            and min_words > 0
            and recognition is not None
            and word_count(recognition.current_transcript) < min_words
        )

    def _let_audio_interrupt(self) -> None:
        if (recognition := self._activity.recognition) is not None:
            recognition.let_audio_interrupt()

    # -- told by the speech side ----------------------------------------------------------------

    def reconcile_playout_pause(self, handle: SpeechHandle) -> None:
        """The first audio of `handle` is about to be played: hold it back, or let it play."""
        session = self._activity.session
        hold_back = (
            session.agent_state != "speaking"
            and not self._activity.scheduler.user_silent.is_open
            and _can_interrupt(handle)
            and self._applies
            and self._can_pause
        )
        self._machine.about_to_play(handle, hold_back=hold_back)

    def release(self, handle: SpeechHandle) -> None:
        """`handle` became uninterruptible, or its playout ended: hold it no longer."""
        played = bool(handle._generations) and handle._generations[-1].done()
        self._machine.release(handle, goes_on=not (played or handle.done()))

    def disarm(self) -> None:
        """Somebody is about to decide what becomes of the pause: don't call it false meanwhile."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None

    def end_with_interruption(
        self, source: InterruptionSource = "audio_activity"
    ) -> asyncio.Future[None]:
        """What is paused was interrupted for good.

        Returns:
            Resolves when its playout has ended and the output plays again; at once without a pause.
        """
        speech = self.paused_speech
        self._machine.take()
        if speech is None:
            nothing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            nothing.set_result(None)
            return nothing
        if _can_interrupt(speech):
            if (realtime := self._activity.realtime) is not None:
                realtime.interrupt()
            speech.interrupt(source=source)
        return self._scope.spawn(self._resume_after(speech), name="end speech pause")

    async def _resume_after(self, speech: SpeechHandle) -> None:
        try:
            await speech._wait_for_generation()
        finally:
            if self._machine.paused is None:  # else a newer pause owns the output
                self.resume_output()

    # -- closing --------------------------------------------------------------------------------

    def on_closing(self) -> None:
        """The session closes: what is paused plays on, until the close interrupts it."""
        self._machine.close()

    async def aclose(self, timeout: float = 1.0) -> list[Survivor]:
        """Forget the pause and let the output play. Usable again afterwards (inline tasks)."""
        ending = self.ending(timeout)
        return [] if ending is None else await ending

    def ending(self, timeout: float = 1.0) -> Coroutine[Any, Any, list[Survivor]] | None:
        """As `aclose`, begun at once; None when nothing is left to wait for."""
        if (speech := self._machine.paused) is not None:
            self._machine.release(speech, goes_on=False)
        self.disarm()
        scope, self._scope = self._scope, TaskScope("barge-in")
        return scope.ending(timeout)

    # -- what the machine does (PauseEffects) ---------------------------------------------------

    @property
    def agent_state(self) -> AgentState:
        """What the agent does."""
        return self._activity.session.agent_state

    def set_agent_state(self, state: AgentState) -> None:
        """The agent does something else."""
        self._activity.session._update_agent_state(state)

    def pause_output(self) -> None:
        """Hold the sound back."""
        if (audio := self._activity.session.output.audio) is not None:
            self._tell(audio.pause)

    def resume_output(self) -> None:
        """Let it play."""
        audio = self._activity.session.output.audio
        if audio is not None and audio.can_pause:
            self._tell(audio.resume)

    def _tell(self, command: Callable[[], object]) -> None:
        """Let the sink do something. What it returns to be awaited is awaited elsewhere."""
        self._activity.session._run_beside(notify(command), name=f"{command.__name__} the output")

    def arm(self, seconds: float) -> None:
        """(Re)start the timer that calls the interruption false."""
        self.disarm()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._on_silence)

    def report_false_interruption(self, *, resumed: bool) -> None:
        """Tell the session's listeners."""
        self._activity.session.emit(
            "agent_false_interruption", AgentFalseInterruptionEvent(resumed=resumed)
        )

    def _on_silence(self) -> None:
        self._timer = None
        recognition = self._activity.recognition
        if recognition is not None and recognition.end_of_turn_pending:
            # The pause may yet turn out to be the end of a turn.
            self._resuming = self._scope.spawn(self._resume_unless_turn_ends(), name="resume")
        else:
            self._call_it_false()

    async def _resume_unless_turn_ends(self) -> None:
        recognition = self._activity.recognition
        if recognition is None or not await recognition.wait_for_end_of_turn():
            return  # the user went on
        if not self._activity.session._is_closing:
            self._resuming = None
            self._call_it_false()

    def _call_it_false(self) -> None:
        self._machine.silence_passed(
            self._activity.scheduler.current_speech, can_resume=self._can_pause
        )


def _can_interrupt(speech: SpeechHandle) -> bool:
    return not speech.interrupted and speech.allow_interruptions and not speech.done()


def word_count(text: str) -> int:
    """Words of a transcript; each character counts as one in languages without spaces."""
    from ...tokenize import basic

    return len(basic.split_words(text, split_character=True))
