"""Token streams: text in pieces in, tokens out as soon as they are complete."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given, strategies as st

from livekit.agents import tokenize
from livekit.agents.tokenize import basic, blingfire
from livekit.agents.tokenize.token_stream import BufferedTokenStream
from livekit.agents.utils.aio.task_scope import TaskScope


def sentences(text: str) -> list[tuple[str, int, int]]:
    return [(m[0].strip(), m.start(), m.end()) for m in re.finditer(r"\s*[^.\s][^.]*\.?", text)]


def plain_sentences(text: str) -> list[str]:
    return [token for token, _, _ in sentences(text)]


def ready(stream: BufferedTokenStream) -> list[str]:
    """The tokens emitted so far."""
    tokens = []
    while stream._event_ch.qsize():
        tokens.append(stream._event_ch.recv_nowait().token)
    return tokens


def open_stream(**options: object) -> tokenize.BufferedSentenceStream:
    defaults = {"tokenizer": sentences, "min_token_len": 1, "min_ctx_len": 1}
    return tokenize.BufferedSentenceStream(**{**defaults, **options})  # type: ignore[arg-type]


async def collect(stream: tokenize.SentenceStream | tokenize.WordStream) -> list[str]:
    return [event.token async for event in stream]


def test_a_token_is_complete_when_another_follows() -> None:
    stream = open_stream()

    stream.push_text("One.")
    assert ready(stream) == []
    stream.push_text(" T")
    assert ready(stream) == ["One."]
    stream.push_text("wo. Three. F")
    assert ready(stream) == ["Two.", "Three."]


def test_nothing_is_looked_for_below_the_context_length() -> None:
    stream = open_stream(min_ctx_len=10)

    stream.push_text("A. B. C.")
    assert ready(stream) == []
    stream.push_text(" D")
    assert ready(stream) == ["A.", "B.", "C."]


def test_short_tokens_are_joined() -> None:
    stream = open_stream(min_token_len=6)

    stream.push_text("A. B. C. D. E")

    assert ready(stream) == ["A. B. C."]
    stream.flush()
    assert ready(stream) == ["D. E"]


def test_tokens_are_not_joined_beyond_the_maximum() -> None:
    stream = open_stream(min_token_len=9, max_token_len=9)

    stream.push_text("Aaaa. Bb. Cccc. This is long already. D. E")
    assert ready(stream) == ["Aaaa. Bb.", "Cccc.", "This is long already."]
    stream.push_text(". Ffffff. G. H. I")
    stream.flush()
    assert ready(stream) == ["D. E.", "Ffffff.", "G. H. I"]


def test_tokens_without_offsets_are_looked_up() -> None:
    stream = open_stream(tokenizer=plain_sentences)

    stream.push_text("One.  Two. Three")
    assert ready(stream) == ["One.", "Two."]
    stream.flush()
    assert ready(stream) == ["Three"]


def test_retained_format_joins_without_a_space() -> None:
    stream = open_stream(
        tokenizer=basic.SentenceTokenizer(min_sentence_len=1, retain_format=True)._split,
        min_token_len=8,
        retain_format=True,
    )

    stream.push_text("First one. Two. Then three. ")
    stream.flush()

    assert ready(stream) == ["First one.", " Two. Then three. "]


async def test_segments_begin_with_each_flush() -> None:
    stream = open_stream(max_token_len=5)
    stream.push_text("One. Two.")
    stream.flush()
    stream.push_text("Three.")
    stream.end_input()

    events = [event async for event in stream]

    assert [event.token for event in events] == ["One.", "Two.", "Three."]
    first, second, third = (event.segment_id for event in events)
    assert first == second != third
    assert re.fullmatch("[0-9a-f]{12}", first)


def test_flushing_nothing_emits_nothing() -> None:
    stream = open_stream()
    stream.push_text("")
    stream.flush()
    stream.push_text("  ")
    stream.flush()

    assert ready(stream) == []


async def test_close_drops_what_is_held_back() -> None:
    stream = open_stream()
    stream.push_text("One. Two")
    open_before = not stream.closed

    await stream.aclose()
    await stream.aclose()

    assert open_before
    assert stream.closed
    assert await collect(stream) == ["One."]


@pytest.mark.parametrize("close", ["end_input", "aclose"])
async def test_a_closed_stream_takes_no_more_text(close: str) -> None:
    stream = basic.WordTokenizer().stream()
    if close == "end_input":
        stream.end_input()
    else:
        await stream.aclose()

    closed = pytest.raises(RuntimeError, match="BufferedWordStream is closed")
    with closed:
        stream.push_text("x")
    with closed:
        stream.push_text("")
    with closed:
        stream.flush()


async def test_close_wakes_a_waiting_reader() -> None:
    stream = blingfire.SentenceTokenizer().stream()
    reader = TaskScope("test").spawn(collect(stream))
    await asyncio.sleep(0)

    await stream.aclose()

    assert await reader == []


LONG_TEXT = (
    "Hi! This is the first sentence of a longer text. Dr. Smith, who is 3.5 m tall, said "
    '"Never." And then?\nHe left. 你好，世界。 The end... or not. Ok'
)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8))
async def test_words_are_the_same_in_any_chunking(sizes: list[int]) -> None:
    tokenizer = basic.WordTokenizer(ignore_punctuation=False, split_character=True)
    stream = tokenizer.stream()
    push_in_pieces(stream, LONG_TEXT, sizes)

    assert await collect(stream) == tokenizer.tokenize(LONG_TEXT)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.booleans(), st.booleans())
async def test_no_text_is_lost_in_any_chunking(
    sizes: list[int], use_basic: bool, retain_format: bool
) -> None:
    make = basic.SentenceTokenizer if use_basic else blingfire.SentenceTokenizer
    stream = make(retain_format=retain_format).stream()
    push_in_pieces(stream, LONG_TEXT, sizes)

    tokens = await collect(stream)

    if retain_format:
        assert "".join(tokens) == LONG_TEXT
    else:
        assert "".join("".join(tokens).split()) == "".join(LONG_TEXT.split())
    assert all(len(token) >= 20 for token in tokens[:-1])


def push_in_pieces(
    stream: tokenize.SentenceStream | tokenize.WordStream, text: str, sizes: list[int]
) -> None:
    start = index = 0
    while start < len(text):
        end = start + sizes[index % len(sizes)]
        stream.push_text(text[start:end])
        start, index = end, index + 1
    stream.end_input()


def xml_stream(**options: object) -> tokenize.BufferedSentenceStream:
    return open_stream(xml_aware=True, **options)


def test_tags_are_invisible_and_belong_to_the_text_they_open_or_close() -> None:
    stream = xml_stream(min_token_len=4)

    stream.push_text('<b>One.</b> <i a="x.y">Two.</i><br/>Three. Four')

    assert ready(stream) == ["<b>One.</b>", '<i a="x.y">Two.</i>', "<br/>Three."]
    stream.flush()
    assert ready(stream) == ["Four"]


def test_a_sentence_waits_until_its_tags_are_closed() -> None:
    stream = xml_stream()

    stream.push_text("<slow>One. Two. Three")
    assert ready(stream) == []
    stream.push_text(".</slow> Four")
    assert ready(stream) == ["<slow>One. Two. Three.</slow>"]


def test_a_partial_tag_at_the_end_waits() -> None:
    stream = xml_stream()

    stream.push_text("One. <")
    stream.push_text("expr.x label='a. b. c")
    assert ready(stream) == []
    stream.push_text("'/>Two. Three")
    assert ready(stream) == ["One.", "<expr.x label='a. b. c'/>Two."]


def test_less_than_is_text() -> None:
    stream = xml_stream()

    stream.push_text("3 < 5. And 6 <7. Ok")

    assert ready(stream) == ["3 < 5.", "And 6 <7."]


def test_a_tag_alone_goes_with_what_follows() -> None:
    stream = xml_stream()

    stream.push_text('<break time="1s"/>')
    assert ready(stream) == []
    stream.push_text("Two. Three")
    assert ready(stream) == ['<break time="1s"/>Two.']


def test_tags_at_the_very_end_are_kept() -> None:
    stream = xml_stream()
    stream.push_text('One. Two.<break time="1s"/>')
    stream.flush()
    stream.push_text("<sound/>")
    stream.flush()

    assert ready(stream) == ["One.", 'Two.<break time="1s"/>', "<sound/>"]


def test_line_breaks_next_to_tags_are_normalized_as_without_tags() -> None:
    stream = blingfire.SentenceTokenizer(min_sentence_len=1, xml_aware=True).stream()
    assert isinstance(stream, BufferedTokenStream)

    stream.push_text("<b>This is\nit.</b>\nNext one. Then")

    assert ready(stream) == ["<b>This is it.</b>", "Next one."]


def test_a_failing_tokenizer_leaves_tagged_text_whole(caplog: pytest.LogCaptureFixture) -> None:
    def broken(text: str) -> list[str]:
        raise LookupError("no model")

    stream = xml_stream(tokenizer=broken)
    stream.push_text("<b>One.</b> Two.")
    stream.flush()

    assert ready(stream) == ["<b>One.</b> Two."]
    assert "no model" in caplog.text


tagged = st.lists(
    st.sampled_from(
        ["<b>", "</b>", "<br/>", '<x y="1. 2"/>', "One. ", "two ", "3 < 4. ", "<", "</", ">", "\n"]
    ),
    max_size=14,
).map("".join)


@given(tagged, st.lists(st.integers(1, 9), min_size=1, max_size=5))
async def test_no_tag_is_cut_and_nothing_is_lost(text: str, sizes: list[int]) -> None:
    stream = blingfire.SentenceTokenizer(
        min_sentence_len=3, retain_format=True, xml_aware=True
    ).stream()
    push_in_pieces(stream, text, sizes)

    tokens = await collect(stream)

    assert "".join(tokens).strip() == text.strip()
    tags = re.findall(r"</?[A-Za-z]\w*[^<>]*>", text)
    assert [tag for token in tokens for tag in re.findall(r"</?[A-Za-z]\w*[^<>]*>", token)] == tags
