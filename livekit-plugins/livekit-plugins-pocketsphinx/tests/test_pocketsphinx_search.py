from __future__ import annotations

from pathlib import Path

import pytest

from livekit.plugins.pocketsphinx._hypothesis import Hypothesis, Segment, hypothesis_of
from livekit.plugins.pocketsphinx._search import (
    DEFAULT_THRESHOLD,
    Dictation,
    Grammar,
    KeyPhrases,
    search_for,
    unknown_words,
    words_of,
)

GRAMMAR = """#JSGF V1.0 UTF-8 en;
grammar booking;
import <other.rules>;
// a comment about nonsense
/* and
   another */
<number> = /0.7/ two {tag: "x"} | /0.3/ three;
public <order> = [please] book a table (for <number> people)+ ;
"""


def test_the_words_of_a_grammar_are_those_that_can_be_said() -> None:
    assert words_of(Grammar(GRAMMAR)) == {
        *("two", "three", "please", "book", "a", "table", "for", "people")
    }


def test_words_the_dictionary_lacks_are_found() -> None:
    search = search_for(None, ["open sesame", "Zork"])
    assert unknown_words(search, lambda: {"open", "sesame"}) == ["zork"]


def test_dictation_does_not_need_the_dictionary() -> None:
    def vocabulary() -> set[str]:
        raise AssertionError("read for nothing")

    assert unknown_words(search_for(None, None), vocabulary) == []


def test_a_grammar_is_given_as_text_or_as_a_file(tmp_path: Path) -> None:
    file = tmp_path / "booking.gram"
    file.write_text(GRAMMAR)
    assert search_for(file, None) == search_for(GRAMMAR, None) == Grammar(GRAMMAR)


def test_key_phrases_get_a_threshold_each() -> None:
    assert search_for(None, ["Hang  Up"]) == KeyPhrases((("hang up", DEFAULT_THRESHOLD),))
    search = search_for(None, {"operator": 1e-10})
    assert isinstance(search, KeyPhrases)
    assert search.key_file == "operator /1e-10/\n"


def test_without_either_anything_is_listened_for() -> None:
    assert search_for(None, None) == Dictation()


@pytest.mark.parametrize(
    ("grammar", "phrases", "message"),
    [
        (GRAMMAR, ["stop"], "either"),
        ("yes | no", None, "#JSGF"),
        ("#JSGF V1.0; grammar g; <a> = yes;", None, "public"),
        (Path("/nowhere/x.gram"), None, "can't read the grammar /nowhere/x.gram"),
        (None, [], "at least one phrase"),
        (None, ["stop", " "], "none may be empty"),
        (None, "stop", "list of phrases"),
        (None, {"stop": 0.0}, "threshold of key phrase 'stop'"),
    ],
)
def test_what_cannot_be_listened_for_is_explained(
    grammar: str | Path | None, phrases: list[str] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        search_for(grammar, phrases)


def test_a_hypothesis_leaves_out_pauses_noise_and_pronunciations() -> None:
    heard = hypothesis_of(
        [
            Segment("<s>", 0, 2, 1.0),
            Segment("to(3)", 3, 12, 0.5),
            Segment("(NULL)", 12, 12, 1.0),
            Segment("[NOISE]", 13, 20, 1.0),
            Segment("book", 21, 40, 1.2),
            Segment("</s>", 41, 50, 1.0),
        ]
    )
    assert heard.text == "to book"
    assert heard.confidence == pytest.approx(0.75)
    assert (heard.words[0].start, heard.words[0].end) == (0.03, 0.13)


def test_key_phrases_come_in_the_order_in_which_they_were_said() -> None:
    heard = hypothesis_of([Segment("hang up ", 90, 120, 0.9), Segment("operator ", 10, 40, 0.9)])
    assert heard.text == "operator hang up"


def test_nothing_heard_is_no_confidence() -> None:
    assert Hypothesis().text == ""
    assert Hypothesis().confidence == 0.0
