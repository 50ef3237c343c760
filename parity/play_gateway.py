"""What the clients of the inference gateway send: addresses, claims, headers, messages."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import sys
from typing import Any

import aiohttp
from aiohttp import web
from livekit import rtc

from livekit.agents import APIConnectOptions, function_tool, inference, llm

ONCE = APIConnectOptions(max_retry=0, timeout=3)

OWN_HEADERS = ("authorization", "content-type")
"""Of a request, besides those that begin with x-livekit."""

MOMENTS = ("exp", "nbf", "iat")

RECOGNIZERS: list[tuple[str, dict[str, Any]]] = [
    ("deepgram/nova-3", {}),
    ("deepgram/nova-3:multi", {"extra_kwargs": {"keyterm": ["a", "b"]}}),
    ("assemblyai/universal-streaming:en", {}),
    ("cartesia/ink-whisper", {"sample_rate": 8000}),
    ("auto", {"language": "multi"}),
    (
        "deepgram/nova-3",
        {
            "fallback": [
                "assemblyai/universal-streaming",
                {"model": "cartesia/ink-whisper", "extra_kwargs": {"x": 1}},
            ]
        },
    ),
    ("unknown", {}),
]

VOICES: list[tuple[str, dict[str, Any]]] = [
    ("cartesia/sonic-2:voice-1", {}),
    ("elevenlabs/eleven_flash_v2_5", {"voice": "v", "language": "en", "sample_rate": 24000}),
    ("cartesia/sonic-3", {"extra_kwargs": {"speed": "fast"}}),
    ("inworld/inworld-tts-1:Ashley", {"fallback": ["cartesia/sonic-2:v"]}),
    ("rime/arcana", {}),
]


@function_tool
async def look_up(name: str, times: int = 1) -> None:
    """Look something up."""


CHOSEN: Any = {"type": "function", "function": {"name": "look_up"}}

MODELS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("openai/gpt-4.1-mini", {}, {}),
    ("openai/gpt-4.1-mini", {}, {"tools": [look_up], "tool_choice": "required"}),
    ("openai/gpt-4.1", {}, {"tools": [look_up], "tool_choice": CHOSEN}),
    ("openai/gpt-4.1", {}, {"tools": [look_up], "parallel_tool_calls": False}),
    ("openai/gpt-5", {"extra_kwargs": {"temperature": 0.2, "max_completion_tokens": 9}}, {}),
    ("google/gemini-2.5-flash", {"provider": "google"}, {"extra_kwargs": {"top_p": 0.5}}),
    ("openai/gpt-4o", {"inference_class": "priority"}, {}),
]


class Gateway:
    """Answers shortly, and notes what it is sent."""

    def __init__(self) -> None:
        self.noted: dict[str, list[str]] = {}
        self.scene = ""

    def note(self, what: str) -> None:
        """Note for the scene that plays."""
        self.noted.setdefault(self.scene, []).append(what)

    async def start(self) -> tuple[web.AppRunner, int]:
        """Listen on a free port."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._socket)
        app.router.add_post("/{path:.*}", self._post)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, runner.addresses[0][1]

    def _note_request(self, request: web.Request) -> None:
        headers = {
            name.lower(): value
            for name, value in request.headers.items()
            if name.lower() in OWN_HEADERS or name.lower().startswith("x-livekit")
        }
        token = headers.pop("authorization", "").removeprefix("Bearer ")
        self.note(f"{request.method} {request.path_qs} {json.dumps(headers, sort_keys=True)}")
        self.note(f"claims {json.dumps(_claims(token), sort_keys=True)}")

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        self._note_request(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        heard = 0
        async for frame in socket:
            message = json.loads(frame.data)
            if message["type"] == "input_audio":
                heard += len(base64.b64decode(message["audio"]))
                continue
            if message["type"] == "session.finalize":
                self.note(f"audio of {heard} bytes")
            self.note(f"message {json.dumps(message, sort_keys=True)}")
            for answer in _answers(message["type"]):
                await socket.send_json(answer)
        return socket

    async def _post(self, request: web.Request) -> web.StreamResponse:
        self._note_request(request)
        self.note(f"body {json.dumps(await request.json(), sort_keys=True)}")
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for choices, usage in (
            ([{"index": 0, "delta": {"role": "assistant", "content": "hello"}}], None),
            ([{"index": 0, "delta": {}, "finish_reason": "stop"}], None),
            ([], {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
        ):
            chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            data = json.dumps({**chunk, "choices": choices, "usage": usage})
            await response.write(f"data: {data}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


def _claims(token: str) -> dict[str, Any]:
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return {key: "a moment" if key in MOMENTS else value for key, value in claims.items()}


def _answers(kind: str) -> list[dict[str, Any]]:
    session = {"session_id": "s"}
    if kind == "session.create":
        return [{"type": "session.created", **session}]
    if kind == "session.flush":
        audio = base64.b64encode(bytes(4800)).decode()
        return [{"type": "output_audio", "audio": audio, **session}, {"type": "done", **session}]
    if kind == "session.finalize":
        words = {"transcript": "hello", "start": 0, "duration": 1, "confidence": 0.9, "words": []}
        return [
            {"type": "final_transcript", "language": "en", **words, **session},
            {"type": "session.finalized"},
            {"type": "session.closed"},
        ]
    return []


async def _listen(gateway: Gateway, model: str, http: aiohttp.ClientSession, **kw: Any) -> None:
    ears = inference.STT(model, http_session=http, **kw)
    rate = kw.get("sample_rate", 16000)
    stream = ears.stream(conn_options=ONCE)
    for _ in range(30):
        stream.push_frame(rtc.AudioFrame(bytes(2 * rate // 50), rate, 1, rate // 50))
    stream.end_input()
    async for event in stream:
        gateway.note(f"event {event.type.value} {[said.text for said in event.alternatives]}")
    await stream.aclose()
    await ears.aclose()


async def _speak(gateway: Gateway, model: str, http: aiohttp.ClientSession, **kw: Any) -> None:
    voice = inference.TTS(model, http_session=http, **kw)
    stream = voice.stream(conn_options=ONCE)
    stream.push_text("Hello there. How are you?")
    stream.end_input()
    samples = 0
    async for audio in stream:
        samples += audio.frame.samples_per_channel
    gateway.note(f"samples {samples}")
    await stream.aclose()
    await voice.aclose()


async def _think(gateway: Gateway, model: str, options: dict[str, Any], **request: Any) -> None:
    context = llm.ChatContext.empty()
    context.add_message(role="system", content="Be kind.")
    context.add_message(role="user", content="hello?")
    answer = (
        await inference.LLM(model, **options)
        .chat(chat_ctx=context, conn_options=ONCE, **request)
        .collect()
    )
    gateway.note(f"answer {answer.text} {answer.usage.total_tokens if answer.usage else None}")


async def main() -> dict[str, list[str]]:
    """Use all models, one after the other."""
    logging.getLogger("livekit.agents").setLevel(logging.CRITICAL)
    gateway = Gateway()
    runner, port = await gateway.start()
    os.environ["LIVEKIT_INFERENCE_URL"] = f"http://127.0.0.1:{port}/v1"
    os.environ["LIVEKIT_API_KEY"], os.environ["LIVEKIT_API_SECRET"] = "key", "secret" * 8
    async with aiohttp.ClientSession() as http:
        for model, options in RECOGNIZERS:
            gateway.scene = f"stt {model} {options}"
            await _listen(gateway, model, http, **options)
        for model, options in VOICES:
            gateway.scene = f"tts {model} {options}"
            await _speak(gateway, model, http, **options)
        for model, options, request in MODELS:
            gateway.scene = f"llm {model} {options} {sorted(request)}"
            await _think(gateway, model, options, **request)
    await runner.cleanup()
    return gateway.noted


if __name__ == "__main__":
    json.dump(asyncio.run(main()), sys.stdout)
