"""Several judges at once, and what they found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ..job import get_job_context
from ..llm import LLM, ChatContext
from ..log import logger
from ..utils.aio import TaskScope, wait_until
from ..utils.env import resolve_env_int
from .judge import JudgmentResult

_SCORES = {"pass": 1.0, "maybe": 0.5, "fail": 0.0}


@dataclass
class EvaluationResult:
    """The verdicts of a group of judges. Judges that failed themselves are not among them."""

    judgments: dict[str, JudgmentResult] = field(default_factory=dict)
    """Name of the judge -> what it found."""

    @property
    def score(self) -> float:
        """Mean of the verdicts from 0 to 1, where `maybe` counts 0.5; 0 without verdicts."""
        if not self.judgments:
            return 0.0
        return sum(_SCORES[j.verdict] for j in self.judgments.values()) / len(self.judgments)

    @property
    def all_passed(self) -> bool:
        """Whether every verdict is `pass`; True without verdicts."""
        return all(j.passed for j in self.judgments.values())

    @property
    def any_passed(self) -> bool:
        """Whether at least one verdict is `pass`."""
        return any(j.passed for j in self.judgments.values())

    @property
    def majority_passed(self) -> bool:
        """Whether more than half of the verdicts are `pass`; True without verdicts."""
        passed = sum(j.passed for j in self.judgments.values())
        return not self.judgments or passed > len(self.judgments) / 2

    @property
    def none_failed(self) -> bool:
        """Whether no verdict is `fail`."""
        return not any(j.failed for j in self.judgments.values())


@runtime_checkable
class Evaluator(Protocol):
    """Whatever can judge a conversation: a `Judge`, or a class of your own."""

    @property
    def name(self) -> str:
        """Under which its verdict appears."""
        ...

    async def evaluate(
        self,
        *,
        chat_ctx: ChatContext,
        reference: ChatContext | None = None,
        llm: LLM[Any] | None = None,
    ) -> JudgmentResult:
        """Judge a conversation, if possible in comparison with `reference`."""
        ...


class JudgeGroup:
    """Judges that look at the same conversation, side by side."""

    def __init__(self, *, llm: LLM[Any] | str, judges: Sequence[Evaluator] | None = None) -> None:
        """Bring judges together.

        Args:
            llm: Asked by the judges that have no model of their own. A model string stands for a
                model that LiveKit serves, with low priority and as little reasoning as it can.
            judges: The judges; their names have to differ.

        Raises:
            ValueError: Two judges have the same name, or there are no credentials for the model.
        """
        self._judges = list(judges or ())
        names = [judge.name for judge in self._judges]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"several judges are named {twice[0]!r}: give each a name of its own")
        self._model = llm if isinstance(llm, str) else None
        self._llm = _hosted(llm) if isinstance(llm, str) else llm

    @property
    def llm(self) -> LLM[Any]:
        """The model of judges that have none of their own."""
        return self._llm

    @property
    def judges(self) -> list[Evaluator]:
        """The judges; a copy."""
        return list(self._judges)

    async def evaluate(
        self, chat_ctx: ChatContext, *, reference: ChatContext | None = None
    ) -> EvaluationResult:
        """Let all judges judge. One that fails is logged and left out.

        In a job the verdicts are also added to its tagger, and so to its report.

        Args:
            chat_ctx: The conversation, for instance `session.history`.
            reference: How it should have gone.
        """
        seen = chat_ctx.copy()  # the conversation may go on meanwhile
        scope = TaskScope("judges")
        async with self._lent_llm() as llm:
            tasks = {
                judge.name: scope.spawn(
                    judge.evaluate(chat_ctx=seen, reference=reference, llm=llm),
                    name=judge.name,
                    log_errors=False,
                )
                for judge in self._judges
            }
            try:
                await wait_until(tasks.values(), None)
            finally:
                scope.cancel_soon()
        result = EvaluationResult(_verdicts(tasks))
        job = get_job_context(required=False)
        if job is not None:
            job.tagger._evaluation(result)
        if resolve_env_int("LIVEKIT_EVALS_VERBOSE"):
            print(_describe(result))
        return result

    @asynccontextmanager
    async def _lent_llm(self) -> AsyncIterator[LLM[Any]]:
        """The model for one evaluation. One made from a string leaves no connection open."""
        if self._model is None:
            yield self._llm
            return
        llm = _hosted(self._model)
        try:
            yield llm
        finally:
            await llm.aclose()


def _verdicts(tasks: dict[str, asyncio.Task[JudgmentResult]]) -> dict[str, JudgmentResult]:
    verdicts: dict[str, JudgmentResult] = {}
    for name, task in tasks.items():
        if task.cancelled():
            logger.error("the judge %r was cancelled and is left out", name)
        elif (error := task.exception()) is not None:
            logger.error("the judge %r failed and is left out", name, exc_info=error)
        else:
            verdicts[name] = task.result()
    return verdicts


def _hosted(model: str) -> LLM[Any]:
    from ..inference.llm import LLM as HostedLLM, min_reasoning_effort

    effort = min_reasoning_effort(model)
    extra: dict[str, Any] = {"reasoning_effort": effort} if effort is not None else {}
    return HostedLLM(model, inference_class="low", extra_kwargs=extra)


def _describe(result: EvaluationResult) -> str:
    lines = [f"evaluation: score {result.score:.2f}"]
    for name, judgment in result.judgments.items():
        lines.append(f"    {name}: {judgment.verdict}: {judgment.reasoning}")
    return "\n".join(lines)


__all__ = ["EvaluationResult", "Evaluator", "JudgeGroup"]
