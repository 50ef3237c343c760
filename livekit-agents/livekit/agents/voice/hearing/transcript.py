"""The words of the turn that is being spoken, and the language they are in."""

from __future__ import annotations

from collections.abc import Sequence

from ...language import LanguageCode
from ...stt import SpeechData, SpeechEvent

MIN_LANGUAGE_DETECTION_LENGTH = 5
"""Characters up to which a transcript can't change a language that is already known."""

_UNDECIDED = frozenset({"auto", "multi"})


class Transcript:
    """Finals joined into one text, and what is known beyond them."""

    def __init__(self) -> None:
        self.text = ""
        """The final transcripts, joined by single spaces."""
        self.interim = ""
        """What is being said beyond `text`, as of now."""
        self.preflight = ""
        """`text` and a stable continuation of it, while that is not final."""
        self.confidences: list[float] = []
        self.last_final_at: float | None = None
        """When the last final or preflight came, `time.time()` seconds."""

    @property
    def confidence(self) -> float:
        """Mean confidence of the finals, 0..1; 0 when there are none."""
        return _mean(self.confidences)

    @property
    def with_interim(self) -> str:
        """All that was heard so far, guesses included."""
        return joined(self.text, self.interim)

    @property
    def unfinished(self) -> bool:
        """Whether a guess is held that no final has replaced yet."""
        return bool(self.interim or self.preflight)

    def add_final(self, text: str, confidence: float, now: float) -> None:
        """Append a final transcript; it replaces the guesses."""
        self.text = joined(self.text, text)
        self.confidences.append(confidence)
        self.last_final_at = now
        self.interim = self.preflight = ""

    def set_preflight(self, text: str, now: float) -> None:
        """Take a stable, not yet final, continuation."""
        self.last_final_at = now
        self.preflight = joined(self.text, text)
        self.interim = text

    def confidence_with(self, confidence: float) -> float:
        """Mean confidence of the finals and one more."""
        return _mean([*self.confidences, confidence])

    def promote_interim(self) -> str:
        """Treat the guess as said; returns it. It has no confidence of its own."""
        promoted, self.interim, self.preflight = self.interim, "", ""
        self.text = joined(self.text, promoted)
        return promoted

    def take(self) -> None:
        """The finals belong to a committed turn now. Guesses belong to what comes next."""
        self.text = ""
        self.confidences = []
        self.last_final_at = None

    def clear(self) -> None:
        """Forget everything."""
        self.take()
        self.interim = self.preflight = ""


class LanguageTracker:
    """Which language the user speaks, as far as transcripts say."""

    def __init__(self, current: LanguageCode | None = None) -> None:
        self.current = current

    def observe(self, language: str | None, text: str) -> None:
        """Take note of the language of a transcript. A word or two doesn't change a known one."""
        if not language:
            return
        code = language if isinstance(language, LanguageCode) else LanguageCode(language)
        if code.language in _UNDECIDED:
            return
        if self.current is None or len(text) > MIN_LANGUAGE_DETECTION_LENGTH:
            self.current = code


def first_alternative(ev: SpeechEvent) -> SpeechData:
    """The best reading; an event without one counts as empty text."""
    return ev.alternatives[0] if ev.alternatives else SpeechData(language=LanguageCode(""), text="")


def joined(*parts: str) -> str:
    """Texts in a row, a space between them."""
    return " ".join(part for part in parts if part).lstrip()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
