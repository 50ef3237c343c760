"""The console's ways to talk: the sound card, a recording, and a program on a connection."""

from __future__ import annotations

import asyncio
import sys
import time
import types
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from livekit import rtc
from livekit.protocol.agent_pb import agent_session as pb

from fakes import agent_program
from fakes.terminal import terminal
from livekit.agents.cli.console import AgentsConsole
from livekit.agents.cli.console_line import FileLine
from livekit.agents.cli.errors import CLIError
from livekit.agents.cli.sound_card import SoundCard, list_devices
from livekit.agents.cli.tcp_console import TcpAudioInput, TcpAudioOutput
from livekit.agents.voice.io import PlaybackFinishedEvent

AGENT = Path(agent_program.__file__)


def tone(seconds: float, rate: int = 24_000) -> rtc.AudioFrame:
    samples = int(seconds * rate)
    return rtc.AudioFrame(b"\x10\x00" * samples, rate, 1, samples)


class Stream:
    """A stream of the sound card, that a test drives."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.running = False

    def start(self) -> None:
        self.running = True
        STREAMS.append(self)

    def stop(self) -> None:
        self.running = False

    def close(self) -> None:
        STREAMS.remove(self)


STREAMS: list[Stream] = []


@pytest.fixture
def sounddevice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A sound card with one microphone and one loudspeaker."""
    module: Any = types.ModuleType("sounddevice")
    module.PortAudioError = type("PortAudioError", (Exception,), {})
    module.RawInputStream = module.RawOutputStream = Stream

    def query_devices(device: Any = None, kind: Any = None) -> str:
        if device not in (None, 0, "built-in"):
            raise ValueError(f"No {kind} device matching {device!r}")
        return "  0 built-in"

    module.query_devices = query_devices
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    STREAMS.clear()
    yield
    assert not STREAMS, "a device was left open"


async def test_a_device_that_is_not_there_is_named(sounddevice: None) -> None:
    assert "built-in" in list_devices()
    SoundCard("0", "built-in")
    with pytest.raises(CLIError, match="no usable input device 'headset'"):
        SoundCard("headset", None)


async def test_the_microphone_is_heard_and_let_go(sounddevice: None) -> None:
    microphone, _ = SoundCard(None, None).open()
    microphone.on_attached()
    (stream,) = STREAMS
    assert stream.options["samplerate"] == 24_000 and stream.options["blocksize"] == 2400
    stream.options["callback"](bytes(4800), 2400, None, None)
    frames = [await microphone.__anext__() for _ in range(10)]
    assert {frame.samples_per_channel for frame in frames} == {240}
    microphone.on_detached()
    microphone.on_detached()


async def test_the_loudspeaker_plays_segments_pauses_and_falls_silent(sounddevice: None) -> None:
    _, speaker = SoundCard(None, None).open()
    finished: list[PlaybackFinishedEvent] = []
    started: list[Any] = []
    speaker.on("playback_finished", finished.append)
    speaker.on("playback_started", started.append)
    speaker.on_attached()
    (stream,) = STREAMS

    async def play() -> bytes:
        out = bytearray(4800)
        stream.options["callback"](memoryview(out), 2400, None, None)
        await asyncio.sleep(0)
        return bytes(out)

    await speaker.capture_frame(tone(0.2))
    assert not any(await play()), "the beginning of a segment is collected first"
    speaker.flush()
    assert any(await play()) and len(started) == 1
    speaker.pause()
    assert not any(await play())
    speaker.resume()
    assert any(await play())
    await play()
    assert [(e.playback_position, e.interrupted) for e in finished] == [(pytest.approx(0.2), False)]
    await speaker.capture_frame(tone(1.0))
    await play()
    speaker.flush()
    speaker.clear_buffer()
    assert finished[-1].interrupted and finished[-1].playback_position == pytest.approx(0.1)
    speaker.on_detached()


class Peer:
    """The other end of a connection, for a sink."""

    def __init__(self) -> None:
        self.messages: list[pb.AgentSessionMessage] = []

    def send_message_threadsafe(self, message: pb.AgentSessionMessage) -> None:
        self.messages.append(message)

    def kinds(self) -> list[str]:
        return [m.WhichOneof("message") or "" for m in self.messages]


async def sink() -> tuple[TcpAudioOutput, Peer, list[PlaybackFinishedEvent]]:
    peer, finished = Peer(), []
    output = TcpAudioOutput(peer)  # type: ignore[arg-type]
    output.on("playback_finished", finished.append)
    return output, peer, finished


async def test_a_segment_is_finished_when_the_other_end_says_so() -> None:
    output, peer, finished = await sink()
    await output.capture_frame(tone(1.0))
    output.flush()
    assert peer.kinds()[-1] == "audio_playback_flush"
    assert {m.audio_output.sample_rate for m in peer.messages[:-1]} == {48_000}
    await asyncio.sleep(1.0)
    assert not finished
    output.notify_playout_finished()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [(e.playback_position, e.interrupted) for e in finished] == [(pytest.approx(1.0), False)]


async def test_a_segment_that_is_cut_off_has_played_as_long_as_it_could() -> None:
    output, peer, finished = await sink()
    await output.capture_frame(tone(2.0))
    await asyncio.sleep(0.5)
    output.pause()
    await asyncio.sleep(3.0)
    output.resume()
    await asyncio.sleep(0.25)
    output.clear_buffer()  # before its end is known
    assert peer.kinds()[-1] == "audio_playback_clear"
    assert [(e.playback_position, e.interrupted) for e in finished] == [(pytest.approx(0.75), True)]


async def test_an_other_end_that_is_gone_finishes_the_segment_some_time() -> None:
    output, _, finished = await sink()
    await output.capture_frame(tone(1.0))
    output.flush()
    await asyncio.sleep(6.5)
    assert len(finished) == 1 and not finished[0].interrupted


async def test_what_the_other_end_hears_comes_at_the_rate_of_the_agent() -> None:
    source = TcpAudioInput()
    source.push_frame(tone(1.0, 48_000))  # nobody listens yet: dropped
    heard: list[rtc.AudioFrame] = []

    async def listen() -> None:
        async for frame in source:
            heard.append(frame)

    listening = asyncio.get_running_loop().create_task(listen())
    await asyncio.sleep(0)
    source.push_frame(tone(0.5, 48_000))
    source.close()
    await listening
    assert {frame.sample_rate for frame in heard} == {24_000}
    assert sum(frame.duration for frame in heard) == pytest.approx(0.5, abs=0.05)


async def test_a_call_from_a_file_ends_when_both_have_finished(tmp_path: Path) -> None:
    caller, reply = tmp_path / "caller.wav", tmp_path / "reply.wav"
    _write(caller, tone(1.0, 16_000))
    line = FileLine(caller, reply)
    running = asyncio.get_running_loop().create_task(line.run())
    heard = 0.0
    await asyncio.sleep(0.5)
    await line.output.capture_frame(tone(3.0))
    line.output.flush()
    async for frame in line.input:
        heard += frame.duration
    await running
    line.write()
    assert 6.0 < heard < 7.5, "half a second, three of the agent, three of silence"
    assert _seconds(reply) == pytest.approx(heard, abs=0.1)


def _write(path: Path, frame: rtc.AudioFrame) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(frame.sample_rate)
        file.writeframes(bytes(frame.data))


def _seconds(path: Path) -> float:
    with wave.open(str(path)) as file:
        return file.getnframes() / file.getframerate()


async def test_the_console_belongs_to_one_session() -> None:
    from livekit.agents import AgentSession

    console = AgentsConsole()
    loop = asyncio.get_running_loop()
    first, second = AgentSession[None](), AgentSession[None]()
    with pytest.raises(RuntimeError, match="no session"):
        _ = console.io_session
    console.acquire_io(loop=loop, session=first)
    assert console.io_acquired and console.io_session is first and console.io_loop is loop
    with pytest.raises(RuntimeError, match="belongs to another session"):
        console.acquire_io(loop=loop, session=second)


@pytest.mark.real_time
async def test_a_program_on_a_connection_talks_with_the_agent() -> None:
    events: list[pb.AgentSessionMessage] = []
    answered = asyncio.Event()
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = pb.SessionRequest(request_id="1")
        request.run_input.text = "Hello there"
        data = pb.AgentSessionMessage(request=request).SerializeToString()
        writer.write(len(data).to_bytes(4, "big") + data)
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                message = pb.AgentSessionMessage.FromString(await reader.readexactly(size))
                events.append(message)
                kind = message.WhichOneof("message")
                if kind == "audio_playback_flush":  # it plays at once here
                    done = pb.AgentSessionMessage()
                    done.audio_playback_finished.SetInParent()
                    data = done.SerializeToString()
                    writer.write(len(data).to_bytes(4, "big") + data)
                elif kind == "response":
                    answered.set()
        except asyncio.IncompleteReadError:
            gone.set()
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    options = ("-m", "livekit.agents", "console", AGENT, "--connect-addr", address)
    async with terminal(*options, env={"AGENT": "talk"}) as screen:
        began = time.monotonic()
        try:
            await asyncio.wait_for(answered.wait(), 30)
        except asyncio.TimeoutError:
            raise AssertionError(
                f"{time.monotonic() - began} s; the screen:\n{screen.text}"
            ) from None
        (response,) = [m.response for m in events if m.WhichOneof("message") == "response"]
        assert response.request_id == "1" and not response.error
        assert "How do you do?" in str(response)
        screen.interrupt()
        assert await screen.exits() == 0
        await asyncio.wait_for(gone.wait(), 5)
    listener.close()
