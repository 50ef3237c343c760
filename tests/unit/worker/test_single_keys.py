"""Single keys: how they are told apart, and read from a real terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from fakes.terminal import terminal
from livekit.agents.cli.keyboard import LineEditor
from livekit.agents.cli.readchar import INTERRUPT_KEYS, KeyDecoder, key

KEYS = [
    value
    for name in dir(key)
    if not name.startswith("_") and isinstance(value := getattr(key, name), str)
]
LETTERS = ["a", "é", "漢", "🙂", "?"]


@given(st.lists(st.sampled_from([k for k in KEYS if k != key.ESC] + LETTERS)), st.data())
def test_keys_come_out_however_their_bytes_are_cut(pressed: list[str], data: st.DataObject) -> None:
    sent, decoder, read = "".join(pressed).encode(), KeyDecoder(), list[str]()
    while sent:
        size = data.draw(st.integers(1, len(sent)))
        read += decoder.feed(sent[:size])
        sent = sent[size:]
    assert read == pressed and not decoder.waiting


def test_escape_is_a_key_only_when_nothing_follows() -> None:
    decoder = KeyDecoder()
    assert decoder.feed(b"\x1b") == [] and decoder.waiting
    assert decoder.flush() == [key.ESC] and not decoder.waiting
    assert decoder.flush() == []


def test_ctrl_c_interrupts() -> None:
    assert INTERRUPT_KEYS == [key.CTRL_C]


@pytest.mark.parametrize(
    ("pressed", "line"),
    [
        (["h", "i"], "hi"),
        (["h", "a", key.BACKSPACE, "i"], "hi"),
        (["o", "h", " ", "n", "o", key.CTRL_W, "y"], "oh y"),
        (["x", key.CTRL_U, "y"], "y"),
        ([key.BACKSPACE, key.CTRL_W, key.UP, key.ESC, "y"], "y"),
    ],
)
def test_a_line_is_edited_key_by_key(pressed: list[str], line: str) -> None:
    editor = LineEditor()
    assert [editor.press(each) for each in pressed] == [None] * len(pressed)
    assert editor.text == line
    assert editor.press(key.LF) == line and editor.text == ""


PROGRAM = """
from livekit.agents.cli.readchar import key, readchar, readkey
print("ready", flush=True)
print("char", repr(readchar()), flush=True)
print("char", repr(readchar()), flush=True)
print("up" if readkey() == key.UP else "no", flush=True)
print("letter", readkey(), flush=True)
print("esc" if readkey() == key.ESC else "no", flush=True)
try:
    readkey()
except KeyboardInterrupt:
    print("interrupted", flush=True)
input()
"""


@pytest.mark.real_time
async def test_keys_are_read_from_a_terminal_which_is_left_as_it_was(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    async with terminal(program) as screen:
        before = screen.settings()
        await screen.shows("ready")
        await screen.takes_single_keys()
        screen.type("x")
        await screen.shows("char 'x'")
        await screen.takes_single_keys()
        screen.interrupt()  # one character like any other
        await screen.shows("char '\\x03'")
        await screen.takes_single_keys()
        screen.type(key.UP)
        await screen.shows("up")
        await screen.takes_single_keys()
        screen.type("ü")
        await screen.shows("letter ü")
        await screen.takes_single_keys()
        screen.type(key.ESC)
        await screen.shows("esc")
        await screen.takes_single_keys()
        screen.interrupt()
        await screen.shows("interrupted")
        assert screen.settings() == before
        screen.type("\n")
        assert await screen.exits() == 0


@pytest.mark.real_time
async def test_an_input_that_has_ended_has_no_more_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from livekit.agents.cli import readchar

    typed = tmp_path / "typed"
    typed.write_bytes("ü\x1b[A\x1b".encode())
    with typed.open(encoding="utf-8") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert readchar.readchar() == "ü"
        assert readchar.readkey() == key.UP and readchar.readkey() == key.ESC
        for read in (readchar.readchar, readchar.readkey):
            with pytest.raises(EOFError):
                read()
