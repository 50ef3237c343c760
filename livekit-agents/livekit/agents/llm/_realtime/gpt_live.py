"""GPT-Live, a duplex model of OpenAI: its options. Its sessions are not included yet."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import aiohttp

from ...types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, APIConnectOptions, NotGivenOr
from ...utils import is_given
from .._audio_gates import AudioGate, FixedGate
from ..duplex import DuplexCapabilities, DuplexModel, DuplexSession
from ..realtime import RealtimeError
from .openai_utils import DEFAULT_MAX_SESSION_DURATION

SAMPLE_RATE = 24000
NUM_CHANNELS = 1
DEFAULT_MODEL = "gpt-live-1"
DEFAULT_VOICE = "marin"
DEFAULT_BACKEND_MODEL = "gpt-realtime"
OPENAI_BASE_URL = "https://api.openai.com/v1"
GPTLiveVoices = str
Role = Literal["system", "user", "assistant"]
lk_oai_debug = int(os.getenv("LK_OPENAI_DEBUG", "0"))


class ResponsesDelegationOptions(TypedDict, total=False):
    """How the model that thinks behind the one that speaks is run."""

    model: str
    instructions: str
    max_output_tokens: int
    parallel_tool_calls: bool
    reasoning: dict[str, Any]
    text: dict[str, Any]
    tool_choice: Any


@dataclass
class GPTLiveDelegation:
    """The model hands a request over to the client."""

    id: str
    pending_transcript: str


GPTLiveSession = DuplexSession[
    Literal["openai_server_event_received", "openai_client_event_queued", "delegation_created"]
]


@dataclass
class _Options:
    model: str
    voice: str
    delegation: Literal["responses", "client"]
    responses_options: ResponsesDelegationOptions
    service_tier: str | None
    api_key: str
    base_url: str
    max_session_duration: float | None
    conn_options: APIConnectOptions


class GPTLiveModel(DuplexModel):
    """GPT-Live. Can be configured; `session` says that sessions are not included yet."""

    def __init__(
        self,
        *,
        model: str = DEFAULT_MODEL,
        voice: str = DEFAULT_VOICE,
        delegation: Literal["responses", "client"] = "responses",
        responses_options: NotGivenOr[ResponsesDelegationOptions] = NOT_GIVEN,
        service_tier: NotGivenOr[str] = NOT_GIVEN,
        api_key: str | None = None,
        base_url: NotGivenOr[str] = NOT_GIVEN,
        http_session: aiohttp.ClientSession | None = None,
        max_session_duration: NotGivenOr[float | None] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        azure_deployment: str | None = None,
        entra_token: str | None = None,
    ) -> None:
        """Configure the model.

        Raises:
            ValueError: There is no API key.
        """
        super().__init__(
            capabilities=DuplexCapabilities(
                user_transcription=True,
                auto_tool_reply_generation=True,
                mutable_chat_context=True,
                mutable_tools=True,
            )
        )
        key = api_key or entra_token or os.getenv("OPENAI_API_KEY")
        if not key:
            raise ValueError("an OpenAI API key is needed: pass api_key or set OPENAI_API_KEY")
        self._opts = _Options(
            model=azure_deployment or model,
            voice=voice,
            delegation=delegation,
            responses_options=responses_options if is_given(responses_options) else {},
            service_tier=service_tier if is_given(service_tier) else None,
            api_key=key,
            base_url=base_url
            if is_given(base_url)
            else os.getenv("OPENAI_BASE_URL", OPENAI_BASE_URL),
            max_session_duration=max_session_duration
            if is_given(max_session_duration)
            else DEFAULT_MAX_SESSION_DURATION,
            conn_options=conn_options,
        )
        self._http_session = http_session

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._opts.model

    @property
    def provider(self) -> str:
        """Who serves it."""
        return "openai"

    def audio_gate(self) -> AudioGate | None:
        """A gate at the model's known level of silence."""
        return FixedGate(0.0006, min_silence_duration=0.8)

    def session(self) -> GPTLiveSession:
        """Not included yet.

        Raises:
            RealtimeError: Always.
        """
        raise RealtimeError(
            "sessions with GPT-Live are not included in this release yet: use "
            "openai.realtime.RealtimeModel"
        )

    async def aclose(self) -> None:
        """Nothing is held: an HTTP session that was given stays open."""
