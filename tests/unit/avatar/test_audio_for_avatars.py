"""The agent's audio in an avatar's hands: sent, played, reported, interrupted, lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from livekit import rtc

from fakes.room import AGENT, FakeRoom, FakeRtc, join_rooms
from fakes.session import now
from livekit.agents.utils.aio import TaskScope
from livekit.agents.voice.avatar import (
    AudioSegmentEnd,
    DataStreamAudioOutput,
    DataStreamAudioReceiver,
    QueueAudioOutput,
)
from livekit.agents.voice.io import AudioOutput, AudioOutputCapabilities, PlaybackFinishedEvent

RATE = 24000


def frame(seconds: float = 0.1) -> rtc.AudioFrame:
    return rtc.AudioFrame.create(RATE, 1, round(seconds * RATE))


class Stage:
    """An agent and an avatar in one room."""

    def __init__(self, fake_rtc: FakeRtc, **options: Any) -> None:
        self.native = fake_rtc.native
        self.agent: Any = fake_rtc.room()
        self.avatar: Any = fake_rtc.room(identity="face")
        join_rooms(self.agent, self.avatar)
        self.output = DataStreamAudioOutput(self.agent, destination_identity="face", **options)
        self.receiver = DataStreamAudioReceiver(self.avatar, sender_identity="agent")
        self.finished: list[PlaybackFinishedEvent] = []
        self.output.on("playback_finished", self.finished.append)
        self.received: list[Any] = []
        self.errors: list[Exception] = []
        self.scope = TaskScope("test")

    async def start(self) -> None:
        await self.receiver.start()
        self.scope.spawn(self._receive())

    async def _receive(self) -> None:
        stream = self.receiver.__aiter__()
        while True:
            try:
                self.received.append(await stream.__anext__())
            except StopAsyncIteration:
                return
            except Exception as error:
                self.errors.append(error)
                stream = self.receiver.__aiter__()

    @property
    def seconds(self) -> float:
        return sum(f.duration for f in self.received if isinstance(f, rtc.AudioFrame))

    @property
    def ends(self) -> int:
        return sum(isinstance(each, AudioSegmentEnd) for each in self.received)

    async def say(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            await self.output.capture_frame(frame())
        self.output.flush()
        await asyncio.sleep(0.05)

    async def close(self) -> None:
        self.native.release()
        await self.output.aclose()
        await self.receiver.aclose()
        await self.scope.cancel(1.0)
        assert not self.agent.sent.rpc_methods and not self.avatar.sent.rpc_methods
        assert not self.agent.registered and not self.avatar.registered


async def test_a_segment_is_sent_played_and_reported(fake_rtc: FakeRtc) -> None:
    stage = Stage(fake_rtc)
    await stage.start()
    started: list[float] = []
    stage.output.on("playback_started", lambda event: started.append(now()))
    await stage.say(1.0)
    assert stage.seconds == pytest.approx(1.0) and stage.ends == 1 and len(started) == 1
    assert not stage.finished
    stage.receiver.notify_playback_finished(1.0, False)
    finished = await stage.output.wait_for_playout()
    assert (finished.playback_position, finished.interrupted) == (1.0, False)
    await stage.close()


async def test_the_avatar_may_say_when_it_begins(fake_rtc: FakeRtc) -> None:
    stage = Stage(fake_rtc, wait_playback_start=True)
    await stage.start()
    started: list[float] = []
    stage.output.on("playback_started", lambda event: started.append(now()))
    await stage.say(0.5)
    assert not started
    stage.receiver.notify_playback_started()
    await asyncio.sleep(0.05)
    assert len(started) == 1
    stage.receiver.notify_playback_finished(0.5, False)
    await stage.output.wait_for_playout()
    await stage.close()


async def test_an_agent_that_does_not_ask_when_playback_begins_is_no_error(
    fake_rtc: FakeRtc,
) -> None:
    stage = Stage(fake_rtc)
    await stage.start()
    stage.receiver.notify_playback_started()
    await asyncio.sleep(1.0)
    assert not stage.errors
    await stage.close()


async def test_an_interruption_drops_what_waits_and_the_avatar_reports_how_far_it_came(
    fake_rtc: FakeRtc,
) -> None:
    stage = Stage(fake_rtc)
    await stage.start()
    cleared: list[float] = []

    def on_clear() -> None:
        cleared.append(now())
        stage.receiver.notify_playback_finished(0.3, True)

    stage.receiver.on("clear_buffer", on_clear)
    await stage.say(1.0)
    stage.output.clear_buffer()
    finished = await stage.output.wait_for_playout()
    assert (finished.playback_position, finished.interrupted) == (0.3, True) and cleared
    await stage.say(0.2)
    assert stage.ends == 2
    stage.receiver.notify_playback_finished(0.2, False)
    assert not (await stage.output.wait_for_playout()).interrupted
    await stage.close()


async def test_an_avatar_that_answers_and_then_stays_silent_is_given_up(fake_rtc: FakeRtc) -> None:
    stage = Stage(fake_rtc)
    await stage.start()
    await stage.say(1.0)
    began = now()
    stage.output.clear_buffer()
    finished = await stage.output.wait_for_playout()
    assert finished.interrupted and finished.playback_position == pytest.approx(1.0)
    assert now() - began == pytest.approx(2.0, abs=0.1)
    await stage.close()


async def test_an_avatar_that_never_answers_is_given_up(fake_rtc: FakeRtc) -> None:
    stage = Stage(fake_rtc)
    await stage.start()
    await stage.say(1.0)
    fake_rtc.native.silent.add("perform_rpc")
    began = now()
    stage.output.clear_buffer()
    assert (await stage.output.wait_for_playout()).interrupted
    assert now() - began == pytest.approx(2.0, abs=0.1)
    await stage.close()


class Wrapper(AudioOutput):
    """Counts a segment before the sink below has taken it, as wrappers of users may."""

    def __init__(self, sink: AudioOutput) -> None:
        super().__init__(
            label="wrapper",
            capabilities=AudioOutputCapabilities(pause=True),
            next_in_chain=sink,
        )

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        assert self.next_in_chain is not None
        await self.next_in_chain.capture_frame(frame)

    def flush(self) -> None:
        super().flush()
        assert self.next_in_chain is not None
        self.next_in_chain.flush()

    def clear_buffer(self) -> None:
        assert self.next_in_chain is not None
        self.next_in_chain.clear_buffer()


async def test_a_capture_cancelled_while_an_interruption_is_pending_is_finished_for_wrappers(
    fake_rtc: FakeRtc,
) -> None:
    stage = Stage(fake_rtc)
    await stage.start()
    wrapper = Wrapper(stage.output)
    positions: list[float] = []
    wrapper.on("playback_finished", lambda event: positions.append(event.playback_position))
    await wrapper.capture_frame(frame(0.5))
    wrapper.flush()
    wrapper.clear_buffer()
    await asyncio.sleep(0.1)
    capturing = stage.scope.spawn(wrapper.capture_frame(frame()))
    await asyncio.sleep(0.1)
    capturing.cancel()
    wrapper.flush()
    await asyncio.wait_for(wrapper.wait_for_playout(), 5.0)
    assert positions == [0.5, 0.0], "the last segment first, then the cancelled one"
    await stage.close()


async def test_an_avatar_that_left_before_it_was_ready_is_waited_for_again(
    fake_rtc: FakeRtc,
) -> None:
    room: Any = fake_rtc.room()
    face = room.join("face", kind=AGENT)
    video = rtc.TrackKind.KIND_VIDEO
    output = DataStreamAudioOutput(room, destination_identity="face", wait_remote_track=video)
    await asyncio.sleep(0.1)
    room.leave(face)
    await asyncio.sleep(0.1)
    scope = TaskScope("test")
    capturing = scope.spawn(output.capture_frame(frame()))
    await asyncio.sleep(1.0)
    assert not capturing.done()
    face = room.join("face", kind=AGENT)
    room.emit("participant_active", face)
    room.publish(face, kind=video)
    await capturing
    assert len(room.sent.byte_streams) == 1
    await output.aclose()


async def test_a_room_that_is_gone_ends_what_plays(fake_rtc: FakeRtc) -> None:
    stage = Stage(fake_rtc)
    await stage.start()
    await stage.say(1.0)
    stage.agent.disconnect()
    assert (await stage.output.wait_for_playout()).interrupted
    stage.agent.sent.rpc_methods.clear()
    await stage.close()


async def test_strangers_can_neither_report_nor_send(fake_rtc: FakeRtc) -> None:
    stage = Stage(fake_rtc)
    await stage.start()
    stranger: FakeRoom = fake_rtc.room(identity="stranger")
    stranger.sent.peers.update(agent=stage.agent, face=stage.avatar)
    await stage.say(0.5)
    call = {"destination_identity": "agent", "method": "lk.playback_finished"}
    payload = '{"playback_position": 9, "interrupted": false}'
    assert await stranger.sent.perform_rpc(**call, payload=payload) == "reject"
    assert not stage.finished
    writer = await stranger.sent.stream_bytes(
        topic="lk.audio_stream", destination_identities=["face"], name="x"
    )
    assert writer.reader.closed
    await stage.close()


async def test_two_outputs_of_one_process_are_told_apart_by_the_caller(fake_rtc: FakeRtc) -> None:
    stage = Stage(fake_rtc)
    await stage.start()
    other = DataStreamAudioOutput(stage.agent, destination_identity="other")
    await stage.say(0.5)
    stage.receiver.notify_playback_finished(0.5, False)
    await stage.output.wait_for_playout()
    await other.aclose()
    await stage.say(0.5)
    stage.receiver.notify_playback_finished(0.5, False)
    await stage.output.wait_for_playout()
    assert len(stage.finished) == 2
    await stage.close()


@pytest.mark.parametrize("rescue", ["a newer stream", "patience"])
async def test_a_stream_whose_end_was_lost_does_not_wedge_the_avatar(
    fake_rtc: FakeRtc, rescue: str
) -> None:
    stage = Stage(fake_rtc)
    await stage.start()
    await stage.output.capture_frame(frame(0.5))
    stage.output._writer = None  # its end never arrives
    await asyncio.sleep(0.1)
    assert stage.ends == 0
    if rescue == "patience":
        await asyncio.sleep(10.0)
        assert stage.ends == 1
    else:
        await stage.say(0.3)
        assert stage.ends == 2 and stage.seconds == pytest.approx(0.8)
    await stage.close()


async def test_a_stream_without_its_format_is_an_error_for_the_reader(fake_rtc: FakeRtc) -> None:
    stage = Stage(fake_rtc)
    await stage.start()
    writer = await stage.agent.sent.stream_bytes(
        topic="lk.audio_stream", destination_identities=["face"], name="x", attributes={}
    )
    await asyncio.sleep(0.1)
    assert "sample_rate" in str(stage.errors[0]) and writer.reader.closed
    await stage.close()


async def test_reports_are_tried_again_and_then_raised(fake_rtc: FakeRtc) -> None:
    stage = Stage(fake_rtc)
    await stage.start()
    fake_rtc.native.failing["perform_rpc"] = RuntimeError("no connection")
    stage.receiver.notify_playback_finished(1.0, False)
    await asyncio.sleep(1.0)
    assert len(stage.avatar.sent.rpc_calls) == 3
    assert "no connection" in str(stage.errors[0])
    await stage.close()


async def test_a_queue_gives_the_same_to_an_avatar_in_the_process() -> None:
    queue = QueueAudioOutput(sample_rate=RATE)
    finished: list[PlaybackFinishedEvent] = []
    cleared: list[bool] = []
    queue.on("playback_finished", finished.append)
    queue.on("clear_buffer", lambda: cleared.append(True))  # type: ignore[arg-type]
    await queue.capture_frame(frame())
    queue.flush()
    queue.flush()
    read: list[Any] = []

    async def reader() -> None:
        async for item in queue:
            read.append(item)

    task = TaskScope("test").spawn(reader())
    await asyncio.sleep(0.1)
    assert [type(item) for item in read] == [rtc.AudioFrame, AudioSegmentEnd]
    queue.notify_playback_finished(0.1, False)
    await queue.capture_frame(frame())
    queue.flush()
    queue.clear_buffer()
    assert cleared and queue._pending_playback_count == 1
    queue.notify_playback_finished(0.0, True)
    assert [event.interrupted for event in finished] == [False, True]
    await queue.aclose()
    await asyncio.wait((task,))
    await queue.capture_frame(frame())
    assert queue._pending_playback_count == 0
