"""What goes on beside the voices, on real WebRTC: chat, transcripts, avatars, music, recordings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from livekit import rtc

from e2e.harness.call import calling, until
from e2e.harness.caller import Caller
from e2e.harness.server import LiveKitServer
from e2e.harness.speech import Speech, overlap, seconds_of_sound
from fakes.llm import FakeLLM
from livekit.agents import (
    Agent,
    AgentSession,
    AudioConfig,
    BackgroundAudioPlayer,
    BuiltinAudioClip,
    inference,
    utils,
)
from livekit.agents.voice.avatar import (
    AudioSegmentEnd,
    AvatarOptions,
    AvatarRunner,
    DataStreamAudioOutput,
    DataStreamAudioReceiver,
    VideoGenerator,
)
from livekit.agents.voice.recorder_io import RecorderIO
from livekit.agents.voice.remote_session import RemoteSession
from livekit.agents.voice.room_io import RoomIO, RoomOptions
from livekit.plugins import piper, pocketsphinx

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(120)]

QUESTION = "What are your opening hours?"
ANSWER = "I have booked a table for two people this morning."
STORY = "This is a very long story. "


async def test_chat_transcripts_and_the_agents_state_reach_the_caller(
    server: LiveKitServer, speech: Speech, tmp_path: Path
) -> None:
    question = await speech.say(QUESTION)
    async with calling(server, tmp_path / "heard.wav", llm=FakeLLM(default=ANSWER)) as call:
        caller = call.caller
        caller.write("please book a table")
        written = await caller.until(
            "transcript",
            lambda t: (
                t["identity"] == "agent" and t["attributes"].get("lk.transcription_final") == "true"
            ),
        )
        assert written["text"] == ANSWER
        track = written["attributes"]["lk.transcribed_track_id"]
        assert track in call.room.local_participant.track_publications
        states = [t["changed"].get("lk.agent.state") for t in caller.told if "changed" in t]
        assert "thinking" in states and "speaking" in states
        await call.agent_is("listening")
        caller.speak(question)
        heard = await caller.until(
            "transcript",
            lambda t: (
                t["identity"] == "caller"
                and t["attributes"].get("lk.transcription_final") == "true"
            ),
        )
        assert overlap(heard["text"], QUESTION) >= 0.75


async def test_what_was_said_before_the_agent_joined_is_answered(
    server: LiveKitServer, speech: Speech, tmp_path: Path
) -> None:
    question = await speech.say(QUESTION)
    llm = FakeLLM(default=ANSWER)
    async with calling(server, tmp_path / "heard.wav", llm=llm, said_before=question) as call:
        await call.agent_is("speaking")
        assert overlap(llm.requests[-1].user_text, QUESTION) >= 0.75


async def test_the_camera_is_seen_and_let_go_of(server: LiveKitServer, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def look(frame: rtc.VideoFrame, session: AgentSession[Any]) -> bool:
        seen.append((frame.width, frame.height))
        return False

    async with calling(
        server,
        tmp_path / "heard.wav",
        llm=FakeLLM(default=ANSWER),
        options=RoomOptions(video_input=True),
        video_sampler=look,
    ) as call:
        call.caller.show()
        await until(lambda: len(seen) > 5, "pictures")
        assert seen[0][0] / seen[0][1] == pytest.approx(4 / 3, abs=0.05)
        call.caller.leave()
        closed = await call.closed(within=3.0)
    assert closed.report is not None and closed.report.clean


class Face(VideoGenerator):
    """Shows grey pictures and passes the voice on."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[Any] = asyncio.Queue()

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        if isinstance(frame, rtc.AudioFrame):
            picture = bytes([128]) * (64 * 64 * 4)
            await self._items.put(rtc.VideoFrame(64, 64, rtc.VideoBufferType.RGBA, picture))
        await self._items.put(frame)

    def clear_buffer(self) -> None:
        while not self._items.empty():
            self._items.get_nowait()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return await self._items.get()


async def test_an_avatar_speaks_for_the_agent(
    server: LiveKitServer, speech: Speech, tmp_path: Path
) -> None:
    name = utils.shortuuid("room_")
    room, stage = rtc.Room(), rtc.Room()
    await room.connect(server.url, server.token(name, "agent", agent=True))
    behalf = {"lk.publish_on_behalf": "agent"}
    await stage.connect(server.url, server.token(name, "face", agent=True, **behalf))
    voice = piper.TTS()
    receiver = DataStreamAudioReceiver(stage, sender_identity="agent")
    options = AvatarOptions(64, 64, 10, voice.sample_rate, 1)
    runner = AvatarRunner(stage, audio_recv=receiver, video_gen=Face(), options=options)
    await runner.start()
    session: AgentSession[Any] = AgentSession(
        stt=pocketsphinx.STT(), vad=inference.VAD(), llm=FakeLLM(default=ANSWER), tts=voice
    )
    closes: list[Any] = []
    session.on("close", closes.append)
    session.output.replace_audio_tail(
        DataStreamAudioOutput(room, destination_identity="face", sample_rate=voice.sample_rate)
    )
    with Caller(server.url, server.token(name, "caller"), tmp_path / "heard.wav") as caller:
        await session.start(Agent(instructions=""), room=room)
        await caller.until("joined")
        await session.room_io.wait_for_ready()
        handle = session.say(ANSWER)
        await caller.until("subscribed", lambda told: told["track"] == "avatar_audio")
        await handle
        await asyncio.sleep(0.5)
        long = session.say(STORY * 10)
        await asyncio.sleep(2.0)
        long.interrupt()
        await long
        caller.leave()
        await until(lambda: bool(closes), "the close")
        await session.aclose()
        await caller.until("left")
    assert closes[0].reason == "participant_disconnected" and closes[0].report.clean
    first, second = (m for m in session.history.messages() if m.role == "assistant")
    assert first.text_content == ANSWER and not first.interrupted
    assert second.interrupted and len(second.text_content or "") < 200
    heard = await speech.words_of(tmp_path / "heard.wav")
    assert overlap(heard, ANSWER) >= 0.75
    assert overlap(heard, STORY) >= 0.5
    await runner.aclose()
    await stage.disconnect()
    await room.disconnect()


async def test_music_is_heard_and_ends_with_the_session(
    server: LiveKitServer, tmp_path: Path
) -> None:
    recording = tmp_path / "heard.wav"
    async with calling(server, recording, llm=FakeLLM(default=ANSWER)) as call:
        player = BackgroundAudioPlayer(ambient_sound=AudioConfig(BuiltinAudioClip.HOLD_MUSIC))
        await player.start(room=call.room, agent_session=call.session)
        await call.caller.until("subscribed", lambda told: told["track"] == "background_audio")
        await asyncio.sleep(3.0)
        call.caller.leave()
        await call.caller.until("left")
        await call.closed(within=3.0)
        await player.aclose()
    assert seconds_of_sound(recording) > 1.5


async def test_both_sides_are_in_the_recording(
    server: LiveKitServer, speech: Speech, tmp_path: Path
) -> None:
    question = await speech.say(QUESTION, after=0.5)
    name = utils.shortuuid("room_")
    room = rtc.Room()
    await room.connect(server.url, server.token(name, "agent", agent=True))
    session: AgentSession[Any] = AgentSession(
        stt=pocketsphinx.STT(), vad=inference.VAD(), llm=FakeLLM(default=ANSWER), tts=piper.TTS()
    )
    room_io = RoomIO(session, room, options=RoomOptions())
    await room_io.start()
    recorder = RecorderIO(agent_session=session)
    assert session.input.audio is not None and session.output.audio is not None
    session.input.audio = recorder.record_input(session.input.audio)
    session.output.audio = recorder.record_output(session.output.audio)
    await recorder.start(output_path=tmp_path / "call.ogg")
    with Caller(server.url, server.token(name, "caller"), tmp_path / "heard.wav") as caller:
        await session.start(Agent(instructions=""))
        await room_io.wait_for_ready()
        caller.speak(question)
        await caller.until("hears")
        await until(lambda: session.agent_state == "listening", "the end of the answer")
        await recorder.aclose()
        await session.aclose()
        await room_io.aclose()
    await room.disconnect()
    left, right = _channels(tmp_path / "call.ogg", tmp_path)
    assert overlap(await speech.words_of(left), QUESTION) >= 0.75
    assert overlap(await speech.words_of(right), ANSWER) >= 0.75


def _channels(path: Path, folder: Path) -> tuple[Path, Path]:
    """Each channel of a stereo file as a WAV file."""
    import wave

    import av
    import numpy as np

    with av.open(str(path)) as file:
        resampler = av.AudioResampler(format="s16p", layout="stereo", rate=48000)
        frames = [f.to_ndarray() for each in file.decode(audio=0) for f in resampler.resample(each)]
    samples = np.concatenate(frames, axis=1)
    paths = (folder / "left.wav", folder / "right.wav")
    for channel, target in zip(samples, paths, strict=True):
        with wave.open(str(target), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(48000)
            out.writeframes(channel.tobytes())
    return paths


async def test_a_third_participant_follows_and_steers_the_session(
    server: LiveKitServer, tmp_path: Path
) -> None:
    async with calling(server, tmp_path / "heard.wav", llm=FakeLLM(default=ANSWER)) as call:
        desk = rtc.Room()
        await desk.connect(server.url, server.token(call.name, "desk"))
        remote = RemoteSession.from_room(desk, "agent")
        told: list[Any] = []
        remote.on("conversation_item_added", told.append)
        await remote.start()
        await remote.wait_for_ready()
        ran = await remote.run("please book a table")
        assert [item.message.content[0].text for item in ran.items] == [ANSWER]
        history = await remote.get_chat_history()
        said = [item.message for item in history.items if item.HasField("message")]
        assert len(said) == 2 and len(told) >= 2
        stats = await remote._request(_stats_request(), 10.0)
        assert len(stats.get_rtc_stats.publisher_stats) > 0
        await remote.aclose()
        await desk.disconnect()


def _stats_request() -> Any:
    from livekit.protocol.agent_pb import agent_session as pb

    return pb.SessionRequest(get_rtc_stats=pb.SessionRequest.GetRTCStats())
