"""A caller: a process of its own with a WebRTC client that speaks, listens, and hangs up.

Run as a program it obeys commands, one a line, on its standard input, and tells what happens as
lines of JSON on its standard output. `Caller` is the other end of these pipes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

RATE = 24000
"""Of what the caller hears and says, in Hz."""

PATIENCE = 40.0
"""Seconds to wait for something the caller should tell; it speaks and hears in real time."""


class Caller:
    """A caller in another process. Used as a context manager: the process is gone at the end.

    Args:
        url: The server.
        token: Who the caller is, and which room is called.
        recording: WAV file for what the caller hears, written when they leave in order. Beside it
            is what their client logs.
        said_before: WAV file of what the caller said before the agent had joined, which the client
            kept for it.
    """

    def __init__(
        self,
        url: str,
        token: str,
        recording: Path,
        *,
        said_before: Path | None = None,
    ) -> None:
        before = [] if said_before is None else ["--said-before", str(said_before)]
        self._log = recording.with_suffix(".log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, __file__, url, token, str(recording), *before],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.recording = recording
        self.told: list[dict[str, Any]] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="caller", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._more:
                self.told.append(json.loads(line))
                self._more.notify_all()
        with self._more:
            self.told.append({"event": "gone"})
            self._more.notify_all()

    def _command(self, command: str, argument: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command} {argument}\n")
        self._process.stdin.flush()

    def speak(self, wav: Path) -> None:
        """Play a WAV file into the microphone."""
        self._command("speak", str(wav))

    def write(self, text: str) -> None:
        """Send a chat message."""
        self._command("write", text)

    def show(self) -> None:
        """Switch the camera on."""
        self._command("show")

    def leave(self) -> None:
        """Hang up in order."""
        self._command("leave")

    def kill(self) -> None:
        """Vanish: the process is killed and says nothing to anybody."""
        self._process.kill()

    def freeze(self) -> None:
        """Fall silent, as on a network that is cut: no packet any more, and no connection closed."""
        self._process.send_signal(signal.SIGSTOP)

    async def until(
        self, event: str, matches: Callable[[dict[str, Any]], bool] = lambda told: True
    ) -> dict[str, Any]:
        """Wait until the caller has told something, and return it."""

        def found() -> dict[str, Any] | None:
            return next((t for t in self.told if t["event"] == event and matches(t)), None)

        def wait() -> dict[str, Any]:
            with self._more:
                if not self._more.wait_for(lambda: found() is not None, PATIENCE):
                    raise TimeoutError(f"the caller did not tell of {event!r}: {self.told}")
            told = found()
            assert told is not None
            return told

        return await asyncio.get_running_loop().run_in_executor(None, wait)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._log.close()


# -- the other process ----------------------------------------------------------------------------


class _Client:
    def __init__(self, recording: Path, said_before: Path | None) -> None:
        from livekit import rtc

        self._said_before = said_before
        self.room = rtc.Room()
        self.source = rtc.AudioSource(RATE, 1, queue_size_ms=200)
        self._recording = recording
        self._heard = bytearray()
        self._speech = b""
        self._tasks: set[asyncio.Task[None]] = set()

    def _start(self, coro: Any) -> None:
        task = asyncio.get_running_loop().create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def tell(self, event: str, **facts: Any) -> None:
        print(json.dumps({"event": event, "at": time.time(), **facts}), flush=True)

    async def run(self, url: str, token: str) -> None:
        from livekit import rtc

        room = self.room
        room.on("track_subscribed", lambda track, *_: self._start(self._listen(track)))
        room.on("disconnected", lambda reason: self.tell("disconnected", reason=int(reason)))
        room.on(
            "participant_attributes_changed",
            lambda changed, participant: self.tell(
                "attributes", identity=participant.identity, changed=dict(changed)
            ),
        )
        room.register_text_stream_handler(
            "lk.transcription", lambda reader, who: self._start(self._read(reader, who))
        )
        await room.connect(url, token)
        track = rtc.LocalAudioTrack.create_audio_track("microphone", self.source)
        options = rtc.TrackPublishOptions(
            source=rtc.TrackSource.SOURCE_MICROPHONE,
            preconnect_buffer=self._said_before is not None,
        )
        microphone = await room.local_participant.publish_track(track, options)
        if self._said_before is not None:
            await self._send_said_before(self._said_before, microphone.sid)
        self._start(self._talk())
        self.tell("joined")
        await self._obey()

    async def _send_said_before(self, path: Path, track_id: str) -> None:
        """As client libraries do it: a byte stream, named after the track it belongs to."""
        writer = await self.room.local_participant.stream_bytes(
            "said-before",
            topic="lk.agent.pre-connect-audio-buffer",
            attributes={"trackId": track_id, "sampleRate": str(RATE), "channels": "1"},
            mime_type="audio/pcm",
        )
        await writer.write(_pcm_of(path))
        await writer.aclose()

    async def _obey(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := (await reader.readline()).decode():
            command, _, argument = line.strip().partition(" ")
            if command == "speak":
                self._speech += _pcm_of(Path(argument))
            elif command == "write":
                await self.room.local_participant.send_text(argument, topic="lk.chat")
            elif command == "show":
                self._start(self._show())
            elif command == "leave":
                break
        await self.room.disconnect()
        with wave.open(str(self._recording), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(bytes(self._heard))
        self.tell("left")

    async def _talk(self) -> None:
        """The microphone is never off: silence between the words, as on a phone."""
        from livekit import rtc

        samples = RATE // 50
        speaking = False
        while True:
            piece, self._speech = self._speech[: 2 * samples], self._speech[2 * samples :]
            if speaking and not piece:
                self.tell("spoken")
            speaking = bool(piece)
            await self.source.capture_frame(
                rtc.AudioFrame(piece.ljust(2 * samples, b"\0"), RATE, 1, samples)
            )

    async def _show(self) -> None:
        """Ten green pictures a second."""
        from livekit import rtc

        width, height = 320, 240
        camera = rtc.VideoSource(width, height)
        track = rtc.LocalVideoTrack.create_video_track("camera", camera)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA)
        await self.room.local_participant.publish_track(track, options)
        picture = bytes([0, 200, 0, 255]) * (width * height)
        while True:
            camera.capture_frame(
                rtc.VideoFrame(width, height, rtc.VideoBufferType.RGBA, bytearray(picture))
            )
            await asyncio.sleep(0.1)

    async def _listen(self, track: Any) -> None:
        from livekit import rtc

        if track.kind != rtc.TrackKind.KIND_AUDIO:
            return
        self.tell("subscribed", track=track.name)
        hearing = False
        async for event in rtc.AudioStream.from_track(
            track=track, sample_rate=RATE, num_channels=1
        ):
            self._heard += event.frame.data.tobytes()
            if not hearing and max(event.frame.data, default=0) > 1000:
                hearing = True
                self.tell("hears")

    async def _read(self, reader: Any, who: str) -> None:
        from livekit import rtc

        info = reader.info
        try:
            text = await reader.read_all()
        except rtc.StreamError:
            return  # hung up in the middle of it
        self.tell("transcript", identity=who, text=text, attributes=dict(info.attributes or {}))


def _pcm_of(path: Path) -> bytes:
    from livekit import rtc

    with wave.open(str(path)) as file:
        rate, pcm = file.getframerate(), file.readframes(file.getnframes())
    if rate == RATE:
        return pcm
    resampler = rtc.AudioResampler(rate, RATE, quality=rtc.AudioResamplerQuality.HIGH)
    frames = resampler.push(bytearray(pcm)) + resampler.flush()
    return b"".join(frame.data.tobytes() for frame in frames)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("token")
    parser.add_argument("recording", type=Path)
    parser.add_argument("--said-before", type=Path)
    arguments = parser.parse_args()

    async def run() -> None:
        client = _Client(arguments.recording, arguments.said_before)
        await client.run(arguments.url, arguments.token)

    asyncio.run(run())


if __name__ == "__main__":
    _main()
