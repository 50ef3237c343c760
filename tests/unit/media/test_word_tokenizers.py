"""Words, syllables, and words replaced."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given, strategies as st

from livekit.agents.tokenize import basic
from livekit.agents.tokenize.tokenizer import PUNCTUATIONS, is_punctuation
from livekit.agents.tokenize.utils import replace_words


def test_punctuation_is_ascii_and_typographic_by_list_and_anything_by_category() -> None:
    assert len(PUNCTUATIONS) == 32 + 7
    assert all(map(is_punctuation, PUNCTUATIONS))
    assert is_punctuation("。")
    assert not any(map(is_punctuation, "a1 é你"))


def test_words_without_punctuation() -> None:
    assert basic.WordTokenizer().tokenize("It's a  test - really (now)!") == [
        "Its",
        "a",
        "test",
        "really",
        "now",
    ]


def test_words_with_punctuation() -> None:
    tokenizer = basic.WordTokenizer(ignore_punctuation=False)

    assert tokenizer.tokenize("A - b!") == ["A", "-", "b!"]


def test_words_with_the_white_space_before_them() -> None:
    tokenizer = basic.WordTokenizer(ignore_punctuation=False, retain_format=True)

    assert tokenizer.tokenize(" A  b!\n\nc") == [" A", "  b!", "\n\nc"]


def test_characters_of_scripts_without_spaces_are_words_when_asked() -> None:
    tokenizer = basic.WordTokenizer(split_character=True)

    assert tokenizer.tokenize("私はAPIを使う。สวย ok 안녕") == [
        *"私は",
        "API",
        *"を使う",
        *"สวย",
        "ok",
        "안녕",
    ]


def test_cjk_punctuation_ends_a_word() -> None:
    tokenizer = basic.WordTokenizer(ignore_punctuation=False)

    assert tokenizer.tokenize("你好，世界。안녕！네") == ["你好，", "世界。", "안녕！", "네"]
    assert tokenizer.tokenize("価格は1，234円、１０：３０だ") == [
        "価格は1，234円、",
        "１０：３０だ",
    ]
    assert tokenizer.tokenize("hello，world") == ["hello，world"]


def test_split_words_tells_offsets_and_does_not_cut_at_cjk_punctuation() -> None:
    assert basic.split_words("Hi, you!") == [("Hi", 0, 3), ("you", 4, 8)]
    assert basic.split_words("Hi, you!", ignore_punctuation=False)[0] == ("Hi,", 0, 3)
    assert basic.split_words("你好，世界") == [("你好世界", 0, 5)]
    assert len(basic.split_words("你好，世界", split_character=True)) == 4


def test_words_can_be_joined_again() -> None:
    assert basic.WordTokenizer().format_words(["a", "b"]) == "a b"


@given(st.text(alphabet=st.sampled_from("ab1.,-'， 。\n世界カส"), max_size=40), st.booleans())
def test_retained_words_are_the_text_again(text: str, split_character: bool) -> None:
    tokenizer = basic.WordTokenizer(
        ignore_punctuation=False, split_character=split_character, retain_format=True
    )

    assert "".join(tokenizer.tokenize(text)) == text.rstrip()


@pytest.mark.parametrize(
    ("word", "pieces"),
    [
        ("hyphenation", ["hy", "phen", "ation"]),
        ("Hyphenation", ["Hy", "phen", "ation"]),
        ("associate", ["as", "so", "ciate"]),
        ("project", ["project"]),
        ("table", ["ta", "ble"]),
        ("the", ["the"]),
        ("word", ["word"]),
        ("", [""]),
        ("안녕하세요", ["안녕하세요"]),
    ],
)
def test_hyphenation(word: str, pieces: list[str]) -> None:
    assert basic.hyphenate_word(word) == pieces


@given(st.text(max_size=15))
def test_pieces_are_the_word_again(word: str) -> None:
    pieces = basic.hyphenate_word(word)

    assert "".join(pieces) == word
    assert all(len(piece) >= 2 for piece in (pieces[0], pieces[-1])) or len(word) < 5


REPLACEMENTS = {"LiveKit": "live kit", "e.g.": "for example", "a.b": "AB", "k8s": "kubernetes"}


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        ("I use LiveKit, livekit!", "I use live kit, live kit!"),
        ("Tools, e.g. K8S...", "Tools, for example kubernetes..."),
        ("a.b. x", "AB. x"),
        ("LiveKits and (LiveKit) stay", "LiveKits and (LiveKit) stay"),
        ("  spaces\nstay  k8s ", "  spaces\nstay  kubernetes "),
        ("...", "..."),
        ("", ""),
    ],
)
def test_whole_words_are_replaced_whatever_their_case(text: str, replaced: str) -> None:
    assert replace_words(text=text, replacements=REPLACEMENTS) == replaced


def test_words_in_brackets_after_them_keep_the_bracket() -> None:
    assert replace_words(text="(see k8s)", replacements=REPLACEMENTS) == "(see kubernetes)"


async def pieces_of(text: str, size: int) -> AsyncIterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]


@given(
    st.lists(st.sampled_from(["LiveKit", "e.g.", "k8s,", " ", "\n", "x"]), max_size=12),
    st.integers(1, 9),
)
async def test_a_stream_is_replaced_like_the_whole_text(parts: list[str], size: int) -> None:
    text = "".join(parts)
    stream = replace_words(text=pieces_of(text, size), replacements=REPLACEMENTS)

    assert "".join([piece async for piece in stream]) == replace_words(
        text=text, replacements=REPLACEMENTS
    )


async def test_a_stream_holds_only_the_last_word_back() -> None:
    stream = replace_words(text=pieces_of("use k8s now", 6), replacements=REPLACEMENTS)

    assert [piece async for piece in stream] == ["use ", "kubernetes ", "now"]
