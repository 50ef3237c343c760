"""Video frames encoded as images."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from livekit import rtc
from PIL import Image

from livekit.agents.utils import images

RED = (255, 0, 0)
BLACK = (0, 0, 0)


def red_frame(width: int, height: int) -> rtc.VideoFrame:
    pixels = bytes((*RED, 255)) * (width * height)
    return rtc.VideoFrame(width, height, rtc.VideoBufferType.RGBA, pixels)


def encoded(frame: rtc.VideoFrame, options: images.EncodeOptions) -> Image.Image:
    return Image.open(io.BytesIO(images.encode(frame, options)))


def resized(strategy: str, width: int = 100, height: int = 100) -> Image.Image:
    resize = images.ResizeOptions(width, height, strategy)  # type: ignore[arg-type]
    options = images.EncodeOptions(format="PNG", resize_options=resize)
    return encoded(red_frame(80, 40), options)


def test_a_jpeg_of_the_same_size_by_default() -> None:
    image = encoded(red_frame(32, 16), images.EncodeOptions())

    assert (image.format, image.size, image.mode) == ("JPEG", (32, 16), "RGB")


def test_png_keeps_every_pixel() -> None:
    image = encoded(red_frame(4, 4), images.EncodeOptions(format="PNG", quality=None))

    assert image.format == "PNG"
    assert image.getpixel((3, 3)) == RED


def test_other_pixel_formats_are_converted() -> None:
    frame = red_frame(16, 16).convert(rtc.VideoBufferType.I420)

    red, green, blue = encoded(frame, images.EncodeOptions(format="PNG")).getpixel((8, 8))  # type: ignore[misc]

    assert red > 240
    assert max(green, blue) < 15


def test_quality_makes_the_difference_in_a_jpeg() -> None:
    noise = bytes((7919 * i * i) % 256 for i in range(64 * 64 * 4))
    frame = rtc.VideoFrame(64, 64, rtc.VideoBufferType.RGBA, noise)

    low = images.encode(frame, images.EncodeOptions(quality=10))
    high = images.encode(frame, images.EncodeOptions(quality=95))
    default = images.encode(frame, images.EncodeOptions(quality=None))

    assert len(low) < len(default) < len(high)


@pytest.mark.parametrize(
    ("strategy", "size"),
    [
        ("skew", (100, 100)),
        ("scale_aspect_fit", (100, 50)),
        ("scale_aspect_cover", (200, 100)),
        ("center_aspect_fit", (100, 100)),
        ("center_aspect_cover", (100, 100)),
    ],
)
def test_sizes(strategy: str, size: tuple[int, int]) -> None:
    assert resized(strategy).size == size


def test_a_fitted_image_is_centered_on_black() -> None:
    image = resized("center_aspect_fit")

    assert image.getpixel((50, 10)) == image.getpixel((50, 90)) == BLACK
    assert image.getpixel((0, 50)) == image.getpixel((99, 50)) == RED


def test_a_covering_image_leaves_no_black() -> None:
    image = resized("center_aspect_cover")

    assert image.getcolors() == [(10000, RED)]


def test_a_thin_image_never_vanishes() -> None:
    assert resized("scale_aspect_fit", width=200, height=1).size == (2, 1)
    assert resized("scale_aspect_fit", width=1, height=200).size == (1, 1)


def test_unknown_strategies_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown resize strategy 'zoom'"):
        resized("zoom")
    with pytest.raises(ValueError, match="0 x 100"):
        resized("skew", width=0)


def test_without_pillow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)

    with pytest.raises(ImportError, match=r"livekit-agents\[images\]"):
        images.encode(red_frame(2, 2), images.EncodeOptions())


def test_importing_does_not_load_pillow() -> None:
    program = (
        "import sys; from livekit.agents.utils import images; images.EncodeOptions();"
        "sys.exit('PIL' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
