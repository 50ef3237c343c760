"""Speech over the agent with an interruption detector: what is held, freed, and dropped."""

from __future__ import annotations

import asyncio

from hypothesis import given, strategies as st

from fakes.hearing import Ears, FakeInterruptionDetector, Verdict, final, now, settle
from livekit.agents.stt import SpeechEvent, SpeechEventType
from livekit.agents.voice.hearing.overlap import OverlapGate


async def over_the_agent(
    after: float = 2.0, **kwargs: object
) -> tuple[Ears, FakeInterruptionDetector]:
    """The agent has been speaking for `after` seconds, and the user begins."""
    detector = FakeInterruptionDetector()
    ears = Ears(detector=detector, **kwargs)  # type: ignore[arg-type]
    await ears.agent_speaks()
    await asyncio.sleep(after)
    await ears.speaks(0.5)
    return ears, detector


async def test_words_over_the_agent_wait_for_the_verdict() -> None:
    ears, detector = await over_the_agent()
    assert detector.signals == ["AgentSpeechStarted", "OverlapStarted"]
    await ears.hears(final("stop"))
    assert ears.hooks.details("final") == []
    assert ears.recognition.current_transcript == "stop"
    detector.streams[0].verdicts.send_nowait(Verdict(is_interruption=True, at=now()))
    await settle()
    names = ears.hooks.names()
    assert names.index("overlap") < names.index("final")
    assert ears.hooks.interruption_by_audio_activity_enabled
    assert detector.signals[-1] == "OverlapEnded"
    await ears.close()


async def test_a_backchannel_is_dropped() -> None:
    ears, detector = await over_the_agent()
    await ears.hears(final("uh-huh"))
    await ears.pauses()
    await asyncio.sleep(1.5)
    detector.streams[0].verdicts.send_nowait(Verdict(is_interruption=False, at=now()))
    await settle()
    assert ears.hooks.details("backchannel_confirmed") == [None]
    await ears.agent_stops()
    await asyncio.sleep(1)
    assert ears.hooks.details("final") == []
    assert ears.hooks.turns == []
    assert detector.signals == [
        "AgentSpeechStarted",
        "OverlapStarted",
        "OverlapEnded",
        "AgentSpeechEnded",
    ]
    await ears.close()


async def test_an_unjudged_overlap_is_heard_when_the_agent_ends() -> None:
    ears, _ = await over_the_agent()
    await ears.hears(final("but I wanted"))
    await ears.agent_stops()
    assert ears.hooks.details("final") == [("but I wanted", True)]
    await ears.pauses()
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == ["but I wanted"]
    assert not ears.hooks.turns[0].backchannel_over_agent
    await ears.close()


async def test_in_the_margin_after_its_start_audio_decides() -> None:
    ears, detector = await over_the_agent(after=0.5)
    assert ears.hooks.interruption_by_audio_activity_enabled
    assert detector.signals == ["AgentSpeechStarted"]
    await ears.hears(final("wait"))
    assert ears.hooks.details("final") == [("wait", True)]
    await asyncio.sleep(5)
    assert ears.hooks.interruption_by_audio_activity_enabled
    await ears.close()


async def test_who_was_speaking_already_keeps_the_right_to_interrupt() -> None:
    detector = FakeInterruptionDetector()
    ears = Ears(detector=detector)
    await ears.speaks(0.5)
    await ears.agent_speaks()
    await ears.speaks(2.0)
    assert ears.hooks.interruption_by_audio_activity_enabled
    await ears.close()


async def test_a_verdict_in_the_margin_is_only_announced() -> None:
    ears, detector = await over_the_agent(after=0.5)
    await ears.agent_stops()
    await ears.agent_speaks()
    detector.streams[0].verdicts.send_nowait(Verdict(is_interruption=False, at=now()))
    await settle()
    assert len(ears.hooks.details("overlap")) == 1
    assert ears.hooks.details("backchannel_confirmed") == []
    await ears.close()


async def test_a_final_that_nobody_holds_lets_audio_interrupt() -> None:
    detector = FakeInterruptionDetector()
    ears = Ears(detector=detector)
    await ears.agent_speaks()
    assert not ears.hooks.interruption_by_audio_activity_enabled
    await ears.hears(final("from before"))
    assert ears.hooks.interruption_by_audio_activity_enabled
    await ears.close()


async def test_clearing_the_turn_forgets_held_words() -> None:
    ears, _ = await over_the_agent()
    await ears.hears(final("never mind"))
    ears.recognition.clear_user_turn()
    await ears.agent_stops()
    assert ears.hooks.details("final") == []
    await ears.close()


# -- the gate alone -------------------------------------------------------------------------------


def held_at(*ended: float | None, created: float = 0.0) -> list[SpeechEvent]:
    return [
        SpeechEvent(
            type=SpeechEventType.FINAL_TRANSCRIPT,
            speech_end_time=end,
            created_at=created,
        )
        for end in ended
    ]


def test_trimming_drops_what_ended_before_the_margin_and_stops_at_the_first_kept() -> None:
    gate = OverlapGate((1.0, 1.0))
    for ev in held_at(103.0, 104.5, 103.5):
        gate.hold(ev)
    assert gate.trim(105.0, agent_started_at=100.0, not_after=None) == 1
    assert [ev.speech_end_time for ev in gate.held] == [104.5, 103.5]


def test_trimming_keeps_the_speech_that_is_going_on() -> None:
    gate = OverlapGate((1.0, 1.0))
    for ev in held_at(102.0, 103.0):
        gate.hold(ev)
    assert gate.trim(110.0, agent_started_at=100.0, not_after=102.5) == 1


def test_trimming_keeps_what_was_said_before_the_agent() -> None:
    gate = OverlapGate((1.0, 0.0))
    for ev in held_at(99.0):
        gate.hold(ev)
    assert gate.trim(110.0, agent_started_at=100.0, not_after=None) == 0


def test_undated_words_are_trimmed_by_when_they_came() -> None:
    gate = OverlapGate((1.0, 1.0))
    for ev in held_at(None, None, created=103.0):
        gate.hold(ev)
    assert gate.trim(105.0, agent_started_at=100.0, not_after=None) == 2


_steps = st.lists(
    st.sampled_from(["agent", "agent_end", "user", "user_end", "cooldown", "hold", "release"]),
    max_size=30,
)


@given(_steps, st.floats(0, 2), st.booleans())
def test_nothing_is_ever_held_without_an_open_case_nor_lost(
    steps: list[str], margin: float, enabled: bool
) -> None:
    gate = OverlapGate((margin, 1.0))
    gate.enabled = enabled
    clock, held, released = 100.0, 0, 0
    for step in steps:
        clock += 0.4
        if step == "agent":
            released += len(gate.agent_started(clock))
        elif step == "agent_end":
            gate.agent_ended()
            released += len(gate.release())
        elif step == "user":
            owner = gate.user_started(clock, audio_may_interrupt=False)
            assert owner is None or gate.agent_speaking
        elif step == "user_end":
            gate.end_overlap()
        elif step == "cooldown":
            gate.cooldown_over()
        elif step == "hold" and gate.holding:
            gate.hold(held_at(clock)[0])
            held += 1
        elif step == "release":
            released += len(gate.release())
        assert not (gate.holding and not gate.agent_speaking)
        assert gate.overlap_started_at is None or gate.holding or step == "user" or released >= 0
        if not enabled:
            assert not gate.holding
    assert held == released + len(gate.held)
