"""Finds the models of a plugin and builds them from what their signatures ask for."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from livekit.agents import APIConnectOptions, llm, stt, tts, vad
from livekit.agents.voice.avatar import AvatarSession

KINDS: dict[str, type] = {
    "STT": stt.STT,
    "TTS": tts.TTS,
    "LLM": llm.LLM,
    "realtime": llm.RealtimeModel,
    "VAD": vad.VAD,
    "avatar": AvatarSession,
}

IMPATIENT = APIConnectOptions(max_retry=1, retry_interval=0.1, timeout=2.0)

DUMMIES: dict[str, Any] = {
    "api_key": "dummy-key",
    "api_secret": "dummy-secret",
    "api_token": "dummy-token",
    "client_id": "dummy-client",
    "client_secret": "dummy-secret",
    "secret": "dummy-secret",
    "voice": "dummy-voice",
    "project": "dummy-project",
    "project_id": "dummy-project",
    "voice_uuid": "dummy-voice",
}
"""What any class is given for a parameter of this name, where it has one without a default."""

CREDENTIALS = ("api_key", "api_secret", "api_token", "secret", "client_id", "client_secret")
"""Given even where they have a default, which stands for a variable of the environment."""


@dataclass
class Part:
    """A class of a plugin that takes part in calls."""

    kind: str
    name: str
    """As a user of the plugin writes it, without the plugin's own name."""
    cls: type


def find_parts(plugin: str) -> list[Part]:
    """Import a plugin and find its public models, each once, under its shortest name."""
    module = importlib.import_module(f"livekit.plugins.{plugin}")
    found: dict[type, Part] = {}
    for name, cls in _classes(module, module.__name__, depth=2):
        kind = next((kind for kind, base in KINDS.items() if issubclass(cls, base)), None)
        if kind is not None and not inspect.isabstract(cls):
            known = found.get(cls)
            if known is None or len(name) < len(known.name):
                found[cls] = Part(kind, name, cls)
    order = list(KINDS)
    return sorted(found.values(), key=lambda part: (order.index(part.kind), part.name))


def _classes(module: ModuleType, root: str, depth: int) -> Iterator[tuple[str, type]]:
    prefix = module.__name__[len(root) + 1 :]
    for name in dir(module):
        value = getattr(module, name) if not name.startswith("_") else None
        if inspect.isclass(value) and value.__module__.startswith(root):
            yield (f"{prefix}.{name}" if prefix else name), value
        elif inspect.ismodule(value) and value.__name__.startswith(f"{root}.") and depth:
            yield from _classes(value, root, depth - 1)


def build(part: Part, given: dict[str, Any]) -> Any:
    """Make one, with dummy credentials and what is `given`."""
    parameters = inspect.signature(part.cls).parameters
    arguments = {name: DUMMIES[name] for name in CREDENTIALS if name in parameters}
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name in DUMMIES:
            arguments[name] = DUMMIES[name]
    if part.kind == "realtime" and "conn_options" in parameters:
        arguments["conn_options"] = IMPATIENT
    arguments.update(given)
    if part.kind == "VAD":
        return part.cls.load()  # type: ignore[attr-defined]
    return part.cls(**arguments)


def build_without_key(part: Part, given: dict[str, Any]) -> str:
    """What a plugin says to a user who has forgotten the key; nothing where it does not need one."""
    parameters = inspect.signature(part.cls).parameters
    arguments = {name: value for name, value in given.items() if name not in CREDENTIALS}
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name in DUMMIES and name not in CREDENTIALS:
            arguments[name] = DUMMIES[name]
    try:
        part.cls(**arguments)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def forget_keys() -> None:
    """Take away whatever the environment has for plugins."""
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_API_SECRET", "_API_TOKEN", "_SECRET_KEY", "_ACCESS_KEY")):
            del os.environ[name]
