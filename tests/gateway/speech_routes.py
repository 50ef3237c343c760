"""The routes whose sessions are WebSockets: ``/stt``, ``/tts``, ``/bargein`` and ``/eot``."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from livekit.agents.inference._protocol import bargein, stt, tts
from livekit.agents.inference._protocol.wire import ProtocolError, UnknownMessage
from livekit.agents.inference._stt_models import needs_endpointing, provider_of
from livekit.agents.utils.aio import Chan, TaskScope

from .wire import JsonDialect, Wire

if TYPE_CHECKING:
    from .server import GatewayEmulator


class SttRoute:
    """Hears what the client sends, with the emulator's recognizer."""

    def __init__(self, emulator: GatewayEmulator) -> None:
        self._emulator = emulator

    async def serve(self, wire: Wire) -> None:
        """One session."""
        created = await _first_message(wire, stt)
        if created is None:
            return
        if provider_of(created.model) == "openai" and created.sample_rate != 24000:
            await wire.send_error(400, {"message": "this model takes 24000 Hz"})
            await wire.hang_up(1000)
        outgoing: Chan[str] = Chan()
        emit = outgoing.send_nowait
        scope = TaskScope("stt route")
        recognizer = self._emulator.make_recognizer(
            lambda message: emit(stt.encode_server(message)),
            created.sample_rate,
            not needs_endpointing(created.model),
        )
        emit(stt.encode_server(stt.SessionCreated(wire.session_id)))
        scope.spawn(_relay(outgoing, wire), name="send transcripts")
        try:
            await wire.progress()
            while True:
                message = await _next(wire, stt)
                if isinstance(message, stt.InputAudio):
                    self._hear(wire, message.pcm, created.sample_rate)
                    recognizer.feed(message.pcm)
                    if wire.fault is not None:
                        await asyncio.sleep(0)  # what was heard goes out before anything breaks
                elif isinstance(message, stt.SessionFinalize):
                    recognizer.finalize()
                    emit(stt.encode_server(stt.SessionFinalized()))
                elif isinstance(message, stt.SessionClose):
                    emit(stt.encode_server(stt.SessionClosed()))
                await wire.progress()
        finally:
            scope.cancel_soon()
            await recognizer.aclose()

    def _hear(self, wire: Wire, pcm: bytes, sample_rate: int) -> None:
        wire.record.audio_seconds += len(pcm) / 2 / sample_rate
        if self._emulator.keep_audio:
            wire.record.pcm += pcm


class TtsRoute:
    """Speaks what the client sends, with the emulator's voice."""

    def __init__(self, emulator: GatewayEmulator) -> None:
        self._emulator = emulator

    async def serve(self, wire: Wire) -> None:
        """One connection, with as many segments as the client wants."""
        created = await _first_message(wire, tts)
        if created is None:
            return
        await wire.send(tts.encode_server(stt.SessionCreated(wire.session_id)))
        await wire.progress()
        sentences: Chan[str | None] = Chan()
        scope = TaskScope("tts route")
        speaking = scope.spawn(self._speak(wire, created, sentences), log_errors=False)
        receiving = scope.spawn(self._receive(wire, sentences), log_errors=False)
        try:
            await asyncio.wait({speaking, receiving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            scope.cancel_soon()
            for task in (speaking, receiving):
                task.add_done_callback(_retrieve)

    async def _receive(self, wire: Wire, sentences: Chan[str | None]) -> None:
        while True:
            message = await _next(wire, tts)
            await wire.progress()
            if isinstance(message, tts.InputTranscript):
                sentences.send_nowait(message.transcript)
            elif isinstance(message, tts.SessionFlush):
                sentences.send_nowait(None)

    async def _speak(
        self, wire: Wire, created: tts.SessionCreate, sentences: Chan[str | None]
    ) -> None:
        while True:
            sentence = await sentences.recv()
            if sentence is None:
                await wire.send(tts.encode_server(tts.Done(wire.session_id)))
                wire.segments += 1
                if wire.has("late_audio"):
                    late = tts.OutputAudio(b"\1\0" * 2400, wire.session_id)
                    await wire.send(tts.encode_server(late))
            elif not wire.has("done_without_audio"):
                await self._say(wire, created, sentence)
            await wire.progress()

    async def _say(self, wire: Wire, created: tts.SessionCreate, sentence: str) -> None:
        began = wire.record.audio_seconds
        async for pcm in self._emulator.voice.say(sentence, created.sample_rate):
            await wire.send(tts.encode_server(tts.OutputAudio(pcm, wire.session_id)))
            wire.record.audio_seconds += len(pcm) / 2 / created.sample_rate
            await wire.progress()
        if created.extra.get("add_timestamps"):
            length = wire.record.audio_seconds - began
            marks = _spread(sentence.split(), began, length)
            await wire.send(tts.encode_server(tts.OutputAlignment(marks, None, wire.session_id)))


def _retrieve(task: asyncio.Task[None]) -> None:
    """How it ended is of no interest; asyncio need not complain."""
    if not task.cancelled():
        task.exception()


def _spread(words: list[str], start: float, length: float) -> tuple[tts.Mark, ...]:
    each = length / len(words) if words else 0.0
    return tuple(
        tts.Mark(word, start + n * each, start + (n + 1) * each) for n, word in enumerate(words)
    )


class BargeinRoute:
    """Judges windows by their loudness: loud ones are interruptions."""

    async def serve(self, wire: Wire) -> None:
        """One session."""
        created = await _first_message(wire, bargein)
        if created is None:
            return
        await wire.send(bargein.encode_server(bargein.SessionCreated(0.7)))
        await wire.progress()
        while True:
            message = await _next(wire, bargein)
            if isinstance(message, bargein.AudioWindow):
                wire.record.audio_seconds += len(message.pcm) / 32000
                loud = any(byte not in (0, 255) for byte in message.pcm[1::2])
                verdict = bargein.InferenceDone(
                    message.created_at, 0.01, (0.9 if loud else 0.1,), is_interruption=loud
                )
                await wire.send(bargein.encode_server(verdict))
            elif isinstance(message, stt.SessionClose):
                await wire.send(bargein.encode_server(stt.SessionClosed()))
                await wire.hang_up(1000)
            await wire.progress()


class EotDialect(JsonDialect):
    """Binary protobuf."""

    def error(self, code: int | str, text: str, session_id: str, body: Any) -> str | bytes:
        """Something failed. The code is a number here."""
        message = _eot_message()
        message.error.message = text
        message.error.code = int(code) if str(code).lstrip("-").isdigit() else 500
        return bytes(message.SerializeToString())

    def closed(self) -> str | bytes:
        """The session is over."""
        message = _eot_message()
        message.session_closed.SetInParent()
        return bytes(message.SerializeToString())

    def unknown(self, number: int) -> str | bytes:
        """A message with a field that nobody has heard of."""
        return b"\xfa\x3f\x01" + bytes([number])


class EotRoute:
    """Says that a turn is over when the last of its audio is quiet."""

    async def serve(self, wire: Wire) -> None:
        """One session."""
        from livekit.protocol.agent_pb import agent_inference

        wire.dialect = EotDialect()
        last, sample_rate = b"", 16000
        while True:
            data = await wire.receive()
            message = agent_inference.ClientMessage()
            message.ParseFromString(data if isinstance(data, bytes) else data.encode())
            kind = message.WhichOneof("message")
            if kind == "session_create":
                wire.record.messages.append((0.0, message))
                sample_rate = message.session_create.settings.sample_rate
                await _send_eot(wire, self._session_created())
            elif kind == "input_audio":
                last = message.input_audio.audio[-2 * sample_rate // 10 :]
                wire.record.audio_seconds += message.input_audio.num_samples / sample_rate
            elif kind == "session_flush":
                last = b""
            elif kind == "inference_start":
                await self._judge(wire, message, last)
            elif kind == "session_close":
                await wire.send_raw(wire.dialect.closed())
                await wire.hang_up(1000)
            await wire.progress()

    def _session_created(self) -> Any:
        answer = _eot_message()
        created = answer.session_created
        created.default_threshold = 0.5
        created.default_thresholds["en"] = 0.4
        created.default_backchannel_threshold = 0.0
        return answer

    async def _judge(self, wire: Wire, question: Any, pcm: bytes) -> None:
        for kind in ("inference_started", "eot_prediction", "inference_stopped"):
            answer = _eot_message()
            answer.request_id = question.inference_start.request_id
            answer.client_created_at.CopyFrom(question.created_at)
            if kind == "eot_prediction":
                answer.eot_prediction.probability = 0.1 if any(pcm) else 0.9
                stats = answer.eot_prediction.inference_stats
                stats.latest_client_created_at.CopyFrom(question.created_at)
                stats.client_e2e_latency.FromMilliseconds(25)
                stats.server_e2e_latency.FromMilliseconds(20)
            else:
                getattr(answer, kind).SetInParent()
            await _send_eot(wire, answer)


def _eot_message() -> Any:
    from livekit.protocol.agent_pb import agent_inference

    message = agent_inference.ServerMessage()
    message.server_created_at.FromNanoseconds(int(time.time() * 1e9))
    return message


async def _send_eot(wire: Wire, message: Any) -> None:
    await wire.send_raw(message.SerializeToString())


async def _first_message(wire: Wire, protocol: Any) -> Any:
    message = await _next(wire, protocol)
    if isinstance(message, protocol.SessionCreate):
        return message
    await wire.send_error(400, {"message": "the first message must be session.create"})
    await wire.hang_up(1000)


async def _next(wire: Wire, protocol: Any) -> Any:
    data = await wire.receive()
    try:
        message = protocol.decode_client(data)
    except ProtocolError as error:
        await wire.send_error(400, {"message": str(error)})
        return UnknownMessage("malformed")
    if type(message).__name__ not in ("InputAudio", "AudioWindow"):
        wire.record.messages.append((asyncio.get_running_loop().time(), message))
    return message


async def _relay(outgoing: Chan[str], wire: Wire) -> None:
    async for text in outgoing:
        await wire.send(text)
