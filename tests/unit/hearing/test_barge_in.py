"""The user over the agent: pause, resume, interruption."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fakes.hearing import final, interim, settle
from fakes.hearing_activity import FakeActivity
from fakes.stt import FakeSTT
from livekit.agents.vad import VADEvent, VADEventType
from livekit.agents.voice.hearing.barge_in import PauseMachine
from livekit.agents.voice.speech_handle import SpeechHandle


async def speaking(**kwargs: Any) -> tuple[FakeActivity, SpeechHandle]:
    """An activity whose agent is speaking."""
    activity = FakeActivity()
    handle = activity.speech(playing=True, **kwargs)
    await settle()
    return activity, handle


def window(speech: float = 0.6, *, silence: float = 0.0, speaking: bool = True) -> VADEvent:
    return VADEvent(
        VADEventType.INFERENCE_DONE,
        samples_index=0,
        timestamp=0.0,
        speech_duration=speech,
        silence_duration=0.0,
        speaking=speaking,
        raw_accumulated_silence=silence,
    )


# -- pause and resume -----------------------------------------------------------------------------


async def test_half_a_second_of_speech_pauses_and_silence_resumes() -> None:
    activity, handle = await speaking()
    activity.barge_in.on_start_of_speech(None, 1.0)
    activity.barge_in.on_vad_inference_done(window(0.4))
    assert not activity.output.paused
    activity.barge_in.on_vad_inference_done(window(0.5))
    assert activity.output.paused
    assert activity.session.agent_state == "listening"
    assert activity.barge_in.paused_speech is handle
    assert not activity.scheduler.user_silent.is_open
    activity.barge_in.on_end_of_speech(None)
    assert activity.scheduler.user_silent.is_open
    await asyncio.sleep(1.9)
    assert activity.output.paused
    await asyncio.sleep(0.2)
    assert not activity.output.paused
    assert activity.session.agent_state == "speaking"
    assert activity.session.false_interruptions == [True]
    assert not handle.interrupted
    await activity.close()


async def test_words_make_it_an_interruption() -> None:
    activity, handle = await speaking()
    activity.barge_in.on_start_of_speech(None, 1.0)
    activity.barge_in.on_vad_inference_done(window())
    activity.barge_in.on_final_transcript(final("stop"), speaking=True)
    assert handle.interrupted
    assert handle.interruption_source == "audio_activity"
    await settle()
    assert not activity.output.paused
    assert activity.session.false_interruptions == []
    await activity.close()


async def test_speaking_again_keeps_the_pause() -> None:
    activity, _ = await speaking()
    activity.barge_in.on_vad_inference_done(window())
    activity.barge_in.on_end_of_speech(None)
    await asyncio.sleep(1.5)
    activity.barge_in.on_start_of_speech(None, 1.0)
    await asyncio.sleep(10)
    assert activity.output.paused
    activity.barge_in.on_end_of_speech(None)
    await asyncio.sleep(2.1)
    assert not activity.output.paused
    await activity.close()


async def test_an_open_decision_is_awaited_before_it_is_called_false() -> None:
    activity, _ = await speaking()
    activity.barge_in.on_vad_inference_done(window())
    activity.barge_in.on_end_of_speech(None)
    activity.recognition.decision = asyncio.get_running_loop().create_future()
    await asyncio.sleep(5)
    assert activity.output.paused
    activity.recognition.decision.set_result(True)
    await settle()
    assert activity.session.false_interruptions == [True]
    await activity.close()


async def test_a_decision_dropped_because_the_user_goes_on_keeps_the_pause() -> None:
    activity, _ = await speaking()
    activity.barge_in.on_vad_inference_done(window())
    activity.barge_in.on_end_of_speech(None)
    activity.recognition.decision = asyncio.get_running_loop().create_future()
    await asyncio.sleep(5)
    activity.recognition.decision.cancel()
    await settle()
    assert activity.output.paused
    await activity.close()


async def test_what_was_about_to_start_waits_for_the_user_and_goes_on_at_once() -> None:
    activity = FakeActivity()
    handle = activity.speech()
    activity.session._update_agent_state("thinking")
    activity.barge_in.on_start_of_speech(None, 1.0)
    assert activity.output.paused
    activity.barge_in.reconcile_playout_pause(handle)
    assert activity.output.paused
    activity.barge_in.on_end_of_speech(None)
    await asyncio.sleep(0.01)
    assert not activity.output.paused
    assert activity.session.agent_state == "thinking"
    await activity.close()


async def test_a_speech_that_becomes_current_under_the_user_is_held_back() -> None:
    activity = FakeActivity()
    activity.barge_in.on_start_of_speech(None, 1.0)
    handle = activity.speech()
    activity.barge_in.reconcile_playout_pause(handle)
    assert activity.barge_in.paused_speech is handle
    activity.barge_in.on_end_of_speech(None)
    await asyncio.sleep(0.01)
    assert not activity.output.paused
    await activity.close()


async def test_a_stale_pause_does_not_silence_the_next_speech() -> None:
    activity, first = await speaking()
    activity.barge_in.on_vad_inference_done(window())
    second = SpeechHandle.create()
    activity.barge_in.on_vad_inference_done(window(speaking=False))
    activity.barge_in.reconcile_playout_pause(second)
    assert not activity.output.paused
    assert not first.interrupted
    await activity.close()


async def test_becoming_uninterruptible_lets_it_go_on() -> None:
    activity, handle = await speaking()
    activity.barge_in.on_vad_inference_done(window())
    handle.allow_interruptions = False
    activity.barge_in.release(handle)
    assert not activity.output.paused
    assert activity.session.agent_state == "speaking"
    await activity.close()


async def test_the_end_of_the_playout_frees_the_output() -> None:
    activity, handle = await speaking()
    activity.barge_in.on_vad_inference_done(window())
    activity.end(handle)
    await settle()
    assert not activity.output.paused
    assert activity.barge_in.paused_speech is None
    assert activity.session.agent_state == "listening"
    await activity.close()


# -- when it does not apply -----------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["flag", "echo", "server", "manual", "realtime_llm"])
async def test_audio_activity_is_ignored(reason: str) -> None:
    activity, handle = await speaking()
    if reason == "flag":
        activity.recognition.audio_may_interrupt = False
    elif reason == "echo":
        activity.session._aec_warmup_active = True
    elif reason == "server":
        activity.server_turn_detection = True
    else:
        activity.turn_detection = reason
    activity.barge_in.on_vad_inference_done(window())
    assert not activity.output.paused
    assert not handle.interrupted
    await activity.close()


async def test_too_few_words_do_not_interrupt() -> None:
    activity, _ = await speaking()
    activity.stt = FakeSTT()
    activity.session.options.interruption["min_words"] = 3
    activity.recognition.current_transcript = "no wait"
    activity.barge_in.on_vad_inference_done(window())
    assert not activity.output.paused
    activity.recognition.current_transcript = "no wait please"
    activity.barge_in.on_vad_inference_done(window())
    assert activity.output.paused
    await activity.close()


async def test_an_uninterruptible_speech_is_left_alone() -> None:
    activity, handle = await speaking(allow_interruptions=False)
    activity.barge_in.on_start_of_speech(None, 1.0)
    activity.barge_in.on_vad_inference_done(window())
    activity.barge_in.on_final_transcript(final("stop"), speaking=True)
    assert not handle.interrupted
    assert not activity.output.paused
    activity.end(handle)
    await activity.close()


async def test_the_tail_of_a_turn_the_stt_has_ended_does_not_interrupt() -> None:
    activity, _ = await speaking()
    activity.turn_detection = "stt"
    activity.recognition.stt_committed = True
    activity.barge_in.on_vad_inference_done(window(silence=0.1))
    assert not activity.output.paused
    activity.barge_in.on_vad_inference_done(window(silence=0.0))
    assert activity.output.paused
    await activity.close()


@pytest.mark.parametrize("cannot", ["sink", "option", "timeout", "disabled"])
async def test_without_a_pause_it_interrupts_at_once(cannot: str) -> None:
    activity, handle = await speaking()
    if cannot == "sink":
        activity.output.can_pause = False
    elif cannot == "option":
        activity.session.options.interruption["resume_false_interruption"] = False
    elif cannot == "timeout":
        activity.session.options.interruption["false_interruption_timeout"] = None
    else:
        activity.session.output.audio_enabled = False
    activity.barge_in.on_vad_inference_done(window())
    assert handle.interrupted
    assert not activity.output.paused
    await activity.close()


async def test_without_a_vad_the_first_guess_interrupts() -> None:
    activity, handle = await speaking()
    activity.barge_in.on_interim_transcript(interim(""), speaking=None, has_vad=False)
    activity.barge_in.on_interim_transcript(interim("he"), speaking=None, has_vad=True)
    assert not activity.output.paused
    activity.barge_in.on_interim_transcript(interim("hey"), speaking=None, has_vad=False)
    assert activity.output.paused
    assert not handle.interrupted
    await activity.close()


async def test_the_silence_gate_follows_the_voice() -> None:
    activity = FakeActivity()
    gate = activity.scheduler.user_silent
    for ev, is_open in [
        (window(silence=0.2), False),
        (window(silence=0.25), False),
        (window(silence=0.26), True),
        (window(silence=0.0), False),
        (window(speaking=False), True),
    ]:
        activity.barge_in.on_vad_inference_done(ev)
        assert gate.is_open is is_open
    await activity.close()


# -- closing --------------------------------------------------------------------------------------


async def test_closing_lets_a_paused_speech_play_on_and_pauses_no_more() -> None:
    activity, handle = await speaking()
    activity.barge_in.on_vad_inference_done(window())
    activity.barge_in.on_closing()
    assert not activity.output.paused
    assert activity.session.agent_state == "speaking"
    activity.barge_in.on_vad_inference_done(window())
    assert not activity.output.paused
    assert not handle.interrupted  # a sound alone doesn't cut a goodbye that can't be resumed
    activity.barge_in.on_final_transcript(final("wait"), speaking=False)
    assert handle.interrupted
    await activity.close()


async def test_closing_leaves_no_timer_and_no_pause() -> None:
    activity, handle = await speaking()
    activity.barge_in.on_vad_inference_done(window())
    activity.barge_in.on_end_of_speech(None)
    assert await activity.barge_in.aclose() == []
    assert not activity.output.paused
    assert not handle.interrupted
    await asyncio.sleep(10)
    assert activity.session.false_interruptions == []
    await activity.close()


async def test_it_works_again_after_an_inline_task() -> None:
    activity, _ = await speaking()
    await activity.barge_in.aclose()
    activity.barge_in.on_vad_inference_done(window())
    assert activity.output.paused
    await activity.close()


async def test_a_speech_that_never_ends_does_not_hold_the_output() -> None:
    activity = FakeActivity()
    handle = SpeechHandle.create()
    activity.scheduler.schedule(handle)
    activity.session._update_agent_state("speaking")
    activity.barge_in.on_vad_inference_done(window())
    ending = activity.barge_in.end_with_interruption()
    await settle()
    assert activity.output.paused
    assert await activity.barge_in.aclose(1.0) == []
    assert not activity.output.paused
    assert ending.cancelled()
    handle._mark_done()
    await activity.close()


# -- the machine alone ----------------------------------------------------------------------------


class Speech:
    def __init__(self) -> None:
        self.over = False

    def done(self) -> bool:
        return self.over


class Effects:
    """The world as the pause machine changes it."""

    def __init__(self) -> None:
        self.agent_state: Any = "speaking"
        self.output_paused = False
        self.armed: float | None = None
        self.reports: list[bool] = []

    def set_agent_state(self, state: Any) -> None:
        self.agent_state = state

    def pause_output(self) -> None:
        self.output_paused = True

    def resume_output(self) -> None:
        self.output_paused = False

    def arm(self, seconds: float) -> None:
        self.armed = seconds

    def disarm(self) -> None:
        self.armed = None

    def report_false_interruption(self, *, resumed: bool) -> None:
        self.reports.append(resumed)


_steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "pause",
                "user",
                "silence",
                "words",
                "timer",
                "take",
                "release",
                "play",
                "end",
                "close",
                "other speech",
            ]
        ),
        st.booleans(),
    ),
    max_size=30,
)


@settings(max_examples=300)
@given(_steps)
def test_the_output_is_never_left_paused_without_a_way_out(steps: list[tuple[str, bool]]) -> None:
    effects = Effects()
    machine = PauseMachine(effects)
    speech, owed = Speech(), False  # owed: whoever took the pause resumes the output later
    for step, flag in steps:
        if step == "pause":
            machine.pause(speech, 2.0)
        elif step == "user":
            machine.user_started()
        elif step == "silence":
            machine.user_stopped()
        elif step == "words":
            machine.transcript_after_speech(2.0)
        elif step == "timer" and effects.armed is not None:
            effects.armed = None
            was = machine.paused
            machine.silence_passed(speech if flag else None, can_resume=True)
            owed = owed or (was is not None and machine.paused is None and effects.output_paused)
        elif step == "take":
            owed = machine.take() is not None or owed
        elif step == "release":
            machine.release(speech, goes_on=flag)
        elif step == "play":
            machine.about_to_play(speech, hold_back=flag)
        elif step == "end":
            speech.over = True
            machine.release(speech, goes_on=False)
        elif step == "close":
            machine.close()
        elif step == "other speech":
            speech = Speech()
        if not effects.output_paused:
            owed = False
        assert machine.paused is not None or not effects.output_paused or owed
        assert effects.armed is None or machine.paused is not None
        if machine.closing:
            assert machine.paused is None


def test_a_speech_that_ended_meanwhile_is_not_resumed() -> None:
    effects = Effects()
    machine = PauseMachine(effects)
    speech = Speech()
    machine.pause(speech, 2.0)
    speech.over = True
    machine.silence_passed(None, can_resume=True)
    assert effects.reports == [False]


def test_the_state_at_the_first_pause_is_restored() -> None:
    effects = Effects()
    machine = PauseMachine(effects)
    speech = Speech()
    machine.pause(speech, 0.0)
    machine.pause(speech, 2.0)
    machine.user_stopped()
    assert effects.armed == 2.0
    machine.silence_passed(speech, can_resume=True)
    assert effects.agent_state == "speaking"
