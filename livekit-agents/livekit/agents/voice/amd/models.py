"""Which models judge who has picked up, and how one is asked."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, cast

from ...log import logger
from ...types import NotGivenOr
from ...utils import is_given
from ...utils.misc import is_cloud
from .classifier import AMDCategory

if TYPE_CHECKING:
    from ...llm import LLM
    from ...stt import STT
    from ..agent_session import AgentSession

DEFAULT_LLM = "google/gemini-3.1-flash-lite"
DEFAULT_STT = "cartesia/ink-whisper"

EVALUATED_LLM_MODELS = (DEFAULT_LLM,)
"""LLMs that the prompt is known to work with."""

EVALUATED_STT_MODELS = (DEFAULT_STT,)
"""STTs that are known to transcribe greetings well."""


def inference_available() -> bool:
    """Whether this runs on LiveKit Cloud, with credentials for its models."""
    if not is_cloud(os.environ.get("LIVEKIT_URL", "")):
        return False
    return all(
        os.environ.get(f"LIVEKIT_INFERENCE_{name}") or os.environ.get(f"LIVEKIT_{name}")
        for name in ("API_KEY", "API_SECRET")
    )


def resolve_llm(
    session: AgentSession[Any], given: NotGivenOr[LLM[Any] | str | None]
) -> tuple[LLM[Any], bool]:
    """The model to ask, and whether it was made here.

    Raises:
        ValueError: There is none that can be asked, or a string names none.
    """
    from ...llm import LLM

    model: Any = given
    if not is_given(given):
        model = DEFAULT_LLM if inference_available() else None
    made = isinstance(model, str)
    if isinstance(model, str):
        from ...inference import llm as inference_llm

        model = inference_llm.llm_from_model_string(model)
    elif model is None:
        model = session._activity.llm if session._activity is not None else session.llm
    if not isinstance(model, LLM):
        raise ValueError(
            "answering machine detection needs an LLM to judge what it hears, and the session has "
            "none: pass AMD(session, llm=...)"
        )
    return model, made


def resolve_stt(given: NotGivenOr[STT[Any] | str | None]) -> tuple[STT[Any] | None, bool]:
    """The recogniser of the detection's own (None: the session's transcripts), and whether it was
    made here.

    Raises:
        ValueError: It does not stream, or a string names none.
    """
    model: Any = given
    if not is_given(given):
        model = DEFAULT_STT if inference_available() else None
    made = isinstance(model, str)
    if isinstance(model, str):
        from ...inference import STT as InferenceSTT

        model = InferenceSTT.from_model_string(model)
    if model is not None and not model.capabilities.streaming:
        raise ValueError(
            f"answering machine detection can't use {model.label}, which does not stream: wrap it "
            "in a stt.StreamAdapter, or pass stt=None for the session's transcripts"
        )
    return cast("STT[Any] | None", model), made


def warn_if_untested(model: Any, known: tuple[str, ...]) -> None:
    """Say so when nobody has tried the model for this."""
    name = str(model.model).lower()
    if name and any(name in tested.lower() for tested in known):
        return
    logger.warning(
        "answering machine detection was not evaluated with the model %s; "
        "suppress_compatibility_warning=True silences this",
        model.model,
    )


def _schema(name: str, description: str, field: str, type: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "description": description,
        "parameters": {
            "type": "object",
            "properties": {field: type},
            "required": [field],
            "additionalProperties": False,
        },
    }


_SAVE = _schema(
    "save_prediction",
    "Say who or what has picked up.",
    "label",
    {"type": "string", "enum": [category.value for category in AMDCategory]},
)
_POSTPONE = _schema(
    "postpone_termination",
    "Wait for more to be said before deciding.",
    "seconds",
    {"type": "number", "description": "How long to wait, at most 10."},
)


async def ask(
    llm: LLM[Any], prompt: str, transcript: str, *, may_postpone: bool
) -> AMDCategory | float | None:
    """One question to the model.

    Returns:
        Its label, the seconds it wants to wait, or None when the answer makes no sense.
    """
    from ...llm import ChatContext, Tool, function_tool

    @function_tool(raw_schema=_SAVE)
    async def save_prediction(raw_arguments: dict[str, object]) -> None:
        """Never run: the arguments are the answer."""

    @function_tool(raw_schema=_POSTPONE)
    async def postpone_termination(raw_arguments: dict[str, object]) -> None:
        """Never run: the arguments are the answer."""

    context = ChatContext.empty()
    context.add_message(role="system", content=prompt)
    context.add_message(role="user", content=f"Heard so far:\n{transcript}")
    tools: list[Tool] = [save_prediction]
    if may_postpone:
        tools.append(postpone_termination)
    stream = llm.chat(chat_ctx=context, tools=tools, tool_choice="required")
    response = await stream.collect()
    for call in response.tool_calls:
        try:
            arguments = json.loads(call.arguments or "{}")
            if call.name == "save_prediction":
                return AMDCategory(arguments["label"])
            if call.name == "postpone_termination" and may_postpone:
                return float(arguments["seconds"])
        except (ValueError, TypeError, KeyError):
            logger.warning("a verdict of %s on who has picked up is not understood", llm.label)
    return None
