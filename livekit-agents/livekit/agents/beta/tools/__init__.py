"""Tools that many agents on the phone need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from .end_call import EndCallTool
    from .send_dtmf import send_dtmf_events

__all__ = ["EndCallTool", "send_dtmf_events"]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__, {"EndCallTool": ".end_call", "send_dtmf_events": ".send_dtmf"}
    )
