"""A worker for tests: what its agents do, and the server it is registered with.

Job processes import the agents from here by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fakes.livekit_server import API_KEY, API_SECRET, FakeLiveKitServer, WorkerPeer
from fakes.llm import FakeLLM
from livekit.agents import Agent, AgentServer, AgentSession, JobContext, JobProcess
from livekit.agents.inference_runner import _InferenceRunner
from livekit.agents.log import logger

OUT = "WORKER_TEST_OUT"
"""Environment variable: directory where jobs leave their traces."""


def leave(name: str, text: str = "") -> None:
    """Leave a trace."""
    path = Path(os.environ[OUT]) / name
    path.write_text(text or str(os.getpid()), encoding="utf-8")


def found(name: str) -> bool:
    """Whether a trace was left."""
    return (Path(os.environ[OUT]) / name).exists()


def prepare(proc: JobProcess) -> None:
    proc.userdata["prepared"] = True


async def scripted(ctx: JobContext) -> None:
    """Does what the name of the room says, as `verb-...`."""
    leave(f"started-{ctx.room.name}")

    async def record_end(reason: str) -> None:
        leave(f"ended-{ctx.room.name}", reason)

    ctx.add_shutdown_callback(record_end)
    await SCRIPTS[ctx.room.name.partition("-")[0]](ctx)


async def _finish(ctx: JobContext) -> None:
    assert ctx.proc.userdata["prepared"]
    logger.info("a line from the job", extra={"from_job": ctx.job.id})
    ctx.shutdown("all done")


async def _stay(ctx: JobContext) -> None:
    await asyncio.Event().wait()


async def _wait(ctx: JobContext) -> None:
    return None


async def _raise(ctx: JobContext) -> None:
    raise ValueError("the agent has a bug")


async def _vanish(ctx: JobContext) -> None:
    os._exit(3)


async def _block(ctx: JobContext) -> None:
    time.sleep(3600)  # noqa: ASYNC251


async def _stubborn(ctx: JobContext) -> None:
    """Ignores its cancellation."""
    ctx.shutdown("stubborn")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


def _start_sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)


async def _fork(ctx: JobContext) -> None:
    """Leaves a process behind that holds every descriptor it got."""
    child = _start_sleeper()
    leave(f"child-{ctx.room.name}", str(child.pid))
    ctx.shutdown("left a process behind")


async def _thread(ctx: JobContext) -> None:
    """Leaves a thread behind that never ends."""
    threading.Thread(target=time.sleep, args=(3600,), name="leftover").start()
    ctx.shutdown("left a thread behind")


async def _hang(ctx: JobContext) -> None:
    """One callback hangs, one raises, and one is well."""

    async def hang() -> None:
        await asyncio.Event().wait()

    async def fail() -> None:
        raise RuntimeError("this callback fails")

    async def succeed() -> None:
        leave(f"callback-{ctx.room.name}")

    for callback in (hang, fail, succeed):
        ctx.add_shutdown_callback(callback)
    ctx.shutdown("with callbacks")


SCRIPTS: dict[str, Any] = {
    "finish": _finish,
    "stay": _stay,
    "wait": _wait,
    "raise": _raise,
    "vanish": _vanish,
    "block": _block,
    "stubborn": _stubborn,
    "fork": _fork,
    "thread": _thread,
    "hang": _hang,
}


def make_server(**options: Any) -> AgentServer:
    """A server on free ports, without waiting processes unless asked for."""
    defaults: dict[str, Any] = {
        "port": 0,
        "host": "127.0.0.1",
        "num_idle_processes": 0,
        "load_threshold": float("inf"),
        "setup_fnc": prepare,
        "shutdown_process_timeout": 2.0,
        "entrypoint_shutdown_timeout": 0.5,
    }
    server = AgentServer(**{**defaults, **options})
    server.rtc_session(scripted)
    return server


class Serving:
    """A worker, and the server that it is registered with."""

    def __init__(self, server: AgentServer, livekit: FakeLiveKitServer, out: Path) -> None:
        self.server = server
        self.livekit = livekit
        self.out = out
        self.task: asyncio.Task[None] | None = None
        self.peer: WorkerPeer | None = None

    async def offer(self, room: str, **options: Any) -> str:
        """Offer a job to the worker. Returns the job's id."""
        assert self.peer is not None
        return await self.livekit.offer(self.peer, room=room, **options)

    async def run(self, room: str) -> str:
        """Run a job to its end. Returns the verdict."""
        return await self.livekit.ended(await self.offer(room))

    def trace(self, name: str) -> str | None:
        """What a job left behind under a name."""
        path = self.out / name
        return path.read_text(encoding="utf-8") if path.exists() else None

    async def until(self, condition: Callable[[], Any], timeout: float = 15.0) -> None:
        """Wait until something outside of this process is so."""

        async def poll() -> None:
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

        await asyncio.wait_for(poll(), timeout)


@asynccontextmanager
async def serve(server: AgentServer, out: Path, **run: Any) -> AsyncIterator[Serving]:
    """Run a worker against a fake LiveKit server for the time of a block."""
    async with FakeLiveKitServer().serve() as livekit:
        server.update_options(ws_url=livekit.url, api_key=API_KEY, api_secret=API_SECRET)
        serving = Serving(server, livekit, out)
        serving.task = asyncio.get_running_loop().create_task(server.run(**run))
        try:
            serving.peer = await livekit.worker()
            yield serving
        finally:
            await server.aclose()
            with contextlib.suppress(Exception):
                await serving.task


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def prepare_badly(proc: JobProcess) -> None:
    raise RuntimeError("the model is missing")


def prepare_for_ever(proc: JobProcess) -> None:
    time.sleep(3600)


class Echo(_InferenceRunner):
    """Answers with what it is asked, and with its process; fails or dies on request."""

    INFERENCE_METHOD = "test_echo"

    def initialize(self) -> None:
        self._ready = True

    def run(self, data: bytes) -> bytes | None:
        assert self._ready
        if data == b"fail":
            raise ValueError("this input is bad")
        if data == b"die":
            os._exit(9)
        if data == b"wait":
            time.sleep(0.3)
        return data + b" " + str(os.getpid()).encode()


async def _infer(ctx: JobContext) -> None:
    """Uses a local model: two requests at once, a failing one, an unknown one, and a dying one."""
    infer = ctx.inference_executor.do_inference
    began = time.monotonic()
    answers = await asyncio.gather(infer("test_echo", b"wait"), infer("test_echo", b"wait"))
    told = [answer.decode() for answer in answers if answer is not None]
    told.append("at once" if time.monotonic() - began < 0.55 else "one by one")
    for method, data in (("test_echo", b"fail"), ("nobody", b""), ("test_echo", b"die")):
        try:
            await infer(method, data)
        except RuntimeError as error:
            told.append(str(error))
    while True:
        try:
            again = await infer("test_echo", b"again")
        except RuntimeError:
            await asyncio.sleep(0.1)
            continue
        assert again is not None
        told.append(again.decode())
        break
    leave(f"told-{ctx.room.name}", "\n".join(told))
    ctx.shutdown("inferred")


async def _grow(ctx: JobContext) -> None:
    """Uses more memory than it may."""
    ctx.proc.userdata["memory"] = b"x" * (300 << 20)


SCRIPTS["infer"] = _infer
SCRIPTS["grow"] = _grow


async def _report(ctx: JobContext) -> None:
    """A recorded conversation."""
    logging.getLogger("user").warning("before the session", extra={"answer": 42})
    session = AgentSession[None](llm=FakeLLM(default="How do you do?"))
    await session.start(
        agent=Agent(instructions="Be polite."),
        record={"audio": False, "traces": True, "logs": True, "transcript": True},
    )
    await session.run(user_input="Hello")
    ctx.tagger.success("they talked")
    ctx.shutdown("reported")


SCRIPTS["report"] = _report
