"""Terms that the STT should listen for, and a model that finds them in the conversation."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import TypedDict

from .._emitter import IsolatedEmitter
from ..log import logger
from ..telemetry import trace_types
from ..telemetry.traces import tracer
from ..utils import resolve_env_int
from ..utils.aio import Survivor, TaskScope, wait_until
from .hearing.keyterms import KeytermBook, string_list
from .hearing.teardown import split

if TYPE_CHECKING:
    from ..llm import LLM, ChatContext
    from ..metrics import LLMMetrics
    from ..stt import STT
    from .agent_session import AgentSession
    from .events import ConversationItemAddedEvent

__all__ = ["KeytermDetectionOptions", "KeytermDetector", "KeytermsOptions", "STTContextOptions"]

lk_keyterms_debug = resolve_env_int("LK_KEYTERMS_DEBUG")
"""Not 0: every detection pass is logged."""

DEFAULT_MODEL = "google/gemma-4-31b-it"
DEFAULT_TIMEOUT = 10.0
MAX_MESSAGES = 12
"""How much of the conversation a pass reads."""

DEFAULT_INSTRUCTIONS = """\
You maintain a list of key terms (names, products, places, jargon, codes) that helps a speech \
recogniser spell what the user says.

The user's lines are raw speech recognition: expect misheard words, and never trust their spelling \
by itself. Precision matters more than coverage: a wrong term makes recognition worse, a missing \
one does no harm.

Call record_keyterms once:
- confirm: terms whose spelling something else supports: the user spelled it out and that was \
accepted, the agent used it in its own lines, or the user corrected it explicitly.
- pending: terms that look specific and likely, without such support yet.
- remove: listed terms that turned out to be wrong or misspelled.
Leave a list empty when nothing belongs in it. Never add common words."""

_TOOL_SCHEMA: dict[str, Any] = {
    "name": "record_keyterms",
    "description": "Record which key terms to add, confirm and remove.",
    "parameters": {
        "type": "object",
        "properties": {
            name: {"type": "array", "items": {"type": "string"}, "description": description}
            for name, description in (
                ("pending", "Likely terms whose spelling nothing supports yet."),
                ("confirm", "Terms whose spelling is supported."),
                ("remove", "Listed terms that are wrong."),
            )
        },
        "required": ["pending", "confirm", "remove"],
        "additionalProperties": False,
    },
}


class KeytermDetectionOptions(TypedDict, total=False):
    """Finding key terms in the conversation.

    Attributes:
        enabled: Default False.
        llm: The model that finds them, or its name. Default: a model of the inference gateway.
        turn_interval: Look every so many user messages. Default 1.
        max_keyterms: How many terms there may be in all. Default None: no limit.
        instructions: Instead of the built-in ones.
        timeout: Seconds for one look. Default 10.0.
    """

    enabled: bool
    llm: LLM[Any] | str | None
    turn_interval: int
    max_keyterms: int | None
    instructions: str | None
    timeout: float


class STTContextOptions(TypedDict, total=False):
    """What the STT is told about the conversation.

    Attributes:
        keyterms: Terms to listen for.
        keyterm_detection: Finding more of them.
        forward_chat_context: Pass on what is said, to STTs that can use it. Default True.
    """

    keyterms: list[str]
    keyterm_detection: KeytermDetectionOptions
    forward_chat_context: bool


class KeytermsOptions(TypedDict, total=False):
    """Deprecated: use `STTContextOptions`.

    Attributes:
        keyterms: Terms to listen for.
        keyterm_detection: Finding more of them.
    """

    keyterms: list[str]
    keyterm_detection: KeytermDetectionOptions


class KeytermDetector(IsolatedEmitter[Literal["metrics_collected"]]):
    """The key terms of one session. Terms outlive agents; looking for them ends with each.

    Emits "metrics_collected" with the `LLMMetrics` of its own requests.

    Args:
        static_keyterms: Terms that are always in force.
        options: Whether and how to find more.
    """

    def __init__(
        self,
        *,
        static_keyterms: list[str] | None = None,
        options: KeytermDetectionOptions | None = None,
    ) -> None:
        super().__init__()
        self._options = options or {}
        self._book = KeytermBook(
            static_keyterms or (), max_keyterms=self._options.get("max_keyterms")
        )
        self._interval = max(1, self._options.get("turn_interval", 1))
        self._scope = TaskScope("keyterm detection")
        self._session: AgentSession[Any] | None = None
        self._stt: STT[Any] | None = None
        self._llm: LLM[Any] | None = None
        self._user_messages = 0

    # -- terms ----------------------------------------------------------------------------------

    @property
    def keyterms(self) -> list[str]:
        """All terms in force: static ones first, each once."""
        return self._book.terms

    @property
    def static_keyterms(self) -> list[str]:
        """The terms that were given."""
        return self._book.static

    def set_static_keyterms(self, terms: list[str]) -> None:
        """Replace the given terms; the STT learns of it at once."""
        before = self._book.terms
        self._book.set_static(terms)
        if self._book.terms != before:
            self._push()

    # -- working for an activity ----------------------------------------------------------------

    def start(self, session: AgentSession[Any], stt: STT[Any] | None) -> None:
        """An agent goes on duty: give its STT the terms and, if asked to, look for new ones."""
        self._stop_looking()
        self.swap_stt(stt)
        if not self._options.get("enabled"):
            return
        if stt is None or not stt.capabilities.keyterms:
            logger.warning("keyterm detection is enabled, but the STT takes no key terms")
            return
        if self._llm is None:
            self._llm = self._make_llm()
        if self._llm is None:
            return
        self._session = session
        session.on("conversation_item_added", self._on_item)

    def swap_stt(self, stt: STT[Any] | None) -> None:
        """Work with another STT: it is given the terms."""
        changed, self._stt = stt is not self._stt, stt
        if changed and self._book.terms:
            self._push()

    async def aclose(self, timeout: float = 1.5) -> list[Survivor]:
        """Stop looking, within `timeout` seconds. The terms stay; `start` works again."""
        ending = self.ending(timeout)
        return [] if ending is None else await ending

    def ending(self, timeout: float = 1.5) -> Coroutine[Any, Any, list[Survivor]] | None:
        """As `aclose`, begun at once; None when nothing is left to wait for."""
        scope = self._scope
        self._stop_looking()
        return self._end_passes(scope, timeout) if scope.tasks else None

    async def _end_passes(self, scope: TaskScope, timeout: float) -> list[Survivor]:
        patience, grace = split(timeout)
        await wait_until(scope.tasks, patience)
        return await scope.cancel(grace)

    def _stop_looking(self) -> None:
        if self._session is not None:
            self._session.off("conversation_item_added", self._on_item)
            self._session = None
        self._scope.cancel_soon()
        self._scope = TaskScope("keyterm detection")

    def _push(self) -> None:
        if self._stt is not None:
            self._stt._update_session_keyterms(self._book.terms)

    def _make_llm(self) -> LLM[Any] | None:
        model = self._options.get("llm")
        if model is not None and not isinstance(model, str):
            llm = model
        else:
            from .. import inference

            make = getattr(inference, "llm_from_model_string", None)
            if make is None:
                logger.warning("keyterm detection is enabled, but there is no model to do it")
                return None
            try:
                llm = make(model or DEFAULT_MODEL)
            except ValueError as error:
                logger.warning("keyterm detection is off: %s", error)
                return None
        llm.on("metrics_collected", self._on_metrics)
        return llm

    def _on_metrics(self, metrics: LLMMetrics) -> None:
        self.emit("metrics_collected", metrics)

    # -- looking --------------------------------------------------------------------------------

    def _on_item(self, ev: ConversationItemAddedEvent) -> None:
        item = ev.item
        if item.type != "message" or item.role != "user" or not item.text_content:
            return
        self._user_messages += 1
        if self._user_messages % self._interval == 0 and not self._scope.tasks:
            assert self._session is not None
            self._scope.spawn(self._look(self._session.history), name="keyterm detection pass")

    async def _look(self, history: ChatContext) -> None:
        with tracer.start_as_current_span("keyterm_detection") as span:
            if self._llm is not None and span.is_recording():
                span.set_attribute(trace_types.ATTR_GEN_AI_REQUEST_MODEL, self._llm.model)
                if provider := trace_types.gen_ai_provider_name(self._llm.provider):
                    span.set_attribute(trace_types.ATTR_GEN_AI_PROVIDER_NAME, provider)
            await self._look_once(history, span)

    async def _look_once(self, history: ChatContext, span: Any) -> None:
        asking = self._scope.spawn(self._ask(history), name="ask for keyterms", log_errors=False)
        timeout = self._options.get("timeout", DEFAULT_TIMEOUT)
        try:
            if await wait_until(asking, timeout):
                logger.warning("keyterm detection took longer than %.1f s, no change", timeout)
                return
        finally:
            asking.cancel()
        if asking.cancelled():
            return
        if (error := asking.exception()) is not None:
            logger.warning("keyterm detection failed, no change", exc_info=error)
            return
        added, removed = self._book.apply(**asking.result())
        span.set_attributes(
            {
                trace_types.ATTR_KEYTERMS_COUNT: len(self._book.terms),
                trace_types.ATTR_KEYTERMS_ADDED: list(added),
                trace_types.ATTR_KEYTERMS_REMOVED: list(removed),
            }
        )
        if lk_keyterms_debug:
            logger.info(
                "keyterm detection pass",
                extra={"added": added, "removed": removed, "pending": self._book.pending},
            )
        if added or removed:
            self._push()

    async def _ask(self, history: ChatContext) -> dict[str, list[str]]:
        from ..llm import function_tool

        assert self._llm is not None

        @function_tool(raw_schema=_TOOL_SCHEMA)
        async def record_keyterms(raw_arguments: dict[str, object]) -> None:
            """Never run: the arguments are the answer."""

        stream = self._llm.chat(
            chat_ctx=self._prompt(history), tools=[record_keyterms], tool_choice="required"
        )
        response = await stream.collect()
        found: dict[str, list[str]] = {"pending": [], "confirm": [], "remove": []}
        for call in response.tool_calls:
            if call.name == "record_keyterms":
                arguments = _json_object(call.arguments)
                for name in found:
                    found[name] += string_list(arguments.get(name))
        return found

    def _prompt(self, history: ChatContext) -> ChatContext:
        from ..llm import ChatContext

        lines = [
            f"{message.role}: {message.text_content}"
            for message in history.messages()
            if message.role in ("user", "assistant") and message.text_content
        ][-MAX_MESSAGES:]
        prompt = ChatContext.empty()
        prompt.add_message(
            role="system", content=self._options.get("instructions") or DEFAULT_INSTRUCTIONS
        )
        prompt.add_message(
            role="user",
            content="\n".join(
                [
                    f"Terms in force: {json.dumps(self._book.terms, ensure_ascii=False)}",
                    f"Pending: {json.dumps(self._book.pending, ensure_ascii=False)}",
                    "Conversation:",
                    *lines,
                ]
            ),
        )
        return prompt


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
