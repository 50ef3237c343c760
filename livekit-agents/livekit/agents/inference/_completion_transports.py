"""Two ways to ask for a completion: straight over HTTP, or through a client of ``openai``."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from .._dial_errors import retry_after
from .._exceptions import APIConnectionError, APIError, APIStatusError, APITimeoutError
from ..log import logger
from ..utils.retry import set_retry_after
from ._errors import classify_status
from ._protocol.chat import CompletionChunk, decode_chunk, read_chunk, read_error
from ._protocol.sse import SSEDecoder
from ._protocol.wire import Fields, ProtocolError, ServerError, encode
from ._socket import SessionSource
from ._utils import Gateway, quota_fields

if TYPE_CHECKING:
    import aiohttp

SERVICE = "LiveKit Inference LLM"

_MAX_ERROR_BODY = 64 * 1024


class Transport(Protocol):
    """Streams completions."""

    def stream(
        self, body: Mapping[str, Any], *, headers: Mapping[str, str], timeout: float
    ) -> AsyncIterator[CompletionChunk | ServerError]:
        """Send a request and yield what comes back.

        Args:
            body: Of the request, without ``stream``.
            headers: In addition to those of the transport.
            timeout: Seconds to connect, and of silence afterwards.

        Raises:
            APIError: It failed.
        """


class GatewayTransport:
    """Requests to the gateway with one token, over the session of `LLM`."""

    def __init__(self, session: SessionSource, gateway: Gateway) -> None:
        self._session = session
        self._url = gateway.http_url("/chat/completions")
        self._token = gateway.token()

    async def stream(
        self, body: Mapping[str, Any], *, headers: Mapping[str, str], timeout: float
    ) -> AsyncIterator[CompletionChunk | ServerError]:
        """See `Transport`."""
        body = dict(body)
        query = body.pop("extra_query", None)
        body.update(body.pop("extra_body", None) or {})
        headers = {
            **headers,
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
        }
        payload = _payload({**body, "stream": True})
        with _translated():
            async with self._post(payload, headers, query, timeout) as response:
                if response.status != 200:
                    raise await _status_error(response, str(body.get("model")))
                async for chunk in _chunks(response.content.iter_any()):
                    yield chunk

    @asynccontextmanager
    async def _post(
        self, payload: bytes, headers: Mapping[str, str], query: Any, timeout: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        import aiohttp

        limits = aiohttp.ClientTimeout(
            total=None, connect=timeout, sock_connect=timeout, sock_read=timeout
        )
        async with self._session.get().post(
            self._url, data=payload, headers=headers, params=query, timeout=limits
        ) as response:
            yield response


def _payload(body: Mapping[str, Any]) -> bytes:
    try:
        return encode(body).encode("utf-8", "replace")
    except ValueError as error:
        raise APIConnectionError(f"{SERVICE}: {error}", retryable=False) from None


class _translated:
    """Turns errors of the HTTP library into ours."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, APIError) or not isinstance(error, Exception):
            return
        if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
            raise APITimeoutError(f"{SERVICE} did not answer in time") from error
        if isinstance(error, ProtocolError):
            raise APIConnectionError(f"{SERVICE} sent something unreadable") from error
        raise APIConnectionError(f"{SERVICE} connection failed") from error


async def _chunks(data: AsyncIterator[bytes]) -> AsyncIterator[CompletionChunk | ServerError]:
    """Cut the bytes into chunks, up to the end mark or the end of the body."""
    decoder = SSEDecoder()
    async for piece in data:
        for event in decoder.feed(piece):
            chunk = decode_chunk(event)
            if chunk is None:
                return
            yield chunk
    for event in decoder.end():
        chunk = decode_chunk(event)
        if chunk is None:
            return
        yield chunk


async def _status_error(response: aiohttp.ClientResponse, model: str) -> APIStatusError:
    text = (await response.content.read(_MAX_ERROR_BODY)).decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = text or None
    request_id = response.headers.get("x-request-id")
    if response.status == 429:
        logger.warning(
            "LLM request rate limited by inference gateway",
            extra={"model": model, "request_id": request_id, **quota_fields(response.headers)},
        )
    failure = classify_status(response.status, body)
    error = APIStatusError(
        _message_of(body) or f"{SERVICE} answered {response.status} {response.reason}",
        status_code=response.status,
        request_id=request_id,
        body=body,
        retryable=failure.retryable and None,
    )
    set_retry_after(error, retry_after(response.headers))
    return error


def _message_of(body: object) -> str | None:
    if not isinstance(body, dict):
        return None
    error = body.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) and message else None


class OpenAITransport:
    """Requests through somebody's ``openai.AsyncClient``, as plugins bring it."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def base_url(self) -> str:
        """Where the client sends its requests."""
        return str(getattr(self._client, "base_url", ""))

    async def stream(
        self, body: Mapping[str, Any], *, headers: Mapping[str, str], timeout: float
    ) -> AsyncIterator[CompletionChunk | ServerError]:
        """See `Transport`."""
        try:
            response = await self._client.chat.completions.create(
                **body, stream=True, extra_headers=dict(headers), timeout=timeout
            )
            async with response as chunks:
                async for chunk in chunks:
                    yield read_chunk(Fields(chunk.model_dump(exclude_unset=True)))
        except (APIError, asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:
            raise _translate_openai(error, str(body.get("model"))) from error


def _translate_openai(error: Exception, model: str) -> APIError:
    import openai  # type: ignore[import-not-found, unused-ignore]

    if isinstance(error, openai.APITimeoutError) or _is_http_timeout(error):
        return APITimeoutError()
    if isinstance(error, openai.APIStatusError):
        headers = error.response.headers
        if error.status_code == 429:
            logger.warning(
                "LLM request rate limited by inference gateway",
                extra={"model": model, "request_id": error.request_id, **quota_fields(headers)},
            )
        failed = APIStatusError(
            error.message,
            status_code=error.status_code,
            request_id=error.request_id,
            body=error.body,
        )
        set_retry_after(failed, retry_after(headers))
        return failed
    body = getattr(error, "body", None)
    if isinstance(error, openai.APIError) and isinstance(body, dict):
        # an error object within the stream; a numeric code in it counts as HTTP status
        reported = read_error(body)
        if isinstance(reported.code, int) and reported.code >= 400:
            return APIStatusError(error.message, status_code=reported.code, body=body)
    return APIConnectionError()


def _is_http_timeout(error: Exception) -> bool:
    """Whether one of the libraries that a client may be built on says so."""
    for name in ("httpx", "httpx2"):
        library = sys.modules.get(name)
        if library is not None and isinstance(error, library.TimeoutException):
            return True
    return isinstance(error, (asyncio.TimeoutError, TimeoutError))
