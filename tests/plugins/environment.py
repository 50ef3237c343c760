"""The environment that published plugins run in: theirs, with this tree as `livekit-agents`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VENV = ROOT / ".venv-plugins"
LIST = HERE / "published.txt"
CONSTRAINTS = HERE / "constraints.txt"
"""Versions of all that the plugins need, so that a release of somebody else breaks nothing here."""

OLDEST_PYTHON = "3.11"
"""What the pickiest of the plugins asks for."""

_NEEDED = ("trustme>=1.2", "pytest>=8.2")
_OWN = (
    "livekit-agents",
    "livekit-plugins/livekit-plugins-pocketsphinx",
    "livekit-plugins/livekit-plugins-piper[voice]",
)
"""Of this tree; the two plugins hear and speak at the provider's end of conversations."""

_HEAD = """\
# What the plugins of published.txt need beside this tree, as it was when they were last looked at.
# `make plugins ARGS=--record` looks again; `ARGS=--newest` runs without it.
"""


@dataclass(frozen=True)
class Plugin:
    """A line of the list."""

    package: str
    version: str
    module: str


def read_list() -> list[Plugin]:
    """The plugins that are to be run."""
    plugins = []
    for line in LIST.read_text().splitlines():
        match = re.match(r"livekit-plugins-(\S+)==(\S+)(?:\s+# import (\w+))?", line)
        if match:
            name, version, module = match.groups()
            plugins.append(Plugin(name, version, module or name.replace("-", "_")))
    return plugins


def install(*, newest: bool = False) -> Path:
    """Make the environment, or bring it up to date. Returns its interpreter.

    Args:
        newest: Take the newest of what the plugins need, not what is written down.
    """
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    uv = _find_uv()
    pip = [uv, "pip", "install", "-q", "--python", str(python)]
    if not uv:
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    versions = ["--upgrade"] if newest else ["-c", str(CONSTRAINTS)]
    own = [argument for package in _OWN for argument in ("-e", str(ROOT / package))]
    subprocess.run([*pip, *versions, "-r", str(LIST), *_NEEDED, *own], check=True)
    return python


def record() -> None:
    """Write down the newest versions that go together, for every system and Python at once.

    Raises:
        FileNotFoundError: There is no uv, which alone can do that.
    """
    uv = _find_uv()
    if not uv:
        raise FileNotFoundError("--record needs uv: pip install uv")
    wanted = "\n".join([*_NEEDED, *(f"-e {ROOT / package}" for package in _OWN)])
    form = ("--universal", "--no-annotate", "--no-header", "--no-emit-index-url", "--upgrade")
    resolved = subprocess.run(
        [uv, "pip", "compile", "-q", "--python-version", OLDEST_PYTHON, *form, str(LIST), "-"],
        input=wanted,
        text=True,
        stdout=subprocess.PIPE,
        check=True,
        cwd=ROOT,
    ).stdout.splitlines()
    listed = tuple(f"livekit-plugins-{plugin.package}==" for plugin in read_list())
    versions = [line for line in resolved if not line.startswith(("-e ", *listed))]
    CONSTRAINTS.write_text(_HEAD + "\n".join(versions) + "\n")


def _find_uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    return shutil.which("uv") or (str(beside) if beside.exists() else "")
