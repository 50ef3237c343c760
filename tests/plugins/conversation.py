"""A spoken conversation through published plugins: openai hears and speaks, silero finds speech, and
whichever plugin is named thinks. Prints what came of it, as one JSON object.

    python tests/plugins/conversation.py groq

The provider is the gateway emulator, which pocketsphinx and piper hear and speak for. The caller
asks, interrupts, books a table, and hangs up in the middle of a slow tool.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import io
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "tests")]

import offline_call  # noqa: E402
from gateway import GatewayEmulator  # noqa: E402
from gateway.recognizers import PocketSphinxRecognizer  # noqa: E402
from gateway.voices import PiperVoice  # noqa: E402
from phone.callers import ScriptedCaller  # noqa: E402
from phone.display import Display  # noqa: E402
from phone.gateway import _answer_by  # noqa: E402
from receptionist import receptionist_rules  # noqa: E402

from livekit.agents import AgentSession, inference, llm  # noqa: E402
from livekit.agents.llm import FunctionCallOutput  # noqa: E402
from livekit.agents.utils import http_context  # noqa: E402

RELEASED_WITHIN = 5.5
"""Seconds after which the HTTP clients of the plugins have dropped their idle connections."""


def make_llm(plugin: str, url: str, key: str) -> llm.LLM:
    """The plugin's LLM, at another address."""
    cls: Any = importlib.import_module(f"livekit.plugins.{plugin}").LLM
    accepted = inspect.signature(cls).parameters
    named = {"model": "dummy"} if "model" in accepted else {}
    model: llm.LLM = cls(base_url=url, api_key=key, **named)
    return model


async def converse(plugin: str) -> dict[str, Any]:
    """One call; what was seen of it."""
    from livekit.plugins import pocketsphinx

    ears = pocketsphinx.STT()
    ears.prewarm()
    emulator = GatewayEmulator(
        make_recognizer=lambda emit, rate, _: PocketSphinxRecognizer(emit, rate, ears),
        voice=PiperVoice(),
        keep_audio=False,
    )
    emulator.completions.answer = _answer_by(receptionist_rules())
    async with http_context.open(), emulator:
        seen = await _call(plugin, emulator)
        # the STT of openai leaves its HTTP client, with an idle connection, to garbage collection
        gc.collect()
        deadline = time.monotonic() + RELEASED_WITHIN
        while emulator.open_sockets and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return {**seen, "connections": emulator.open_sockets}


async def _call(plugin: str, emulator: GatewayEmulator) -> dict[str, Any]:
    from livekit.plugins import openai, silero

    url = emulator.base_url
    key = inference._utils.create_access_token(*next(iter(emulator.keys.items())))
    models = [
        openai.STT(base_url=url, api_key=key, model="whisper-1"),
        openai.TTS(base_url=url, api_key=key, model="tts-1", response_format="pcm"),
        make_llm(plugin, url, key),
    ]
    session: AgentSession[None] = AgentSession(
        vad=silero.VAD.load(), stt=models[0], tts=models[1], llm=models[2]
    )
    closes: list[float] = []
    session.on("close", lambda _: closes.append(time.monotonic()))
    call = offline_call.Call(Display(io.StringIO()), speed=1.0, session=session)
    await call.run(ScriptedCaller(offline_call.synthesise, call))
    report = call.log.report
    assert report is not None and report.finished_at is not None
    for model in models:
        await model.aclose()
    replies = [m for m in session.history.messages() if m.role == "assistant"]
    return {
        "heard": [entry.text for entry in call.log.entries if entry.kind == "heard"],
        "tools": [entry.text for entry in call.log.entries if entry.kind == "tool"],
        "interrupted": sum(m.interrupted for m in replies),
        "closes": len(closes),
        "seconds": report.finished_at - report.requested_at,
        "survivors": [survivor.name for survivor in report.survivors],
        "cancelled": [
            item.name
            for item in session.history.items
            if isinstance(item, FunctionCallOutput) and item.is_error
        ],
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    print(json.dumps(asyncio.run(converse(sys.argv[1]))), flush=True)
    os._exit(0)
