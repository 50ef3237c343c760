"""Encodes video frames as JPEG or PNG, with Pillow."""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

from livekit import rtc

if TYPE_CHECKING:
    from PIL.Image import Image

_Strategy = Literal[
    "center_aspect_fit",
    "center_aspect_cover",
    "scale_aspect_fit",
    "scale_aspect_cover",
    "skew",
]


@dataclass
class ResizeOptions:
    """A size in pixels, and how an image of another shape gets there."""

    width: int
    height: int
    strategy: _Strategy
    """
    - `skew`: stretched to exactly the size.
    - `scale_aspect_fit`: as large as fits into the size.
    - `scale_aspect_cover`: as small as covers the size; may exceed it.
    - `center_aspect_fit`: as large as fits, on a black canvas of exactly the size.
    - `center_aspect_cover`: as small as covers, with what exceeds the size cut off on both sides.
    """


@dataclass
class EncodeOptions:
    """How to encode an image."""

    format: Literal["JPEG", "PNG"] = "JPEG"
    resize_options: ResizeOptions | None = None
    """None keeps the size of the frame."""
    quality: int | None = 75
    """Of a JPEG, from 1 to 95; None for Pillow's default."""


def import_pil() -> None:
    """Check that Pillow is installed.

    Raises:
        ImportError: if it isn't; says how to install it.
    """
    try:
        import_module("PIL.Image")
    except ImportError as error:
        raise ImportError(
            "Pillow is needed to encode images, install it with "
            '`pip install "livekit-agents[images]"`'
        ) from error


def encode(frame: rtc.VideoFrame, options: EncodeOptions) -> bytes:
    """Encode a video frame.

    Takes some milliseconds of CPU time: call it in a thread for large or frequent frames.

    Args:
        frame: in any pixel format.
        options: format, size and quality. Transparency is dropped.

    Raises:
        ImportError: if Pillow isn't installed (the `images` extra).
        ValueError: if the resize strategy is unknown or the size isn't positive.
    """
    import_pil()
    from PIL import Image

    is_rgba = frame.type == rtc.VideoBufferType.RGBA
    rgba = frame if is_rgba else frame.convert(rtc.VideoBufferType.RGBA)
    image: Image.Image = Image.frombytes("RGBA", (rgba.width, rgba.height), bytes(rgba.data))
    image = image.convert("RGB")
    if options.resize_options is not None:
        image = _resize(image, options.resize_options)

    parameters: dict[str, Any] = {}
    if options.format == "JPEG" and options.quality is not None:
        parameters["quality"] = options.quality
    encoded = io.BytesIO()
    image.save(encoded, options.format, **parameters)
    return encoded.getvalue()


def _resize(image: Image, options: ResizeOptions) -> Image:
    from PIL import Image

    width, height, strategy = options.width, options.height, options.strategy
    if strategy not in get_args(_Strategy):
        raise ValueError(
            f"unknown resize strategy {strategy!r}, expected one of {', '.join(get_args(_Strategy))}"
        )
    if width <= 0 or height <= 0:
        raise ValueError(f"can't resize an image to {width} x {height} pixels")
    if strategy == "skew":
        return image.resize((width, height))

    wanted = width / image.width, height / image.height
    scale = max(wanted) if strategy.endswith("cover") else min(wanted)
    scaled = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    if strategy.startswith("scale"):
        return scaled
    canvas = Image.new("RGB", (width, height))
    canvas.paste(scaled, ((width - scaled.width) // 2, (height - scaled.height) // 2))
    return canvas
