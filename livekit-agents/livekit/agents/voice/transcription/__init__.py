"""What is shown of what the agent says, and what is changed before it is spoken."""

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from . import text_transforms

__all__ = ["text_transforms"]

__getattr__, __dir__ = attach(__name__, {"text_transforms": ".text_transforms:"})
