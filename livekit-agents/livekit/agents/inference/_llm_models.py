"""Models that the gateway serves for text, their options, and what they don't take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from ..llm.tool_context import ToolChoice

OpenAIModels = Literal[
    "openai/gpt-4o",
    "openai/gpt-4o-mini",
    "openai/gpt-4.1",
    "openai/gpt-4.1-mini",
    "openai/gpt-4.1-nano",
    "openai/gpt-5",
    "openai/gpt-5-mini",
    "openai/gpt-5-nano",
    "openai/gpt-5.1",
    "openai/gpt-5.1-chat-latest",
    "openai/gpt-5.2",
    "openai/gpt-5.2-chat-latest",
    "openai/gpt-5.3-chat-latest",
    "openai/gpt-5.4",
    "openai/gpt-5.4-mini",
    "openai/gpt-5.4-nano",
    "openai/gpt-5.5",
    "openai/gpt-5.6-luna",
    "openai/gpt-5.6-sol",
    "openai/gpt-5.6-terra",
    "openai/gpt-6-luna",
    "openai/gpt-6-sol",
    "openai/gpt-6.1-sol",
    "openai/chat-latest",
    "openai/gpt-oss-120b",
]
GoogleModels = Literal[
    "google/gemini-4-argon",
    "google/gemini-3.1-pro",
    "google/gemini-3-flash",
    "google/gemini-3.1-flash-lite",
    "google/gemini-3.5-flash",
    "google/gemini-2.5-pro",
    "google/gemini-2.5-flash",
    "google/gemini-2.5-flash-lite",
]
KimiModels = Literal["moonshotai/kimi-k2.5", "moonshotai/kimi-k2.6"]
DeepSeekModels = Literal["deepseek-ai/deepseek-v3", "deepseek-ai/deepseek-v3.2"]
ZAIModels = Literal["zai/glm-5.1"]
XAIModels = Literal[
    "xai/grok-4-1-fast-non-reasoning",
    "xai/grok-4-1-fast-reasoning",
    "xai/grok-4.20-0309-non-reasoning",
    "xai/grok-4.20-0309-reasoning",
    "xai/grok-4.20-multi-agent-0309",
    "xai/grok-4.3",
    "xai/grok-4.5",
]
LLMModels = OpenAIModels | GoogleModels | KimiModels | DeepSeekModels | ZAIModels | XAIModels


class ChatCompletionOptions(TypedDict, total=False):
    """Options of a request, as OpenAI's API documents them."""

    frequency_penalty: float | None
    logit_bias: dict[str, int] | None
    logprobs: bool | None
    max_completion_tokens: int | None
    max_tokens: int | None
    metadata: dict[str, str] | None
    modalities: list[Literal["text", "audio"]] | None
    n: int | None
    parallel_tool_calls: bool
    prediction: dict[str, Any] | None
    presence_penalty: float | None
    prompt_cache_key: str
    prompt_cache_options: dict[str, Any]
    prompt_cache_retention: Literal["in_memory", "24h"] | None
    reasoning_effort: str | None
    safety_identifier: str
    seed: int | None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None
    stop: str | list[str] | None
    store: bool | None
    temperature: float | None
    top_logprobs: int | None
    top_p: float | None
    user: str
    verbosity: Literal["low", "medium", "high"] | None
    web_search_options: dict[str, Any]
    tool_choice: ToolChoice


_SAMPLING = frozenset(
    {
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "n",
    }
)
_SAMPLING_6 = _SAMPLING - {"n"} | {"stop"}
_REASONING_GROK = frozenset({"presence_penalty", "frequency_penalty", "stop"})

_DROPPED: tuple[tuple[str, frozenset[str], frozenset[str]], ...] = (
    ("o1", _SAMPLING, frozenset()),
    ("o3", _SAMPLING, frozenset()),
    ("o4", _SAMPLING, frozenset()),
    ("gpt-5", _SAMPLING, frozenset({"temperature", "top_p"})),
    ("gpt-6", _SAMPLING_6, _SAMPLING_6),
    ("grok-4-1-fast-reasoning", _REASONING_GROK, frozenset()),
    ("grok-4.20-0309-reasoning", _REASONING_GROK, frozenset()),
    ("grok-4.20-multi-agent", _REASONING_GROK, frozenset()),
)
"""Prefix of a name, options its models refuse, and those they take when they don't reason."""

_NO_EFFORT_WITH_TOOLS = ("gpt-5.2", "gpt-5.4")

_LOWEST_EFFORT = {
    **dict.fromkeys(
        (
            "gpt-5.1",
            "gpt-5.2",
            "gpt-5.4",
            "gpt-5.4-mini",
            "gpt-5.4-nano",
            "gpt-5.5",
            "gpt-5.6-luna",
            "gpt-5.6-sol",
            "gpt-5.6-terra",
            "gpt-6-luna",
            "gpt-6-sol",
        ),
        "none",
    ),
    "gpt-6.1-sol": "low",
    **dict.fromkeys(("gpt-5", "gpt-5-mini", "gpt-5-nano"), "minimal"),
}

_GPT_VERSION = re.compile(r"gpt-(\d+)(?:\.(\d+))?(?![\d.])")


def _name_of(model: str) -> str:
    return model.rsplit("/", 1)[-1]


def min_reasoning_effort(model: str) -> str | None:
    """The least a model can be asked to reason; None if it can't be asked.

    Args:
        model: Its name, with or without a provider.
    """
    return _LOWEST_EFFORT.get(_name_of(model))


def drop_unsupported_params(
    model: str, params: Mapping[str, Any], tools: Any = None
) -> dict[str, Any]:
    """Leave out options that a model refuses.

    Args:
        model: Its name, with or without a provider.
        params: Options of the request.
        tools: Tools of the request, if it has any.

    Returns:
        `params` itself if nothing had to go.
    """
    name = _name_of(model)
    dropped: set[str] = set()
    if tools and name.startswith(_NO_EFFORT_WITH_TOOLS):
        dropped.add("reasoning_effort")
    kept = {key: value for key, value in params.items() if key not in dropped}
    for prefix, refused, taken_without_reasoning in _DROPPED:
        if name.startswith(prefix):
            does_not_reason = _is_effort_none(kept) and min_reasoning_effort(name) == "none"
            dropped |= refused - taken_without_reasoning if does_not_reason else refused
            break
    if not dropped.intersection(params):
        return params  # type: ignore[return-value]
    return {key: value for key, value in params.items() if key not in dropped}


def _is_effort_none(params: Mapping[str, Any]) -> bool:
    effort = getattr(params.get("reasoning"), "effort", None)
    return params.get("reasoning_effort") == "none" or effort == "none"


def supports_prompt_cache_breakpoints(model: str) -> bool:
    """Whether a model takes marks for how far its prompt is to be cached."""
    provider, _, name = model.rpartition("/")
    version = _GPT_VERSION.match(name)
    if provider not in ("", "openai") or version is None:
        return False
    return (int(version[1]), int(version[2] or 0)) >= (5, 6)
