"""When it is clear who has picked up: the state machine, without a session."""

from __future__ import annotations

import asyncio

import pytest

from livekit.agents import AMDCategory, AMDPredictionEvent
from livekit.agents.voice.amd.machine import AnsweringMachine, Thresholds

HUMAN, VOICEMAIL = AMDCategory.HUMAN, AMDCategory.MACHINE_VM


class Line:
    """Somebody has picked up."""

    def __init__(self, *, wait_until_finished: bool = True, listen: bool = True) -> None:
        loop = asyncio.get_running_loop()
        self.asked: list[tuple[str, bool]] = []
        self.released: list[AMDPredictionEvent] = []
        self.released_at: float | None = None
        self.machine = AnsweringMachine(
            Thresholds(),
            self,
            call_later=loop.call_later,
            clock=loop.time,
            wait_until_finished=wait_until_finished,
        )
        self.began_at = loop.time()
        if listen:
            self.machine.listen()

    def ask(self, transcript: str, *, may_postpone: bool) -> None:
        self.asked.append((transcript, may_postpone))

    def release(self, prediction: AMDPredictionEvent) -> None:
        self.released.append(prediction)
        self.released_at = asyncio.get_running_loop().time() - self.began_at

    async def says(self, seconds: float, text: str = "", label: AMDCategory | None = None) -> None:
        self.machine.speech_started()
        await asyncio.sleep(seconds)
        if text:
            self.machine.heard(text)
        if label is not None:
            self.machine.labelled(label)
        await asyncio.sleep(0.25)
        self.machine.speech_ended(0.25)

    @property
    def verdict(self) -> tuple[str, str, float] | None:
        """Category, reason and seconds since the beginning."""
        if not self.released:
            return None
        (prediction,) = self.released
        assert self.released_at is not None
        return prediction.category.value, prediction.reason, round(self.released_at, 2)


async def test_a_short_greeting_is_a_human() -> None:
    line = Line()
    await line.says(1.0)
    await asyncio.sleep(60)
    assert line.verdict == ("human", "short_greeting", 1.5)
    assert line.released[0].speech_duration == pytest.approx(1.0)
    assert line.released[0].delay == pytest.approx(0.5)


async def test_a_short_greeting_with_words_is_left_to_the_model() -> None:
    line = Line()
    await line.says(1.0)
    line.machine.heard("hello")
    assert line.asked == [("hello", True)]
    line.machine.labelled(HUMAN)
    await asyncio.sleep(60)
    assert line.verdict == ("human", "llm", 2.5)


async def test_a_machine_is_named_after_silence_and_the_end_of_its_turn() -> None:
    line = Line()
    await line.says(4.0, "please leave a message", VOICEMAIL)
    await asyncio.sleep(60)
    assert line.verdict == ("machine-vm", "llm", 7.0)


async def test_the_session_may_see_the_end_of_the_turn_earlier() -> None:
    line = Line()
    await line.says(4.0, "please leave a message", VOICEMAIL)
    line.machine.turn_ended()
    await asyncio.sleep(60)
    assert line.verdict == ("machine-vm", "llm", 5.5)


async def test_a_machine_that_goes_on_speaking_is_heard_out() -> None:
    line = Line()
    await line.says(4.0, "you have reached", VOICEMAIL)
    await asyncio.sleep(1.0)
    await line.says(4.0, "leave a message")
    assert line.verdict is None
    await asyncio.sleep(60)
    assert line.verdict == ("machine-vm", "llm", 12.25)
    assert line.asked[-1][0] == "you have reached leave a message"


async def test_nobody_speaks() -> None:
    line = Line()
    await asyncio.sleep(60)
    assert line.verdict == ("uncertain", "no_speech_timeout", 10.0)


@pytest.mark.parametrize(("wait", "at"), [(False, 20.0), (True, 33.0)])
async def test_after_the_timeout_a_speaker_may_be_heard_out(wait: bool, at: float) -> None:
    line = Line(wait_until_finished=wait)
    await line.says(30.0, "a very long announcement")
    await asyncio.sleep(60)
    assert line.verdict == ("uncertain", "detection_timeout", at)


async def test_who_never_stops_speaking_is_cut_off_at_three_times_the_timeout() -> None:
    line = Line()
    line.machine.speech_started()
    await asyncio.sleep(100)
    assert line.verdict == ("uncertain", "detection_timeout", 60.0)


async def test_a_late_opinion_replaces_a_fallback_that_is_not_released_yet() -> None:
    line = Line()
    await line.says(30.0, "a very long announcement", VOICEMAIL)
    await asyncio.sleep(60)
    assert line.verdict == ("machine-vm", "llm", 33.0)


async def test_a_model_gets_more_time_three_times_and_is_asked_again() -> None:
    line = Line()
    await line.says(1.0, "hi")
    for _ in range(5):
        line.machine.postponed(2.0)
        await asyncio.sleep(2.0)
    assert [may_postpone for _, may_postpone in line.asked] == [True, True, True, False]
    line.machine.labelled(HUMAN)
    assert line.verdict == ("human", "llm", 11.25)


async def test_an_uncertain_opinion_is_none() -> None:
    line = Line()
    await line.says(3.0, "well", AMDCategory.UNCERTAIN)
    await asyncio.sleep(10)
    assert line.verdict is None


async def test_what_is_heard_before_the_line_is_open_or_after_the_verdict_does_not_count() -> None:
    line = Line(listen=False)
    await line.says(1.0, "ringing")
    await asyncio.sleep(30)
    assert line.verdict is None and line.asked == []
    line.machine.participant_missing()
    assert line.verdict is not None and line.verdict[:2] == ("uncertain", "participant_missing")
    line.machine.listen()
    await line.says(1.0, "hello")
    assert len(line.released) == 1


async def test_words_without_voice_detection_are_enough() -> None:
    line = Line()
    line.machine.heard("press one for sales")
    line.machine.labelled(AMDCategory.MACHINE_IVR)
    await asyncio.sleep(60)
    assert line.verdict == ("machine-ivr", "llm", 3.0)


async def test_a_closed_machine_says_nothing() -> None:
    line = Line()
    line.machine.close()
    await line.says(1.0, "hello", HUMAN)
    await asyncio.sleep(100)
    assert line.verdict is None and not line.machine.listening


async def test_speech_that_ends_without_a_beginning_is_told() -> None:
    line = Line()
    assert line.machine.speech_ended(0.2) is False
