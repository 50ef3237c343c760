"""Google's Gemini API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..chat_context import FunctionCall, FunctionCallOutput
from ..utils import SerializedImage
from .utils import Part, PartTypes, Turns, arguments_object, split_instructions

if TYPE_CHECKING:
    from ..chat_context import ChatContext

# Outputs share the user's role on the wire, but never a turn with what the user said.
_OUTPUTS = "outputs"


@dataclass
class GoogleFormatData:
    """What the API takes beside the turns.

    Attributes:
        system_messages: Texts of the system instruction.
    """

    system_messages: list[str]


def to_chat_ctx(
    chat_ctx: ChatContext,
    *,
    inject_dummy_user_message: bool = True,
    thought_signatures: dict[str, bytes] | None = None,
    merge_dynamic_instructions: bool = True,
) -> tuple[list[dict[str, Any]], GoogleFormatData]:
    """Contents of the API: turns of `user` and `model`.

    Args:
        chat_ctx: The conversation.
        inject_dummy_user_message: End with a placeholder of the user if the model had the last
            word, or nobody.
        thought_signatures: What the model attached to its calls, by `call_id`. It wants to see
            them again.
        merge_dynamic_instructions: Make dynamic instructions part of the system instruction. With
            a cached system instruction, which can't change, they are sent in the conversation.
    """
    system, items = split_instructions(chat_ctx.items, merge_dynamic=merge_dynamic_instructions)
    turns = Turns(items, _part_types(thought_signatures or {}), output_role=_OUTPUTS)
    if inject_dummy_user_message and turns.last_role not in ("user", _OUTPUTS):
        turns.add("user", {"text": "."})
    contents = turns.to_list(parts_key="parts", assistant="model", **{_OUTPUTS: "user"})
    return contents, GoogleFormatData(system_messages=[system] if system else [])


def _part_types(signatures: Mapping[str, bytes]) -> PartTypes:
    return PartTypes(
        text=lambda text: {"text": text},
        image=_image,
        call=lambda call: _function_call(call, signatures.get(call.call_id)),
        output=_function_response,
    )


def _image(image: SerializedImage) -> Part:
    mime_type = image.mime_type or "image/jpeg"
    if image.external_url:
        return {"file_data": {"file_uri": image.external_url, "mime_type": mime_type}}
    return {"inline_data": {"data": image.data_bytes, "mime_type": mime_type}}


def _function_call(call: FunctionCall, signature: bytes | None) -> Part:
    arguments = arguments_object(call)
    part: Part = {"function_call": {"id": call.call_id, "name": call.name, "args": arguments}}
    if signature:
        part["thought_signature"] = signature
    return part


def _function_response(output: FunctionCallOutput) -> Part:
    response = {"error" if output.is_error else "output": output.output}
    return {"function_response": {"id": output.call_id, "name": output.name, "response": response}}
