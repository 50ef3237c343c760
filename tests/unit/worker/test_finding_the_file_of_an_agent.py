"""`python -m livekit.agents`: finds the agent's file, and runs it."""

from __future__ import annotations

import itertools
import signal
import sys
from pathlib import Path

import pytest

from fakes import agent_program
from fakes.livekit_server import API_KEY, API_SECRET, FakeLiveKitServer
from fakes.terminal import terminal
from livekit.agents.cli.discover import get_default_path, get_import_data, load_server
from livekit.agents.cli.errors import CLIError

AGENT = Path(agent_program.__file__)
MODULE = ("-m", "livekit.agents")
SERVER = "from livekit.agents import AgentServer\n"
_names = itertools.count()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name in ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"):
        monkeypatch.delenv(name, raising=False)
    return {"LIVEKIT_API_KEY": API_KEY, "LIVEKIT_API_SECRET": API_SECRET}


def write(folder: Path, text: str) -> Path:
    """A file with a name that was never imported."""
    path = folder / f"an_agent_{next(_names)}.py"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("other = AgentServer()\nagent = AgentServer()\nserver = AgentServer()\n", "server"),
        ("server = AgentServer()\napp = AgentServer()\n", "app"),
        ("other = AgentServer()\nagent = AgentServer()\n", "agent"),
        ("app = 'a name'\nwhatever = AgentServer()\n", "whatever"),
    ],
)
def test_the_server_is_found_by_its_name(folder: Path, text: str, name: str) -> None:
    path = write(folder, SERVER + text)
    data = get_import_data(path=path)
    assert data.app_name == name and data.import_string == f"{path.stem}:{name}"
    assert load_server(path) is getattr(sys.modules[path.stem], name)


def test_a_file_in_a_package_is_imported_as_a_part_of_it(folder: Path) -> None:
    package = folder / f"a_package_{next(_names)}" / "inner"
    package.mkdir(parents=True)
    for part in (package, package.parent):
        (part / "__init__.py").touch()
    (package / "names.py").write_text(SERVER + "made = AgentServer()\n", encoding="utf-8")
    (package / "main.py").write_text("from .names import made as server\n", encoding="utf-8")
    data = get_import_data(path=package / "main.py")
    assert data.import_string == f"{package.parent.name}.inner.main:server"
    assert data.module_data.extra_sys_path == folder


def test_the_usual_files_are_tried_in_turn(folder: Path) -> None:
    with pytest.raises(CLIError, match=r"main\.py, app\.py, agent\.py"):
        get_default_path()
    (folder / "app").mkdir()
    for name in ("app/agent.py", "app/main.py", "agent.py", "main.py"):
        (folder / name).touch()
        assert get_default_path() == Path(name)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server = 1\n", "has no AgentServer"),
        ("import no_such_module_anywhere\n", "No module named 'no_such_module_anywhere'"),
    ],
)
def test_a_file_that_is_no_agent_is_told(folder: Path, text: str, problem: str) -> None:
    with pytest.raises(CLIError, match=problem):
        get_import_data(path=write(folder, text))


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("start",), "Error: no agent found"),
        (("start", "nowhere.py"), "Error: nowhere.py does not exist"),
        (("start", "."), "Error: . is no file"),
        (("start", "--cli-addr", "localhost:1"), "Error: --cli-addr needs --dev"),
        (("start", str(AGENT)), "LIVEKIT_URL"),
        (("start", str(AGENT), "--url", "what"), "'what' is not the URL of a LiveKit server"),
        (("console",), "Missing option '--connect-addr'"),
    ],
)
async def test_what_can_t_be_run_is_refused_in_words(
    folder: Path, env: dict[str, str], arguments: tuple[str, ...], problem: str
) -> None:
    async with terminal(*MODULE, *arguments, env=env, cwd=folder) as screen:
        assert await screen.exits() != 0
        assert problem in screen.text and "Traceback" not in screen.text


@pytest.mark.real_time
async def test_an_agent_s_file_is_served(out: Path, env: dict[str, str]) -> None:
    async with FakeLiveKitServer().serve() as livekit:
        arguments = ("start", AGENT, "--url", livekit.url, "--log-format", "colored")
        async with terminal(*MODULE, *arguments, env=env) as screen:
            job = await livekit.offer(await livekit.worker(), room="finish")
            assert await livekit.ended(job) == "JS_SUCCESS"
            screen.send_signal(signal.SIGTERM)
            assert await screen.exits() == 0


@pytest.mark.real_time
async def test_wrong_credentials_are_told_also_for_a_single_room(env: dict[str, str]) -> None:
    env["LIVEKIT_API_SECRET"] = "another-secret-that-is-long-enough-too"
    async with FakeLiveKitServer().serve() as livekit:
        arguments = ("connect", "--room", "room", "--url", livekit.url)
        async with terminal(AGENT, *arguments, env=env) as screen:
            assert await screen.exits() == 1
            assert "the room can't be joined" in screen.text
            assert "unauthenticated" in screen.text and "Traceback" not in screen.text


@pytest.mark.real_time
async def test_files_are_downloaded_for_every_plugin_and_failures_are_counted(
    folder: Path, env: dict[str, str]
) -> None:
    plugins = folder / "livekit" / "plugins"
    for name in ("fetching", "failing", "broken"):
        (plugins / name).mkdir(parents=True)
    (plugins / "broken" / "__init__.py").write_text("import nothing_like_it\n", encoding="utf-8")
    for name, body in (("fetching", "print('got them')"), ("failing", "raise OSError('no disk')")):
        (plugins / name / "__init__.py").write_text(
            "from livekit.agents import Plugin\n"
            "class P(Plugin):\n"
            f"    def download_files(self):\n        {body}\n"
            f"Plugin.register_plugin(P({name!r}, '1', __name__))\n",
            encoding="utf-8",
        )
    found = {**env, "PYTHONPATH": str(folder)}
    async with terminal(*MODULE, "download-files", env=found) as screen:
        assert await screen.exits() == 1
        assert "warning: livekit.plugins.broken can't be imported" in screen.text
        assert "got them" in screen.text and "error: failing: no disk" in screen.text
