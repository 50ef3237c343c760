"""The files a decoder needs: acoustic model, pronunciation dictionary, language model."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Model:
    """Where the files are, and pronunciations to add to the dictionary.

    Attributes:
        acoustic: Directory of the acoustic model (``mdef``, ``means``, ...), for 16 kHz audio.
        dictionary: File with a word and its phones on each line.
        language: N-gram language model; not loaded when a grammar or key phrases are listened for.
        pronunciations: Word -> phones separated by spaces, for words that the dictionary lacks.
    """

    acoustic: Path
    dictionary: Path
    language: Path
    pronunciations: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for what, path in (
            ("acoustic model", self.acoustic),
            ("dictionary", self.dictionary),
            ("language model", self.language),
        ):
            if not path.exists():
                raise ValueError(f"the {what} {path} does not exist")

    @property
    def name(self) -> str:
        """Name of the acoustic model's directory."""
        return self.acoustic.name

    def words(self) -> frozenset[str]:
        """Every word the decoder can hear. Reads the dictionary, tens of milliseconds, once."""
        return _dictionary_words(self.dictionary) | {word.lower() for word in self.pronunciations}


def default_model(
    *,
    acoustic: str | Path | None = None,
    dictionary: str | Path | None = None,
    language: str | Path | None = None,
    pronunciations: Mapping[str, str] | None = None,
) -> Model:
    """The US English model that the ``pocketsphinx`` package ships, with parts replaced.

    Raises:
        ValueError: A file does not exist.
    """
    from pocketsphinx import get_model_path

    shipped = Path(get_model_path("en-us"))
    return Model(
        acoustic=Path(acoustic or shipped / "en-us"),
        dictionary=Path(dictionary or shipped / "cmudict-en-us.dict"),
        language=Path(language or shipped / "en-us.lm.bin"),
        pronunciations=dict(pronunciations or {}),
    )


@functools.lru_cache(maxsize=4)
def _dictionary_words(dictionary: Path) -> frozenset[str]:
    with dictionary.open(encoding="utf-8", errors="replace") as lines:
        first_columns = (line.split(None, 1)[0] for line in lines if line.strip())
        return frozenset(word.partition("(")[0].lower() for word in first_columns)
