"""One markup for language models, lowered for each provider, and removed from what people read."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, strategies as st

from fakes.tts import FakeTTS, heard, timed_words
from livekit.agents.tts import StreamAdapter
from livekit.agents.tts._mood import match_mood
from livekit.agents.tts._provider_format import (
    DIALECTS,
    TranscriptMarkupStripper,
    convert_markup,
    drop_bracket_cues,
    expression_attribute,
    llm_instructions,
    max_input_len,
    normalize_markup,
    sentence_tokenizer,
    split_all_markup,
    steering_instructions,
    strip_all_markup,
    strip_expr_markup,
    supported_nonverbals,
)
from livekit.agents.tts.markup_utils import convert_expression_tags, extract_and_strip
from livekit.agents.types import TimedString


def expr(kind: str, label: str) -> str:
    return f'<expr type="{kind}" label="{label}"/>'


def wrapped(label: str, words: str, kind: str = "prosody") -> str:
    return f'<expr type="{kind}" label="{label}">{words}</expr>'


HAPPY = expr("expression", "happy")
LAUGH = expr("sound", "laugh")


# -- lowering


@pytest.mark.parametrize(
    ("provider", "text", "native"),
    [
        ("cartesia", f"{HAPPY} Hi!", '<emotion value="happy"/> Hi!'),
        ("cartesia", f"Wait {expr('break', '1s')} now", 'Wait <break time="1s"/> now'),
        ("cartesia", f"{expr('prosody', 'slow')}Hi", '<speed ratio="0.85"/>Hi'),
        ("cartesia", f"{expr('prosody', 'fast')}Hi", '<speed ratio="1.2"/>Hi'),
        ("cartesia", f"{expr('prosody', 'soft')}Hi", '<volume ratio="0.9"/>Hi'),
        ("cartesia", f"{expr('prosody', 'loud')}Hi", '<volume ratio="1.3"/>Hi'),
        ("cartesia", '<expr type="spell">AB1</expr>', "<spell>AB1</spell>"),
        ("cartesia", f"Ha {LAUGH} ha", "Ha ha"),
        ("inworld", f"{HAPPY} Hi!", "[happy] Hi!"),
        ("inworld", f"Ha {LAUGH} ha", "Ha [laugh] ha"),
        ("inworld", f"Wait {expr('break', '1s')} now", 'Wait <break time="1s"/> now'),
        ("inworld", wrapped("whisper", "come in"), "[whisper] come in"),
        ("inworld", '<expr type="spell">AB1</expr>', "AB1"),
        ("xai", f"Ha {LAUGH} ha", "Ha [laugh] ha"),
        ("xai", f"Oh {expr('sound', 'breathe')} no", "Oh [breath] no"),
        ("xai", f"Oh {expr('sound', 'sneeze')} no", "Oh no"),
        ("xai", f"Say {wrapped('whisper', 'hush')} now", "Say <whisper>hush</whisper> now"),
        ("xai", f"Wait {expr('break', '500ms')} now", "Wait [pause] now"),
        ("xai", f"Wait {expr('break', '1s')} now", "Wait [long-pause] now"),
        ("xai", f"{HAPPY} Hi!", "Hi!"),
        ("fishaudio", f"{HAPPY} Hi!", "[very happy] Hi!"),
        ("fishaudio", f"Ha {LAUGH} ha", "Ha [laughing] ha"),
        ("fishaudio", f"Wait {expr('break', '1200ms')} now", "Wait [long-break] now"),
        ("fishaudio", f"Wait {expr('break', '0.3s')} now", "Wait [break] now"),
        ("fishaudio", f"I {wrapped('emphasis', 'really')} do", "I [emphasis] really do"),
        ("fishaudio", wrapped("whisper", " come in"), "[whispering] come in"),
        ("fishaudio_drama", f"{HAPPY} Hi!", "[happy] Hi!"),
        ("fishaudio_drama", wrapped("whispering", "hush"), "<whisper>hush</whisper>"),
        ("fishaudio_drama", f"Wait {expr('break', '1s')} now", "Wait [pause] now"),
        ("fishaudio_drama", f"Wait {expr('break', '1ms')} now", "Wait [short pause] now"),
        ("gemini", f"Ha {LAUGH} ha", "Ha <laugh> ha"),
        ("gemini", f"Wait {expr('break', '2s')} now", "Wait <short pause> now"),
        ("gemini", f"I {wrapped('emphasis', 'really')} do", "I REALLY do"),
        ("gemini", f"{HAPPY} Hi!", f"{HAPPY} Hi!"),
        ("", f"{HAPPY} Hi!", f"{HAPPY} Hi!"),
    ],
)
def test_each_provider_gets_what_it_understands(provider: str, text: str, native: str) -> None:
    assert convert_markup(provider, text) == native


def test_words_in_unsupported_markup_survive() -> None:
    for provider in DIALECTS:
        assert "come in" in convert_markup(provider, f"please {wrapped('yodel', 'come in')} now")
        assert "come in" in convert_markup(provider, f"please {wrapped('x', 'come in', 'dance')}")


def test_a_wrapper_that_was_left_open_is_closed_at_the_end() -> None:
    text = '<expr type="prosody" label="whisper">hush'
    assert convert_markup("xai", text) == "<whisper>hush</whisper>"


def test_a_stray_end_tag_vanishes() -> None:
    assert convert_markup("xai", "hush </expr> now") == "hush now"


def test_native_markers_are_lowered_too() -> None:
    assert convert_markup("inworld", 'Hi <sound value="laugh"/> there') == "Hi [laugh] there"


def test_wrappers_nest() -> None:
    inner = wrapped("whisper", "hush")
    assert convert_markup("xai", wrapped("slow", f"now {inner} then")) == (
        "<slow>now <whisper>hush</whisper> then</slow>"
    )
    assert convert_markup("gemini", wrapped("emphasis", f"a {wrapped('x', 'b')} c")) == "A B C"


# -- what language models forget


@pytest.mark.parametrize(
    ("provider", "text", "closed"),
    [
        ("inworld", '<expr type="sound" label="laugh"> hi', f"{LAUGH} hi"),
        ("inworld", '<expr type="expression" label="happy">hi</expr>', f"{HAPPY}hi"),
        ("inworld", wrapped("whisper", "hush"), wrapped("whisper", "hush")),
        ("cartesia", '<break time="1s"> hi', '<break time="1s"/> hi'),
        ("cartesia", '<emotion value="sad">oh</emotion> no', '<emotion value="sad"/>oh no'),
        ("cartesia", "<spell>AB</spell>", "<spell>AB</spell>"),
        ("fishaudio", '<sound value="laugh">', '<sound value="laugh"/>'),
        ("xai", "<whisper>hush", "<whisper>hush"),
        ("inworld", '<expr type="sou', '<expr type="sou'),
        ("", '<expr type="sound" label="laugh">', '<expr type="sound" label="laugh">'),
    ],
)
def test_markers_that_stand_alone_are_closed(provider: str, text: str, closed: str) -> None:
    assert normalize_markup(provider, text) == closed


def test_spaces_at_the_ends_of_a_piece_are_kept() -> None:
    assert normalize_markup("inworld", f" a {LAUGH} b ") == f" a {LAUGH} b "


# -- what people read


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"{HAPPY} Hello there", "Hello there"),
        (f"Hello {LAUGH} there", "Hello there"),
        (f"Hello{LAUGH} there", "Hello there"),
        (f"Hello {LAUGH}there", "Hello there"),
        (f"Haha {LAUGH}, right", "Haha, right"),
        (f"Hello {LAUGH}", "Hello"),
        (f"One.\n{HAPPY} Two.", "One.\nTwo."),
        (f"One {LAUGH}\nTwo", "One\nTwo"),
        (f"a {HAPPY} {LAUGH} b", "a b"),
        (f"say {wrapped('whisper', 'hush')}, now", "say hush, now"),
        ('<emotion value="sad"/>Oh <spell>AB</spell>', "Oh AB"),
        ("wait <short pause> now", "wait now"),
        ("keep [this] and 3 < 5 and <b>that</b>", "keep [this] and 3 < 5 and <b>that</b>"),
        ("two  spaces", "two  spaces"),
    ],
)
def test_markup_leaves_no_trace_in_the_transcript(text: str, clean: str) -> None:
    assert strip_all_markup(text) == clean


def test_tags_are_listed_in_order() -> None:
    text = f'{HAPPY} Oh {wrapped("slow", "well")} <break time="1s"/>'
    assert split_all_markup(text)[1] == [
        {"type": "expression", "value": "happy"},
        {"type": "prosody", "value": "slow"},
        {"type": "break", "value": "1s"},
    ]


def test_history_loses_only_the_common_markup() -> None:
    assert strip_expr_markup(f"{HAPPY} Hi <emotion value='x'/>") == "Hi <emotion value='x'/>"
    assert strip_expr_markup('cut off <expr type="so') == "cut off"
    assert strip_expr_markup("a < b") == "a < b"


def test_a_piece_in_the_middle_of_a_line_keeps_its_spaces() -> None:
    assert strip_all_markup(f"{LAUGH} then", at_line_start=False) == " then"
    assert strip_all_markup(f"so {LAUGH}", at_text_end=False) == "so "


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_pieces_of_any_size_give_the_same_transcript(size: int) -> None:
    text = f"{HAPPY} Well, {LAUGH} 3 < 5 and {wrapped('slow', 'so on')}.\n{HAPPY} Next {LAUGH} "
    stripper = TranscriptMarkupStripper()
    pieces = [stripper.push(text[n : n + size]) for n in range(0, len(text), size)]
    assert "".join([*pieces, stripper.flush()]) == strip_all_markup(text)
    assert stripper.tags == split_all_markup(text)[1]
    attribute = stripper.expression_attribute()
    assert attribute is not None and "happy" in attribute["lk.expression"]


def test_text_is_shown_as_soon_as_it_is_certain() -> None:
    stripper = TranscriptMarkupStripper()
    assert stripper.push("Hello ") == "Hello"
    assert stripper.push("world <e") == " world"
    assert stripper.push(f"xpr {HAPPY[6:]}") == ""
    assert stripper.push("!") == "!"
    assert stripper.push(" 3 < 5") == " 3 < 5"
    assert stripper.push("<" + "x" * 300) == "<" + "x" * 300, "no tag is that long"
    assert stripper.flush() == ""


TEXTS = st.lists(
    st.sampled_from(
        [
            "word",
            " ",
            "  ",
            "\n",
            ", ",
            "<",
            "< ",
            ">",
            "[x]",
            HAPPY,
            LAUGH,
            "</expr>",
            "<slow>",
            '<break time="1s"/>',
            wrapped("slow", "so"),
        ]
    ),
    max_size=12,
).map("".join)


@given(text=TEXTS, cuts=st.lists(st.integers(1, 9), max_size=20))
def test_no_cut_changes_the_transcript(text: str, cuts: list[int]) -> None:
    stripper = TranscriptMarkupStripper()
    shown, rest = "", text
    for cut in cuts:
        shown += stripper.push(rest[:cut])
        rest = rest[cut:]
    shown += stripper.push(rest) + stripper.flush()
    assert shown == strip_all_markup(text)
    assert stripper.tags == split_all_markup(text)[1]


@given(text=TEXTS)
def test_nothing_but_markup_and_space_is_removed(text: str) -> None:
    clean = strip_all_markup(text)
    without = re.sub(r"</?(expr|slow|break)\b[^<>]*>", "", text)
    assert re.sub(r"\s", "", clean) == re.sub(r"\s", "", without)


@given(text=TEXTS, provider=st.sampled_from(sorted(DIALECTS)))
def test_lowering_never_loses_a_word(text: str, provider: str) -> None:
    assert convert_markup(provider, text).count("word") == text.count("word")
    again = normalize_markup(provider, normalize_markup(provider, text))
    assert again == normalize_markup(provider, text)


# -- what clients show


def test_the_first_expression_becomes_an_attribute() -> None:
    tags = split_all_markup(f"{LAUGH}{expr('expression', 'really furious')}{HAPPY}")[1]
    attribute = expression_attribute(tags)
    assert attribute == {"lk.expression": '{"expression":"really furious","mood":"angry"}'}
    assert expression_attribute([{"type": "sound", "value": "laugh"}]) is None
    native = expression_attribute([{"type": "emotion", "value": "sad"}])
    assert native is not None and json.loads(native["lk.expression"])["mood"] == "sad"


@pytest.mark.parametrize(
    ("label", "mood"),
    [
        ("warm and cheerful", "happy"),
        ("Excitedly", "excited"),
        ("worried, a bit sad", "sad"),
        ("worried and nervous, a bit sad", "anxious"),
        ("unhappy", "sad"),
        ("", "calm"),
    ],
)
def test_a_mood_is_found_in_a_description(label: str, mood: str) -> None:
    assert match_mood(label) == mood


def test_the_fallback_mood_can_be_chosen() -> None:
    assert match_mood("robotic", fallback="neutral") == "neutral"


# -- timed words


def times(tokens: list[TimedString]) -> list[tuple[str, object]]:
    return [(str(token), token.start_time) for token in tokens]


def test_cues_are_dropped_and_words_keep_their_times() -> None:
    held: list[TimedString] = []
    tokens = [TimedString("Hi ", 0.0), TimedString("[laugh] ", 0.5), TimedString("there", 1.0)]
    assert times(drop_bracket_cues(tokens, held)) == [("Hi ", 0.0), ("there", 1.0)]
    assert held == []


def test_a_cue_may_span_words_and_calls() -> None:
    held: list[TimedString] = []
    first = drop_bracket_cues([TimedString("so[clear ", 0.0)], held)
    second = drop_bracket_cues([TimedString("throat]on", 1.0)], held)
    assert times(first + second) == [("so", 0.0), ("on", 1.0)]


def test_an_open_bracket_is_text_after_all() -> None:
    held: list[TimedString] = []
    assert drop_bracket_cues([TimedString("a [b", 0.0)], held) == ["a "]
    assert drop_bracket_cues([], held, final=True) == ["[b"]
    assert held == []
    long = [TimedString("[", 0.0), *(TimedString("x" * 100, float(n)) for n in range(3))]
    assert len(drop_bracket_cues(long, held)) == 4


def test_single_characters_work_as_well() -> None:
    held: list[TimedString] = []
    tokens = [TimedString(char, float(n)) for n, char in enumerate("a [b][c] d")]
    assert "".join(drop_bracket_cues(tokens, held)) == "a d"


# -- prompts


def test_the_prompt_teaches_what_the_provider_can_do() -> None:
    for provider, dialect in DIALECTS.items():
        prompt = llm_instructions(provider)
        assert prompt is not None
        for sounds in dialect.sounds.values():
            assert all(sound in prompt for sound in sounds)
        assert all(tone in prompt for tone in dialect.prosody)
        assert ('type="expression"' in prompt) == dialect.expressions
        assert ('type="spell"' in prompt) == dialect.spells
    assert llm_instructions("") is None


def test_sounds_that_are_switched_off_appear_nowhere() -> None:
    prompt = llm_instructions("xai", {"nonverbal_sounds": {"laughing": False}})
    assert prompt is not None and "laugh" not in prompt and "giggle" not in prompt
    assert "inhale" in prompt
    silent = llm_instructions("inworld", {"nonverbal_sounds": False})
    assert silent is not None and 'type="sound"' not in silent
    default = llm_instructions("inworld", {"nonverbal_sounds": True})
    assert default == llm_instructions("inworld")


def test_guidelines_tell_only_what_is_unusual() -> None:
    assert steering_instructions("cartesia", None) == ""
    assert steering_instructions("cartesia", {"disfluencies": True, "pace": "normal"}) == ""
    assert steering_instructions("", {"pace": "slow"}) == ""
    text = steering_instructions(
        "inworld",
        {"disfluencies": False, "pace": "slow", "nonverbal_sounds": {"reflex_sounds": False}},
    )
    lines = text.splitlines()
    assert lines[0] == "Delivery guidelines:"
    assert len(lines) == 4 and all(line.startswith("- ") for line in lines[1:])
    assert "reflex sounds" in text
    assert steering_instructions("inworld", {"nonverbal_sounds": False}) == ""


# -- limits and tokenizers


def test_providers_limit_the_length_of_a_request() -> None:
    assert [max_input_len(p) for p in ("inworld", "cartesia", "xai")] == [900, 400, 1000]
    assert max_input_len("fishaudio") is None and max_input_len("") is None


def test_sounds_are_listed_by_category() -> None:
    assert supported_nonverbals("fishaudio")["crying"] == ["sobbing"]
    assert supported_nonverbals("cartesia") == {} == supported_nonverbals("")


async def test_expressive_text_is_cut_into_large_pieces_with_whole_tags() -> None:
    plain = "This is quite a long sentence to speak. "
    for expressive, sentence, pieces in ((True, HAPPY + plain, 3), (False, plain, 12)):
        stream = sentence_tokenizer("cartesia", expressive=expressive).stream()
        stream.push_text(sentence * 12)
        stream.end_input()
        tokens = [token.token async for token in stream]
        assert len(tokens) == pieces
        assert max(map(len, tokens)) <= 400
        if expressive:
            assert all(token.count("<") == token.count("/>") for token in tokens)


# -- in synthesis


async def test_an_expressive_adapter_speaks_native_markup_and_shows_what_was_written() -> None:
    tts = FakeTTS(streaming=False, markup_key="inworld", seconds_per_char=0.002)
    adapter = StreamAdapter(tts=tts)
    adapter._set_expressive(True)
    async with adapter.stream() as stream:
        for piece in ('<expr type="expression" la', 'bel="happy"> Hello there, ', f"you {LAUGH}."):
            stream.push_text(piece)
        stream.end_input()
        audio = [piece async for piece in stream]
    assert tts.attempts == ["[happy] Hello there, you [laugh]."]
    assert "Hello there" in "".join(timed_words(audio))


async def test_a_plain_adapter_leaves_text_alone() -> None:
    tts = FakeTTS(streaming=False, markup_key="inworld")
    async with StreamAdapter(tts=tts).stream() as stream:
        stream.push_text(f"{LAUGH} hi")
        stream.end_input()
        assert heard([piece async for piece in stream]) == f"{LAUGH} hi"


async def test_a_sentence_of_markup_only_is_not_spoken() -> None:
    tts = FakeTTS(streaming=False, markup_key="xai")
    adapter = StreamAdapter(tts=tts)
    adapter._set_expressive(True)
    async with adapter.stream() as stream:
        stream.push_text(HAPPY)
        stream.flush()
        await stream.aclose()
    assert tts.attempts == []


def test_a_synthesizer_tells_its_dialect() -> None:
    markup = FakeTTS(markup_key="inworld").markup
    assert markup.info.nonverbals["sighing"] == ["sigh"]
    assert markup.llm_instructions(speech_steering={}) == llm_instructions("inworld")
    assert markup.convert(markup.normalize('<expr type="sound" label="laugh"> hi')) == "[laugh] hi"
    plain = FakeTTS().markup
    assert plain.info.nonverbals == {}
    assert plain.llm_instructions() is None
    assert plain.convert(HAPPY) == HAPPY


def test_helpers_for_plugins() -> None:
    assert convert_expression_tags('<expression value="happy"/> Hi') == "[happy] Hi"
    clean, tags = extract_and_strip("a <mood is='x'/> b <hide>c</hide>", xml_tags=["mood", "hide"])
    assert (clean, tags) == (
        "a b c",
        [{"type": "mood", "value": "x"}, {"type": "hide", "value": ""}],
    )
