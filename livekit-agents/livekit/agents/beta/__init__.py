"""What may still change: ready-made tools, toolsets and helpers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from ..llm.chat_context import Instructions
    from . import translation, workflows
    from .tools import EndCallTool
    from .translation import TranslationModel, TranslationSession

__all__ = [
    "EndCallTool",
    "Instructions",
    "TranslationModel",
    "TranslationSession",
    "translation",
    "workflows",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            "EndCallTool": ".tools.end_call",
            "Instructions": "livekit.agents.llm.chat_context",
            "TranslationModel": ".translation",
            "TranslationSession": ".translation",
            "translation": ".translation:",
            "workflows": ".workflows:",
        },
    )
