"""OpenAI's realtime models, of OpenAI itself or of Azure, over a WebSocket."""

from __future__ import annotations

import os
import weakref
from typing import Any, Literal

import aiohttp

from ..._websocket import SessionSource
from ...log import logger
from ...types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, APIConnectOptions, NotGivenOr
from ...utils import is_given
from ..realtime import RealtimeCapabilities, RealtimeModel as _BaseModel
from ..tool_context import ToolChoice
from ._input_audio import NUM_CHANNELS, SAMPLE_RATE
from ._openai_events import _is_fatal_error
from ._openai_generation import _DiscardedGeneration, _MessageGeneration
from ._openai_options import OPENAI_BASE_URL, _Options, plain, process_base_url
from ._openai_session import RealtimeSession, lk_oai_debug
from .openai_utils import (
    DEFAULT_MAX_SESSION_DURATION,
    Event,
    to_audio_transcription,
    to_noise_reduction,
    to_turn_detection,
)

__all__ = [
    "DEFAULT_VOICE",
    "NUM_CHANNELS",
    "OPENAI_BASE_URL",
    "SAMPLE_RATE",
    "RealtimeModel",
    "RealtimeSession",
    "_DiscardedGeneration",
    "_MessageGeneration",
    "_is_fatal_error",
    "lk_oai_debug",
    "process_base_url",
]

DEFAULT_VOICE = "marin"


class RealtimeModel(_BaseModel):
    """A speech-to-speech model of OpenAI, or of Azure."""

    def __init__(
        self,
        *,
        model: str = "gpt-realtime",
        voice: str = DEFAULT_VOICE,
        modalities: NotGivenOr[list[Literal["text", "audio"]]] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice | None] = NOT_GIVEN,
        base_url: NotGivenOr[str] = NOT_GIVEN,
        input_audio_transcription: NotGivenOr[Any] = NOT_GIVEN,
        input_audio_noise_reduction: NotGivenOr[Any] = NOT_GIVEN,
        turn_detection: NotGivenOr[Any] = NOT_GIVEN,
        speed: NotGivenOr[float] = NOT_GIVEN,
        tracing: NotGivenOr[Any] = NOT_GIVEN,
        truncation: NotGivenOr[Any] = NOT_GIVEN,
        reasoning: NotGivenOr[Any] = NOT_GIVEN,
        api_key: str | None = None,
        http_session: aiohttp.ClientSession | None = None,
        azure_deployment: str | None = None,
        entra_token: str | None = None,
        max_session_duration: NotGivenOr[float | None] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        temperature: NotGivenOr[float] = NOT_GIVEN,
        **kwargs: Any,
    ) -> None:
        """Configure the model; options have the provider's names and meanings.

        Args:
            model: Its name.
            voice: Who speaks.
            modalities: `["text"]` for a model that writes, and a TTS that speaks.
            tool_choice: Whether it has to call tools, or must not.
            base_url: Where it is served; by default `OPENAI_BASE_URL`, else OpenAI itself.
            input_audio_transcription: How the user is transcribed; None for not at all.
            input_audio_noise_reduction: The kind of microphone, as a name or an object.
            turn_detection: How the server finds the end of the user's turn; None for not at all.
            speed: Of speech; 1.0 is normal.
            tracing: See the provider.
            truncation: See the provider.
            reasoning: See the provider.
            api_key: By default `OPENAI_API_KEY`.
            http_session: What to connect with; it is yours to close.
            azure_deployment: See `with_azure`.
            entra_token: See `with_azure`.
            max_session_duration: Seconds after which a connection is replaced, at the next pause;
                None for never. 20 minutes by default.
            conn_options: Limits of connecting and of trying again.
            temperature: Ignored: these models have none.
            **kwargs: `api_version` selects the first version of the protocol, on Azure.

        Raises:
            ValueError: There is no API key, or an option is unknown.
        """
        api_version = kwargs.pop("api_version", None)
        if kwargs:
            raise ValueError(f"unknown options of a realtime model: {', '.join(sorted(kwargs))}")
        if is_given(temperature):
            logger.warning("realtime models have no temperature any more; it is ignored")
        is_azure = azure_deployment is not None or entra_token is not None
        key = api_key or (None if is_azure else os.getenv("OPENAI_API_KEY"))
        if not key and not entra_token:
            raise ValueError("an OpenAI API key is needed: pass api_key or set OPENAI_API_KEY")
        url = base_url if is_given(base_url) else os.getenv("OPENAI_BASE_URL", OPENAI_BASE_URL)
        self._opts = opts = _Options(
            model=model,
            voice=voice,
            modalities=list(modalities) if is_given(modalities) else ["text", "audio"],
            tool_choice=tool_choice if is_given(tool_choice) else None,
            transcription=to_audio_transcription(input_audio_transcription),
            noise_reduction=to_noise_reduction(input_audio_noise_reduction),
            turn_detection=to_turn_detection(turn_detection),
            speed=speed if is_given(speed) else None,
            tracing=tracing if is_given(tracing) else None,
            truncation=truncation if is_given(truncation) else None,
            reasoning=reasoning if is_given(reasoning) else None,
            api_key=key,
            base_url=url,
            is_azure=is_azure,
            azure_deployment=azure_deployment,
            entra_token=entra_token,
            api_version=api_version,
            max_session_duration=max_session_duration
            if is_given(max_session_duration)
            else DEFAULT_MAX_SESSION_DURATION,
            conn_options=conn_options,
        )
        super().__init__(
            capabilities=_capabilities(opts, can_disable_detection=not is_given(turn_detection))
        )
        self._provider_label = "azure" if is_azure else "openai"
        self._sessions: weakref.WeakSet[RealtimeSession] = weakref.WeakSet()
        self._own_session: aiohttp.ClientSession | None = None
        self._source = SessionSource(http_session, self._make_session)

    @classmethod
    def with_azure(
        cls,
        *,
        azure_deployment: str,
        azure_endpoint: str | None = None,
        api_key: str | None = None,
        entra_token: str | None = None,
        base_url: str | None = None,
        **options: Any,
    ) -> RealtimeModel:
        """A deployment on Azure.

        Args:
            azure_deployment: Its name.
            azure_endpoint: Where it is; by default `AZURE_OPENAI_ENDPOINT`.
            api_key: By default `AZURE_OPENAI_API_KEY`.
            entra_token: In place of a key.
            base_url: In place of an endpoint.
            **options: Those of the constructor. `api_version`, by default `OPENAI_API_VERSION`,
                selects the first version of the protocol.

        Raises:
            ValueError: Endpoint or credentials are missing, or endpoint and base URL both given.
        """
        if azure_endpoint and base_url:
            raise ValueError("azure_endpoint and base_url exclude each other: pass one of them")
        endpoint = azure_endpoint or (None if base_url else os.getenv("AZURE_OPENAI_ENDPOINT"))
        api_key = api_key or os.getenv("AZURE_OPENAI_API_KEY")
        if not endpoint and not base_url:
            raise ValueError("pass azure_endpoint, or set AZURE_OPENAI_ENDPOINT")
        if not api_key and not entra_token:
            raise ValueError("pass api_key or entra_token, or set AZURE_OPENAI_API_KEY")
        version = options.pop("api_version", None) or os.getenv("OPENAI_API_VERSION")
        return cls(
            azure_deployment=azure_deployment,
            api_key=api_key,
            entra_token=entra_token,
            base_url=base_url or f"{(endpoint or '').rstrip('/')}/openai",
            api_version=version or None,
            **options,
        )

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._opts.model

    @property
    def provider(self) -> str:
        """Who serves it."""
        return self._provider_label

    def session(self, *, turn_detection_disabled: bool = False) -> RealtimeSession:
        """Start a conversation; connects in the background."""
        session = RealtimeSession(self, turn_detection_disabled=turn_detection_disabled)
        self._sessions.add(session)
        return session

    def update_options(
        self,
        *,
        voice: NotGivenOr[str] = NOT_GIVEN,
        speed: NotGivenOr[float] = NOT_GIVEN,
        turn_detection: NotGivenOr[Any] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice | None] = NOT_GIVEN,
        input_audio_transcription: NotGivenOr[Any] = NOT_GIVEN,
        input_audio_noise_reduction: NotGivenOr[Any] = NOT_GIVEN,
        tracing: NotGivenOr[Any] = NOT_GIVEN,
        truncation: NotGivenOr[Any] = NOT_GIVEN,
        reasoning: NotGivenOr[Any] = NOT_GIVEN,
    ) -> None:
        """Change options, of the sessions that are running as well. See the constructor."""
        opts = self._opts
        output = _changed(opts, voice=voice, speed=speed)
        heard: Event = {}
        if is_given(input_audio_transcription):
            wanted = to_audio_transcription(input_audio_transcription)
            heard |= _changed(opts, transcription=wanted)
            self._capabilities.user_transcription = wanted is not None
        if is_given(input_audio_noise_reduction):
            reduction = to_noise_reduction(input_audio_noise_reduction)
            heard |= _changed(opts, noise_reduction=reduction)
        if is_given(turn_detection):
            opts.turn_detection = to_turn_detection(turn_detection)
            self._capabilities.turn_detection = _detects_turns(opts)
        changes = _changed(opts, tracing=tracing, truncation=truncation, reasoning=reasoning)
        if is_given(tool_choice):
            opts.tool_choice = tool_choice
        for session in list(self._sessions):
            given = dict(heard)
            if is_given(turn_detection) and session._change_turn_detection(opts.turn_detection):
                given["turn_detection"] = opts.turn_detection
            parts = {"input": given, "output": output}
            audio = {name: part for name, part in parts.items() if part}
            options = {"audio": audio, **changes} if audio else dict(changes)
            session.update_options(tool_choice=tool_choice, **options)

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


def _detects_turns(opts: _Options) -> bool:
    detection = opts.turn_detection
    return detection is not None and detection.get("create_response") is not False


def _capabilities(opts: _Options, *, can_disable_detection: bool) -> RealtimeCapabilities:
    return RealtimeCapabilities(
        message_truncation=True,
        turn_detection=_detects_turns(opts),
        user_transcription=opts.transcription is not None,
        auto_tool_reply_generation=False,
        audio_output="audio" in opts.modalities,
        manual_function_calls=True,
        can_disable_turn_detection=can_disable_detection,
        mutable_chat_context=True,
        mutable_instructions=True,
        mutable_tools=True,
        per_response_tool_choice=True,
    )


def _changed(opts: _Options, **wanted: Any) -> Event:
    """Take over the options that are given and different; those, in the form of the protocol."""
    changes: Event = {}
    for name, value in wanted.items():
        if is_given(value) and value != getattr(opts, name):
            setattr(opts, name, value)
            changes[name] = plain(value)
    return changes
