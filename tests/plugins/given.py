"""What single classes are given, beyond credentials: what their signatures don't tell.

Addresses are given only to clients that dial in native code; all others are rerouted.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from provider import Provider


def _of(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"livekit.plugins.{module}"), name)


def _google_credentials() -> Any:
    from google.auth.credentials import AnonymousCredentials

    return AnonymousCredentials()


def _graph() -> Any:
    """The least agent of langgraph, with a model that needs no network."""
    from langchain_core.language_models import FakeListChatModel
    from langgraph.graph import END, START, MessagesState, StateGraph

    model = FakeListChatModel(responses=["certainly"])

    async def answer(state: Any) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return graph.compile()


Given = Callable[[Provider], dict[str, Any]]

GIVEN: dict[str, Given] = {
    "anam.AvatarSession": lambda _: {
        "persona_config": _of("anam", "PersonaConfig")(name="clerk", avatarId="dummy-avatar")
    },
    "avatario.AvatarSession": lambda _: {"avatar_id": "dummy-avatar"},
    "azure.STT": lambda at: {"speech_host": f"ws://127.0.0.1:{at.port}"},
    "azure.TTS": lambda _: {"speech_key": "dummy-key", "speech_region": "westeurope"},
    "azure.responses.LLM": lambda _: {
        "azure_endpoint": "https://dummy.openai.azure.com",
        "api_version": "2025-03-01-preview",
    },
    "baseten.STT": lambda _: {"model_id": "dummy"},
    "baseten.TTS": lambda _: {"model_endpoint": "https://model-dummy.api.baseten.co/predict"},
    "bithuman.AvatarSession": lambda _: {"avatar_id": "dummy-avatar"},
    "boson_avatar.AvatarSession": lambda _: {
        "avatar_id": "dummy-avatar",
        "api_url": "https://api.boson.example",
    },
    "clova.STT": lambda _: {"invoke_url": "https://clovaspeech-gw.ncloud.com/external/v1/1/dummy"},
    "did.AvatarSession": lambda _: {"agent_id": "dummy-agent"},
    "google.STT": lambda _: {"credentials": _google_credentials(), "project": "dummy-project"},
    "google.TTS": lambda _: {"credentials": _google_credentials()},
    "google.AIPlatformLLM": lambda _: {
        "endpoint_url": "https://dummy.us-central1.aiplatform.googleapis.com",
        "endpoint_id": "1",
        "access_token": "dummy-token",
    },
    "keyframe.AvatarSession": lambda _: {"persona_id": "dummy-persona"},
    "langchain.LLMAdapter": lambda _: {"graph": _graph()},
    "microsoft_ai.STT": lambda _: {
        "vad": None,
        "url": "wss://dummy.services.ai.azure.com/transcribe",
        "model": "dummy-model",
    },
    "microsoft_ai.TTS": lambda _: {
        "url": "https://dummy.services.ai.azure.com/speak",
        "model": "dummy-model",
        "voice": "dummy-voice",
        "sample_rate": 24000,
    },
    "runway.AvatarSession": lambda _: {"avatar_id": "dummy-avatar"},
    "simli.AvatarSession": lambda _: {
        "simli_config": _of("simli", "SimliConfig")(api_key="dummy-key", face_id="dummy-face")
    },
    "slng.STT": lambda _: {"model": "deepgram/nova:3"},
    "slng.TTS": lambda _: {"model": "deepgram/aura:2", "voice": "dummy-voice"},
    "spatialreal.AvatarSession": lambda _: {"app_id": "dummy-app", "avatar_id": "dummy-avatar"},
    "spatius.AvatarSession": lambda _: {"app_id": "dummy-app", "avatar_id": "dummy-avatar"},
    "synthesia.AvatarSession": lambda _: {
        "avatar_config": _of("synthesia", "AvatarConfig")(avatar_ids=["dummy-avatar"])
    },
    "tavus.AvatarSession": lambda _: {"face_id": "dummy-face", "pal_id": "dummy-pal"},
    "thunderphone.RealtimeModel": lambda _: {"api_key": "sk_live_dummy"},
}

VARIABLES = {
    "rtzr": {"RTZR_CLIENT_ID": "dummy-client", "RTZR_CLIENT_SECRET": "dummy-secret"},
    "spitch": {"SPITCH_API_KEY": "dummy-key"},
}
"""For plugins whose classes take no key: what their documentation has users set."""
