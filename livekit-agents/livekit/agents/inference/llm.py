"""Language models through the inference gateway."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

from .. import llm
from .._exceptions import APIConnectionError, APIError, APIStatusError
from .._streams import CLOSE_GRACE
from ..log import logger
from ..types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, APIConnectOptions, NotGivenOr
from ..utils import is_given
from ..utils.aio import TaskScope, run_bounded
from ..utils.env import resolve_env_int
from ._completion import CompletionReader
from ._completion_transports import SERVICE, GatewayTransport, OpenAITransport, Transport
from ._llm_models import (
    ChatCompletionOptions,
    DeepSeekModels,
    GoogleModels,
    KimiModels,
    LLMModels,
    OpenAIModels,
    XAIModels,
    ZAIModels,
    drop_unsupported_params,
    min_reasoning_effort,
    supports_prompt_cache_breakpoints,
)
from ._protocol.wire import ServerError
from ._socket import SessionSource
from ._utils import (
    HEADER_INFERENCE_PROVIDER,
    Gateway,
    InferenceClass,
    default_base_url,
    get_inference_headers,
)

if TYPE_CHECKING:
    import aiohttp

    from ..llm import ChatContext, Tool, ToolChoice

__all__ = [
    "LLM",
    "ChatCompletionOptions",
    "DeepSeekModels",
    "GoogleModels",
    "KimiModels",
    "LLMModels",
    "LLMStream",
    "OpenAIModels",
    "PromptCacheOptions",
    "XAIModels",
    "ZAIModels",
    "drop_unsupported_params",
    "llm_from_model_string",
    "min_reasoning_effort",
    "supports_prompt_cache_breakpoints",
]

lk_oai_debug = resolve_env_int("LK_OPENAI_DEBUG")
"""Whether requests are logged at DEBUG."""

_BREAKPOINT_FORMATS = ("openai", "openai.responses")
_MAX_CONNECTIONS = 50
_KEEPALIVE = 120.0


if TYPE_CHECKING:
    PromptCacheOptions = dict[str, Any]
else:

    def __getattr__(name: str) -> Any:
        if name != "PromptCacheOptions":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            from openai.types.chat.completion_create_params import PromptCacheOptions
        except ImportError:  # no openai, or one that is older than the type
            return dict[str, Any]
        return PromptCacheOptions


class LLM(llm.LLM[Any]):
    """Answers with a model that LiveKit serves.

    ::

        AgentSession(llm=inference.LLM("openai/gpt-4.1-mini"))
    """

    def __init__(
        self,
        model: LLMModels | str,
        *,
        provider: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        api_secret: str | None = None,
        inference_class: InferenceClass | None = None,
        extra_kwargs: ChatCompletionOptions | dict[str, Any] | None = None,
        prompt_cache_breakpoints: bool | Literal["auto"] = "auto",
    ) -> None:
        """Choose a model. Nothing is connected yet.

        Args:
            model: ``"provider/model"``.
            provider: Who is to run it, where the gateway has a choice.
            base_url: Of the gateway; `LIVEKIT_INFERENCE_URL` by default.
            api_key: `LIVEKIT_INFERENCE_API_KEY` or `LIVEKIT_API_KEY` by default.
            api_secret: `LIVEKIT_INFERENCE_API_SECRET` or `LIVEKIT_API_SECRET` by default.
            inference_class: How urgent requests are.
            extra_kwargs: Options of all requests. They have precedence over those of one request.
            prompt_cache_breakpoints: Pass marks for caching on; ``"auto"``: to models that take
                them.

        Raises:
            ValueError: Credentials are missing, or an argument can't be used.
        """
        super().__init__()
        if not isinstance(model, str) or not model.strip():
            raise ValueError(f"model must be a name such as 'openai/gpt-4.1-mini', got {model!r}")
        self._model = model
        self._provider_choice = provider
        self._gateway = Gateway.resolve(
            base_url=base_url or NOT_GIVEN,
            api_key=api_key or NOT_GIVEN,
            api_secret=api_secret or NOT_GIVEN,
        )
        self._inference_class = inference_class
        self._extra_kwargs: dict[str, Any] = dict(extra_kwargs or {})
        self._prompt_cache_breakpoints: bool | Literal["auto"] = prompt_cache_breakpoints
        self._own_session: aiohttp.ClientSession | None = None
        self._session = SessionSource(None, self._make_session)
        self._streams: weakref.WeakSet[LLMStream] = weakref.WeakSet()
        self._closed = False

    @classmethod
    def from_model_string(cls, model: str) -> LLM:
        """Make one of ``"provider/model"``.

        Raises:
            ValueError: Credentials are missing, or the string names no model.
        """
        return cls(model)

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model

    @property
    def provider(self) -> str:
        """`"livekit"`."""
        return "livekit"

    def update_options(
        self,
        *,
        model: NotGivenOr[LLMModels | str] = NOT_GIVEN,
        extra_kwargs: NotGivenOr[ChatCompletionOptions | dict[str, Any]] = NOT_GIVEN,
        prompt_cache_breakpoints: NotGivenOr[bool | Literal["auto"]] = NOT_GIVEN,
    ) -> None:
        """Change options, from the next request on.

        Args:
            model: Another model.
            extra_kwargs: Options of all requests, in place of those there are.
            prompt_cache_breakpoints: As for the constructor.
        """
        if is_given(model):
            self._model = model
        if is_given(extra_kwargs):
            self._extra_kwargs = dict(extra_kwargs)
        if is_given(prompt_cache_breakpoints):
            self._prompt_cache_breakpoints = cast(Any, prompt_cache_breakpoints)

    def chat(
        self,
        *,
        chat_ctx: ChatContext,
        tools: list[Tool] | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        parallel_tool_calls: NotGivenOr[bool] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        response_format: NotGivenOr[type[Any] | dict[str, Any]] = NOT_GIVEN,
        inference_class: NotGivenOr[InferenceClass] = NOT_GIVEN,
        extra_kwargs: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
    ) -> LLMStream:
        """Let the model go on with a conversation.

        Args:
            chat_ctx: The conversation so far.
            tools: Tools the model may call.
            conn_options: How often to try, and the seconds of silence to bear.
            parallel_tool_calls: Whether it may ask for several calls at once.
            tool_choice: Whether it has to call tools, or must not.
            response_format: A type that the answer is to be JSON of.
            inference_class: How urgent this request is.
            extra_kwargs: Options of this request.

        Raises:
            RuntimeError: The object was closed, or no event loop is running.
        """
        if self._closed:
            raise RuntimeError("this inference.LLM is closed: make another one")
        extra: dict[str, Any] = dict(extra_kwargs) if is_given(extra_kwargs) else {}
        if is_given(parallel_tool_calls):
            extra["parallel_tool_calls"] = parallel_tool_calls
        if is_given(tool_choice):
            _set_tool_choice(extra, tool_choice)
        if is_given(response_format):
            from ..llm.utils import to_openai_response_format

            extra["response_format"] = to_openai_response_format(cast(Any, response_format))
        persistent = dict(self._extra_kwargs)
        if is_given(tool_choice):
            persistent.pop("tool_choice", None)
        elif "tool_choice" in persistent:
            _set_tool_choice(persistent, persistent.pop("tool_choice"))
        extra.update(persistent)
        breakpoints = self._prompt_cache_breakpoints
        stream = LLMStream(
            self,
            model=self._model,
            provider=self._provider_choice,
            inference_class=cast(Any, inference_class)
            if is_given(inference_class)
            else self._inference_class,
            strict_tool_schema=True,
            client=GatewayTransport(self._session, self._gateway),
            chat_ctx=chat_ctx,
            tools=tools or [],
            conn_options=conn_options,
            extra_kwargs=extra,
            prompt_cache_breakpoints=supports_prompt_cache_breakpoints(self._model)
            if breakpoints == "auto"
            else breakpoints,
        )
        self._streams.add(stream)
        return stream

    async def _prewarm_impl(self) -> None:
        headers = self._gateway.headers()
        url = self._gateway.http_url("/models")
        async with self._session.get().get(url, headers=headers) as response:
            await response.read()

    async def aclose(self) -> None:
        """Close all streams and connections, in two seconds at most. Idempotent.

        The object is not used again.
        """
        self._closed = True
        scope = TaskScope(self._label)
        for stream in list(self._streams):
            scope.spawn(stream.aclose(), name="close a stream")
        scope.spawn(super().aclose(), name="end a prewarm")
        await scope.join(CLOSE_GRACE)
        session, self._own_session = self._own_session, None
        if session is not None and not session.closed:
            try:
                await run_bounded(session.close(), CLOSE_GRACE, owner=self._label)
            except asyncio.TimeoutError:
                logger.warning("%s: connections did not close in time", self._label)

    def _make_session(self) -> aiohttp.ClientSession:
        """Outside of a job: one of our own, on the loop that runs now."""
        import aiohttp

        from ..utils.http_context import _ssl_context

        connector = aiohttp.TCPConnector(
            limit=_MAX_CONNECTIONS, keepalive_timeout=_KEEPALIVE, ssl=_ssl_context()
        )
        self._own_session = aiohttp.ClientSession(connector=connector)
        return self._own_session


def _set_tool_choice(extra: dict[str, Any], choice: Any) -> None:
    """Say it as OpenAI's API does. What it has no words for is left out."""
    if isinstance(choice, Mapping):
        name = choice.get("function", {}).get("name")
        extra["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif choice in ("auto", "required", "none"):
        extra["tool_choice"] = choice


class LLMStream(llm.LLMStream):
    """An answer of a model with OpenAI's completions API. Plugins build on it.

    Requests that go elsewhere than to the gateway carry none of its headers.
    """

    def __init__(
        self,
        llm_v: LLM | llm.LLM[Any],
        *,
        model: LLMModels | str,
        provider: str | None = None,
        inference_class: InferenceClass | None = None,
        strict_tool_schema: bool,
        client: Any,
        chat_ctx: ChatContext,
        tools: list[Tool],
        conn_options: APIConnectOptions,
        extra_kwargs: dict[str, Any],
        provider_fmt: str = "openai",
        prompt_cache_breakpoints: bool = False,
    ) -> None:
        """Send the request.

        Args:
            llm_v: The model, on which errors and metrics are reported.
            model: Its name in the request.
            provider: Who is to run it.
            inference_class: How urgent the request is.
            strict_tool_schema: Describe tools in strict mode.
            client: An ``openai.AsyncClient``, or one of another kind with its interface.
            chat_ctx: The conversation to answer.
            tools: Tools the model may call.
            conn_options: How often to try, and the seconds of silence to bear.
            extra_kwargs: Further fields of the request; those the model refuses are left out.
            provider_fmt: Form of the messages, see `ChatContext.to_provider_format`.
            prompt_cache_breakpoints: Pass marks for caching on.

        Raises:
            RuntimeError: No event loop is running.
        """
        super().__init__(llm_v, chat_ctx=chat_ctx, tools=tools, conn_options=conn_options)
        self._model = model
        self._provider = provider
        self._inference_class = inference_class
        self._strict_tool_schema = strict_tool_schema
        self._client = client
        self._transport: Transport = (
            client if isinstance(client, GatewayTransport) else OpenAITransport(client)
        )
        self._provider_fmt = provider_fmt
        self._extra_kwargs = dict(drop_unsupported_params(model, extra_kwargs, tools))
        self._prompt_cache_breakpoints = (
            prompt_cache_breakpoints and provider_fmt in _BREAKPOINT_FORMATS
        )

    async def _run(self) -> None:
        reader = CompletionReader(self._model)
        finished = False
        try:
            body = self._request()
            if lk_oai_debug:
                logger.debug("%s request", SERVICE, extra={"lk.pii.request": body})
            chunks = self._transport.stream(
                body, headers=self._headers(), timeout=self._conn_options.timeout
            )
            try:
                async for chunk in chunks:
                    if isinstance(chunk, ServerError):
                        raise _stream_error(chunk)
                    finished = finished or any(delta.finish_reason for delta in chunk.deltas)
                    for read in reader.feed(chunk):
                        self._event_ch.send_nowait(read)
            finally:
                # An abandoned generator would keep the connection until it is collected.
                await cast(Any, chunks).aclose()
            if reader.call_pending and not finished:
                raise APIConnectionError(f"{SERVICE}: the answer ended within a tool call")
        except APIError as error:
            if self._tally.attempt_responded:
                error.retryable = False  # some of the answer was handed on
            raise

    def _request(self) -> dict[str, Any]:
        options: dict[str, Any] = (
            {"prompt_cache_breakpoints": True} if self._prompt_cache_breakpoints else {}
        )
        messages, _ = self._chat_ctx.to_provider_format(self._provider_fmt, **options)
        extra = dict(self._extra_kwargs)
        extra.pop("extra_headers", None)
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "stream_options": {"include_usage": True},
        }
        tools = llm.ToolContext(self._tools).parse_function_tools(
            "openai", strict=self._strict_tool_schema
        )
        if tools:
            body["tools"] = tools
        else:
            extra.pop("tool_choice", None)
        return {**body, **extra}

    def _headers(self) -> dict[str, str]:
        headers = dict(self._extra_kwargs.get("extra_headers") or {})
        if self._goes_to_gateway():
            headers.update(get_inference_headers(inference_class=self._inference_class))
        if self._provider:
            headers[HEADER_INFERENCE_PROVIDER] = self._provider
        return headers

    def _goes_to_gateway(self) -> bool:
        if isinstance(self._transport, OpenAITransport):
            host = urlsplit(self._transport.base_url).hostname
            return host is not None and host == urlsplit(default_base_url()).hostname
        return True


def _stream_error(error: ServerError) -> APIError:
    """The error for an error object within the stream."""
    text = error.message or f"{SERVICE} reported an error"
    if isinstance(error.code, int) and error.code >= 400:
        return APIStatusError(text, status_code=error.code, body=error.body)
    return APIConnectionError(text)


def llm_from_model_string(model: str) -> Any:
    """Make the model that a string names: an `LLM`, or a realtime or full-duplex model.

    Raises:
        ValueError: Credentials are missing, or the string names no model that is known here.
    """
    from ._realtime_models import is_duplex_model, is_realtime_model

    if is_duplex_model(model):
        from .realtime import DuplexModel

        return DuplexModel.from_model_string(model)
    if is_realtime_model(model):
        from .realtime import RealtimeModel

        return RealtimeModel.from_model_string(model)
    return LLM.from_model_string(model)
