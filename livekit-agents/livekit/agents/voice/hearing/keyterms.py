"""Which terms the STT should listen for: given ones, and those the conversation has established."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["KeytermBook", "string_list"]

PENDING_PASSES = 3
"""Passes after which a candidate that was not confirmed is dropped."""


class KeytermBook:
    """Static terms, confirmed terms and candidates. No I/O.

    Args:
        static: Terms that are always in force.
        max_keyterms: How many terms there may be in all; None is no limit. Static ones count, but
            are never dropped.
    """

    def __init__(self, static: Iterable[str] = (), *, max_keyterms: int | None = None) -> None:
        self._static = _unique(static)
        self._max_keyterms = max_keyterms
        self._confirmed: list[str] = []
        self._pending: dict[str, int] = {}

    @property
    def static(self) -> list[str]:
        """The terms that were given."""
        return list(self._static)

    @property
    def confirmed(self) -> list[str]:
        """The terms that the conversation has established, oldest first."""
        return list(self._confirmed)

    @property
    def pending(self) -> list[str]:
        """Candidates."""
        return list(self._pending)

    @property
    def terms(self) -> list[str]:
        """All terms in force: static ones first, each once."""
        return _unique([*self._static, *self._confirmed])

    def set_static(self, terms: Iterable[str]) -> None:
        """Replace the given terms. What was detected stays."""
        self._static = _unique(terms)
        self._evict()

    def apply(
        self, *, pending: Sequence[str], confirm: Sequence[str], remove: Sequence[str]
    ) -> tuple[list[str], list[str]]:
        """Take the result of one pass; static terms are never touched.

        Returns:
            The terms that came into force, and those that no longer are.
        """
        before = self.terms
        self._pending = {
            term: passes + 1
            for term, passes in self._pending.items()
            if passes + 1 < PENDING_PASSES or term in confirm
        }
        for term in _unique(remove):
            self._pending.pop(term, None)
            if term in self._confirmed:
                self._confirmed.remove(term)
        for term in self._new(pending):
            self._pending.setdefault(term, 0)
        for term in self._new(confirm):
            self._pending.pop(term, None)
            self._confirmed.append(term)
        self._evict()
        after = self.terms
        return (
            [term for term in after if term not in before],
            [term for term in before if term not in after],
        )

    def _new(self, terms: Sequence[str]) -> list[str]:
        return [t for t in _unique(terms) if t not in self._static and t not in self._confirmed]

    def _evict(self) -> None:
        self._confirmed = [term for term in self._confirmed if term not in self._static]
        if self._max_keyterms is not None:
            room = max(0, self._max_keyterms - len(self._static))
            self._confirmed = self._confirmed[len(self._confirmed) - room :] if room else []


def string_list(value: object) -> list[str]:
    """What a model gave as a list of terms; anything else is no terms."""
    if not isinstance(value, list):
        return []
    return [item for item in value if isinstance(item, str)]


def _unique(terms: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(stripped for term in terms if (stripped := term.strip())))
