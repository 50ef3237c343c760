"""A language model made of rules: honest, predictable, offline. Replace it by any `llm.LLM`.

It looks at the last thing that happened: a user message is answered by the first rule whose words it
contains and whose tool is on offer (all are, where nobody says which); a tool result is spoken as the
rule of that tool says. Nothing is learned or guessed.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from livekit.agents import (
    DEFAULT_API_CONNECT_OPTIONS,
    NOT_GIVEN,
    APIConnectOptions,
    ChatContext,
    NotGivenOr,
    llm,
    utils,
)

WORDS_PER_CHUNK = 3
CHUNK_DELAY = 0.02
"""Seconds between chunks: a streaming model does not answer all at once either."""


@dataclass(frozen=True)
class Rule:
    """What to say, and which tool to call, when the user says certain words."""

    words: Sequence[str]
    """Regular expressions; one of them has to match."""
    say: str = ""
    tool: str | None = None
    arguments: Callable[[str], dict[str, Any]] = lambda said: {}


class RulesLLM(llm.LLM[str]):
    """Answers by rules.

    Args:
        rules: Tried in order.
        results: How to tell the result of a tool; `{}` stands for what it returned. Or a function of
            that.
        otherwise: Said when no rule matches.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        *,
        results: Mapping[str, str | Callable[[str], str]],
        otherwise: str,
    ) -> None:
        super().__init__()
        self._rules = rules
        self._results = results
        self._otherwise = otherwise

    @property
    def model(self) -> str:
        """Shown in metrics."""
        return "rules"

    @property
    def provider(self) -> str:
        """Shown in metrics."""
        return "this process"

    def chat(
        self,
        *,
        chat_ctx: ChatContext,
        tools: list[llm.Tool] | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        parallel_tool_calls: NotGivenOr[bool] = NOT_GIVEN,
        tool_choice: NotGivenOr[llm.ToolChoice] = NOT_GIVEN,
        extra_kwargs: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
    ) -> llm.LLMStream:
        """Answer the conversation."""
        offered = {tool.id for tool in tools} if tools is not None else None
        text, call = self._answer(chat_ctx, offered, may_call=tool_choice != "none")
        return _RulesStream(
            self,
            text,
            call,
            chat_ctx=chat_ctx,
            tools=tools or [],
            conn_options=conn_options,
        )

    def _answer(
        self, chat_ctx: ChatContext, offered: set[str] | None, *, may_call: bool
    ) -> tuple[str, llm.FunctionToolCall | None]:
        last = next(
            (
                item
                for item in reversed(chat_ctx.items)
                if item.type == "function_call_output"
                or (item.type == "message" and item.role == "user")
            ),
            None,
        )
        if isinstance(last, llm.FunctionCallOutput):
            template = "I am sorry: {}" if last.is_error else self._results.get(last.name, "{}")
            text = template(last.output) if callable(template) else template.format(last.output)
            return text, None
        said = (last.text_content or "").lower() if isinstance(last, llm.ChatMessage) else ""
        for rule in self._rules:
            on_offer = offered is None or rule.tool is None or rule.tool in offered
            if may_call and not on_offer:
                continue
            if any(re.search(words, said) for words in rule.words):
                call = None
                if rule.tool is not None and may_call:
                    call = llm.FunctionToolCall(
                        name=rule.tool,
                        arguments=json.dumps(rule.arguments(said)),
                        call_id=utils.shortuuid("call_"),
                    )
                return rule.say, call
        return self._otherwise, None


class _RulesStream(llm.LLMStream):
    def __init__(
        self, model: RulesLLM, text: str, call: llm.FunctionToolCall | None, **kwargs: Any
    ) -> None:
        super().__init__(model, **kwargs)
        self._text = text
        self._call = call

    async def _run(self) -> None:
        request = utils.shortuuid("rules_")
        words = re.findall(r"\S+\s*", self._text)
        for start in range(0, len(words), WORDS_PER_CHUNK):
            await asyncio.sleep(CHUNK_DELAY)
            content = "".join(words[start : start + WORDS_PER_CHUNK])
            self._event_ch.send_nowait(
                llm.ChatChunk(id=request, delta=llm.ChoiceDelta(content=content))
            )
        if self._call is not None:
            self._event_ch.send_nowait(
                llm.ChatChunk(id=request, delta=llm.ChoiceDelta(tool_calls=[self._call]))
            )
        self._event_ch.send_nowait(
            llm.ChatChunk(
                id=request,
                usage=llm.CompletionUsage(
                    completion_tokens=len(words),
                    prompt_tokens=len(self._chat_ctx.items),
                    total_tokens=len(words) + len(self._chat_ctx.items),
                ),
            )
        )
