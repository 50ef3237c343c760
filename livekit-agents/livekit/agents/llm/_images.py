"""Images of the chat context as bytes or links that a provider takes."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from ..log import logger

if TYPE_CHECKING:
    from .chat_context import ImageContent

_MIME_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif")
_JPEG_QUALITY = 75
_CACHE_KEY = "serialized_image"


@dataclass
class SerializedImage:
    """An image that is ready to be sent: its bytes, or where to fetch it."""

    inference_detail: Literal["auto", "high", "low"]
    mime_type: str | None
    data_bytes: bytes | None = None
    external_url: str | None = None


def serialize_image(image: ImageContent, *, use_cache: bool = True) -> SerializedImage:
    """Prepare an image for a provider.

    Video frames become JPEGs (quality 75), scaled to fit into `inference_width` by
    `inference_height` if both are set; that needs the `images` extra. `data:` URLs are decoded,
    other URLs passed on.

    Args:
        image: The image.
        use_cache: Encode each image only once, and keep the result with it.

    Raises:
        ValueError: A `data:` URL is malformed or not of a supported type.
    """
    if use_cache and (cached := image._cache.get(_CACHE_KEY)) is not None:
        return cast("SerializedImage", cached)
    serialized = _serialize(image)
    if use_cache:
        image._cache[_CACHE_KEY] = serialized
    return serialized


def _serialize(image: ImageContent) -> SerializedImage:
    if not isinstance(image.image, str):
        return SerializedImage(
            inference_detail=image.inference_detail,
            mime_type="image/jpeg",
            data_bytes=_encode_frame(image),
        )
    if image.image.startswith("data:"):
        return _decode_data_url(image, image.image)
    return SerializedImage(
        inference_detail=image.inference_detail,
        mime_type=image.mime_type,
        external_url=image.image,
    )


def _decode_data_url(image: ImageContent, url: str) -> SerializedImage:
    header, comma, data = url.partition(",")
    if not comma:
        raise ValueError("malformed data URL of an image: expected data:<mime type>;base64,<data>")
    mime_type = header.removeprefix("data:").split(";")[0]
    if image.mime_type and image.mime_type != mime_type:
        logger.warning(
            "the data URL of an image says %r, its mime_type %r: the latter is used",
            mime_type,
            image.mime_type,
        )
        mime_type = image.mime_type
    if mime_type not in _MIME_TYPES:
        raise ValueError(
            f"unsupported image type {mime_type!r}: expected one of {', '.join(_MIME_TYPES)}"
        )
    try:
        data_bytes = base64.b64decode(data)
    except binascii.Error as e:
        raise ValueError(f"the data URL of an image is not valid base64: {e}") from e
    return SerializedImage(
        inference_detail=image.inference_detail, mime_type=mime_type, data_bytes=data_bytes
    )


def _encode_frame(image: ImageContent) -> bytes:
    from livekit import rtc

    from ..utils.images import EncodeOptions, ResizeOptions, encode

    assert isinstance(image.image, rtc.VideoFrame)
    options = EncodeOptions(format="JPEG", quality=_JPEG_QUALITY)
    if image.inference_width and image.inference_height:
        options.resize_options = ResizeOptions(
            width=image.inference_width,
            height=image.inference_height,
            strategy="scale_aspect_fit",
        )
    return encode(image.image, options)
