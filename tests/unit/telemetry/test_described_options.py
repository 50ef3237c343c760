"""How options are reported: readable, and without what is nobody's business."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from livekit.agents.telemetry.report_upload import describe


class Plain:
    def __init__(self) -> None:
        self.api_key = "secret"


class Open:
    def describe_options(self) -> Mapping[str, Any]:
        return {"speed": 2, "model": Plain()}


def test_objects_are_reported_by_name_and_instructions_not_at_all() -> None:
    options = {
        "tts": Plain(),
        "stt": Open(),
        "keyterms": ("a", "b"),
        "nested": {"instructions": "be kind", "delay": 0.5},
        "nothing": None,
    }
    assert describe(options) == {
        "tts": "Plain",
        "stt": "Open(speed=2, model=Plain)",
        "lk.pii.keyterms": ["a", "b"],
        "nested": {"delay": 0.5},
        "nothing": None,
    }
