"""Closing recognition: what was said is kept, nothing outlives it, and no part can hold it up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fakes.hearing import (
    FOREVER,
    Ears,
    FakeInterruptionDetector,
    FakeStreamingDetector,
    FakeTextDetector,
    ScriptedNode,
    final,
    frame,
    interim,
    now,
    settle,
)
from fakes.stt import FakeSTT
from livekit.agents.utils.aio import abandoned
from livekit.agents.voice.audio_recognition import AudioRecognition, published_stream


async def test_silence_has_nothing_to_wait_for() -> None:
    ears = Ears()
    ears.recognition.push_audio(frame())
    began = now()
    assert not ears.recognition.turn_pending
    await ears.recognition.commit_for_close(2.0)
    assert await ears.close() == []
    assert now() - began < 0.01
    assert ears.hooks.turns == []


async def test_audio_alone_is_not_pending_without_a_vad() -> None:
    ears = Ears(vad=False)
    for _ in range(100):
        ears.recognition.push_audio(frame())
    await settle()
    assert not ears.recognition.turn_pending
    await ears.close()


async def test_a_pending_final_is_committed_at_once() -> None:
    ears = Ears()
    await ears.speaks(1.0)
    await ears.pauses()
    await ears.hears(final("one last thing"))
    began = now()
    ears.recognition.begin_close()
    assert ears.recognition.turn_pending
    await ears.recognition.commit_for_close(2.0)
    assert now() == began
    assert ears.hooks.transcripts == ["one last thing"]
    await ears.close()


async def test_the_final_of_speech_cut_short_is_awaited() -> None:
    ears = Ears()
    ears.recognition.push_audio(frame())
    await ears.speaks(1.0)
    ears.recognition.begin_close()
    assert not ears.recognition.speaking
    assert ears.hooks.names()[-1] == "end_of_speech"
    assert ears.recognition.turn_pending
    committing = asyncio.get_running_loop().create_task(ears.recognition.commit_for_close(2.0))
    await asyncio.sleep(1.5)
    assert not committing.done()
    await ears.hears(final("goodbye then"))
    await committing
    assert ears.hooks.transcripts == ["goodbye then"]
    await ears.close()


async def test_a_final_that_never_comes_costs_the_timeout_and_adds_no_empty_turn() -> None:
    ears = Ears()
    await ears.speaks(1.0)
    await ears.pauses()
    began = now()
    await ears.recognition.commit_for_close(2.0)
    assert now() - began == pytest.approx(2.0)
    assert ears.hooks.turns == []
    await ears.close()


async def test_speech_long_ago_that_was_never_transcribed_was_noise() -> None:
    ears = Ears()
    await ears.speaks(0.3)
    await ears.pauses()
    await asyncio.sleep(30)
    assert not ears.recognition.turn_pending
    await ears.close()


async def test_a_guess_becomes_the_last_word() -> None:
    ears = Ears()
    await ears.speaks(1.0)
    await ears.hears(final("call me"), interim("tomorrow"))
    await ears.recognition.commit_for_close(2.0)
    assert ears.hooks.transcripts == ["call me tomorrow"]
    await ears.close()


async def test_closing_without_a_commit_keeps_what_is_there_and_waits_for_nothing() -> None:
    ears = Ears()
    await ears.speaks(1.0)
    await ears.hears(final("wait"))
    began = now()
    await ears.close()
    assert ears.hooks.transcripts == ["wait"]
    assert now() - began < 0.01


async def test_in_manual_mode_with_nothing_said_nothing_is_added() -> None:
    ears = Ears(detection="manual")
    await ears.speaks(1.0)
    await ears.recognition.commit_for_close(0.5)
    await ears.close()
    assert ears.hooks.turns == []


@pytest.mark.parametrize("delay", [0.1, FOREVER])
async def test_a_detector_being_asked_does_not_hold_up_the_commit(delay: float) -> None:
    detector = FakeTextDetector(probability=0.0)
    detector.delay = delay
    ears = Ears(detection=detector)
    await ears.speaks(1.0)
    await ears.hears(final("done"))
    await ears.pauses()
    assert ears.recognition.end_of_turn_pending
    began = now()
    await ears.recognition.commit_for_close(2.0)
    assert ears.hooks.transcripts == ["done"]
    assert now() == began
    assert await ears.close() == []


async def test_a_users_own_commit_does_not_hold_up_the_close() -> None:
    ears = Ears(detection="manual")
    result = ears.recognition.commit_user_turn(transcript_timeout=1000)
    await settle()
    began = now()
    await ears.close()
    assert result.cancelled()
    assert now() - began < 0.01


async def test_late_commits_are_empty() -> None:
    ears = Ears(detection="manual")
    await ears.hears(final("too late"))
    ears.recognition.begin_close()
    assert ears.recognition.commit_user_turn().result() == ""
    await ears.close()


async def test_closing_is_idempotent_and_needs_no_start() -> None:
    ears = Ears()
    await asyncio.gather(ears.close(), ears.close())
    assert await ears.close() == []
    await AudioRecognition(
        ears.session,  # type: ignore[arg-type]
        hooks=ears.hooks,
        endpointing=ears.recognition.endpointing,
        stt=ears.node,
        vad=None,
        interruption_detection=None,
        turn_detection=None,
    ).aclose()


async def test_clearing_right_before_the_close_orphans_no_stream() -> None:
    ears = Ears()
    await settle()
    ears.recognition.clear_user_turn()
    await ears.close()
    assert ears.node.calls >= 1
    assert ears.node.closed == ears.node.calls
    assert ears.vad is not None and ears.vad.open_streams == []


@pytest.mark.parametrize("stuck", ["stt", "vad", "detector", "interruption", "all"])
async def test_parts_that_hang_while_closing_share_one_bound(stuck: str) -> None:
    turn_detector, interruption = FakeStreamingDetector(), FakeInterruptionDetector()
    ears = Ears(detection=turn_detector, detector=interruption)
    await settle()

    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    if stuck in ("stt", "all"):
        ears.node.close_time = 3600
    if stuck in ("vad", "all"):
        ears.vad_stream.aclose = hang  # type: ignore[method-assign]
    if stuck in ("detector", "all"):
        turn_detector.streams[0].aclose = hang  # type: ignore[method-assign]
    if stuck in ("interruption", "all"):
        interruption.streams[0].aclose = hang  # type: ignore[method-assign]
    began = now()
    assert await ears.close(2.0) == []  # all of them obey the final cancellation
    assert 0.5 < now() - began <= 2.0
    await _end_leftovers(ears)


async def _end_leftovers(ears: Ears) -> None:
    if ears.vad is not None:
        for stream in ears.vad.open_streams:
            await type(stream).aclose(stream)


async def test_a_node_that_ignores_cancellation_is_left_behind_and_named() -> None:
    ears = Ears()
    await settle()
    ears.node.ignore_cancellation = True
    began = now()
    survivors = await ears.close(2.0)
    assert now() - began <= 2.0
    assert [survivor.name for survivor in survivors] == ["stt pump"]
    assert len(abandoned()) == 1
    ears.node.say(StopAsyncIteration)  # let it end after all
    await settle()
    assert abandoned() == {}


@pytest.mark.parametrize("timeout", [0.0, 0.05])
async def test_however_short_the_time_everything_is_told_to_end(timeout: float) -> None:
    ears = Ears(detection=FakeStreamingDetector(), detector=FakeInterruptionDetector())
    await settle()
    began = now()
    await ears.close(timeout)
    assert now() - began <= timeout
    await settle()
    assert ears.node.closed == 1
    assert ears.vad is not None and ears.vad.open_streams == []


async def test_a_stuck_node_does_not_keep_the_live_stream_open() -> None:
    stt = FakeSTT()

    class StuckNode(ScriptedNode):
        async def _run(self, audio: Any) -> Any:
            stream = stt.stream()
            with published_stream(stream):
                try:
                    async for event in stream:
                        yield event
                finally:
                    await asyncio.sleep(3600)

    ears = Ears(node=StuckNode())
    await settle()
    assert len(stt.open_streams) == 1
    began = now()
    await ears.close(2.0)
    assert now() - began <= 2.0
    assert stt.open_streams == []


async def test_no_reconnect_once_closing() -> None:
    ears = Ears()
    await ears.hears(RuntimeError("connection lost"))
    await ears.close()
    await asyncio.sleep(60)
    assert ears.node.calls == 1


async def test_words_held_over_the_agent_are_committed() -> None:
    ears = Ears(detector=FakeInterruptionDetector())
    await ears.agent_speaks()
    await asyncio.sleep(2.0)
    await ears.speaks(1.0)
    await ears.hears(final("actually no"))
    assert ears.hooks.details("final") == []
    assert ears.recognition.turn_pending
    await ears.pauses()
    await ears.recognition.commit_for_close(2.0)
    assert ears.hooks.transcripts == ["actually no"]
    await ears.close()


# -- handing over ---------------------------------------------------------------------------------


async def test_the_stt_goes_on_with_the_next_agent() -> None:
    first = Ears()
    await settle()
    first.recognition.push_audio(frame())
    started_at = first.recognition.input_started_at
    detached = first.recognition.detach()
    await first.close()
    first.node.say(final("between two agents"))
    await settle()
    second = Ears(vad=False, adopt=detached)
    assert detached.pump is None
    assert second.recognition.input_started_at == started_at
    first.node.say(final("and on"))
    await asyncio.sleep(1)
    assert first.hooks.transcripts == []
    assert second.hooks.transcripts == ["between two agents and on"]
    assert first.node.calls == 1
    first.node.say(RuntimeError("reconnect"))
    await asyncio.sleep(1)
    assert second.node.calls == 1  # the node of the agent on duty
    await second.close()


async def test_guesses_follow_the_stt_and_finals_stay() -> None:
    ears = Ears(vad=False)
    await ears.hears(final("please"), interim("transfer"))
    detached = ears.recognition.detach()
    await ears.close()
    assert ears.hooks.transcripts == ["please"]
    assert await detached.aclose() == []
    assert ears.node.closed == 1


async def test_a_handoff_ends_the_speech_of_the_user() -> None:
    ears = Ears()
    await ears.speaks(1.0)
    detached = ears.recognition.detach()
    await ears.close()
    assert ears.hooks.names()[-1] == "end_of_speech"
    await detached.aclose()


async def test_nothing_is_opened_again_once_the_close_has_begun() -> None:
    ears = Ears()
    await ears.hears(RuntimeError("lost before the close"))
    ears.recognition.begin_close()
    await asyncio.sleep(60)
    assert ears.node.calls == 1
    await ears.close()


async def test_switching_the_input_off_ends_the_turn_in_stt_mode_too() -> None:
    from livekit.agents.stt import SpeechEvent, SpeechEventType

    ears = Ears(detection="stt", vad=False)
    await ears.hears(SpeechEvent(type=SpeechEventType.START_OF_SPEECH))
    ears.recognition.on_input_disabled()
    await ears.hears(final("gone"))
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == ["gone"]
    await ears.close()
