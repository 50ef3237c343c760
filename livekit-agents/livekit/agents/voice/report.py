"""The report of a session: what was said, what happened, what it used, how it ended."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..version import __version__

if TYPE_CHECKING:
    from ..job import JobContext
    from ..llm import ChatContext
    from ..metrics import ModelUsage
    from .agent_session import AgentSession
    from .events import AgentEvent
    from .session_options import AgentSessionOptions

__all__ = ["SessionReport"]

_ERROR_SOURCES = {
    "llm_error": "llm",
    "stt_error": "stt",
    "tts_error": "tts",
    "realtime_model_error": "realtime",
    "interruption_detection_error": "interruption",
}
_CLOSE_REASONS = {
    "error": "CR_ERROR",
    "job_shutdown": "CR_JOB_SHUTDOWN",
    "participant_disconnected": "CR_PARTICIPANT_DISCONNECTED",
    "user_initiated": "CR_USER_INITIATED",
    "task_completed": "CR_COMPLETED",
}


@dataclass
class SessionReport:
    """What happened in a session. Times are seconds since the epoch, durations are seconds."""

    job_id: str
    room_id: str
    room: str
    options: AgentSessionOptions
    events: list[AgentEvent]
    chat_history: ChatContext
    audio_recording_path: Path | None = None
    audio_recording_started_at: float | None = None
    """When the recording begins; transcripts are aligned with it by this."""
    duration: float | None = None
    """From the beginning of the recording, else of the session."""
    started_at: float | None = None
    timestamp: float = field(default_factory=lambda: time.time())
    """When the report was made."""
    model_usage: list[ModelUsage] | None = None
    sdk_version: str = field(default_factory=lambda: __version__)
    agent_name: str = ""
    tags: list[str] = field(default_factory=list)

    def to_dict(
        self, *, include_chat_history: bool = True, include_events: bool = True
    ) -> dict[str, Any]:
        """The report as JSON-serialisable values.

        Args:
            include_chat_history: With what was said.
            include_events: With what happened, metrics excepted.
        """
        history = self.chat_history.to_dict(exclude_timestamp=False)
        return {
            "job_id": self.job_id,
            "room_id": self.room_id,
            "room": self.room,
            "events": self._events() if include_events else [],
            "audio_recording_path": _text(self.audio_recording_path),
            "audio_recording_started_at": self.audio_recording_started_at,
            "options": self._options(),
            "chat_history": history if include_chat_history else {"items": []},
            "timestamp": self.timestamp,
            "usage": [u.model_dump(exclude_defaults=True) for u in self.model_usage or []],
            "sdk_version": self.sdk_version,
            "agent_name": self.agent_name,
            "tags": self.tags,
            "duration_ms": None if self.duration is None else round(self.duration * 1000),
            "user_turns": self._user_turns(),
            "errors": self._errors(),
            "close_reason": self._close_reason(),
        }

    def _events(self) -> list[dict[str, Any]]:
        return [
            event.model_dump(mode="json", fallback=repr)
            for event in self.events
            if event.type != "metrics_collected"
        ]

    def _options(self) -> dict[str, Any]:
        options = self.options
        interruption, endpointing = options.interruption, options.endpointing
        return {
            "allow_interruptions": interruption.get("enabled"),
            "discard_audio_if_uninterruptible": interruption.get(
                "discard_audio_if_uninterruptible"
            ),
            "min_interruption_duration": interruption.get("min_duration"),
            "min_interruption_words": interruption.get("min_words"),
            "min_endpointing_delay": endpointing.get("min_delay"),
            "max_endpointing_delay": endpointing.get("max_delay"),
            "max_tool_steps": options.max_tool_steps,
            "user_away_timeout": options.user_away_timeout,
            "min_consecutive_speech_delay": options.min_consecutive_speech_delay,
            "preemptive_generation": dict(options.preemptive_generation),
            "recording_options": dict(options.recording_options),
        }

    def _user_turns(self) -> int:
        return sum(
            1 for item in self.chat_history.items if item.type == "message" and item.role == "user"
        )

    def _errors(self) -> dict[str, int]:
        counts: Counter[str] = Counter(dict.fromkeys(_ERROR_SOURCES.values(), 0))
        for event in self.events:
            if event.type == "error":
                source = _ERROR_SOURCES.get(getattr(event.error, "type", ""))
                if source is not None:
                    counts[source] += 1
        return dict(counts)

    def _close_reason(self) -> str | None:
        for event in reversed(self.events):
            if event.type == "close":
                return _CLOSE_REASONS.get(event.reason.value)
        return None


def make_report(job: JobContext, session: AgentSession[Any]) -> SessionReport:
    """The report of a session of a job.

    Raises:
        RuntimeError: Its recording has not ended.
    """
    recorder = session._recorder_io
    if recorder is not None and recorder.recording:
        raise RuntimeError("the session is still being recorded: close it before making its report")
    recording_at = getattr(recorder, "recording_started_at", None)
    began = recording_at or session._started_at
    now = time.time()
    return SessionReport(
        job_id=job.job.id,
        room_id=job.job.room.sid,
        room=job.job.room.name,
        options=session.options,
        events=list(session._recorded_events),
        chat_history=session.history.copy(),
        audio_recording_path=getattr(recorder, "output_path", None),
        audio_recording_started_at=recording_at,
        duration=None if began is None else now - began,
        started_at=session._started_at,
        timestamp=now,
        model_usage=session.usage.model_usage,
        agent_name=job.job.agent_name,
        tags=sorted(job.tagger.tags),
    )


def write_report(report: SessionReport, path: Path) -> None:
    """Write a report as JSON. Blocks; call it from a worker thread."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.to_dict(), indent=2, default=str), encoding="utf-8")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
