"""GPT-Live, a model of OpenAI that listens and speaks at the same time."""

from __future__ import annotations

import os
import weakref
from typing import Literal

import aiohttp

from ..._websocket import SessionSource
from ...types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, APIConnectOptions, NotGivenOr
from ...utils import is_given
from .._audio_gates import AudioGate, FixedGate
from ..duplex import DuplexCapabilities, DuplexModel
from ._gpt_live_options import (
    GPTLiveDelegation,
    ResponsesDelegationOptions,
    _Options,
    check_delegation,
)
from ._gpt_live_session import GPTLiveSession
from ._input_audio import NUM_CHANNELS, SAMPLE_RATE
from ._openai_options import OPENAI_BASE_URL
from ._openai_session import lk_oai_debug
from .openai_utils import DEFAULT_MAX_SESSION_DURATION

__all__ = [
    "DEFAULT_BACKEND_MODEL",
    "DEFAULT_MODEL",
    "DEFAULT_VOICE",
    "NUM_CHANNELS",
    "OPENAI_BASE_URL",
    "SAMPLE_RATE",
    "GPTLiveDelegation",
    "GPTLiveModel",
    "GPTLiveSession",
    "GPTLiveVoices",
    "ResponsesDelegationOptions",
    "Role",
    "lk_oai_debug",
]

DEFAULT_MODEL = "gpt-live-1"
DEFAULT_VOICE = "marin"
DEFAULT_BACKEND_MODEL = "gpt-realtime"
GPTLiveVoices = str
Role = Literal["system", "user", "assistant"]

_SILENCE = 0.0006
"""Loudness (RMS, 1.0 is full scale) of the model's silence."""


class GPTLiveModel(DuplexModel):
    """GPT-Live. Another model thinks for it: one of the Responses API, or the client."""

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

        Args:
            model: Its name.
            voice: Who speaks.
            delegation: Who thinks: a model of the Responses API, which may call tools, or the
                client, which gets `delegation_created` events.
            responses_options: Of the model that thinks.
            service_tier: See the provider.
            api_key: By default `OPENAI_API_KEY`.
            base_url: Where it is served; by default `OPENAI_BASE_URL`, else OpenAI itself.
            http_session: What to connect with; it is yours to close.
            max_session_duration: Seconds after which a session is replaced, at the next pause; None
                for never. 20 minutes by default.
            conn_options: Limits of connecting and of trying again.
            azure_deployment: Name of a deployment on Azure, which `base_url` points to.
            entra_token: For Azure, in place of a key.

        Raises:
            ValueError: There is no API key, or an option is unknown.
        """
        options = dict(responses_options) if is_given(responses_options) else {}
        check_delegation(delegation, options)
        super().__init__(
            capabilities=DuplexCapabilities(
                user_transcription=True,
                auto_tool_reply_generation=True,
                mutable_chat_context=True,
                mutable_tools=delegation == "responses",
            )
        )
        is_azure = azure_deployment is not None or entra_token is not None
        key = api_key or (os.getenv("AZURE_OPENAI_API_KEY") if is_azure else None)
        key = key or os.getenv("OPENAI_API_KEY")
        if not key and not entra_token:
            raise ValueError("an OpenAI API key is needed: pass api_key or set OPENAI_API_KEY")
        endpoint = os.getenv("AZURE_OPENAI_ENDPOINT") if is_azure else None
        url = endpoint or os.getenv("OPENAI_BASE_URL") or OPENAI_BASE_URL
        self._opts = _Options(
            model=azure_deployment or model,
            voice=voice,
            delegation=delegation,
            responses_options=ResponsesDelegationOptions(**options),  # type: ignore[typeddict-item]
            service_tier=service_tier if is_given(service_tier) else None,
            api_key=key or "",
            base_url=(base_url or url) if is_given(base_url) else url,
            is_azure=is_azure,
            entra_token=entra_token,
            max_session_duration=max_session_duration
            if is_given(max_session_duration)
            else DEFAULT_MAX_SESSION_DURATION,
            conn_options=conn_options,
        )
        self._provider_label = "azure" if is_azure else "openai"
        self._sessions: weakref.WeakSet[GPTLiveSession] = weakref.WeakSet()
        self._own_session: aiohttp.ClientSession | None = None
        self._source = SessionSource(http_session, self._make_session)

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._opts.model

    @property
    def provider(self) -> str:
        """Who serves it."""
        return self._provider_label

    def audio_gate(self) -> AudioGate | None:
        """A gate at the model's known level of silence."""
        return FixedGate(_SILENCE, min_silence_duration=0.8)

    def session(self) -> GPTLiveSession:
        """Start a conversation; connects in the background."""
        session = GPTLiveSession(self)
        self._sessions.add(session)
        return session

    async def aclose(self) -> None:
        """Close the HTTP session, if it was made here. Conversations are closed by their owners."""
        own, self._own_session = self._own_session, None
        if own is not None:
            await own.close()

    def _ensure_http_session(self) -> aiohttp.ClientSession:
        return self._source.get()

    def _make_session(self) -> aiohttp.ClientSession:
        self._own_session = aiohttp.ClientSession()
        return self._own_session
