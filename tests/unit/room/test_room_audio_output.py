from __future__ import annotations

import asyncio
from typing import Any

import pytest
from livekit import rtc

from fakes.room import FakeRoom, FakeRtc
from fakes.session import now
from livekit.agents.utils.aio import TaskScope
from livekit.agents.voice.io import PlaybackFinishedEvent
from livekit.agents.voice.room_io import _ParticipantAudioOutput

RATE = 24000


class Track:
    """An output in a room, and what it has reported."""

    def __init__(self, fake_rtc: FakeRtc, room: FakeRoom | None = None) -> None:
        self.room: Any = room or fake_rtc.room()
        self.output = _ParticipantAudioOutput(
            self.room,
            sample_rate=RATE,
            num_channels=1,
            track_publish_options=rtc.TrackPublishOptions(),
        )
        self.source = fake_rtc.sources[-1]
        self.finished: list[PlaybackFinishedEvent] = []
        self.started: list[float] = []
        self.progress: list[tuple[float, float]] = []
        self.output.on("playback_finished", self.finished.append)
        self.output.on("playback_started", lambda event: self.started.append(now()))
        self.output.on(
            "playback_progressed",
            lambda event: self.progress.append((event.offset, event.duration)),
        )

    async def push(self, seconds: float, *, of: float = 0.1) -> None:
        for _ in range(round(seconds / of)):
            await self.output.capture_frame(frame(of))

    @property
    def heard(self) -> float:
        return sum(each.duration for _, each in self.source.played)


def frame(seconds: float) -> rtc.AudioFrame:
    return rtc.AudioFrame.create(RATE, 1, round(seconds * RATE))


async def playing(fake_rtc: FakeRtc) -> Track:
    track = Track(fake_rtc)
    await track.output.start()
    return track


async def test_speech_is_captured_at_once_and_played_in_real_time(fake_rtc: FakeRtc) -> None:
    track = await playing(fake_rtc)
    began = now()
    await track.push(3.0)
    assert now() == began, "captured as fast as it is made"
    track.output.flush()
    finished = await track.output.wait_for_playout()
    assert now() - began == pytest.approx(3.0)
    assert (finished.playback_position, finished.interrupted) == (pytest.approx(3.0), False)
    assert track.started == [began] and track.progress == [(0.0, pytest.approx(3.0))]
    assert {each.duration for _, each in track.source.played} == {0.05}
    await track.output.aclose()


async def test_the_track_is_published_as_the_microphone_and_waits_for_a_listener(
    fake_rtc: FakeRtc,
) -> None:
    track = Track(fake_rtc)
    track.room.sent.listeners = False
    scope = TaskScope("test")
    starting = scope.spawn(track.output.start())
    capturing = scope.spawn(track.push(0.1))
    await asyncio.sleep(5.0)
    assert not starting.done() and not capturing.done() and not track.output.subscribed.done()
    [publication] = track.room.sent.track_publications.values()
    publication.first_subscription.set_result(None)
    await asyncio.wait((starting, capturing))
    assert track.output.subscribed.done() and publication.name == "roomio_audio"
    await track.output.aclose()


async def test_a_capture_that_is_cancelled_before_anybody_listens_mutes_nobody(
    fake_rtc: FakeRtc,
) -> None:
    track = Track(fake_rtc)
    scope = TaskScope("test")
    cancelled = scope.spawn(track.push(0.1))
    await asyncio.sleep(0.1)
    cancelled.cancel()
    await asyncio.wait((cancelled,))
    await track.output.start()
    await track.push(0.2)
    track.output.flush()
    assert (await track.output.wait_for_playout()).playback_position == pytest.approx(0.2)
    await track.output.aclose()


@pytest.mark.parametrize("flush_first", [True, False])
async def test_an_interruption_stops_the_sound_and_says_how_far_it_came(
    fake_rtc: FakeRtc, flush_first: bool
) -> None:
    track = await playing(fake_rtc)
    await track.push(5.0)
    await asyncio.sleep(1.0)
    steps = [track.output.flush, track.output.clear_buffer]
    for step in steps if flush_first else reversed(steps):
        step()
    finished = await track.output.wait_for_playout()
    assert (finished.playback_position, finished.interrupted) == (pytest.approx(1.0), True)
    await asyncio.sleep(1.0)
    assert track.heard == pytest.approx(1.0, abs=0.051), "nothing of it plays later"
    await track.push(0.5)
    track.output.flush()
    assert (await track.output.wait_for_playout()).playback_position == pytest.approx(0.5)
    assert [event.interrupted for event in track.finished] == [True, False]
    await track.output.aclose()


async def test_a_pause_keeps_what_waits_and_loses_what_the_source_held(fake_rtc: FakeRtc) -> None:
    track = await playing(fake_rtc)
    began = now()
    await track.push(2.0)
    track.output.flush()
    await asyncio.sleep(0.5)
    track.output.pause()
    await asyncio.sleep(10.0)
    assert not track.finished and track.heard < 0.75
    track.output.resume()
    finished = await track.output.wait_for_playout()
    lost = 2.0 - finished.playback_position
    assert 0.0 < lost <= 0.25 and not finished.interrupted
    assert now() - began == pytest.approx(2.0 - lost + 10.0, abs=0.06)
    [(_, first), (offset, rest)] = track.progress
    assert offset == pytest.approx(first + lost) and rest == pytest.approx(2.0 - offset)
    assert len(track.started) == 1
    await track.output.aclose()


async def test_a_segment_that_is_interrupted_while_paused_leaks_nothing(fake_rtc: FakeRtc) -> None:
    track = await playing(fake_rtc)
    await track.push(2.0)
    track.output.flush()
    await asyncio.sleep(0.3)
    track.output.pause()
    await asyncio.sleep(0.5)
    track.output.clear_buffer()
    assert (await track.output.wait_for_playout()).interrupted
    before = track.heard
    track.output.resume()
    await asyncio.sleep(1.0)
    assert track.heard == before
    await track.output.aclose()


async def test_every_segment_is_finished_once_also_an_empty_one(fake_rtc: FakeRtc) -> None:
    track = await playing(fake_rtc)
    await track.output.capture_frame(frame(0.0))
    track.output.flush()
    assert (await track.output.wait_for_playout()).playback_position == 0.0
    await track.output.capture_frame(frame(0.01))  # less than one frame, and cut off
    track.output.clear_buffer()
    track.output.flush()
    finished = await track.output.wait_for_playout()
    assert (finished.playback_position, finished.interrupted) == (0.0, True)
    assert len(track.finished) == 2
    await track.output.aclose()


async def test_a_capture_that_is_cancelled_while_the_last_segment_plays_harms_neither(
    fake_rtc: FakeRtc,
) -> None:
    track = await playing(fake_rtc)
    await track.push(1.0)
    track.output.flush()
    impatient = TaskScope("test").spawn(track.push(0.1))
    await asyncio.sleep(0.1)
    impatient.cancel()
    await asyncio.wait((impatient,))
    assert (await track.output.wait_for_playout()).playback_position == pytest.approx(1.0)
    assert len(track.finished) == 1
    await track.output.aclose()


async def test_less_than_a_frame_is_sent_before_the_source_runs_dry(fake_rtc: FakeRtc) -> None:
    track = await playing(fake_rtc)
    began = now()
    await track.output.capture_frame(frame(0.08))
    await asyncio.sleep(0.2)
    assert track.heard == pytest.approx(0.08) and not track.finished
    assert track.source.played[1][0] == pytest.approx(began + 0.05), "without a gap"
    await track.output.capture_frame(frame(0.05))
    track.output.flush()
    assert (await track.output.wait_for_playout()).playback_position == pytest.approx(0.13)
    assert [offset for offset, _ in track.progress] == pytest.approx([0.0, 0.08])
    await track.output.aclose()


async def test_a_listener_may_begin_the_next_segment_from_the_report_of_the_last(
    fake_rtc: FakeRtc,
) -> None:
    track = await playing(fake_rtc)
    scope = TaskScope("test")

    def once_more(event: PlaybackFinishedEvent) -> None:
        track.output.off("playback_finished", once_more)
        scope.spawn(track.push(0.2)).add_done_callback(lambda _: track.output.flush())

    track.output.on("playback_finished", once_more)
    await track.push(0.5)
    track.output.flush()
    await asyncio.sleep(2.0)
    assert [e.playback_position for e in track.finished] == pytest.approx([0.5, 0.2])
    await track.output.aclose()


async def test_closing_finishes_what_plays_and_leaves_nothing(fake_rtc: FakeRtc) -> None:
    track = await playing(fake_rtc)
    await track.push(5.0)
    await asyncio.sleep(1.0)
    waiting = TaskScope("test").spawn(track.output.wait_for_playout())
    assert await track.output.aclose() == []
    assert (await waiting).interrupted and track.source.closed
    await track.push(1.0)  # does nothing
    assert await track.output.aclose() == [] and len(track.finished) == 1


async def test_a_source_whose_answer_is_lost_does_not_stop_the_speech(fake_rtc: FakeRtc) -> None:
    track = await playing(fake_rtc)
    fake_rtc.native.silent.add("capture_frame")
    await track.push(0.1)
    track.output.flush()
    assert (await track.output.wait_for_playout()).playback_position == pytest.approx(0.1)
    await track.output.aclose()


async def test_a_track_that_is_published_after_the_close_is_unpublished(fake_rtc: FakeRtc) -> None:
    track = Track(fake_rtc)
    fake_rtc.native.silent.add("publish_track")
    scope = TaskScope("test")
    starting = scope.spawn(track.output.start())
    await asyncio.sleep(0.1)
    began = now()
    [survivor] = await track.output.aclose()
    assert survivor.name == "publish the agent's track" and now() - began <= 1.0
    await scope.cancel(1.0)
    assert starting.cancelled()
    fake_rtc.native.release()
    await asyncio.sleep(0.1)
    assert track.room.sent.track_publications == {}
    assert "unpublish_track" in fake_rtc.native.log
