"""Stand-ins for everything around hearing: a session, a listener, an STT node, detectors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

from livekit import rtc

from fakes.vad import FakeVAD, FakeVADStream
from livekit.agents._emitter import IsolatedEmitter
from livekit.agents.language import LanguageCode
from livekit.agents.llm import ChatContext
from livekit.agents.stt import SpeechData, SpeechEvent, SpeechEventType
from livekit.agents.utils.aio import Chan
from livekit.agents.vad import VADEventType
from livekit.agents.voice.audio_recognition import (
    AudioRecognition,
    DetachedHearing,
    EndOfTurnInfo,
)
from livekit.agents.voice.endpointing import BaseEndpointing
from livekit.agents.voice.turn import TurnDetectionEvent

FOREVER = float("inf")


def frame(duration: float = 0.02, sample_rate: int = 16000, fill: int = 0) -> rtc.AudioFrame:
    """A mono frame, every sample `fill`."""
    samples = round(duration * sample_rate)
    data = fill.to_bytes(2, "little", signed=True) * samples
    return rtc.AudioFrame(data, sample_rate, 1, samples)


def final(text: str, **data: Any) -> SpeechEvent:
    """A final transcript."""
    return transcript(SpeechEventType.FINAL_TRANSCRIPT, text, **data)


def interim(text: str, **data: Any) -> SpeechEvent:
    """An interim transcript."""
    return transcript(SpeechEventType.INTERIM_TRANSCRIPT, text, **data)


def preflight(text: str, **data: Any) -> SpeechEvent:
    """A preflight transcript."""
    return transcript(SpeechEventType.PREFLIGHT_TRANSCRIPT, text, **data)


def transcript(type: SpeechEventType, text: str, **data: Any) -> SpeechEvent:
    data.setdefault("language", LanguageCode("en"))
    data.setdefault("confidence", 1.0)
    return SpeechEvent(type=type, alternatives=[SpeechData(text=text, **data)])


class RecordingHooks:
    """Writes down what it is told, as (name, detail)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.turns: list[EndOfTurnInfo] = []
        self.take_turns = True
        self.chat_ctx = ChatContext.empty()
        self.interruption_by_audio_activity_enabled = True
        self.failing: set[str] = set()
        self.on_turn: Callable[[EndOfTurnInfo], None] = lambda info: None

    def _record(self, name: str, detail: Any = None) -> None:
        self.calls.append((name, detail))
        if name in self.failing:
            raise TypeError(f"{name} is broken")

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def details(self, name: str) -> list[Any]:
        return [detail for called, detail in self.calls if called == name]

    @property
    def transcripts(self) -> list[str]:
        """Of the turns that ended."""
        return [turn.new_transcript for turn in self.turns]

    def on_start_of_speech(self, ev: Any, speech_start_time: float) -> None:
        self._record("start_of_speech", speech_start_time)

    def on_vad_inference_done(self, ev: Any) -> None:
        pass

    def on_end_of_speech(self, ev: Any) -> None:
        self._record("end_of_speech", ev)

    def on_interim_transcript(self, ev: SpeechEvent, *, speaking: bool | None) -> None:
        self._record("interim", (_text(ev), speaking))

    def on_final_transcript(self, ev: SpeechEvent, *, speaking: bool | None = None) -> None:
        self._record("final", (_text(ev), speaking))

    def on_end_of_turn(self, info: EndOfTurnInfo) -> bool:
        self._record("end_of_turn", info.new_transcript)
        if self.take_turns:
            self.turns.append(info)
        self.on_turn(info)
        return self.take_turns

    def on_eot_prediction(self, ev: Any) -> None:
        self._record("eot_prediction", ev)

    def on_agent_backchannel_opportunity(self, ev: Any) -> None:
        self._record("backchannel_opportunity", ev)

    def on_backchannel_confirmed(self) -> None:
        self._record("backchannel_confirmed")

    def on_preemptive_generation(self, info: Any) -> None:
        self._record("preemptive", info.new_transcript)

    def on_preflight_stale(self, info: Any) -> None:
        self._record("preflight_stale", info.new_transcript)

    def on_overlap_speech(self, ev: Any) -> None:
        self._record("overlap", ev)

    def on_transcription_timeout(self, *, speech_duration: float, turn_start: float) -> None:
        self._record("transcription_timeout", (speech_duration, turn_start))

    def on_user_turn_exceeded(self, ev: Any) -> None:
        self._record("exceeded", ev)

    def on_stt_failure(self, error: Exception) -> None:
        self._record("stt_failure", error)

    def retrieve_chat_ctx(self) -> ChatContext:
        return self.chat_ctx


def _text(ev: SpeechEvent) -> str:
    return ev.alternatives[0].text if ev.alternatives else ""


class FakeOptions:
    """The options of a session that hearing reads."""

    def __init__(self) -> None:
        self.turn_handling: dict[str, Any] = {"user_turn_limit": {}}
        self.interruption: dict[str, Any] = {
            "enabled": True,
            "min_duration": 0.5,
            "min_words": 0,
            "resume_false_interruption": True,
            "false_interruption_timeout": 2.0,
            "backchannel_boundary": (1.0, 1.0),
            "discard_audio_if_uninterruptible": True,
        }
        self.transcription_timeout: float | None = None


class FakeSession(IsolatedEmitter[str]):
    """The part of a session that recognition reads."""

    def __init__(self) -> None:
        super().__init__()
        self.options = FakeOptions()
        self.agent_state = "listening"
        self.amd: Any = None


class ScriptedNode:
    """An `stt_node` that says what the test makes it say, and keeps the audio it gets."""

    def __init__(self) -> None:
        self.called_at: list[float] = []
        self.frames: list[rtc.AudioFrame] = []
        self.events: Chan[Any] = Chan()
        self.closed = 0
        self.close_time = 0.0
        self.ignore_cancellation = False

    @property
    def calls(self) -> int:
        return len(self.called_at)

    def say(self, *events: Any) -> None:
        """The node yields this, now. An exception is raised instead."""
        for event in events:
            self.events.send_nowait(event)

    async def __call__(
        self, audio: AsyncIterable[rtc.AudioFrame], settings: Any
    ) -> AsyncIterator[Any]:
        return self._run(audio)

    async def _run(self, audio: AsyncIterable[rtc.AudioFrame]) -> AsyncIterator[Any]:
        self.called_at.append(now())
        reader = asyncio.get_running_loop().create_task(self._read(audio))
        try:
            while True:
                try:
                    event = await self.events.recv()
                except asyncio.CancelledError:
                    if not self.ignore_cancellation:
                        raise
                    continue
                if isinstance(event, Exception):
                    raise event
                if event is StopAsyncIteration:
                    return
                yield event
        finally:
            reader.cancel()
            self.closed += 1
            if self.close_time:
                await asyncio.sleep(self.close_time)

    async def _read(self, audio: AsyncIterable[rtc.AudioFrame]) -> None:
        async for piece in audio:
            self.frames.append(piece)


class FakeTextDetector:
    """A turn detector that reads; answers `probability` after `delay` seconds."""

    model = "text-detector"
    provider = "fake"

    def __init__(self, probability: float = 1.0, threshold: float | None = 0.5) -> None:
        self.probability = probability
        self.threshold = threshold
        self.delay = 0.0
        self.supported = True
        self.failure: Exception | None = None
        self.asked: list[str] = []

    async def unlikely_threshold(self, language: Any) -> float | None:
        return self.threshold

    async def supports_language(self, language: Any) -> bool:
        return self.supported

    async def predict_end_of_turn(
        self, chat_ctx: ChatContext, *, timeout: float | None = None
    ) -> float:
        self.asked.append(chat_ctx.items[-1].text_content or "")  # type: ignore[union-attr]
        if self.delay == FOREVER:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(self.delay)
        if self.failure is not None:
            raise self.failure
        return self.probability


class FakeStreamingDetector:
    """A turn detector that listens; answers at once unless told otherwise."""

    model = "streaming-detector"
    provider = "fake"

    def __init__(self, probability: float = 1.0, threshold: float | None = 0.5) -> None:
        self.probability = probability
        self.threshold = threshold
        self.answers = True
        self.streams: list[FakeDetectorStream] = []

    def stream(self, *, conn_options: Any = None) -> FakeDetectorStream:
        stream = FakeDetectorStream(self)
        self.streams.append(stream)
        return stream


class FakeDetectorStream:
    """A stream of `FakeStreamingDetector`."""

    model = "streaming-detector"
    provider = "fake"
    is_fallback = False
    prediction_timeout = 1.0

    def __init__(self, detector: FakeStreamingDetector) -> None:
        self.detector = detector
        self.open: asyncio.Future[TurnDetectionEvent] | None = None
        self.predictions = 0
        self.cancelled: list[bool] = []
        self.flushes: list[str | None] = []
        self.frames = 0
        self.closed = False

    async def unlikely_threshold(self, language: Any) -> float | None:
        return self.detector.threshold

    async def backchannel_threshold(self, language: Any) -> float | None:
        return None

    async def supports_language(self, language: Any) -> bool:
        return True

    def predict(self) -> asyncio.Future[TurnDetectionEvent]:
        self.predictions += 1
        self.open = asyncio.get_running_loop().create_future()
        if self.detector.answers:
            self.answer()
        return self.open

    def answer(self) -> None:
        assert self.open is not None
        self.open.set_result(
            TurnDetectionEvent(
                type="eot_prediction",
                end_of_turn_probability=self.detector.probability,
                last_speaking_time=0.0,
            )
        )

    def cancel_inference(self, *, timed_out: bool = False) -> None:
        self.cancelled.append(timed_out)

    def flush(self, reason: str | None = None) -> None:
        self.flushes.append(reason)

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        self.frames += 1

    def end_input(self) -> None:
        pass

    async def aclose(self) -> None:
        self.closed = True


class FakeInterruptionDetector:
    """Judges speech over the agent as the test says."""

    label = "fake-interruption-detector"

    def __init__(self) -> None:
        self.streams: list[FakeInterruptionStream] = []

    def stream(self, *, conn_options: Any = None) -> FakeInterruptionStream:
        stream = FakeInterruptionStream()
        self.streams.append(stream)
        return stream

    @property
    def signals(self) -> list[str]:
        """Names of what the last stream was told."""
        return [type(signal).__name__ for signal in self.streams[-1].signals]


class FakeInterruptionStream:
    """A stream of `FakeInterruptionDetector`."""

    def __init__(self) -> None:
        self.signals: list[Any] = []
        self.frames = 0
        self.verdicts: Chan[Any] = Chan()
        self.closed = False

    def push_frame(self, frame: rtc.AudioFrame) -> None:
        self.frames += 1

    def send(self, event: Any) -> None:
        self.signals.append(event)

    async def aclose(self) -> None:
        self.closed = True
        self.verdicts.close()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        async for verdict in self.verdicts:
            if isinstance(verdict, Exception):
                raise verdict
            return verdict
        raise StopAsyncIteration


class Verdict:
    """An `OverlappingSpeechEvent`, as far as recognition looks at it."""

    def __init__(self, *, is_interruption: bool, at: float, agent_ended: bool = False) -> None:
        self.is_interruption = is_interruption
        self.detected_at = at
        self.agent_ended = agent_ended
        self.overlap_started_at: float | None = None


class Ears:
    """A recognition with everything around it, started.

    Args:
        stt: False: no STT.
        vad: False: no VAD.
        detection: The validated turn detection.
        min_delay: Endpointing, seconds.
        max_delay: Endpointing, seconds.
        detector: An interruption detector.
        aligned: The STT's transcripts carry times.
        node: Instead of a `ScriptedNode`.
        adopt: Streams of a previous agent.
        options: Called with the session's options before anything starts.
    """

    def __init__(
        self,
        *,
        stt: bool = True,
        vad: bool = True,
        detection: Any = None,
        min_delay: float = 0.5,
        max_delay: float = 3.0,
        detector: Any = None,
        aligned: bool = False,
        node: Any = None,
        adopt: DetachedHearing | None = None,
        endpointing: BaseEndpointing | None = None,
        options: Callable[[FakeOptions], None] = lambda options: None,
    ) -> None:
        self.session = FakeSession()
        options(self.session.options)
        self.hooks = RecordingHooks()
        self.vad = FakeVAD() if vad else None
        self.node = node or ScriptedNode()
        self.recognition = AudioRecognition(
            self.session,  # type: ignore[arg-type]
            hooks=self.hooks,
            endpointing=endpointing or BaseEndpointing(min_delay, max_delay),
            stt=self.node if stt else None,
            vad=self.vad,
            interruption_detection=detector,
            turn_detection=detection,
            stt_aligned_transcript=aligned,
        )
        self.recognition.start(adopt=adopt)

    @property
    def vad_stream(self) -> FakeVADStream:
        assert self.vad is not None
        return self.vad.streams[-1]

    async def hears(self, *events: Any) -> None:
        """The STT says this, and it has been dealt with."""
        self.node.say(*events)
        await settle()

    async def speaks(self, duration: float = 1.0) -> None:
        """The VAD hears `duration` seconds of speech; they go by. It doesn't hear the end."""
        self.vad_stream.send(VADEventType.START_OF_SPEECH, speech_duration=0.05, speaking=True)
        await settle()
        steps = max(1, round(duration / 0.1))
        for step in range(steps):
            await asyncio.sleep(duration / steps)
            self.vad_stream.send(
                VADEventType.INFERENCE_DONE,
                speaking=True,
                speech_duration=(step + 1) * duration / steps,
                raw_accumulated_speech=0.1,
            )
        await settle()

    async def pauses(self, silence: float = 0.25, speech_duration: float = 1.0) -> None:
        """The user falls silent, and the VAD hears it after `silence` seconds."""
        steps = max(1, round(silence / 0.05))
        for step in range(steps):
            await asyncio.sleep(silence / steps)
            self.vad_stream.send(
                VADEventType.INFERENCE_DONE,
                speaking=True,
                raw_accumulated_silence=(step + 1) * silence / steps,
            )
        self.vad_stream.send(
            VADEventType.END_OF_SPEECH,
            silence_duration=silence,
            speech_duration=speech_duration,
            speaking=False,
        )
        await settle()

    async def agent_speaks(self) -> None:
        self._agent("speaking")

    async def agent_stops(self) -> None:
        self._agent("listening")

    def _agent(self, state: str) -> None:
        from livekit.agents.voice.events import AgentStateChangedEvent

        old, self.session.agent_state = self.session.agent_state, state
        self.session.emit(
            "agent_state_changed",
            AgentStateChangedEvent(
                old_state=old,  # type: ignore[arg-type]
                new_state=state,  # type: ignore[arg-type]
                created_at=now(),
            ),
        )

    async def close(self, timeout: float = 2.0) -> list[Any]:
        return await self.recognition.aclose(timeout)


def now() -> float:
    return time.time()


async def settle() -> None:
    """Let everything happen that takes no time."""
    for _ in range(12):
        await asyncio.sleep(0)
