"""The part of a LiveKit server that workers talk to: register them, offer jobs, see them end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import jwt
from aiohttp import WSMsgType, web
from livekit.protocol import agent, models

API_KEY = "devkey"
API_SECRET = "a-secret-that-is-long-enough-for-hs256"

_ids = itertools.count(1)


@dataclass
class WorkerPeer:
    """A worker as the server sees it, on one connection."""

    ws: web.WebSocketResponse
    query: dict[str, str]
    claims: dict[str, object]
    register: agent.RegisterWorkerRequest = field(default_factory=agent.RegisterWorkerRequest)
    messages: list[agent.WorkerMessage] = field(default_factory=list)
    gone: bool = False

    async def send(self, message: agent.ServerMessage) -> None:
        await self.ws.send_bytes(message.SerializeToString())


class FakeLiveKitServer:
    """Accepts workers on a loopback port, and remembers what they say."""

    def __init__(self) -> None:
        self.url = ""
        self.workers: list[WorkerPeer] = []
        self.attempts = 0
        self.refuse: Callable[[web.Request], web.Response | None] = lambda _: None
        self.close_after_register = False
        self.assign = True
        self.confirms = True
        self._changed = asyncio.Condition()

    # -- what tests do ------------------------------------------------------------------------------

    async def wait_for(self, condition: Callable[[], object], timeout: float = 20.0) -> None:
        """Wait until something the workers say makes a condition true."""

        async def wait() -> None:
            async with self._changed:
                await self._changed.wait_for(condition)

        await asyncio.wait_for(wait(), timeout)

    async def worker(self, index: int = -1) -> WorkerPeer:
        """The latest worker, once it is registered."""
        await self.wait_for(lambda: self.workers and not self.workers[index].gone)
        return self.workers[index]

    async def offer(
        self, worker: WorkerPeer, *, room: str = "room", agent_name: str = "", job_id: str = ""
    ) -> str:
        """Offer a job to a worker. Returns the job's id."""
        job = agent.Job(
            id=job_id or f"AJ_{next(_ids)}",
            dispatch_id="AD_1",
            type=agent.JobType.JT_ROOM,
            room=models.Room(sid=f"RM_{room}", name=room),
            agent_name=agent_name,
        )
        self._jobs[job.id] = job
        await worker.send(agent.ServerMessage(availability=agent.AvailabilityRequest(job=job)))
        return job.id

    async def terminate(self, worker: WorkerPeer, job_id: str) -> None:
        await worker.send(agent.ServerMessage(termination=agent.JobTermination(job_id=job_id)))

    def statuses(self, job_id: str) -> list[str]:
        """What was said of a job, in order."""
        return [
            agent.JobStatus.Name(m.update_job.status)
            for worker in self.workers
            for m in worker.messages
            if m.WhichOneof("message") == "update_job" and m.update_job.job_id == job_id
        ]

    def error(self, job_id: str) -> str:
        """What went wrong with a job."""
        for worker in self.workers:
            for m in worker.messages:
                if m.update_job.job_id == job_id and m.update_job.error:
                    return m.update_job.error
        return ""

    def answers(self, job_id: str) -> list[agent.AvailabilityResponse]:
        """The answers to the offer of a job."""
        return [
            m.availability
            for worker in self.workers
            for m in worker.messages
            if m.availability.job_id == job_id
        ]

    async def ended(self, job_id: str, timeout: float = 20.0) -> str:
        """Wait for the verdict on a job."""
        await self.wait_for(
            lambda: self.statuses(job_id)[-1:] in (["JS_SUCCESS"], ["JS_FAILED"]), timeout
        )
        return self.statuses(job_id)[-1]

    async def running(self, job_id: str) -> None:
        """Wait until a job runs."""
        await self.wait_for(lambda: "JS_RUNNING" in self.statuses(job_id))

    # -- what the server does -------------------------------------------------------------------------

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[FakeLiveKitServer]:
        """Listen for the time of a block."""
        self._jobs: dict[str, agent.Job] = {}
        app = web.Application()
        app.router.add_get("/agent", self._agent)
        app.router.add_post("/twirp/livekit.RoomService/{method}", self._room_service)
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            for worker in self.workers:
                await worker.ws.close()
            await runner.cleanup()

    async def _room_service(self, request: web.Request) -> web.Response:
        """There are no rooms, until somebody makes one."""
        from livekit.protocol import room

        try:
            jwt.decode(request.headers["Authorization"][7:], API_SECRET, algorithms=["HS256"])
        except jwt.InvalidTokenError:
            error = {"code": "unauthenticated", "msg": "invalid token"}
            return web.json_response(error, status=401)
        asked, reply = await request.read(), room.ListRoomsResponse().SerializeToString()
        if request.match_info["method"] == "CreateRoom":
            name = room.CreateRoomRequest.FromString(asked).name
            reply = models.Room(sid=f"RM_{name}", name=name).SerializeToString()
        return web.Response(body=reply, content_type="application/protobuf")

    async def _agent(self, request: web.Request) -> web.StreamResponse:
        self.attempts += 1
        refusal = self.refuse(request)
        if refusal is not None:
            await self._tell()
            return refusal
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            claims = jwt.decode(token, API_SECRET, algorithms=["HS256"])
        except jwt.InvalidTokenError:
            return web.Response(status=401)
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        worker = WorkerPeer(ws, dict(request.query), claims)
        first = await ws.receive()
        worker.register.CopyFrom(agent.WorkerMessage.FromString(first.data).register)
        self.workers.append(worker)
        await worker.send(
            agent.ServerMessage(
                register=agent.RegisterWorkerResponse(
                    worker_id=f"AW_{next(_ids)}",
                    server_info=models.ServerInfo(region="test", protocol=15),
                )
            )
        )
        if self.close_after_register:
            worker.gone = True
            await ws.close()
        await self._tell()
        async for msg in ws:
            if msg.type is WSMsgType.BINARY:
                await self._received(worker, agent.WorkerMessage.FromString(msg.data))
        worker.gone = True
        await self._tell()
        return ws

    async def _received(self, worker: WorkerPeer, message: agent.WorkerMessage) -> None:
        if message.HasField("ping"):
            pong = agent.WorkerPong(last_timestamp=message.ping.timestamp)
            if self.confirms:
                await worker.send(agent.ServerMessage(pong=pong))
            return
        worker.messages.append(message)
        if self.assign and message.availability.available:
            job = self._jobs[message.availability.job_id]
            await worker.send(
                agent.ServerMessage(
                    assignment=agent.JobAssignment(
                        job=job, token=jwt.encode({"sub": "agent"}, API_SECRET, algorithm="HS256")
                    )
                )
            )
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
