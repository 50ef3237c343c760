"""Realtime models through the gateway, which speaks OpenAI's realtime protocol for all of them."""

from __future__ import annotations

from typing import Any, Literal

import aiohttp

from ...llm._realtime.openai import (
    DEFAULT_VOICE,
    RealtimeModel as _RealtimeModel,
    RealtimeSession as _RealtimeSession,
    process_base_url,
)
from ...llm._realtime.openai_utils import AS_PROVIDED, Event
from ...llm.tool_context import ToolChoice
from ...log import logger
from ...types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, APIConnectOptions, NotGivenOr
from ...utils import is_given
from .._errors import ConnectionState, Phase, classify_server_error
from .._protocol.wire import ServerError
from .._realtime_models import DEPRECATED, RealtimeModels
from .._utils import HEADER_INFERENCE_PROVIDER, Gateway, InferenceClass

__all__ = ["RealtimeModel", "RealtimeSession"]

_SERVER_VAD: Event = {"type": "server_vad", "create_response": True, "interrupt_response": True}
"""Turn detection that models of every provider have."""

_XAI_TRANSCRIPTION: Event = {"model": "grok-transcribe"}

_OPEN = ConnectionState(Phase.OPEN)


def check_model(model: str) -> str:
    """A model string of the gateway. Warns of one that is going to disappear.

    Raises:
        ValueError: It names no provider.
    """
    provider, slash, name = model.partition("/")
    if not (provider and slash and name):
        raise ValueError(
            f"{model!r} is no model of the gateway: expected 'provider/model', such as "
            "'openai/gpt-realtime'"
        )
    if model in DEPRECATED:
        logger.warning("the realtime model %s is deprecated: use %s", model, DEPRECATED[model])
    return model


def is_final(error: Any) -> bool:
    """Whether the gateway will refuse everything from now on: credentials, or a used up quota.

    Args:
        error: The error of the server, as a dict.
    """
    if not isinstance(error, dict):
        return False
    code = error.get("code")
    reported = ServerError(
        code=code if isinstance(code, (int, str)) and not isinstance(code, bool) else -1,
        message=str(error.get("message") or ""),
        body=error,
    )
    return not classify_server_error(reported, _OPEN).retryable


class RealtimeModel(_RealtimeModel):
    """A realtime model behind the gateway."""

    def __init__(
        self,
        model: RealtimeModels | str,
        *,
        provider: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        api_secret: str | None = None,
        inference_class: NotGivenOr[InferenceClass] = NOT_GIVEN,
        voice: NotGivenOr[str] = NOT_GIVEN,
        modalities: NotGivenOr[list[Literal["text", "audio"]]] = NOT_GIVEN,
        input_audio_transcription: NotGivenOr[Any] = NOT_GIVEN,
        input_audio_noise_reduction: NotGivenOr[Any] = NOT_GIVEN,
        turn_detection: NotGivenOr[Any] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice | None] = NOT_GIVEN,
        speed: NotGivenOr[float] = NOT_GIVEN,
        tracing: NotGivenOr[Any] = NOT_GIVEN,
        truncation: NotGivenOr[Any] = NOT_GIVEN,
        reasoning: NotGivenOr[Any] = NOT_GIVEN,
        http_session: aiohttp.ClientSession | None = None,
        max_session_duration: NotGivenOr[float | None] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> None:
        """Configure the model. Options have the meanings of OpenAI's protocol.

        Options that are not given have OpenAI's defaults for its models; for others they are left to
        the provider, apart from the detection of turns by the server's voice activity detection.

        Args:
            model: Provider and model, such as ``"openai/gpt-realtime"``.
            provider: Who is to serve the model, where the gateway has a choice.
            base_url: The gateway; by default `LIVEKIT_INFERENCE_URL`, else the public one.
            api_key: By default `LIVEKIT_INFERENCE_API_KEY` or `LIVEKIT_API_KEY`.
            api_secret: By default `LIVEKIT_INFERENCE_API_SECRET` or `LIVEKIT_API_SECRET`.
            inference_class: How urgent requests are.
            voice: Who speaks.
            modalities: `["text"]` for a model that writes, and a TTS that speaks.
            input_audio_transcription: How the user is transcribed; None for not at all.
            input_audio_noise_reduction: The kind of microphone, as a name or an object.
            turn_detection: How the server finds the end of the user's turn; None for not at all.
            tool_choice: Whether it has to call tools, or must not.
            speed: Of speech; 1.0 is normal.
            tracing: See the provider.
            truncation: See the provider.
            reasoning: See the provider.
            http_session: What to connect with; it is yours to close.
            max_session_duration: Seconds after which a connection is replaced, at the next pause;
                None for never. 20 minutes by default.
            conn_options: Limits of connecting and of trying again.

        Raises:
            ValueError: The model names no provider, credentials are missing, or the URL is none.
        """
        check_model(model)
        self._gateway = Gateway.resolve(
            base_url=base_url or NOT_GIVEN,
            api_key=api_key or NOT_GIVEN,
            api_secret=api_secret or NOT_GIVEN,
        )
        openais = model.startswith("openai/")
        can_disable = not is_given(turn_detection)
        super().__init__(
            model=model,
            voice=voice if is_given(voice) else DEFAULT_VOICE,
            modalities=modalities,
            tool_choice=tool_choice,
            base_url=self._gateway.base_url,
            input_audio_transcription=input_audio_transcription,
            input_audio_noise_reduction=input_audio_noise_reduction,
            turn_detection=_SERVER_VAD if can_disable and not openais else turn_detection,
            speed=speed,
            tracing=tracing,
            truncation=truncation,
            reasoning=reasoning,
            api_key=self._gateway.api_key,
            http_session=http_session,
            max_session_duration=max_session_duration,
            conn_options=conn_options,
        )
        self._capabilities.can_disable_turn_detection = can_disable
        self._inference_class = inference_class if is_given(inference_class) else None
        self._served_by = provider
        self._provider_label = "livekit"
        if not openais:
            if not is_given(voice):
                self._opts.voice = None
            if not is_given(input_audio_transcription):
                xais = model.startswith("xai/")
                self._opts.transcription = dict(_XAI_TRANSCRIPTION) if xais else AS_PROVIDED

    @classmethod
    def from_model_string(cls, model: str) -> RealtimeModel:
        """The model with default options.

        Raises:
            ValueError: The string names no provider, or credentials are missing.
        """
        return cls(model)

    @property
    def provider(self) -> str:
        """`"livekit"`."""
        return self._provider_label

    def session(self, *, turn_detection_disabled: bool = False) -> RealtimeSession:
        """Start a conversation; connects in the background.

        Args:
            turn_detection_disabled: The caller decides when the user's turn is over.
        """
        session = RealtimeSession(self, turn_detection_disabled=turn_detection_disabled)
        self._sessions.add(session)
        return session


class RealtimeSession(_RealtimeSession):
    """A conversation with a realtime model behind the gateway. Each dial has a token of its own."""

    def __init__(
        self, realtime_model: RealtimeModel, *, turn_detection_disabled: bool = False
    ) -> None:
        """Start the conversation.

        Args:
            realtime_model: Whose options apply.
            turn_detection_disabled: The caller decides when the user's turn is over.
        """
        self._hosted = realtime_model
        super().__init__(realtime_model, turn_detection_disabled=turn_detection_disabled)

    def _create_ws_url_and_headers(self) -> tuple[str, dict[str, str]]:
        model = self._hosted
        headers = model._gateway.headers(inference_class=model._inference_class)
        if model._served_by:
            headers[HEADER_INFERENCE_PROVIDER] = model._served_by
        return process_base_url(model._gateway.base_url, model.model), headers

    def _wrap_session_update(self, event_id: str, session: Event) -> Event:
        # The address says which model it is.
        named = {name: value for name, value in session.items() if name != "model"}
        if self._hosted.model.startswith("xai/"):
            _hoist(named)
        return super()._wrap_session_update(event_id, named)

    def _is_fatal_error(self, error: Any) -> bool:
        return super()._is_fatal_error(error) or is_final(error)


def _hoist(session: Event) -> None:
    """xAI looks for some options of the audio in the session itself."""
    audio = session.get("audio", {})
    for direction, option in (("output", "voice"), ("input", "turn_detection")):
        if option in audio.get(direction, {}):
            session[option] = audio[direction][option]
