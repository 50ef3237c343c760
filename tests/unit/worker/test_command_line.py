"""The commands of an agent's file, on a real terminal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from fakes import agent_program
from fakes.livekit_server import API_KEY, API_SECRET, FakeLiveKitServer
from fakes.terminal import terminal
from fakes.worker import alive
from livekit.agents import cli
from livekit.agents.cli.console import AgentsConsole

pytestmark = pytest.mark.real_time

AGENT = Path(agent_program.__file__)


@pytest.fixture
def env(out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name in ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"):
        monkeypatch.delenv(name, raising=False)
    return {"LIVEKIT_API_KEY": API_KEY, "LIVEKIT_API_SECRET": API_SECRET}


async def trace(out: Path, name: str) -> str:
    """Wait for what a job leaves behind under a name."""
    for _ in range(500):
        if (out / name).exists() and (text := (out / name).read_text(encoding="utf-8")):
            return text
        await asyncio.sleep(0.02)
    raise AssertionError(f"no job left {name}")


async def gone(pid: int, timeout: float = 15.0) -> None:
    """Wait until a process is gone."""
    for _ in range(int(timeout / 0.05)):
        if not alive(pid):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"process {pid} still runs")


async def start_job(livekit: FakeLiveKitServer, out: Path, room: str) -> tuple[str, int]:
    """Offer a job to the worker; its id, and the process it runs in."""
    job = await livekit.offer(await livekit.worker(), room=room)
    return job, int(await trace(out, f"started-{room}"))


async def test_without_a_command_it_shows_what_there_is(env: dict[str, str]) -> None:
    async with terminal(AGENT) as screen:
        assert await screen.exits() == 0
        for command in ("start", "dev", "console", "connect", "download-files"):
            assert command in screen.text


def run_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[object, str]:
    """Run a command that is refused, in this process. Returns its status and what it prints."""
    monkeypatch.setattr("sys.argv", ["my_agent.py", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.run_app(agent_program.server)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return end.value.code, printed.err


@pytest.mark.parametrize("command", ["start", "dev"])
def test_missing_credentials_are_named(
    command: str,
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LIVEKIT_API_KEY", "key")
    status, printed = run_here(monkeypatch, capsys, command)
    assert status == 1
    assert "LIVEKIT_URL" in printed and "LIVEKIT_API_SECRET" in printed
    assert "LIVEKIT_API_KEY" not in printed


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("start", "--url", "my-project"), "'my-project' is not the URL of a LiveKit server"),
        (("connect",), "Missing option '--room'"),
        (("start", "--log-level", "loud"), "'loud' is not one of"),
        (("console", "--input", "/nowhere.wav"), "/nowhere.wav does not exist"),
        (("console", "--output", "reply.wav"), "--output needs --input"),
        (("console", "--text", "--input", "x.wav"), "exclude each other"),
        (("fly",), "No such command 'fly'"),
    ],
)
def test_what_can_t_be_done_is_refused_in_words(
    arguments: tuple[str, ...],
    problem: str,
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LIVEKIT_DEV_MODE", "")
    monkeypatch.setattr("livekit.agents.cli.log.setup_logging", lambda *_, **__: None)
    monkeypatch.setattr(AgentsConsole, "_instance", None)
    status, printed = run_here(monkeypatch, capsys, *arguments)
    assert status != 0 and problem in printed


async def test_wrong_credentials_end_the_worker_at_once(env: dict[str, str]) -> None:
    async with FakeLiveKitServer().serve() as livekit:
        env["LIVEKIT_API_SECRET"] = "another-secret-that-is-long-enough-too"
        async with terminal(AGENT, "start", "--url", livekit.url, env=env) as screen:
            assert await screen.exits() == 1
            assert "rejects the API key and secret" in screen.text
        assert livekit.attempts == 1


async def test_an_unreachable_server_is_named_while_it_is_tried_again(env: dict[str, str]) -> None:
    async with terminal(
        AGENT, "dev", "--no-reload", "--url", "ws://127.0.0.1:9", env=env
    ) as screen:
        await screen.shows("failed to connect to livekit, retrying in")
        assert "ws://127.0.0.1:9" in screen.text
        screen.interrupt()
        assert await screen.exits() == 0


async def test_a_room_that_can_t_be_joined_is_told(env: dict[str, str]) -> None:
    options = ("connect", "--room", "room", "--url", "ws://127.0.0.1:9")
    async with terminal(AGENT, *options, env=env) as screen:
        assert await screen.exits() == 1
        assert "the room can't be joined" in screen.text and "Traceback" not in screen.text


async def test_start_prints_json_and_ends_on_sigterm_when_its_jobs_have(
    env: dict[str, str], out: Path
) -> None:
    async with FakeLiveKitServer().serve() as livekit:
        async with terminal(AGENT, "start", "--url", livekit.url, env=env) as screen:
            job, pid = await start_job(livekit, out, "stay")
            screen.send_signal(signal.SIGTERM)
            await screen.shows("draining worker")
            await livekit.terminate(livekit.workers[0], job)
            assert await screen.exits() == 0
            await gone(pid)
            lines = [json.loads(line) for line in screen.text.splitlines() if line.startswith("{")]
        assert livekit.statuses(job) == ["JS_RUNNING", "JS_SUCCESS"]
        registered = next(line for line in lines if line["message"] == "registered worker")
        assert list(registered)[:3] == ["message", "level", "name"]
        assert registered["url"] == livekit.url
        initialized = next(line for line in lines if line["message"] == "process initialized")
        assert initialized["pid"] == pid


async def test_drain_timeout_bounds_the_wait_for_jobs(env: dict[str, str], out: Path) -> None:
    async with FakeLiveKitServer().serve() as livekit:
        options = ("start", "--url", livekit.url, "--drain-timeout", "1")
        async with terminal(AGENT, *options, env=env) as screen:
            job, _ = await start_job(livekit, out, "wait")
            screen.send_signal(signal.SIGTERM)
            assert await screen.exits() == 0
            assert "drain timed out, forcing shutdown" in screen.text
        assert await livekit.ended(job) == "JS_SUCCESS"


async def test_dev_ends_on_ctrl_c(env: dict[str, str], out: Path) -> None:
    async with FakeLiveKitServer().serve() as livekit:
        async with terminal(AGENT, "dev", "--no-reload", "--url", livekit.url, env=env) as screen:
            job, pid = await start_job(livekit, out, "wait")
            screen.interrupt()
            assert await screen.exits() == 0
            await gone(pid)
        assert await livekit.ended(job) == "JS_SUCCESS"
        assert await trace(out, "ended-wait") == "parent process shutdown"


async def test_the_second_ctrl_c_ends_at_once_and_the_job_ends_by_itself(
    env: dict[str, str], out: Path
) -> None:
    async with FakeLiveKitServer().serve() as livekit:
        async with terminal(AGENT, "start", "--url", livekit.url, env=env) as screen:
            _, pid = await start_job(livekit, out, "wait")
            screen.interrupt()
            await screen.shows("draining worker")
            screen.interrupt()
            assert await screen.exits(5) == 1
            assert "exiting forcefully" in screen.text
            await gone(pid)
            assert await trace(out, "ended-wait") == "the worker is gone"


async def test_a_call_that_blocks_the_worker_is_broken_by_a_signal(
    env: dict[str, str], out: Path
) -> None:
    async with FakeLiveKitServer().serve() as livekit:
        env["AGENT"] = "block"
        async with terminal(AGENT, "start", "--url", livekit.url, env=env) as screen:
            job = await livekit.offer(await livekit.worker(), room="finish")
            await trace(out, "blocked")
            screen.send_signal(signal.SIGTERM)
            assert await screen.exits(10) == 0
            assert "breaking the call that blocks it" in screen.text
        assert not livekit.answers(job)[0].available


async def test_a_killed_worker_leaves_no_process_behind(env: dict[str, str], out: Path) -> None:
    async with FakeLiveKitServer().serve() as livekit:
        async with terminal(AGENT, "start", "--url", livekit.url, env=env) as screen:
            _, waiting = await start_job(livekit, out, "wait")
            screen.send_signal(signal.SIGKILL)
            await screen.exits()
            await gone(waiting)
            assert await trace(out, "ended-wait") == "the worker is gone"


async def test_dev_starts_anew_when_a_file_changes_and_takes_the_jobs_along(
    env: dict[str, str], out: Path, tmp_path: Path
) -> None:
    program = tmp_path / "my_agent.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(AGENT.parent.parent)!r})\n"
        "from fakes.worker import make_server\n"
        "from livekit.agents import cli\n"
        "server = make_server()\n"
        "if __name__ == '__main__': cli.run_app(server)\n",
        encoding="utf-8",
    )
    async with FakeLiveKitServer().serve() as livekit:
        options = ("dev", "--url", livekit.url)
        async with terminal(program, *options, env=env, cwd=tmp_path) as screen:
            await screen.shows("watching")
            first = await livekit.worker()
            _, pid = await start_job(livekit, out, "wait")
            (out / "started-wait").unlink()
            program.write_text(program.read_text() + "# changed\n", encoding="utf-8")
            await screen.shows("my_agent.py changed, restarting")
            await livekit.wait_for(lambda: livekit.workers[-1] is not first)
            assert int(await trace(out, "started-wait")) != pid
            await gone(pid)
            screen.interrupt()
            assert await screen.exits() == 0


async def test_one_types_with_the_agent(env: dict[str, str]) -> None:
    async with terminal(AGENT, "console", "--text", env={**env, "AGENT": "talk"}) as screen:
        await screen.shows("type what you say")
        screen.type("Hello there\n")
        await screen.shows("agent  How do you do?")
        screen.type("\x04")
        assert await screen.exits() == 0


async def test_the_console_ends_on_ctrl_c(env: dict[str, str]) -> None:
    async with terminal(AGENT, "console", "--text", env={**env, "AGENT": "talk"}) as screen:
        await screen.shows("type what you say")
        screen.interrupt()
        assert await screen.exits() == 0


async def test_the_console_fails_with_its_job(env: dict[str, str], out: Path) -> None:
    """Its room is called "console", which the agent has no script for."""
    async with terminal(AGENT, "console", "--text", env=env) as screen:
        assert await screen.exits() == 1
        assert "KeyError" in screen.text


# -- the keys of the console ----------------------------------------------------------------------

SOUND = {"AGENT": "talk", "PYTHONPATH": str(Path(agent_program.__file__).parent / "sound")}


async def test_one_toggles_between_talking_and_typing(env: dict[str, str], tmp_path: Path) -> None:
    logged = {**env, **SOUND, "SOUND_LOG": str(tmp_path)}
    async with terminal(AGENT, "console", env=logged) as screen:
        before = screen.settings()
        await screen.shows("talk to the agent")
        await screen.shows("now talking to")
        assert (tmp_path / "RawInputStream").exists()
        screen.type("?")
        await screen.shows("Ctrl+T toggles", times=2)
        screen.type("\x14")
        await screen.shows("type a line")
        screen.type("Grüßx\x7f dich\x1b[D\n")  # a backspace, and an arrow that is no text
        await screen.shows("you  Grüß dich")
        await screen.shows("agent  How do you do?")
        screen.type("\x14")
        await screen.shows("note  talk\n")
        assert screen.settings() != before  # keys come one by one
        screen.interrupt()
        assert await screen.exits() == 0
        assert screen.settings() == before


async def test_one_who_types_may_begin_to_talk(env: dict[str, str], tmp_path: Path) -> None:
    logged = {**env, **SOUND, "SOUND_LOG": str(tmp_path)}
    async with terminal(AGENT, "console", "--text", env=logged) as screen:
        await screen.shows("now talking to")
        assert not os.listdir(tmp_path)  # no device is opened for one who types
        screen.type("\x14")
        await screen.shows("note  talk\n")
        await trace(tmp_path, "RawInputStream")
        screen.type("\x14\n")
        assert await screen.exits() == 0


async def test_without_a_sound_card_one_goes_on_typing(env: dict[str, str]) -> None:
    devices = ("--input-device", "kazoo")
    async with terminal(AGENT, "console", "--text", *devices, env={**env, **SOUND}) as screen:
        await screen.shows("now talking to")
        screen.type("\x14")
        await screen.shows("there is no usable input device 'kazoo'")
        screen.type("Hello there\n")
        await screen.shows("agent  How do you do?")
        screen.type("\n")
        assert await screen.exits() == 0


async def test_an_unknown_device_is_named_before_anything_starts(env: dict[str, str]) -> None:
    devices = ("--output-device", "kazoo")
    async with terminal(AGENT, "console", *devices, env={**env, **SOUND}) as screen:
        assert await screen.exits() == 1
        assert "Error: there is no usable output device 'kazoo'" in screen.text


async def test_lines_may_come_from_a_pipe(env: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(AGENT),
        "console",
        "--text",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **env, "AGENT": "talk"},
    )
    printed, _ = await process.communicate(b"Hello there\n")
    assert process.returncode == 0 and "agent  How do you do?" in printed.decode()


async def test_a_console_s_program_that_is_not_there_is_told(env: dict[str, str]) -> None:
    options = ("-m", "livekit.agents", "console", AGENT, "--connect-addr", "127.0.0.1:9")
    async with terminal(*options, env={**env, "AGENT": "talk"}) as screen:
        assert await screen.exits() == 1
        assert "the program of the console can't be reached at 127.0.0.1:9" in screen.text


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:99999", "127.0.0.1:"])
async def test_an_address_that_is_none_is_refused(env: dict[str, str], address: str) -> None:
    options = ("-m", "livekit.agents", "console", AGENT, "--connect-addr", address)
    async with terminal(*options, env={**env, "AGENT": "talk"}) as screen:
        assert await screen.exits() == 1
        assert f"Error: {address!r} is no address: expected HOST:PORT" in screen.text
