"""An avatar's worker, and the session that speaks through it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from livekit import rtc

from fakes.llm import FakeLLM
from fakes.room import AGENT, FakeRtc
from fakes.session import Recorded, make_session
from fakes.speaker import Speaker
from fakes.tts import FakeTTS
from livekit.agents.utils.aio import Chan, TaskScope
from livekit.agents.voice import Agent
from livekit.agents.voice.avatar import (
    AudioSegmentEnd,
    AvatarOptions,
    AvatarRunner,
    AvatarSession,
    QueueAudioOutput,
    VideoGenerator,
)

RATE = 24000
OPTIONS = AvatarOptions(64, 48, 10, RATE, 1)


def frame(seconds: float = 0.1) -> rtc.AudioFrame:
    return rtc.AudioFrame.create(RATE, 1, round(seconds * RATE))


def picture() -> rtc.VideoFrame:
    return rtc.VideoFrame(64, 48, rtc.VideoBufferType.RGBA, bytes(64 * 48 * 4))


class Face(VideoGenerator):
    """One picture for each tenth of a second of speech."""

    def __init__(self) -> None:
        self.out: Chan[Any] = Chan()
        self.cleared = 0

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        if isinstance(frame, rtc.AudioFrame):
            self.out.send_nowait(picture())
        self.out.send_nowait(frame)

    def clear_buffer(self) -> None:
        self.cleared += 1
        while not self.out.empty():
            self.out.recv_nowait()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.out


async def test_a_runner_publishes_and_reports_what_it_plays(fake_rtc: FakeRtc) -> None:
    room: Any = fake_rtc.room()
    audio, face = QueueAudioOutput(sample_rate=RATE, wait_playback_start=True), Face()
    runner = AvatarRunner(room, audio_recv=audio, video_gen=face, options=OPTIONS)
    started: list[bool] = []
    audio.on("playback_started", lambda event: started.append(True))
    await runner.start()
    assert not room.sent.track_publications, "nothing is published before there is something"
    for _ in range(10):
        await audio.capture_frame(frame())
    audio.flush()
    finished = await audio.wait_for_playout()
    assert (finished.playback_position, finished.interrupted) == (pytest.approx(1.0), False)
    assert started == [True]
    published = [(p.name, p.source) for p in room.sent.track_publications.values()]
    assert published == [
        ("avatar_audio", rtc.TrackSource.SOURCE_MICROPHONE),
        ("avatar_video", rtc.TrackSource.SOURCE_CAMERA),
    ]
    await runner.aclose()
    await runner.aclose()


async def test_the_first_words_wait_for_somebody_who_hears_them(fake_rtc: FakeRtc) -> None:
    room: Any = fake_rtc.room()
    room.sent.listeners = False
    audio, face = QueueAudioOutput(sample_rate=RATE), Face()
    runner = AvatarRunner(room, audio_recv=audio, video_gen=face, options=OPTIONS)
    await runner.start()
    await audio.capture_frame(frame())
    audio.flush()
    await asyncio.sleep(2.0)
    published = {p.name: p for p in room.sent.track_publications.values()}
    assert set(published) == {"avatar_audio", "avatar_video"}
    assert not fake_rtc.source.played
    published["avatar_audio"].first_subscription.set_result(None)
    assert (await audio.wait_for_playout()).playback_position == pytest.approx(0.1)
    assert fake_rtc.source.played
    await runner.aclose()


async def test_an_avatar_nobody_listens_to_speaks_all_the_same_after_a_while(
    fake_rtc: FakeRtc,
) -> None:
    room: Any = fake_rtc.room()
    room.sent.listeners = False
    audio = QueueAudioOutput(sample_rate=RATE)
    runner = AvatarRunner(room, audio_recv=audio, video_gen=Face(), options=OPTIONS)
    await runner.start()
    await audio.capture_frame(frame())
    audio.flush()
    finished = await asyncio.wait_for(audio.wait_for_playout(), 6.0)
    assert finished.playback_position == pytest.approx(0.1)
    await runner.aclose()


async def test_an_interruption_before_anybody_listens_drops_the_words(fake_rtc: FakeRtc) -> None:
    room: Any = fake_rtc.room()
    room.sent.listeners = False
    audio = QueueAudioOutput(sample_rate=RATE)
    runner = AvatarRunner(room, audio_recv=audio, video_gen=Face(), options=OPTIONS)
    await runner.start()
    await audio.capture_frame(frame())
    audio.flush()
    await asyncio.sleep(1.0)
    audio.clear_buffer()
    finished = await asyncio.wait_for(audio.wait_for_playout(), 1.0)
    assert finished.interrupted and finished.playback_position == 0.0
    await asyncio.sleep(10.0)
    assert not fake_rtc.source.played
    await runner.aclose()


async def test_an_interruption_finishes_every_segment_once(fake_rtc: FakeRtc) -> None:
    room: Any = fake_rtc.room()
    audio, face = QueueAudioOutput(sample_rate=RATE), Face()
    runner = AvatarRunner(room, audio_recv=audio, video_gen=face, options=OPTIONS)
    await runner.start()
    for _ in range(2):
        for _ in range(30):
            await audio.capture_frame(frame())
        audio.flush()
    await asyncio.sleep(1.0)
    audio.clear_buffer()
    finished = await asyncio.wait_for(audio.wait_for_playout(), 1.0)
    assert finished.interrupted and audio._pending_playback_count == 0
    assert face.cleared == 1
    await audio.capture_frame(frame(0.5))
    audio.flush()
    assert not (await asyncio.wait_for(audio.wait_for_playout(), 5.0)).interrupted
    await runner.aclose()


async def test_long_frames_fit_into_the_tracks_queue_and_end_with_an_interruption(
    fake_rtc: FakeRtc,
) -> None:
    rate = 22050
    options = AvatarOptions(64, 48, 10, rate, 1)
    room: Any = fake_rtc.room()
    audio, face = QueueAudioOutput(sample_rate=rate), Face()
    runner = AvatarRunner(room, audio_recv=audio, video_gen=face, options=options)
    await runner.start()
    await audio.capture_frame(rtc.AudioFrame.create(rate, 1, rate // 10))
    await audio.capture_frame(rtc.AudioFrame.create(rate, 1, 2 * rate))
    audio.flush()
    assert (await audio.wait_for_playout()).playback_position == pytest.approx(2.1)
    pieces = [frame.samples_per_channel for _, frame in fake_rtc.source.played]
    assert sum(pieces) == rate // 10 + 2 * rate
    assert max(pieces) <= rate // 100 * 10, "whole blocks of 10 ms"
    await audio.capture_frame(rtc.AudioFrame.create(rate, 1, 10 * rate))
    audio.flush()
    await asyncio.sleep(1.0)
    audio.clear_buffer()
    finished = await audio.wait_for_playout()
    assert finished.interrupted and finished.playback_position == pytest.approx(1.0, abs=0.11)
    await asyncio.sleep(1.0)
    assert fake_rtc.source.queued_duration == 0.0, "the rest of the frame is not played"
    await runner.aclose()


async def test_a_runner_can_be_closed_at_any_time_and_says_when_it_does_not_run(
    fake_rtc: FakeRtc,
) -> None:
    room: Any = fake_rtc.room(connected=False)
    audio = QueueAudioOutput()
    runner = AvatarRunner(room, audio_recv=audio, video_gen=Face(), options=OPTIONS)
    with pytest.raises(RuntimeError, match="start"):
        await runner.wait_for_complete()
    await runner.aclose()
    audio = QueueAudioOutput()
    runner = AvatarRunner(room, audio_recv=audio, video_gen=Face(), options=OPTIONS)
    await runner.start()
    with pytest.raises(RuntimeError, match="already"):
        await runner.start()
    await audio.capture_frame(frame())
    await asyncio.sleep(1.0)  # waits for a room that never connects
    await runner.aclose()
    assert not audio._events.get("clear_buffer") and not room.registered


async def test_what_the_generator_fails_with_is_raised_to_whoever_waits(fake_rtc: FakeRtc) -> None:
    class Broken(Face):
        async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
            raise OSError("no GPU")

    audio = QueueAudioOutput()
    room: Any = fake_rtc.room()
    runner = AvatarRunner(room, audio_recv=audio, video_gen=Broken(), options=OPTIONS)
    await runner.start()
    waiting = TaskScope("test").spawn(runner.wait_for_complete(), log_errors=False)
    await audio.capture_frame(frame())
    with pytest.raises(OSError, match="no GPU"):
        await waiting
    await runner.aclose()


class Service(AvatarSession[Any]):
    """A plugin as they are written."""

    @property
    def avatar_identity(self) -> str:
        return "face"

    @property
    def provider(self) -> str:
        return "acme"

    async def start(self, agent_session: Any, room: Any) -> None:
        await super().start(agent_session, room)
        agent_session.output.replace_audio_tail(QueueAudioOutput())


async def test_the_session_learns_when_the_avatar_joined_and_how_late_it_plays(
    fake_rtc: FakeRtc,
) -> None:
    session = make_session(FakeLLM(default="hello"), tts=FakeTTS())
    session.output.audio = Speaker()
    await session.start(Agent(instructions=""))
    metrics: list[Any] = []
    session.on("metrics_collected", lambda event: metrics.append(event.metrics))
    room: Any = fake_rtc.room()
    avatar = Service()
    with pytest.raises(RuntimeError, match="not started"):
        await avatar.wait_for_join()
    await avatar.start(session, room)
    with pytest.raises(asyncio.TimeoutError):
        await avatar.wait_for_join(timeout=1.0)
    face = room.join("face", kind=AGENT)
    room.emit("participant_active", face)
    room.publish(face, kind=rtc.TrackKind.KIND_VIDEO)
    await avatar.wait_for_join(timeout=1.0)
    [joined] = [m for m in metrics if m.type == "avatar_metrics"]
    assert joined.metadata.model_provider == "acme" and joined.avatar_joined_time is not None
    await avatar.aclose()
    assert not room.registered
    await session.aclose()


async def test_waiting_for_an_avatar_begins_when_the_room_is_connected(fake_rtc: FakeRtc) -> None:
    session, room = make_session(), fake_rtc.room(connected=False)
    avatar = Service()
    await avatar.start(session, room)
    waiting = TaskScope("test").spawn(avatar.wait_for_join())
    await asyncio.sleep(5.0)
    assert not waiting.done()
    face = room.join("face", kind=AGENT)
    room.connect()
    room.publish(face, kind=rtc.TrackKind.KIND_VIDEO)
    await waiting
    await avatar.aclose()
    await avatar.aclose()


async def test_an_avatar_that_is_closed_gives_the_voice_back(fake_rtc: FakeRtc) -> None:
    session = make_session(FakeLLM(default="hello"), tts=FakeTTS())
    recorded = Recorded(session)
    speaker = Speaker()
    session.output.replace_audio_tail(speaker)
    await session.start(Agent(instructions=""))
    avatar = Service()
    room: Any = fake_rtc.room()
    await avatar.start(session, room)
    await avatar.aclose()
    assert session.output.audio is speaker
    handle = session.say("can you hear me")
    await handle
    assert not handle.interrupted
    await session.aclose()
    assert recorded.closes[0].report.clean


async def test_a_job_removes_its_avatar_from_the_room_bounded(
    fake_rtc: FakeRtc, monkeypatch: pytest.MonkeyPatch
) -> None:
    from livekit.agents.voice import session_start

    removed: list[str] = []

    async def remove(request: Any) -> None:
        removed.append(request.identity)
        await asyncio.Event().wait()  # the server never answers

    callbacks: list[Any] = []
    job = SimpleNamespace(
        api=SimpleNamespace(room=SimpleNamespace(remove_participant=remove)),
        is_fake_job=lambda: False,
        add_shutdown_callback=callbacks.append,
    )
    monkeypatch.setattr(session_start, "current_job", lambda: job)
    session, room = make_session(), fake_rtc.room()
    avatar = Service()
    await avatar.start(session, room)
    [callback] = callbacks
    loop = asyncio.get_running_loop()
    began = loop.time()
    await callback()
    assert removed == ["face"] and loop.time() - began <= 2.6
