"""A worker and its jobs, as a server, an operator and a log collector see them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from google.protobuf.json_format import MessageToDict

from fakes.livekit_server import API_KEY, API_SECRET, FakeLiveKitServer, WorkerPeer

PROGRAM = Path(__file__).parent / "worker_program.py"

OWN = (
    "LIVEKIT_AGENT_NAME",
    "LIVEKIT_AGENT_NAME_OVERRIDE",
    "LIVEKIT_WORKER_TOKEN",
    "LIVEKIT_AGENT_DEPLOYMENT",
    "LIVEKIT_LOG_LEVEL",
    "LIVEKIT_REGION_NAME",
)
"""Variables that a scene sets, or that are not set."""

Play = Callable[["Stage"], Coroutine[Any, Any, None]]

SCENES: dict[str, Play] = {}


def scene(play: Play) -> Play:
    """Register a scene under the name of its function."""
    SCENES[play.__name__] = play
    return play


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Stage:
    """A server, and a worker in a process of its own."""

    def __init__(self, livekit: FakeLiveKitServer, folder: Path) -> None:
        self.livekit = livekit
        self.noted: list[str] = []
        self.port, self.metrics = _free_port(), _free_port()
        self._notes = folder / "notes"
        self._logs = folder / "logs"
        self.process: asyncio.subprocess.Process | None = None
        self.peer: WorkerPeer | None = None

    def note(self, what: str) -> None:
        """Note something."""
        self.noted.append(what)

    async def start(self, *arguments: str, registers: bool = True, **env: str) -> None:
        """Start the worker."""
        inherited = {key: value for key, value in os.environ.items() if key not in OWN}
        with self._logs.open("wb") as logs:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(PROGRAM),
                *(arguments or ("start",)),
                stdout=logs,
                stderr=asyncio.subprocess.DEVNULL,
                env={
                    **inherited,
                    "LIVEKIT_URL": self.livekit.url,
                    "LIVEKIT_API_KEY": API_KEY,
                    "LIVEKIT_API_SECRET": API_SECRET,
                    "PARITY_NOTES": str(self._notes),
                    "PARITY_PORT": str(self.port),
                    "PARITY_METRICS": str(self.metrics),
                    **env,
                },
            )
        if registers:
            await self.livekit.wait_for(lambda: self.livekit.workers, 60)
            self.peer = self.livekit.workers[-1]

    async def offer(self, room: str) -> str:
        """Offer a job."""
        assert self.peer is not None
        return await self.livekit.offer(self.peer, room=room, job_id=f"AJ_{room}")

    async def answered(self, room: str) -> None:
        """Offer a job, and note the answer."""
        job = await self.offer(room)
        await self.livekit.wait_for(lambda: self.livekit.answers(job))
        for answer in self.livekit.answers(job):
            self.note(f"{room}: answer {_plain(answer)}")

    async def worked(self, room: str) -> None:
        """Let a job run to its end, and note all that is told of it."""
        await self.answered(room)
        job = f"AJ_{room}"
        await self.livekit.ended(job, 30)
        self.note(f"{room}: {' '.join(self.livekit.statuses(job))}")

    async def until_noted(self, what: str) -> None:
        """Wait until a job has told something."""

        async def poll() -> None:
            while not self._notes.exists() or what not in self._notes.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

        await asyncio.wait_for(poll(), 30)

    async def end(self, *signals: signal.Signals) -> None:
        """Send signals, and note how the worker ends."""
        assert self.process is not None
        for one in signals or (signal.SIGTERM,):
            self.process.send_signal(one)
            await asyncio.sleep(0.3)
        self.note(f"exit status {await asyncio.wait_for(self.process.wait(), 60)}")

    def tell(self) -> None:
        """Note what the jobs have told, sorted: there are several processes."""
        if self._notes.exists():
            for line in sorted(self._notes.read_text().splitlines()):
                self.note(re.sub(r"AW_\d+", "AW_*", line))

    def logs(self) -> list[dict[str, Any]]:
        """The lines of the log."""
        lines = self._logs.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    async def get(self, port: int, path: str) -> tuple[int, str, str]:
        """Ask the worker over HTTP."""
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{port}{path}") as answer,
        ):
            return answer.status, answer.content_type, await answer.text()


def _plain(message: Any) -> str:
    return json.dumps(MessageToDict(message, preserving_proto_field_name=True), sort_keys=True)


# -- registering --------------------------------------------------------------------------------


@scene
async def registering(stage: Stage) -> None:
    await stage.start(PARITY_NAME="helper", LIVEKIT_AGENT_DEPLOYMENT="blue")
    peer = stage.peer
    assert peer is not None
    stage.note(f"version {peer.register.version.partition('+')[0]}")
    peer.register.ClearField("version")
    stage.note(f"register {_plain(peer.register)}")
    stage.note(f"query {peer.query}")
    claims = {k: v for k, v in peer.claims.items() if k not in ("exp", "nbf", "iat")}
    stage.note(f"claims {json.dumps(claims, sort_keys=True)}")
    lifetime = int(str(peer.claims["exp"])) - int(str(peer.claims["nbf"]))
    stage.note(f"claims for {lifetime} s")
    await stage.livekit.wait_for(
        lambda: any(m.HasField("update_worker") for m in peer.messages),
    )
    stage.note(f"status {_plain(peer.messages[0])}")
    await stage.end()
    last = [m for m in peer.messages if m.HasField("update_worker")][-1]
    stage.note(f"at last {_plain(last)}")


@scene
async def named_by_the_environment(stage: Stage) -> None:
    await stage.start(LIVEKIT_AGENT_NAME="default")
    assert stage.peer is not None
    stage.note(f"{stage.peer.register.agent_name}")
    await stage.end(signal.SIGINT)


@scene
async def named_otherwise(stage: Stage) -> None:
    await stage.start(
        PARITY_NAME="helper",
        LIVEKIT_AGENT_NAME="default",
        LIVEKIT_AGENT_NAME_OVERRIDE="other",
        LIVEKIT_WORKER_TOKEN="hosted",
    )
    assert stage.peer is not None
    stage.note(f"{stage.peer.register.agent_name} {stage.peer.query}")
    await stage.end()


# -- offers ---------------------------------------------------------------------------------------


@scene
async def offers(stage: Stage) -> None:
    await stage.start(PARITY_NAME="helper")
    for room in ("rejected", "passed", "undecided", "failing"):
        await stage.answered(room)
    for room in ("telling", "named", "raising", "dying"):
        await stage.worked(room)
    await stage.end()
    stage.tell()


@scene
async def offers_to_a_full_worker(stage: Stage) -> None:
    await stage.start(PARITY_FULL="1")
    peer = stage.peer
    assert peer is not None
    await stage.livekit.wait_for(lambda: any(m.update_worker.status for m in peer.messages), 20)
    await stage.answered("accepted")
    await stage.end()
    stage.tell()


@scene
async def terminated(stage: Stage) -> None:
    await stage.start()
    await stage.answered("staying")
    await stage.until_noted("works")
    assert stage.peer is not None
    await stage.livekit.terminate(stage.peer, "AJ_staying")
    await stage.livekit.ended("AJ_staying", 40)
    stage.note(" ".join(stage.livekit.statuses("AJ_staying")))
    await stage.end()
    stage.tell()


# -- ending -----------------------------------------------------------------------------------------


@scene
async def a_server_that_is_not_there(stage: Stage) -> None:
    url = f"ws://127.0.0.1:{_free_port()}"
    await stage.start(registers=False, LIVEKIT_URL=url, PARITY_RETRIES="0")
    assert stage.process is not None
    status = await asyncio.wait_for(stage.process.wait(), 60)
    stage.note(f"fails: {status != 0}")


@scene
async def without_a_secret(stage: Stage) -> None:
    await stage.start(registers=False, LIVEKIT_API_SECRET="")
    assert stage.process is not None
    status = await asyncio.wait_for(stage.process.wait(), 60)
    stage.note(f"fails: {status != 0}")


@scene
async def ended_in_development(stage: Stage) -> None:
    await stage.start("dev")
    await stage.answered("staying")
    await stage.until_noted("works")
    await stage.end(signal.SIGINT)
    stage.tell()


# -- over HTTP ----------------------------------------------------------------------------------------


@scene
async def over_http(stage: Stage) -> None:
    await stage.start(PARITY_NAME="helper")
    await stage.worked("working")
    status, kind, text = await stage.get(stage.port, "/")
    stage.note(f"/ {status} {kind} {text}")
    status, kind, text = await stage.get(stage.port, "/worker")
    told = json.loads(text)
    told["sdk_version"] = told["sdk_version"].partition("+")[0]
    stage.note(f"/worker {status} {kind} {json.dumps(told, sort_keys=True)}")
    status, kind, text = await stage.get(stage.port, "/nothing")
    stage.note(f"/nothing {status}")
    status, kind, text = await stage.get(stage.metrics, "/metrics")
    stage.note(f"/metrics {status} {kind}")
    lines = set()
    for line in text.splitlines():
        if "lk_agents" in line and not line.startswith("# HELP"):
            line = re.sub(r'nodename="[^"]*"', "nodename", line)
            lines.add(line if line.startswith("#") else line.rpartition(" ")[0])
    for line in sorted(line for line in lines if "_created" not in line):
        stage.note(line)
    await stage.end()


# -- logs and commands ----------------------------------------------------------------------------------


@scene
async def logs(stage: Stage) -> None:
    await stage.start("start", "--log-level", "DEBUG", LIVEKIT_REGION_NAME="here")
    await stage.worked("telling")
    await stage.end()
    assert stage.process is not None
    told, pid = set(), stage.process.pid
    for line in stage.logs():
        if line["name"] == "agent-of-parity":
            first = str(line["message"]).splitlines()[0]
            told.add(f"{first}: {line['level']} {' '.join(sorted(line))}")
            if line["pid"] != pid:
                told.add(f"{first}: from a process of its own")
        elif line["message"] in (
            "starting worker",
            "registered worker",
            "received job request",
            "initializing process",
            "process initialized",
            "draining worker",
            "shutting down worker",
        ):
            told.add(f"{line['message']}: {line['level']} {line['name']} {' '.join(sorted(line))}")
    for each in sorted(told):
        stage.note(each)


@scene
async def commands(stage: Stage) -> None:
    for command in ("", "start", "dev", "console", "connect", "download-files"):
        await _help(stage, str(PROGRAM), command)
    for command in ("", "start", "console", "download-files"):
        await _help(stage, "-m", "livekit.agents", command)


async def _help(stage: Stage, *program: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(part for part in program if part),
        "--help",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "200", "PARITY_NOTES": os.devnull, "NO_COLOR": "1"},
    )
    text = (await process.communicate())[0].decode()
    named = " ".join(program[-2:] if program[0] == "-m" else program[-1:])
    stage.note(f"{named} --help: status {process.returncode}")
    for option in sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))):
        stage.note(f"{named} {option}")
    for variable in sorted(set(re.findall(r"LIVEKIT_[A-Z_]+", text))):
        stage.note(f"{named} {variable}")


@asynccontextmanager
async def _stage() -> AsyncIterator[Stage]:
    with tempfile.TemporaryDirectory() as folder:
        async with FakeLiveKitServer().serve() as livekit:
            stage = Stage(livekit, Path(folder))
            try:
                yield stage
            finally:
                if stage.process is not None and stage.process.returncode is None:
                    stage.process.kill()
                    await stage.process.wait()


async def _play(name: str) -> list[str]:
    async with _stage() as stage:
        try:
            await asyncio.wait_for(SCENES[name](stage), 120)
        except (asyncio.TimeoutError, AssertionError) as error:
            stage.note(f"stopped: {type(error).__name__}")
        return stage.noted


async def main() -> dict[str, list[str]]:
    """Play the scenes, two at a time."""
    turn = asyncio.Semaphore(2)

    async def one(name: str) -> list[str]:
        async with turn:
            return await _play(name)

    chosen = sys.argv[1:] or list(SCENES)
    noted = await asyncio.gather(*map(one, chosen))
    return dict(zip(chosen, noted, strict=True))


if __name__ == "__main__":
    json.dump(asyncio.run(main()), sys.stdout)
