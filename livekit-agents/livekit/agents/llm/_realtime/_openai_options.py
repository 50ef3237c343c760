"""Options of OpenAI's realtime models, and the form they have in the protocol. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from ...types import APIConnectOptions
from ..tool_context import ToolChoice, ToolContext
from ._input_audio import SAMPLE_RATE
from .openai_utils import (
    AS_PROVIDED,
    DEFAULT_MAX_RESPONSE_OUTPUT_TOKENS,
    Event,
    to_oai_tool_choice,
)

OPENAI_BASE_URL = "https://api.openai.com/v1"


@dataclass
class _Options:
    model: str
    voice: str | None
    modalities: list[Literal["text", "audio"]]
    tool_choice: ToolChoice | None
    transcription: Event | None
    noise_reduction: Event | None
    turn_detection: Event | None
    speed: float | None
    tracing: Any
    truncation: Any
    reasoning: Any
    api_key: str | None
    base_url: str
    is_azure: bool
    azure_deployment: str | None
    entra_token: str | None
    api_version: str | None
    max_session_duration: float | None
    conn_options: APIConnectOptions

    @property
    def legacy(self) -> bool:
        """Whether the server speaks the protocol's first version."""
        return self.is_azure and self.api_version is not None


def process_base_url(
    url: str,
    model: str,
    is_azure: bool = False,
    azure_deployment: str | None = None,
    api_version: str | None = None,
) -> str:
    """The WebSocket URL that belongs to the base URL of an API."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    path = parts.path.rstrip("/")
    query = dict(parse_qsl(parts.query))
    if is_azure:
        if path in ("", "/openai"):
            path = "/openai/realtime" if api_version else "/openai/v1/realtime"
        if api_version:
            query.setdefault("api-version", api_version)
            query.setdefault("deployment", azure_deployment or model)
        else:
            query.setdefault("model", azure_deployment or model)
    else:
        if path in ("", "/v1", "/openai", "/openai/v1"):
            path += "/realtime"
        query.setdefault("model", model)
    return urlunsplit((scheme, parts.netloc, path, urlencode(query), ""))


def connection_headers(opts: _Options) -> dict[str, str]:
    """Who asks, in the way that OpenAI or Azure want to be told."""
    headers = {"User-Agent": "LiveKit Agents"}
    if opts.is_azure and not opts.entra_token:
        headers["api-key"] = opts.api_key or ""
    else:
        headers["Authorization"] = f"Bearer {opts.entra_token or opts.api_key}"
    return headers


def session_config(
    opts: _Options,
    *,
    turn_detection: Event | None,
    tool_choice: ToolChoice | None,
    instructions: str | None,
    tools: ToolContext,
) -> Event:
    """All options of a session."""
    audio_out: Event = {"format": _FORMAT}
    if opts.voice is not None:
        audio_out["voice"] = opts.voice
    if opts.speed is not None:
        audio_out["speed"] = opts.speed
    audio_in: Event = {
        "format": _FORMAT,
        "turn_detection": turn_detection,
        "noise_reduction": opts.noise_reduction,
    }
    if opts.transcription != AS_PROVIDED:
        audio_in["transcription"] = opts.transcription
    session: Event = {
        "type": "realtime",
        "model": opts.model,
        "output_modalities": ["audio"] if "audio" in opts.modalities else ["text"],
        "audio": {"input": audio_in, "output": audio_out},
        "max_output_tokens": DEFAULT_MAX_RESPONSE_OUTPUT_TOKENS,
        "tool_choice": to_oai_tool_choice(tool_choice),
    }
    extras = {name: getattr(opts, name) for name in ("tracing", "truncation", "reasoning")}
    session.update({name: plain(value) for name, value in extras.items() if value is not None})
    if instructions is not None:
        session["instructions"] = instructions
    if tools.function_tools:
        session["tools"] = tool_schemas(tools)
    return session


_FORMAT: Event = {"type": "audio/pcm", "rate": SAMPLE_RATE}


def plain(value: Any) -> Any:
    """An option as JSON: pydantic objects become dicts."""
    dump = getattr(value, "model_dump", None)
    return value if dump is None else dump(by_alias=True, exclude_unset=True)


def tool_schemas(tools: ToolContext) -> list[Event]:
    """The function tools in the form of the protocol."""
    schemas: list[Event] = tools.parse_function_tools("openai.responses", strict=False)
    return schemas


def to_legacy(session: Event) -> Event:
    """Session options in the flat form of the protocol's first version."""
    flat = {name: session[name] for name in _SAME_IN_BOTH if name in session}
    audio = session.get("audio", {})
    given, made = audio.get("input", {}), audio.get("output", {})
    if "output_modalities" in session:
        spoken = "audio" in session["output_modalities"]
        flat["modalities"] = ["text", "audio"] if spoken else ["text"]
    if "max_output_tokens" in session:
        flat["max_response_output_tokens"] = session["max_output_tokens"]
    for source, target in (
        ("turn_detection", "turn_detection"),
        ("transcription", "input_audio_transcription"),
        ("noise_reduction", "input_audio_noise_reduction"),
    ):
        if source in given:
            flat[target] = given[source]
    if "format" in given:
        flat["input_audio_format"] = "pcm16"
    if "format" in made:
        flat["output_audio_format"] = "pcm16"
    flat.update({name: made[name] for name in ("voice", "speed") if name in made})
    return flat


_SAME_IN_BOTH = ("instructions", "tools", "tool_choice", "tracing")
