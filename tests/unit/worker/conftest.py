"""Where job processes leave their traces."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that jobs can write to; they inherit the variable that names it."""
    monkeypatch.setenv("WORKER_TEST_OUT", str(tmp_path))
    # or every process would import the main module of the test runner
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    return tmp_path
