"""The published package, in a venv of its own, run as it is: what this tree is compared with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PUBLISHED = "livekit-agents==1.8.9"
VENV = Path(__file__).parent.parent / ".venv-published"


def published_python() -> Path:
    """The interpreter of the venv, which is made if it isn't there.

    Raises:
        subprocess.CalledProcessError: The package can't be installed.
    """
    python = VENV / "bin" / "python"
    if not python.exists():
        print(f"installing {PUBLISHED} into {VENV.name}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, PUBLISHED], check=True)
    return python
