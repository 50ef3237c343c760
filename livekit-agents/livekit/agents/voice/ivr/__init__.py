"""Finding one's way through phone menus."""

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from .ivr_activity import IVRActivity

__all__ = ["IVRActivity"]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(__name__, {"IVRActivity": ".ivr_activity"})
