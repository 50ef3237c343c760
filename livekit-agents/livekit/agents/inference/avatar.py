"""Avatars that the inference gateway starts."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
from typing_extensions import TypedDict

from .._exceptions import APIError
from ..log import logger
from ..types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, APIConnectOptions, NotGivenOr
from ..utils import is_given
from ..utils.aio import run_bounded
from ..utils.http_context import _ssl_context
from ..utils.retry import RetryPolicy
from ..voice.avatar import AvatarSession as BaseAvatarSession, DataStreamAudioOutput
from ._requests import post_json
from ._utils import HEADER_INFERENCE_PROVIDER, Gateway

if TYPE_CHECKING:
    from livekit import rtc

    from ..voice.agent_session import AgentSession

__all__ = ["AvatarSession", "LemonSliceOptions"]

SERVICE = "LiveKit Inference avatar"

_REQUEST_TIMEOUT = 60.0
_TERMINATE_TIMEOUT = 5.0
_SID_TIMEOUT = 10.0
_DEFAULT_SAMPLE_RATE = 16000


class LemonSliceOptions(TypedDict, total=False):
    """Options of LemonSlice. `idle_timeout` is in seconds."""

    image_url: str
    prompt: str
    idle_prompt: str
    idle_timeout: int


_TOP_LEVEL = {
    "image_url": "image_url",
    "prompt": "prompt",
    "idle_prompt": "idle_prompt",
    "idle_timeout": "idle_timeout_s",
}
"""Options with a field of their own in the request -> its name."""


class AvatarSession(BaseAvatarSession[Any]):
    """An avatar in a room, started by the gateway. The session speaks through it."""

    def __init__(
        self,
        model: str,
        *,
        avatar_participant_identity: NotGivenOr[str] = NOT_GIVEN,
        avatar_participant_name: NotGivenOr[str] = NOT_GIVEN,
        extra_kwargs: NotGivenOr[LemonSliceOptions | dict[str, Any]] = NOT_GIVEN,
        base_url: NotGivenOr[str] = NOT_GIVEN,
        api_key: NotGivenOr[str] = NOT_GIVEN,
        api_secret: NotGivenOr[str] = NOT_GIVEN,
        http_session: aiohttp.ClientSession | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> None:
        """Choose an avatar. Nothing is started yet.

        Args:
            model: ``"provider"`` or ``"provider/avatar"``.
            avatar_participant_identity: With which it joins; made of the provider by default.
            avatar_participant_name: Shown in the room; the identity by default.
            extra_kwargs: Options of the provider.
            base_url: Of the gateway; `LIVEKIT_INFERENCE_URL` by default.
            api_key: `LIVEKIT_INFERENCE_API_KEY` or `LIVEKIT_API_KEY` by default.
            api_secret: `LIVEKIT_INFERENCE_API_SECRET` or `LIVEKIT_API_SECRET` by default.
            http_session: What to send requests with; one for each request by default.
            conn_options: How often to try, and the connect timeout.

        Raises:
            ValueError: Credentials are missing, or arguments contradict each other.
        """
        super().__init__()
        self._provider, _, avatar_id = model.partition("/")
        if not self._provider.strip():
            raise ValueError(f"{model!r} names no avatar: expected 'provider' or 'provider/avatar'")
        self._avatar_id = avatar_id or None
        self._extra = dict(extra_kwargs) if is_given(extra_kwargs) else {}
        if self._avatar_id is not None and "image_url" in self._extra:
            raise ValueError(f"{model!r} names an avatar: image_url can't be given with it")
        self._gateway = Gateway.resolve(base_url=base_url, api_key=api_key, api_secret=api_secret)
        self._identity = (
            avatar_participant_identity
            if is_given(avatar_participant_identity)
            else f"{self._provider}-inference-avatar"
        )
        self._name = (
            avatar_participant_name if is_given(avatar_participant_name) else self._identity
        )
        self._http_session = http_session
        self._conn_options = conn_options
        self._started = False
        self._session_id: str | None = None
        self._provider_session_id: str | None = None
        self._terminate_token: str | None = None

    @property
    def avatar_identity(self) -> str:
        """The identity with which the avatar joins."""
        return self._identity

    @property
    def provider(self) -> str:
        """Who makes the avatar."""
        return self._provider

    @property
    def session_id(self) -> str | None:
        """The gateway's id of the avatar's session; None before it is started."""
        return self._session_id

    @property
    def provider_session_id(self) -> str | None:
        """The provider's id of it."""
        return self._provider_session_id

    async def start(
        self,
        agent_session: AgentSession[Any],
        room: rtc.Room,
        *,
        livekit_url: NotGivenOr[str] = NOT_GIVEN,
    ) -> None:
        """Let the avatar join the room, and the session speak through it.

        Args:
            agent_session: The session.
            room: The room of both.
            livekit_url: Of the server; `LIVEKIT_URL` by default.

        Raises:
            RuntimeError: It was started before.
            ValueError: The server's URL is not known.
            APIError: The gateway did not start it.
        """
        if self._started:
            raise RuntimeError("an AvatarSession starts once: make another one")
        url = livekit_url if is_given(livekit_url) else os.environ.get("LIVEKIT_URL")
        if not url:
            raise ValueError("livekit_url is required: pass livekit_url=, or set LIVEKIT_URL")
        self._started = True
        await super().start(agent_session, room)
        body = await self._create(self._request(room, url, await _sid_of(room)))
        self._session_id = _text(body.get("session_id"))
        self._provider_session_id = _text(body.get("provider_session_id"))
        self._terminate_token = _text(body.get("terminate_token"))
        rate = body.get("sample_rate")
        agent_session.output.audio = DataStreamAudioOutput(
            room,
            destination_identity=self._identity,
            sample_rate=rate if isinstance(rate, int) and rate > 0 else _DEFAULT_SAMPLE_RATE,
        )

    def _request(self, room: rtc.Room, url: str, room_sid: str) -> dict[str, Any]:
        extra = dict(self._extra)
        request: dict[str, Any] = {
            "provider": self._provider,
            "livekit_url": url,
            "room_name": room.name,
            "room_sid": room_sid,
            "avatar_identity": self._identity,
            "avatar_name": self._name,
            "agent_identity": room.local_participant.identity,
        }
        if self._avatar_id is not None:
            request["avatar_id"] = self._avatar_id
        for option, name in _TOP_LEVEL.items():
            if option in extra:
                request[name] = extra.pop(option)
        if extra:
            request["extra_kwargs"] = extra
        return request

    async def _create(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Ask until it is done. The same key each time: no second avatar joins."""
        key = uuid.uuid4().hex
        policy = RetryPolicy(self._conn_options)
        while True:
            try:
                return await self._post("/avatar/sessions", request, {"Idempotency-Key": key})
            except APIError as error:
                delay = policy.next_delay(error)
                if delay is None:
                    raise
                logger.warning("%s: %s, retrying in %.2gs", SERVICE, error, delay)
                await asyncio.sleep(delay)

    async def _post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> dict[str, Any]:
        async with self._http() as session:
            reply = await post_json(
                session,
                self._gateway,
                path,
                body,
                service=SERVICE,
                timeout=aiohttp.ClientTimeout(
                    total=_REQUEST_TIMEOUT, sock_connect=self._conn_options.timeout
                ),
                headers={HEADER_INFERENCE_PROVIDER: self._provider, **headers},
            )
        return reply.body

    @asynccontextmanager
    async def _http(self) -> AsyncIterator[aiohttp.ClientSession]:
        if self._http_session is not None:
            yield self._http_session
            return
        connector = aiohttp.TCPConnector(ssl=_ssl_context())
        async with aiohttp.ClientSession(connector=connector) as session:
            yield session

    async def aclose(self) -> None:
        """Let the gateway end the avatar, in five seconds at most, and the session speak as before.

        A failure is logged; another call tries again.
        """
        try:
            await self._terminate()
        finally:
            await super().aclose()

    async def _terminate(self) -> None:
        if self._provider_session_id is None or self._terminate_token is None:
            return
        request = {
            "provider": self._provider,
            "provider_session_id": self._provider_session_id,
            "terminate_token": self._terminate_token,
        }
        try:
            await run_bounded(
                self._post("/avatar/sessions/terminate", request, {}),
                _TERMINATE_TIMEOUT,
                owner=SERVICE,
            )
        except (APIError, asyncio.TimeoutError) as error:
            logger.warning("%s could not be ended: %s", SERVICE, error)
        else:
            self._terminate_token = None


async def _sid_of(room: rtc.Room) -> str:
    """Known once the room is connected.

    Raises:
        RuntimeError: It does not become known.
    """
    try:
        return await asyncio.wait_for(room.sid, _SID_TIMEOUT)
    except asyncio.TimeoutError:
        raise RuntimeError("the room has no id: connect it before starting an avatar") from None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
