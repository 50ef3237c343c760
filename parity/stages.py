"""A stage with ears, a VAD and a text output that a scene plays on."""

from __future__ import annotations

import asyncio
from typing import Any, get_args

from close_fakes import Ears, Voice
from conversations import Host, NotingSpeaker, Stage

from livekit.agents import AgentSession, stt, vad
from livekit.agents.voice import io
from livekit.agents.voice.events import EventTypes

Kind = stt.SpeechEventType


class _Watching(vad.VADStream):
    async def _main_task(self) -> None:
        async for _ in self._input_ch:
            pass

    def say(self, kind: vad.VADEventType, speech: float = 0.0, silence: float = 0.0) -> None:
        self._event_ch.send_nowait(
            vad.VADEvent(
                type=kind,
                samples_index=0,
                timestamp=0.0,
                speech_duration=speech,
                silence_duration=silence,
                speaking=kind is not vad.VADEventType.END_OF_SPEECH,
                probability=0.9 if speech else 0.0,
            )
        )


class ToldVAD(vad.VAD):
    """Notices speech when it is told to."""

    def __init__(self) -> None:
        super().__init__(capabilities=vad.VADCapabilities(update_interval=0.1))
        self._streams: list[_Watching] = []

    def stream(self) -> Any:
        self._streams.append(_Watching(self))
        return self._streams[-1]

    def begin(self) -> None:
        """Somebody begins to speak."""
        self._streams[-1].say(vad.VADEventType.START_OF_SPEECH, speech=0.1)

    def go_on(self, seconds: float) -> None:
        """They have spoken for so long."""
        self._streams[-1].say(vad.VADEventType.INFERENCE_DONE, speech=seconds)

    def end(self) -> None:
        """They stop."""
        self._streams[-1].say(vad.VADEventType.END_OF_SPEECH, silence=0.5)


class SharpEars(Ears):
    """Also hear parts of sentences."""

    def catch(self, kind: Kind, text: str) -> None:
        """Recognize `text`, finally or for now."""
        for stream in self.open:
            said = [stt.SpeechData(language="en", text=text, confidence=0.9)]
            stream._event_ch.send_nowait(stt.SpeechEvent(type=kind, alternatives=said))


class Screen(io.TextOutput):
    """Notes what is written to it."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(label="screen", next_in_chain=None)
        self._stage = stage
        self._text = ""

    async def capture_text(self, text: str) -> None:
        self._text += text

    def flush(self) -> None:
        self._stage.note(f"screen: {self._text}")
        self._text = ""


class PausingSpeaker(NotingSpeaker):
    """Notes also when it is paused."""

    def pause(self) -> None:
        self._stage.note("speaker: pause")
        super().pause()

    def resume(self) -> None:
        self._stage.note("speaker: resume")
        super().resume()


class WideStage(Stage):
    """A session whose turns a VAD finds."""

    def __init__(self) -> None:
        super().__init__()
        self.vad = ToldVAD()
        self.ears = SharpEars()

    async def start(
        self, agent: Any = None, *, pace: float = 0, seconds: float = 0.1, **options: Any
    ) -> Any:
        """Start the session; `seconds` is how long a piece of text is, `pace` how slow it plays."""
        self.session = AgentSession(
            **{
                "stt": self.ears,
                "llm": self.model,
                "tts": Voice(seconds=seconds),
                "vad": self.vad,
                "turn_handling": {"turn_detection": "vad"},
                "user_away_timeout": None,
                **options,
            }
        )
        for event in get_args(EventTypes):
            self.session.on(event, self._noticer(event))
        self.attach(pace)
        self.session.output.audio = PausingSpeaker(self, pace=pace)
        self.session.output.transcription = Screen(self)
        await self.session.start(agent or Host(self))
        await asyncio.sleep(0.1)
        return self.session

    async def hear(self, text: str, *, seconds: float = 0.3) -> None:
        """The user says something, in one breath."""
        self.vad.begin()
        await asyncio.sleep(0.05)
        self.vad.go_on(0.3)
        self.ears.catch(Kind.INTERIM_TRANSCRIPT, text.split()[0])
        await asyncio.sleep(seconds)
        self.ears.catch(Kind.FINAL_TRANSCRIPT, text)
        await asyncio.sleep(0.05)
        self.vad.end()
