"""When is it clear who has picked up? A state machine without I/O.

A verdict comes first, from the length of the greeting, a model, or a timeout; it is released once
the gates it needs are open: silence, and for all but humans also the end of the turn, so that a
message is left after the tone and not into the greeting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..hearing.timers import CallLater, Timer
from .classifier import (
    HUMAN_SILENCE_THRESHOLD,
    HUMAN_SPEECH_THRESHOLD,
    MACHINE_SILENCE_THRESHOLD,
    MAX_ENDPOINTING_DELAY,
    MAX_EXTENSION_SECS,
    MAX_EXTENSIONS,
    NO_SPEECH_THRESHOLD,
    TIMEOUT,
    AMDCategory,
    AMDPredictionEvent,
)

CAP = 3
"""Times `timeout`: when even `wait_until_finished` waits no longer."""


@dataclass(frozen=True)
class Thresholds:
    """Seconds; see the constants of `classifier`."""

    human_speech: float = HUMAN_SPEECH_THRESHOLD
    human_silence: float = HUMAN_SILENCE_THRESHOLD
    machine_silence: float = MACHINE_SILENCE_THRESHOLD
    no_speech: float = NO_SPEECH_THRESHOLD
    timeout: float = TIMEOUT
    endpointing: float = MAX_ENDPOINTING_DELAY


class Ports(Protocol):
    """What the state machine makes others do."""

    def ask(self, transcript: str, *, may_postpone: bool) -> None:
        """Ask the model about the transcript, instead of what it is being asked."""

    def release(self, prediction: AMDPredictionEvent) -> None:
        """The verdict; called once."""


class AnsweringMachine:
    """Fed with speech, words, the end of turns and the model's opinions; releases one verdict.

    Args:
        thresholds: The times it goes by.
        ports: What it makes others do.
        call_later: `loop.call_later`.
        clock: `loop.time`.
        wait_until_finished: After a timeout, still wait for whoever speaks to finish, up to three
            times `timeout` in all.
    """

    def __init__(
        self,
        thresholds: Thresholds,
        ports: Ports,
        *,
        call_later: CallLater,
        clock: Callable[[], float],
        wait_until_finished: bool = True,
    ) -> None:
        self._thresholds = thresholds
        self._ports = ports
        self._call_later = call_later
        self._clock = clock
        self._wait_until_finished = wait_until_finished
        self._timers: dict[str, Timer] = {}
        self._texts: list[str] = []
        self._verdict: tuple[AMDCategory, str] | None = None
        self._silent = False
        self._turn_over = False
        self._speaking = False
        self._began_at: float | None = None
        self._first_start: float | None = None
        self._last_end: float | None = None
        self._postponed_until = float("-inf")
        self._extensions = 0
        self._closed = False
        self.prediction: AMDPredictionEvent | None = None
        """What was released."""

    @property
    def listening(self) -> bool:
        """Whether what is heard counts: it has begun, and there is no result yet."""
        return self._began_at is not None and self.prediction is None and not self._closed

    @property
    def transcript(self) -> str:
        """The words so far."""
        return " ".join(self._texts)

    # -- what happens -----------------------------------------------------------------------------

    def listen(self) -> None:
        """The line is open: begin."""
        if self._began_at is not None or self._closed or self.prediction is not None:
            return
        self._began_at = self._clock()
        times = self._thresholds
        self._arm("detection", times.timeout, self._fall_back, "detection_timeout")
        self._arm("cap", CAP * times.timeout, self._give_up)
        self._arm("no speech", times.no_speech, self._fall_back, "no_speech_timeout")

    def participant_missing(self) -> None:
        """There is nobody to listen to."""
        if self.prediction is None and not self._closed:
            self._fall_back("participant_missing")

    def speech_started(self) -> None:
        """Somebody, or something, begins to speak."""
        if not self.listening:
            return
        self._disarm("silence", "no speech", "turn")
        self._silent = self._turn_over = False
        self._speaking = True
        if self._first_start is None:
            self._first_start = self._clock()

    def speech_ended(self, silence: float) -> bool:
        """It has been quiet for `silence` seconds. Returns False if nothing had been heard."""
        if not self.listening:
            return True
        if self._first_start is None:
            return False
        times = self._thresholds
        self._speaking = False
        self._last_end = self._clock() - silence
        self._arm("turn", times.endpointing - silence, self.turn_ended)
        if not self._texts and self._speech_duration <= times.human_speech:
            self._arm("silence", times.human_silence - silence, self._short_greeting)
        else:
            self._arm_silence(times.machine_silence - silence)
        return True

    def heard(self, text: str) -> None:
        """Words are in. Asks the model about all words so far."""
        if not self.listening or not text.strip():
            return
        first = not self._texts
        self._texts.append(text.strip())
        self._disarm("no speech", "ask again")
        if not self._speaking:
            self._turn_over = False
            self._arm("turn", self._thresholds.endpointing, self.turn_ended)
        if first and self._last_end is not None and "silence" in self._timers:
            self._arm_silence(self._last_end + self._thresholds.machine_silence - self._clock())
        self._ask()

    def turn_ended(self) -> None:
        """Whoever speaks is through: by the session's turn detection, or by the time passed."""
        if not self.listening:
            return
        self._disarm("turn")
        self._turn_over = True
        if self._last_end is None and self._clock() >= self._postponed_until:
            self._silent = True
        self._try_release()

    def labelled(self, category: AMDCategory) -> None:
        """The model's opinion. "uncertain" is none."""
        if self.listening and category is not AMDCategory.UNCERTAIN:
            self._verdict = (category, "llm")
            self._try_release()

    def postponed(self, seconds: float) -> None:
        """The model wants to hear more before it decides."""
        if not self.listening or self._extensions >= MAX_EXTENSIONS:
            return
        self._extensions += 1
        seconds = min(max(seconds, 0.0), MAX_EXTENSION_SECS)
        self._postponed_until = self._clock() + seconds
        self._silent = False
        if not self._speaking:
            self._arm_silence(seconds)
        self._arm("ask again", seconds, self._ask)

    def close(self) -> None:
        """Stop: no timer is left, nothing more is released."""
        self._closed = True
        self._disarm(*self._timers)

    # -- verdicts ---------------------------------------------------------------------------------

    @property
    def _speech_duration(self) -> float:
        if self._first_start is None:
            return 0.0
        end = self._clock() if self._speaking or self._last_end is None else self._last_end
        return max(0.0, end - self._first_start)

    def _ask(self) -> None:
        self._ports.ask(self.transcript, may_postpone=self._extensions < MAX_EXTENSIONS)

    def _short_greeting(self) -> None:
        self._silent = True
        self._verdict = (AMDCategory.HUMAN, "short_greeting")
        self._try_release()

    def _fall_silent(self) -> None:
        self._silent = True
        self._try_release()

    def _fall_back(self, reason: str) -> None:
        if self._verdict is None:
            self._verdict = (AMDCategory.UNCERTAIN, reason)
        heard = self._first_start is not None or bool(self._texts)
        self._silent = True
        self._turn_over = self._turn_over or not (self._wait_until_finished and heard)
        self._try_release()

    def _give_up(self) -> None:
        if self._verdict is None:
            self._verdict = (AMDCategory.UNCERTAIN, "detection_timeout")
        self._silent = self._turn_over = True
        self._try_release()

    def _try_release(self) -> None:
        if self._verdict is None or not self._silent:
            return
        category, reason = self._verdict
        if category is not AMDCategory.HUMAN and not self._turn_over:
            return
        now = self._clock()
        since = self._last_end if self._last_end is not None else self._began_at
        self.prediction = AMDPredictionEvent(
            speech_duration=self._speech_duration,
            category=category,
            reason=reason,
            transcript=self.transcript,
            delay=max(0.0, now - since) if since is not None else 0.0,
        )
        self.close()
        self._ports.release(self.prediction)

    # -- timers -----------------------------------------------------------------------------------

    def _arm_silence(self, delay: float) -> None:
        self._arm("silence", max(delay, self._postponed_until - self._clock()), self._fall_silent)

    def _arm(self, name: str, delay: float, callback: Callable[..., None], *args: str) -> None:
        self._disarm(name)

        def fire() -> None:
            self._timers.pop(name, None)
            callback(*args)

        self._timers[name] = self._call_later(max(0.0, delay), fire)

    def _disarm(self, *names: str) -> None:
        for name in names:
            timer = self._timers.pop(name, None)
            if timer is not None:
                timer.cancel()


__all__ = ["CAP", "AnsweringMachine", "Ports", "Thresholds"]
