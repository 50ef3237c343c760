"""Helpers around models: schemas, arguments, running tools, images, comparing chat contexts."""

from ._arguments import parse_function_arguments, prepare_function_arguments, validated_arguments
from ._chat_diff import DiffOps, compute_chat_ctx_diff
from ._execution import (
    FunctionCallResult,
    execute_function_call,
    make_function_call_output,
    output_text,
    run_in_daemon_thread,
    run_tool,
    unknown_function,
)
from ._images import SerializedImage, serialize_image
from ._schema import (
    ResponseFormatT,
    build_legacy_openai_schema,
    build_strict_openai_schema,
    context_class,
    function_arguments_to_pydantic_model,
    is_context_type,
    is_typed_dict,
    to_openai_response_format,
    to_response_format_param,
)
from ._thinking import (
    THINK_TAG_END,
    THINK_TAG_START,
    ThinkingTokenFilter,
    strip_thinking_tokens,
)

__all__ = [
    "THINK_TAG_END",
    "THINK_TAG_START",
    "DiffOps",
    "FunctionCallResult",
    "ResponseFormatT",
    "SerializedImage",
    "ThinkingTokenFilter",
    "build_legacy_openai_schema",
    "build_strict_openai_schema",
    "compute_chat_ctx_diff",
    "context_class",
    "execute_function_call",
    "function_arguments_to_pydantic_model",
    "is_context_type",
    "is_typed_dict",
    "make_function_call_output",
    "output_text",
    "parse_function_arguments",
    "prepare_function_arguments",
    "run_in_daemon_thread",
    "run_tool",
    "serialize_image",
    "strip_thinking_tokens",
    "to_openai_response_format",
    "to_response_format_param",
    "unknown_function",
    "validated_arguments",
]
