"""The emulator: an aiohttp server that speaks the gateway's protocols."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import aiohttp
import jwt
from aiohttp import web
from typing_extensions import Self

from livekit.agents.utils.aio import Deadline, TaskScope

from . import audio_routes
from .completions import CompletionRoute
from .faults import Fault
from .live_route import LiveRoute
from .memory_network import MemoryNetwork
from .realtime_route import RealtimeRoute
from .recognizers import Emit, Recognizer, ToneRecognizer
from .records import ConnectionRecord
from .speech_routes import BargeinRoute, EotRoute, SttRoute, TtsRoute
from .voices import ToneVoice, Voice
from .wire import HungUp, Wire, swallow

KEY, SECRET = "emulator-key", "emulator-secret-of-thirty-two-chars"
_LEEWAY = 60
_MAX_FRAME = 64 * 1024 * 1024

_DECISIONS = {
    "answers": {
        "done": {"type": "noul", "noul": 0.8},
        "mood": {"type": "choice", "choice": "glad", "probabilities": {"glad": 0.7, "cross": 0.3}},
        "need": {"type": "score", "score": 1.0, "probabilities": [0.1, 0.8, 0.1]},
    },
    "model": "decisions",
    "usage": {"input_tokens": 7, "output_tokens": 3},
    "id": "dec_1",
}
_AVATAR = {
    "session_id": "av_1",
    "provider_session_id": "pv_1",
    "terminate_token": "tt_1",
    "sample_rate": 24000,
}
_POSTS: list[tuple[str, str, dict[str, Any]]] = [
    ("/v1/decisions", "decisions", _DECISIONS),
    ("/v1/avatar/sessions", "avatar", _AVATAR),
    ("/v1/avatar/sessions/terminate", "avatar", {}),
]

MakeRecognizer = Callable[[Emit, int, bool], Recognizer]


def _tones(emit: Emit, sample_rate: int, endpointing: bool) -> Recognizer:
    return ToneRecognizer(emit, sample_rate, endpointing=endpointing)


class GatewayEmulator:
    """An inference gateway in this process.

    ::

        async with GatewayEmulator() as gateway:
            stt = inference.STT("deepgram/nova-3", **gateway.arguments())

    Args:
        network: Where to listen instead of on a socket of 127.0.0.1.
        port: To listen on; 0 takes a free one.
        keys: Valid API keys and their secrets.
        make_recognizer: Makes who hears one STT connection. Words as tones by default.
        voice: Who speaks. A tone by default.
        keep_audio: Keep all the audio that comes in.
    """

    def __init__(
        self,
        *,
        network: MemoryNetwork | None = None,
        port: int = 0,
        keys: dict[str, str] | None = None,
        make_recognizer: MakeRecognizer = _tones,
        voice: Voice | None = None,
        keep_audio: bool = True,
    ) -> None:
        self.network = network
        self.port = port
        self.keys = keys if keys is not None else {KEY: SECRET}
        self.make_recognizer = make_recognizer
        self.voice: Voice = voice or ToneVoice()
        self.keep_audio = keep_audio
        self.records: list[ConnectionRecord] = []
        """Every connection and request, in order."""
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        """For each route, those of its next connections."""
        self.standing: dict[str, Fault] = {}
        """For each route, that of connections for which none is queued."""
        self.completions = CompletionRoute()
        self.realtime = RealtimeRoute(self)
        self.live = LiveRoute(self)
        self.posts: list[tuple[str, Any, dict[str, str]]] = []
        """Other requests: path, body and headers."""
        self._wires: set[Wire] = set()
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._scope = TaskScope("gateway emulator")
        self.on_record: Callable[[ConnectionRecord], None] = lambda record: None
        """Called with each connection and request when it has ended."""
        self._ended = asyncio.Event()

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen."""
        app = web.Application(client_max_size=_MAX_FRAME)
        routes: dict[str, Any] = {
            "stt": SttRoute(self),
            "tts": TtsRoute(self),
            "bargein": BargeinRoute(),
            "eot": EotRoute(),
            "realtime": self.realtime,
            "live/sessions": self.live,
        }
        for name, route in routes.items():
            app.router.add_get(f"/v1/{name}", functools.partial(self._websocket, name, route.serve))
        app.router.add_post("/v1/chat/completions", self._completion)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/audio/transcriptions", self._transcription)
        app.router.add_post("/v1/audio/speech", self._speech)
        for path, name, answer in _POSTS:
            app.router.add_post(path, functools.partial(self._post, name, answer))
        self._runner = web.AppRunner(
            app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None
        )
        await self._runner.setup()
        await self._listen()

    async def _listen(self) -> None:
        assert self._runner is not None
        if self.network is not None:
            self.network.listen(self._runner.server)
            return
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await self._site.start()
        assert self._site._server is not None
        self.port = self._site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    async def aclose(self) -> None:
        """Stop listening and cut what is open."""
        await self.go_away()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._scope.cancel(0.5)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def go_away(self) -> None:
        """Die as a killed process does: connections break, new ones are refused."""
        if self.network is not None:
            self.network.listen(None)
        if self._site is not None:
            await self._site.stop()
            self._site = None
        for connection in list(self._connections()):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

    async def come_back(self) -> None:
        """Listen again, at the same address."""
        await self._listen()

    # -- for tests --------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """What clients take as `base_url`."""
        return f"http://127.0.0.1:{self.port}/v1"

    def arguments(self) -> dict[str, str]:
        """Constructor arguments of the clients."""
        key, secret = next(iter(self.keys.items()))
        return {"base_url": self.base_url, "api_key": key, "api_secret": secret}

    def client_session(self) -> aiohttp.ClientSession:
        """An HTTP session that reaches the emulator."""
        if self.network is not None:
            return self.network.client_session()
        return aiohttp.ClientSession()

    def inject(self, route: str, *faults: Fault) -> None:
        """Give the next connections of a route these faults, one each."""
        self.faults[route].extend(faults)

    def strike(self, route: str, fault: Fault) -> None:
        """Break the open connections of a route with this fault, at their next message."""
        for wire in self._wires:
            if wire.record.route == route:
                wire.meet(fault)

    def strike_now(self, route: str, fault: Fault) -> None:
        """Break the open connections of a route with this fault, at once."""
        for wire in list(self._wires):
            if wire.record.route == route:
                wire.break_now(fault)

    def of(self, route: str) -> list[ConnectionRecord]:
        """The connections of a route that were let in."""
        return [r for r in self.records if r.route == route and r.refused is None]

    def dials(self, route: str) -> int:
        """How often a client tried to connect, as far as the server noticed."""
        return sum(record.route == route for record in self.records)

    @property
    def open_connections(self) -> list[ConnectionRecord]:
        """WebSockets that have not ended."""
        return [record for record in self.records if record.is_open]

    @property
    def open_sockets(self) -> int:
        """TCP connections, those without a WebSocket included."""
        return len(list(self._connections()))

    async def until_closed(self, timeout: float = 5.0) -> None:
        """Wait until no connection is open.

        Raises:
            asyncio.TimeoutError: One still is.
        """
        deadline = Deadline(timeout)
        while self.open_connections:
            self._ended.clear()
            await asyncio.wait_for(self._ended.wait(), deadline.remaining())

    def _connections(self) -> Iterable[Any]:
        if self._runner is None or self._runner.server is None:
            return ()
        return self._runner.server.connections

    # -- serving ----------------------------------------------------------------------------------

    def _take_fault(self, route: str) -> Fault | None:
        return self.faults[route].popleft() if self.faults[route] else self.standing.get(route)

    def _record(self, route: str, request: web.Request) -> ConnectionRecord:
        record = ConnectionRecord(
            route,
            dict(request.query),
            dict(request.headers),
            opened_at=asyncio.get_running_loop().time(),
        )
        self.records.append(record)
        return record

    async def _answer_early(
        self, request: web.Request, record: ConnectionRecord, fault: Fault | None
    ) -> web.StreamResponse | None:
        """Whatever keeps a request from being let in."""
        if fault is not None and fault.kind == "slow_accept":
            await asyncio.sleep(fault.options["seconds"])
        elif fault is not None and fault.kind == "stall_upgrade":
            await asyncio.get_running_loop().create_future()
        elif fault is not None and fault.kind == "reset_upgrade":
            assert request.transport is not None
            if fault.options["how"] == "abort":
                request.transport.abort()
            else:
                request.transport.close()
            await asyncio.get_running_loop().create_future()
        elif fault is not None and fault.kind == "refuse":
            options = dict(fault.options)
            if options.pop("unfinished"):
                await _begin_refusal(request, record, options["status"])
            return _refusal(record, **options)
        complaint = self._check_token(request)
        if complaint is not None:
            body = {"type": "unauthorized", "error": complaint, "hint": "check the API key"}
            return _refusal(record, 401, None, body)
        return None

    def _check_token(self, request: web.Request) -> str | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            return "no bearer token"
        try:
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss", "")
            secret = self.keys.get(issuer)
            if secret is None:
                return "unknown API key"
            claims = jwt.decode(
                token,
                secret,
                algorithms=["HS256"],
                # the library's clock is not that of the tests
                options={"require": ["exp", "nbf"], "verify_exp": False, "verify_nbf": False},
            )
        except jwt.PyJWTError as error:
            return str(error)
        if not claims["nbf"] - _LEEWAY <= time.time() <= claims["exp"] + _LEEWAY:
            return "the token is not valid at this time"
        allowed = claims.get("inference", {}).get("perform") is True
        return None if allowed else "the token does not allow inference"

    async def _websocket(
        self, route: str, serve: Callable[[Wire], Any], request: web.Request
    ) -> web.StreamResponse:
        record = self._record(route, request)
        fault = self._take_fault(route)
        try:
            refusal = await self._answer_early(request, record, fault)
            if refusal is not None:
                return refusal
            silent = fault is not None and fault.kind == "no_close_reply"
            ws = web.WebSocketResponse(
                autoclose=not silent, max_msg_size=_MAX_FRAME, timeout=0.5, autoping=False
            )
            await ws.prepare(request)
            await self._serve(serve, Wire(request, ws, record), fault, len(self.records))
            return ws
        finally:
            record.closed_at = asyncio.get_running_loop().time()
            if record.closed_by is None:
                record.closed_by = "lost"
            self._ended.set()
            self.on_record(record)

    async def _serve(
        self, serve: Callable[[Wire], Any], wire: Wire, fault: Fault | None, number: int
    ) -> None:
        wire.fault = fault
        wire.session_id = f"session_{number}"
        self._wires.add(wire)
        try:
            await serve(wire)
        except HungUp:
            pass
        finally:
            self._wires.discard(wire)
            wire.release()

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        record = self._record("llm", request)
        fault = self._take_fault("llm")
        try:
            refusal = await self._answer_early(request, record, fault)
            if refusal is not None:
                return refusal
            if fault is not None and fault.kind == "half_open":
                swallow(request.transport)
                await asyncio.get_running_loop().create_future()
            return await self.completions.serve(request, record, fault)
        finally:
            record.closed_at = asyncio.get_running_loop().time()
            self._ended.set()
            self.on_record(record)

    async def _post(
        self, route: str, answer: dict[str, Any], request: web.Request
    ) -> web.StreamResponse:
        record = self._record(route, request)
        body = await request.json()
        self.posts.append((request.path, body, dict(request.headers)))
        try:
            refusal = await self._answer_early(request, record, self._take_fault(route))
            return refusal if refusal is not None else web.json_response(answer)
        finally:
            record.closed_at = asyncio.get_running_loop().time()
            self._ended.set()

    async def _transcription(self, request: web.Request) -> web.StreamResponse:
        record = self._record("audio/transcriptions", request)
        try:
            refusal = await self._answer_early(request, record, self._take_fault(record.route))
            return refusal or await audio_routes.transcribe(request, self.make_recognizer)
        finally:
            record.closed_at = asyncio.get_running_loop().time()
            self._ended.set()

    async def _speech(self, request: web.Request) -> web.StreamResponse:
        record = self._record("audio/speech", request)
        try:
            refusal = await self._answer_early(request, record, self._take_fault(record.route))
            return refusal or await audio_routes.speak(request, self.voice)
        finally:
            record.closed_at = asyncio.get_running_loop().time()
            self._ended.set()

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": []})


async def _begin_refusal(request: web.Request, record: ConnectionRecord, status: int) -> None:
    """Answer, and never come to the end of it."""
    record.refused = status
    response = web.StreamResponse(status=status, headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b'{"error":')
    await asyncio.get_running_loop().create_future()


def _refusal(
    record: ConnectionRecord, status: int, retry_after: float | None, body: Any
) -> web.Response:
    record.refused = status
    headers = {"X-LiveKit-Request-Id": f"req_{id(record):x}"}
    if retry_after is not None:
        headers["Retry-After"] = f"{retry_after:g}"
    answer = body if body is not None else {"error": {"message": "refused", "code": status}}
    return web.json_response(answer, status=status, headers=headers)
