"""What a job leaves behind for the tests to read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from livekit.agents import JobContext


def leave(ctx: JobContext, **facts: Any) -> None:
    """Add a line to what the job leaves behind."""
    path = Path(os.environ["E2E_OUT"]) / f"{ctx.job.room.name}.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"at": time.time(), "pid": os.getpid(), **facts}) + "\n")
