"""The Converse API of Amazon Bedrock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..utils import SerializedImage
from .utils import PartTypes, Turns, arguments_object, split_instructions

if TYPE_CHECKING:
    from ..chat_context import ChatContext

_IMAGE_FORMATS = {
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/gif": "gif",
    "image/webp": "webp",
}


@dataclass
class BedrockFormatData:
    """What the API takes beside the messages.

    Attributes:
        system_messages: Texts of the system prompt.
    """

    system_messages: list[str]


def to_chat_ctx(
    chat_ctx: ChatContext, *, inject_dummy_user_message: bool = True
) -> tuple[list[dict[str, Any]], BedrockFormatData]:
    """Messages of the API, which alternate between user and assistant.

    Args:
        chat_ctx: The conversation.
        inject_dummy_user_message: Begin with a placeholder of the user if nothing of theirs comes
            first: the API rejects the request otherwise.

    Raises:
        ValueError: If an image is given by URL, or is neither JPEG, PNG, GIF nor WebP.
    """
    system, items = split_instructions(chat_ctx.items)
    turns = Turns(items, _PARTS)
    if inject_dummy_user_message:
        turns.start_with("user", _PARTS.text("(empty)"))
    return turns.to_list(), BedrockFormatData(system_messages=[system] if system else [])


def _image(image: SerializedImage) -> dict[str, Any]:
    if image.external_url:
        raise ValueError(
            "Bedrock takes no images by URL: pass the image as a data: URL or a video frame"
        )
    if image.mime_type not in _IMAGE_FORMATS:
        known = ", ".join(_IMAGE_FORMATS)
        raise ValueError(f"Bedrock takes no {image.mime_type} images, only {known}")
    return {"format": _IMAGE_FORMATS[image.mime_type], "source": {"bytes": image.data_bytes}}


_PARTS = PartTypes(
    text=lambda text: {"text": text},
    image=lambda image: {"image": _image(image)},
    call=lambda call: {
        "toolUse": {
            "toolUseId": call.call_id,
            "name": call.name,
            "input": arguments_object(call),
        }
    },
    output=lambda output: {
        "toolResult": {
            "toolUseId": output.call_id,
            "content": [{"text": output.output}],
            "status": "error" if output.is_error else "success",
        }
    },
)
