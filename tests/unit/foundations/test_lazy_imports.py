from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from livekit.agents import utils
from livekit.agents._lazy import attach

HEAVY = ["aiohttp", "av", "livekit.rtc", "numpy", "PIL", "psutil", "pydantic"]
"""What no module of the foundations imports before it is needed."""


def loaded_by(statement: str) -> list[str]:
    """The heavy modules that a fresh interpreter has loaded after ``statement``."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded: list[str] = json.loads(output.stdout)
    return loaded


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "from livekit.agents import utils, types, language, log, _exceptions\n"
            "from livekit.agents.utils import aio, hw, ConnectionPool, is_given, log_exceptions\n"
            "from livekit.agents.utils import ExpFilter, MovingAverage, BoundedDict, shortuuid",
            [],
        ),
        ("from livekit.agents.utils import http_context", ["aiohttp"]),
    ],
)
def test_an_import_costs_what_it_needs(statement: str, expected: list[str]) -> None:
    assert loaded_by(statement) == expected


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package with a part ``parts.py`` and lazy names."""
    (tmp_path / "lazy_house").mkdir()
    (tmp_path / "lazy_house" / "parts.py").write_text("class Door: pass\nclass Window: pass\n")
    (tmp_path / "lazy_house" / "__init__.py").write_text(
        "from livekit.agents._lazy import attach\n"
        "__getattr__, __dir__ = attach(__name__, {\n"
        "    'Door': '.parts', 'Gate': '.parts:Door', 'rooms': '.parts:', 'path': 'os:path',\n"
        "    'Missing': '.nowhere',\n"
        "})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("lazy_house", "lazy_house.parts"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import lazy_house  # type: ignore[import-not-found]

    module: ModuleType = lazy_house
    return module


def test_names_are_resolved_when_they_are_used(package: ModuleType) -> None:
    assert "lazy_house.parts" not in sys.modules
    door = package.Door
    assert package.Gate is door and package.rooms.Door is door
    assert "Door" in vars(package)  # the next access does not come here again
    import os

    assert package.path is os.path


def test_all_names_are_listed(package: ModuleType) -> None:
    assert {"Door", "Gate", "rooms", "__name__"} <= set(dir(package))
    assert "lazy_house.parts" not in sys.modules


def test_an_unknown_name_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=r"'lazy_house' has no attribute 'Roof'"):
        _ = package.Roof
    assert not hasattr(package, "Roof")


def test_a_broken_import_says_so(package: ModuleType) -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        _ = package.Missing


def test_attach_needs_no_package_to_be_imported_yet() -> None:
    getattr_, _ = attach("not_imported_yet", {"x": ".y"})
    with pytest.raises(AttributeError):
        getattr_("z")


def test_the_names_of_utils_lead_where_they_should() -> None:
    from livekit import rtc

    assert utils.EventEmitter is rtc.EventEmitter
    assert utils.misc.is_given is utils.is_given
    assert utils.aio.gracefully_cancel is utils.aio.cancel_and_wait
    assert {"codecs", "images", "AudioBuffer", "merge_frames"} <= set(utils.__all__)
    assert set(utils.__all__) <= set(dir(utils))
