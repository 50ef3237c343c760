"""What all clients of the inference gateway share: its address, credentials, tokens and headers."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlencode, urlsplit

from ..types import NotGivenOr
from ..utils.misc import is_given, shortuuid
from ..version import __version__

if TYPE_CHECKING:
    from ..job import JobContext

T = TypeVar("T")

DEFAULT_INFERENCE_URL = "https://agent-gateway.livekit.cloud/v1"
STAGING_INFERENCE_URL = "https://agent-gateway.staging.livekit.cloud/v1"

HEADER_AGENT_ID = "X-LiveKit-Agent-ID"
HEADER_INFERENCE_PRIORITY = "X-LiveKit-Inference-Priority"
HEADER_INFERENCE_PROVIDER = "X-LiveKit-Inference-Provider"
HEADER_JOB_ID = "X-LiveKit-Job-ID"
HEADER_REQUEST_ID = "X-LiveKit-Request-Id"
HEADER_ROOM_ID = "X-LiveKit-Room-ID"
HEADER_SESSION_ID = "X-LiveKit-Session-ID"
HEADER_USER_AGENT = "User-Agent"
HEADER_WORKER_TOKEN = "X-LiveKit-Worker-Token"

InferenceClass = Literal["priority", "standard", "low"]
"""How urgent requests are to the gateway."""

TOKEN_TTL = 600.0
"""Seconds that an access token is valid. Each dial gets a new one."""

_STAGING_MARK = ".staging.livekit.cloud"

_QUOTA_HEADERS = {
    f"X-LiveKit-Inference-{unit}-{what}": f"{unit.lower()}_{what.lower()}"
    for unit in ("RPM", "TPM", "Credits")
    for what in ("Limit", "Used")
}


@dataclass(frozen=True)
class Gateway:
    """Where the gateway is and who asks. The secrets stay out of its `repr`."""

    base_url: str
    """Without a slash at the end."""
    api_key: str = field(repr=False)
    api_secret: str = field(repr=False)

    @classmethod
    def resolve(
        cls,
        *,
        base_url: NotGivenOr[str | None],
        api_key: NotGivenOr[str | None],
        api_secret: NotGivenOr[str | None],
    ) -> Gateway:
        """Fill what the caller did not say from the environment.

        None means not said, as `NOT_GIVEN`.

        Raises:
            ValueError: No key or no secret was found, or the URL is none.
        """
        url = base_url if is_given(base_url) and base_url is not None else default_base_url()
        return cls(
            base_url=check_base_url(url),
            api_key=_credential("api_key", api_key),
            api_secret=_credential("api_secret", api_secret),
        )

    def http_url(self, path: str) -> str:
        """Address of a request, for instance for ``"/chat/completions"``."""
        return self.base_url + path

    def websocket_url(self, path: str, **query: str) -> str:
        """Address of a WebSocket. Query parameters are encoded."""
        url = self.base_url + path
        if url.startswith("http"):
            url = "ws" + url[len("http") :]
        return f"{url}?{urlencode(query)}" if query else url

    def token(self) -> str:
        """A new access token."""
        return create_access_token(self.api_key, self.api_secret)

    def headers(self, *, inference_class: str | None = None) -> dict[str, str]:
        """Headers of one dial or request, with a token made for it."""
        return {
            **get_inference_headers(inference_class=inference_class),
            "Authorization": f"Bearer {self.token()}",
        }


def default_base_url() -> str:
    """The gateway's address as the environment says: `LIVEKIT_INFERENCE_URL`, else the public one.

    A `LIVEKIT_URL` of the staging cloud selects the staging gateway.
    """
    url = os.environ.get("LIVEKIT_INFERENCE_URL")
    if url:
        return url
    staging = _STAGING_MARK in os.environ.get("LIVEKIT_URL", "")
    return STAGING_INFERENCE_URL if staging else DEFAULT_INFERENCE_URL


def check_base_url(url: str) -> str:
    """Take a base URL without the slash at its end.

    Raises:
        ValueError: It has no http(s) or ws(s) scheme, or no host.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https", "ws", "wss") and bool(parts.hostname)
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(
            f"{url!r} is not a base URL of an inference gateway: expected something like "
            f"{DEFAULT_INFERENCE_URL!r}. Pass it as base_url, or set LIVEKIT_INFERENCE_URL"
        )
    return url.rstrip("/")


def _credential(name: Literal["api_key", "api_secret"], given: NotGivenOr[str | None]) -> str:
    suffix = name.upper()
    variables = (f"LIVEKIT_INFERENCE_{suffix}", f"LIVEKIT_{suffix}")
    if is_given(given) and given is not None:
        value = given
    else:
        value = next((found for v in variables if (found := os.environ.get(v))), "")
    if not value:
        raise ValueError(
            f"{name} is required: pass {name}=, or set {variables[1]} (or {variables[0]}) in the "
            "environment"
        )
    return value


def create_access_token(api_key: str, api_secret: str, ttl: float = TOKEN_TTL) -> str:
    """Make a token that allows requests to the gateway.

    Args:
        api_key: Names the secret.
        api_secret: Signs the token (HS256).
        ttl: Seconds it is valid.
    """
    import jwt

    now = int(time.time())
    claims: dict[str, Any] = {
        "sub": "agent",
        "iss": api_key,
        "nbf": now,
        "exp": int(now + ttl),
        "inference": {"perform": True},
    }
    return jwt.encode(claims, api_secret, algorithm="HS256")


def get_inference_headers(*, inference_class: str | None = None) -> dict[str, str]:
    """Headers that tell the gateway who asks. Inside a job they name it; call it for each request.

    Args:
        inference_class: How urgent the request is.
    """
    headers = {
        HEADER_USER_AGENT: f"LiveKit Agents/{__version__} (python {platform.python_version()})"
    }
    if inference_class:
        headers[HEADER_INFERENCE_PRIORITY] = inference_class
    ctx = _job_context()
    if ctx is None:
        return headers
    try:
        headers.update(_job_headers(ctx))
    except RuntimeError:
        pass  # a job that is being set up or taken down; what we have is right all the same
    headers.update(getattr(ctx, "inference_headers", None) or {})
    headers[HEADER_SESSION_ID] = shortuuid("inference_")
    return headers


def _job_context() -> JobContext | None:
    from ..job import get_job_context

    return get_job_context(required=False)


def _job_headers(ctx: JobContext) -> dict[str, str]:
    headers = {}
    if (room_id := _text(ctx.job.room.sid)) is not None:
        headers[HEADER_ROOM_ID] = room_id
    if (job_id := _text(ctx.job.id)) is not None:
        headers[HEADER_JOB_ID] = job_id
    if worker_token := os.environ.get("LIVEKIT_WORKER_TOKEN"):
        headers[HEADER_WORKER_TOKEN] = worker_token
    if ctx.room.isconnected() and (agent_id := _text(ctx.agent.sid)) is not None:
        headers[HEADER_AGENT_ID] = agent_id
    return headers


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def create_inference_request_id(
    session_id: str | None, kind: str, *, fallback_prefix: str = ""
) -> str:
    """An id for one request on a connection.

    Args:
        session_id: `X-LiveKit-Session-ID` of the connection, if it was dialled inside a job.
        kind: What is asked for, such as ``"tts"``.
        fallback_prefix: Begins the id when there is no session id.
    """
    return shortuuid(f"{session_id}_{kind}_" if session_id else fallback_prefix)


def quota_fields(headers: Any) -> dict[str, str]:
    """What response headers say about limits and use, for logs. Unknown values are left out."""
    return {
        name: value for header, name in _QUOTA_HEADERS.items() if (value := headers.get(header))
    }


def check_sample_rate(given: NotGivenOr[int], default: int) -> int:
    """The rate on the wire, in Hz.

    Raises:
        ValueError: It is no rate that the gateway takes.
    """
    if not is_given(given):
        return default
    if isinstance(given, bool) or not isinstance(given, int) or not 8000 <= given <= 96000:
        raise ValueError(f"sample_rate must be a rate in Hz between 8000 and 96000, got {given!r}")
    return given


def check_extra(
    extra: NotGivenOr[Any], encode: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """Options of a provider, as a dict of their own.

    Args:
        extra: As the user gave them.
        encode: Writes a message with them.

    Raises:
        ValueError: They have no form in JSON.
    """
    if not is_given(extra) or extra is None:
        return {}
    options = dict(extra)
    try:
        encode(options)
    except ValueError as error:
        raise ValueError(f"extra_kwargs: {error}") from None
    return options


def read_fallback(
    fallback: Any, of_string: Callable[[str], T], of_dict: Callable[[dict[str, Any]], T]
) -> list[T]:
    """One model or several that the gateway tries when another fails.

    Args:
        fallback: A model string, a dict with ``"model"``, or a list of these.
        of_string: Reads a model string.
        of_dict: Completes a dict.

    Raises:
        ValueError: Something in it names no model.
    """
    models: list[T] = []
    for entry in fallback if isinstance(fallback, list) else [fallback]:
        if isinstance(entry, str):
            models.append(of_string(entry))
        elif isinstance(entry, dict) and isinstance(entry.get("model"), str):
            models.append(of_dict(entry))
        else:
            raise ValueError(
                f"fallback: expected a model string or a dict with 'model', got {entry!r}"
            )
    return models
