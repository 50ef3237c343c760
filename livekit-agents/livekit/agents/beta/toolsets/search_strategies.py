"""Ways to find the tools that a query is about."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...llm import Tool, Toolset

_NAME, _DESCRIPTION, _PARAMETERS = 3, 2, 1
"""How much a word counts, by where it is found."""


@dataclass
class SearchItem:
    """A tool that can be found."""

    source: Tool | Toolset
    """What a hit loads: the tool, or the whole toolset it belongs to."""
    name: str
    description: str
    parameters: dict[str, str] = field(default_factory=dict)
    """Name -> description."""
    index_data: Any = field(default=None, repr=False)
    """Whatever a strategy keeps with the item."""


class SearchStrategy(Protocol):
    """Finds tools. Each method may also be a coroutine function."""

    def build_index(self, items: list[SearchItem]) -> Awaitable[None] | None:
        """Get ready to search these items."""
        ...

    def search(
        self, query: str, items: list[SearchItem], max_results: int
    ) -> Awaitable[list[SearchItem]] | list[SearchItem]:
        """The items that fit, best first, at most `max_results`."""
        ...

    def cleanup(self) -> Awaitable[None] | None:
        """Release what the index holds."""
        ...


class BM25SearchStrategy:
    """Ranks by Okapi BM25: rare words count more, and long descriptions don't win by length.

    Args:
        k1: How soon further occurrences of a word stop to matter.
        b: How much the length of a description matters, 0 to 1.
    """

    def __init__(self, *, k1: float = 1.5, b: float = 0.75) -> None:
        self._k1 = k1
        self._b = b
        self._frequency: Counter[str] = Counter()
        self._items = 0
        self._average_length = 0.0

    def build_index(self, items: list[SearchItem]) -> None:
        """Count the words."""
        self.cleanup()
        for item in items:
            words: Counter[str] = Counter()
            for weight, text in _weighted(item):
                for word in _words(text):
                    words[word] += weight
            item.index_data = words
            self._frequency.update(words.keys())
        self._items = len(items)
        lengths = sum(item.index_data.total() for item in items)
        self._average_length = lengths / len(items) if items else 0.0

    def search(self, query: str, items: list[SearchItem], max_results: int) -> list[SearchItem]:
        """The items with the highest scores; none without a word of the query."""
        words = set(_words(query))
        return _best([(self._score(words, item), item) for item in items], max_results)

    def _score(self, words: set[str], item: SearchItem) -> float:
        counts: Counter[str] = item.index_data or Counter()
        length = counts.total() / self._average_length if self._average_length else 0.0
        score = 0.0
        for word in words:
            count = counts[word]
            if not count:
                continue
            known = self._frequency[word]
            rarity = math.log(1 + (self._items - known + 0.5) / (known + 0.5))
            norm = count + self._k1 * (1 - self._b + self._b * length)
            score += rarity * count * (self._k1 + 1) / norm
        return score

    def cleanup(self) -> None:
        """Forget the words."""
        self._frequency.clear()
        self._items = 0
        self._average_length = 0.0


class KeywordSearchStrategy:
    """Ranks by how many words of the query occur, also as beginnings of words, and where."""

    def build_index(self, items: list[SearchItem]) -> None:
        """There is none."""

    def search(self, query: str, items: list[SearchItem], max_results: int) -> list[SearchItem]:
        """The items with the most hits; none without any."""
        patterns = [re.compile(rf"\b{re.escape(word)}") for word in _words(query)]
        scored = [
            (
                float(
                    sum(
                        weight
                        for pattern in patterns
                        for weight, text in _weighted(item)
                        if pattern.search(" ".join(_words(text)))
                    )
                ),
                item,
            )
            for item in items
        ]
        return _best(scored, max_results)

    def cleanup(self) -> None:
        """There is nothing to release."""


def _weighted(item: SearchItem) -> list[tuple[int, str]]:
    parameters = " ".join(f"{name} {text}" for name, text in item.parameters.items())
    return [
        (_NAME, item.name),
        (_DESCRIPTION, item.description),
        (_PARAMETERS, parameters),
    ]


def _words(text: str) -> list[str]:
    """Lower-case words; `get_weather` and `getWeather` are two."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return [word.casefold() for word in re.findall(r"[^\W_]+", spaced)]


def _best(scored: Sequence[tuple[float, SearchItem]], max_results: int) -> list[SearchItem]:
    hits = [(score, item) for score, item in scored if score > 0]
    hits.sort(key=lambda hit: hit[0], reverse=True)  # stable: equal ones stay in their order
    return [item for _, item in hits[:max_results]]
