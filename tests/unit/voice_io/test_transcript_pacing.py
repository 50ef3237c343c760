"""Words are shown while they are spoken, and only what was heard counts as said."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given, strategies as st
from livekit import rtc

from livekit.agents.types import TimedString
from livekit.agents.voice import io
from livekit.agents.voice.transcription import TranscriptSynchronizer
from livekit.agents.voice.transcription.word_pacer import WordPacer


class Screen(io.TextOutput):
    """Shows text, and remembers when."""

    def __init__(self) -> None:
        super().__init__(label="screen", next_in_chain=None)
        self.shown: list[tuple[float, str]] = []
        self.flushes = 0

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.shown)

    async def capture_text(self, text: str) -> None:
        self.shown.append((time.time(), str(text)))

    def flush(self) -> None:
        self.flushes += 1


class Player(io.AudioOutput):
    """Plays in the time of the loop; can be paused."""

    def __init__(self) -> None:
        super().__init__(
            label="player", capabilities=io.AudioOutputCapabilities(pause=True), sample_rate=16000
        )
        self._left = 0.0
        self._began: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._played = 0.0

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        first = not self._capturing
        await super().capture_frame(frame)
        self._left += frame.duration
        if first:
            self._played = 0.0
            self._began = time.time()
            self.on_playback_started(created_at=self._began)

    def flush(self) -> None:
        if self._capturing:
            super().flush()
            self._arm()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._left - self._position(), self._done, False)

    def _position(self) -> float:
        return self._played + (time.time() - self._began if self._began is not None else 0.0)

    def _done(self, interrupted: bool) -> None:
        position, self._left, self._began, self._timer = self._position(), 0.0, None, None
        self.on_playback_finished(playback_position=position, interrupted=interrupted)

    def pause(self) -> None:
        self._played, self._began = self._position(), None
        if self._timer is not None:
            self._timer.cancel()

    def resume(self) -> None:
        self._began = time.time()
        self._arm()

    def clear_buffer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._pending_playback_count:
            self._done(True)


def frame(seconds: float) -> rtc.AudioFrame:
    samples = int(16000 * seconds)
    return rtc.AudioFrame(bytes(2 * samples), 16000, 1, samples)


def made() -> tuple[TranscriptSynchronizer, Player, Screen]:
    player, screen = Player(), Screen()
    return (
        TranscriptSynchronizer(next_in_chain_audio=player, next_in_chain_text=screen),
        player,
        screen,
    )


TEXT = "one two three four five six seven eight nine ten"


async def test_words_come_while_they_are_spoken() -> None:
    sync, _, screen = made()
    began = time.time()
    await sync.audio_output.capture_frame(frame(10.0))
    await sync.text_output.capture_text(TEXT)
    sync.audio_output.flush()
    sync.text_output.flush()
    await asyncio.sleep(5.0)
    half = len(screen.text.split())
    assert 4 <= half <= 6
    event = await sync.audio_output.wait_for_playout()
    await sync.barrier()
    assert event.synchronized_transcript == screen.text == TEXT
    assert screen.flushes == 1
    assert all(began <= at <= began + 10.0 for at, _ in screen.shown)
    await sync.aclose()


async def test_an_interruption_keeps_what_was_heard_and_drops_the_rest() -> None:
    sync, _, screen = made()
    await sync.audio_output.capture_frame(frame(10.0))
    await sync.text_output.capture_text(TEXT)
    sync.audio_output.flush()
    sync.text_output.flush()
    await asyncio.sleep(4.0)
    sync.audio_output.clear_buffer()
    event = await sync.audio_output.wait_for_playout()
    heard = event.synchronized_transcript
    assert heard is not None and TEXT.startswith(heard)
    assert 3 <= len(heard.split()) <= 5
    assert screen.text.startswith(heard) and len(screen.text.split()) <= len(heard.split()) + 1
    await asyncio.sleep(10.0)
    assert len(screen.text.split()) <= len(heard.split()) + 1
    await sync.aclose()


async def test_a_pause_stops_the_words_too() -> None:
    sync, _, screen = made()
    await sync.audio_output.capture_frame(frame(10.0))
    await sync.text_output.capture_text(TEXT)
    sync.audio_output.flush()
    sync.text_output.flush()
    await asyncio.sleep(3.0)
    sync.audio_output.pause()
    shown = screen.text
    await asyncio.sleep(60.0)
    assert screen.text == shown
    sync.audio_output.resume()
    await sync.audio_output.wait_for_playout()
    await sync.barrier()
    assert screen.text == TEXT
    await sync.aclose()


async def test_segments_follow_each_other() -> None:
    sync, _, screen = made()
    for text in ("first part. ", "second part."):
        await sync.audio_output.capture_frame(frame(1.0))
        await sync.text_output.capture_text(text)
        sync.audio_output.flush()
        sync.text_output.flush()
        event = await sync.audio_output.wait_for_playout()
        assert event.synchronized_transcript == text
    await sync.barrier()
    assert screen.text == "first part. second part." and screen.flushes == 2
    await sync.aclose()


async def test_text_without_any_audio_is_shown() -> None:
    sync, _, screen = made()
    await sync.text_output.capture_text("nothing to hear")
    sync.text_output.flush()
    sync.audio_output.flush()
    await asyncio.sleep(1.0)
    assert screen.text == "nothing to hear"
    await sync.aclose()


async def test_a_text_output_that_hangs_does_not_hold_the_close() -> None:
    class Stuck(Screen):
        async def capture_text(self, text: str) -> None:
            await asyncio.sleep(3600)

    sync = TranscriptSynchronizer(next_in_chain_audio=Player(), next_in_chain_text=Stuck())
    await sync.audio_output.capture_frame(frame(1.0))
    await sync.text_output.capture_text("hello there")
    sync.audio_output.flush()
    sync.text_output.flush()
    await sync.audio_output.wait_for_playout()
    began = asyncio.get_running_loop().time()
    await sync.aclose()
    assert asyncio.get_running_loop().time() - began <= 6.0


def pacer() -> WordPacer:
    return WordPacer(speed=1.0, syllables=lambda word: 1, split=lambda text: _split(text))


def _split(text: str) -> list[str]:
    import re

    return re.findall(r"\S+\s*|\s+", text)


@given(st.lists(st.text("ab c", min_size=1, max_size=8), max_size=12), st.floats(0.1, 20))
def test_chunks_change_neither_words_nor_order(chunks: list[str], audio: float) -> None:
    paced = pacer()
    for chunk in chunks:
        paced.push_text(chunk)
    paced.end_text()
    paced.push_audio(audio)
    paced.end_audio()
    shown, last = "", 0.0
    while (due := paced.due_at()) is not None:
        assert due >= last - 1e-9
        last = due
        shown += paced.take()
    assert shown == paced.whole == "".join(chunks)
    assert last <= audio + 1e-6


@given(st.floats(0, 12))
def test_what_was_heard_is_always_a_prefix(position: float) -> None:
    paced = pacer()
    paced.push_text(TEXT)
    paced.end_text()
    paced.push_audio(10.0)
    paced.end_audio()
    while (due := paced.due_at()) is not None and due <= position:
        paced.take()
    assert TEXT.startswith(paced.heard(position))


def test_timings_of_the_voice_are_followed() -> None:
    paced = pacer()
    paced.push_text(TimedString("hello ", start_time=0.0, end_time=2.0))
    paced.push_text(TimedString("world", start_time=2.0, end_time=2.5))
    assert paced.due_at() == 1.0
    assert paced.take().end_time == 2.0
    assert paced.due_at() == 2.25
