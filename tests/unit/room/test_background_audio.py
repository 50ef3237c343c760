from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from livekit import rtc

from fakes.llm import FakeLLM, Reply
from fakes.room import FakeRoom, FakeRtc
from fakes.session import make_session
from livekit.agents import AudioConfig, BackgroundAudioPlayer, BuiltinAudioClip
from livekit.agents.utils.audio import audio_frames_from_file
from livekit.agents.voice import Agent
from livekit.agents.voice._sounds import Gain, Sound
from livekit.agents.voice.background_audio import _choose

RATE = 48000


def frame(value: int = 1000, seconds: float = 0.1) -> rtc.AudioFrame:
    samples = round(seconds * RATE)
    return rtc.AudioFrame(value.to_bytes(2, "little", signed=True) * samples, RATE, 1, samples)


async def sound(seconds: float, value: int = 1000) -> AsyncIterator[rtc.AudioFrame]:
    for _ in range(round(seconds * 10)):
        yield frame(value)


async def endless(value: int = 1000) -> AsyncIterator[rtc.AudioFrame]:
    while True:
        yield frame(value)


@asynccontextmanager
async def playing(
    fake_rtc: FakeRtc, session: Any = None, **sounds: Any
) -> AsyncIterator[tuple[BackgroundAudioPlayer, FakeRoom]]:
    player, room = BackgroundAudioPlayer(**sounds), fake_rtc.room()
    options = {"agent_session": session} if session is not None else {}
    await player.start(room=room, **options)  # type: ignore[arg-type]
    yield player, room
    await player.aclose()
    await player.aclose()
    assert not room.sent.track_publications and fake_rtc.source.closed


def heard(fake_rtc: FakeRtc) -> list[int]:
    """One sample of each frame that was played."""
    return [each.data[len(each.data) // 2] for _, each in fake_rtc.source.played]


def test_gain_ramps_with_equal_power_and_clips() -> None:
    gain = Gain(1.0, fade_in=1.0)
    first, last = gain.apply(frame(seconds=0.5)), gain.apply(frame(seconds=0.5))
    assert first.data[0] == 0
    assert last.data[0] == pytest.approx(1000 * math.sin(math.pi / 4), abs=2)
    assert list(Gain(100.0).apply(frame(20000)).data[:2]) == [32767, 32767]
    plain = frame()
    assert Gain(1.0).apply(plain) is plain, "passed through untouched"
    fading = Gain(0.5, fade_out=0.2)
    assert fading.apply(frame()).data[0] == 500
    fading.stop()
    assert fading.apply(frame()).data[0] == 500 and not fading.silent
    assert fading.apply(frame()).data[-1] == pytest.approx(0, abs=2) and fading.silent


def test_one_of_a_list_is_chosen_by_probability_or_none() -> None:
    def chosen(*probabilities: float) -> set[str | None]:
        sounds = [AudioConfig(str(i), probability=p) for i, p in enumerate(probabilities)]
        picks = (_choose(sounds) for _ in range(300))
        return {str(pick.source) if pick is not None else None for pick in picks}

    assert chosen(0.0, 0.0) == {None}
    assert chosen(0.5, 0.5) == {"0", "1"}
    assert chosen(0.3) == {"0", None}
    assert chosen(5.0, 5.0) == {"0", "1"}


async def test_sounds_are_mixed_and_a_handle_knows_its_end(fake_rtc: FakeRtc) -> None:
    async with playing(fake_rtc) as (player, room):
        [publication] = room.sent.track_publications.values()
        assert publication.name == "background_audio"
        handle = player.play(sound(1.0))
        other = player.play(AudioConfig(sound(0.5), volume=0.5))
        assert await handle is handle and other.done()
        await asyncio.sleep(1.0)
        values = heard(fake_rtc)
        assert max(values) == 1500 and values.count(1000) >= 4
        assert player._mixer is None, "nothing mixes while nothing plays"
        await player.play(sound(0.2, 77))
        await asyncio.sleep(0.5)
        assert 77 in heard(fake_rtc)


async def test_a_sound_fades_out_or_stops_at_once(fake_rtc: FakeRtc) -> None:
    async with playing(fake_rtc) as (player, _):
        fading = player.play(AudioConfig(endless(), fade_out=1.0))
        await asyncio.sleep(1.0)
        fading.stop()
        fading.stop()
        assert not fading.done()
        await fading.wait_for_playout()
        values = heard(fake_rtc)
        assert values[-1] < 300 < max(values)
        plain = player.play(endless())
        await asyncio.sleep(0.5)
        plain.stop()
        assert plain.done()


async def test_the_agent_is_heard_thinking_and_the_player_ends_with_the_session(
    fake_rtc: FakeRtc,
) -> None:
    session = make_session(FakeLLM(default=Reply("well", delay=2.0)))
    await session.start(Agent(instructions=""))
    async with playing(fake_rtc, session, thinking_sound=endless(5)) as (player, room):
        speech = session.generate_reply(user_input="hello")
        await asyncio.sleep(1.0)
        assert heard(fake_rtc)[-1] == 5
        await speech
        handle: Any = player._thinking_handle
        assert handle.done()
        await session.aclose()
        await asyncio.sleep(1.0)
        assert not room.sent.track_publications
    assert not session._events.get("agent_state_changed")


async def test_wrong_use_is_refused_in_words(fake_rtc: FakeRtc) -> None:
    player = BackgroundAudioPlayer()
    with pytest.raises(RuntimeError, match="start"):
        player.play("sound.ogg")
    async with playing(fake_rtc) as (started, room):
        with pytest.raises(ValueError, match="looped"):
            started.play(sound(1.0), loop=True)
        with pytest.raises(RuntimeError, match="started already"):
            await started.start(room=room)  # type: ignore[arg-type]


async def test_a_sound_that_fails_ends_alone(fake_rtc: FakeRtc) -> None:
    async def broken() -> AsyncIterator[rtc.AudioFrame]:
        yield frame()
        raise OSError("gone")

    async with playing(fake_rtc) as (player, _):
        other = player.play(endless(7))
        await player.play(broken())
        await asyncio.sleep(0.5)
        assert not other.done() and heard(fake_rtc)[-1] == 7


async def test_a_source_that_ignores_its_cancellation_holds_nothing_up(fake_rtc: FakeRtc) -> None:
    release = asyncio.Event()

    async def stubborn() -> AsyncIterator[rtc.AudioFrame]:
        yield frame()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                pass

    loop = asyncio.get_running_loop()
    async with playing(fake_rtc) as (player, _):
        player.play(stubborn())
        await asyncio.sleep(1.0)
        began = loop.time()
        await player.aclose()
        assert loop.time() - began <= 5.0
    release.set()
    await asyncio.sleep(1.0)


async def test_closing_in_a_room_that_is_gone_asks_it_for_nothing(fake_rtc: FakeRtc) -> None:
    player, room = BackgroundAudioPlayer(ambient_sound=endless()), fake_rtc.room()
    await player.start(room=room)  # type: ignore[arg-type]
    room.disconnect()
    fake_rtc.native.silent.add("unpublish_track")
    await player.aclose()
    assert "unpublish_track" not in fake_rtc.native.log


async def test_an_unpublish_that_is_never_answered_is_given_up(fake_rtc: FakeRtc) -> None:
    player, room = BackgroundAudioPlayer(), fake_rtc.room()
    await player.start(room=room)  # type: ignore[arg-type]
    fake_rtc.native.silent.add("unpublish_track")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await player.aclose()
    assert loop.time() - began == pytest.approx(2.0, abs=0.1)


async def test_a_failed_start_can_be_tried_again(fake_rtc: FakeRtc) -> None:
    player, room = BackgroundAudioPlayer(), fake_rtc.room()
    fake_rtc.native.failing["publish_track"] = RuntimeError("no permission")
    with pytest.raises(RuntimeError, match="no permission"):
        await player.start(room=room)  # type: ignore[arg-type]
    assert fake_rtc.sources[0].closed
    fake_rtc.native.failing.clear()
    await player.start(room=room)  # type: ignore[arg-type]
    await player.aclose()


@pytest.mark.real_time
@pytest.mark.parametrize("clip", BuiltinAudioClip)
async def test_every_clip_can_be_played_and_is_neither_silent_nor_loud(
    clip: BuiltinAudioClip,
) -> None:
    loudest, seconds = 0, 0.0
    async for each in audio_frames_from_file(clip.path(), RATE, 1):
        loudest, seconds = max(loudest, *each.data), seconds + each.duration
    assert 3000 < loudest < 20000 and seconds > 5.0


@pytest.mark.real_time
async def test_a_looped_file_starts_over_without_a_gap(tmp_path: Any) -> None:
    import wave

    path = tmp_path / "short.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(bytes(frame(900, 0.25).data))
    ended: list[bool] = []
    looped = Sound(
        lambda: audio_frames_from_file(path, RATE, 1),
        gain=Gain(1.0),
        loop=True,
        on_end=lambda: ended.append(True),
    )
    samples: list[int] = []
    while len(samples) < RATE:
        samples += (await looped.__anext__()).data
    assert samples.count(0) < RATE // 50 and not ended
    await looped.aclose()
    assert ended == [True]
