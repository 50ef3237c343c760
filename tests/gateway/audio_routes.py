"""The routes ``/audio/transcriptions`` and ``/audio/speech`` of OpenAI-compatible providers."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import Callable

from aiohttp import web

from livekit.agents.inference._protocol.stt import ServerMessage, Transcript, TranscriptKind

from .recognizers import Emit, Recognizer
from .voices import Voice

_RATE = 24000
"""Of PCM that is asked for without a rate, in Hz."""

_PATIENCE = 10.0
_SILENCE = 0.8
"""Seconds after the recording, so that the recognizer knows its end."""


async def transcribe(
    request: web.Request, make_recognizer: Callable[[Emit, int, bool], Recognizer]
) -> web.Response:
    """Hear a whole WAV file."""
    recording = b""
    form = await request.post()
    if isinstance(file := form.get("file"), web.FileField):
        recording = file.file.read()
    with wave.open(io.BytesIO(recording)) as wav:
        rate, pcm = wav.getframerate(), wav.readframes(wav.getnframes())
    said: list[str] = []
    quiet = asyncio.Event()

    def take(message: ServerMessage) -> None:
        if isinstance(message, Transcript) and message.kind is TranscriptKind.FINAL:
            said.append(message.text)
            quiet.set()

    ears = make_recognizer(take, rate, True)
    try:
        ears.feed(pcm + bytes(2 * int(_SILENCE * rate)))
        ears.finalize()
        try:
            await asyncio.wait_for(quiet.wait(), _PATIENCE)
        except asyncio.TimeoutError:
            pass
    finally:
        await ears.aclose()
    return web.json_response({"text": " ".join(said)})


async def speak(request: web.Request, voice: Voice) -> web.StreamResponse:
    """Say a text, as raw PCM at 24 kHz, or as WAV where that is asked for."""
    body = await request.json()
    wav = body.get("response_format") == "wav"
    response = web.StreamResponse(headers={"Content-Type": "audio/wav" if wav else "audio/pcm"})
    await response.prepare(request)
    if wav:
        header = io.BytesIO()
        with wave.open(header, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(_RATE)
        await response.write(header.getvalue())
    async for piece in voice.say(body["input"], _RATE):
        await response.write(piece)
    await response.write_eof()
    return response
