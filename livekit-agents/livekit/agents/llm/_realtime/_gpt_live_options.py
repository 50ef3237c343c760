"""Options of GPT-Live, and the form they have in the protocol. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict
from urllib.parse import urlsplit, urlunsplit

from ...types import APIConnectOptions
from ..tool_context import ToolChoice, ToolContext
from ._openai_options import plain, tool_schemas
from .gpt_live_codec import PCM
from .gpt_live_types import InputItem
from .openai_utils import Event, to_oai_tool_choice


class ResponsesDelegationOptions(TypedDict, total=False):
    """How the model that thinks behind the one that speaks is run. See the Responses API."""

    model: str
    instructions: str
    max_output_tokens: int
    parallel_tool_calls: bool
    reasoning: Any
    text: Any
    tool_choice: Any


@dataclass
class GPTLiveDelegation:
    """The model hands a request over to the client."""

    id: str
    """To be passed with what is said about it."""
    pending_transcript: str
    """What the user wants, in words."""


@dataclass
class _Options:
    model: str
    voice: str | None
    delegation: Literal["responses", "client"]
    responses_options: ResponsesDelegationOptions
    service_tier: str | None
    api_key: str
    base_url: str
    is_azure: bool
    entra_token: str | None
    max_session_duration: float | None
    conn_options: APIConnectOptions


def check_delegation(delegation: str, options: Any) -> None:
    """Refuse what the protocol has no words for.

    Raises:
        ValueError: An option is unknown, or is none of this kind of delegation.
    """
    if delegation not in ("responses", "client"):
        raise ValueError(f"delegation must be 'responses' or 'client', got {delegation!r}")
    unknown = set(options) - set(ResponsesDelegationOptions.__annotations__)
    if unknown:
        raise ValueError(f"unknown responses_options: {', '.join(sorted(unknown))}")
    if options and delegation == "client":
        raise ValueError("responses_options are for delegation='responses'")


def live_url(base_url: str) -> str:
    """The WebSocket URL that belongs to the base URL of an API."""
    parts = urlsplit(base_url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    path = parts.path.rstrip("/")
    if not path.endswith("/live/sessions"):
        path += "/live/sessions"
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


def url_and_headers(opts: _Options) -> tuple[str, dict[str, str]]:
    """Where to dial, and who asks."""
    base_url = opts.base_url
    if opts.is_azure and urlsplit(base_url).path.rstrip("/") in ("", "/openai"):
        base_url = base_url.rstrip("/").removesuffix("/openai") + "/openai/v1"
    headers = {"User-Agent": "LiveKit Agents"}
    if opts.is_azure and not opts.entra_token:
        headers["api-key"] = opts.api_key
    else:
        headers["Authorization"] = f"Bearer {opts.entra_token or opts.api_key}"
    if opts.service_tier is not None:
        headers["OpenAI-Service-Tier"] = opts.service_tier
    return live_url(base_url), headers


def session_config(
    opts: _Options,
    *,
    instructions: str,
    history: list[InputItem],
    tools: ToolContext,
    tool_choice: ToolChoice | None,
) -> Event:
    """All options of a session."""
    audio_out: Event = {"format": PCM}
    if opts.voice is not None:
        audio_out["voice"] = opts.voice
    session: Event = {
        "model": opts.model,
        "audio": {"input": {"format": PCM}, "output": audio_out},
        "delegation": delegation_config(opts, tools, tool_choice),
    }
    if instructions:
        session["instructions"] = instructions
    if history:
        session["input"] = history
    return session


def delegation_config(opts: _Options, tools: ToolContext, tool_choice: ToolChoice | None) -> Event:
    """Who thinks, and how."""
    if opts.delegation == "client":
        return {"target": "client"}
    responses = {name: plain(value) for name, value in opts.responses_options.items()}
    if tools.function_tools:
        responses["tools"] = tool_schemas(tools)
    if tool_choice is not None:
        responses["tool_choice"] = to_oai_tool_choice(tool_choice)
    return {"target": "responses", "responses": responses}
