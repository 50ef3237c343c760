"""Sentences: where they end, and how short ones are joined."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, strategies as st

from livekit.agents import tokenize
from livekit.agents.tokenize import basic, blingfire

TEXT = (
    "Hello there! This is a platform for live audio and video. \n\n"
    "The price is 3.14 dollars... or so! Mr. Smith runs it. \nShort one.\nYes! No? Maybe."
)

BASIC = [
    "Hello there! This is a platform for live audio and video.",
    "The price is 3.14 dollars... or so!",
    "Mr. Smith runs it. Short one.",
    "Yes! No? Maybe.",
]


def split(text: str, min_sentence_len: int = 0) -> list[str]:
    return basic.SentenceTokenizer(min_sentence_len=min_sentence_len).tokenize(text)


@pytest.mark.parametrize("tokenizer", [basic.SentenceTokenizer(), blingfire.SentenceTokenizer()])
def test_short_sentences_are_joined_with_the_next(tokenizer: tokenize.SentenceTokenizer) -> None:
    assert tokenizer.tokenize(TEXT) == BASIC


def test_every_sentence_alone_without_a_minimum() -> None:
    assert split("One. Two! Three?") == ["One.", "Two!", "Three?"]
    assert blingfire.SentenceTokenizer(min_sentence_len=0).tokenize("One. Two! Three?") == [
        "One.",
        "Two!",
        "Three?",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Mr. St. Mrs. Ms. Dr. Who",
        "see example.com and a.net or b.org, c.io, d.gov, e.edu, f.me",
        "pi is 3.14159 today",
        "well... maybe.. who knows",
        "he has a Ph.D. in physics",
        "meet John F. Kennedy now",
        "the U.S. army and the U.S.A. team",
        "the shop closes at 5 p.m. on Monday, e.g. today",
        "Acme Inc. and Acme Ltd. and Sons Co. with King Jr. and Sr. members",
    ],
)
def test_dots_that_end_nothing(text: str) -> None:
    assert split(text) == [text]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("He works at Acme Inc. He likes it.", ["He works at Acme Inc.", "He likes it."]),
        ("I love the U.S.A. This is why.", ["I love the U.S.A.", "This is why."]),
        ("We live in the U.S. But not now.", ["We live in the U.S.", "But not now."]),
        ('He said "Stop." Then left.', ['He said "Stop."', "Then left."]),
        ("Sie sagte “Ja!” Gut.", ["Sie sagte “Ja!”", "Gut."]),
        ("你好。再见！是吗？", ["你好。", "再见！", "是吗？"]),
        ("مرحبا؟ نعم۔ لا.", ["مرحبا؟", "نعم۔", "لا."]),
        ("नमस्ते। ठीक है॥ हाँ", ["नमस्ते।", "ठीक है॥", "हाँ"]),
        ("First line\nsecond line. Third", ["First line second line.", "Third"]),
    ],
)
def test_ends_of_sentences(text: str, sentences: list[str]) -> None:
    assert split(text) == sentences


def test_basic_with_retained_format_also_ends_at_line_breaks() -> None:
    tokenizer = basic.SentenceTokenizer(min_sentence_len=5, retain_format=True)

    assert tokenizer.tokenize("A title\n\n- first item\n- second one.  Done ") == [
        "A title\n",
        "\n- first item\n",
        "- second one.",
        "  Done ",
    ]


def test_retained_format_needs_more_than_the_minimum() -> None:
    text = "1234. 5678."

    assert basic.SentenceTokenizer(min_sentence_len=5).tokenize(text) == ["1234.", "5678."]
    assert basic.SentenceTokenizer(min_sentence_len=5, retain_format=True).tokenize(text) == [text]


def test_blingfire_keeps_the_format_when_asked() -> None:
    tokenizer = blingfire.SentenceTokenizer(min_sentence_len=5, retain_format=True)

    assert tokenizer.tokenize("Hello there. \n\nHow are\n you? Fine") == [
        "Hello there.",
        " \n\nHow are\n you?",
        " Fine",
    ]


def test_blingfire_knows_the_danda() -> None:
    tokenizer = blingfire.SentenceTokenizer(min_sentence_len=1)

    assert tokenizer.tokenize("नमस्ते।” आप कैसे हैं॥ ठीक।है") == ["नमस्ते।”", "आप कैसे हैं॥", "ठीक।है"]


@pytest.mark.parametrize("text", ["", " ", " \n\t "])
def test_blank_text_has_no_sentences(text: str) -> None:
    assert basic.SentenceTokenizer().tokenize(text) == []
    assert blingfire.SentenceTokenizer().tokenize(text) == []
    assert blingfire.SentenceTokenizer(retain_format=True).tokenize(text) == []


texts = st.text(alphabet=st.sampled_from('ab A1.!?。। \n"”…é😀<'), max_size=60)


@given(texts, st.integers(0, 8))
def test_retained_format_loses_nothing(text: str, min_len: int) -> None:
    for tokenizer in (
        basic.SentenceTokenizer(min_sentence_len=min_len, retain_format=True),
        blingfire.SentenceTokenizer(min_sentence_len=min_len, retain_format=True),
    ):
        assert "".join(tokenizer.tokenize(text)) == (text if text.strip() else "")


@given(texts, st.integers(0, 8))
def test_sentences_are_trimmed_lines_of_all_the_words(text: str, min_len: int) -> None:
    for tokenizer in (
        basic.SentenceTokenizer(min_sentence_len=min_len),
        blingfire.SentenceTokenizer(min_sentence_len=min_len),
    ):
        sentences = tokenizer.tokenize(text)
        assert "".join("".join(sentences).split()) == "".join(text.split())
        for sentence in sentences:
            assert sentence == sentence.strip() != ""
            assert "\n" not in sentence
        for sentence in sentences[:-1]:
            assert len(sentence) >= min_len


def test_paragraphs_are_cut_at_blank_lines() -> None:
    text = "\n first line\nsecond line\n\n\n   \n next \n \n"

    assert basic.tokenize_paragraphs(text) == ["first line\nsecond line", "next"]


def test_importing_the_tokenizers_does_not_load_blingfire() -> None:
    program = (
        "import sys; from livekit.agents.tokenize import blingfire, basic;"
        "blingfire.SentenceTokenizer().stream(); sys.exit('livekit.blingfire' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
