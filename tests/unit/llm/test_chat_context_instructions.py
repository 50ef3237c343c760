"""`Instructions`: rendering per modality, placeholders, templates."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from livekit.agents.llm.chat_context import Instructions

FULL = Instructions("common", audio="speak", text="write", dynamic="today")


def test_static_text_adds_the_part_for_the_modality() -> None:
    assert FULL.render_static() == "common"
    assert FULL.render_static(modality="audio") == "common\n\nspeak"
    assert FULL.render_static(modality="text") == "common\n\nwrite"
    assert Instructions("", audio="speak").render_static(modality="audio") == "speak"
    assert Instructions("common", audio="").render_static(modality="audio") == "common"


def test_dynamic_text_follows_on_the_next_line() -> None:
    assert FULL.render(modality="text") == "common\n\nwrite\ntoday"
    assert Instructions("common", dynamic="").render() == "common"
    assert Instructions(dynamic="today").render() == "today"


def test_placeholders_are_filled_from_nested_data() -> None:
    text = Instructions("{user.name} of {user.address.city}, {age:03d}", dynamic="{now!s}")
    data = {"user": {"name": "Ada", "address": {"city": "London"}}, "age": 36, "now": "noon"}
    assert text.render(data=data) == "Ada of London, 036\nnoon"


def test_missing_values_are_blank_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    text = Instructions("[{name}{user.x.y}{none:>9}{age!r:.2f}]")
    assert text.render(data={"user": {"x": 1}, "none": None}) == "[]"
    assert len(caplog.records) == 1


def test_braces_stay_without_data_and_must_match_with_it() -> None:
    for data in (None, {}):
        assert Instructions('{"json": {name}').render(data=data) == '{"json": {name}'
    with pytest.raises(ValueError):
        Instructions("{name").render(data={"name": 1})


def test_placeholders_do_not_reach_into_objects() -> None:
    assert (
        Instructions("{f.__globals__}").render(
            data={"f": test_braces_stay_without_data_and_must_match_with_it}
        )
        == ""
    )


def test_equality_and_text() -> None:
    assert str(FULL) == "common"
    assert Instructions("a") == "a" and Instructions("a", audio="") == "a"
    assert Instructions("a", dynamic="b") != "a"
    assert Instructions("a") != Instructions("a", audio="")
    assert Instructions("a") != 1
    assert repr(Instructions("a", audio="x")) == "Instructions('a')"
    assert repr(Instructions("a", dynamic="b")) == "Instructions('a', dynamic='b')"


_PARTS = st.none() | st.sampled_from(["", "a", "b"])
_INSTRUCTIONS = st.builds(
    Instructions, st.sampled_from(["", "a"]), audio=_PARTS, text=_PARTS, dynamic=_PARTS
)


@given(_INSTRUCTIONS, _INSTRUCTIONS | st.sampled_from(["", "a"]))
def test_what_is_equal_hashes_alike(a: Instructions, b: Any) -> None:
    assert a != b or hash(a) == hash(b)


class TestTemplate:
    def test_without_instructions_it_is_common(self) -> None:
        assert Instructions.resolve_template("{a} {b}", a=1, b="x") == Instructions("1 x")

    def test_differing_modalities_render_twice(self) -> None:
        tone = Instructions("plainly", audio="briefly", dynamic="ignored")
        resolved = Instructions.resolve_template("Answer {how}, {who}.", how=tone, who="Ada")
        assert resolved == Instructions(audio="Answer briefly, Ada.", text="Answer plainly, Ada.")

    def test_equal_modalities_are_common(self) -> None:
        resolved = Instructions.resolve_template("{a}", a=Instructions("x", dynamic="y"))
        assert resolved == Instructions("x")

    def test_an_empty_addition_removes_the_section(self) -> None:
        resolved = Instructions.resolve_template("a{b}", b=Instructions("x", audio=""))
        assert (resolved.audio, resolved.text) == ("a", "ax")
