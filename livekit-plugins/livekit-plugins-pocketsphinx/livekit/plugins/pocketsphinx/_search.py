"""What to listen for: anything, the sentences of a grammar, or a few key phrases."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

DEFAULT_THRESHOLD = 1e-2
"""Evidence that a key phrase needs: most are found, and little is taken for one of them."""

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_DECLARATION = re.compile(r"\A\s*#JSGF[^;]*;|\b(?:grammar|import)\s[^;]*;")
_NOT_A_WORD = re.compile(
    r"""<[^>]*>          # a rule
      | \{(?:\\.|[^}])*\} # a tag
      | /[\d.eE+-]+/     # a weight
      | \bpublic\b(?=\s*<)
      | [=;|()\[\]*+"]
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Dictation:
    """Anything that the language model can say."""


@dataclass(frozen=True)
class Grammar:
    """The sentences of a grammar in the Java Speech Grammar Format (JSGF)."""

    source: str


@dataclass(frozen=True)
class KeyPhrases:
    """Only a few phrases, wherever in the speech they occur, each with its threshold."""

    thresholds: tuple[tuple[str, float], ...]

    @property
    def key_file(self) -> str:
        """The phrases in the form that the decoder reads from a file."""
        return "".join(f"{phrase} /{threshold:g}/\n" for phrase, threshold in self.thresholds)


Search = Dictation | Grammar | KeyPhrases


def search_for(
    grammar: str | Path | None, key_phrases: Sequence[str] | Mapping[str, float] | None
) -> Search:
    """Build the search that a user's options describe.

    Raises:
        ValueError: Both are given, or one of them can't be used.
    """
    if grammar is not None and key_phrases is not None:
        raise ValueError("give either grammar or key_phrases: both say what alone is listened for")
    if grammar is not None:
        return Grammar(_grammar_source(grammar))
    if key_phrases is not None:
        return _key_phrases(key_phrases)
    return Dictation()


def words_of(search: Search) -> set[str]:
    """The words that the dictionary must have for this search."""
    if isinstance(search, KeyPhrases):
        return {word for phrase, _ in search.thresholds for word in phrase.split()}
    if isinstance(search, Grammar):
        rules = _DECLARATION.sub(" ", _COMMENT.sub(" ", search.source))
        return set(_NOT_A_WORD.sub(" ", rules).lower().split())
    return set()


def unknown_words(search: Search, vocabulary: Callable[[], Set[str]]) -> list[str]:
    """The words of a search that the vocabulary lacks, sorted. It is fetched only if needed."""
    needed = words_of(search)
    return sorted(needed - vocabulary()) if needed else []


def _grammar_source(grammar: str | Path) -> str:
    if isinstance(grammar, Path):
        try:
            grammar = grammar.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(
                f"can't read the grammar {grammar}: {error.strerror or error}"
            ) from error
    if not grammar.lstrip().startswith("#JSGF"):
        raise ValueError(
            "grammar is not JSGF: it must begin with '#JSGF V1.0;' "
            "(a file is given as a pathlib.Path, a grammar itself as a string)"
        )
    if "public" not in grammar:
        raise ValueError("the grammar has no public rule, so there is nothing to listen for")
    return grammar


def _key_phrases(phrases: Sequence[str] | Mapping[str, float]) -> KeyPhrases:
    if isinstance(phrases, str):
        raise ValueError(f"key_phrases must be a list of phrases, got the string {phrases!r}")
    if not isinstance(phrases, Mapping):
        phrases = dict.fromkeys(phrases, DEFAULT_THRESHOLD)
    thresholds = {
        " ".join(phrase.lower().split()): threshold for phrase, threshold in phrases.items()
    }
    if not thresholds or "" in thresholds:
        raise ValueError("key_phrases needs at least one phrase, and none may be empty")
    for phrase, threshold in thresholds.items():
        if not 1e-50 <= threshold <= 1e50:
            raise ValueError(
                f"the threshold of key phrase {phrase!r} must be from 1e-50 to 1e50, got "
                f"{threshold}; {DEFAULT_THRESHOLD:g} is usual, 1e10 avoids false alarms"
            )
    return KeyPhrases(tuple(thresholds.items()))
