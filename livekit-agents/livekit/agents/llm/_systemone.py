"""How decisions travel to and from the hosted decision model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from .decisions import (
    Choice,
    ChoiceResult,
    Decision,
    DecisionResult,
    Probability,
    ProbabilityResult,
    Score,
    ScoreResult,
)


def encode_decisions(decisions: Mapping[str, Decision]) -> dict[str, dict[str, Any]]:
    """Questions as the service takes them, by name."""
    return {name: _encode(decision) for name, decision in decisions.items()}


def _encode(decision: Decision) -> dict[str, Any]:
    if isinstance(decision, Probability):
        return {"instructions": decision.prompt, "type": "noul"}
    if isinstance(decision, Choice):
        return {
            "instructions": decision.prompt,
            "type": "choice",
            "criteria": dict(decision.options),
        }
    return {"instructions": decision.prompt, "type": "score", "criteria": list(decision.levels)}


def decode_answers(
    answers: Mapping[str, Any], decisions: Mapping[str, Decision]
) -> tuple[dict[str, DecisionResult], dict[str, str]]:
    """Read the answers of the service.

    Args:
        answers: By name.
        decisions: What was asked.

    Returns:
        The results, and why an answer is none; by name.
    """
    results: dict[str, DecisionResult] = {}
    errors: dict[str, str] = {}
    for name, answer in answers.items():
        try:
            results[name] = _decode(answer, decisions.get(name))
        except (LookupError, TypeError, ValueError, ValidationError) as error:
            errors[name] = _reason(error)
    return results, errors


def _reason(error: Exception) -> str:
    if isinstance(error, _RefusedError):
        return "the model refused to answer"
    return f"the answer could not be read: {error!r}"


class _RefusedError(ValueError):
    """The model does not want to answer."""


def _decode(answer: Mapping[str, Any], decision: Decision | None) -> DecisionResult:
    kind = answer["type"]
    if kind == "refusal":
        raise _RefusedError
    extra = {"confidence": answer["confidence"]} if "confidence" in answer else {}
    if kind == "noul":
        return ProbabilityResult(value=answer["noul"], provider_data=extra)
    if kind == "choice":
        return ChoiceResult(
            value=answer["choice"],
            probabilities=answer.get("probabilities"),
            provider_data=extra,
        )
    if kind == "score":
        return ScoreResult(
            value=answer["score"],
            probabilities=_by_level(answer["probabilities"]),
            levels=_levels(answer.get("legend"), decision),
            provider_data=extra,
        )
    raise ValueError(f"unknown type of answer {kind!r}")


def _by_level(probabilities: Any) -> dict[int, float]:
    if isinstance(probabilities, list):
        return dict(enumerate(probabilities))
    return {int(level): share for level, share in probabilities.items()}


def _levels(legend: Any, decision: Decision | None) -> list[str]:
    """The legend lists the levels, or has them by index."""
    if isinstance(legend, list):
        return legend
    if isinstance(legend, Mapping):
        return [legend[level] for level in sorted(legend, key=int)]
    return list(decision.levels) if isinstance(decision, Score) else []
