"""The main job on real speech: heard, answered, interrupted, tools called, hung up, closed."""

from __future__ import annotations

import asyncio
import io
import threading
import wave
from html.parser import HTMLParser
from pathlib import Path

import offline_call
import pytest
from livekit import rtc
from phone.callers import (
    CallerFileError,
    RecordedCaller,
    ScriptedCaller,
    read_recording,
)
from phone.display import Display
from phone.line import SAMPLE_RATE, SAMPLES, LineOutput, PhoneLine
from receptionist import receptionist_rules

from livekit.agents.llm import ChatContext, FunctionCallOutput

SPEED = 1.5
"""Faster than life, and slow enough for a machine that does other things as well."""


@pytest.mark.real_time
async def test_a_call_from_the_greeting_to_what_is_left_of_it(tmp_path: Path) -> None:
    screen = io.StringIO()
    threads_before = threading.active_count()
    call = offline_call.Call(Display(screen), speed=SPEED)
    await call.run(ScriptedCaller(offline_call.synthesise, call))

    heard = [entry.text for entry in call.log.entries if entry.kind == "heard"]
    assert any("opening hours" in text for text in heard)
    assert any("book" in text and "table" in text and "two people" in text for text in heard)
    assert any("reservation" in text for text in heard)
    assert any(entry.kind == "interim" for entry in call.log.entries)

    tools = [entry.text for entry in call.log.entries if entry.kind == "tool"]
    assert tools == ["opening_hours", "book_table", "find_reservation"]
    agent = call.session.current_agent
    assert isinstance(agent, offline_call.Receptionist)
    assert [booking["people"] for booking in agent.bookings] == [2]

    replies = [m for m in call.session.history.messages() if m.role == "assistant"]
    interrupted = [m for m in replies if m.interrupted]
    assert len(interrupted) == 1
    text = interrupted[0].text_content or ""
    assert text.startswith("On weekdays") and "anything else" not in text, "only what was heard"
    assert any("booked a table for 2 people" in (m.text_content or "") for m in replies)

    report = call.log.report
    assert report is not None and report.finished_at is not None
    options = call.session.options
    assert report.finished_at - report.requested_at <= options.forced_drain_timeout + 0.6
    assert report.cut_off and not report.survivors
    last_output = next(
        i for i in reversed(call.session.history.items) if isinstance(i, FunctionCallOutput)
    )
    assert last_output.name == "find_reservation" and last_output.is_error
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await asyncio.sleep(1.0)  # a thread may still finish the sentence it was making
    assert threading.active_count() <= threads_before + 1, "executors of the loop at most"

    assert offline_call.finish(call, Display(screen), tmp_path, sockets=0) == 0
    _check_files(tmp_path)
    shown = screen.getvalue()
    assert "\x1b" not in shown, "no escape codes when nobody looks at a terminal"
    assert "How the session closed" in shown and "find_reservation" in shown


def _check_files(out: Path) -> None:
    with wave.open(str(out / "call.wav")) as file:
        assert (file.getnchannels(), file.getframerate()) == (2, SAMPLE_RATE)
        assert file.getnframes() > 20 * SAMPLE_RATE
    assert "caller: what are your opening hours" in (out / "transcript.txt").read_text()
    page = (out / "timeline.html").read_text()
    assert "http://" not in page and "https://" not in page, "the page needs nothing else"
    _Balanced().feed(page)


class _Balanced(HTMLParser):
    """Fails on a tag that is closed without being open."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "line", "rect", "polygon"})

    def __init__(self) -> None:
        super().__init__()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open and self._open.pop() == tag


# -- what a caller's file may be ------------------------------------------------------------------


def _wav(path: Path, pcm: bytes, rate: int = 8000, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm)
    return path


def test_files_that_hold_no_caller_are_refused_in_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    text = tmp_path / "letter.wav"
    text.write_text("Dear Sir or Madam")
    cases = {
        tmp_path / "missing.wav": "there is no such file",
        tmp_path: "there is no such file",
        empty: "is empty",
        text: "not an audio file",
        _wav(tmp_path / "header.wav", b""): "no audio",
        _wav(tmp_path / "silent.wav", bytes(16000)): "silent",
    }
    for path, reason in cases.items():
        with pytest.raises(CallerFileError, match=reason) as caught:
            read_recording(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_channel_count_is_read(tmp_path: Path, rate: int, channels: int) -> None:
    high, low = (1000).to_bytes(2, "little"), (-1000).to_bytes(2, "little", signed=True)
    pcm = (high * channels * 8 + low * channels * 8) * (rate // 16)
    read = read_recording(_wav(tmp_path / "a.wav", pcm, rate, channels))
    assert len(read) / (2 * SAMPLE_RATE) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("path", ["missing.wav", "letter.txt"])
def test_the_command_says_why_and_exits_with_2(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letter.txt").write_text("not a sound")
    monkeypatch.setattr("sys.argv", ["offline_call.py", "--caller", str(tmp_path / path)])
    assert offline_call.main() == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


# -- the line ---------------------------------------------------------------------------------------


def _frame(samples: int) -> rtc.AudioFrame:
    return rtc.AudioFrame(b"\x01\x01" * samples, SAMPLE_RATE, 1, samples)


async def test_the_line_plays_each_segment_once_and_to_its_end() -> None:
    output = LineOutput()
    for seconds in (0.1, 0.05):
        await output.capture_frame(_frame(int(SAMPLE_RATE * seconds)))
        output.flush()
    heard = b"".join(output.tick() for _ in range(20))
    assert heard.count(b"\x01\x01") == int(SAMPLE_RATE * 0.15)
    event = await output.wait_for_playout()
    assert not event.interrupted and event.playback_position == pytest.approx(0.05)


async def test_the_line_falls_silent_and_says_how_far_it_got() -> None:
    output = LineOutput()
    await output.capture_frame(_frame(SAMPLE_RATE))
    output.flush()
    for _ in range(10):
        output.tick()
    output.pause()
    assert output.tick() == bytes(2 * SAMPLES) and not output.playing
    output.resume()
    output.clear_buffer()
    event = await output.wait_for_playout()
    assert event.interrupted and event.playback_position == pytest.approx(0.2)


async def test_a_recorded_caller_waits_for_the_last_answer() -> None:
    class Agent:
        agent_speaking = False
        looking_up = False

    agent = Agent()
    caller = RecordedCaller(b"\x01\x01" * SAMPLES * 3, agent)
    line = PhoneLine(caller, speed=1.0)
    agent.agent_speaking = True
    asyncio.get_running_loop().call_later(5.0, lambda: setattr(agent, "agent_speaking", False))
    await line.run()
    assert line.seconds == pytest.approx(5.0 + RecordedCaller.PATIENCE, abs=0.1)


# -- the rules --------------------------------------------------------------------------------------


async def _answer(said: str) -> tuple[str, str | None]:
    chat_ctx = ChatContext.empty()
    chat_ctx.add_message(role="user", content=said)
    async with receptionist_rules().chat(chat_ctx=chat_ctx) as stream:
        response = await stream.collect()
    return response.text, response.tool_calls[0].name if response.tool_calls else None


@pytest.mark.parametrize(
    ("said", "tool"),
    [
        ("what are your opening hours", "opening_hours"),
        ("i would like to book a table for two people tomorrow evening", "book_table"),
        ("can you look up my reservation please", "find_reservation"),
        ("thank you goodbye", None),
        ("the weather is nice", None),
    ],
)
async def test_the_receptionist_knows_what_is_wanted(said: str, tool: str | None) -> None:
    text, called = await _answer(said)
    assert called == tool
    assert text or called
