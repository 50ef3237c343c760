"""How long to wait after the user fell silent: fixed, or learned from the user's own pauses.

No I/O and no clock: every hook is told the time (`time.time()` seconds).
"""

from __future__ import annotations

from ..log import logger
from ..types import NOT_GIVEN, NotGivenOr
from ..utils import is_given
from .turn import EndpointingOptions

__all__ = ["BaseEndpointing", "DynamicEndpointing", "create_endpointing"]

# Agent and user starting this close together is the agent's leading silence, not a backchannel.
_SIMULTANEOUS_START = 0.25


class BaseEndpointing:
    """Fixed delays.

    Args:
        min_delay: Seconds of silence after which a turn that looks complete is over.
        max_delay: Seconds of silence after which any turn is over.
    """

    def __init__(self, min_delay: float, max_delay: float) -> None:
        self._min_delay = min_delay
        self._max_delay = max_delay
        self._overlapping = False

    @property
    def min_delay(self) -> float:
        """Seconds to wait when the turn looks complete."""
        return self._min_delay

    @property
    def max_delay(self) -> float:
        """Seconds to wait at most."""
        return self._max_delay

    @property
    def overlapping(self) -> bool:
        """Whether the user is speaking over the agent."""
        return self._overlapping

    def update_options(
        self,
        *,
        min_delay: NotGivenOr[float] = NOT_GIVEN,
        max_delay: NotGivenOr[float] = NOT_GIVEN,
    ) -> None:
        """Replace the given delays (seconds)."""
        if is_given(min_delay):
            self._min_delay = min_delay
        if is_given(max_delay):
            self._max_delay = max_delay

    def on_start_of_speech(self, started_at: float, overlapping: bool = False) -> None:
        """The user began to speak at `started_at`, over the agent when `overlapping`."""
        self._overlapping = overlapping

    def on_end_of_speech(self, ended_at: float, interruption: NotGivenOr[bool] = NOT_GIVEN) -> None:
        """The user fell silent at `ended_at`.

        Args:
            ended_at: When the speech ended.
            interruption: What a detector made of the overlap, if it judged it.
        """
        self._overlapping = False

    def on_start_of_agent_speech(self, started_at: float) -> None:
        """The agent became audible at `started_at`."""

    def on_end_of_agent_speech(self, ended_at: float) -> None:
        """The agent stopped being audible at `ended_at`."""


class DynamicEndpointing(BaseEndpointing):
    """Learns the minimum delay from how long this user pauses inside a turn.

    Each pause the user made and went on speaking after is a sample of an exponential filter; so is
    the pause after which the user immediately cut the agent off, since that turn wasn't over.

    Args:
        min_delay: Where learning starts, and its floor (seconds).
        max_delay: Its ceiling (seconds).
        alpha: Weight of the past, 0..1: `new = alpha * old + (1 - alpha) * sample`.
    """

    def __init__(self, min_delay: float, max_delay: float, alpha: float = 0.9) -> None:
        super().__init__(min_delay, max_delay)
        self._alpha = alpha
        self._learned = min_delay
        self._speaking = False
        self._utterance_started_at: float | None = None
        self._utterance_ended_at: float | None = None
        self._agent_started_at: float | None = None
        self._agent_ended_at: float | None = None

    @property
    def min_delay(self) -> float:
        """The learned delay, in seconds."""
        return self._learned

    @property
    def between_utterance_delay(self) -> float:
        """Seconds from the previous utterance's end to this one's start; 0 when unknown."""
        return _gap(self._utterance_ended_at, self._utterance_started_at)

    @property
    def between_turn_delay(self) -> float:
        """Seconds from the user's end to the agent's start; 0 when unknown."""
        return _gap(self._utterance_ended_at, self._agent_started_at)

    @property
    def immediate_interruption_delay(self) -> tuple[float, float]:
        """How long the agent waited, and how soon after its start the user spoke again."""
        turn = self.between_turn_delay
        return turn, abs(self.between_utterance_delay - turn)

    def update_options(
        self,
        *,
        min_delay: NotGivenOr[float] = NOT_GIVEN,
        max_delay: NotGivenOr[float] = NOT_GIVEN,
        alpha: NotGivenOr[float] = NOT_GIVEN,
    ) -> None:
        """Replace the given options. A new `min_delay` forgets what was learned."""
        super().update_options(min_delay=min_delay, max_delay=max_delay)
        if is_given(min_delay):
            self._learned = min_delay
        if is_given(alpha):
            self._alpha = alpha

    def on_start_of_speech(self, started_at: float, overlapping: bool = False) -> None:
        """The user began to speak. Told again of an overlap already known, it changes nothing."""
        if self._overlapping:
            return
        self._utterance_started_at = started_at
        self._overlapping = overlapping
        self._speaking = True

    def on_start_of_agent_speech(self, started_at: float) -> None:
        """The agent became audible at `started_at`."""
        began, ended = self._utterance_started_at, self._utterance_ended_at
        if self._speaking and began is not None and ended is not None and ended < began:
            # The user is still in this utterance: end the previous one right here, so that the
            # overlap is never learned as a pause.
            self._utterance_ended_at = started_at - 0.001
        self._agent_started_at = started_at
        self._agent_ended_at = None
        self._overlapping = self._speaking

    def on_end_of_agent_speech(self, ended_at: float) -> None:
        """The agent stopped being audible at `ended_at`."""
        if self._agent_open:
            self._agent_ended_at = ended_at
        self._overlapping = False

    def on_end_of_speech(self, ended_at: float, interruption: NotGivenOr[bool] = NOT_GIVEN) -> None:
        """The user fell silent; learn from the pause before this utterance, if it was one."""
        if interruption is False and self._overlapping and not self._started_together():
            # A backchannel says nothing about how long the user pauses.
            self._utterance_started_at = self._utterance_ended_at = None
        else:
            if self._overlapping or self._agent_open:
                self._learn_from_interruption()
            elif self._agent_started_at is None and self._agent_ended_at is None:
                self._learn(self.between_utterance_delay)
            self._utterance_ended_at = ended_at
            if not self._agent_open:
                self._agent_started_at = self._agent_ended_at = None
        self._speaking = False
        self._overlapping = False

    @property
    def _agent_open(self) -> bool:
        return self._agent_started_at is not None and self._agent_ended_at is None

    def _started_together(self) -> bool:
        if self._utterance_started_at is None or self._agent_started_at is None:
            return False
        return abs(self._utterance_started_at - self._agent_started_at) < _SIMULTANEOUS_START

    def _learn_from_interruption(self) -> None:
        """The user went on right after the agent began: the pause before belonged to the turn."""
        turn, interruption = self.immediate_interruption_delay
        if 0 < interruption <= self.min_delay and 0 < turn <= self.max_delay:
            self._learn(self.between_utterance_delay)

    def _learn(self, pause: float) -> None:
        if pause <= 0:
            return
        blended = self._alpha * self._learned + (1 - self._alpha) * pause
        self._learned = max(self._min_delay, min(blended, self._max_delay))
        logger.debug(
            "min endpointing delay updated: %.3f s",
            self._learned,
            extra={"pause": pause, "max_delay": self._max_delay},
        )


def create_endpointing(options: EndpointingOptions) -> BaseEndpointing:
    """Build what `options` asks for; `min_delay` and `max_delay` must be there, as resolved."""
    min_delay, max_delay = options["min_delay"], options["max_delay"]
    if options.get("mode") == "dynamic":
        return DynamicEndpointing(min_delay, max_delay, options.get("alpha", 0.9))
    return BaseEndpointing(min_delay, max_delay)


def _gap(earlier: float | None, later: float | None) -> float:
    if earlier is None or later is None:
        return 0.0
    return max(0.0, later - earlier)
