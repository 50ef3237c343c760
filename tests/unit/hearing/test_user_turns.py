"""What becomes of a user turn: history, hook, reply."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from fakes.hearing import settle
from fakes.hearing_activity import FakeActivity
from fakes.realtime import FakeRealtimeModel
from fakes.stt import FakeSTT
from livekit.agents.voice.events import UserTurnExceededEvent
from livekit.agents.voice.hearing.hooks import EndOfTurnInfo, TurnMetrics

METRICS = TurnMetrics(
    started_speaking_at=10.0,
    stopped_speaking_at=12.0,
    transcription_delay=0.2,
    end_of_turn_delay=0.5,
)


def turn(text: str = "hello", **fields: Any) -> EndOfTurnInfo:
    fields.setdefault("transcript_confidence", 0.9)
    return EndOfTurnInfo(new_transcript=text, metrics=METRICS, **fields)


async def forever(*_: object) -> None:
    await asyncio.get_running_loop().create_future()


class RealtimeSession:
    """Counts what it is asked to do."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda: self.asked.append(name)


# -- replies --------------------------------------------------------------------------------------


async def test_a_turn_runs_the_hook_and_gets_a_reply() -> None:
    activity = FakeActivity()
    activity.stt = FakeSTT()
    assert activity.user_turns.on_end_of_turn(turn())
    assert activity.history == []
    await settle()
    assert activity.agent.completed == ["hello"]
    made = activity.replies.made[0]
    message = made["user_message"]
    assert message.transcript_confidence == 0.9
    assert message.metrics["end_of_turn_delay"] == 0.5
    assert message.metrics["stt_metadata"]["model_provider"] == "fake-provider"
    assert made["answers_user_at"] == 12.0
    metrics = activity.session.metrics[0]
    assert (metrics.end_of_utterance_delay, metrics.transcription_delay) == (0.5, 0.2)
    assert metrics.speech_id.startswith("speech_")
    await activity.close()


async def test_the_hook_may_edit_the_message_and_the_context_of_this_reply() -> None:
    activity = FakeActivity()

    def hook(chat_ctx: Any, message: Any) -> None:
        chat_ctx.add_message(role="system", content="the shop is closed")
        message.content = ["edited"]

    activity.agent.hook = hook
    activity.user_turns.on_end_of_turn(turn())
    await settle()
    assert activity.history == ["edited"]
    assert len(activity.replies.made[0]["chat_ctx"].items) == 1
    assert len(activity.agent._chat_ctx.items) == 0
    await activity.close()


async def test_a_prepared_reply_is_adopted() -> None:
    activity = FakeActivity()
    activity.replies.prepared = activity.speech()
    activity.scheduler._current = None
    activity.user_turns.on_end_of_turn(turn())
    await settle()
    assert activity.replies.made == []
    assert activity.session.metrics[0].speech_id == activity.replies.prepared.id
    await activity.close()


async def test_what_the_agent_says_is_interrupted_first() -> None:
    activity = FakeActivity()
    current = activity.speech(playing=True)
    await settle()
    activity.user_turns.on_end_of_turn(turn())
    await settle()
    assert current.interruption_source == "user_turn"
    assert len(activity.replies.made) == 1
    await activity.close()


async def test_a_newer_turn_makes_the_older_reply_give_way() -> None:
    activity = FakeActivity()
    activity.agent.hook = lambda ctx, message: asyncio.sleep(1.0)
    activity.user_turns.on_end_of_turn(turn("first"))
    await asyncio.sleep(0.5)
    activity.user_turns.on_end_of_turn(turn("second"))
    await asyncio.sleep(3)
    assert activity.history == ["first", "second"]
    assert activity.agent.completed == ["first", "second"]
    assert activity.scheduler.current_speech is not None
    await activity.close()


# -- no reply, but never a lost word --------------------------------------------------------------


async def test_stop_response_drops_the_turn() -> None:
    activity = FakeActivity()
    activity.agent.hook = activity.agent.stop
    activity.user_turns.on_end_of_turn(turn())
    await settle()
    assert activity.history == []
    assert activity.replies.made == []
    await activity.close()


async def test_a_failing_hook_keeps_the_words_and_the_next_turn_is_answered() -> None:
    activity = FakeActivity()

    def hook(*_: object) -> None:
        raise RuntimeError("database gone")

    activity.agent.hook = hook
    activity.user_turns.on_end_of_turn(turn("first"))
    await settle()
    activity.agent.hook = None
    activity.user_turns.on_end_of_turn(turn("second"))
    await settle()
    assert activity.history == ["first", "second"]
    assert len(activity.replies.made) == 1
    await activity.close()


@pytest.mark.parametrize("failure", [RuntimeError("bug"), asyncio.CancelledError()])
async def test_one_failed_turn_does_not_silence_the_agent(failure: BaseException) -> None:
    activity = FakeActivity()
    generate = activity.replies.generate_reply

    def broken(**_: object) -> None:
        raise failure

    activity.replies.generate_reply = broken
    activity.user_turns.on_end_of_turn(turn("first"))
    await settle()
    activity.replies.generate_reply = generate
    activity.user_turns.on_end_of_turn(turn("second"))
    await settle()
    assert activity.history == ["first", "second"]
    assert len(activity.replies.made) == 1
    await activity.close()


async def test_an_uninterruptible_speech_costs_the_reply_not_the_words() -> None:
    activity = FakeActivity()
    current = activity.speech(allow_interruptions=False, playing=True)
    await settle()
    activity.user_turns.on_end_of_turn(turn())
    await settle()
    assert activity.history == ["hello"]
    assert activity.replies.made == []
    assert activity.replies.dropped
    assert not current.interrupted
    activity.end(current)
    await activity.close()


async def test_skip_reply_only_keeps_the_words() -> None:
    activity = FakeActivity()
    activity.user_turns.on_end_of_turn(turn(skip_reply=True))
    activity.user_turns.on_end_of_turn(turn("", skip_reply=True))
    await settle()
    assert activity.history == ["hello"]
    assert activity.agent.completed == []
    await activity.close()


@pytest.mark.parametrize("closing", [True, False])
async def test_during_a_handoff_or_a_close_the_words_are_kept(
    closing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    activity = FakeActivity()
    activity.blocked = not closing
    activity.session._is_closing = closing
    with caplog.at_level(logging.WARNING):
        assert activity.user_turns.on_end_of_turn(turn())
        assert activity.user_turns.on_end_of_turn(turn(""))
    assert activity.history == ["hello"]
    assert ("skipping user input, speech scheduling is paused" in caplog.text) is not closing
    assert activity.replies.made == []
    await activity.close()


async def test_a_turn_in_its_hook_when_the_close_cuts_off_is_kept() -> None:
    activity = FakeActivity()
    activity.agent.hook = forever
    activity.user_turns.on_end_of_turn(turn("first"))
    activity.user_turns.on_end_of_turn(turn("second"))
    await settle()
    assert activity.history == []
    activity.session._is_closing = True
    activity.user_turns.cut_off()
    assert activity.history == ["first", "second"]
    await activity.close()
    assert activity.history == ["first", "second"]


async def test_a_cancelled_turn_is_kept() -> None:
    activity = FakeActivity()
    activity.agent.hook = forever
    activity.user_turns.on_end_of_turn(turn())
    await settle()
    await activity.close()
    assert activity.history == ["hello"]


async def test_a_close_that_begins_during_the_hook_leaves_no_reply() -> None:
    activity = FakeActivity()
    activity.agent.hook = lambda *_: asyncio.sleep(1)
    activity.user_turns.on_end_of_turn(turn())
    await asyncio.sleep(0.5)
    activity.session._is_closing = True
    await asyncio.sleep(1)
    assert activity.history == ["hello"]
    assert activity.replies.made == []
    await activity.close()


# -- too little to be a turn ----------------------------------------------------------------------


async def test_too_few_words_over_the_agent_are_not_a_turn() -> None:
    activity = FakeActivity()
    activity.stt = FakeSTT()
    activity.session.options.interruption["min_words"] = 2
    current = activity.speech(playing=True)
    await settle()
    assert not activity.user_turns.on_end_of_turn(turn("yes"))
    assert activity.replies.dropped
    assert not current.interrupted
    assert activity.user_turns.on_end_of_turn(turn("yes please"))
    await activity.close()


async def test_a_backchannel_is_kept_from_a_model_that_hears_audio_only() -> None:
    activity = FakeActivity()
    activity.llm = FakeRealtimeModel()
    activity.realtime = RealtimeSession()
    assert not activity.user_turns.on_end_of_turn(turn("", backchannel_over_agent=True))
    assert activity.realtime.asked == ["clear_audio"]
    assert activity.user_turns.on_end_of_turn(turn("", backchannel_over_agent=False))
    await activity.close()


# -- realtime models ------------------------------------------------------------------------------


async def test_a_realtime_model_is_told_that_the_turn_is_over() -> None:
    activity = FakeActivity()
    activity.llm = FakeRealtimeModel()
    activity.realtime = RealtimeSession()
    activity.user_turns.on_end_of_turn(turn())
    await settle()
    assert activity.realtime.asked == ["commit_audio"]
    assert "user_message" not in activity.replies.made[0]
    await activity.close()


async def test_a_server_that_finds_turns_needs_no_help() -> None:
    activity = FakeActivity()
    activity.llm = FakeRealtimeModel()
    activity.realtime = RealtimeSession()
    activity.server_turn_detection = True
    activity.user_turns.on_end_of_turn(turn())
    await settle()
    assert activity.realtime.asked == []
    assert activity.replies.made == activity.history == []
    await activity.close()


# -- deciding and metrics -------------------------------------------------------------------------


async def test_what_is_still_undecided_can_be_waited_for() -> None:
    activity = FakeActivity()
    assert activity.user_turns.pending_decision() == ()
    activity.recognition.decision = asyncio.get_running_loop().create_future()
    assert activity.user_turns.pending_decision() == (activity.recognition.decision,)
    activity.recognition.decision.set_result(True)
    activity.agent.hook = lambda *_: asyncio.sleep(1)
    activity.user_turns.on_end_of_turn(turn())
    assert len(activity.user_turns.pending_decision()) == 1
    await asyncio.wait(activity.user_turns.pending_decision())
    await settle()
    assert activity.user_turns.pending_decision() == ()
    await activity.close()


@pytest.mark.parametrize(
    ("detection", "provider"), [(None, None), ("vad", "vad"), ("detector", "fake")]
)
async def test_metrics_name_who_found_the_end(detection: Any, provider: str | None) -> None:
    from fakes.hearing import FakeTextDetector

    activity = FakeActivity()
    activity.turn_detection = FakeTextDetector() if detection == "detector" else detection
    activity.user_turns.on_end_of_turn(turn())
    await settle()
    metadata = activity.session.metrics[0].metadata
    assert (metadata and metadata.model_provider) == provider
    await activity.close()


# -- a user who keeps talking ---------------------------------------------------------------------


def exceeded(text: str = "and then") -> UserTurnExceededEvent:
    return UserTurnExceededEvent(
        transcript=text, accumulated_transcript=text, accumulated_word_count=9, duration=30.0
    )


async def test_a_long_turn_is_cut_in_on() -> None:
    activity = FakeActivity()
    activity.user_turns.on_user_turn_exceeded(exceeded())
    await settle()
    assert [ev.transcript for ev in activity.agent.exceeded] == ["and then"]
    await activity.close()


async def test_an_agent_that_starts_speaking_has_cut_in_by_itself() -> None:
    activity = FakeActivity()
    queued = activity.speech()
    activity.user_turns.on_user_turn_exceeded(exceeded())
    await settle()
    activity.session._update_agent_state("speaking")
    activity.end(queued)
    await asyncio.sleep(1)
    assert activity.agent.exceeded == []
    await activity.close()


async def test_only_the_latest_excess_waits() -> None:
    activity = FakeActivity()
    queued = activity.speech()
    activity.user_turns.on_user_turn_exceeded(exceeded("one"))
    activity.user_turns.on_user_turn_exceeded(exceeded("two"))
    activity.end(queued)
    await asyncio.sleep(1)
    assert [ev.transcript for ev in activity.agent.exceeded] == ["two"]
    await activity.close()


async def test_nobody_is_cut_in_on_while_scheduling_is_paused() -> None:
    activity = FakeActivity()
    activity.blocked = True
    activity.user_turns.on_user_turn_exceeded(exceeded())
    await settle()
    assert activity.agent.exceeded == []
    await activity.close()
