"""Decisions: questions about a text that a model answers with a number, a choice or a score."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from .._emitter import IsolatedEmitter
from .._exceptions import APIError, APITimeoutError
from .._model import NamedModel
from .._streams import qualified_name, report_survivors
from ..log import logger
from ..telemetry.traces import tracer
from ..types import DEFAULT_API_CONNECT_OPTIONS, APIConnectOptions
from ..utils.aio import TaskScope
from ..utils.retry import RetryPolicy
from .chat_context import ChatContext

__all__ = [
    "Choice",
    "ChoiceResult",
    "Decision",
    "DecisionCapabilities",
    "DecisionKind",
    "DecisionModel",
    "DecisionResponse",
    "DecisionResult",
    "Probability",
    "ProbabilityResult",
    "Score",
    "ScoreResult",
]

DecisionKind: TypeAlias = Literal["probability", "choice", "score"]
"""How a question is answered."""

_KILL = 0.25
"""Seconds for an attempt that took too long to react to its cancellation."""


@dataclass(frozen=True)
class Probability:
    """How likely is it that something holds?"""

    prompt: str


@dataclass(frozen=True)
class Choice:
    """Which of several options is it?"""

    prompt: str
    options: dict[str, str]
    """Name of each option, and what it means."""


@dataclass(frozen=True)
class Score:
    """Which level of a scale is it?"""

    prompt: str
    levels: list[str]
    """What each level means, starting with level 0."""


Decision: TypeAlias = Probability | Choice | Score
"""A question."""

_Share: TypeAlias = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class ProbabilityResult(BaseModel):
    """Answer to a `Probability`."""

    kind: Literal["probability"] = "probability"
    value: _Share
    provider_data: dict[str, Any] = Field(default_factory=dict)


class ChoiceResult(BaseModel):
    """Answer to a `Choice`."""

    kind: Literal["choice"] = "choice"
    value: str
    probabilities: dict[str, _Share] | None = None
    """How likely each option is."""
    provider_data: dict[str, Any] = Field(default_factory=dict)


class ScoreResult(BaseModel):
    """Answer to a `Score`."""

    kind: Literal["score"] = "score"
    value: float = Field(ge=0, allow_inf_nan=False)
    """On the scale of the levels; may lie between two of them."""
    probabilities: dict[int, _Share]
    """How likely each level is."""
    levels: list[str]
    provider_data: dict[str, Any] = Field(default_factory=dict)


DecisionResult: TypeAlias = Annotated[
    ProbabilityResult | ChoiceResult | ScoreResult, Field(discriminator="kind")
]
"""An answer, told apart by `kind`."""


class DecisionResponse(BaseModel):
    """Answers to several questions, by the names that were given to them."""

    results: dict[str, DecisionResult]
    errors: dict[str, str] = Field(default_factory=dict)
    """Why a question has no answer."""
    model: str = ""
    provider: str = ""
    request_id: str = ""
    input_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)


@dataclass
class DecisionCapabilities:
    """What a model can do."""

    decision_kinds: frozenset[DecisionKind] | set[DecisionKind]


_KINDS: dict[type[Any], DecisionKind] = {
    Probability: "probability",
    Choice: "choice",
    Score: "score",
}


class DecisionModel(ABC, NamedModel, IsolatedEmitter[Literal["metrics_collected"]]):
    """Base of models that answer decisions. Emits `"metrics_collected"` (`DecisionMetrics`)."""

    def __init__(self, *, capabilities: DecisionCapabilities) -> None:
        """Set up the model.

        Args:
            capabilities: What it can do.
        """
        super().__init__()
        self._capabilities = capabilities
        self._label = qualified_name(self)

    @property
    def capabilities(self) -> DecisionCapabilities:
        """What it can do."""
        return self._capabilities

    @abstractmethod
    async def _evaluate_impl(
        self,
        *,
        input: str,
        decisions: Mapping[str, Decision],
        conn_options: APIConnectOptions,
    ) -> DecisionResponse:
        """Do one attempt. Raises APIError when it failed."""

    async def evaluate(
        self,
        *,
        input: str | ChatContext,
        decisions: Mapping[str, Decision],
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> DecisionResponse:
        """Answer questions about a text.

        Args:
            input: The text; of a conversation, what user and assistant said.
            decisions: The questions by name.
            conn_options: How often to try, and how long an attempt may take.

        Returns:
            Each name is in `results`, or in `errors`.

        Raises:
            ValueError: A question is incomplete, or of a kind the model can't answer.
            APIError: The request failed.
        """
        self._check(decisions)
        if not decisions:
            return DecisionResponse(results={}, model=self.model, provider=self.provider)
        text = input if isinstance(input, str) else _transcript(input)
        began, began_at = asyncio.get_running_loop().time(), time.time()
        with tracer.start_as_current_span(
            "decision_model.evaluate", attributes={"lk.decision_count": len(decisions)}
        ):
            answer = await self._attempt_until_done(text, decisions, conn_options)
        response = _checked_response(answer, decisions)
        self._emit_metrics(response, began_at, asyncio.get_running_loop().time() - began)
        return response

    async def aclose(self) -> None:
        """Release what the model holds."""

    def _check(self, decisions: Mapping[str, Decision]) -> None:
        for name, decision in decisions.items():
            if not name.strip():
                raise ValueError("a decision has a blank name")
            kind = _KINDS.get(type(decision))
            if kind is None:
                raise ValueError(
                    f"decision {name!r} is {decision!r}: expected a Probability, Choice or Score"
                )
            if kind not in self._capabilities.decision_kinds:
                raise ValueError(f"{self._label} can't answer {name!r}: its kind is {kind}")
            if not decision.prompt.strip():
                raise ValueError(f"decision {name!r} has a blank prompt")
            if isinstance(decision, Choice):
                if len(decision.options) < 2 or not all(key.strip() for key in decision.options):
                    raise ValueError(f"decision {name!r} needs at least two options with a name")
            elif isinstance(decision, Score) and (
                len(decision.levels) < 2 or not all(level.strip() for level in decision.levels)
            ):
                raise ValueError(f"decision {name!r} needs at least two levels, none of them blank")

    async def _attempt_until_done(
        self, text: str, decisions: Mapping[str, Decision], conn_options: APIConnectOptions
    ) -> DecisionResponse:
        policy = RetryPolicy(conn_options)
        while True:
            try:
                return await self._attempt(text, decisions, conn_options)
            except APIError as error:
                delay = policy.next_delay(error)
                if delay is None:
                    raise
                logger.warning("%s: %s, retrying in %.2gs", self._label, error, delay)
                await asyncio.sleep(delay)

    async def _attempt(
        self, text: str, decisions: Mapping[str, Decision], conn_options: APIConnectOptions
    ) -> DecisionResponse:
        scope = TaskScope(self._label)
        attempt = scope.spawn(
            self._evaluate_impl(input=text, decisions=decisions, conn_options=conn_options),
            log_errors=False,
        )
        try:
            if await scope.join(conn_options.timeout):
                raise APITimeoutError(f"no decision within {conn_options.timeout:g} s")
        finally:
            report_survivors(await scope.cancel(_KILL))
        try:
            return attempt.result()
        except asyncio.TimeoutError as error:
            raise APITimeoutError from error

    def _emit_metrics(self, response: DecisionResponse, began_at: float, duration: float) -> None:
        from ..metrics.base import DecisionMetrics, Metadata

        self.emit(
            "metrics_collected",
            DecisionMetrics(
                label=self._label,
                request_id=response.request_id,
                timestamp=began_at,
                duration=duration,
                input_tokens=response.input_tokens,
                output_tokens=response.output_tokens,
                metadata=Metadata(
                    model_name=response.model or self.model,
                    model_provider=response.provider or self.provider,
                ),
            ),
        )


def _transcript(chat_ctx: ChatContext) -> str:
    return "\n".join(
        f"{message.role}: {text}"
        for message in chat_ctx.messages()
        if message.role in ("user", "assistant") and (text := message.text_content)
    )


def _checked_response(
    response: DecisionResponse, decisions: Mapping[str, Decision]
) -> DecisionResponse:
    """Leave every name in exactly one place; an answer that makes no sense becomes an error."""
    answered = [*response.results, *response.errors]
    if len(set(answered)) < len(answered):
        raise APIError("the model answered a decision and refused it as well", retryable=False)
    if unknown := set(answered) - set(decisions):
        raise APIError(f"the model answered what it was not asked: {unknown}", retryable=False)
    results: dict[str, DecisionResult] = {}
    errors = dict(response.errors)
    for name, decision in decisions.items():
        if name in errors:
            continue
        result = response.results.get(name)
        problem = "no answer" if result is None else _problem(decision, result)
        if problem is not None:
            errors[name] = problem
        elif result is not None:
            results[name] = result
    return response.model_copy(update={"results": results, "errors": errors})


def _problem(decision: Decision, result: DecisionResult) -> str | None:
    if result.kind != _KINDS[type(decision)]:
        return f"expected a {_KINDS[type(decision)]}, got a {result.kind}"
    if isinstance(decision, Choice) and isinstance(result, ChoiceResult):
        if result.value not in decision.options:
            return f"unknown choice {result.value!r}"
        if result.probabilities is not None and set(result.probabilities) != set(decision.options):
            return "the probabilities don't match the options"
    if isinstance(decision, Score) and isinstance(result, ScoreResult):
        if result.value > len(decision.levels) - 1:
            return f"the score {result.value:g} is beyond the last level"
        if set(result.probabilities) != set(range(len(decision.levels))):
            return "the probabilities don't match the levels"
        if result.levels != decision.levels:
            return "the levels don't match those asked for"
    return None
