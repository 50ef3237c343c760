"""Turns as a listener of recognition sees them, with a scripted STT and VAD on virtual time."""

from __future__ import annotations

import asyncio

import pytest

from fakes.hearing import (
    Ears,
    FakeStreamingDetector,
    FakeTextDetector,
    final,
    interim,
    now,
    preflight,
    settle,
)
from livekit.agents.stt import SpeechEvent, SpeechEventType


async def test_a_final_before_the_end_of_speech_is_committed_after_the_delay() -> None:
    ears = Ears()
    await ears.speaks(1.0)
    spoke_until = now()
    await ears.hears(final("hello there"))
    assert ears.hooks.transcripts == []
    await ears.pauses(0.25)
    await asyncio.sleep(0.24)
    assert ears.hooks.transcripts == []
    await asyncio.sleep(0.02)
    assert ears.hooks.transcripts == ["hello there"]
    metrics = ears.hooks.turns[0].metrics
    assert metrics.stopped_speaking_at == pytest.approx(spoke_until)
    assert metrics.started_speaking_at == pytest.approx(spoke_until - 1.05)
    assert metrics.end_of_turn_delay == pytest.approx(0.5)
    assert metrics.transcription_delay == 0.0
    await ears.close()


async def test_a_final_after_the_delay_commits_at_once() -> None:
    ears = Ears()
    await ears.speaks(1.0)
    await ears.pauses(0.25)
    await asyncio.sleep(1.0)
    assert ears.hooks.transcripts == []
    await ears.hears(final("late"))
    assert ears.hooks.transcripts == ["late"]
    assert ears.hooks.turns[0].metrics.transcription_delay == pytest.approx(1.25)
    await ears.close()


async def test_speech_without_any_final_is_no_turn() -> None:
    ears = Ears()
    await ears.speaks(1.0)
    await ears.pauses()
    await asyncio.sleep(10)
    assert ears.hooks.turns == []
    await ears.close()


async def test_two_finals_are_one_turn_with_their_mean_confidence() -> None:
    ears = Ears()
    await ears.speaks(1.0)
    await ears.hears(final("one", confidence=1.0), final("two", confidence=0.5))
    await ears.pauses()
    await asyncio.sleep(1.0)
    assert ears.hooks.transcripts == ["one two"]
    assert ears.hooks.turns[0].transcript_confidence == pytest.approx(0.75)
    await ears.close()


async def test_resuming_within_the_delay_keeps_one_turn() -> None:
    ears = Ears()
    await ears.speaks(1.0)
    await ears.hears(final("I would like"))
    await ears.pauses(0.25)
    await asyncio.sleep(0.1)
    began = ears.recognition.last_speaking_time
    await ears.speaks(1.0)
    await ears.hears(final("a coffee"))
    await ears.pauses(0.25)
    await asyncio.sleep(1.0)
    assert ears.hooks.transcripts == ["I would like a coffee"]
    started = ears.hooks.turns[0].metrics.started_speaking_at
    assert began is not None and started is not None and started < began
    await ears.close()


async def test_a_turn_that_is_not_taken_is_part_of_the_next() -> None:
    ears = Ears()
    ears.hooks.take_turns = False
    await ears.speaks(0.5)
    await ears.hears(final("uh"))
    await ears.pauses()
    await asyncio.sleep(1)
    assert ears.hooks.turns == []
    ears.hooks.take_turns = True
    await ears.speaks(0.5)
    await ears.hears(final("stop please"))
    await ears.pauses()
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == ["uh stop please"]
    await ears.close()


async def test_without_a_vad_every_final_ends_a_turn() -> None:
    ears = Ears(vad=False)
    await ears.hears(final("hello"))
    assert ears.hooks.details("final") == [("hello", None)]
    await asyncio.sleep(0.6)
    await ears.hears(final("world"))
    await asyncio.sleep(0.6)
    assert ears.hooks.transcripts == ["hello", "world"]
    await ears.close()


# -- detectors ------------------------------------------------------------------------------------


async def test_a_detector_that_doubts_makes_it_wait_for_the_maximum() -> None:
    ears = Ears(detection=FakeTextDetector(probability=0.1))
    await ears.speaks(1.0)
    await ears.hears(final("my number is"))
    await ears.pauses(0.25)
    await asyncio.sleep(2.7)
    assert ears.hooks.transcripts == []
    await asyncio.sleep(0.1)
    assert ears.hooks.transcripts == ["my number is"]
    prediction = ears.hooks.details("eot_prediction")[0]
    assert (prediction.probability, prediction.threshold) == (0.1, 0.5)
    await ears.close()


async def test_a_detector_reads_the_conversation_with_the_words_of_the_turn() -> None:
    detector = FakeTextDetector()
    ears = Ears(detection=detector)
    ears.hooks.chat_ctx.add_message(role="assistant", content="Your name?")
    await ears.speaks(1.0)
    await ears.hears(final("Ada"))
    await ears.pauses()
    await asyncio.sleep(1)
    assert detector.asked[-1] == "Ada"
    assert len(ears.hooks.chat_ctx.items) == 1
    await ears.close()


@pytest.mark.parametrize("broken", ["hangs", "fails", "foreign language", "no threshold"])
async def test_a_detector_that_does_not_answer_does_not_matter(broken: str) -> None:
    detector = FakeTextDetector(probability=0.0)
    if broken == "hangs":
        detector.delay = float("inf")
    elif broken == "fails":
        detector.failure = RuntimeError("out of memory")
    elif broken == "foreign language":
        detector.supported = False
    else:
        detector.threshold = None
    ears = Ears(detection=detector)
    await ears.speaks(1.0)
    await ears.pauses(0.25)
    began = now()
    await ears.hears(final("hello"))
    await asyncio.sleep(3.1)
    assert ears.hooks.transcripts == ["hello"]
    delay = ears.hooks.turns[0].metrics.end_of_turn_delay
    assert delay is not None
    assert delay <= (3.0 if broken == "hangs" else 0.5) + 0.26
    assert now() - began < 3.2
    await ears.close()


async def test_a_streaming_detector_is_asked_once_the_user_is_silent() -> None:
    detector = FakeStreamingDetector(probability=0.2)
    ears = Ears(detection=detector, min_delay=0.3, max_delay=2.5)
    stream = detector.streams[0]
    await ears.speaks(1.0)
    assert stream.predictions == 0
    await ears.pauses(0.25)
    assert stream.predictions == 1
    await ears.hears(final("so"))
    await asyncio.sleep(2.2)
    assert ears.hooks.transcripts == []
    await asyncio.sleep(0.1)
    assert ears.hooks.transcripts == ["so"]
    assert stream.flushes == ["turn committed"]
    assert len(ears.hooks.details("eot_prediction")) == 1
    await ears.close()
    assert stream.closed


async def test_speech_that_goes_on_voids_the_question() -> None:
    detector = FakeStreamingDetector()
    detector.answers = False
    ears = Ears(detection=detector)
    await ears.speaks(1.0)
    await ears.pauses(0.25)
    await ears.speaks(0.2)
    assert detector.streams[0].cancelled == [False]
    await ears.close()


async def test_a_streaming_detector_that_is_late_is_ignored() -> None:
    detector = FakeStreamingDetector(probability=0.0)
    detector.answers = False
    ears = Ears(detection=detector)
    await ears.speaks(1.0)
    await ears.hears(final("hello"))
    await ears.pauses(0.25)
    await asyncio.sleep(1.1)
    assert ears.hooks.transcripts == ["hello"]
    assert detector.streams[0].cancelled == [True]
    await ears.close()


# -- mode stt -------------------------------------------------------------------------------------


async def test_in_stt_mode_the_end_of_speech_of_the_stt_ends_the_turn() -> None:
    ears = Ears(detection="stt", vad=False)
    await ears.hears(SpeechEvent(type=SpeechEventType.START_OF_SPEECH))
    assert ears.recognition.speaking
    await ears.hears(final("good morning"))
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == []
    await ears.hears(SpeechEvent(type=SpeechEventType.END_OF_SPEECH))
    await asyncio.sleep(0.6)
    assert ears.hooks.transcripts == ["good morning"]
    await ears.close()


async def test_in_stt_mode_a_final_after_the_end_of_speech_is_part_of_the_turn() -> None:
    ears = Ears(detection="stt", vad=False)
    await ears.hears(
        SpeechEvent(type=SpeechEventType.START_OF_SPEECH),
        SpeechEvent(type=SpeechEventType.END_OF_SPEECH),
    )
    await asyncio.sleep(1.0)
    assert ears.hooks.transcripts == []
    await ears.hears(final("good"))
    await asyncio.sleep(0.1)
    await ears.hears(final("morning"))
    await asyncio.sleep(1)
    assert " ".join(ears.hooks.transcripts) == "good morning"
    await ears.close()


async def test_in_stt_mode_a_vad_still_in_speech_is_flushed() -> None:
    ears = Ears(detection="stt")
    await ears.hears(SpeechEvent(type=SpeechEventType.START_OF_SPEECH))
    await ears.speaks(0.5)
    await ears.hears(final("yes"), SpeechEvent(type=SpeechEventType.END_OF_SPEECH))
    assert ears.vad_stream.flushes == 1
    assert not ears.recognition.speaking
    await ears.close()


# -- preemptive -----------------------------------------------------------------------------------


async def test_a_preflight_is_worth_a_try_until_an_interim_goes_beyond_it() -> None:
    ears = Ears()
    await ears.speaks(0.5)
    await ears.hears(preflight("what time"))
    assert ears.hooks.details("preemptive") == ["what time"]
    await ears.hears(interim("what time is it"))
    assert ears.hooks.details("preflight_stale") == ["what time is it"]
    await ears.close()


async def test_a_final_equal_to_its_preflight_starts_nothing_new() -> None:
    ears = Ears()
    await ears.speaks(0.5)
    await ears.hears(preflight("what time"), final("what time"))
    assert ears.hooks.details("preemptive") == ["what time"]
    await ears.close()


# -- commit and clear -----------------------------------------------------------------------------


async def test_in_manual_mode_nothing_is_committed_by_itself() -> None:
    ears = Ears(detection="manual")
    await ears.speaks(1.0)
    await ears.hears(final("push to talk"))
    await ears.pauses()
    await asyncio.sleep(10)
    assert ears.hooks.turns == []
    await ears.close()


async def test_a_commit_returns_the_transcript() -> None:
    ears = Ears(detection="manual")
    await ears.hears(final("push to talk"))
    result = ears.recognition.commit_user_turn()
    assert await result == "push to talk"
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == ["push to talk"]
    await ears.close()


async def test_a_commit_waits_for_the_last_final() -> None:
    ears = Ears(detection="manual")
    result = ears.recognition.commit_user_turn()
    await asyncio.sleep(1.0)
    assert not result.done()
    await ears.hears(final("here it is"))
    assert await result == "here it is"
    await ears.close()


async def test_a_guess_passes_for_final_when_the_final_is_late() -> None:
    ears = Ears(detection="manual")
    await ears.hears(interim("almost don"))
    result = ears.recognition.commit_user_turn(transcript_timeout=1.0)
    assert await result == "almost don"
    assert ("final", ("almost don", None)) in ears.hooks.calls
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == ["almost don"]
    await ears.close()


async def test_events_after_a_commit_are_ignored_until_it_is_through() -> None:
    ears = Ears(detection="manual")
    await ears.hears(final("mine"))
    await ears.recognition.commit_user_turn()
    await ears.hears(interim("echo"))
    assert ears.recognition.current_transcript == "mine"
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == ["mine"]
    await ears.close()


async def test_a_late_final_keeps_the_commit_silent() -> None:
    ears = Ears()
    await ears.speaks(1.0)
    await ears.hears(final("note"))
    await ears.pauses()
    await ears.recognition.commit_user_turn(skip_reply=True)
    await ears.hears(final("to self"))
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == ["note to self"]
    assert ears.hooks.turns[0].skip_reply
    await ears.close()


async def test_a_second_commit_cancels_the_first() -> None:
    ears = Ears(detection="manual")
    first = ears.recognition.commit_user_turn()
    await settle()
    second = ears.recognition.commit_user_turn(transcript_timeout=0.1)
    assert first.cancelled()
    assert await second == ""
    await ears.close()


async def test_a_commit_pushes_silence_when_no_audio_comes_any_more() -> None:
    from fakes.hearing import frame

    ears = Ears(detection="manual")
    ears.recognition.push_audio(frame())
    await settle()
    result = ears.recognition.commit_user_turn(
        audio_detached=True, stt_flush_duration=1.0, transcript_timeout=0.1
    )
    await result
    assert len(ears.node.frames) == 1 + 5
    assert sum(piece.duration for piece in ears.node.frames) == pytest.approx(1.02)
    await ears.close()


async def test_without_an_stt_a_commit_is_empty() -> None:
    ears = Ears(stt=False, detection="manual")
    assert ears.recognition.commit_user_turn().result() == ""
    await ears.close()


async def test_clearing_drops_the_words_and_starts_the_stt_over() -> None:
    ears = Ears(detection="manual")
    await ears.hears(final("forget"), interim("this"))
    ears.recognition.clear_user_turn()
    await settle()
    assert ears.recognition.current_transcript == ""
    assert (ears.node.calls, ears.node.closed) == (2, 1)
    await ears.hears(final("new"))
    assert await ears.recognition.commit_user_turn() == "new"
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == ["new"]
    await ears.close()


async def test_entering_manual_mode_drops_the_pending_decision_but_not_the_words() -> None:
    ears = Ears()
    await ears.speaks(1.0)
    await ears.hears(final("hold on"))
    await ears.pauses()
    ears.recognition.update_options(turn_detection="manual")
    await asyncio.sleep(5)
    assert ears.hooks.turns == []
    assert await ears.recognition.commit_user_turn() == "hold on"
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == ["hold on"]
    await ears.close()


# -- limits ---------------------------------------------------------------------------------------


async def test_missing_transcripts_are_noticed_over_two_segments() -> None:
    ears = Ears(options=lambda options: setattr(options, "transcription_timeout", 3.0))
    await ears.speaks(1.0)
    await ears.pauses(0.25, speech_duration=1.0)
    await asyncio.sleep(1.0)
    await ears.speaks(0.5)
    await ears.pauses(0.25, speech_duration=0.5)
    await asyncio.sleep(2.8)
    duration, _ = ears.hooks.details("transcription_timeout")[0]
    assert duration == pytest.approx(1.5)
    await ears.close()


async def test_a_transcript_stops_the_transcription_timeout() -> None:
    ears = Ears(options=lambda options: setattr(options, "transcription_timeout", 3.0))
    await ears.speaks(1.0)
    await ears.pauses()
    await ears.hears(final("hello"))
    await asyncio.sleep(10)
    assert ears.hooks.details("transcription_timeout") == []
    await ears.close()


async def test_the_word_limit_spans_turns_until_the_agent_speaks() -> None:
    ears = Ears(
        vad=False,
        options=lambda options: options.turn_handling.update(user_turn_limit={"max_words": 4}),
    )
    await ears.hears(final("one two"))
    await asyncio.sleep(1)
    await ears.hears(final("three four"))
    exceeded = ears.hooks.details("exceeded")
    assert [ev.accumulated_word_count for ev in exceeded] == [4]
    assert exceeded[0].accumulated_transcript == "one two three four"
    await ears.agent_speaks()
    await ears.hears(final("five"))
    assert len(ears.hooks.details("exceeded")) == 1
    await ears.close()


# -- robustness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["final", "interim", "start_of_speech", "end_of_speech"])
async def test_a_broken_listener_does_not_make_it_deaf(hook: str) -> None:
    ears = Ears()
    ears.hooks.failing.add(hook)
    await ears.speaks(1.0)
    await ears.hears(interim("hel"), final("hello"))
    await ears.pauses()
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == ["hello"]
    await ears.close()


async def test_a_turn_whose_end_could_not_be_handled_stays_pending() -> None:
    ears = Ears(vad=False)
    ears.hooks.failing.add("end_of_turn")
    await ears.hears(final("hello"))
    await asyncio.sleep(1)
    ears.hooks.failing.clear()
    await ears.hears(final("again"))
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == ["hello again"]
    await ears.close()


async def test_an_event_without_alternatives_counts_as_empty() -> None:
    ears = Ears(vad=False)
    for kind in SpeechEventType:
        await ears.hears(SpeechEvent(type=kind))
    await ears.hears(final("still here"))
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == ["still here"]
    await ears.close()


async def test_waiting_for_the_end_of_a_turn_never_raises_its_cancellation() -> None:
    ears = Ears()
    await ears.speaks(1.0)
    await ears.hears(final("well"))
    await ears.pauses()
    waiting = asyncio.get_running_loop().create_task(ears.recognition.wait_for_end_of_turn())
    await settle()
    await ears.speaks(1.0)
    assert await waiting is False
    await ears.close()


async def test_switching_the_input_off_ends_the_users_speech_and_turn() -> None:
    ears = Ears()
    await ears.speaks(1.0)
    await ears.hears(final("cut"))
    ears.recognition.on_input_disabled()
    assert not ears.recognition.speaking
    assert "end_of_speech" in ears.hooks.names()
    await settle()
    assert ears.vad_stream.flushes == 1
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == ["cut"]
    await ears.close()
