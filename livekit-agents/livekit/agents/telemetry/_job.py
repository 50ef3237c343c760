"""What telemetry needs to know of the job it runs in."""

from __future__ import annotations

import sys
from typing import Any

_JOB_MODULE = f"{__package__.rpartition('.')[0]}.job"


def current_job() -> Any | None:
    """Return the job context of the caller; None outside of a job.

    Without importing the job module: whoever runs in a job has imported it.
    """
    module = sys.modules.get(_JOB_MODULE)
    variable = getattr(module, "_JobContextVar", None)
    return None if variable is None else variable.get(None)


def job_attributes() -> dict[str, str]:
    """Attributes that tell the spans of one job from those of another; empty outside of a job."""
    from . import trace_types

    job = getattr(current_job(), "job", None)
    room_sid = getattr(getattr(job, "room", None), "sid", None)
    return {trace_types.ATTR_GEN_AI_CONVERSATION_ID: room_sid} if room_sid else {}
