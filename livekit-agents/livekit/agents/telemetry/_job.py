"""What telemetry needs to know of the job it runs in."""

from __future__ import annotations

import sys
from typing import Any

from .trace_types import ATTR_GEN_AI_CONVERSATION_ID

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
    room_sid = _ids()[1]
    return {ATTR_GEN_AI_CONVERSATION_ID: room_sid} if room_sid else {}


def measurement_attributes() -> dict[str, str]:
    """The same for measurements."""
    job_id, room_sid = _ids()
    return {key: value for key, value in (("job_id", job_id), ("room_id", room_sid)) if value}


def _ids() -> tuple[str, str]:
    job = getattr(current_job(), "job", None)
    return getattr(job, "id", ""), getattr(getattr(job, "room", None), "sid", "")
