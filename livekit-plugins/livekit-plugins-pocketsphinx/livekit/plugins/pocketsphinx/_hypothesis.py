"""What the decoder makes of an utterance. No dependency on the decoder itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

FRAME_RATE = 100
"""Feature frames per second; word times come in these."""

_PRONUNCIATION = re.compile(r"\(\d+\)$")
_FILLERS = ("<", "[", "(", "++")


@dataclass(frozen=True)
class Word:
    """A recognised word (with key phrases: a whole phrase).

    Attributes:
        text: As the dictionary writes it.
        start: Seconds from the first sample of the utterance.
        end: Seconds, where the word's last sound ends.
        confidence: How much likelier than its alternatives it is, 0..1. Only known at the end of an
            utterance; 1.0 before.
    """

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Hypothesis:
    """The words of an utterance, in the order in which they were spoken."""

    words: tuple[Word, ...] = ()

    @property
    def text(self) -> str:
        """The words, separated by spaces; empty when there was only noise."""
        return " ".join(word.text for word in self.words)

    @property
    def confidence(self) -> float:
        """Mean of the words' confidences; 0.0 without words."""
        if not self.words:
            return 0.0
        return sum(word.confidence for word in self.words) / len(self.words)


@dataclass(frozen=True)
class Segment:
    """A stretch of the best path as the decoder reports it: words, pauses, breath, noise."""

    word: str
    first_frame: int
    last_frame: int
    confidence: float


def hypothesis_of(segments: Iterable[Segment]) -> Hypothesis:
    """Leave out what is no word and the numbers that tell pronunciations apart."""
    words = [
        Word(
            text=_PRONUNCIATION.sub("", segment.word).strip(),
            start=segment.first_frame / FRAME_RATE,
            end=(segment.last_frame + 1) / FRAME_RATE,
            confidence=min(1.0, max(0.0, segment.confidence)),
        )
        for segment in segments
        if segment.word.strip() and not segment.word.startswith(_FILLERS)
    ]
    # key phrases are reported latest first
    return Hypothesis(tuple(sorted(words, key=lambda word: word.start)))
