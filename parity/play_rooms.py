"""Calls in rooms of a real LiveKit server: what the other side sees, hears and reads."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from close_fakes import Ears, ScriptedLLM, Voice
from harness.server import LiveKitServer
from livekit import api, rtc

from livekit.agents import Agent, AgentSession, RoomInputOptions, RoomOutputOptions
from livekit.agents.voice.room_io import RoomOptions, TextOutputOptions

GREETING = "Hello caller. Welcome here."

WELCOMED = 4.0
"""Seconds in which the greeting is over."""

ANSWERED = 2.5
"""Seconds in which an answer is over."""

IDS = ("lk.segment_id", "lk.transcribed_track_id")

SCENES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "stays when the caller leaves": {"room_options": RoomOptions(close_on_disconnect=False)},
    "text only": {"room_options": RoomOptions(audio_input=False, audio_output=False)},
    "text at once": {
        "room_options": RoomOptions(
            text_output=TextOutputOptions(sync_transcription=False), text_input=False
        )
    },
    "deletes the room": {"room_options": RoomOptions(delete_room_on_close=True)},
    "options of old": {
        "room_input_options": RoomInputOptions(text_enabled=False),
        "room_output_options": RoomOutputOptions(
            transcription_enabled=False, audio_sample_rate=16000
        ),
    },
}


class Greeter(Agent):
    """Greets who is there."""

    async def on_enter(self) -> None:
        self.session.say(GREETING)


class Caller:
    """Whoever is on the other side of the room."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.room = rtc.Room()
        self._note = note
        self._reading: set[asyncio.Task[None]] = set()
        self.room.on("participant_attributes_changed", self._on_attributes)
        self.room.on("track_published", self._on_track)
        self.room.on("participant_disconnected", lambda who: note(f"left {who.identity}"))
        self.room.on("transcription_received", self._on_transcription)
        for topic in ("lk.transcription", "lk.chat"):
            self.room.register_text_stream_handler(topic, self._on_stream)

    async def join(self, url: str, token: str) -> None:
        """Connect, and publish a microphone."""
        await self.room.connect(url, token)
        track = rtc.LocalAudioTrack.create_audio_track("microphone", rtc.AudioSource(48000, 1))
        await self.room.local_participant.publish_track(track)

    def _on_attributes(self, changed: dict[str, str], who: rtc.Participant) -> None:
        self._note(f"attributes {who.identity} {dict(sorted(changed.items()))}")

    def _on_track(self, publication: rtc.RemoteTrackPublication, who: rtc.Participant) -> None:
        self._note(f"track {who.identity} {publication.name} {publication.kind}")

    def _on_transcription(self, segments: Any, who: Any, _: Any) -> None:
        for segment in segments:
            if segment.final:
                self._note(f"legacy {who.identity if who else None} {segment.text!r}")

    def _on_stream(self, reader: rtc.TextStreamReader, identity: str) -> None:
        task = asyncio.ensure_future(self._read(reader, identity))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _read(self, reader: rtc.TextStreamReader, identity: str) -> None:
        text = await reader.read_all()
        attributes = {
            key: "an id" if key in IDS else value
            for key, value in sorted((reader.info.attributes or {}).items())
        }
        final = attributes.get("lk.transcription_final") != "false" or identity == "agent"
        if final:
            self._note(f"{reader.info.topic} {identity} {attributes} {text!r}")


async def play(server: LiveKitServer, number: int, options: dict[str, Any]) -> list[str]:
    """One call: a greeting, words, a typed line, and the caller leaves."""
    noted: list[str] = []
    name = f"room-{number}"
    agent_room, caller, ears = rtc.Room(), Caller(noted.append), Ears()
    await caller.join(server.url, _token(server, name, "caller"))
    await agent_room.connect(server.url, _token(server, name, "agent"))
    session: AgentSession[None] = AgentSession(
        stt=ears,
        llm=ScriptedLLM(),
        tts=Voice(seconds=0.3),
        vad=None,
        turn_handling={"turn_detection": "stt"},
    )
    for event, field in (
        ("agent_state_changed", "new_state"),
        ("user_input_transcribed", "transcript"),
        ("close", "reason"),
    ):
        session.on(event, _noter(noted.append, event, field))
    await session.start(Greeter(instructions="Be kind."), room=agent_room, **options)
    await asyncio.sleep(WELCOMED)
    noted.append(f"attached {type(session.input.audio).__name__} {_sink(session)}")
    linked = session.room_io.linked_participant
    noted.append(f"linked {linked.identity if linked else None}")
    attributes = dict(sorted(agent_room.local_participant.attributes.items()))
    noted.append(f"own attributes {attributes}")
    ears.hear("some words")
    await asyncio.sleep(ANSWERED)
    await caller.room.local_participant.send_text("typed words", topic="lk.chat")
    await asyncio.sleep(ANSWERED)
    await caller.room.disconnect()
    await asyncio.sleep(1.5)
    await session.aclose()
    noted.append(f"room connected {agent_room.isconnected()}")
    await agent_room.disconnect()
    return noted


def _sink(session: AgentSession[None]) -> str:
    audio = session.output.audio
    rate = audio.sample_rate if audio is not None else None
    return f"{type(audio).__name__} at {rate}, {type(session.output.transcription).__name__}"


def _noter(note: Callable[[str], None], event: str, field: str) -> Callable[[Any], None]:
    return lambda data: note(f"{event} {getattr(data, field)}")


def _token(server: LiveKitServer, room: str, identity: str) -> str:
    grants = api.VideoGrants(
        room_join=True, room=room, agent=identity == "agent", can_update_own_metadata=True
    )
    token = api.AccessToken(server.key, server.secret).with_identity(identity).with_grants(grants)
    return token.with_kind("agent" if identity == "agent" else "standard").to_jwt()


async def main() -> dict[str, list[str]]:
    """All calls, side by side."""
    logging.getLogger("livekit").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        server = LiveKitServer(Path(os.environ["LIVEKIT_SERVER"]), Path(folder))
        server.start()
        os.environ["LIVEKIT_URL"] = server.url
        os.environ["LIVEKIT_API_KEY"], os.environ["LIVEKIT_API_SECRET"] = server.key, server.secret
        try:
            calls: list[Awaitable[list[str]]] = [
                play(server, number, options) for number, options in enumerate(SCENES.values())
            ]
            noted = await asyncio.gather(*calls)
        finally:
            server.stop()
    return dict(zip(SCENES, noted, strict=True))


if __name__ == "__main__":
    json.dump(asyncio.run(main()), sys.stdout)
