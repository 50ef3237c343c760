"""Video frames as images, for models that can see."""

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from .image import EncodeOptions, ResizeOptions, encode

__all__ = ["EncodeOptions", "ResizeOptions", "encode"]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            "EncodeOptions": ".image",
            "ResizeOptions": ".image",
            "encode": ".image",
            "image": ".image:",
        },
    )
