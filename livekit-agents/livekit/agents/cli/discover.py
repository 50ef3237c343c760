"""Which `AgentServer` a file defines, and how to import it: for `python -m livekit.agents`."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from ..worker import AgentServer
from .errors import CLIError

__all__ = [
    "ImportData",
    "ModuleData",
    "get_app_name",
    "get_default_path",
    "get_import_data",
    "get_module_data_from_path",
]

logger = getLogger(__name__)

_DEFAULT_PATHS = ("main.py", "app.py", "agent.py", "app/main.py", "app/app.py", "app/agent.py")
_PREFERRED_NAMES = ("app", "server", "agent")


@dataclass
class ModuleData:
    """How to import a file."""

    module_import_str: str
    extra_sys_path: Path
    module_paths: list[Path]


@dataclass
class ImportData:
    """Where an `AgentServer` is found."""

    app_name: str
    module_data: ModuleData
    import_string: str


def get_default_path() -> Path:
    """The first of the usual files that exists here.

    Raises:
        CLIError: There is none.
    """
    for name in _DEFAULT_PATHS:
        path = Path(name)
        if path.is_file():
            return path
    raise CLIError(f"no agent found: name its file, or call it one of {', '.join(_DEFAULT_PATHS)}")


def get_module_data_from_path(path: Path) -> ModuleData:
    """How to import a file, as a part of the packages it lies in."""
    file = path.resolve()
    paths = [file if file.name != "__init__.py" else file.parent]
    parent = paths[0].parent
    while (parent / "__init__.py").is_file():
        paths.insert(0, parent)
        parent = parent.parent
    return ModuleData(
        module_import_str=".".join(p.stem for p in paths),
        extra_sys_path=parent,
        module_paths=paths,
    )


def get_app_name(*, mod_data: ModuleData) -> str:
    """The name of the `AgentServer` in a module: `app`, `server`, `agent`, or the first one.

    Raises:
        CLIError: The module can't be imported, or has none.
    """
    try:
        module = importlib.import_module(mod_data.module_import_str)
    except ImportError as error:
        raise CLIError(f"{mod_data.module_paths[-1]} can't be imported: {error}") from error
    servers = [name for name, value in vars(module).items() if isinstance(value, AgentServer)]
    for name in (*_PREFERRED_NAMES, *servers):
        if name in servers:
            return name
    raise CLIError(
        f"{mod_data.module_paths[-1]} has no AgentServer: define one at the top level, such as "
        "`server = AgentServer()`"
    )


def get_import_data(*, path: Path | None = None) -> ImportData:
    """Where the `AgentServer` of a file is found. Imports the file.

    Raises:
        CLIError: The file does not exist, or has none.
    """
    path = path or get_default_path()
    if not path.is_file():
        raise CLIError(f"{path} is no file" if path.exists() else f"{path} does not exist")
    data = get_module_data_from_path(path)
    sys.path.insert(0, str(data.extra_sys_path))
    name = get_app_name(mod_data=data)
    return ImportData(name, data, f"{data.module_import_str}:{name}")


def load_server(path: Path | None) -> AgentServer:
    """The `AgentServer` of a file."""
    data = get_import_data(path=path)
    server = getattr(sys.modules[data.module_data.module_import_str], data.app_name)
    assert isinstance(server, AgentServer)
    return server
