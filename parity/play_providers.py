"""Providers that fail: retries, errors, metrics, adapters and fallbacks of STT, TTS and LLM."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from livekit import rtc

from livekit.agents import (
    APIConnectionError,
    APIConnectOptions,
    APIStatusError,
    llm,
    stt,
    tokenize,
    tts,
    vad,
)

QUICK = APIConnectOptions(max_retry=2, retry_interval=0.05, timeout=1.0)
ONCE = APIConnectOptions(max_retry=0, timeout=1.0)

LOST = APIConnectionError("lost")
BUSY = APIStatusError("busy", status_code=503)
REFUSED = APIStatusError("refused", status_code=400)
BROKEN = ValueError("broken")

PATIENCE = 15.0
"""Seconds that a scene may take."""

UNSTEADY = {"timestamp", "duration", "ttft", "ttfb", "label", "segment_id", "speech_id"} | {
    "acquire_time",
    "tokens_per_second",
}


OURS = {"lost_audio_duration", "replayed_audio_duration"}
"""Fields of metrics that the published package doesn't have."""


class Notes:
    """What a scene notices."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, *what: Any) -> None:
        self.lines.append(" ".join(map(str, what)))

    def watch(self, provider: Any, name: str = "") -> None:
        """Note errors and metrics of a provider."""
        provider.on("error", lambda error: self._error(name, error))
        provider.on("metrics_collected", lambda metrics: self._metrics(name, metrics))

    def _error(self, name: str, error: Any) -> None:
        kind = type(error.error).__name__
        self(f"error{name}", error.type, kind, "recoverable" if error.recoverable else "final")

    def _metrics(self, name: str, metrics: Any) -> None:
        steady = {
            key: round(value, 1) if isinstance(value, float) else value
            for key, value in sorted(metrics.model_dump().items())
            if key not in UNSTEADY | OURS
        }
        self(f"metrics{name}", steady)


Play = Callable[[Notes], Coroutine[Any, Any, None]]

SCENES: dict[str, Play] = {}


def scene(name: str) -> Callable[[Play], Play]:
    """Register a scene."""

    def register(play: Play) -> Play:
        SCENES[name] = play
        return play

    return register


def fails(error: Exception, times: int = 9) -> list[Exception]:
    """A script of attempts that fail."""
    return [error] * times


# -- STT --------------------------------------------------------------------------------------------


def sound() -> rtc.AudioFrame:
    """10 ms at 48 kHz."""
    return rtc.AudioFrame(bytes(960), 48000, 1, 480)


class _Recognition(stt.RecognizeStream):
    async def _run(self) -> None:
        ears = self._stt
        assert isinstance(ears, ScriptedSTT)
        ears.attempts += 1
        step = ears.script.pop(0) if ears.script else "nothing"
        if isinstance(step, Exception):
            raise step
        words, *then = step if isinstance(step, tuple) else (step,)
        self._event_ch.send_nowait(_heard(stt.SpeechEventType.INTERIM_TRANSCRIPT, words[:1]))
        self._event_ch.send_nowait(_heard(stt.SpeechEventType.FINAL_TRANSCRIPT, words))
        usage = stt.RecognitionUsage(audio_duration=1.5)
        self._event_ch.send_nowait(
            stt.SpeechEvent(
                type=stt.SpeechEventType.RECOGNITION_USAGE, request_id="u", recognition_usage=usage
            )
        )
        for error in then:
            raise error
        async for _ in self._input_ch:
            pass


def _heard(kind: stt.SpeechEventType, text: str) -> stt.SpeechEvent:
    said = stt.SpeechData(language="en", text=text, start_time=1.0, end_time=2.0)
    return stt.SpeechEvent(type=kind, request_id="r", alternatives=[said])


class ScriptedSTT(stt.STT):
    """Attempts go as the script says: words, an exception, or words and then an exception."""

    def __init__(self, notes: Notes, script: list[Any], name: str = "") -> None:
        super().__init__(capabilities=stt.STTCapabilities(streaming=True, interim_results=True))
        self.script, self.attempts = list(script), 0
        notes.watch(self, name)

    async def _recognize_impl(self, buffer: Any, **_: Any) -> stt.SpeechEvent:
        self.attempts += 1
        step = self.script.pop(0) if self.script else "recognized"
        if isinstance(step, Exception):
            raise step
        return _heard(stt.SpeechEventType.FINAL_TRANSCRIPT, step)

    def stream(self, *, conn_options: Any = QUICK, **_: Any) -> Any:
        return _Recognition(stt=self, conn_options=conn_options, sample_rate=16000)


async def _listen(notes: Notes, stream: Any) -> None:
    for _ in range(10):
        stream.push_frame(sound())
    stream.end_input()
    try:
        async for event in stream:
            notes("event", event.type.value, [said.text for said in event.alternatives])
    finally:
        await stream.aclose()


def _recognition(name: str, script: list[Any], options: APIConnectOptions = QUICK) -> None:
    @scene(f"stt: {name}")
    async def play(notes: Notes) -> None:
        ears = ScriptedSTT(notes, script)
        try:
            await _listen(notes, ears.stream(conn_options=options))
        finally:
            notes("attempts", ears.attempts)


_recognition("well", ["hello"])
_recognition("once lost", [LOST, "hello"])
_recognition("lost", fails(LOST))
_recognition("busy", fails(BUSY))
_recognition("refused", fails(REFUSED))
_recognition("broken", fails(BROKEN))
_recognition("lost, without retries", fails(LOST), ONCE)
_recognition("lost between words", [("a", LOST), LOST, ("b", LOST), LOST, "c"])


@scene("stt: another sample rate")
async def other_rate(notes: Notes) -> None:
    stream = ScriptedSTT(notes, ["hello"]).stream()
    stream.push_frame(sound())
    stream.push_frame(rtc.AudioFrame(bytes(320), 16000, 1, 160))
    notes("accepted")


@scene("stt: audio after the end")
async def after_the_end(notes: Notes) -> None:
    stream = ScriptedSTT(notes, ["hello"]).stream()
    stream.end_input()
    try:
        stream.push_frame(sound())
    finally:
        await stream.aclose()


@scene("stt: a recording")
async def recording(notes: Notes) -> None:
    ears = ScriptedSTT(notes, [LOST, "hello"])
    heard = await ears.recognize([sound(), sound()], conn_options=QUICK)
    notes("heard", heard.alternatives[0].text)
    await ScriptedSTT(notes, fails(LOST)).recognize(sound(), conn_options=QUICK)


class _Segments(vad.VADStream):
    async def _main_task(self) -> None:
        number = 0
        async for frame in self._input_ch:
            if not isinstance(frame, rtc.AudioFrame):
                continue
            number += 1
            if number == 3:
                self._say(vad.VADEventType.START_OF_SPEECH)
            if number == 6:
                self._say(vad.VADEventType.END_OF_SPEECH)

    def _say(self, kind: vad.VADEventType) -> None:
        self._event_ch.send_nowait(
            vad.VADEvent(
                type=kind,
                samples_index=0,
                timestamp=0,
                speech_duration=0.1,
                silence_duration=0.3,
                frames=[sound(), sound()],
            )
        )


class SegmentingVAD(vad.VAD):
    """Speech from the third to the sixth frame."""

    def __init__(self) -> None:
        super().__init__(capabilities=vad.VADCapabilities(update_interval=0.1))

    def stream(self) -> Any:
        return _Segments(self)


def _adapted(name: str, script: list[Any]) -> None:
    @scene(f"stt adapter: {name}")
    async def play(notes: Notes) -> None:
        adapter = stt.StreamAdapter(stt=ScriptedSTT(notes, script), vad=SegmentingVAD())
        notes("streams", adapter.capabilities.streaming, adapter.capabilities.interim_results)
        await _listen(notes, adapter.stream(conn_options=QUICK))


_adapted("well", ["hello"])
_adapted("lost", fails(LOST))


def _hearing_fallback(name: str, first: list[Any], second: list[Any]) -> None:
    @scene(f"stt fallback: {name}")
    async def play(notes: Notes) -> None:
        members = [ScriptedSTT(notes, first, " first"), ScriptedSTT(notes, second, " second")]
        adapter = stt.FallbackAdapter(
            members, attempt_timeout=1, max_retry_per_stt=0, retry_interval=0.05
        )
        adapter.on(
            "stt_availability_changed",
            lambda change: notes("availability", members.index(change.stt), change.available),
        )
        try:
            await _listen(notes, adapter.stream())
        finally:
            await adapter.aclose()


_hearing_fallback("well", ["first"], [])
_hearing_fallback("to the second", fails(LOST), ["second"])


# -- TTS --------------------------------------------------------------------------------------------


class _Chunked(tts.ChunkedStream):
    async def _run(self, output_emitter: Any) -> None:
        step = _next_attempt(self._tts)
        output_emitter.initialize(
            request_id="r", sample_rate=24000, num_channels=1, mime_type="audio/pcm"
        )
        if step == "silent":
            return
        output_emitter.push(bytes(48000))
        output_emitter.flush()


class _Streamed(tts.SynthesizeStream):
    async def _run(self, output_emitter: Any) -> None:
        _next_attempt(self._tts)
        output_emitter.initialize(
            request_id="r", sample_rate=24000, num_channels=1, mime_type="audio/pcm", stream=True
        )
        output_emitter.start_segment(segment_id="s")
        async for item in self._input_ch:
            if isinstance(item, str):
                self._mark_started()
                output_emitter.push(bytes(9600))
        output_emitter.end_segment()


def _next_attempt(voice: Any) -> Any:
    voice.attempts += 1
    step = voice.script.pop(0) if voice.script else "well"
    if isinstance(step, Exception):
        raise step
    return step


class ScriptedTTS(tts.TTS):
    """Attempts go as the script says; a second of silence, or 0.2 s for each piece of text."""

    def __init__(
        self, notes: Notes, script: list[Any], name: str = "", *, streaming: bool = True
    ) -> None:
        super().__init__(
            capabilities=tts.TTSCapabilities(streaming=streaming), sample_rate=24000, num_channels=1
        )
        self.script, self.attempts = list(script), 0
        notes.watch(self, name)

    def synthesize(self, text: str, *, conn_options: Any = QUICK) -> Any:
        return _Chunked(tts=self, input_text=text, conn_options=conn_options)

    def stream(self, *, conn_options: Any = QUICK) -> Any:
        return _Streamed(tts=self, conn_options=conn_options)


async def _hear_voice(notes: Notes, stream: Any, *texts: str) -> None:
    for text in texts:
        stream.push_text(text)
    if texts:
        stream.end_input()
    samples, last = 0, False
    try:
        async for audio in stream:
            samples, last = samples + audio.frame.samples_per_channel, audio.is_final
    finally:
        notes("samples", samples, "ended" if last else "not ended")
        await stream.aclose()


def _synthesis(name: str, script: list[Any], text: str = "hello") -> None:
    @scene(f"tts: {name}")
    async def play(notes: Notes) -> None:
        voice = ScriptedTTS(notes, script)
        try:
            await _hear_voice(notes, voice.synthesize(text))
        finally:
            notes("attempts", voice.attempts)


def _streamed_synthesis(name: str, script: list[Any], *texts: str) -> None:
    @scene(f"tts stream: {name}")
    async def play(notes: Notes) -> None:
        voice = ScriptedTTS(notes, script)
        try:
            await _hear_voice(notes, voice.stream(), *texts)
        finally:
            notes("attempts", voice.attempts)


for _name, _script in {
    "well": [],
    "once lost": [LOST],
    "lost": fails(LOST),
    "refused": fails(REFUSED),
    "broken": fails(BROKEN),
}.items():
    _synthesis(_name, _script)
    _streamed_synthesis(_name, _script, "hello ", "world.")
_synthesis("silent", ["silent"] * 9)
_synthesis("nothing to say", [], "  ")
_streamed_synthesis("nothing to say", [], " ")


def _adapted_voice(name: str, script: list[Any]) -> None:
    @scene(f"tts adapter: {name}")
    async def play(notes: Notes) -> None:
        voice = ScriptedTTS(notes, script, streaming=False)
        adapter = tts.StreamAdapter(
            tts=voice, sentence_tokenizer=tokenize.basic.SentenceTokenizer(min_sentence_len=5)
        )
        notes("streams", adapter.capabilities.streaming, adapter.sample_rate)
        texts = ("Hello there. ", "How are you? ", "Goodbye.")
        await _hear_voice(notes, adapter.stream(conn_options=QUICK), *texts)


_adapted_voice("well", [])
_adapted_voice("lost", fails(LOST))


def _voice_fallback(name: str, first: list[Any], *, streaming: bool) -> None:
    @scene(f"tts fallback: {name}, {'streamed' if streaming else 'whole'}")
    async def play(notes: Notes) -> None:
        members = [ScriptedTTS(notes, first, " first"), ScriptedTTS(notes, [], " second")]
        adapter = tts.FallbackAdapter(members, max_retry_per_tts=0)
        adapter.on(
            "tts_availability_changed",
            lambda change: notes("availability", members.index(change.tts), change.available),
        )
        try:
            if streaming:
                await _hear_voice(notes, adapter.stream(), "hello ", "world.")
            else:
                await _hear_voice(notes, adapter.synthesize("hello"))
        finally:
            await adapter.aclose()


for _streaming in (True, False):
    _voice_fallback("well", [], streaming=_streaming)
    _voice_fallback("to the second", fails(LOST), streaming=_streaming)


# -- LLM --------------------------------------------------------------------------------------------


class _Answer(llm.LLMStream):
    async def _run(self) -> None:
        step = _next_attempt(self._llm)
        self._say(llm.ChoiceDelta(role="assistant", content="hello "))
        if isinstance(step, tuple):
            raise step[0]
        call = llm.FunctionToolCall(name="f", arguments="{}", call_id="1")
        self._say(llm.ChoiceDelta(content="world", tool_calls=[call]))
        usage = llm.CompletionUsage(completion_tokens=3, prompt_tokens=5, total_tokens=8)
        self._event_ch.send_nowait(llm.ChatChunk(id="c", usage=usage))

    def _say(self, delta: llm.ChoiceDelta) -> None:
        self._event_ch.send_nowait(llm.ChatChunk(id="c", delta=delta))


class ScriptedLLM(llm.LLM):
    """Attempts go as the script says; an exception in a tuple comes after the first word."""

    def __init__(self, notes: Notes, script: list[Any], name: str = "") -> None:
        super().__init__()
        self.script, self.attempts = list(script), 0
        notes.watch(self, name)

    def chat(self, *, chat_ctx: Any, tools: Any = None, conn_options: Any = QUICK, **_: Any) -> Any:
        return _Answer(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


async def _read(notes: Notes, stream: Any) -> None:
    try:
        async for chunk in stream:
            if chunk.delta is not None:
                calls = [call.name for call in chunk.delta.tool_calls]
                notes("chunk", chunk.delta.role, chunk.delta.content, calls)
            if chunk.usage is not None:
                notes("usage", chunk.usage.total_tokens)
    finally:
        await stream.aclose()


def question() -> llm.ChatContext:
    """A context with one question."""
    context = llm.ChatContext.empty()
    context.add_message(role="user", content="hello?")
    return context


def _answer(name: str, script: list[Any]) -> None:
    @scene(f"llm: {name}")
    async def play(notes: Notes) -> None:
        model = ScriptedLLM(notes, script)
        try:
            await _read(notes, model.chat(chat_ctx=question()))
        finally:
            notes("attempts", model.attempts)


_answer("well", [])
_answer("once lost", [LOST])
_answer("lost", fails(LOST))
_answer("busy", fails(BUSY))
_answer("refused", fails(REFUSED))
_answer("broken", fails(BROKEN))
_answer("lost after a word", [(LOST,)])


@scene("llm: collected")
async def collected(notes: Notes) -> None:
    answer = await ScriptedLLM(notes, []).chat(chat_ctx=question()).collect()
    notes("text", answer.text, [call.name for call in answer.tool_calls])
    stream = ScriptedLLM(notes, []).chat(chat_ctx=question())
    notes("pieces", [piece async for piece in stream.to_str_iterable()])


def _thinking_fallback(name: str, first: list[Any]) -> None:
    @scene(f"llm fallback: {name}")
    async def play(notes: Notes) -> None:
        members = [ScriptedLLM(notes, first, " first"), ScriptedLLM(notes, [], " second")]
        adapter = llm.FallbackAdapter(
            members, attempt_timeout=1, max_retry_per_llm=0, retry_interval=0.05
        )
        adapter.on(
            "llm_availability_changed",
            lambda change: notes("availability", members.index(change.llm), change.available),
        )
        await _read(notes, adapter.chat(chat_ctx=question()))


_thinking_fallback("well", [])
_thinking_fallback("to the second", fails(LOST))


async def _play(name: str) -> list[str]:
    notes = Notes()
    try:
        await asyncio.wait_for(SCENES[name](notes), PATIENCE)
    except asyncio.TimeoutError:
        notes("never ended")
    except Exception as error:
        notes("raises", type(error).__name__)
    return list(notes.lines)  # a background probe may go on


async def main() -> dict[str, list[str]]:
    """Play all scenes side by side."""
    logging.getLogger("livekit.agents").setLevel(logging.CRITICAL)
    noted = await asyncio.gather(*(_play(name) for name in SCENES))
    return dict(zip(SCENES, noted, strict=True))


if __name__ == "__main__":
    json.dump(asyncio.run(main()), sys.stdout)
