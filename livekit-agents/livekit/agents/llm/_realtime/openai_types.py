"""Names of OpenAI's realtime models."""

from __future__ import annotations

from typing import Literal

RealtimeModels = Literal["gpt-realtime", "gpt-realtime-mini", "gpt-realtime-2.1"]
