"""What goes to the next connection, sample by sample."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from livekit import rtc

from livekit.agents.language import LanguageCode
from livekit.agents.stt import SpeechData, SpeechEvent, SpeechEventType
from livekit.agents.stt.replay_buffer import ReplayBuffer

RATE = 1000
FLUSH = "flush"

START = SpeechEvent(SpeechEventType.START_OF_SPEECH)
END = SpeechEvent(SpeechEventType.END_OF_SPEECH)


def frame(first: int, count: int) -> rtc.AudioFrame:
    """Audio at 1 kHz whose samples say their index in the stream."""
    data = b"".join((index % 30000).to_bytes(2, "little") for index in range(first, first + count))
    return rtc.AudioFrame(data, RATE, 1, count)


def final(end_time: float) -> SpeechEvent:
    data = SpeechData(LanguageCode("en"), "text", end_time=end_time)
    return SpeechEvent(SpeechEventType.FINAL_TRANSCRIPT, alternatives=[data])


def guess(text: str = "tex") -> SpeechEvent:
    data = SpeechData(LanguageCode("en"), text)
    return SpeechEvent(SpeechEventType.INTERIM_TRANSCRIPT, alternatives=[data])


class Line:
    """A buffer with a clock; audio is pushed in real time."""

    def __init__(self, **options: Any) -> None:
        self.now = 0.0
        self.lost: list[float] = []
        self.buffer: ReplayBuffer[str] = ReplayBuffer(
            clock=lambda: self.now, on_loss=self.lost.append, **options
        )
        self.pushed = 0

    def push(self, seconds: float, size: float = 0.1) -> None:
        for _ in range(round(seconds / size)):
            count = round(size * RATE)
            self.now += size
            self.buffer.append(frame(self.pushed, count))
            self.pushed += count

    def take(self, seconds: float | None = None) -> list[int]:
        """Samples taken; everything by default. A flush counts as -1."""
        samples: list[int] = []
        while len(self.buffer) and (seconds is None or len(samples) < seconds * RATE):
            item = self.buffer.popleft()
            samples += list(item.data) if isinstance(item, rtc.AudioFrame) else [-1]
        return samples

    def hear(self, *events: SpeechEvent, offset: float | None = None) -> None:
        for event in events:
            self.buffer.observe(
                event, offset=self.buffer.attempt_position if offset is None else offset
            )


def test_it_is_a_queue() -> None:
    line = Line()
    line.push(1.0)
    assert len(line.buffer) == 10
    assert line.take() == list(range(1000))
    with pytest.raises(IndexError):
        line.buffer.popleft()


def test_without_an_answer_the_last_three_seconds_are_replayed() -> None:
    line = Line()
    line.push(8.0)
    line.take()
    line.buffer.rewind()
    assert line.buffer.attempt_position == pytest.approx(5.0)
    line.push(1.0)
    assert line.take() == list(range(5000, 9000))


def test_open_speech_is_replayed_for_ten_seconds() -> None:
    line = Line()
    line.push(2.0)
    line.take()
    line.hear(START)
    line.push(20.0)
    line.take()
    line.buffer.rewind()
    assert line.take() == list(range(12000, 22000))


def test_audio_that_nobody_would_have_reported_speech_in_is_kept_as_well() -> None:
    line = Line()
    line.buffer.expect_reports(False)
    line.push(20.0)
    line.take()
    line.buffer.rewind()
    assert line.take() == list(range(10000, 20000))


@pytest.mark.parametrize("end_time", [1.25, 1.5])
def test_a_final_answers_for_the_audio_up_to_its_end(end_time: float) -> None:
    line = Line()
    line.push(2.0)
    line.take()
    line.hear(START, final(end_time))
    line.buffer.rewind()
    assert line.buffer.attempt_position == pytest.approx(end_time)
    assert line.take() == list(range(round(end_time * 1000), 2000))


@pytest.mark.parametrize("end_time", [0.0, -3.0, 17.0])
def test_a_final_without_a_plausible_end_answers_for_everything_taken(end_time: float) -> None:
    line = Line()
    line.push(2.0)
    line.take(1.0)
    line.hear(START, final(end_time))
    line.buffer.rewind()
    assert line.take() == list(range(1000, 2000))


def test_end_of_speech_answers_only_after_a_final() -> None:
    line = Line()
    line.push(2.0)
    line.take()
    line.hear(START, END)
    line.buffer.rewind()
    assert len(line.take()) == 2000
    line.hear(START, final(0.5), END)
    line.buffer.rewind()
    assert line.take() == []


def test_end_of_speech_does_not_answer_for_words_still_open() -> None:
    line = Line()
    line.push(2.0)
    line.take()
    line.hear(START, final(0.5), guess(), END)
    line.buffer.rewind()
    assert line.take() == list(range(500, 2000))


@pytest.mark.parametrize("event", [guess(), START])
def test_guesses_open_speech(event: SpeechEvent) -> None:
    line = Line()
    line.hear(event)
    assert line.buffer.speech_open
    line.hear(final(0.0))
    assert not line.buffer.speech_open


def test_an_empty_guess_is_no_speech() -> None:
    line = Line()
    line.hear(guess(""), SpeechEvent(SpeechEventType.INTERIM_TRANSCRIPT))
    assert not line.buffer.speech_open


def test_nothing_answered_is_replayed_in_a_second_reconnect_either() -> None:
    line = Line()
    line.push(1.0)
    line.take()
    line.hear(START)
    line.buffer.rewind()
    line.take(0.5)
    line.hear(final(0.3))
    line.buffer.rewind()
    assert line.take() == list(range(300, 1000))


def test_flushes_keep_their_places() -> None:
    line = Line()
    line.push(0.2)
    line.buffer.append(FLUSH)
    line.push(0.2)
    line.take(0.35)
    line.buffer.rewind()
    line.buffer.append(FLUSH)
    assert line.take() == [*range(200), -1, *range(200, 400), -1]


def test_a_long_outage_drops_the_oldest_audio_and_reports_it_once() -> None:
    line = Line()
    line.push(2.0)
    line.take()
    line.buffer.rewind()
    line.buffer.append(FLUSH)
    line.push(13.0)
    assert line.lost == []
    assert line.take() == [-1, *range(5000, 15000)]
    assert line.lost == [pytest.approx(5.0)]
    line.push(1.0)
    line.take()
    assert len(line.lost) == 1


def test_a_file_that_was_pushed_at_once_is_not_cut_by_an_outage() -> None:
    line = Line()
    line.push(60.0)
    line.hear(START)
    line.take(5.0)
    line.buffer.rewind()
    assert line.take() == [index % 30000 for index in range(60000)]


def test_without_capacity_the_queue_is_kept_and_nothing_is_replayed() -> None:
    line = Line(capacity=0.0)
    line.push(2.0)
    line.take(1.0)
    line.hear(START)
    line.buffer.rewind()
    line.push(20.0)
    assert line.take() == list(range(1000, 22000))


def test_positions_follow_the_audio() -> None:
    line = Line()
    assert line.buffer.attempt_position == 0.0
    line.push(1.0)
    line.take()
    line.now += 0.5  # jitter, not a pause
    line.hear(final(0.0))
    line.buffer.rewind()
    assert line.buffer.attempt_position == pytest.approx(1.0)


def test_a_pause_in_the_audio_counts_with_the_time_it_took() -> None:
    line = Line()
    line.push(1.0)
    line.take()
    line.hear(final(0.0))
    line.now += 60
    line.buffer.rewind()
    assert line.buffer.attempt_position == pytest.approx(61.0, abs=0.2)
    line.now += 60
    line.push(0.1)
    line.take()
    assert line.buffer.attempt_position == pytest.approx(121.0, abs=0.2)


def test_after_replayed_audio_and_a_pause_the_live_audio_sets_the_position() -> None:
    line = Line()
    line.push(1.0)
    line.take()
    line.buffer.rewind()
    line.take()
    assert line.buffer.attempt_position == pytest.approx(0.0)
    line.now += 60
    line.push(0.1)
    line.take()
    # the provider has counted one second before it
    assert line.buffer.attempt_position == pytest.approx(60.0, abs=0.3)


def test_a_stream_without_audio_so_far_begins_where_it_reconnects() -> None:
    line = Line()
    line.now += 180
    line.buffer.rewind()
    assert line.buffer.attempt_position == pytest.approx(180.0)


def test_finished_is_when_the_provider_has_answered_for_all() -> None:
    line = Line()
    assert not line.buffer.finished, "it never answered"
    line.push(1.0)
    line.take()
    line.hear(final(0.0))
    assert line.buffer.finished
    line.push(0.1)
    assert not line.buffer.finished
    line.take()
    assert not line.buffer.finished


def test_live_audio_is_what_no_attempt_took() -> None:
    line = Line()
    line.push(1.0)
    line.take()
    line.buffer.rewind()
    assert not line.buffer.has_live_audio
    line.push(0.1)
    assert line.buffer.has_live_audio
    line.take(1.0)
    assert line.buffer.last_replayed
    line.take()
    assert not line.buffer.last_replayed


@given(st.lists(st.integers(1, 200), min_size=1, max_size=40), st.floats(0.0, 5.0))
def test_stereo_and_odd_sizes_are_cut_at_whole_samples(sizes: list[int], end: float) -> None:
    buffer: ReplayBuffer[str] = ReplayBuffer(clock=lambda: 0.0)
    total = sum(sizes)
    for size in sizes:
        buffer.append(rtc.AudioFrame(bytes(size * 4), RATE, 2, size))
    buffer.observe(START, offset=0.0)  # while nobody speaks, less is kept
    while len(buffer):
        buffer.popleft()
    buffer.observe(final(end), offset=0.0)
    buffer.observe(START, offset=0.0)
    buffer.rewind()
    left = 0
    while len(buffer):
        item = buffer.popleft()
        assert isinstance(item, rtc.AudioFrame)
        left += item.samples_per_channel
    plausible = 0 < end <= total / RATE + 0.2
    expected = max(0.0, total - end * RATE) if plausible else 0
    assert total <= 10 * RATE, "all of it fits"
    assert left == pytest.approx(expected, abs=1)


class Outages(RuleBasedStateMachine):
    """Any sequence of pushes, takes, answers and drops; capacity is never the limit."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line(capacity=1e9)
        self.line.buffer.expect_reports(False)
        self.next = 0  # sample that must be taken next
        self.answered = 0  # samples answered for
        self.top = 0  # samples ever taken

    @rule(count=st.integers(1, 5))
    def push(self, count: int) -> None:
        self.line.push(count / 10)

    @rule()
    def flush(self) -> None:
        self.line.buffer.append(FLUSH)

    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        samples = [s for s in self.line.take(count / 10) if s >= 0]
        expected = [index % 30000 for index in range(self.next, self.next + len(samples))]
        assert samples == expected, "in order, none twice, none missing"
        self.next += len(samples)
        self.top = max(self.top, self.next)

    @rule(share=st.floats(0.05, 1.0))
    def answer(self, share: float) -> None:
        if self.next > self.answered:
            self.answered += max(1, int((self.next - self.answered) * share))
            self.line.hear(final(self.answered / RATE))

    @rule()
    def drop(self) -> None:
        self.line.buffer.rewind()
        self.next = self.answered

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.line.lost == []


TestOutages = Outages.TestCase
TestOutages.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


# -- silence ---------------------------------------------------------------------------------------


def silence(count: int) -> rtc.AudioFrame:
    return rtc.AudioFrame(bytes(2 * count), RATE, 1, count)


def is_silence(item: rtc.AudioFrame) -> bool:
    return not any(item.data)


def test_silence_stays_in_its_place_and_takes_no_room() -> None:
    line = Line(capacity=2.0, is_silence=is_silence, silence=5.0)
    line.hear(START)
    line.push(1.0)
    for _ in range(40):
        line.now += 0.1
        line.buffer.append(silence(100))
    line.push(1.0)
    line.take()
    line.buffer.rewind()
    assert line.take() == [*range(1000), *[0] * 4000, *range(1000, 2000)]
    assert line.lost == []


def test_there_is_a_limit_to_silence_and_what_gives_way_for_it_counts_as_lost() -> None:
    line = Line(capacity=2.0, is_silence=is_silence, silence=3.0)
    line.buffer.rewind()
    line.push(1.0)
    for _ in range(45):
        line.buffer.append(silence(100))
    samples = line.take()
    assert samples == [*range(500, 1000), *[0] * 4500]
    assert line.lost == [pytest.approx(0.5)]


def test_speech_that_gave_way_before_the_connection_broke_and_after_is_told_together() -> None:
    line = Line(capacity=2.0)
    line.hear(START)
    line.push(3.0)
    line.take()
    line.buffer.rewind()
    line.push(1.5)
    assert line.take() == list(range(2500, 4500))
    assert line.lost == [pytest.approx(2.5)]


def test_what_turns_out_to_be_answered_is_skipped_and_not_lost() -> None:
    line = Line(capacity=2.0)
    line.hear(START)
    line.push(3.0)
    line.take()
    line.buffer.rewind()
    line.buffer.skip(0.4)  # of the second that is gone
    line.buffer.skip(1.5)
    assert line.take() == list(range(1500, 3000))
    assert line.lost == []


def test_only_what_nobody_answered_for_is_lost() -> None:
    line = Line(capacity=2.0)
    line.hear(START)
    line.push(3.0)
    line.take()
    line.buffer.rewind()
    line.buffer.skip(0.4)
    assert line.take() == list(range(1000, 3000))
    assert line.lost == [pytest.approx(0.6)]


def test_without_replaying_one_can_still_look_back() -> None:
    line = Line(capacity=0.0, lookback=1.0)
    line.push(3.0)
    line.take()
    line.buffer.rewind()
    line.push(20.0)
    assert line.take() == list(range(2000, 23000))
    assert line.lost == []
