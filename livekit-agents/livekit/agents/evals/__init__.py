"""How well did the agent do? Judges read a conversation and give a verdict.

::

    judges = JudgeGroup(llm="openai/gpt-4.1-mini", judges=[task_completion_judge(), safety_judge()])
    result = await judges.evaluate(session.history)
    assert result.none_failed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .evaluation import EvaluationResult, Evaluator, JudgeGroup
    from .judge import (
        Judge,
        JudgmentResult,
        Verdict,
        accuracy_judge,
        coherence_judge,
        conciseness_judge,
        handoff_judge,
        relevancy_judge,
        safety_judge,
        task_completion_judge,
        tool_use_judge,
    )

__all__ = [
    "EvaluationResult",
    "Evaluator",
    "Judge",
    "JudgeGroup",
    "JudgmentResult",
    "Verdict",
    "accuracy_judge",
    "coherence_judge",
    "conciseness_judge",
    "handoff_judge",
    "relevancy_judge",
    "safety_judge",
    "task_completion_judge",
    "tool_use_judge",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    _HOMES = {"EvaluationResult": ".evaluation", "Evaluator": ".evaluation"}
    _HOMES["JudgeGroup"] = ".evaluation"
    __getattr__, __dir__ = attach(__name__, {name: _HOMES.get(name, ".judge") for name in __all__})
