"""The demo's call by way of a gateway that is gone for a while in the middle of a sentence."""

from __future__ import annotations

import io
import logging

import offline_call
import pytest
from phone.callers import ScriptedCaller
from phone.display import Display
from phone.gateway import OUTAGE, ReplayNotes, local_gateway
from receptionist import receptionist_rules

SPEED = 1.5


@pytest.mark.real_time
async def test_the_sentence_spoken_into_an_outage_is_in_the_transcript() -> None:
    screen = io.StringIO()
    logger = logging.getLogger("livekit.agents")
    level = logger.level
    async with local_gateway(receptionist_rules()) as gateway:
        call = offline_call.Call(Display(screen), speed=SPEED, session=gateway.make_session())
        caller = ScriptedCaller(offline_call.synthesise, call)
        notes = ReplayNotes(lambda text: call.log.add("note", text))
        logger.setLevel(logging.INFO)
        logger.addHandler(notes)
        gateway.plan_outage(
            lambda: caller.turn == 2, lambda text: call.log.add("note", text), speed=SPEED
        )

        def heard() -> list[str]:
            return [entry.text for entry in call.log.entries if entry.kind == "heard"]

        def until_heard() -> bytes | None:
            done = any("table" in text for text in heard())
            return None if done else caller()

        try:
            await call.run(until_heard)
        finally:
            logger.removeHandler(notes)
            logger.setLevel(level)
    [sentence] = [text for text in heard() if "table" in text]
    assert "would like to book" in sentence and "tomorrow evening" in sentence
    shown = screen.getvalue()
    assert f"the gateway is gone, for {OUTAGE:g} s" in shown
    assert "the gateway is back" in shown
    assert "are sent once more" in shown
    report = call.log.report
    assert report is not None and not report.survivors
