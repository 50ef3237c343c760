"""GPT-Live through the gateway."""

from __future__ import annotations

from typing import Any, Literal, TypedDict
from urllib.parse import urlencode

import aiohttp

from ...llm._realtime._gpt_live_options import live_url
from ...llm._realtime.gpt_live import (
    DEFAULT_VOICE,
    GPTLiveModel as _GPTLiveModel,
    GPTLiveSession as _GPTLiveSession,
)
from ...types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, APIConnectOptions, NotGivenOr
from ...utils import is_given
from .._realtime_models import DuplexModels
from .._utils import HEADER_INFERENCE_PROVIDER, Gateway
from .openai import check_model, is_final

__all__ = ["DuplexModel", "DuplexSession", "OpenAIDuplexOptions", "OpenAIResponsesOptions"]


class OpenAIResponsesOptions(TypedDict, total=False):
    """How the model that thinks behind the one that speaks is run. See OpenAI's Responses API."""

    model: str
    instructions: str
    max_output_tokens: int
    parallel_tool_calls: bool
    reasoning: Any
    text: Any
    tool_choice: Any


class OpenAIDuplexOptions(TypedDict, total=False):
    """Options of OpenAI's duplex models."""

    delegation: Literal["responses", "client"]
    """Who thinks: a model of the Responses API, or the client."""
    responses_options: OpenAIResponsesOptions


class DuplexModel(_GPTLiveModel):
    """A duplex model behind the gateway."""

    def __init__(
        self,
        model: DuplexModels | str,
        *,
        provider: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        api_secret: str | None = None,
        voice: NotGivenOr[str] = NOT_GIVEN,
        extra_kwargs: NotGivenOr[OpenAIDuplexOptions] = NOT_GIVEN,
        http_session: aiohttp.ClientSession | None = None,
        max_session_duration: NotGivenOr[float | None] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> None:
        """Configure the model.

        Args:
            model: Provider and model, such as ``"openai/gpt-live-1"``.
            provider: Who is to serve the model, where the gateway has a choice.
            base_url: The gateway; by default `LIVEKIT_INFERENCE_URL`, else the public one.
            api_key: By default `LIVEKIT_INFERENCE_API_KEY` or `LIVEKIT_API_KEY`.
            api_secret: By default `LIVEKIT_INFERENCE_API_SECRET` or `LIVEKIT_API_SECRET`.
            voice: Who speaks.
            extra_kwargs: Options of the provider.
            http_session: What to connect with; it is yours to close.
            max_session_duration: Seconds after which a session is replaced, at the next pause; None
                for never. 20 minutes by default.
            conn_options: Limits of connecting and of trying again.

        Raises:
            ValueError: The model names no provider, credentials are missing, or an option is
                unknown.
        """
        check_model(model)
        self._gateway = Gateway.resolve(
            base_url=base_url or NOT_GIVEN,
            api_key=api_key or NOT_GIVEN,
            api_secret=api_secret or NOT_GIVEN,
        )
        options: dict[str, Any] = dict(extra_kwargs) if is_given(extra_kwargs) else {}
        unknown = set(options) - set(OpenAIDuplexOptions.__annotations__)
        if unknown:
            raise ValueError(f"unknown extra_kwargs: {', '.join(sorted(unknown))}")
        super().__init__(
            model=model,
            voice=voice if is_given(voice) else DEFAULT_VOICE,
            api_key=self._gateway.api_key,
            base_url=self._gateway.base_url,
            http_session=http_session,
            max_session_duration=max_session_duration,
            conn_options=conn_options,
            **options,
        )
        self._served_by = provider
        self._provider_label = "livekit"

    @classmethod
    def from_model_string(cls, model: str) -> DuplexModel:
        """The model with default options.

        Raises:
            ValueError: The string names no provider, or credentials are missing.
        """
        return cls(model)

    @property
    def provider(self) -> str:
        """`"livekit"`."""
        return self._provider_label

    def session(self) -> DuplexSession:
        """Start a conversation; connects in the background."""
        session = DuplexSession(self)
        self._sessions.add(session)
        return session


class DuplexSession(_GPTLiveSession):
    """A conversation with a duplex model behind the gateway. Each dial has a token of its own."""

    def __init__(self, duplex_model: DuplexModel) -> None:
        """Start the conversation.

        Args:
            duplex_model: Whose options apply.
        """
        self._hosted = duplex_model
        super().__init__(duplex_model)

    def _create_ws_url_and_headers(self) -> tuple[str, dict[str, str]]:
        model = self._hosted
        headers = model._gateway.headers()
        if model._served_by:
            headers[HEADER_INFERENCE_PROVIDER] = model._served_by
        query = urlencode({"model": model.model})
        return f"{live_url(model._gateway.base_url)}?{query}", headers

    def _is_fatal_error(self, error: Any) -> bool:
        return super()._is_fatal_error(error) or is_final(error)
