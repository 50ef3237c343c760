from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from livekit.plugins.pocketsphinx._endpointing import (
    FRAME_BYTES,
    FRAME_DURATION,
    Ended,
    Endpointer,
    EndpointingOptions,
    Event,
    Speech,
    Started,
)

VOICE, SILENCE = b"\1", b"\0"


def is_speech(frame: bytes) -> bool:
    return frame[0] == VOICE[0]


def audio(*stretches: tuple[bytes, float]) -> bytes:
    return b"".join(kind * (FRAME_BYTES * round(s / FRAME_DURATION)) for kind, s in stretches)


def events_of(pcm: bytes, *, flush: bool = False, **options: float) -> list[Event]:
    endpointer = Endpointer(is_speech, EndpointingOptions(**options))
    events = list(endpointer.push(pcm))
    return events + list(endpointer.flush()) if flush else events


def boundaries(events: list[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, Speech)]


def test_an_utterance_begins_before_the_voice_and_ends_with_it() -> None:
    events = events_of(audio((SILENCE, 1.0), (VOICE, 1.0), (SILENCE, 1.0)))
    assert boundaries(events) == [Started(at=pytest.approx(0.8)), Ended(at=pytest.approx(2.0))]


def test_the_utterance_holds_the_padding_the_voice_and_the_silence_that_ended_it() -> None:
    events = events_of(audio((SILENCE, 1.0), (VOICE, 1.0), (SILENCE, 1.0)))
    pcm = b"".join(event.pcm for event in events if isinstance(event, Speech))
    assert len(pcm) / FRAME_BYTES * FRAME_DURATION == pytest.approx(0.2 + 1.0 + 0.46)


def test_a_click_is_no_utterance() -> None:
    assert events_of(audio((SILENCE, 1.0), (VOICE, 0.06), (SILENCE, 1.0))) == []


def test_a_pause_for_breath_does_not_end_it() -> None:
    pcm = audio((VOICE, 1.0), (SILENCE, 0.4), (VOICE, 1.0), (SILENCE, 1.0))
    assert len(boundaries(events_of(pcm))) == 2


def test_flush_ends_it_at_once() -> None:
    events = boundaries(events_of(audio((SILENCE, 0.5), (VOICE, 0.5)), flush=True))
    assert events[-1] == Ended(at=pytest.approx(1.0))


def test_flush_takes_a_word_too_short_to_have_counted() -> None:
    events = events_of(audio((SILENCE, 0.5), (VOICE, 0.06)), flush=True)
    assert [type(event) for event in events] == [Started, Speech, Ended]


def test_flush_in_silence_does_nothing() -> None:
    assert events_of(audio((SILENCE, 1.0)), flush=True) == []


def test_a_monologue_is_cut_at_a_short_pause() -> None:
    pcm = audio((VOICE, 2.1), (SILENCE, 0.2), (VOICE, 0.5), (SILENCE, 1.0))
    events = boundaries(events_of(pcm, max_utterance_duration=2.0))
    assert [type(event) for event in events] == [Started, Ended, Started, Ended]
    cut, resumed = events[1], events[2]
    assert isinstance(cut, Ended) and cut.continued and 2.1 < cut.at < 2.3
    assert isinstance(resumed, Started) and resumed.continued and resumed.at == cut.at


def test_a_monologue_without_any_pause_is_cut_all_the_same() -> None:
    events = boundaries(events_of(audio((VOICE, 10.0)), max_utterance_duration=2.0))
    cuts = [event.at for event in events if isinstance(event, Ended)]
    assert cuts == [pytest.approx(3.0), pytest.approx(6.0), pytest.approx(9.0)]


@pytest.mark.parametrize(
    "option",
    [
        {"min_speech_duration": 0.0},
        {"min_speech_duration": 0.5},
        {"min_silence_duration": 0.1},
        {"prefix_padding_duration": 0.0},
        {"max_utterance_duration": 0.5},
    ],
)
def test_options_out_of_range_are_named(option: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        EndpointingOptions(**option)


@given(st.lists(st.booleans(), max_size=300), st.lists(st.integers(1, 2000), min_size=1))
def test_the_size_of_the_pieces_makes_no_difference(frames: list[bool], sizes: list[int]) -> None:
    pcm = b"".join((VOICE if voiced else SILENCE) * FRAME_BYTES for voiced in frames)
    endpointer = Endpointer(is_speech, EndpointingOptions())
    events: list[Event] = []
    position = index = 0
    while position < len(pcm):
        size = sizes[index % len(sizes)]
        events += endpointer.push(pcm[position : position + size])
        position, index = position + size, index + 1
    assert events == events_of(pcm)


@given(st.lists(st.booleans(), max_size=400))
def test_every_utterance_ends_once_and_speech_lies_inside(frames: list[bool]) -> None:
    pcm = b"".join((VOICE if voiced else SILENCE) * FRAME_BYTES for voiced in frames)
    is_open = False
    for event in events_of(pcm, flush=True, max_utterance_duration=1.0):
        if isinstance(event, Started):
            assert not is_open
        else:
            assert is_open
        is_open = not isinstance(event, Ended)
    assert not is_open
