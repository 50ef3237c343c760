"""What a caller is: a program with a WebRTC client that speaks, listens, and hangs up.

It obeys commands, one a line, on its standard input, and tells what happens as lines of JSON on
its standard output. `Caller` is the other end of these pipes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import wave
from pathlib import Path
from typing import Any

RATE = 24000
"""Of what the caller hears and says, in Hz."""


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
