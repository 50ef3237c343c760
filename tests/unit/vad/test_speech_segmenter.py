"""The state machine that turns probabilities into utterances."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st
from livekit import rtc

from livekit.agents.inference._speech_segmenter import (
    WINDOW_DURATION,
    SegmenterOptions,
    SpeechSegmenter,
)
from livekit.agents.vad import VADEvent, VADEventType

RATE = 1000
WINDOW = 32  # samples
DEFAULTS = SegmenterOptions(
    min_speech_duration=0.05,
    min_silence_duration=0.25,
    prefix_padding_duration=0.5,
    max_buffered_speech=60.0,
    activation_threshold=0.5,
    deactivation_threshold=0.35,
)

START, DONE, END = (
    VADEventType.START_OF_SPEECH,
    VADEventType.INFERENCE_DONE,
    VADEventType.END_OF_SPEECH,
)


def window(index: int) -> rtc.AudioFrame:
    """A window whose samples say how many windows came before."""
    data = index.to_bytes(2, "little") * WINDOW
    return rtc.AudioFrame(data, RATE, 1, WINDOW)


def run(
    probabilities: list[float], options: SegmenterOptions = DEFAULTS
) -> list[tuple[int, VADEvent]]:
    """All events, each with the index of the window that caused it."""
    segmenter = SpeechSegmenter(replace(options))
    return [
        (index, event)
        for index, probability in enumerate(probabilities)
        for event in segmenter.process(window(index), probability, 0.001)
    ]


def changes(events: list[tuple[int, VADEvent]]) -> list[tuple[int, VADEvent]]:
    return [(index, event) for index, event in events if event.type is not DONE]


def windows_in(event: VADEvent) -> list[int]:
    (frame,) = event.frames
    return list(dict.fromkeys(frame.data))


def test_two_windows_of_speech_begin_an_utterance_and_eight_of_silence_end_it() -> None:
    events = changes(run([0.0] * 20 + [0.9] * 10 + [0.0] * 10))
    assert [(index, event.type) for index, event in events] == [(21, START), (37, END)]
    start, end = events[0][1], events[1][1]
    assert start.speech_duration == pytest.approx(2 * WINDOW_DURATION)
    assert start.silence_duration == 0 and start.speaking
    assert end.silence_duration == pytest.approx(8 * WINDOW_DURATION)
    assert end.speech_duration == pytest.approx(10 * WINDOW_DURATION)
    assert not end.speaking
    assert end.samples_index == 38 * WINDOW
    assert end.timestamp == pytest.approx(38 * WINDOW_DURATION)


def test_frames_carry_the_utterance_with_what_came_before() -> None:
    start, end = (event for _, event in changes(run([0.0] * 40 + [0.9] * 10 + [0.0] * 8)))
    # 0.5 s before it are 15 whole windows and a part of one
    assert windows_in(start) == list(range(24, 42))
    assert windows_in(end) == list(range(24, 58))


def test_the_next_utterance_begins_with_the_end_of_the_silence_before() -> None:
    events = changes(run([0.0] * 20 + [0.9] * 5 + [0.0] * 9 + [0.9] * 2))
    assert windows_in(events[-1][1])[0] == 34 - 16


def test_an_inference_event_tells_the_state_before_its_window() -> None:
    events = [event for _, event in run([0.0, 0.9, 0.9, 0.9, 0.0])]
    done = [event for event in events if event.type is DONE]
    assert [e.speaking for e in done] == [False, False, False, True, True]
    assert [round(e.raw_accumulated_speech / WINDOW_DURATION) for e in done] == [0, 0, 1, 2, 3]
    assert [round(e.raw_accumulated_silence / WINDOW_DURATION) for e in done] == [0, 1, 0, 0, 0]
    assert [e.probability for e in done] == [0.0, 0.9, 0.9, 0.9, 0.0]
    assert all(e.inference_duration == 0.001 for e in done)
    assert [windows_in(e) for e in done] == [[0], [1], [2], [3], [4]]


def test_a_doubtful_window_is_speech_only_while_someone_speaks() -> None:
    assert changes(run([0.4] * 50)) == []
    assert [index for index, _ in changes(run([0.9] * 2 + [0.4] * 50))] == [1]


def test_a_short_noise_is_no_speech_and_a_short_pause_no_end() -> None:
    assert changes(run([0.0, 0.9] * 20)) == []
    assert [event.type for _, event in changes(run(([0.9] * 5 + [0.0] * 7) * 3))] == [START]


def test_a_reset_ends_an_utterance_without_an_event() -> None:
    segmenter = SpeechSegmenter(replace(DEFAULTS))
    for index in range(5):
        segmenter.process(window(index), 0.9)
    assert segmenter.speaking
    segmenter.reset()
    events = [event for index in range(20) for event in segmenter.process(window(index), 0.0)]
    assert {event.type for event in events} == {DONE}
    assert events[0].samples_index == WINDOW
    again = [event.type for index in range(2) for event in segmenter.process(window(index), 0.9)]
    assert again[-1] is START


def test_long_speech_overflows_once_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    options = replace(DEFAULTS, max_buffered_speech=0.32, prefix_padding_duration=0.0)
    events = changes(run([0.9] * 50 + [0.0] * 8 + [0.9] * 2, options))
    assert windows_in(events[1][1]) == list(range(10))
    assert caplog.text.count("max_buffered_speech reached") == 1
    # what is kept of the old utterance does not leak into the next
    assert windows_in(events[2][1]) == [58, 59]


def test_a_longer_buffer_lifts_the_overflow_and_a_shorter_one_cuts() -> None:
    segmenter = SpeechSegmenter(
        replace(DEFAULTS, max_buffered_speech=0.32, prefix_padding_duration=0.0)
    )
    for index in range(12):
        segmenter.process(window(index), 0.9)
    segmenter.options = replace(segmenter.options, max_buffered_speech=60.0)
    for index in range(12, 14):
        segmenter.process(window(index), 0.9)
    segmenter.options = replace(segmenter.options, max_buffered_speech=0.064)
    end = [e for i in range(14, 22) for e in segmenter.process(window(i), 0.0) if e.type is END]
    assert windows_in(end[0]) == [0, 1]


options_strategy = st.builds(
    SegmenterOptions,
    min_speech_duration=st.floats(0.0, 0.5),
    min_silence_duration=st.floats(0.0, 1.0),
    prefix_padding_duration=st.floats(0.0, 1.0),
    max_buffered_speech=st.floats(0.0, 2.0),
    activation_threshold=st.floats(0.3, 0.9),
    deactivation_threshold=st.floats(0.01, 0.9),
)


@given(st.lists(st.floats(0.0, 1.0), max_size=200), options_strategy)
def test_starts_and_ends_alternate_and_are_justified(
    probabilities: list[float], options: SegmenterOptions
) -> None:
    events = run(probabilities, options)
    assert [e.samples_index for _, e in events if e.type is DONE] == [
        WINDOW * (i + 1) for i in range(len(probabilities))
    ]
    expected = START
    capacity = int((options.max_buffered_speech + options.prefix_padding_duration) * RATE)
    for index, event in changes(events):
        assert event.type is expected, "starts and ends alternate, beginning with a start"
        assert event.frames[0].samples_per_channel <= capacity
        if event.type is START:
            needed = event.speech_duration
            assert needed >= options.min_speech_duration - 1e-6
            recent = probabilities[index + 1 - round(needed / WINDOW_DURATION) : index + 1]
            assert min(recent) >= options.activation_threshold
        else:
            needed = event.silence_duration
            assert needed >= options.min_silence_duration - 1e-6
            recent = probabilities[index + 1 - round(needed / WINDOW_DURATION) : index + 1]
            assert max(recent) < options.activation_threshold
            assert event.speech_duration >= 0
        expected = END if expected is START else START


@given(st.lists(st.floats(0.0, 1.0), max_size=100), st.integers(0, 100))
def test_after_a_reset_nothing_is_remembered(probabilities: list[float], cut: int) -> None:
    segmenter = SpeechSegmenter(replace(DEFAULTS))
    for index, probability in enumerate(probabilities[:cut]):
        segmenter.process(window(index), probability)
    segmenter.reset()
    rest = probabilities[cut:]
    seen = [
        (index, event.type, event.speech_duration, event.timestamp)
        for index, probability in enumerate(rest)
        for event in segmenter.process(window(index), probability)
    ]
    fresh = [(i, e.type, e.speech_duration, e.timestamp) for i, e in run(rest)]
    assert seen == fresh
