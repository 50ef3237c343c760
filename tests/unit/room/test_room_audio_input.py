from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from livekit import rtc
from livekit.rtc._proto.track_pb2 import AudioTrackFeature

from fakes.media import encode, tone
from fakes.room import FakeParticipant, FakeReader, FakeRoom, FakeRtc
from livekit.agents.types import NOT_GIVEN
from livekit.agents.utils.aio import TaskScope
from livekit.agents.voice.room_io._input import (
    _ParticipantAudioInputStream,
    _ParticipantVideoInputStream,
)
from livekit.agents.voice.room_io._pre_connect_audio import (
    PRE_CONNECT_AUDIO_BUFFER_STREAM,
    PreConnectAudioHandler,
)
from livekit.agents.voice.room_io.types import NoiseCancellationParams

RATE = 24000
SCREEN_AUDIO = rtc.TrackSource.SOURCE_SCREENSHARE_AUDIO
CAMERA = rtc.TrackSource.SOURCE_CAMERA
SCREEN = rtc.TrackSource.SOURCE_SCREENSHARE
PRE_CONNECT = AudioTrackFeature.TF_PRECONNECT_BUFFER


def frame(value: int = 1, *, rate: int = RATE, channels: int = 1) -> rtc.AudioFrame:
    samples = rate // 20
    data = value.to_bytes(2, "little", signed=True) * samples * channels
    return rtc.AudioFrame(bytearray(data), rate, channels, samples)


class Ear:
    """An input, and what came out of it: the value of each frame's first sample."""

    def __init__(self, input: Any) -> None:
        self.input = input
        self.frames: list[Any] = []
        self.scope = TaskScope("test")
        self.scope.spawn(self._listen())

    async def _listen(self) -> None:
        async for each in self.input:
            self.frames.append(each)

    @property
    def values(self) -> list[int]:
        return [each.data[0] for each in self.frames]


@asynccontextmanager
async def listening(
    fake_rtc: FakeRtc, room: FakeRoom | None = None, **options: Any
) -> AsyncIterator[tuple[FakeRoom, FakeParticipant, Ear]]:
    room = room or fake_rtc.room()
    options.setdefault("auto_gain_control", False)
    ear = Ear(
        _ParticipantAudioInputStream(
            room,  # type: ignore[arg-type]
            **{
                "sample_rate": RATE,
                "num_channels": 1,
                "noise_cancellation": None,
                "pre_connect_audio_handler": None,
                **options,
            },
        )
    )
    ear.input.set_participant("caller")
    yield room, room.join(), ear
    await ear.input.aclose()
    await ear.input.aclose()
    assert not room.registered
    if fake_rtc.native.silent:
        fake_rtc.native.release()
        await asyncio.sleep(5.0)


async def settle() -> None:
    await asyncio.sleep(0.01)


async def test_the_microphone_is_heard_in_the_wanted_format_and_nothing_else(
    fake_rtc: FakeRtc,
) -> None:
    async with listening(fake_rtc, frame_size_ms=20) as (room, caller, ear):
        room.publish(room.join("other"))
        room.publish(caller, source=SCREEN_AUDIO)
        microphone = room.publish(caller)
        [stream] = fake_rtc.streams
        assert stream.options["sample_rate"] == RATE and stream.options["frame_size_ms"] == 20
        microphone.track.push(frame(1), frame(2))
        await settle()
        assert ear.values == [1, 2]


async def test_a_track_that_was_there_before_is_taken(fake_rtc: FakeRtc) -> None:
    room = fake_rtc.room()
    publication = room.publish(room.join("ann"))
    async with listening(fake_rtc, room) as (_, _, ear):
        ear.input.set_participant("ann")
        publication.track.push(frame(7))
        await settle()
        assert ear.values == [7]


async def test_the_latest_track_replaces_the_one_in_use_and_they_never_interleave(
    fake_rtc: FakeRtc,
) -> None:
    async with listening(fake_rtc) as (room, caller, ear):
        first = room.publish(caller)
        first.track.push(frame(1))
        await settle()
        old_track = first.track
        room.subscribe(caller, first)  # the same publication with a new track, after a reconnect
        old_track.push(frame(2))
        first.track.push(frame(3))
        await settle()
        assert ear.values == [1, 3]
        second = room.publish(caller)
        second.track.push(frame(4))
        await settle()
        room.unsubscribe(caller, second)  # the first one is still there
        first.track.push(frame(5))
        await settle()
        assert ear.values[:3] == [1, 3, 4] and ear.values[-1] == 5
        assert fake_rtc.streams[0].closed


async def test_silence_completes_the_last_utterance_of_a_track_that_ends(
    fake_rtc: FakeRtc,
) -> None:
    async with listening(fake_rtc) as (room, caller, ear):
        publication = room.publish(caller)
        publication.track.push(frame(1))
        await settle()
        room.leave(caller)
        await settle()
        assert ear.values == [1, 0] and ear.frames[-1].duration == pytest.approx(0.5)


async def test_what_is_said_while_detached_is_not_heard_later(fake_rtc: FakeRtc) -> None:
    async with listening(fake_rtc) as (room, caller, ear):
        publication = room.publish(caller)
        ear.input.on_detached()
        publication.track.push(frame(1))
        await settle()
        ear.input.on_attached()
        publication.track.push(frame(2))
        await settle()
        assert ear.values == [2]


async def test_switching_participants_closes_one_stream_and_opens_the_other(
    fake_rtc: FakeRtc,
) -> None:
    async with listening(fake_rtc) as (room, caller, ear):
        room.publish(caller)
        other = room.publish(room.join("other"))
        ear.input.set_participant("other")
        other.track.push(frame(9))
        await settle()
        assert ear.values == [9] and [s.closed for s in fake_rtc.streams] == [True, False]
        ear.input.set_participant(None)
        await settle()
        assert fake_rtc.streams[1].closed


async def test_one_publication_can_be_pinned(fake_rtc: FakeRtc) -> None:
    sources = [rtc.TrackSource.SOURCE_MICROPHONE, SCREEN_AUDIO]
    async with listening(fake_rtc, track_source=sources) as (room, caller, ear):
        first = room.publish(caller)
        second = room.publish(caller, source=SCREEN_AUDIO)
        ear.input.set_track_sid(first.sid)
        second.track.push(frame(2))
        first.track.push(frame(1))
        await settle()
        assert ear.values == [1]


async def test_a_stream_that_never_ends_holds_up_neither_the_switch_nor_the_close(
    fake_rtc: FakeRtc,
) -> None:
    async with listening(fake_rtc) as (room, caller, ear):
        room.publish(caller)
        fake_rtc.native.silent.add("close_stream")
        other = room.publish(room.join("other"))
        ear.input.set_participant("other")
        other.track.push(frame(9))
        await settle()
        assert ear.values == [9]
        began = asyncio.get_running_loop().time()
        await ear.input.aclose()
        assert asyncio.get_running_loop().time() - began <= 1.5


@pytest.mark.parametrize(
    ("option", "value"), [("frame_size_ms", 0), ("sample_rate", -1), ("num_channels", 0)]
)
async def test_impossible_formats_are_refused(fake_rtc: FakeRtc, option: str, value: int) -> None:
    with pytest.raises(ValueError, match=option):
        async with listening(fake_rtc, **{option: value}):
            pass


@pytest.mark.parametrize(("rate", "size"), [(11025, 50), (24000, 25)])
async def test_gain_control_that_would_abort_the_process_is_left_out(
    fake_rtc: FakeRtc, rate: int, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"sample_rate": rate, "frame_size_ms": size, "auto_gain_control": True}
    async with listening(fake_rtc, **options) as (room, caller, ear):
        room.publish(caller).track.push(frame(1, rate=rate))
        await settle()
        assert len(ear.frames) == 1
    assert caplog.text.count("no automatic gain control") == 1


async def test_gain_control_is_on_unless_noise_cancellation_does_it(fake_rtc: FakeRtc) -> None:
    for noise_cancellation, expected in (
        (None, True),
        (lambda params: None, True),
        (Filter(), False),
        (rtc.NoiseCancellationOptions(module_id="krisp", options={}), False),
    ):
        options = {"noise_cancellation": noise_cancellation, "auto_gain_control": NOT_GIVEN}
        async with listening(fake_rtc, **options) as (room, caller, ear):
            publication = room.publish(caller)
            pcm = bytearray(tone(1.0, sample_rate=RATE))
            for start in range(0, len(pcm), 2400):
                publication.track.push(rtc.AudioFrame(pcm[start : start + 2400], RATE, 1, 1200))
            await settle()
            processed = b"".join(each.data.tobytes() for each in ear.frames) != bytes(pcm)
            assert len(ear.frames) == 20 and processed is expected


class Filter(rtc.FrameProcessor[rtc.AudioFrame]):
    """Replaces every sample by 5."""

    def __init__(self) -> None:
        self.closed = False

    @property
    def enabled(self) -> bool:
        return True

    @enabled.setter
    def enabled(self, value: bool) -> None: ...

    def _process(self, frame: rtc.AudioFrame) -> rtc.AudioFrame:
        data = (5).to_bytes(2, "little") * len(frame.data)
        return rtc.AudioFrame(data, frame.sample_rate, frame.num_channels, len(frame.data))

    def _close(self) -> None:
        self.closed = True


async def test_a_processor_lives_as_long_as_the_input(fake_rtc: FakeRtc) -> None:
    processor = Filter()
    async with listening(fake_rtc, noise_cancellation=processor) as (room, caller, _):
        first = room.publish(caller)
        room.unsubscribe(caller, first)
        room.publish(caller)
        await settle()
        assert [s.options["noise_cancellation"] for s in fake_rtc.streams] == [processor] * 2
        assert not processor.closed
    assert processor.closed


async def test_a_selector_chooses_for_each_track_and_its_choice_ends_with_it(
    fake_rtc: FakeRtc,
) -> None:
    made: list[Filter] = []
    asked: list[NoiseCancellationParams] = []

    def choose(params: NoiseCancellationParams) -> Filter:
        asked.append(params)
        made.append(Filter())
        return made[-1]

    async with listening(fake_rtc, noise_cancellation=choose) as (room, caller, _):
        publication = room.publish(caller)
        room.subscribe(caller, publication)
        await settle()
        assert [each.closed for each in made] == [True, False]
        assert asked[0].participant.identity == "caller"
    assert made[1].closed


async def test_a_selector_may_return_the_same_processor_again(fake_rtc: FakeRtc) -> None:
    processor = Filter()
    async with listening(fake_rtc, noise_cancellation=lambda _: processor) as (room, caller, _):
        publication = room.publish(caller)
        room.subscribe(caller, publication)
        await settle()
        assert not processor.closed
    assert processor.closed


# -- what was said before -------------------------------------------------------------------------


def send_buffer(
    room: FakeRoom, track_id: str | None, data: bytes, *, mime: str = "audio/pcm", **facts: Any
) -> FakeReader:
    attributes = {"sampleRate": "48000", "channels": "1"}
    if track_id is not None:
        attributes["trackId"] = track_id
    reader = FakeReader([data], attributes=attributes, mime_type=mime, **facts)
    room.byte_handlers[PRE_CONNECT_AUDIO_BUFFER_STREAM](reader, "caller")
    return reader


@asynccontextmanager
async def expecting(
    fake_rtc: FakeRtc, **options: Any
) -> AsyncIterator[tuple[FakeRoom, FakeParticipant, Ear]]:
    room = fake_rtc.room(connected=False)
    handler = PreConnectAudioHandler(room, timeout=3.0)  # type: ignore[arg-type]
    handler.register()
    room.connect()
    options["pre_connect_audio_handler"] = handler
    async with listening(fake_rtc, room, **options) as (room, caller, ear):
        yield room, caller, ear
        await handler.aclose()


@pytest.mark.real_time
async def test_opus_from_before_is_heard_before_live_audio(fake_rtc: FakeRtc) -> None:
    opus = encode(tone(1.0), container="ogg", codec="libopus")
    async with expecting(fake_rtc) as (room, caller, ear):
        publication = room.publish(caller, sid="TR_1", audio_features=[PRE_CONNECT])
        publication.track.push(frame(3))
        send_buffer(room, "TR_1", opus, mime="audio/ogg; codecs=opus")
        for _ in range(2000):
            if ear.values[-1:] == [3]:
                break
            await asyncio.sleep(0.01)
        before = [each for each in ear.frames if each.data[0] != 3]
        assert sum(each.duration for each in before) == pytest.approx(1.0, abs=0.05)
        assert {each.sample_rate for each in before} == {RATE} and ear.values[-1] == 3


async def test_raw_stereo_from_before_is_converted(fake_rtc: FakeRtc) -> None:
    async with expecting(fake_rtc, num_channels=2) as (room, caller, ear):
        send_buffer(room, "TR_1", tone(0.4))
        await settle()
        room.publish(caller, sid="TR_1", audio_features=[PRE_CONNECT])
        await settle()
        assert sum(each.duration for each in ear.frames) == pytest.approx(0.4, abs=0.02)
        assert {(f.sample_rate, f.num_channels) for f in ear.frames} == {(RATE, 2)}


async def test_without_a_buffer_live_audio_goes_on_after_the_timeout(
    fake_rtc: FakeRtc, caplog: pytest.LogCaptureFixture
) -> None:
    async with expecting(fake_rtc) as (room, caller, ear):
        publication = room.publish(caller, sid="TR_1", audio_features=[PRE_CONNECT])
        publication.track.push(frame(1), frame(2))
        await asyncio.sleep(2.9)
        assert ear.values == []
        await asyncio.sleep(0.2)
        assert ear.values == [1, 2], "nothing is lost"
        send_buffer(room, "TR_1", tone(0.4))
        await settle()
        assert ear.values == [1, 2], "what comes too late is dropped"
    assert "timeout waiting for pre-connect audio buffer" in caplog.text


async def test_a_buffer_that_is_too_old_is_not_played(fake_rtc: FakeRtc) -> None:
    async with expecting(fake_rtc) as (room, caller, ear):
        send_buffer(room, "TR_1", tone(0.4))
        await asyncio.sleep(1.5)
        publication = room.publish(caller, sid="TR_1", audio_features=[PRE_CONNECT])
        publication.track.push(frame(1))
        await settle()
        assert ear.values == [1]


@pytest.mark.parametrize("broken", ["no track", "no rate", "never ends"])
async def test_a_broken_buffer_stops_nothing_and_is_closed(fake_rtc: FakeRtc, broken: str) -> None:
    async with expecting(fake_rtc) as (room, caller, ear):
        reader = send_buffer(
            room,
            None if broken == "no track" else "TR_1",
            tone(0.1),
            hangs=broken == "never ends",
        )
        if broken == "no rate":
            reader.info.attributes.pop("sampleRate")
        publication = room.publish(caller, sid="TR_1", audio_features=[PRE_CONNECT])
        publication.track.push(frame(1))
        await asyncio.sleep(3.5)
        assert ear.values == [1] and reader.closed


async def test_two_inputs_of_one_room_share_its_buffers(fake_rtc: FakeRtc) -> None:
    room: Any = fake_rtc.room(connected=False)
    handlers = [PreConnectAudioHandler(room, timeout=3.0) for _ in range(2)]
    for handler in handlers:
        handler.register()
    send_buffer(room, "TR_1", tone(0.4))
    waits = [asyncio.ensure_future(handler.wait_for_data("TR_1")) for handler in handlers]
    for frames in await asyncio.gather(*waits):
        assert sum(each.duration for each in frames) == pytest.approx(0.4)
    await handlers[0].aclose()
    assert PRE_CONNECT_AUDIO_BUFFER_STREAM in room.byte_handlers
    await handlers[1].aclose()
    assert not room.registered


# -- seeing ---------------------------------------------------------------------------------------


async def test_the_screen_is_seen_instead_of_the_camera_while_it_is_shared(
    fake_rtc: FakeRtc,
) -> None:
    room: Any = fake_rtc.room()
    eye = _ParticipantVideoInputStream(room)
    eye.set_participant("caller")
    seen: list[str] = []

    async def watch() -> None:
        async for picture in eye:
            seen.append(str(picture))

    TaskScope("test").spawn(watch())
    caller = room.join()
    camera = room.publish(caller, source=CAMERA, kind=rtc.TrackKind.KIND_VIDEO)
    camera.track.push("face")
    await settle()
    screen = room.publish(caller, source=SCREEN, kind=rtc.TrackKind.KIND_VIDEO)
    screen.track.push("slide")
    await settle()
    room.unsubscribe(caller, screen)
    camera.track.push("face again")
    await settle()
    assert seen == ["face", "slide", "face again"]
    await eye.aclose()
    assert not room.registered
